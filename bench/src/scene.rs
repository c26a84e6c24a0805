//! The pods: a client and a server that no mesh sees, a client behind iptables, and a node with an agent and ten pods.
//!
//! All stand on one bridge. Proxies of the peers run inside the plain client's namespace, where the agent's listeners
//! stand in the mesh client's, so that every way has the same hops.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_agent::lab::{
    Agent, AgentOptions, EndpointObject, NamespaceObject, Node, NodeObject, Object, Pod, PodObject, Running,
    ServiceObject, SliceObject, Topology, eventually,
};

use crate::load::CLIENT_CORE;
use crate::mtls::{self, Far};
use crate::observed::{self, Observed};
use crate::policies::{self, DELAY_MS};

/// The core that one proxy at a time works on.
pub const PROXY_CORE: &str = "0";
/// Where servers listen.
pub const HTTP1: u16 = 8080;
pub const HTTP2: u16 = 8081;
/// The same as [`HTTP1`], so that a second proxy can stand behind REDIRECT.
pub const HTTP1_TOO: u16 = 8082;
/// One that sends without end.
pub const BULK: u16 = 8083;
/// Where all objects are.
pub const NAMESPACE: &str = "bench";
/// Mark or group of sockets that the rules leave alone: a proxy's own.
pub const MARK: u32 = 1337;
/// Where REDIRECT sends connections to.
pub const REDIRECTED: u16 = 15001;
pub const REDIRECTED_TOO: u16 = 15002;
/// The mesh's service, a port for each protocol.
pub const VIP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
pub const VIP_HTTP1: u16 = 80;
pub const VIP_HTTP2: u16 = 81;
pub const VIP_TCP: u16 = 82;

/// A service that needs nothing of the agent: its one endpoint is the server that no mesh sees.
pub const VIP_KERNEL: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 11);

/// How long anything may take to start.
pub const START: Duration = Duration::from_secs(20);
/// How long ten thousand routes may take to be in force, on a machine that is busy.
const IN_FORCE: Duration = Duration::from_secs(60);
/// Pods of the mesh node.
const PODS: usize = 10;

/// Everything that is there for the whole run.
pub struct Scene {
    pub topology: Topology,
    pub client: Pod,
    pub server: Pod,
    pub redirected: Option<Pod>,
    pub hooked: Hooked,
    pub mesh: Option<Mesh>,
    _servers: Vec<Running>,
}

/// A client behind the agent's kernel programs, without the agent.
pub struct Hooked {
    pub client: Pod,
    pub node: Node,
}

/// The part that the agent serves.
pub struct Mesh {
    pub client: Pod,
    pub agent: Agent,
    pub far: Far,
    pub observed: Observed,
    policies: Vec<Object>,
    _pods: Vec<Pod>,
    _node: Node,
}

impl Scene {
    pub fn new(agent: Option<&Path>) -> Result<Self> {
        let topology = Topology::new("bench")?;
        let (client, server) = (topology.outsider("client")?, topology.outsider("server")?);
        tune(&client)?;
        tune(&server)?;
        let mut servers = vec![serve(&server)?];
        let redirected = redirected(&topology, server.v4())?;
        let hooked = hooked(&topology)?;
        let mesh = match agent {
            Some(agent) => Some(mesh(&topology, agent, &server, &mut servers)?),
            None => None,
        };
        Ok(Self { topology, client, server, redirected, hooked, mesh, _servers: servers })
    }

    /// Puts in force what the rows with policies need; not before, so that memory is that of the plain mesh.
    pub fn put_policies(&self) -> Result<()> {
        let Some(mesh) = &self.mesh else { return Ok(()) };
        self.topology.mesh().write("policies.yaml", mesh.policies.iter().cloned())?;
        mesh.wait_for_routes(policies::NAME, policies::ROUTES)
    }
}

impl Mesh {
    /// Waits until the agent has so many routes whose names begin so.
    pub fn wait_for_routes(&self, prefix: &str, expected: usize) -> Result<()> {
        let prefix = format!("/{prefix}-");
        eventually(IN_FORCE, || {
            let listed = self.agent.cli(&["get", "routes", "-o", "name"])?.success()?;
            let there = listed.stdout.lines().filter(|line| line.contains(&prefix)).count();
            ensure!(there == expected, "{there} of {expected} routes are in force");
            Ok(())
        })
    }
}

/// Starts the bench's own program in a pod on a core, and waits until it is ready.
pub fn tool(pod: &Pod, core: &str, args: &[&str]) -> Result<Running> {
    let own = std::env::current_exe()?;
    let mut running = pod.command("taskset").args(["-c", core]).arg(own).args(args).start()?;
    running.wait_for_line("ready", START).with_context(|| format!("starting {}", args.join(" ")))?;
    Ok(running)
}

pub fn serve(pod: &Pod) -> Result<Running> {
    serve_after(pod, 0)
}

/// The same, but it waits so many milliseconds before each answer.
fn serve_after(pod: &Pod, delay: u16) -> Result<Running> {
    let (http1, http2) = (format!("{HTTP1},{HTTP1_TOO}"), HTTP2.to_string());
    let (bulk, delay) = (BULK.to_string(), delay.to_string());
    let args = ["serve", "--http1", &http1, "--http2", &http2, "--bulk", &bulk, "--delay", &delay];
    tool(pod, CLIENT_CORE, &args)
}

