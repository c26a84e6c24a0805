//! `top`: edges, services and routes on a terminal, once a second: to be sorted, filtered and paused.
//!
//! A thread asks the agents, so that a slow one holds no key up; `app` is what is shown and what keys do to it, `draw` how
//! it looks. The terminal is given back as it was on every way out, signals and panics included.

mod app;
mod draw;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use clap::Args;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyEventKind};

use super::live::LiveArgs;
use super::live::fleet::Fleet;
use super::output::Out;
use super::{Exit, Failure, Outcome, edges, routes, stat};
use app::{App, Data};

/// How often agents are asked.
const EVERY: Duration = Duration::from_secs(1);
/// A key shows at once, and what the agents say so much later at most.
const TICK: Duration = Duration::from_millis(100);

#[derive(Debug, Args)]
pub(super) struct TopArgs {
    #[command(flatten)]
    live: LiveArgs,
}

pub(super) fn run(args: &TopArgs, out: &mut Out<'_>) -> Outcome {
    if !out.style.terminal {
        return Err(Failure::message(Exit::Usage, "top draws on a terminal, and stdout isn't one")
            .hint("`mesh-agent stat -w` and `mesh-agent edges -o json` are for pipes"));
    }
    let first = fetch(&Fleet::of(&args.live.agent)?, &args.live)?;
    let (sender, receiver) = sync_channel(1);
    let live = args.live.clone();
    std::thread::Builder::new().name("top-fetch".into()).spawn(move || keep_asking(&live, &sender))?;
    let stop = Arc::new(AtomicBool::new(false));
    watch_signals(stop.clone())?;
    let mut screen = Screen::enter()?;
    let mut app = App::new(first, out.style.color, args.live.clone());
    show(&mut screen.0, &mut app, &receiver, &stop)?;
    Ok(Exit::Ok)
}

/// The terminal, given back when this is dropped; ratatui's own hook does so before a panic is told.
struct Screen(DefaultTerminal);

impl Screen {
    fn enter() -> io::Result<Self> {
        ratatui::try_init().map(Self).inspect_err(|_| ratatui::restore())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

fn show(
    terminal: &mut DefaultTerminal,
    app: &mut App,
    data: &Receiver<Result<Data, String>>,
    stop: &AtomicBool,
) -> io::Result<()> {
    while !stop.load(Relaxed) {
        terminal.draw(|frame| draw::draw(app, frame))?;
        if event::poll(TICK)?
            && let Event::Key(key) = event::read()?
            && key.kind != KeyEventKind::Release
            && app.key(key)
        {
            return Ok(());
        }
        while let Ok(fresh) = data.try_recv() {
            app.update(fresh);
        }
    }
    Ok(())
}

fn keep_asking(live: &LiveArgs, data: &SyncSender<Result<Data, String>>) {
    let fleet = Fleet::of(&live.agent);
    loop {
        let fresh = match &fleet {
            Ok(fleet) => fetch(fleet, live).map_err(|failure| failure.to_string()),
            Err(failure) => Err(failure.to_string()),
        };
        if data.send(fresh).is_err() {
            return;
        }
        // The pace of the whole view.
        std::thread::sleep(EVERY);
    }
}

fn fetch(fleet: &Fleet, live: &LiveArgs) -> Result<Data, Failure> {
    let seen = stat::seen(fleet, live)?;
    let routes = fleet.get(&live.path("routes"))?;
    Ok(Data {
        at: seen.edges.iter().map(|node| node.at.clone()).max().unwrap_or_default(),
        nodes: seen.edges.iter().map(|node| node.node.clone()).collect(),
        edges: edges::pairs(live, &seen.edges),
        services: stat::stats(stat::Kind::Service, live, &seen),
        routes: routes::rules(live, &routes),
    })
}

/// Ctrl-C is a key here; these come from elsewhere.
fn watch_signals(stop: Arc<AtomicBool>) -> io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let guard = runtime.enter();
    let (mut terminate, mut hang_up, mut interrupt) =
        (signal(SignalKind::terminate())?, signal(SignalKind::hangup())?, signal(SignalKind::interrupt())?);
    drop(guard);
    let wait = move || {
        runtime.block_on(async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = hang_up.recv() => {}
                _ = interrupt.recv() => {}
            }
        });
        stop.store(true, Relaxed);
    };
    std::thread::Builder::new().name("top-signals".into()).spawn(wait)?;
    Ok(())
}
