//! The agents that a live command asks: one, or that of each node.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::de::DeserializeOwned;

use crate::cli::client::{Client, Door};
use crate::cli::output::Out;
use crate::cli::{AgentArgs, Failure, cluster};

/// Agents, and those of them that didn't answer.
pub(in crate::cli) struct Fleet {
    clients: Vec<(String, Client)>,
    missing: RefCell<BTreeMap<String, String>>,
}

impl Fleet {
    /// # Errors
    /// With `--all-nodes`: the cluster doesn't say which there are, or there is none.
    pub(in crate::cli) fn of(args: &AgentArgs) -> Result<Self, Failure> {
        let clients = if args.all_nodes {
            let of = args.cluster();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let agents = runtime.block_on(cluster::agents(&of))?;
            if agents.is_empty() {
                return Err(cluster::none_in(&of));
            }
            let client = |node: String| Ok((node.clone(), Client::new(Door::Node(node, of.clone()))?));
            agents.into_iter().map(|agent| client(agent.node)).collect::<Result<_, Failure>>()?
        } else {
            vec![(args.node.clone().unwrap_or_default(), args.client()?)]
        };
        Ok(Self { clients, missing: RefCell::default() })
    }

    /// Those behind these admin sockets, by node.
    pub(in crate::cli) fn on_this_machine(agents: &[(String, PathBuf)]) -> Result<Self, Failure> {
        let client = |(node, socket): &(String, PathBuf)| {
            Ok((node.clone(), Client::new(Door::Socket(socket.clone()))?))
        };
        let clients = agents.iter().map(client).collect::<Result<_, Failure>>()?;
        Ok(Self { clients, missing: RefCell::default() })
    }

    /// What each of them answers. One that doesn't is left out and remembered.
    ///
    /// # Errors
    /// None answers: what the first of them failed with.
    pub(in crate::cli) fn get<T: DeserializeOwned>(&self, path: &str) -> Result<Vec<T>, Failure> {
        let (mut answers, mut failure) = (Vec::new(), None);
        let mut missing = self.missing.borrow_mut();
        missing.clear();
        for (node, client) in &self.clients {
            match client.get(path) {
                Ok(answer) => answers.push(answer),
                Err(error) => {
                    missing.insert(node.clone(), error.to_string());
                    failure.get_or_insert(error);
                }
            }
        }
        match failure {
            Some(failure) if answers.is_empty() => Err(failure),
            _ => Ok(answers),
        }
    }

    /// What the first that answers says: of what all of them know.
    pub(in crate::cli) fn any<T: DeserializeOwned>(&self, path: &str) -> Result<Option<T>, Failure> {
        let mut failure = None;
        for (_, client) in &self.clients {
            match client.get(path) {
                Ok(answer) => return Ok(Some(answer)),
                Err(error) => drop(failure.get_or_insert(error)),
            }
        }
        failure.map_or(Ok(None), Err)
    }

    /// Tells of those that didn't answer last time: their part of the figures is missing.
    pub(in crate::cli) fn note(&self, out: &mut Out<'_>) -> Result<(), Failure> {
        for (node, why) in &*self.missing.borrow() {
            out.note(&format!("warning: without the figures of node {node}: {why}"))?;
        }
        Ok(())
    }
}
