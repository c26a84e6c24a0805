//! A client process in a pod, and the tally of what it saw.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::{Context, Result};

use crate::lab::{Output, Pod, Running};

/// A client that sends requests all the time.
pub(super) struct Load {
    running: Running,
    reader: Reader,
    total: u64,
}

/// Reads away what a client says, as it comes.
pub(super) struct Reader {
    output: Output,
    /// A line that isn't whole yet.
    rest: String,
}

/// What came of some requests.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    /// Answered by whom, and their version.
    pub(super) answered: BTreeMap<(String, String), u64>,
    /// Not answered, by error.
    pub(super) failed: BTreeMap<String, u64>,
    /// Client addresses that servers saw.
    pub(super) seen_as: BTreeMap<String, u64>,
    /// Addresses that getpeername(2) answered with.
    pub(super) dialled: BTreeMap<String, u64>,
    /// `Retry-After` of answers other than 200.
    pub(super) retry_after: BTreeMap<String, u64>,
    /// `RateLimit-Policy` of the same.
    pub(super) limits: BTreeMap<String, u64>,
    micros: Vec<u64>,
}

impl Load {
    /// Starts one in `pod` that sends a request every `every` milliseconds.
    pub(super) fn start(pod: &Pod, to: SocketAddr, every: u64) -> Result<Self> {
        let own = std::env::current_exe().context("finding this executable")?;
        let command = pod.command(own).arg("demo-client").args(["--to", &to.to_string()]);
        let running = command.args(["--every", &every.to_string()]).start()?;
        let reader = Reader { output: running.output(), rest: String::new() };
        Ok(Self { running, reader, total: 0 })
    }

    /// Another reader of the same client: what one takes the other doesn't see.
    pub(super) fn reader(&self) -> Reader {
        Reader { output: self.running.output(), rest: String::new() }
    }

    /// Adds what came since the last call.
    pub(super) fn take(&mut self, into: &mut Tally) {
        self.total += self.reader.take(into);
    }

    /// Forgets what came until now, but for the total.
    pub(super) fn skip(&mut self) {
        self.take(&mut Tally::default());
    }

    /// Ends the client and tells how many requests it made in all. The one under way may be missing.
    pub(super) fn stop(mut self) -> u64 {
        self.running.kill();
        self.skip();
        self.total
    }
}

impl Reader {
    /// Adds what came since the last call, and tells how many requests that were.
    pub(super) fn take(&mut self, into: &mut Tally) -> u64 {
        self.rest += &self.output.take();
        let Some(end) = self.rest.rfind('\n') else { return 0 };
        let fresh: String = self.rest.drain(..=end).collect();
        fresh.lines().map(|line| into.add(line)).count() as u64
    }
}

impl Tally {
    /// From the output of a client that ended by itself.
    pub(super) fn of(text: &str) -> Self {
        let mut tally = Self::default();
        text.lines().for_each(|line| tally.add(line));
        tally
    }

    fn add(&mut self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        match words.as_slice() {
            ["ok", name, version, peer, dialled, micros] => {
                *self.answered.entry((name.to_string(), version.to_string())).or_default() += 1;
                *self.seen_as.entry(peer.to_string()).or_default() += 1;
                *self.dialled.entry(dialled.to_string()).or_default() += 1;
                self.micros.extend(micros.parse::<u64>());
            }
            ["fail", what, retry_after, limit, ..] => {
                *self.failed.entry(what.to_string()).or_default() += 1;
                for (word, said) in [(retry_after, &mut self.retry_after), (limit, &mut self.limits)] {
                    if *word != "-" {
                        *said.entry(word.to_string()).or_default() += 1;
                    }
                }
            }
            _ => {}
        }
    }

    /// Requests answered with 200.
    pub(super) fn ok(&self) -> u64 {
        self.answered.values().sum()
    }

    /// Requests not answered so.
    pub(super) fn failures(&self) -> u64 {
        self.failed.values().sum()
    }

    /// Requests that `name` answered.
    pub(super) fn by(&self, name: &str) -> u64 {
        self.answered.iter().filter(|((n, _), _)| n == name).map(|(_, count)| count).sum()
    }

    /// Requests that a server of this version answered.
    pub(super) fn of_version(&self, version: &str) -> u64 {
        self.answered.iter().filter(|((_, v), _)| v == version).map(|(_, count)| count).sum()
    }

    /// Median time of an answer, in microseconds.
    pub(super) fn median(&self) -> u64 {
        let mut micros = self.micros.clone();
        micros.sort_unstable();
        micros.get(micros.len() / 2).copied().unwrap_or(0)
    }

    /// One line of figures.
    pub(super) fn line(&self) -> String {
        let mut line = format!("{:>5} answered {:>4} failed", self.ok(), self.failures());
        for ((name, version), count) in &self.answered {
            line += &format!("   {name} {version} {count}");
        }
        for (what, count) in &self.failed {
            line += &format!("   {what} {count}");
        }
        line
    }
}
