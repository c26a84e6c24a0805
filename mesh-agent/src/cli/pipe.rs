//! `pipe`, hidden: standard input and output as a connection to the admin socket, for a command line outside of the agent's pod.
//!
//! The other end is `cluster`.

use std::fs::File;
use std::io;
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::{AgentArgs, Exit, Outcome, client};
use crate::admin::SOCKET_NAME;

/// An agent that says nothing for longer hangs; or whoever asked has gone without a word.
const LONGEST: Duration = Duration::from_secs(60);

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    agent: AgentArgs,
}

pub(super) fn run(args: &Args) -> Outcome {
    let socket = args.agent.state_dir.join(SOCKET_NAME);
    carry(&socket).map_err(|error| client::unreachable(&socket, error)).map(|()| Exit::Ok)
}

/// Until the agent has closed, which it does once its peer has.
fn carry(socket: &Path) -> io::Result<()> {
    let agent = UnixStream::connect(socket)?;
    agent.set_read_timeout(Some(LONGEST))?;
    // Not by the standard library's streams, which keep what has no line feed yet.
    let (mut from, mut to) = (file(&io::stdin())?, file(&io::stdout())?);
    let asking = agent.try_clone()?;
    // Ends with the process, whichever is first.
    std::thread::spawn(move || {
        let copied = io::copy(&mut from, &mut &asking);
        copied.and_then(|_| asking.shutdown(Shutdown::Write))
    });
    io::copy(&mut &agent, &mut to).map(drop)
}

fn file(stream: &impl AsFd) -> io::Result<File> {
    stream.as_fd().try_clone_to_owned().map(File::from)
}
