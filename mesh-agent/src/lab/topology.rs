//! A bridge with nodes on it. Every topology has the same addresses: its bridge stands in a namespace of its own, so
//! that no other topology, and not the host either, ever meets them.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};

use super::agent::{Agent, AgentOptions};
use super::netns::Netns;
use super::objects::MeshDir;
use super::pod::Pod;
use super::reaper::Root;
use super::wait::eventually_some;

/// One bridge, the nodes and pods on it, one mesh directory. Cheap to clone; cleared away with the last clone.
#[derive(Clone)]
pub struct Topology {
    inner: Arc<Inner>,
}

// Dropped in this order: processes die with the cgroup, then their network, then what they left on disk.
struct Inner {
    cgroup: Cgroup,
    fabric: Netns,
    mesh: MeshDir,
    bpffs: TempDir,
    state: TempDir,
    next_host: AtomicU16,
}

impl Topology {
    /// Builds the bridge: 10.77.0.0/16 and fd77::/64, itself 10.77.0.1 and fd77::1.
    pub fn new(name: &str) -> Result<Self> {
        let root = Root::get()?;
        let name = format!("{name}-{}", root.number());
        let cgroup = Cgroup::create(root.cgroup().join(&name))?;
        let bpffs = TempDir::create(root.bpffs().join(&name))?;
        let state = TempDir::create(root.state().join(&name))?;
        let mesh = MeshDir::create(state.path().join("mesh"))?;
        let fabric = Netns::create("fabric")?;
        fabric.ip(
            "link add br0 type bridge\naddr add 10.77.0.1/16 dev br0\naddr add fd77::1/64 dev br0 nodad\n\
             link set br0 up\nlink set lo up\n",
        )?;
        let inner = Inner { cgroup, fabric, mesh, bpffs, state, next_host: AtomicU16::new(2) };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Adds a node: a cgroup subtree for its pods.
    pub fn node(&self, name: &str) -> Result<Node> {
        let cgroup = Cgroup::create(self.inner.cgroup.path().join(name))?;
        Ok(Node { inner: Arc::new(NodeInner { cgroup, name: name.to_owned(), topology: self.clone() }) })
    }

    /// Adds a host that belongs to no node, so that no agent's hooks see it.
    pub fn outsider(&self, name: &str) -> Result<Pod> {
        Pod::create(self, name, self.inner.cgroup.path().join("outside").join(name), None)
    }

    /// The directory that agents read.
    pub fn mesh(&self) -> &MeshDir {
        &self.inner.mesh
    }

    /// The nodes' own network namespace: the bridge's.
    pub fn fabric(&self) -> &Netns {
        &self.inner.fabric
    }

    /// Directory for whatever a test writes; gone with the topology.
    pub fn scratch(&self) -> &Path {
        self.inner.state.path()
    }

    /// Where agents pin.
    pub fn bpffs(&self) -> &Path {
        self.inner.bpffs.path()
    }

    /// The cgroup above all nodes.
    pub fn cgroup(&self) -> &Path {
        self.inner.cgroup.path()
    }

    pub(super) fn addresses(&self) -> (Ipv4Addr, Ipv6Addr) {
        let host = self.inner.next_host.fetch_add(1, Ordering::Relaxed);
        let [high, low] = host.to_be_bytes();
        (Ipv4Addr::new(10, 77, high, low), Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, host))
    }
}

/// A cgroup subtree with pods in it, and a name.
#[derive(Clone)]
pub struct Node {
    inner: Arc<NodeInner>,
}

struct NodeInner {
    cgroup: Cgroup,
    name: String,
    topology: Topology,
}

impl Node {
    /// As in `--node-name` and `spec.nodeName`.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// As in `--cgroup`.
    pub fn cgroup(&self) -> &Path {
        self.inner.cgroup.path()
    }

    /// What it belongs to.
    pub fn topology(&self) -> &Topology {
        &self.inner.topology
    }

    /// Adds a pod.
    pub fn pod(&self, name: &str) -> Result<Pod> {
        Pod::create(&self.inner.topology, name, self.cgroup().join(name), Some(self))
    }

    /// Starts the node's agent and waits until it says `ready`.
    pub fn agent(&self, options: AgentOptions) -> Result<Agent> {
        Agent::start(self, options)
    }
}

/// A cgroup directory; on drop its processes are killed and it is removed with all below it.
pub(super) struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    pub(super) fn create(path: PathBuf) -> Result<Self> {
        fs::create_dir_all(&path).with_context(|| format!("making cgroup {}", path.display()))?;
        Ok(Self { path })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = fs::write(self.path.join("cgroup.kill"), "1");
        // A killed process leaves its cgroup only when it has been torn down.
        let _ = eventually_some(Duration::from_secs(20), "cgroup still busy", || {
            remove_cgroups(&self.path);
            (!self.path.exists()).then_some(())
        });
    }
}

fn remove_cgroups(path: &Path) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroups(&entry.path());
        }
    }
    let _ = fs::remove_dir(path);
}

/// A directory that is removed with its contents on drop; also on bpffs, where that unpins.
struct TempDir {
    path: PathBuf,
}

impl TempDir {
    fn create(path: PathBuf) -> Result<Self> {
        fs::create_dir_all(&path).with_context(|| format!("making {}", path.display()))?;
        Ok(Self { path })
    }

    fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Both addresses as one list, IPv4 first.
pub(super) fn both(v4: Ipv4Addr, v6: Ipv6Addr) -> [IpAddr; 2] {
    [v4.into(), v6.into()]
}
