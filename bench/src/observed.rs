//! What it costs that everything is seen: an agent of its own with an access log in JSON to a file and the traces of one request
//! in a hundred sent to a collector, beside the one that logs and traces nothing. Both have metrics with all labels.

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use mesh_agent::lab::{
    Agent, AgentOptions, Node, Object, Pod, PodObject, Running, ServiceObject, SliceObject, Topology,
};

use crate::load::{CLIENT_CORE, Work};
use crate::rows::{AGENT, Row};
use crate::scene::{HTTP1, NAMESPACE, START, Scene, VIP_HTTP1, pin, vip};

/// Name of the row with everything.
pub const SEEN: &str = "mesh-agent, access log and traces";

/// Its service's address and port.
const VIP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 30);
const PORT: u16 = 80;
/// Where the collector listens, and two ports that it takes besides.
const COLLECTOR: [&str; 3] = ["20070", "20071", "20072"];

/// The third node.
pub struct Observed {
    client: Pod,
    agent: Agent,
    _server: Pod,
    _collector: Running,
    _node: Node,
}

/// A node with client, server and an agent that tells everything.
pub fn build(
    topology: &Topology,
    binary: &Path,
    prepare: impl Fn(&Pod) -> Result<()>,
    serve: impl Fn(&Pod) -> Result<Running>,
) -> Result<(Observed, Running)> {
    let node = topology.node("node-o")?;
    let (client, server) = (node.pod("seen-client")?, node.pod("seen-server")?);
    prepare(&client)?;
    prepare(&server)?;
    let running = serve(&server)?;
    let service = ServiceObject::new(NAMESPACE, "seen").vip(VIP).port("http", PORT).app_protocol("http");
    let slice = SliceObject::new(NAMESPACE, "seen", "seen-1").port("http", HTTP1);
    let pods = [&client, &server].map(|pod| Object::from(PodObject::of(pod, NAMESPACE)));
    let objects = [service.into(), slice.pods(NAMESPACE, [&server]).into()];
    topology.mesh().write("seen.yaml", pods.into_iter().chain(objects))?;
    let collector = collector()?;
    let log = topology.scratch().join("seen-access.log");
    let options = AgentOptions::new(binary)
        .flag("workers", "1")
        .flag("access-log", format!("json:{}", log.display()))
        .flag("access-log-rotate", "256Mi:1")
        .flag("otlp-endpoint", format!("http://127.0.0.1:{}", COLLECTOR[0]))
        .flag("otlp-protocol", "http")
        .flag("trace-sampling", "0.01")
        .flag("trace-limit", "0");
    let agent = node.agent(options)?;
    pin(agent.pid())?;
    Ok((Observed { client, agent, _server: server, _collector: collector, _node: node }, running))
}

/// The bench's server takes what is sent to it, as a collector that has nothing to say.
fn collector() -> Result<Running> {
    let mut command = Command::new("taskset");
    command.args(["-c", CLIENT_CORE]).arg(std::env::current_exe()?);
    let [http1, http2, bulk] = COLLECTOR;
    command.args(["serve", "--http1", http1, "--http2", http2, "--bulk", bulk]);
    let mut running = Running::start(command)?;
    running.wait_for_line("ready", START).context("starting the collector")?;
    Ok(running)
}

/// Both rows.
pub fn rows(scene: &Scene) -> Vec<Row> {
    let Some(mesh) = &scene.mesh else { return Vec::new() };
    let seen = &mesh.observed;
    vec![
        Row::new(Work::Observed, AGENT, &mesh.client, vip(VIP_HTTP1), &[mesh.agent.pid()]),
        Row::new(Work::Observed, SEEN, &seen.client, (VIP, PORT).into(), &[seen.agent.pid()]),
    ]
}