/// Room for many short connections from one address: all ports, and those in TIME_WAIT again after a second.
pub fn tune(pod: &Pod) -> Result<()> {
    pod.netns().run(|| -> Result<()> {
        std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "1024 65000")?;
        std::fs::write("/proc/sys/net/ipv4/tcp_tw_reuse", "1")?;
        // The listeners of the agent and of proxies aren't to be taken by chance.
        std::fs::write("/proc/sys/net/ipv4/ip_local_reserved_ports", "8080-8083,15000-15099,20000-20099")?;
        Ok(())
    })?
}

/// A client whose connections to the server are redirected; none where iptables can't do it.
fn redirected(topology: &Topology, server: Ipv4Addr) -> Result<Option<Pod>> {
    let pod = topology.outsider("redirected")?;
    tune(&pod)?;
    let rule = format!(
        "iptables -t nat -A OUTPUT -p tcp -d {server} --dport {HTTP1} -m mark ! --mark {MARK} -j REDIRECT --to-ports {REDIRECTED} && \
         iptables -t nat -A OUTPUT -p tcp -d {server} --dport {HTTP1_TOO} -m owner ! --gid-owner {MARK} -j REDIRECT --to-ports \
         {REDIRECTED_TOO} && \
         sysctl -q -w net.netfilter.nf_conntrack_tcp_timeout_time_wait=1"
    );
    let done = pod.command("sh").args(["-c", &rule]).run(START)?;
    if done.code != 0 {
        eprintln!("bench: no rows with iptables: {}", done.stderr.trim());
        return Ok(None);
    }
    Ok(Some(pod))
}

fn hooked(topology: &Topology) -> Result<Hooked> {
    let node = topology.node("hooked")?;
    let client = node.pod("hooked")?;
    tune(&client)?;
    Ok(Hooked { client, node })
}

fn mesh(topology: &Topology, agent: &Path, outside: &Pod, servers: &mut Vec<Running>) -> Result<Mesh> {
    let node = topology.node("node-a")?;
    let client = node.pod("client")?;
    let server = node.pod("server")?;
    tune(&client)?;
    tune(&server)?;
    let mut pods = vec![client.clone(), server.clone()];
    let fast = [node.pod("fast-1")?, node.pod("fast-2")?];
    let slow = node.pod("slow")?;
    pods.extend(fast.iter().chain([&slow]).cloned());
    for number in pods.len()..PODS {
        pods.push(node.pod(&format!("idle-{number}"))?);
    }
    for (pod, delay) in [(&server, 0), (&fast[0], 0), (&fast[1], 0), (&slow, DELAY_MS)] {
        servers.push(serve_after(pod, delay)?);
    }
    let mut objects: Vec<Object> =
        vec![NodeObject::new("node-a").into(), NamespaceObject::new("bench").enabled().into()];
    objects.extend(pods.iter().map(|pod| PodObject::of(pod, "bench").into()));
    let service = ServiceObject::new("bench", "server")
        .vip(VIP)
        .port("http", VIP_HTTP1)
        .app_protocol("http")
        .port("h2", VIP_HTTP2)
        .app_protocol("kubernetes.io/h2c")
        .port("tcp", VIP_TCP)
        .app_protocol("tcp");
    let slice = SliceObject::new("bench", "server", "server-1")
        .port("http", HTTP1)
        .port("h2", HTTP2)
        .port("tcp", HTTP1)
        .pods("bench", [&server]);
    objects.extend([Object::from(service), Object::from(slice)]);
    let plain = ServiceObject::new("bench", "plain").vip(VIP_KERNEL).port("tcp", HTTP1).app_protocol("tcp");
    let slice = SliceObject::new("bench", "plain", "plain-1").port("tcp", HTTP1);
    objects.extend([Object::from(plain), slice.endpoint(EndpointObject::address(outside.v4())).into()]);
    topology.mesh().write("bench.yaml", objects)?;
    let (far, far_server) = mtls::build(topology, agent, |pod| {
        tune(pod)?;
        serve(pod)
    })?;
    servers.push(far_server);
    let (observed, seen_server) = observed::build(topology, agent, tune, serve)?;
    servers.push(seen_server);
    let agent = start_agent(&node, agent)?;
    let policies = policies::objects(&server, &fast, &slow);
    Ok(Mesh { client, agent, far, observed, policies, _pods: pods, _node: node })
}

/// An agent with one worker, on the proxies' core, that logs nothing per request, as its peers.
pub fn start_agent(node: &Node, binary: &Path) -> Result<Agent> {
    let options = AgentOptions::new(binary).flag("workers", "1").flag("access-log", "off");
    let agent = node.agent(options)?;
    pin(agent.pid())?;
    Ok(agent)
}

/// All threads of a process to the proxies' core.
pub fn pin(pid: u32) -> Result<()> {
    let done = std::process::Command::new("taskset")
        .args(["-a", "-c", "-p", PROXY_CORE, &pid.to_string()])
        .output()?;
    anyhow::ensure!(done.status.success(), "taskset: {}", String::from_utf8_lossy(&done.stderr));
    Ok(())
}

/// The mesh's service on one of its ports.
pub fn vip(port: u16) -> SocketAddr {
    SocketAddr::from((VIP, port))
}
