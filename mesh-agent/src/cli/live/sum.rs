//! Figures of several edges together, and how they are shown. Pure.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::admin::api::{LiveFigures, LiveRoute};
use crate::telemetry::quantile;

/// Sums.
#[derive(Clone, Debug, Default, PartialEq)]
pub(in crate::cli) struct Sum {
    pub requests: u64,
    pub failures: u64,
    pub rps: f64,
    pub latency: Vec<u64>,
    pub flags: BTreeMap<String, u64>,
    pub retries: u64,
    pub timeouts: u64,
    pub open: u64,
    pub opened: u64,
    pub sent: u64,
    pub received: u64,
    /// Bytes a second, as each agent's own window makes them.
    pub sent_rate: f64,
    pub received_rate: f64,
}

/// The same in the output of commands.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(in crate::cli) struct Shown {
    pub requests: u64,
    pub failures: u64,
    pub rps: f64,
    pub success: Option<f64>,
    pub p50_ms: Option<f64>,
    pub p95_ms: Option<f64>,
    pub p99_ms: Option<f64>,
    pub flags: BTreeMap<String, u64>,
    pub retries: u64,
    pub timeouts: u64,
    pub connections_open: u64,
    pub connections_opened: u64,
    pub sent_bytes: u64,
    pub received_bytes: u64,
    pub sent_bytes_per_second: f64,
    pub received_bytes_per_second: f64,
}

impl Sum {
    /// Adds what one agent says of one edge, over so many seconds.
    pub(in crate::cli) fn add(&mut self, more: &LiveFigures, seconds: f64) {
        self.requests += more.requests;
        self.failures += more.failures;
        self.rps += more.rps;
        self.add_latency(&more.latency);
        for (flag, n) in &more.flags {
            *self.flags.entry(flag.clone()).or_default() += n;
        }
        self.retries += more.retries;
        self.timeouts += more.timeouts;
        self.open += more.connections_open;
        self.opened += more.connections_opened;
        self.sent += more.sent_bytes;
        self.received += more.received_bytes;
        self.sent_rate += more.sent_bytes as f64 / seconds.max(1.0);
        self.received_rate += more.received_bytes as f64 / seconds.max(1.0);
    }

    /// Adds what one agent says of one rule.
    pub(in crate::cli) fn add_route(&mut self, more: &LiveRoute) {
        self.requests += more.requests;
        self.failures += more.failures;
        self.rps += more.rps;
        self.add_latency(&more.latency);
    }

    /// Adds another sum.
    pub(in crate::cli) fn merge(&mut self, more: &Self) {
        let Self {
            requests,
            failures,
            rps,
            latency,
            flags,
            retries,
            timeouts,
            open,
            opened,
            sent,
            received,
            ..
        } = more;
        self.requests += requests;
        self.failures += failures;
        self.rps += rps;
        self.add_latency(latency);
        for (flag, n) in flags {
            *self.flags.entry(flag.clone()).or_default() += n;
        }
        self.retries += retries;
        self.timeouts += timeouts;
        self.open += open;
        self.opened += opened;
        self.sent += sent;
        self.received += received;
        self.sent_rate += more.sent_rate;
        self.received_rate += more.received_rate;
    }

    fn add_latency(&mut self, more: &[u64]) {
        if self.latency.len() < more.len() {
            self.latency.resize(more.len(), 0);
        }
        self.latency.iter_mut().zip(more).for_each(|(sum, n)| *sum += n);
    }

    /// Share of requests that didn't fail.
    pub(in crate::cli) fn success(&self) -> Option<f64> {
        (self.requests > 0).then(|| self.requests.saturating_sub(self.failures) as f64 / self.requests as f64)
    }

    pub(in crate::cli) fn quantile(&self, share: f64) -> Option<f64> {
        quantile(&self.latency, share)
    }

    pub(in crate::cli) fn shown(&self) -> Shown {
        Shown {
            requests: self.requests,
            failures: self.failures,
            rps: self.rps,
            success: self.success(),
            p50_ms: self.quantile(0.5),
            p95_ms: self.quantile(0.95),
            p99_ms: self.quantile(0.99),
            flags: self.flags.clone(),
            retries: self.retries,
            timeouts: self.timeouts,
            connections_open: self.open,
            connections_opened: self.opened,
            sent_bytes: self.sent,
            received_bytes: self.received,
            sent_bytes_per_second: self.sent_rate,
            received_bytes_per_second: self.received_rate,
        }
    }
}

impl Shown {
    /// `99.95%`.
    pub(in crate::cli) fn success_text(&self) -> String {
        percent(self.success)
    }

    /// `0.3rps`; nothing where there are no requests.
    pub(in crate::cli) fn rps_text(&self) -> String {
        if self.requests == 0 { String::new() } else { format!("{:.1}rps", self.rps) }
    }

    /// The three latencies of all tables.
    pub(in crate::cli) fn latencies(&self) -> [String; 3] {
        [self.p50_ms, self.p95_ms, self.p99_ms].map(latency)
    }
}

/// A share as `99.95%`; never rounded up to all of it.
pub(in crate::cli) fn percent(share: Option<f64>) -> String {
    let Some(share) = share else { return String::new() };
    let floor = (share * 10_000.0 + 1e-6).floor() / 100.0;
    format!("{floor:.2}%")
}

/// `0.4ms`, `23ms`, `1.2s`.
pub(in crate::cli) fn latency(ms: Option<f64>) -> String {
    match ms {
        None => String::new(),
        Some(ms) if ms < 9.95 => format!("{ms:.1}ms"),
        Some(ms) if ms < 999.5 => format!("{ms:.0}ms"),
        Some(ms) => format!("{:.1}s", ms / 1000.0),
    }
}
