//! `pipe`, hidden: standard input and output as a connection to the admin socket, for a command line outside of the agent's pod.
//!
//! The other end is `cluster`.

use std::fs::File;
use std::io::{self, Read, Write};
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
    // Not by the standard library's streams, which keep what has no line feed yet.
    let streams = file(&io::stdin()).and_then(|from| Ok((from, file(&io::stdout())?)));
    let carried = streams.and_then(|(from, to)| carry(&socket, from, to));
    carried.map_err(|error| client::unreachable(&socket, error)).map(|()| Exit::Ok)
}

/// Until the agent has closed, which it does once its peer has.
fn carry(socket: &Path, from: File, to: File) -> io::Result<()> {
    let agent = UnixStream::connect(socket)?;
    agent.set_read_timeout(Some(LONGEST))?;
    let asking = agent.try_clone()?;
    // Ends with the process, whichever is first.
    std::thread::spawn(move || copy(from, &asking).and_then(|()| asking.shutdown(Shutdown::Write)));
    copy(&agent, to)
}

/// Through memory. `io::copy` would splice(2) into the pipe, and while that waits for the socket it has the pipe locked: whoever is
/// at the pipe's other end couldn't read what is in it already, until the agent closes.
fn copy(mut from: impl Read, mut to: impl Write) -> io::Result<()> {
    let mut buffer = vec![0; 16 << 10];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => to.write_all(&buffer[..length])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn file(stream: &impl AsFd) -> io::Result<File> {
    stream.as_fd().try_clone_to_owned().map(File::from)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixListener;
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn an_answer_is_passed_on_while_its_connection_stays_open() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join(SOCKET_NAME);
        let listener = UnixListener::bind(&socket).unwrap();
        let (mut answer, to) = io::pipe().unwrap();
        let (from, mut question) = io::pipe().unwrap();
        let (told, is_told) = mpsc::channel();
        let agent = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = [0; 4];
            stream.read_exact(&mut asked).unwrap();
            stream.write_all(b"well").unwrap();
            // It closes once the answer was read, or gives up on that.
            (asked, is_told.recv_timeout(Duration::from_secs(5)).is_ok())
        });
        let pipe =
            std::thread::spawn(move || carry(&socket, OwnedFd::from(from).into(), OwnedFd::from(to).into()));
        question.write_all(b"how?").unwrap();
        let mut said = [0; 4];
        answer.read_exact(&mut said).unwrap();
        // The agent may have given up by now.
        let _ = told.send(());
        assert_eq!((said, agent.join().unwrap()), (*b"well", (*b"how?", true)));
        pipe.join().unwrap().unwrap();
    }
}
