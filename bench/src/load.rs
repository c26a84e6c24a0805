//! Load from a client pod: wrk for HTTP/1.1 and TCP, h2load for HTTP/2, our own dialler for new connections.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use mesh_agent::lab::Pod;

use crate::policies;

/// The core of clients and server; proxies have core 0 alone.
pub const CLIENT_CORE: &str = "1";
const CONNECTIONS: usize = 32;
const MTLS_CONNECTIONS: usize = 64;
/// HTTP/2: as many requests at a time on a quarter of the connections.
const STREAMS: usize = 4;

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Work {
    Http1,
    Http2,
    /// HTTP/1.1 that the proxy carries as opaque bytes.
    Tcp,
    /// A connection for each request.
    Connect,
    /// HTTP/1.1 whose requests have the header that the last of the routes asks for.
    Policies,
    /// The same, while routes of other services come and go.
    Others,
    /// HTTP/1.1 to a service with several endpoints.
    Slow,
    /// HTTP/1.1 with and without all that tells of it.
    Observed,
    /// HTTP/1.1 through mutual TLS between two proxies.
    Mtls,
    /// A connection of opaque bytes for each request, through the same.
    MtlsConnect,
    /// One connection, as many bytes as it carries, through the same.
    MtlsBulk,
}

impl Work {
    /// The name for `--only`.
    pub fn part(self) -> &'static str {
        match self {
            Self::Http1 => "http1",
            Self::Http2 => "http2",
            Self::Tcp => "tcp",
            Self::Connect => "connect",
            Self::Policies => "policies",
            Self::Others => "others",
            Self::Slow => "slow",
            Self::Observed => "observed",
            Self::Mtls | Self::MtlsConnect | Self::MtlsBulk => "mtls",
        }
    }
}

/// What one round of load saw.
#[derive(Clone, Debug)]
pub struct Answered {
    pub count: u64,
    pub per_second: f64,
    pub p50_micros: f64,
    pub p99_micros: f64,
    /// Whatever went wrong, as the client counts it.
    pub errors: u64,
}

/// Sends load from `pod` to `address` for so many seconds.
pub fn run(pod: &Pod, work: Work, address: SocketAddr, seconds: u32, scratch: &Path) -> Result<Answered> {
    let url = format!("http://{address}/");
    let deadline = Duration::from_secs(u64::from(seconds) + 20);
    let log = scratch.join("h2load.log");
    let command = pod.command("taskset").args(["-c", CLIENT_CORE]);
    let command = match work {
        Work::Http1
        | Work::Tcp
        | Work::Policies
        | Work::Others
        | Work::Slow
        | Work::Observed
        | Work::Mtls => {
            let connections = if work == Work::Mtls { MTLS_CONNECTIONS } else { CONNECTIONS };
            let command = command
                .args(["wrk", "-t", "1", "-c", &connections.to_string(), "--latency", "-d"])
                .arg(format!("{seconds}s"));
            let header = format!("{}: {}", policies::HEADER, policies::LAST);
            let routed = matches!(work, Work::Policies | Work::Others);
            if routed { command.args(["-H", &header]).arg(&url) } else { command.arg(&url) }
        }
        Work::Http2 => {
            // h2load appends to its log.
            let _ = fs::remove_file(&log);
            command
                .args([
                    "h2load",
                    "-t",
                    "1",
                    "-c",
                    &(CONNECTIONS / STREAMS).to_string(),
                    "-m",
                    &STREAMS.to_string(),
                    "-D",
                ])
                .arg(seconds.to_string())
                .arg(format!("--log-file={}", log.display()))
                .arg(&url)
        }
        Work::MtlsBulk => {
            let own = std::env::current_exe()?;
            command.arg(own).args(["pull", &address.to_string(), "--seconds", &seconds.to_string()])
        }
        Work::Connect | Work::MtlsConnect => {
            let own = std::env::current_exe()?;
            command
                .arg(own)
                .args(["dial", &address.to_string(), "--connections", &CONNECTIONS.to_string()])
                .args(["--seconds", &seconds.to_string()])
        }
    };
    let output = command.run(deadline)?.success()?.stdout;
    match work {
        Work::Http1
        | Work::Tcp
        | Work::Policies
        | Work::Others
        | Work::Slow
        | Work::Observed
        | Work::Mtls => wrk(&output),
        Work::Http2 => h2load(&output, &fs::read_to_string(&log)?),
        Work::Connect | Work::MtlsConnect | Work::MtlsBulk => dial(&output),
    }
    .with_context(|| format!("output of the client was:\n{output}"))
}

