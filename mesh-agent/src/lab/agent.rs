//! The node's agent as a child process: started, signalled, restarted, and asked by /metrics, the CLI and its logs.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::loopback::own_address;
use super::metrics::MetricsText;
use super::pod::in_cgroup;
use super::process::{Finished, Running};
use super::reaper::Root;
use super::topology::{Cgroup, Node};
use super::wait::eventually;

const READY: Duration = Duration::from_secs(30);
const SCRAPE: Duration = Duration::from_secs(10);
const COMMAND: Duration = Duration::from_secs(30);

/// How to start an agent.
#[derive(Clone, Debug)]
pub struct AgentOptions {
    binary: PathBuf,
    flags: Vec<String>,
    env: Vec<(String, String)>,
    source: Option<String>,
    no_source: bool,
    inside_node: bool,
}

impl AgentOptions {
    /// With this binary and no more flags than every agent needs.
    pub fn new(binary: impl Into<PathBuf>) -> Self {
        Self {
            binary: binary.into(),
            flags: Vec::new(),
            env: Vec::new(),
            source: None,
            no_source: false,
            inside_node: false,
        }
    }

    /// The binary that the build put beside this one: `$MESH_AGENT_BIN`, or `mesh-agent` in the target directory.
    ///
    /// # Errors
    /// Neither is there.
    pub fn built() -> Result<Self> {
        if let Some(path) = std::env::var_os("MESH_AGENT_BIN") {
            return Ok(Self::new(path));
        }
        let own = std::env::current_exe().context("finding this executable")?;
        let found =
            own.ancestors().skip(1).take(3).map(|dir| dir.join("mesh-agent")).find(|path| path.is_file());
        match found {
            Some(path) => Ok(Self::new(path)),
            None => bail!(
                "no mesh-agent beside {}: run `cargo xtask build`, or set MESH_AGENT_BIN",
                own.display()
            ),
        }
    }

    /// The binary.
    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// Adds `--name value`.
    pub fn flag(mut self, name: &str, value: impl Into<String>) -> Self {
        self.flags.extend([format!("--{name}"), value.into()]);
        self
    }

    /// Adds an environment variable.
    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.env.push((name.to_owned(), value.into()));
        self
    }

    /// Reads another source than the topology's mesh directory.
    pub fn source(mut self, source: impl Into<String>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Names no source.
    pub fn without_source(mut self) -> Self {
        self.no_source = true;
        self
    }

    /// Puts the agent's own process below `--cgroup`, where its hooks see the agent's sockets too.
    pub fn inside_node(mut self) -> Self {
        self.inside_node = true;
        self
    }
}

/// A running agent. Killed on drop; what it pinned and wrote goes with the topology.
pub struct Agent {
    running: Running,
    node: Node,
    options: AgentOptions,
    cgroup: Cgroup,
    state: PathBuf,
    bpffs: PathBuf,
    metrics: SocketAddr,
}

impl Agent {
    pub(super) fn start(node: &Node, options: AgentOptions) -> Result<Self> {
        let mut agent = Self::spawn(node, options)?;
        agent.wait_ready()?;
        Ok(agent)
    }

    /// Like [`Node::agent`], without waiting for `ready`.
    pub fn spawn(node: &Node, options: AgentOptions) -> Result<Self> {
        let number = Root::get()?.number();
        let topology = node.topology();
        let parent = if options.inside_node { node.cgroup() } else { topology.cgroup() };
        let cgroup = Cgroup::create(parent.join(format!("agent-{number}")))?;
        let state = topology.scratch().join(format!("{}-{number}", node.name()));
        let bpffs = topology.bpffs().join(format!("{}-{number}", node.name()));
        let metrics = own_address();
        let command = command(node, &options, &cgroup, &state, &bpffs, metrics);
        let running = Running::start(command)?;
        Ok(Self { running, node: node.clone(), options, cgroup, state, bpffs, metrics })
    }

    /// Waits for the line `ready` on its standard error.
    pub fn wait_ready(&mut self) -> Result<()> {
        self.running.wait_for_line("ready", READY)
    }

    /// Starts it again with the same directories, after it ended or by killing it.
    pub fn restart(&mut self) -> Result<()> {
        self.start_again()?;
        self.wait_ready()
    }

    /// As [`Agent::restart`], without waiting for `ready`.
    pub fn start_again(&mut self) -> Result<()> {
        self.kill();
        self.running = Running::start(self.command())?;
        Ok(())
    }

    /// Starts another one with the same directories, without waiting for what becomes of it.
    pub fn beside(&self) -> Result<Running> {
        Running::start(self.command())
    }

    /// Starts another one with the same directories, which takes this one's place; returns the former one, which drains.
    pub fn upgrade(&mut self) -> Result<Running> {
        let newcomer = self.beside()?;
        let former = std::mem::replace(&mut self.running, newcomer);
        self.wait_ready()?;
        Ok(former)
    }

