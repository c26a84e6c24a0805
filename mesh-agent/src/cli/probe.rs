//! `probe`: whether the agent of this very container serves, for a startup probe.
//!
//! While one agent takes the place of another, both have one state directory and one metrics address, and whoever asks there is
//! answered by the one that still serves. The kernel says who listens on the admin socket (SO_PEERCRED, unix(7)): a process
//! of another container's PID namespace has no number here.

use std::os::unix::net::UnixStream;

use nix::sys::socket::{getsockopt, sockopt};

use super::{AgentArgs, Exit, Failure, Outcome};
use crate::admin::SOCKET_NAME;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    agent: AgentArgs,
}

pub(super) fn run(args: &Args) -> Outcome {
    let socket = args.agent.state_dir.join(SOCKET_NAME);
    let unreachable = |error: std::io::Error| {
        let context = format!("no agent answers on {}", socket.display());
        Failure::new(Exit::Unreachable, anyhow::Error::new(error).context(context))
    };
    let stream = UnixStream::connect(&socket).map_err(unreachable)?;
    let peer = getsockopt(&stream, sockopt::PeerCredentials)?;
    if peer.pid() == 0 {
        let message = "the agent of another container serves; this one hasn't taken over yet";
        return Err(Failure::message(Exit::Failed, message));
    }
    Ok(Exit::Ok)
}
