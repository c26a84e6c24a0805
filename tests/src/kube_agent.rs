//! An agent of a real cluster's node, as a process of the host: all nodes of such a cluster share the host's network and
//! differ by their parts of cgroup2.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use mesh_agent::lab::{AgentOptions, Finished, MetricsText, Root, Running, eventually, own_address};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::cluster::cgroup_of;
use crate::http1::Client;
use crate::kube::Cluster;
use crate::{PATIENCE, SOON};

/// Moves itself into the cgroup, and becomes the program.
const IN_CGROUP: &str = r#"mkdir -p "$0" && echo 0 >"$0/cgroup.procs" && exec "$@""#;

/// A running agent. Killed on drop; what it pinned and wrote goes with this process.
pub struct KubeAgent {
    running: Mutex<Running>,
    binary: PathBuf,
    args: Vec<String>,
    kubeconfig: PathBuf,
    cgroup: PathBuf,
    state: PathBuf,
    metrics: SocketAddr,
    node: String,
}

impl KubeAgent {
    /// Starts the agent of `node`, without waiting for it.
    pub(crate) fn spawn(
        cluster: &Cluster,
        node: &str,
        options: &AgentOptions,
        flags: &[(&str, &str)],
    ) -> Result<Self> {
        let root = Root::get()?;
        let name = format!("kube-agent-{node}");
        let (state, metrics) = (root.state().join(&name), own_address());
        let mut args: Vec<String> = ["run", "--source", "kube", "--node-name", node].map(String::from).into();
        let mut flag = |name: &str, value: String| args.extend([format!("--{name}"), value]);
        flag("cgroup", cgroup_of(node)?.display().to_string());
        flag("state-dir", state.display().to_string());
        flag("bpffs-dir", root.bpffs().join(&name).display().to_string());
        flag("metrics-address", metrics.to_string());
        flag("access-log", format!("json:{}", state.join("access.log").display()));
        flags.iter().for_each(|(name, value)| flag(name, (*value).to_owned()));
        let (binary, cgroup) = (options.binary().to_owned(), root.cgroup().join(&name));
        let kubeconfig = cluster.kubeconfig().to_owned();
        let running = Running::start(command(&binary, &args, &kubeconfig, &cgroup))?;
        Ok(Self {
            running: Mutex::new(running),
            binary,
            args,
            kubeconfig,
            cgroup,
            state,
            metrics,
            node: node.to_owned(),
        })
    }

    /// Waits for the line `ready`.
    pub fn wait_ready(&self) -> Result<()> {
        self.running().wait_for_line("ready", PATIENCE)
    }

    /// Kills it, and starts it again with the same directories.
    pub fn restart(&self) -> Result<()> {
        let mut running = self.running();
        running.kill();
        *running = Running::start(command(&self.binary, &self.args, &self.kubeconfig, &self.cgroup))?;
        running.wait_for_line("ready", PATIENCE)
    }

    fn running(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its node's name.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// SIGTERM, SIGKILL, ...
    pub fn signal(&self, signal: Signal) {
        self.running().signal(signal);
    }

    /// Fails unless it says that it is ready.
    pub fn is_ready(&self) -> Result<()> {
        let status = Client::new(TcpStream::connect(self.metrics)?).get("ready", "/readyz")?.status();
        ensure!(status == 200, "/readyz answered {status}");
        Ok(())
    }

    /// Its log so far.
    pub fn log(&self) -> String {
        self.running().stderr()
    }

    /// Runs a CLI command against it.
    pub fn cli(&self, args: &[&str]) -> Result<Finished> {
        let mut command = Command::new(&self.binary);
        command.args(args).env("MESH_AGENT_STATE_DIR", &self.state);
        Running::start(command)?.finish(PATIENCE)
    }

    /// Scrapes /metrics.
    pub fn metrics(&self) -> Result<MetricsText> {
        let answer = Client::new(TcpStream::connect(self.metrics)?).get("metrics", "/metrics")?;
        ensure!(answer.status() == 200, "/metrics answered {}", answer.status());
        Ok(MetricsText::parse(&answer.text()))
    }

    /// Lines of the access log.
    pub fn access_log(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.state.join("access.log")).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// A line of the access log that satisfies `check`.
    pub fn log_shows(&self, what: &str, check: impl Fn(&Value) -> bool) -> Result<Value> {
        eventually(SOON, || {
            let lines = self.access_log();
            let found = lines.iter().rev().find(|line| check(line)).cloned();
            found.with_context(|| {
                format!(
                    "no line with {what} among the last: {:#?}",
                    lines.iter().rev().take(5).collect::<Vec<_>>()
                )
            })
        })
    }

    /// How a pod stands, as `captured`, `pending`, ...; and why.
    pub fn capture_of(&self, namespace: &str, pod: &str) -> Result<(String, String)> {
        let output = self.cli(&["get", "pods", "-o", "json"])?.success()?.stdout;
        let list: Value = serde_json::from_str(&output)?;
        let rows = list.as_array().or_else(|| list["items"].as_array()).context("no list")?;
        let row = rows.iter().find(|row| row["name"] == pod && row["namespace"] == namespace);
        let row = row.with_context(|| format!("no pod {namespace}/{pod}: {output}"))?;
        let text = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
        Ok((text("capture"), text("reason")))
    }

    /// Waits until a pod stands so.
    pub fn wait_capture(&self, namespace: &str, pod: &str, capture: &str, deadline: Duration) -> Result<()> {
        eventually(deadline, || {
            let (now, why) = self.capture_of(namespace, pod)?;
            ensure!(now == capture, "{namespace}/{pod} is {now} {why}");
            Ok(())
        })
    }
}

fn command(binary: &Path, args: &[String], kubeconfig: &Path, cgroup: &Path) -> Command {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", IN_CGROUP]).arg(cgroup).arg(binary).args(args).env("KUBECONFIG", kubeconfig);
    command
}

/// A program that was built with this one.
pub fn binary_beside(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    match own.ancestors().skip(1).take(3).map(|dir| dir.join(name)).find(|path| path.is_file()) {
        Some(path) => Ok(path),
        None => bail!("no {name} beside {}", own.display()),
    }
}