    /// From its next start on it gets `--name value`, in place of what it got of this name.
    pub fn set_flag(&mut self, name: &str, value: &str) {
        let (flag, flags) = (format!("--{name}"), &mut self.options.flags);
        if let Some(at) = flags.iter().position(|given| *given == flag) {
            flags.drain(at..(at + 2).min(flags.len()));
        }
        flags.extend([flag, value.to_owned()]);
    }

    /// SIGKILL, and reaps it.
    pub fn kill(&mut self) {
        self.running.kill();
    }

    /// Sends SIGTERM, SIGSTOP, SIGCONT, ...
    pub fn signal(&self, signal: Signal) {
        self.running.signal(signal);
    }

    /// The exit code, once it has ended.
    pub fn exit_code(&mut self) -> Option<i32> {
        self.running.try_wait()
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.running.pid()
    }

    /// Its log so far.
    pub fn log(&self) -> String {
        self.running.stderr()
    }

    /// As in `--state-dir`.
    pub fn state_dir(&self) -> &Path {
        &self.state
    }

    /// As in `--bpffs-dir`.
    pub fn bpffs_dir(&self) -> &Path {
        &self.bpffs
    }

    /// As in `--metrics-address`.
    pub fn metrics_address(&self) -> SocketAddr {
        self.metrics
    }

    /// The cgroup that its process is in.
    pub fn cgroup(&self) -> &Path {
        self.cgroup.path()
    }

    /// Scrapes /metrics.
    pub fn metrics(&self) -> Result<MetricsText> {
        let (status, body) = self.get("/metrics")?;
        if status != 200 {
            bail!("/metrics answered {status}");
        }
        Ok(MetricsText::parse(&body))
    }

    /// GET on the metrics address: status and body.
    pub fn get(&self, path: &str) -> Result<(u16, String)> {
        http_get(self.metrics, path).with_context(|| format!("GET {path} of the agent"))
    }

    /// Lines of the access log, JSON.
    pub fn access_log(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.state.join("access.log")).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Runs a CLI command against it.
    pub fn cli(&self, args: &[&str]) -> Result<Finished> {
        let mut command = Command::new(&self.options.binary);
        command.args(args).env("MESH_AGENT_STATE_DIR", &self.state);
        Running::start(command)?.finish(COMMAND)
    }

    /// Runs a CLI command that must succeed with `-o json`, and reads its output.
    pub fn cli_json(&self, args: &[&str]) -> Result<Value> {
        let output = self.cli(&[args, &["-o", "json"]].concat())?.success()?;
        serde_json::from_str(&output.stdout).with_context(|| format!("no JSON: {}", output.stdout))
    }

    /// Waits until /metrics satisfies `check`; its last error is the failure.
    pub fn wait_metrics(&self, deadline: Duration, check: impl Fn(&MetricsText) -> Result<()>) -> Result<()> {
        eventually(deadline, || check(&self.metrics()?))
    }

    fn command(&self) -> Command {
        command(&self.node, &self.options, &self.cgroup, &self.state, &self.bpffs, self.metrics)
    }
}

fn command(
    node: &Node,
    options: &AgentOptions,
    cgroup: &Cgroup,
    state: &Path,
    bpffs: &Path,
    metrics: SocketAddr,
) -> Command {
    let source = match &options.source {
        Some(source) => source.clone(),
        None => format!("dir:{}", node.topology().mesh().path().display()),
    };
    let mut command = in_cgroup(cgroup.path(), options.binary.as_os_str());
    command.args(["run", "--node-name", node.name(), "--state-dir"]).arg(state);
    if !options.no_source {
        command.args(["--source", &source]);
    }
    command.arg("--bpffs-dir").arg(bpffs).arg("--cgroup").arg(node.cgroup());
    command.args(["--metrics-address", &metrics.to_string()]);
    // clap takes the last of a repeated flag only if told so; leave out what the caller sets.
    if !options.flags.iter().any(|flag| flag == "--access-log") {
        command.arg("--access-log").arg(format!("json:{}", state.join("access.log").display()));
    }
    command.args(&options.flags);
    command.envs(options.env.iter().map(|(k, v)| (k, v)));
    command
}

/// One HTTP/1.0 exchange; the answer ends with the connection.
fn http_get(address: SocketAddr, path: &str) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&address, SCRAPE)?;
    stream.set_read_timeout(Some(SCRAPE))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let (mut text, end) = (Vec::new(), Instant::now() + SCRAPE);
    let mut buffer = [0; 16384];
    loop {
        match stream.read(&mut buffer)? {
            0 => break,
            n => text.extend_from_slice(&buffer[..n]),
        }
        if Instant::now() > end {
            bail!("still answering after {SCRAPE:?}");
        }
    }
    let text = String::from_utf8_lossy(&text);
    let (head, body) = text.split_once("\r\n\r\n").context("no end of head")?;
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).context("no status")?;
    Ok((status, body.to_owned()))
}
