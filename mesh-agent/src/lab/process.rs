//! Child processes with deadlines, captured output and an end: killed, with their process group, on drop.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::wait::eventually_some;

/// What a command left.
#[derive(Clone, Debug)]
pub struct Finished {
    /// Exit code; 128 and the signal's number if a signal ended it.
    pub code: i32,
    /// Standard output, lossily decoded.
    pub stdout: String,
    /// Standard error, lossily decoded.
    pub stderr: String,
}

impl Finished {
    /// Itself if it exited with 0.
    ///
    /// # Errors
    /// Another exit code; the message has both outputs.
    pub fn success(self) -> Result<Self> {
        if self.code != 0 {
            bail!("exit code {}\nstdout: {}\nstderr: {}", self.code, self.stdout, self.stderr);
        }
        Ok(self)
    }
}

type Captured = Arc<Mutex<Vec<u8>>>;

/// A child's standard output, read away as it comes, so that a child that never ends fills no memory.
pub struct Output(Captured);

impl Output {
    /// What came since the last call.
    pub fn take(&self) -> String {
        let taken = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        String::from_utf8_lossy(&taken).into_owned()
    }
}

/// A child process. Its outputs are captured as they come.
pub struct Running {
    what: String,
    child: Child,
    stdout: Captured,
    stderr: Captured,
    readers: Vec<JoinHandle<()>>,
    ended: Option<i32>,
}

impl Running {
    /// Starts `command` in a process group of its own. Standard input is a pipe, for [`Running::write`].
    pub fn start(mut command: Command) -> Result<Self> {
        let what = format!("{:?} {:?}", command.get_program(), command.get_args().collect::<Vec<_>>());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut child = command.spawn().with_context(|| format!("starting {what}"))?;
        let (stdout, stderr) = (Captured::default(), Captured::default());
        let mut readers = Vec::new();
        readers.extend(child.stdout.take().map(|pipe| capture(pipe, &stdout)));
        readers.extend(child.stderr.take().map(|pipe| capture(pipe, &stderr)));
        Ok(Self { what, child, stdout, stderr, readers, ended: None })
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Standard output so far.
    pub fn stdout(&self) -> String {
        text(&self.stdout)
    }

    /// Its standard output, to be read away while it runs. [`Running::stdout`] has what wasn't taken.
    pub fn output(&self) -> Output {
        Output(self.stdout.clone())
    }

    /// Standard error so far.
    pub fn stderr(&self) -> String {
        text(&self.stderr)
    }

    /// Writes to its standard input.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let stdin = self.child.stdin.as_mut().context("its standard input is closed")?;
        stdin.write_all(bytes).and_then(|()| stdin.flush()).context("writing to a child")
    }

    /// Closes its standard input.
    pub fn close_stdin(&mut self) {
        self.child.stdin = None;
    }

    /// Sends a signal to its process group.
    pub fn signal(&self, signal: Signal) {
        if self.ended.is_none() {
            let _ = killpg(Pid::from_raw(self.pid().cast_signed()), signal);
        }
    }

    /// The exit code, if it has ended.
    pub fn try_wait(&mut self) -> Option<i32> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().ok().flatten().map(exit_code);
        }
        self.ended
    }

    /// Closes its standard input and waits for its end; kills it when `deadline` has passed.
    ///
    /// # Errors
    /// It was still running; the message has what it wrote.
    pub fn finish(mut self, deadline: Duration) -> Result<Finished> {
        self.close_stdin();
        let end = Instant::now() + deadline;
        let code = loop {
            if let Some(code) = self.try_wait() {
                break code;
            }
            if Instant::now() >= end {
                self.kill();
                bail!(
                    "{} ran longer than {deadline:?}\nstdout: {}\nstderr: {}",
                    self.what,
                    self.stdout(),
                    self.stderr()
                );
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
        Ok(Finished { code, stdout: self.stdout(), stderr: self.stderr() })
    }

    /// Waits until `line` stands in either output.
    ///
    /// # Errors
    /// It ended or the deadline passed before; the message has what it wrote.
    pub fn wait_for_line(&mut self, line: &str, deadline: Duration) -> Result<()> {
        let found = eventually_some(deadline, "no such line", || {
            let seen =
                [self.stdout(), self.stderr()].iter().any(|text| text.lines().any(|l| l.trim() == line));
            if seen { Some(true) } else { self.try_wait().map(|_| false) }
        });
        match found {
            Ok(true) => Ok(()),
            _ => bail!(
                "{} did not say `{line}`\nstdout: {}\nstderr: {}",
                self.what,
                self.stdout(),
                self.stderr()
            ),
        }
    }

    /// SIGKILL to the group, and reaps the child.
    pub fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        if self.ended.is_none() {
            self.ended = self.child.wait().ok().map(exit_code);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

fn capture(pipe: impl Read + Send + 'static, into: &Captured) -> JoinHandle<()> {
    let into = into.clone();
    std::thread::spawn(move || {
        let mut pipe = BufReader::new(pipe);
        loop {
            let taken = match pipe.fill_buf() {
                Err(error) if error.kind() == ErrorKind::Interrupted => 0,
                Ok([]) | Err(_) => return,
                Ok(bytes) => {
                    into.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
                    bytes.len()
                }
            };
            pipe.consume(taken);
        }
    })
}

fn text(captured: &Captured) -> String {
    String::from_utf8_lossy(&captured.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
}

fn exit_code(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}
