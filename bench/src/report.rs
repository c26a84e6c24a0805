//! Tables for people, the bars that the project sets itself, and the files under docs/benchmarks.

mod bars;
pub mod machine;

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::load::Work;
use crate::plot::{self, Bar, Panel};
use crate::rows::Row;
use crate::run::Results;
use crate::services;

/// Groups of rows, each a table and a panel of the plots: work, heading, what is counted.
const GROUPS: [(Work, &str, &str); 11] = [
    (Work::Http1, "HTTP/1.1, 32 connections, 1 KiB", "request"),
    (Work::Http2, "HTTP/2, 8 connections of 4 streams, 1 KiB", "request"),
    (Work::Tcp, "Opaque TCP, 32 connections, 1 KiB", "request"),
    (Work::Connect, "A new connection for each request, 32 at a time, opaque TCP", "connection"),
    (Work::Policies, "HTTP/1.1 with 100 routes, retries, outlier detection, limits", "request"),
    (Work::Others, "The same, with routes of other services", "request"),
    (Work::Slow, "HTTP/1.1 to three endpoints, one of them 50 ms slower", "request"),
    (Work::Observed, "HTTP/1.1 with an access log in JSON and traces of one request in a hundred", "request"),
    (
        Work::Mtls,
        "HTTP/1.1 through mutual TLS between two nodes, both proxies together, 64 connections, 1 KiB",
        "request",
    ),
    (
        Work::MtlsConnect,
        "A new connection of opaque bytes for each request through the same, 32 at a time",
        "connection",
    ),
    (Work::MtlsBulk, "One connection through the same, as many bytes as it carries", "MiB"),
];

/// Every table as Markdown.
pub fn tables(results: &Results) -> String {
    let mut text = String::new();
    // A String takes whatever is written.
    for (work, heading, unit) in GROUPS {
        let rows: Vec<&Row> = results.rows.iter().filter(|row| row.work == work).collect();
        if !rows.is_empty() {
            let _ = write!(text, "### {heading}\n\n{}\n", group(&rows, unit));
        }
    }
    if !results.memory.is_empty() {
        let _ = write!(text, "### Resident memory\n\n{}\n", memory(results));
    }
    if !results.judged.is_empty() {
        text.push_str(
            "### Authorization\n\nThe judge alone, one thread, among 1,000 AuthorizationPolicies of 10 rules that all select the pod.\n\n\
             | rules, and which of them matches | µs per request |\n|---|---:|\n",
        );
        for judged in &results.judged {
            let _ = writeln!(text, "| {} | {:.2} |", judged.what, judged.nanos / 1e3);
        }
        text.push('\n');
    }
    for changes in &results.changes {
        let _ = write!(
            text,
            "### Configuration changes among {} services of {} endpoints\n\nFrom a directory; one endpoint of one service changes \
             10 times a second. In force: from before the file's rename to the first answer of the new endpoint.\n\n\
             | figure | |\n|---|---:|\n| changes | {} |\n| in force, median | {:.1} ms |\n| in force, 99th percentile | {:.1} ms \
             |\n| in force, worst | {:.1} ms |\n| CPU of the agent | {:.2} % of one core |\n| start to ready | {:.2} s |\n\
             | resident memory | {:.1} MB |\n\n",
            changes.scale.services,
            changes.scale.endpoints,
            changes.changes,
            changes.p50_micros / 1e3,
            changes.p99_micros / 1e3,
            changes.max_micros / 1e3,
            changes.core * 100.0,
            changes.start_seconds,
            changes.resident as f64 / 1e6,
        );
    }
    if let Some(hook) = &results.hook {
        let _ = write!(
            text,
            "### The connect hook, for a service that the kernel balances\n\nMean run time by the kernel's own statistics while \
             connections are made; services of 20 endpoints.\n\n| services | ns per connection |\n|---:|---:|\n| {} | {:.0} |\n| {} | \
             {:.0} |\n\n",
            services::FEW,
            hook.few,
            services::MANY,
            hook.many,
        );
    }
    let bars = bars::table(results);
    if !bars.is_empty() {
        let _ = write!(text, "### Bars\n\n{bars}\n");
    }
    if !results.absent.is_empty() {
        let _ = write!(text, "### Not measured\n\n");
        for absent in &results.absent {
            let _ = writeln!(text, "- {}", absent.replace('\n', " "));
        }
    }
    text
}

/// Writes the page and the plots.
pub fn write(out: &Path, results: &Results, tables: &str) -> Result<()> {
    fs::create_dir_all(out).with_context(|| format!("could not make {}", out.display()))?;
    let page = format!(
        "{}\n{}\n## Figures\n\n![CPU](cpu.svg)\n\n![Throughput](throughput.svg)\n\n{tables}",
        include_str!("report/head.md"),
        machine::describe(results)
    );
    fs::write(out.join("README.md"), page.trim_end().to_owned() + "\n")?;
    fs::write(out.join("cpu.svg"), cpu_plot(results))?;
    fs::write(out.join("throughput.svg"), throughput_plot(results))?;
    eprintln!("bench: wrote {}", out.display());
    Ok(())
}

fn group(rows: &[&Row], unit: &str) -> String {
    let mut text = format!(
        "| | {unit}s/s | p50 ms | p99 ms | CPU µs per {unit}: proxy | whole machine | spread |\n|---|---:|---:|---:|---:|---:|---:|\n"
    );
    for row in rows {
        let Some(figures) = row.figures() else { continue };
        let proxy =
            if figures.proxy_micros > 0.0 { format!("{:.1}", figures.proxy_micros) } else { "-".to_owned() };
        let errors = if figures.errors > 0 { format!(" ({} errors)", figures.errors) } else { String::new() };
        let _ = writeln!(
            text,
            "| {}{errors} | {:.0} | {:.2} | {:.2} | {proxy} | {:.1} | {:.0} % |",
            row.name,
            figures.per_second,
            figures.p50_micros / 1e3,
            figures.p99_micros / 1e3,
            figures.machine_micros,
            figures.spread * 100.0
        );
    }
    text
}

fn memory(results: &Results) -> String {
    let mut text = "| | idle MB | open connection | kB each |\n|---|---:|---|---:|\n".to_owned();
    for memory in &results.memory {
        for (what, bytes) in &memory.per_connection {
            let _ = writeln!(
                text,
                "| {} | {:.1} | {what} | {:.1} |",
                memory.name,
                memory.idle as f64 / 1e6,
                bytes / 1e3
            );
        }
    }
    text
}

fn cpu_plot(results: &Results) -> String {
    panels(results, "CPU microseconds: dark the proxy, light the whole machine", |row| {
        let figures = row.figures()?;
        Some(Bar { label: row.name.clone(), value: figures.proxy_micros, behind: figures.machine_micros })
    })
}

fn throughput_plot(results: &Results) -> String {
    panels(results, "Per second, the proxy on one core, client and server on another", |row| {
        let figures = row.figures()?;
        Some(Bar { label: row.name.clone(), value: figures.per_second, behind: 0.0 })
    })
}

fn panels(results: &Results, title: &str, bar: impl Fn(&Row) -> Option<Bar>) -> String {
    let panels: Vec<Panel> = GROUPS
        .iter()
        .map(|(work, heading, unit)| Panel {
            title: format!("{heading}, per {unit}"),
            bars: results.rows.iter().filter(|row| row.work == *work).filter_map(&bar).collect(),
        })
        .filter(|panel| !panel.bars.is_empty())
        .collect();
    plot::svg(title, &panels)
}
