//! Arguments that every command to a running agent has, and `drain`.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::client::{Client, Door};
use super::cluster::{self, ClusterArgs};
use super::output::Out;
use super::{Exit, Failure, Outcome};
use crate::admin::SOCKET_NAME;

/// Where an agent is unless told otherwise.
const STATE_DIR: &str = "/run/mesh-agent";

/// Which agent.
#[derive(Clone, Debug, clap::Args)]
pub struct AgentArgs {
    /// State directory of the agent to ask
    #[arg(long, env = "MESH_AGENT_STATE_DIR", default_value = STATE_DIR, value_name = "DIR")]
    pub state_dir: PathBuf,
    /// Ask the agent of this node of a cluster, through the API server
    #[arg(long, value_name = "NODE", conflicts_with = "all_nodes")]
    pub node: Option<String>,
    /// Ask the agent of each node of a cluster, through the API server
    #[arg(long)]
    pub all_nodes: bool,
    /// Context of the kubeconfig, if not its current one
    #[arg(long, value_name = "CONTEXT")]
    pub context: Option<String>,
    /// Namespace that the cluster's agents run in, if they may not be looked for in all
    #[arg(long, env = "MESH_AGENT_NAMESPACE", value_name = "NAMESPACE")]
    pub agent_namespace: Option<String>,
}

impl AgentArgs {
    /// The agent of this machine, where it is unless told otherwise.
    pub(super) fn here() -> Self {
        Self {
            state_dir: STATE_DIR.into(),
            node: None,
            all_nodes: false,
            context: None,
            agent_namespace: None,
        }
    }

    pub(super) fn client(&self) -> Result<Client, Failure> {
        Client::new(self.door()?)
    }

    /// The way to its admin socket.
    pub(super) fn door(&self) -> Result<Door, Failure> {
        match &self.node {
            None if self.context.is_some() => Err(Failure::message(Exit::Usage, "--context is of a cluster")
                .hint("say --node NODE or --all-nodes with it")),
            None => Ok(Door::Socket(self.state_dir.join(SOCKET_NAME))),
            Some(node) => Ok(Door::Node(node.clone(), self.cluster())),
        }
    }

    /// The agents that are asked, each with the name of its node where several are.
    pub(super) fn clients(&self) -> Result<Vec<(String, Client)>, Failure> {
        if !self.all_nodes {
            return Ok(vec![(String::new(), self.client()?)]);
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let agents = runtime.block_on(cluster::agents(&self.cluster()))?;
        drop(runtime);
        if agents.is_empty() {
            return Err(cluster::none_in(&self.cluster()));
        }
        let client = |agent: cluster::AgentPod| {
            Ok((agent.node.clone(), Client::new(Door::Node(agent.node, self.cluster()))?))
        };
        agents.into_iter().map(client).collect()
    }

    /// What another command has to be told to ask the same agent.
    pub(super) fn words(&self) -> Vec<String> {
        let state_dir = self.state_dir.display().to_string();
        let named = [
            ("--node", self.node.as_ref()),
            ("--context", self.context.as_ref()),
            ("--agent-namespace", self.agent_namespace.as_ref().filter(|_| self.node.is_some())),
            ("--state-dir", Some(&state_dir).filter(|dir| self.node.is_none() && *dir != STATE_DIR)),
        ];
        let said = named.into_iter().filter_map(|(flag, value)| Some([flag.to_owned(), value?.clone()]));
        said.flatten().collect()
    }

    /// What this command line says when the agent of `--node` runs it.
    pub(super) fn run_there(&self, command: &[&str]) -> Result<String, Failure> {
        let node = self.node.as_deref().unwrap_or_default();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let agent = cluster::agent_of(node, &self.cluster()).await?;
            cluster::run(&agent, command).await
        })
    }

    /// Which cluster, and where its agents are.
    pub(super) fn cluster(&self) -> ClusterArgs {
        ClusterArgs { context: self.context.clone(), namespace: self.agent_namespace.clone() }
    }
}

#[derive(Clone, Debug, clap::Args)]
pub(super) struct DrainArgs {
    #[command(flatten)]
    agent: AgentArgs,
    /// Return only when the agent has ended
    #[arg(long)]
    wait: bool,
    /// Give up waiting after this many seconds
    #[arg(long, default_value_t = 60, requires = "wait", value_name = "SECONDS")]
    timeout: u64,
}

pub(super) fn drain(args: &DrainArgs, out: &mut Out<'_>) -> Outcome {
    let client = args.agent.client()?;
    let _: serde_json::Value = client.post("/v1/drain")?;
    out.note("draining: no new connections are taken, open ones may finish")?;
    let deadline = Instant::now() + Duration::from_secs(args.timeout);
    while args.wait && client.reachable()? {
        if Instant::now() > deadline {
            return Err(Failure::message(Exit::Failed, "the agent still runs")
                .hint("`mesh-agent get connections` shows what it waits for"));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_command_is_told_no_more_than_it_needs() {
        let mut args = AgentArgs {
            state_dir: STATE_DIR.into(),
            node: None,
            all_nodes: false,
            context: None,
            agent_namespace: Some("mesh".into()),
        };
        assert_eq!(args.words(), Vec::<String>::new());
        args.state_dir = "/tmp/a b".into();
        assert_eq!(args.words(), ["--state-dir", "/tmp/a b"]);
        args.node = Some("worker-2".into());
        args.context = Some("staging".into());
        let there = ["--node", "worker-2", "--context", "staging", "--agent-namespace", "mesh"];
        assert_eq!(args.words(), there);
    }
}
