//! Ends connections that the kernel balanced to endpoints that are gone, on a thread of its own.
//!
//! Nobody else would: the agent isn't on their way, and without a word from the other end an application may wait for
//! minutes. Only sockets end that the connect hook sent to that very endpoint and that still are connected to it. Told by
//! `agent/control` when a service's list lost an endpoint that no other lists.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::Duration;

use prometheus::IntCounter;

use crate::addr::EndpointAddr;
use crate::kernel::{BalancedSockets, netns};

/// A connect(2) under way when the list changed may not be listed yet: everything is looked for once more after this.
const AGAIN: Duration = Duration::from_secs(1);

/// Where sockets are looked for.
pub enum Where {
    /// In these network namespaces: those of captured pods.
    In(Vec<Arc<OwnedFd>>),
    /// In every one that a process of this /proc is in.
    Everywhere(PathBuf),
}

struct Gone {
    endpoints: Vec<EndpointAddr>,
    place: Where,
}

/// Handle on the thread; it ends with this.
pub struct Severer(Sender<Gone>);

impl Severer {
    /// Starts the thread. `closed` counts the sockets that it ends.
    ///
    /// # Errors
    /// There can't be another thread.
    pub fn start(sockets: BalancedSockets, closed: IntCounter) -> io::Result<Self> {
        let (sender, receiver) = mpsc::channel();
        std::thread::Builder::new().name("sever".into()).spawn(move || run(&receiver, &sockets, &closed))?;
        Ok(Self(sender))
    }

    /// Ends what is still connected to `endpoints`, soon.
    pub fn sever(&self, endpoints: Vec<EndpointAddr>, place: Where) {
        // The thread ends with the sender only.
        let _ = self.0.send(Gone { endpoints, place });
    }
}

fn run(receiver: &Receiver<Gone>, sockets: &BalancedSockets, closed: &IntCounter) {
    let mut again: Vec<Gone> = Vec::new();
    loop {
        let next = match again.is_empty() {
            true => receiver.recv().map_err(|_| RecvTimeoutError::Disconnected),
            false => receiver.recv_timeout(AGAIN),
        };
        match next {
            Ok(gone) => {
                sever(&gone, sockets, closed);
                again.push(gone);
            }
            Err(RecvTimeoutError::Timeout) => again.drain(..).for_each(|gone| sever(&gone, sockets, closed)),
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

fn sever(gone: &Gone, sockets: &BalancedSockets, closed: &IntCounter) {
    let everywhere: Vec<File>;
    let namespaces: Vec<_> = match &gone.place {
        Where::In(namespaces) => namespaces.iter().map(|fd| fd.as_fd()).collect(),
        Where::Everywhere(proc_dir) => {
            everywhere = namespaces_of(proc_dir);
            everywhere.iter().map(|file| file.as_fd()).collect()
        }
    };
    for namespace in namespaces {
        match netns::enter(namespace, || sockets.destroy(&gone.endpoints)).and_then(|ended| ended) {
            Ok(0) => {}
            Ok(ended) => {
                closed.inc_by(u64::try_from(ended).unwrap_or(0));
                tracing::info!(ended, endpoints = ?gone.endpoints, "connections to endpoints that are gone are ended");
            }
            // A pod that is gone takes its sockets along.
            Err(error) => {
                tracing::warn!(%error, "connections to endpoints that are gone can't be ended in a network namespace");
            }
        }
    }
}

/// Each network namespace once. A process that ends meanwhile is no loss.
fn namespaces_of(proc_dir: &Path) -> Vec<File> {
    let Ok(entries) = fs::read_dir(proc_dir) else { return Vec::new() };
    let is_process =
        |entry: &fs::DirEntry| entry.file_name().to_str().is_some_and(|name| name.parse::<u32>().is_ok());
    let mut seen = HashSet::new();
    let open = |entry: fs::DirEntry| {
        let path = entry.path().join("ns/net");
        // The link's text tells them apart, and costs no descriptor.
        let is_new = seen.insert(fs::read_link(&path).ok()?);
        is_new.then(|| File::open(path).ok()).flatten()
    };
    entries.flatten().filter(is_process).filter_map(open).collect()
}
