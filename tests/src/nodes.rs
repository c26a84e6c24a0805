//! Two nodes with an agent each, a client pod on one, servers on the other, and somebody who listens on the wire between.
//!
//! What one agent's pods say to the other's goes over the bridge, where [`Wire`] sees every frame.

use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_agent::lab::{
    Agent, AgentOptions, NamespaceObject, Node, Object, PodObject, ServiceObject, Topology, eventually,
};
use nix::libc;
use socket2::{Domain, Protocol, Socket, Type};

use crate::SOON;
use crate::shop::{NAMESPACE, slice};
use crate::sockets::Host;

/// Two nodes.
pub struct Nodes {
    /// Of the client's node.
    pub near: Agent,
    /// Of the servers' node.
    pub far: Agent,
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
        let topology = Topology::new(name)?;
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
        let (near, far) = (near.agent(options.clone())?, far.agent(options.clone())?);
        Ok(Self { near, far, web, cart, till, shelf, outside, topology, next: AtomicU16::new(10) })
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

/// Every frame on the nodes' network since it began to listen.
pub struct Wire {
    frames: Arc<Mutex<Vec<Vec<u8>>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Wire {
    /// Listens on every link of the bridge's namespace, which all pods hang on.
    pub fn listen(topology: &Topology) -> Result<Self> {
        let all = Protocol::from(i32::from((libc::ETH_P_ALL as u16).to_be()));
        let socket = topology.fabric().run(|| Socket::new(Domain::PACKET, Type::RAW, Some(all)))?;
        let mut socket = socket.context("a packet socket")?;
        socket.set_recv_buffer_size(16 * 1024 * 1024)?;
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        let (frames, stop) = (Arc::<Mutex<Vec<Vec<u8>>>>::default(), Arc::<AtomicBool>::default());
        let (seen, over) = (frames.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            let mut buffer = vec![0; 128 * 1024];
            while !over.load(Ordering::Relaxed) {
                if let Ok(length) = socket.read(&mut buffer) {
                    seen.lock().unwrap_or_else(PoisonError::into_inner).push(buffer[..length].to_vec());
                }
            }
        });
        Ok(Self { frames, stop, thread: Some(thread) })
    }

    /// How many frames have these bytes in them.
    pub fn count(&self, bytes: &[u8]) -> usize {
        let frames = self.frames.lock().unwrap_or_else(PoisonError::into_inner);
        frames.iter().filter(|frame| frame.windows(bytes.len()).any(|window| window == bytes)).count()
    }

    /// How many there are.
    pub fn frames(&self) -> usize {
        self.frames.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}
