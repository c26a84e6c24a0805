//! The scene: one node, two clients of different fail mode, a service with three endpoints of two versions, a server
//! that is in no mesh, and the node's agent. A second node has the vault, in `far`.

use std::fs;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use super::far::Far;
use super::load::Load;
use crate::lab::{
    Agent, AgentOptions, MetricsText, NamespaceObject, Node, Object, Pod, PodObject, Running, ServiceObject,
    SliceObject, Topology, Wire, eventually,
};

/// Where everything is.
pub(super) const NAMESPACE: &str = "shop";
/// The services' port.
pub(super) const SERVICE_PORT: u16 = 80;
pub(super) const PORT: u16 = 8080;
/// The file of the objects that phases put in force.
const POLICIES: &str = "policies.yaml";
/// The same of those about the vault.
const GUARDS: &str = "guards.yaml";
/// What endpoints of the cart have in common.
pub(super) const PART_OF: (&str, &str) = ("app.kubernetes.io/name", "cart");
const START: Duration = Duration::from_secs(10);

/// Milliseconds between a client's requests.
pub(super) const EVERY: u64 = 10;

pub(super) struct Stage {
    pub(super) agent: Agent,
    pub(super) web: Load,
    pub(super) batch: Load,
    pub(super) servers: Vec<Server>,
    pub(super) outside: Server,
    pub(super) web_pod: Pod,
    pub(super) batch_pod: Pod,
    pub(super) vip: SocketAddr,
    pub(super) far: Far,
    _node: Node,
    topology: Topology,
}

/// A server in a pod.
pub(super) struct Server {
    pub(super) pod: Pod,
    version: &'static str,
    /// It answers 503 while this file is there.
    switch: PathBuf,
    running: Running,
}

impl Server {
    pub(super) fn start(pod: Pod, version: &'static str, scratch: &Path) -> Result<Self> {
        let switch = scratch.join(format!("{}-fails", pod.name()));
        let running = launch(&pod, version, &switch)?;
        Ok(Self { pod, version, switch, running })
    }

    /// SIGKILL, as when it is out of memory.
    pub(super) fn kill(&mut self) {
        self.running.kill();
    }

    /// Starts it again.
    pub(super) fn restart(&mut self) -> Result<()> {
        self.running = launch(&self.pod, self.version, &self.switch)?;
        Ok(())
    }

    /// From now on it answers 503 to everything.
    pub(super) fn fail(&self) -> Result<()> {
        fs::write(&self.switch, "").with_context(|| format!("writing {}", self.switch.display()))
    }

    /// From now on it serves again.
    pub(super) fn recover(&self) -> Result<()> {
        match fs::remove_file(&self.switch) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).with_context(|| format!("removing {}", self.switch.display()))
            }
            _ => Ok(()),
        }
    }

    /// How many requests it answered with 503 since it was started.
    pub(super) fn refused(&self) -> u64 {
        self.running.stdout().lines().filter(|line| *line == "refused").count() as u64
    }

    /// Its own address.
    pub(super) fn address(&self) -> SocketAddr {
        SocketAddr::new(self.pod.v4().into(), PORT)
    }
}

fn launch(pod: &Pod, version: &str, switch: &Path) -> Result<Running> {
    let own = std::env::current_exe().context("finding this executable")?;
    let command = pod.command(own).arg("demo-server").args(["--name", pod.name(), "--release", version]);
    let command = command.args(["--port", &PORT.to_string(), "--fails-while"]).arg(switch);
    let mut running = command.start()?;
    running.wait_for_line("listening", START)?;
    Ok(running)
}

