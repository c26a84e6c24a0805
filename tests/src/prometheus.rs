//! A real Prometheus on this machine: scrapes agents every second, knows the alert rules, answers queries.

use std::collections::BTreeMap;
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use mesh_agent::lab::{Agent, Finished, Running, eventually, own_address};
use serde::Deserialize;

use crate::PATIENCE;
use crate::http1::Client;

/// What runs, and where. Killed on drop.
pub struct Prometheus {
    running: Running,
    address: SocketAddr,
    dir: PathBuf,
}

/// One series of an answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its value now; may be no number.
    pub value: f64,
}

impl Series {
    /// Whether it has all of these labels.
    pub fn has<'a>(&self, labels: impl IntoIterator<Item = (&'a str, &'a str)>) -> bool {
        labels.into_iter().all(|(name, value)| self.labels.get(name).is_some_and(|found| found == value))
    }
}

#[derive(Deserialize)]
struct Answer {
    data: Data,
}

#[derive(Deserialize)]
struct Data {
    result: Vec<Found>,
}

#[derive(Deserialize)]
struct Found {
    metric: BTreeMap<String, String>,
    value: (f64, String),
}

impl Prometheus {
    /// Starts it with its files in `dir`; `job` is scraped, and the rules are loaded.
    ///
    /// # Errors
    /// There is no program `prometheus`, or it doesn't answer.
    pub fn start(dir: &Path, job: &str, agents: &[&Agent], rules: &Path) -> Result<Self> {
        fs::create_dir_all(dir)?;
        let targets: Vec<String> =
            agents.iter().map(|agent| format!("'{}'", agent.metrics_address())).collect();
        let config = format!(
            "global: {{scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}}\n\
             rule_files: ['{}']\n\
             scrape_configs:\n- job_name: {job}\n  static_configs: [{{targets: [{}]}}]\n",
            fs::canonicalize(rules)?.display(),
            targets.join(", ")
        );
        fs::write(dir.join("prometheus.yml"), config)?;
        let address = own_address();
        Ok(Self { running: run(dir, address)?, address, dir: dir.to_owned() })
    }

    /// Kills it and starts it again with what it has stored.
    ///
    /// # Errors
    /// It doesn't answer any more.
    pub fn restart(&mut self) -> Result<()> {
        self.running.kill();
        self.running = run(&self.dir, self.address)?;
        Ok(())
    }

    /// What a query comes to now.
    ///
    /// # Errors
    /// It isn't PromQL, or nobody answers.
    pub fn query(&self, expr: &str) -> Result<Vec<Series>> {
        let text = get(self.address, &format!("/api/v1/query?query={}", encoded(expr)))
            .with_context(|| expr.to_owned())?;
        let answer: Answer = serde_json::from_str(&text).with_context(|| format!("{expr}: {text}"))?;
        let series = answer.data.result.into_iter().map(|found| {
            let value = found.value.1.parse().with_context(|| format!("{expr}: {}", found.value.1))?;
            Ok(Series { labels: found.metric, value })
        });
        series.collect()
    }

    /// The one value that a query comes to; 0 if it comes to nothing.
    ///
    /// # Errors
    /// As [`Self::query`].
    pub fn value(&self, expr: &str) -> Result<f64> {
        Ok(self.query(expr)?.first().map_or(0.0, |series| series.value))
    }
}

/// Runs `promtool ARGS`, which has to succeed.
///
/// # Errors
/// It isn't there, or finds something.
pub fn promtool(args: &[&str], file: &Path) -> Result<Finished> {
    let mut command = Command::new("promtool");
    command.args(args).arg(file);
    Running::start(command).context(SETUP)?.finish(PATIENCE * 2)?.success()
}

const SETUP: &str = "`cargo xtask setup` installs Prometheus";

fn run(dir: &Path, address: SocketAddr) -> Result<Running> {
    let mut command = Command::new("prometheus");
    command
        .arg(format!("--config.file={}", dir.join("prometheus.yml").display()))
        .arg(format!("--storage.tsdb.path={}", dir.join("data").display()))
        .arg(format!("--web.listen-address={address}"))
        .arg("--log.level=warn");
    let mut running = Running::start(command).context(SETUP)?;
    eventually(PATIENCE, || {
        if let Some(code) = running.try_wait() {
            return Err(anyhow::anyhow!("prometheus ended with {code}: {}", running.stderr()));
        }
        get(address, "/-/ready").map(drop)
    })?;
    Ok(running)
}

fn get(address: SocketAddr, path: &str) -> Result<String> {
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let answer = Client::new(stream).get("prometheus", path)?;
    ensure!(answer.status() == 200, "{}: {}", answer.status(), answer.text());
    Ok(answer.text())
}

fn encoded(text: &str) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~".contains(byte);
    text.bytes()
        .map(|byte| if plain(&byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}
