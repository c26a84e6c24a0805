//! What a change of configuration costs: many services, one endpoint of one of them changing 10 times a second.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use mesh_agent::lab::{
    EndpointObject, NamespaceObject, NodeObject, Object, Pod, PodObject, ServiceObject, SliceObject, Topology,
};

use crate::cpu;
use crate::load::{CLIENT_CORE, after};
use crate::scene::{HTTP1, serve, start_agent, tune};

/// How much there is besides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scale {
    pub services: u16,
    /// Of each.
    pub endpoints: u8,
}

/// The usual size.
pub const USUAL: Scale = Scale { services: 1000, endpoints: 10 };
/// A large cluster.
pub const LARGE: Scale = Scale { services: 5000, endpoints: 20 };

/// Endpoints of the service that changes.
const ENDPOINTS: u8 = 10;
/// Milliseconds between changes.
pub const INTERVAL: u64 = 100;
/// The service that changes; its endpoints are real.
const CHANGING: &str = "changing";
const VIP: Ipv4Addr = Ipv4Addr::new(10, 97, 0, 1);

/// Figures of the agent under change.
pub struct Changes {
    pub scale: Scale,
    pub changes: u64,
    /// From before the rename of the file to an answer of the new endpoint.
    pub p50_micros: f64,
    pub p99_micros: f64,
    pub max_micros: f64,
    /// Share of one core while nobody asks.
    pub core: f64,
    /// Seconds from start to `ready` with all services.
    pub start_seconds: f64,
    pub resident: u64,
}

/// Builds a topology of its own and measures `changes` changes, twice: asked for and not.
pub fn measure(agent: &Path, changes: usize, scale: Scale) -> Result<Changes> {
    let topology = Topology::new("changes")?;
    let node = topology.node("node-a")?;
    let client = node.pod("client")?;
    let server = topology.outsider("server")?;
    tune(&client)?;
    let addresses: Vec<Ipv4Addr> = (1..=ENDPOINTS + 1).map(|host| Ipv4Addr::new(10, 77, 250, host)).collect();
    for address in &addresses {
        server.netns().ip(&format!("addr add {address}/16 dev eth0\n"))?;
    }
    let _server = serve(&server)?;
    write_services(&topology, &client, &addresses, scale)?;
    let begin = Instant::now();
    let agent = start_agent(&node, agent)?;
    let start_seconds = begin.elapsed().as_secs_f64();
    let watched = change(&topology, &client, &addresses, changes, true)?;
    let value = |name: &str| after(&watched, name).with_context(|| format!("no {name} in: {watched}"));
    let before = cpu::of_processes(&[agent.pid()])?;
    let begin = Instant::now();
    change(&topology, &client, &addresses, changes, false)?;
    let busy = cpu::of_processes(&[agent.pid()])? - before;
    Ok(Changes {
        scale,
        changes: value("done")? as u64,
        p50_micros: value("p50")?,
        p99_micros: value("p99")?,
        max_micros: value("max")?,
        core: busy as f64 / begin.elapsed().as_micros() as f64,
        start_seconds,
        resident: cpu::resident(&[agent.pid()])?,
    })
}

fn write_services(topology: &Topology, client: &Pod, addresses: &[Ipv4Addr], scale: Scale) -> Result<()> {
    let mesh = topology.mesh();
    let base: [Object; 3] = [
        NodeObject::new("node-a").into(),
        NamespaceObject::new("bench").enabled().into(),
        PodObject::of(client, "bench").into(),
    ];
    mesh.write("base.yaml", base)?;
    for number in 0..scale.services {
        let name = format!("service-{number}");
        let [high, low] = number.to_be_bytes();
        let mut slice = SliceObject::new("bench", &name, &format!("{name}-1")).port("http", HTTP1);
        for host in 0..scale.endpoints {
            slice = slice.endpoint(EndpointObject::address(Ipv4Addr::new(10, 100 + high, low, host + 1)));
        }
        let vip = Ipv4Addr::new(10, 98, high, low);
        let service = ServiceObject::new("bench", &name).vip(vip).port("http", HTTP1).app_protocol("http");
        mesh.write(&format!("{name}.yaml"), [Object::from(service), Object::from(slice)])?;
    }
    // In turn, so that a new endpoint is asked within ten requests and the time is the agent's, not chance's.
    let service = ServiceObject::new("bench", CHANGING).vip(VIP).port("http", HTTP1).app_protocol("http");
    mesh.write("changing.yaml", [service.load_balancer("ROUND_ROBIN").into()])?;
    let mut slice = SliceObject::new("bench", CHANGING, &format!("{CHANGING}-1")).port("http", HTTP1);
    for address in &addresses[..usize::from(ENDPOINTS)] {
        slice = slice.endpoint(EndpointObject::address(*address));
    }
    mesh.write("changing-slice.yaml", [slice.into()])?;
    Ok(())
}

fn change(
    topology: &Topology,
    client: &Pod,
    addresses: &[Ipv4Addr],
    changes: usize,
    watched: bool,
) -> Result<String> {
    let file = topology.mesh().path().join("changing-slice.yaml");
    fs::metadata(&file)?;
    let to = SocketAddr::from((VIP, HTTP1)).to_string();
    let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    let own = std::env::current_exe()?;
    let mut command =
        client.command("taskset").args(["-c", CLIENT_CORE]).arg(own).args(["change", &to, "--file"]);
    command = command.arg(&file).args(["--service", CHANGING, "--addresses", &addresses.join(",")]);
    command = command.args(["--changes", &changes.to_string(), "--interval", &INTERVAL.to_string()]);
    if !watched {
        command = command.arg("--unwatched");
    }
    let deadline = Duration::from_millis(INTERVAL) * u32::try_from(changes)? + Duration::from_secs(20);
    Ok(command.run(deadline)?.success()?.stdout)
}