fn wrk(output: &str) -> Result<Answered> {
    let mut lines = output.lines().map(str::trim);
    let latency = |percent: &str| {
        let line = output
            .lines()
            .map(str::trim)
            .find_map(|line| line.strip_prefix(percent))
            .context("no latency")?;
        micros(line.trim())
    };
    let count = lines.find_map(|line| line.split_once(" requests in ")).context("no requests")?.0.parse()?;
    let per_second = after(output, "Requests/sec:").context("no rate")?;
    // "Socket errors: connect 0, read 1, write 0, timeout 2" and "Non-2xx or 3xx responses: 3".
    let sockets = output.lines().find_map(|line| line.trim().strip_prefix("Socket errors:")).unwrap_or("");
    let failed: u64 = sockets.split([' ', ',']).filter_map(|word| word.parse::<u64>().ok()).sum();
    let refused = after(output, "Non-2xx or 3xx responses:").unwrap_or(0.0);
    Ok(Answered {
        count,
        per_second,
        p50_micros: latency("50%")?,
        p99_micros: latency("99%")?,
        errors: failed + refused as u64,
    })
}

/// h2load's log has a line for each request: when it began, its status, its microseconds.
fn h2load(output: &str, log: &str) -> Result<Answered> {
    let line = output.lines().find(|line| line.starts_with("finished in")).context("no result")?;
    let per_second =
        line.split(", ").find_map(|part| part.strip_suffix(" req/s")).context("no rate")?.parse()?;
    let requests = output.lines().find(|line| line.starts_with("requests:")).context("no requests")?;
    let number = |word: &str| {
        let part = requests.split(", ").find_map(|part| part.strip_suffix(word)).unwrap_or("0");
        part.trim().parse::<u64>().unwrap_or(0)
    };
    let mut times: Vec<u64> = Vec::new();
    let mut refused = 0;
    for line in log.lines() {
        let mut fields = line.split('\t').skip(1);
        refused += u64::from(fields.next() != Some("200"));
        times.extend(fields.next().and_then(|field| field.parse::<u64>().ok()));
    }
    times.sort_unstable();
    let at = |part: f64| times.get((times.len() as f64 * part) as usize).copied().unwrap_or(0) as f64;
    Ok(Answered {
        count: number(" succeeded"),
        per_second,
        p50_micros: at(0.5),
        p99_micros: at(0.99),
        errors: number(" failed") + number(" timeout") + refused,
    })
}

fn dial(output: &str) -> Result<Answered> {
    let value = |name: &str| after(output, name).with_context(|| format!("no {name}"));
    let (count, seconds) = (value("done")?, value("seconds")?);
    if seconds <= 0.0 {
        bail!("no time passed");
    }
    Ok(Answered {
        count: count as u64,
        per_second: count / seconds,
        p50_micros: value("p50")?,
        p99_micros: value("p99")?,
        errors: value("errors")? as u64,
    })
}

/// The number after a word.
pub fn after(text: &str, word: &str) -> Option<f64> {
    text.split_once(word)?.1.split_whitespace().next()?.parse().ok()
}

/// wrk's `812.00us`, `1.52ms`, `1.01s`.
fn micros(text: &str) -> Result<f64> {
    let (number, factor) = if let Some(number) = text.strip_suffix("us") {
        (number, 1.0)
    } else if let Some(number) = text.strip_suffix("ms") {
        (number, 1e3)
    } else {
        (text.trim_end_matches('s'), 1e6)
    };
    Ok(number.parse::<f64>().with_context(|| format!("a latency of {text}"))? * factor)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn wrk_output_is_read() {
        let output = "Running 4s test @ http://10.0.0.1/\n  1 threads and 32 connections\n  Latency Distribution\n     \
            50%  812.00us\n     75%    1.00ms\n     90%    1.20ms\n     99%    1.50ms\n  160000 requests in 4.00s, 180.00MB read\n  \
            Socket errors: connect 0, read 1, write 0, timeout 2\n  Non-2xx or 3xx responses: 3\nRequests/sec:  40000.50\n";
        let answered = wrk(output).unwrap();
        assert_eq!((answered.count, answered.per_second, answered.errors), (160_000, 40_000.5, 6));
        assert_eq!((answered.p50_micros, answered.p99_micros), (812.0, 1500.0));
    }

    #[test]
    fn h2load_output_is_read() {
        let output = "finished in 2.00s, 2.50 req/s, 1.00MB/s\n\
            requests: 5 total, 5 started, 5 done, 4 succeeded, 1 failed, 0 errored, 0 timeout\n";
        let log = "1\t200\t300\n2\t200\t100\n3\t200\t200\n4\t503\t400\n";
        let answered = h2load(output, log).unwrap();
        assert_eq!((answered.count, answered.per_second, answered.errors), (4, 2.5, 2));
        assert_eq!((answered.p50_micros, answered.p99_micros), (300.0, 400.0));
    }
}
