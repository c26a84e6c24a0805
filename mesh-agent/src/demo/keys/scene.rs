//! Does what keys ask for: to objects, to a server, to the first node's agent. Holds the stage, on a thread of its own.

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::Done;
use super::board::{Action, InForce, Order, Split};
use crate::admin::SOCKET_NAME;
use crate::demo::load::{Load, Reader};
use crate::demo::policies::{backend, route};
use crate::demo::security::{security_object, until_certified};
use crate::demo::stage::{NAMESPACE, PART_OF, Server, Stage};
use crate::lab::{Agent, Object, Running, eventually};

/// Milliseconds between web's calls to the vault.
const VAULT_EVERY: u64 = 50;
/// An agent that was replaced ends what is under way, the connections between the nodes included.
const DRAINED: Duration = Duration::from_secs(40);

/// The stage, and what came with keys.
pub(super) struct Scene {
    stage: Stage,
    /// Web's calls to the second node: an edge in mutual TLS from the start.
    vault: Load,
    /// It drains.
    former: Option<Running>,
}

impl Scene {
    pub(super) fn build() -> Result<Self> {
        let stage = Stage::build()?;
        until_certified(&stage)?;
        let vault = Load::start(&stage.web_pod, stage.far.vip, VAULT_EVERY)?;
        Ok(Self { stage, vault, former: None })
    }

    /// What the clients say.
    pub(super) fn readers(&self) -> Vec<Reader> {
        [&self.stage.web, &self.stage.batch, &self.vault].map(Load::reader).into()
    }

    /// The admin sockets, by node.
    pub(super) fn sockets(&self) -> Vec<(String, PathBuf)> {
        let socket = |name: &str, agent: &Agent| (name.to_owned(), agent.state_dir().join(SOCKET_NAME));
        vec![socket("demo-node", &self.stage.agent), socket("second-node", &self.stage.far.agent)]
    }

    /// Carries orders out until no more can come, then clears the stage away.
    pub(super) fn work(mut self, orders: &Receiver<Order>, outcomes: &Sender<Done>) {
        while let Ok(order) = orders.recv() {
            let begin = Instant::now();
            let outcome = self.carry_out(order);
            let done = Done { action: order.action, took: begin.elapsed(), outcome };
            if outcomes.send(done).is_err() {
                return;
            }
        }
    }

    fn carry_out(&mut self, order: Order) -> Result<()> {
        match order.action {
            Action::Split(_) | Action::Deny | Action::Admit => self.stage.put_in_force(objects(order.then)),
            Action::Kill => {
                self.second()?.kill();
                Ok(())
            }
            Action::Start => self.second()?.restart(),
            Action::Encrypt => self.same_node("mtls", "direct"),
            Action::Decrypt => self.same_node("direct", "mtls"),
            Action::Replace => self.replace(),
            Action::Crash => {
                self.retire()?;
                self.stage.agent.restart()
            }
        }
    }

    fn second(&mut self) -> Result<&mut Server> {
        self.stage.servers.get_mut(1).context("no second server")
    }

    /// The setting is read at start, so that another agent takes the place of the one there is.
    fn same_node(&mut self, wanted: &str, now: &str) -> Result<()> {
        self.stage.agent.set_flag("same-node", wanted);
        let outcome = self.replace();
        if outcome.is_err() {
            self.stage.agent.set_flag("same-node", now);
        }
        outcome
    }

    fn replace(&mut self) -> Result<()> {
        self.retire()?;
        self.former = Some(self.stage.agent.upgrade()?);
        Ok(())
    }

    /// Waits for the end of the agent that was replaced before: there are never more than two.
    fn retire(&mut self) -> Result<()> {
        let Some(former) = &mut self.former else { return Ok(()) };
        eventually(DRAINED, || {
            ensure!(former.try_wait().is_some(), "the agent that was replaced before still drains");
            Ok(())
        })?;
        self.former = None;
        Ok(())
    }
}

/// What keys have put in force, as users write it.
fn objects(now: InForce) -> Vec<Object> {
    let mut objects = Vec::new();
    if let Split::By(v1, v2) = now.split {
        let split = json!({"backendRefs": [backend("cart-v1", v1), backend("cart-v2", v2)]});
        objects.push(route().rule(split).into());
    }
    if now.is_denied {
        let batch = format!("cluster.local/ns/{NAMESPACE}/sa/batch");
        let spec = json!({
            "selector": {"matchLabels": {PART_OF.0: PART_OF.1}}, "action": "DENY",
            "rules": [{"from": [{"source": {"principals": [batch]}}]}],
        });
        objects.push(security_object("AuthorizationPolicy", "cart", &spec));
    }
    objects
}
