//! The bars that the project sets itself, each held against what this run measured.

use std::fmt::Write as _;

use crate::changes::{INTERVAL, USUAL};
use crate::load::Work;
use crate::mtls::{BARE, ENVOYS, ENVOYS_HTTP1, ENVOYS_TCP};
use crate::observed::SEEN;
use crate::others::WITH;
use crate::rows::{AGENT, DIRECT, FAST, Figures, HOOKED, KERNEL, PLAIN, REDIRECT};
use crate::run::Results;

/// A table with a row for each bar that this run has figures for.
pub fn table(results: &Results) -> String {
    let mut text = String::new();
    let mut row = |figure: &str, measured: String, bar: &str, met: bool| {
        if text.is_empty() {
            text.push_str("| figure | measured | bar | met |\n|---|---:|---:|---|\n");
        }
        let _ = writeln!(text, "| {figure} | {measured} | {bar} | {} |", if met { "yes" } else { "**no**" });
    };
    let figures = |work, name: &str| -> Option<Figures> {
        results.rows.iter().find(|row| row.work == work && row.name == name)?.figures()
    };
    let mut cpu = |work, what: &str, peer: &str, bar: f64| {
        if let (Some(ours), Some(theirs)) = (figures(work, AGENT), figures(work, peer)) {
            let ratio = ours.proxy_micros / theirs.proxy_micros;
            let figure = format!("CPU per {what} against {peer}");
            row(&figure, format!("{ratio:.2}"), &format!("at most {bar}"), ratio <= bar);
        }
    };
    cpu(Work::Http1, "HTTP/1.1 request", "bare hyper", 1.3);
    cpu(Work::Http1, "HTTP/1.1 request", "Envoy", 0.65);
    cpu(Work::Tcp, "request as opaque TCP", "bare tokio copy", 1.15);
    for envoys in [ENVOYS, ENVOYS_HTTP1] {
        cpu(Work::Mtls, "HTTP/1.1 request through mutual TLS, both sides,", envoys, 0.6);
    }
    let mut with = |work, figure: &str, (name, without): (&str, &str), of: fn(&Figures) -> f64, bar: f64| {
        if let (Some(with), Some(without)) = (figures(work, name), figures(work, without)) {
            let ratio = of(&with) / of(&without);
            row(figure, format!("{ratio:.2}"), &format!("at most {bar}"), ratio <= bar);
        }
    };
    let cpu = |figures: &Figures| figures.proxy_micros;
    let what = "CPU per HTTP/1.1 request with 100 routes and policies against none";
    with(Work::Policies, what, (AGENT, PLAIN), cpu, 1.15);
    let what = "CPU per HTTP/1.1 request with 10,000 routes of other services against none";
    with(Work::Others, what, (WITH, AGENT), cpu, 1.05);
    let what = "CPU per HTTP/1.1 request with access log and traces against none";
    with(Work::Observed, what, (SEEN, AGENT), cpu, 1.08);
    let what = "99th percentile with a third endpoint 50 ms slower against the two fast ones";
    with(Work::Slow, what, (AGENT, FAST), |figures| figures.p99_micros, 1.5);
    for (ours, what) in [(HOOKED, "our hooks, the same bare proxy"), (AGENT, "our hooks, the agent")] {
        if let (Some(ours), Some(theirs)) = (figures(Work::Connect, ours), figures(Work::Connect, REDIRECT)) {
            let ratio = ours.per_second / theirs.per_second;
            let figure = format!("new connections per second, {what}, against iptables REDIRECT");
            row(&figure, format!("{ratio:.2}"), "at least 1", ratio >= 1.0);
        }
    }
    for (work, what, peer, bar) in [
        (Work::MtlsConnect, "new connections per second through mutual TLS", ENVOYS_TCP, 2.0),
        (Work::MtlsBulk, "bytes per second on one connection through mutual TLS", BARE, 0.8),
    ] {
        if let (Some(ours), Some(theirs)) = (figures(work, AGENT), figures(work, peer)) {
            let ratio = ours.per_second / theirs.per_second;
            row(
                &format!("{what} against {peer}"),
                format!("{ratio:.2}"),
                &format!("at least {bar}"),
                ratio >= bar,
            );
        }
    }
    if let Some(worst) = results.judged.iter().max_by(|a, b| a.nanos.total_cmp(&b.nanos)) {
        let figure = "a request judged among 10,000 rules of authorization, the slowest kind";
        row(figure, format!("{:.2} µs", worst.nanos / 1e3), "under 2 µs", worst.nanos < 2000.0);
    }
    if let Some(ours) = results.memory.iter().find(|memory| memory.name == AGENT) {
        let megabytes = ours.idle as f64 / 1e6;
        row(
            "resident memory, idle with 10 pods",
            format!("{megabytes:.1} MB"),
            "under 25 MB",
            megabytes < 25.0,
        );
        for (what, bytes) in &ours.per_connection {
            let figure = format!("memory of an open {what} connection");
            row(&figure, format!("{:.1} kB", bytes / 1e3), "under 12 kB", *bytes < 12e3);
        }
    }
    for changes in &results.changes {
        let (worst, core) = (changes.p99_micros / 1e3, changes.core * 100.0);
        let among = format!("among {} services", changes.scale.services);
        let figure = format!("a change in force {among}, 99th percentile");
        row(&figure, format!("{worst:.1} ms"), "within 100 ms", worst <= 100.0);
        if changes.scale == USUAL {
            row("CPU of 10 changes a second", format!("{core:.2} %"), "under 5 % of one core", core < 5.0);
            continue;
        }
        let each = changes.core * INTERVAL as f64;
        row(&format!("CPU of a change {among}"), format!("{each:.2} ms"), "under 1 ms", each < 1.0);
        let megabytes = changes.resident as f64 / 1e6;
        let figure = format!(
            "resident memory with {} services of {} endpoints",
            changes.scale.services, changes.scale.endpoints
        );
        row(&figure, format!("{megabytes:.0} MB"), "at most 150 MB", megabytes <= 150.0);
    }
    for (work, what, bar) in [(Work::Tcp, "requests", 0.98), (Work::Connect, "connects", 0.95)] {
        if let (Some(ours), Some(direct)) = (figures(work, KERNEL), figures(work, DIRECT)) {
            let ratio = ours.per_second / direct.per_second;
            let figure = format!("{what} per second, balanced in the kernel, against direct");
            row(&figure, format!("{ratio:.2}"), &format!("at least {bar}"), ratio >= bar);
        }
    }
    if let Some(hook) = &results.hook {
        let ratio = hook.many / hook.few;
        row(
            "connect hook with 5,000 services",
            format!("{:.0} ns", hook.many),
            "at most 1 µs",
            hook.many <= 1000.0,
        );
        row("the same against 50 services", format!("{ratio:.2}"), "at most 1.1", ratio <= 1.1);
    }
    text
}
