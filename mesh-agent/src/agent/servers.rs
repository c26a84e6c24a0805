//! What others reach the agent by: the admin socket, the metrics address, and the socket on which it hands over.
//!
//! Started at once, or by an agent that takes over only when it serves: until then the other one answers.

use std::net::TcpListener;
use std::path::Path;

use tokio::net::UnixListener;
use tokio::task::JoinHandle;

use super::handover;
use super::start::AgentError;
use crate::admin::{self, AdminState, SocketGuard};

/// The servers; they end, and their sockets go, with this.
pub(super) struct Servers {
    tasks: Vec<JoinHandle<()>>,
    _sockets: [SocketGuard; 2],
}

impl Servers {
    /// Starts all three. The sockets in `state_dir` replace those of a dead or leaving agent, but for the admin socket where
    /// that was `taken` already.
    pub fn start(
        state_dir: &Path,
        taken: Option<(UnixListener, SocketGuard)>,
        metrics: TcpListener,
        admin: &AdminState,
    ) -> Result<Self, AgentError> {
        let (socket, socket_guard) =
            taken.map_or_else(|| admin::place_socket(state_dir, admin::SOCKET_NAME), Ok)?;
        let (asked, asked_guard) = admin::place_socket(state_dir, handover::NAME)?;
        let shared = metrics.try_clone()?;
        let metrics = tokio::net::TcpListener::from_std(metrics)?;
        let tasks = vec![
            tokio::spawn(admin::serve_socket(socket, admin.clone())),
            tokio::spawn(admin::serve_metrics(metrics, admin.clone())),
            tokio::spawn(handover::serve(asked, shared, admin.control.clone())),
        ];
        Ok(Self { tasks, _sockets: [socket_guard, asked_guard] })
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}