impl Stage {
    pub(super) fn build() -> Result<Self> {
        let topology = Topology::new("demo")?;
        let node = topology.node("demo-node")?;
        let (web, batch) = (node.pod("web")?, node.pod("batch")?);
        let mut servers = Vec::new();
        for (name, version) in [("cart-1", "v1"), ("cart-2", "v1"), ("cart-3", "v2")] {
            servers.push(Server::start(node.pod(name)?, version, topology.scratch())?);
        }
        let outside = Server::start(topology.outsider("outside")?, "none", topology.scratch())?;
        let vip = SocketAddr::new(Ipv4Addr::new(10, 96, 0, 10).into(), SERVICE_PORT);
        topology.mesh().write("demo.yaml", objects(&web, &batch, &servers))?;
        let far = Far::build(&topology)?;
        let own = std::env::current_exe().context("finding this executable")?;
        let agent = node.agent(AgentOptions::new(own))?;
        let (web_load, batch_load) = (Load::start(&web, vip, EVERY)?, Load::start(&batch, vip, EVERY)?);
        Ok(Self {
            agent,
            web: web_load,
            batch: batch_load,
            servers,
            outside,
            web_pod: web,
            batch_pod: batch,
            vip,
            far,
            _node: node,
            topology,
        })
    }

    /// Starts `web`'s client again, if a phase ended it.
    pub(super) fn resume_clients(&mut self) -> Result<()> {
        self.web = Load::start(&self.web_pod, self.vip, EVERY)?;
        Ok(())
    }

    /// Puts these objects in force, in place of those before, and waits until they are.
    pub(super) fn put_in_force(&self, objects: Vec<Object>) -> Result<()> {
        put_in_force(&self.topology, POLICIES, objects, &self.agent)
    }

    /// The same with those that say who may call the vault.
    pub(super) fn guard(&self, objects: Vec<Object>) -> Result<()> {
        put_in_force(&self.topology, GUARDS, objects, &self.far.agent)
    }

    /// Somebody who listens between the pods.
    pub(super) fn listen(&self) -> Result<Wire> {
        Wire::listen(&self.topology)
    }

    /// Forgets what clients saw until now.
    pub(super) fn skip(&mut self) {
        self.web.skip();
        self.batch.skip();
    }

    /// Every counter of kernel decisions.
    pub(super) fn reasons(&self) -> Result<MetricsText> {
        self.agent.metrics()
    }
}

fn put_in_force(topology: &Topology, file: &str, objects: Vec<Object>, agent: &Agent) -> Result<()> {
    let generation = || -> Result<f64> { Ok(agent.metrics()?.sum("mesh_agent_config_generation", &[])) };
    let before = generation()?;
    topology.mesh().write(file, objects)?;
    eventually(START, || {
        anyhow::ensure!(generation()? > before, "the agent took no notice of {file}");
        Ok(())
    })?;
    let warnings = agent.metrics()?.sum("mesh_agent_config_warnings", &[]);
    anyhow::ensure!(warnings == 0.0, "the agent warns about {file}: {}", agent.log());
    Ok(())
}

fn objects(web: &Pod, batch: &Pod, servers: &[Server]) -> Vec<Object> {
    let mut objects = vec![Object::from(NamespaceObject::new(NAMESPACE).enabled())];
    let pod = |pod: &Pod, account: &str, version: &str| {
        PodObject::of(pod, NAMESPACE).service_account(account).label("version", version)
    };
    objects.push(pod(web, "web", "v1").fail_mode("closed").into());
    objects.push(pod(batch, "batch", "v1").fail_mode("open").into());
    for server in servers {
        // Each is a workload of its own, by its label `app`, so that edges tell them apart.
        let object = pod(&server.pod, "cart", server.version).label(PART_OF.0, PART_OF.1);
        objects.push(object.fail_mode("open").into());
    }
    // The whole cart, and for canaries each of its versions.
    for (name, last, version) in
        [("cart", 10, None), ("cart-v1", 11, Some("v1")), ("cart-v2", 12, Some("v2"))]
    {
        let vip = Ipv4Addr::new(10, 96, 0, last);
        objects.push(ServiceObject::new(NAMESPACE, name).vip(vip).port("http", SERVICE_PORT).into());
        let members = servers.iter().filter(|server| version.is_none_or(|version| server.version == version));
        let slice = SliceObject::new(NAMESPACE, name, &format!("{name}-4")).port("http", PORT);
        objects.push(slice.pods(NAMESPACE, members.map(|server| &server.pod)).into());
    }
    objects
}
