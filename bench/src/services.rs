//! Services that the kernel balances, few and many: what the connect hook takes.
//!
//! In a topology of its own, with the kernel's own statistics of programs on while connections are made.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_agent::lab::{
    Agent, EndpointObject, NamespaceObject, NodeObject, Object, Pod, PodObject, ServiceObject, SliceObject,
    Topology, eventually,
};

use crate::load::{self, Work};
use crate::scene::{HTTP1, serve, start_agent, tune};

/// Services there are at first.
pub const FEW: u16 = 50;
/// Services there are then.
pub const MANY: u16 = 5000;
const ENDPOINTS: u8 = 20;
/// Services in one file.
const TOGETHER: u16 = 100;
const STATISTICS: &str = "/proc/sys/kernel/bpf_stats_enabled";
/// The service that is dialled.
const DIALLED: Ipv4Addr = Ipv4Addr::new(10, 97, 0, 1);
/// How long many services may take to be known, on a machine that is busy.
const KNOWN: Duration = Duration::from_secs(90);

/// Mean run time of the connect hook, nanoseconds.
pub struct Hook {
    /// With [`FEW`] services.
    pub few: f64,
    /// With [`MANY`].
    pub many: f64,
}

/// Builds, measures, and takes it down again.
pub fn measure(agent: &Path, seconds: u32) -> Result<Hook> {
    let topology = Topology::new("services")?;
    let node = topology.node("node-a")?;
    let client = node.pod("client")?;
    let server = topology.outsider("server")?;
    tune(&client)?;
    tune(&server)?;
    let _server = serve(&server)?;
    let base: [Object; 3] = [
        NodeObject::new("node-a").into(),
        NamespaceObject::new("bench").enabled().into(),
        PodObject::of(&client, "bench").into(),
    ];
    topology.mesh().write("base.yaml", base)?;
    let endpoints = SliceObject::new("bench", "dialled", "dialled-1").port("tcp", HTTP1);
    let endpoints = endpoints.endpoint(EndpointObject::address(server.v4()));
    topology.mesh().write("dialled.yaml", [service("dialled", DIALLED), endpoints.into()])?;
    write(&topology, 0..FEW)?;
    let agent = start_agent(&node, agent)?;
    known(&agent, usize::from(FEW) + 1)?;
    let _statistics = Statistics::on()?;
    let few = hook(&agent, &client, seconds, topology.scratch())?;
    write(&topology, FEW..MANY)?;
    known(&agent, usize::from(MANY) + 1)?;
    let many = hook(&agent, &client, seconds, topology.scratch())?;
    Ok(Hook { few, many })
}

fn service(name: &str, vip: Ipv4Addr) -> Object {
    ServiceObject::new("bench", name).vip(vip).port("tcp", 80).app_protocol("tcp").into()
}

fn write(topology: &Topology, numbers: std::ops::Range<u16>) -> Result<()> {
    let numbers: Vec<u16> = numbers.collect();
    for together in numbers.chunks(usize::from(TOGETHER)) {
        let mut objects = Vec::new();
        for number in together {
            let (name, [high, low]) = (format!("service-{number}"), number.to_be_bytes());
            let mut slice = SliceObject::new("bench", &name, &format!("{name}-1")).port("tcp", HTTP1);
            for host in 1..=ENDPOINTS {
                slice = slice.endpoint(EndpointObject::address(Ipv4Addr::new(10, 100 + high, low, host)));
            }
            objects.extend([service(&name, Ipv4Addr::new(10, 98, high, low)), slice.into()]);
        }
        topology.mesh().write(&format!("services-{}.yaml", together[0]), objects)?;
    }
    Ok(())
}

fn known(agent: &Agent, count: usize) -> Result<()> {
    eventually(KNOWN, || {
        let maps = agent.cli_json(&["bpf", "maps"])?;
        let rows = maps.as_array().context("no list")?;
        let services =
            rows.iter().find(|row| row["name"].as_str().is_some_and(|name| name.starts_with("SERVICES")));
        let entries = services.and_then(|row| row["entries"].as_u64()).context("no map")?;
        ensure!(entries == count as u64, "{entries} of {count} services are in the kernel");
        Ok(())
    })
}

/// Mean nanoseconds of connect4 while connections are made.
fn hook(agent: &Agent, client: &Pod, seconds: u32, scratch: &Path) -> Result<f64> {
    let ran = || -> Result<(u64, u64)> {
        let programs = agent.cli_json(&["bpf", "programs"])?;
        let row = programs.as_array().and_then(|rows| rows.iter().find(|row| row["name"] == "connect4"));
        let figure = |key: &str| row.and_then(|row| row[key].as_u64()).context("no statistics of connect4");
        Ok((figure("runTimeNs")?, figure("runCount")?))
    };
    let before = ran()?;
    let answered = load::run(client, Work::Connect, SocketAddr::from((DIALLED, 80)), seconds, scratch)?;
    ensure!(answered.count > 0, "no connection was made, {} failed", answered.errors);
    let after = ran()?;
    Ok((after.0 - before.0) as f64 / (after.1 - before.1).max(1) as f64)
}

/// The kernel's statistics of programs, as long as it lives.
struct Statistics(String);

impl Statistics {
    fn on() -> Result<Self> {
        let before = fs::read_to_string(STATISTICS).context("the kernel has no statistics of programs")?;
        fs::write(STATISTICS, "1")?;
        Ok(Self(before))
    }
}

impl Drop for Statistics {
    fn drop(&mut self) {
        // A bench that can't put it back leaves the machine a little slower, no more.
        let _ = fs::write(STATISTICS, self.0.trim());
    }
}
