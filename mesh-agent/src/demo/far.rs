//! The second node: the vault, a server with an account of its own, behind an agent of its own.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context, Result};

use super::stage::{NAMESPACE, PORT, SERVICE_PORT, Server};
use crate::lab::{Agent, AgentOptions, Node, Object, PodObject, ServiceObject, SliceObject, Topology};

pub(super) struct Far {
    pub(super) agent: Agent,
    pub(super) vault: Server,
    pub(super) vip: SocketAddr,
    _node: Node,
}

impl Far {
    pub(super) fn build(topology: &Topology) -> Result<Self> {
        let node = topology.node("second-node")?;
        let vault = Server::start(node.pod("vault")?, "v1", topology.scratch())?;
        let vip = Ipv4Addr::new(10, 96, 0, 20);
        let pod = PodObject::of(&vault.pod, NAMESPACE).service_account("vault").label("app", "vault");
        let slice = SliceObject::new(NAMESPACE, "vault", "vault-4").port("http", PORT);
        let objects = [
            Object::from(pod),
            ServiceObject::new(NAMESPACE, "vault").vip(vip).port("http", SERVICE_PORT).into(),
            slice.pods(NAMESPACE, [&vault.pod]).into(),
        ];
        topology.mesh().write("vault.yaml", objects)?;
        let own = std::env::current_exe().context("finding this executable")?;
        let agent = node.agent(AgentOptions::new(own))?;
        Ok(Self { agent, vault, vip: SocketAddr::new(vip.into(), SERVICE_PORT), _node: node })
    }
}
