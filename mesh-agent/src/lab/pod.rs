//! A pod: a network namespace on the topology's bridge and a cgroup; commands run in both, so that the hooks see them.

use std::ffi::{OsStr, OsString};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;

use super::netns::Netns;
use super::process::{Finished, Running};
use super::reaper::Root;
use super::topology::{Cgroup, Node, Topology, both};

/// Cheap to clone; the pod goes, with all its processes, when the last clone goes.
#[derive(Clone)]
pub struct Pod {
    inner: Arc<Inner>,
}

struct Inner {
    cgroup: Cgroup,
    netns: Netns,
    name: String,
    veth: String,
    // What it stands on must outlive it: the node's cgroup and the fabric.
    node: Option<Node>,
    _topology: Topology,
    v4: Ipv4Addr,
    v6: Ipv6Addr,
}

impl Pod {
    pub(super) fn create(
        topology: &Topology,
        name: &str,
        cgroup: PathBuf,
        node: Option<&Node>,
    ) -> Result<Self> {
        let (v4, v6) = topology.addresses();
        let cgroup = Cgroup::create(cgroup)?;
        let netns = Netns::create(name)?;
        // An interface's name holds 15 bytes; this one needs to be unique in the fabric only.
        let veth = format!("v{}", Root::get()?.number());
        topology.fabric().ip(&format!(
            "link add {veth} type veth peer name eth0 netns {}\nlink set {veth} master br0 up\n",
            netns.name()
        ))?;
        netns.ip(&format!(
            "addr add {v4}/16 dev eth0\naddr add {v6}/64 dev eth0 nodad\nlink set lo up\nlink set eth0 up\n\
             route add default via 10.77.0.1\nroute add ::/0 via fd77::1\n"
        ))?;
        let (name, node) = (name.to_owned(), node.cloned());
        let inner = Inner { cgroup, netns, name, veth, node, _topology: topology.clone(), v4, v6 };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Name as given.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Name of its node; none for an outsider.
    pub fn node_name(&self) -> Option<&str> {
        self.inner.node.as_ref().map(Node::name)
    }

    /// IPv4 address.
    pub fn v4(&self) -> Ipv4Addr {
        self.inner.v4
    }

    /// IPv6 address.
    pub fn v6(&self) -> Ipv6Addr {
        self.inner.v6
    }

    /// Both addresses, IPv4 first.
    pub fn addresses(&self) -> [IpAddr; 2] {
        both(self.inner.v4, self.inner.v6)
    }

    /// Its network namespace.
    pub fn netns(&self) -> &Netns {
        &self.inner.netns
    }

    /// Name of the node's end of its one device, in the topology's fabric.
    pub fn veth(&self) -> &str {
        &self.inner.veth
    }

    /// Its cgroup.
    pub fn cgroup(&self) -> &Path {
        self.inner.cgroup.path()
    }

    /// A command that will run as a process of this pod.
    pub fn command(&self, program: impl AsRef<OsStr>) -> PodCommand {
        PodCommand { pod: self.clone(), command: in_cgroup(self.cgroup(), program.as_ref()) }
    }
}

/// A command that runs in `cgroup`. The shell moves itself there and becomes the program, process id and all.
pub(super) fn in_cgroup(cgroup: &Path, program: &OsStr) -> Command {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", r#"echo 0 >"$0/cgroup.procs" && exec "$@""#]).arg(cgroup).arg(program);
    command
}

/// Builder of a process in a pod.
pub struct PodCommand {
    pod: Pod,
    command: Command,
}

impl PodCommand {
    /// One argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    /// Several arguments.
    pub fn args<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(mut self, args: I) -> Self {
        self.command.args(args);
        self
    }

    /// An environment variable.
    pub fn env(mut self, key: &str, value: impl Into<OsString>) -> Self {
        self.command.env(key, value.into());
        self
    }

    /// Working directory.
    pub fn dir(mut self, dir: &Path) -> Self {
        self.command.current_dir(dir);
        self
    }

    /// Starts it and leaves it running until the guard is dropped.
    pub fn start(self) -> Result<Running> {
        let Self { pod, command } = self;
        pod.netns().run(move || Running::start(command))?
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// It couldn't be started or ran longer than `deadline`. An exit code other than 0 is no error.
    pub fn run(self, deadline: Duration) -> Result<Finished> {
        self.start()?.finish(deadline)
    }
}
