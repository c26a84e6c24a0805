//! HBONE both ways, against a peer written from the protocol's description: what it may and may not ask of a pod, and what it
//! sees when a pod calls one that speaks it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "hbone/inbound.rs"]
mod inbound;
#[path = "hbone/outbound.rs"]
mod outbound;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;

use anyhow::ensure;
use mesh_tests::hbone::{PORT, Peer};
use mesh_tests::lab::{
    Agent, AgentOptions, NamespaceObject, NodeObject, Object, PodObject, ServiceObject, Topology, eventually,
};
use mesh_tests::nodes::Nodes;
use mesh_tests::pki::{MeshAuthority, Svid};
use mesh_tests::server::Server;
use mesh_tests::shop::{NAMESPACE, slice};
use mesh_tests::sockets::Host;
use mesh_tests::{SOON, agent_options};
use serde_json::Value;

/// Bulk, more than every window together.
const BULK: usize = 10 * 1024 * 1024;
/// Goes in plain text wherever it goes at all.
const SECRET: &[u8] = b"4111-1111-secret-marker";

/// One agent, and a node beside it whose pods are behind a ztunnel, which a test plays.
struct Mesh {
    agent: Agent,
    authority: MeshAuthority,
    /// Captured by the agent.
    web: Host,
    cart: Host,
    /// Behind ztunnels: by label, and by annotation. No agent is on their node.
    far: Host,
    other: Host,
    topology: Topology,
    next: AtomicU16,
}

impl Mesh {
    fn start(name: &str, options: AgentOptions) -> Self {
        let topology = Topology::new(name).unwrap();
        let ca = topology.scratch().join("ca");
        let authority = MeshAuthority::new(&ca, "hbone").unwrap();
        let (near, beside) = (topology.node("node-a").unwrap(), topology.node("node-b").unwrap());
        let host = |pod| Host::new(&topology, pod).unwrap();
        let (web, cart) = (host(near.pod("web").unwrap()), host(near.pod("cart").unwrap()));
        let (far, other) = (host(beside.pod("far").unwrap()), host(beside.pod("other").unwrap()));
        let pod = |host: &Host| PodObject::of(host, NAMESPACE).service_account(host.name());
        let place = NodeObject::new("node-a").label("topology.kubernetes.io/region", "r1");
        let objects = [
            Object::from(NamespaceObject::new(NAMESPACE)),
            place.label("topology.kubernetes.io/zone", "r1-a").into(),
            pod(&web).enabled(true).into(),
            pod(&cart).enabled(true).into(),
            pod(&far).label("networking.istio.io/tunnel", "http").into(),
            pod(&other).annotation("ambient.istio.io/redirection", "enabled").into(),
        ];
        topology.mesh().write("00-mesh.yaml", objects).unwrap();
        let options = options.flag("ca", format!("files:{}", ca.display()));
        let agent = near.agent(options).unwrap();
        Self { agent, authority, web, cart, far, other, topology, next: AtomicU16::new(10) }
    }

    fn port(&self) -> u16 {
        20000 + self.next.fetch_add(1, Ordering::Relaxed)
    }

    fn svid(&self, account: &str) -> Svid {
        self.authority.svid(&id(account)).unwrap()
    }

    /// As the ztunnel of `far` for it, to `cart`.
    fn peer(&self) -> Peer {
        Peer::connect(&self.far, self.cart.at(PORT), &self.authority.root(), Some(&self.svid("far"))).unwrap()
    }

    /// A service with one port, 80, over these, once the agent knows it.
    fn expose(&self, name: &str, port_name: &str, target: u16, endpoints: &[&Host]) -> SocketAddr {
        let vip = Ipv4Addr::new(10, 96, 7, u8::try_from(self.next.fetch_add(1, Ordering::Relaxed)).unwrap());
        let service = ServiceObject::new(NAMESPACE, name).vip(vip).port(port_name, 80);
        let objects = [service.into(), slice(name, port_name, target, endpoints)];
        self.topology.mesh().write(&format!("svc-{name}.yaml"), objects).unwrap();
        self.knows(name);
        SocketAddr::new(vip.into(), 80)
    }

    /// Applies a file, and waits until the agent goes by it.
    fn apply(&self, file: &str, objects: impl IntoIterator<Item = Object>) {
        let marker = format!("marker-{}", self.port());
        let marked = ServiceObject::new(NAMESPACE, &marker).headless().port("http", 80);
        self.topology.mesh().write(file, objects.into_iter().chain([marked.into()])).unwrap();
        self.knows(&marker);
    }

    fn knows(&self, service: &str) {
        eventually(SOON, || {
            let listed = self.agent.cli(&["get", "services", "-o", "name"])?.success()?.stdout;
            ensure!(listed.lines().any(|line| line.ends_with(&format!("/{service}"))), "{listed}");
            Ok(())
        })
        .unwrap();
    }

    fn sum(&self, metric: &str, labels: &[(&str, &str)]) -> f64 {
        self.agent.metrics().unwrap().sum(metric, labels)
    }

    fn grows(&self, metric: &str, labels: &[(&str, &str)], before: f64) {
        let grown = self.agent.wait_metrics(SOON, |metrics| {
            ensure!(metrics.sum(metric, labels) > before, "{metric} {labels:?} is still {before}");
            Ok(())
        });
        grown.unwrap();
    }

    fn log(&self, what: &str, check: impl Fn(&Value) -> bool) -> Value {
        Nodes::log_shows(&self.agent, what, check).unwrap()
    }
}

fn id(account: &str) -> String {
    format!("spiffe://cluster.local/ns/{NAMESPACE}/sa/{account}")
}

fn mesh() -> Option<&'static Mesh> {
    static MESH: OnceLock<Option<Mesh>> = OnceLock::new();
    MESH.get_or_init(|| Some(Mesh::start("hbone", agent_options()?))).as_ref()
}

macro_rules! need_mesh {
    () => {
        match mesh() {
            Some(mesh) => mesh,
            None => return,
        }
    };
}
use need_mesh;

fn echo(mut stream: TcpStream) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(n @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..n]).is_err() {
            return;
        }
    }
}

/// A server that echoes, and says `bye` when its client has ended.
fn echo_then_bye(host: &Host, port: u16) -> Server {
    Server::new(host.listen(port).unwrap(), |stream, _| {
        let mut end = stream.try_clone().unwrap();
        echo(stream);
        let _ = end.write_all(b"bye");
    })
}

fn says(stream: &mut TcpStream, bytes: &[u8]) {
    stream.write_all(bytes).unwrap();
    let mut answer = vec![0; bytes.len()];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer, bytes);
}

fn ends_with_bye(mut stream: TcpStream) {
    stream.shutdown(Shutdown::Write).unwrap();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, b"bye");
}

/// Sends and receives at the same time, and holds that what comes back is what went.
fn bulk(stream: TcpStream) {
    let sent: Arc<Vec<u8>> = Arc::new((0..BULK).map(|i| (i / 7 % 251) as u8).collect());
    let (mut up, bytes) = (stream.try_clone().unwrap(), sent.clone());
    let sender = thread::spawn(move || {
        up.write_all(&bytes).unwrap();
        up.shutdown(Shutdown::Write).unwrap();
    });
    let mut received = Vec::with_capacity(BULK);
    let mut down = stream;
    down.read_to_end(&mut received).unwrap();
    sender.join().unwrap();
    assert!(received.len() == BULK + 3 && received[..BULK] == **sent, "{} bytes", received.len());
}

/// One for tests that play the ztunnel's failures.
fn mesh_of_one(name: &str) -> Option<Mesh> {
    Some(Mesh::start(name, agent_options()?))
}
