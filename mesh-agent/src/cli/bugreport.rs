//! `bugreport`: what somebody else needs to look into a problem, in one archive that may be sent away.
//!
//! What the agent says goes through `redact` first. Nothing is in it that the other commands don't show; no key, no Secret,
//! no log line.

mod redact;

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::Value;

use super::client::{Client, Door};
use super::output::{Out, json, utc};
use super::{AgentArgs, Exit, Failure, Outcome, cluster};

/// What is asked, and the file that it becomes.
const PARTS: &[(&str, &str)] = &[
    ("/v1/status", "status.json"),
    ("/v1/config", "config.json"),
    ("/v1/config/history", "config-history.json"),
    ("/v1/warnings", "warnings.json"),
    ("/v1/certificates", "certificates.json"),
    ("/v1/connections", "connections.json"),
    ("/v1/bpf", "bpf.json"),
    ("/v1/log", "log-filter.json"),
    ("/v1/live/edges?window=600", "live-edges.json"),
    ("/v1/live/history?window=1800", "live-history.json"),
    ("/v1/live/routes?window=600", "live-routes.json"),
];

#[derive(Debug, Args)]
pub(super) struct BugreportArgs {
    #[command(flatten)]
    agent: AgentArgs,
    /// Where the archive is put [default: the current directory]
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
}

pub(super) fn run(args: &BugreportArgs, out: &mut Out<'_>) -> Outcome {
    let agents = agents(&args.agent)?;
    let now = SystemTime::now();
    let name = format!("mesh-agent-bugreport-{}", utc(now).replace([':', '-'], ""));
    let path = args.directory.clone().unwrap_or_default().join(format!("{name}.tar.gz"));
    // Before anything is written: an agent that isn't there leaves no file behind.
    let reports = agents.iter().map(|(node, client)| report(node, client)).collect::<Vec<_>>();
    if reports.iter().all(|report| report.files.is_empty()) {
        let failure = reports.into_iter().find_map(|report| report.failure);
        return Err(failure.unwrap_or_else(|| Failure::message(Exit::Unreachable, "no agent answers")));
    }
    let mut exit = Exit::Ok;
    let mut archive = Archive::create(&path, &name, now)?;
    for report in &reports {
        let place = if reports.len() > 1 { format!("{}/", report.node) } else { String::new() };
        for (file, text) in &report.files {
            archive.add(&format!("{place}{file}"), text)?;
        }
        for missing in &report.missing {
            exit = Exit::Failed;
            out.note(&format!("warning: {place}{missing}"))?;
        }
    }
    archive.finish()?;
    out.data(&format!("{}\n", path.display()))?;
    out.note("secrets are left out as far as they can be told: look through it before you send it away")?;
    Ok(exit)
}

fn agents(args: &AgentArgs) -> Result<Vec<(String, Client)>, Failure> {
    if !args.all_nodes {
        return Ok(vec![(args.node.clone().unwrap_or_else(|| "agent".to_owned()), args.client()?)]);
    }
    let of = args.cluster();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let agents = runtime.block_on(cluster::agents(&of))?;
    if agents.is_empty() {
        return Err(cluster::none_in(&of));
    }
    agents
        .into_iter()
        .map(|agent| Ok((agent.node.clone(), Client::new(Door::Node(agent.node, of.clone()))?)))
        .collect()
}

/// What one agent said.
struct Report {
    node: String,
    files: Vec<(String, String)>,
    missing: Vec<String>,
    failure: Option<Failure>,
}

fn report(node: &str, client: &Client) -> Report {
    let mut report = Report { node: node.to_owned(), files: Vec::new(), missing: Vec::new(), failure: None };
    let mut kernel = Value::Null;
    for (path, file) in PARTS {
        let said = client.get::<Value>(path).and_then(|mut value| {
            if let Some(release) = value.get("release").filter(|_| *path == "/v1/bpf") {
                kernel = release.clone();
            }
            redact::value(&mut value);
            json(&value)
        });
        report.take(file, said);
    }
    report.take("metrics.txt", client.text("/v1/metrics").map(|text| redact::text(&text).into_owned()));
    if !report.files.is_empty() {
        let about = serde_json::json!({
            "commandLine": env!("CARGO_PKG_VERSION"),
            "node": node,
            "kernel": kernel,
            "at": utc(SystemTime::now()),
            "missing": &report.missing,
        });
        let said = json(&about);
        report.take("report.json", said);
    }
    report
}

impl Report {
    fn take(&mut self, file: &str, said: Result<String, Failure>) {
        match said {
            Ok(text) => self.files.push((file.to_owned(), text)),
            Err(failure) => {
                self.missing.push(format!("no {file}: {failure}"));
                self.failure.get_or_insert(failure);
            }
        }
    }
}

/// A gzipped tar in which everything lies below one directory.
struct Archive {
    tar: tar::Builder<GzEncoder<File>>,
    root: String,
    time: u64,
}

impl Archive {
    /// For its owner alone, and never over something that is there.
    fn create(path: &PathBuf, root: &str, now: SystemTime) -> Result<Self, Failure> {
        let file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(|error| {
                Failure::of(anyhow::Error::new(error).context(format!("{} can't be made", path.display())))
            })?;
        let tar = tar::Builder::new(GzEncoder::new(file, Compression::default()));
        let time = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        Ok(Self { tar, root: root.to_owned(), time })
    }

    fn add(&mut self, file: &str, text: &str) -> io::Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(self.time);
        self.tar.append_data(&mut header, format!("{}/{file}", self.root), text.as_bytes())
    }

    fn finish(self) -> io::Result<()> {
        self.tar.into_inner()?.finish()?.flush()
    }
}
