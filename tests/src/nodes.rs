//! Two nodes with an agent each, a client pod on one, servers on the other, and somebody who listens on the wire between.
//!
//! What one agent's pods say to the other's goes over the bridge, where [`Wire`] sees every frame.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::{Context, Result, ensure};
pub use mesh_agent::lab::Wire;
use mesh_agent::lab::{
    Agent, AgentOptions, NamespaceObject, Node, Object, PodObject, ServiceObject, Topology, eventually,
};

use crate::SOON;
use crate::pki::MeshAuthority;
use crate::shop::{NAMESPACE, slice};
use crate::sockets::Host;

/// Two nodes.
pub struct Nodes {
    /// Of the client's node.
    pub near: Agent,
    /// Of the servers' node.
    pub far: Agent,
    /// Both nodes, the client's first.
    pub nodes: [Node; 2],
    /// Client, enrolled, account `web`.
    pub web: Host,
    /// Server on the other node, enrolled, account `cart`.
    pub cart: Host,
    /// Another one there, enrolled, account `till`.
    pub till: Host,
    /// A server on the client's own node, enrolled, account `shelf`.
    pub shelf: Host,
    /// In no mesh and under no hook.
    pub outside: Host,
    /// Everything stands on it.
    pub topology: Topology,
    next: AtomicU16,
}

impl Nodes {
    /// Builds them and starts both agents.
    pub fn start(name: &str, options: &AgentOptions) -> Result<Self> {
        Self::on(Topology::new(name)?, |_| options.clone())
    }

    /// The same with certificates of `root`, which the agents read from [`ca_dir`].
    pub fn under(name: &str, options: &AgentOptions, root: &MeshAuthority) -> Result<Self> {
        let topology = Topology::new(name)?;
        root.install(&ca_dir(&topology), &[])?;
        let ca = format!("files:{}", ca_dir(&topology).display());
        Self::on(topology, |_| options.clone().flag("ca", ca.clone()))
    }

    /// The same on a topology that is there already, the agents as `options` says by their nodes' names.
    pub fn on(topology: Topology, options: impl Fn(&str) -> AgentOptions) -> Result<Self> {
        let (near, far) = (topology.node("node-a")?, topology.node("node-b")?);
        let host = |node: &Node, name: &str| Host::new(&topology, node.pod(name)?);
        let (web, shelf) = (host(&near, "web")?, host(&near, "shelf")?);
        let (cart, till) = (host(&far, "cart")?, host(&far, "till")?);
        let outside = Host::new(&topology, topology.outsider("outside")?)?;
        let mut objects = vec![Object::from(NamespaceObject::new(NAMESPACE).enabled())];
        for pod in [&web, &shelf, &cart, &till] {
            objects.push(PodObject::of(pod, NAMESPACE).service_account(pod.name()).into());
        }
        topology.mesh().write("00-nodes.yaml", objects)?;
        let nodes = [near.clone(), far.clone()];
        let (near, far) = (near.agent(options(near.name()))?, far.agent(options(far.name()))?);
        Ok(Self { near, far, nodes, web, cart, till, shelf, outside, topology, next: AtomicU16::new(10) })
    }

    /// A port that no server of these nodes uses.
    pub fn port(&self) -> u16 {
        20000 + self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Adds a service with one port, 80, over `endpoints`, and waits until both agents know it.
    pub fn expose(
        &self,
        name: &str,
        port_name: &str,
        target: u16,
        endpoints: &[&Host],
    ) -> Result<SocketAddr> {
        let vip = Ipv4Addr::new(10, 96, 9, u8::try_from(self.next.fetch_add(1, Ordering::Relaxed))?);
        let object = ServiceObject::new(NAMESPACE, name).vip(vip).port(port_name, 80);
        let slice = slice(name, port_name, target, endpoints);
        self.topology.mesh().write(&format!("svc-{name}.yaml"), [object.into(), slice])?;
        for agent in [&self.near, &self.far] {
            eventually(SOON, || {
                let listed = agent.cli(&["get", "services", "-o", "name"])?.success()?.stdout;
                ensure!(listed.lines().any(|line| line.ends_with(&format!("/{name}"))), "{listed}");
                Ok(())
            })?;
        }
        Ok(SocketAddr::new(vip.into(), 80))
    }

    /// Handshakes that an agent counted.
    pub fn handshakes(agent: &Agent, direction: &str, result: &str) -> f64 {
        let labels = [("direction", direction), ("result", result)];
        agent.metrics().map_or(0.0, |metrics| metrics.sum("mesh_agent_mesh_handshakes_total", &labels))
    }

    /// Waits for a line of an agent's access log that satisfies `check`.
    pub fn log_shows(
        agent: &Agent,
        what: &str,
        check: impl Fn(&serde_json::Value) -> bool,
    ) -> Result<serde_json::Value> {
        eventually(SOON, || {
            let lines = agent.access_log();
            let found = lines.iter().find(|line| check(line)).cloned();
            found.with_context(|| format!("no line with {what} among {lines:#?}"))
        })
    }
}

/// Where the agents of [`Nodes::under`] find their authority.
pub fn ca_dir(topology: &Topology) -> PathBuf {
    topology.scratch().join("ca")
}
