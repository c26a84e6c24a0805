//! After another agent has taken this one's place: where a process that ends is started again, it has to wait instead.
//!
//! A DaemonSet's update runs both pods beside each other until the new one is ready, and kubelet restarts a container that
//! ends meanwhile: started again, it would take the place back. So it waits for its signal, and only if nobody serves any
//! more (the update was undone) does it end, to be started and to serve.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval};

use crate::admin::SOCKET_NAME;

/// How often the successor is looked for.
const LOOK: Duration = Duration::from_millis(500);

/// SIGTERM and SIGINT, from when this was made on.
pub(super) struct Stop(Signal, Signal);

impl Stop {
    /// Begins to note signals.
    pub fn new() -> io::Result<Self> {
        Ok(Self(signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?))
    }

    /// Returns when one has come.
    async fn wait(&mut self) {
        tokio::select! {
            _ = self.0.recv() => {}
            _ = self.1.recv() => {}
        }
    }
}

/// Returns when a signal came, or when nobody serves from `state_dir` any more.
pub(super) async fn wait(state_dir: &Path, stop: &mut Stop) {
    tracing::info!("another agent serves in this one's place; waiting to be told to end");
    let socket = state_dir.join(SOCKET_NAME);
    let mut tick = interval(LOOK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.wait() => return,
            _ = tick.tick() => if !is_served(&socket) {
                return tracing::warn!("the agent that took over is gone; ending, to be started again");
            },
        }
    }
}

fn is_served(socket: &Path) -> bool {
    use io::ErrorKind::{ConnectionRefused, NotFound};
    !UnixStream::connect(socket).is_err_and(|error| matches!(error.kind(), NotFound | ConnectionRefused))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::net::UnixListener;

    use super::*;

    #[tokio::test]
    async fn it_waits_while_another_serves_and_ends_when_that_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let successor = UnixListener::bind(dir.path().join(SOCKET_NAME)).unwrap();
        let mut stop = Stop::new().unwrap();
        let waiting = wait(dir.path(), &mut stop);
        tokio::pin!(waiting);
        assert!(tokio::time::timeout(LOOK * 3, &mut waiting).await.is_err());
        drop(successor);
        tokio::time::timeout(Duration::from_secs(10), waiting).await.unwrap();
    }
}
