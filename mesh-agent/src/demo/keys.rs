//! `mesh-agent demo --keys`: the demo's stage, to be watched and changed by keys instead of in phases.
//!
//! `board` (pure) is what the keys do and what is told of it, `scene` does it, on a thread of its own, so that whoever draws
//! never waits. Requests are counted by `counts` (pure) from what the clients say, not from what the agents count.

mod board;
mod counts;
mod scene;

use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Result;

pub use board::Tone;
use board::{Action, Board, Order};
use scene::Scene;

use super::load::{Reader, Tally};
use super::{BUILDING, CLEARING, INTERRUPTED, On, able, interrupted, watch_signals};

/// A remark, on standard error. A terminal that has hung up takes none, and that ends nothing.
fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// What came of an order.
struct Done {
    action: Action,
    took: Duration,
    outcome: Result<()>,
}

/// The stage with its keys. Cleared away when this is dropped.
pub struct Keys {
    board: Board,
    readers: Vec<Reader>,
    sockets: Vec<(String, PathBuf)>,
    outcomes: Receiver<Done>,
    orders: Option<Sender<Order>>,
    worker: Option<JoinHandle<()>>,
}

impl Keys {
    /// Builds the stage, its clients under way.
    ///
    /// # Errors
    /// It can't be built here, or Ctrl-C.
    pub fn build() -> Result<Self> {
        able()?;
        watch_signals(On::Screen)?;
        say(BUILDING);
        let scene = Scene::build()?;
        if interrupted() {
            anyhow::bail!("interrupted; everything is cleared away");
        }
        let (readers, sockets) = (scene.readers(), scene.sockets());
        let (orders, ordered) = channel();
        let (tell, outcomes) = channel();
        let work = move || scene.work(&ordered, &tell);
        let worker = std::thread::Builder::new().name("demo-keys".into()).spawn(work)?;
        let mut keys = Self {
            board: Board::default(),
            readers,
            sockets,
            outcomes,
            orders: Some(orders),
            worker: Some(worker),
        };
        // What clients saw while the stage was built is nobody's concern.
        keys.read(&mut Tally::default());
        Ok(keys)
    }

    /// The admin sockets of both agents, by node.
    pub fn sockets(&self) -> &[(String, PathBuf)] {
        &self.sockets
    }

    /// Becomes true by a signal.
    pub fn interrupted(&self) -> &'static AtomicBool {
        &INTERRUPTED
    }

    /// True if the key is one of the demo's.
    pub fn press(&mut self, key: char) -> bool {
        self.listen();
        if !board::KEYS.contains(&key) {
            return false;
        }
        if let (Some(order), Some(orders)) = (self.board.press(key, Instant::now()), &self.orders) {
            // A worker that is gone is told of where its outcomes are taken.
            let _ = orders.send(order);
        }
        true
    }

    /// What is to be shown now: requests, keys, and what came of the last one.
    pub fn lines(&mut self) -> Vec<(String, Tone)> {
        self.listen();
        self.board.lines(Instant::now())
    }

    /// What went wrong, in full.
    pub fn failures(&self) -> &[String] {
        self.board.failures()
    }

    fn read(&mut self, into: &mut Tally) {
        for reader in &mut self.readers {
            reader.take(into);
        }
    }

    /// Takes what clients and the worker have said.
    fn listen(&mut self) {
        let mut tally = Tally::default();
        self.read(&mut tally);
        self.board.count(&tally);
        match self.outcomes.try_recv() {
            Ok(Done { action, took, outcome }) => {
                self.board.done(action, took, outcome.map_err(|error| format!("{error:#}")));
            }
            Err(TryRecvError::Empty) => {}
            Err(TryRecvError::Disconnected) => self.board.lost(),
        }
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        say(CLEARING);
        self.orders = None;
        if let Some(worker) = self.worker.take() {
            // The scene is its own, and goes with it, also if it panicked.
            let _ = worker.join();
        }
    }
}
