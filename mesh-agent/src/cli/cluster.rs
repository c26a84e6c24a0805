//! The way to the agents of a cluster: which pods they are, and their admin sockets through the API server.
//!
//! The socket is for the agent's own user, and stays the only door: in the agent's pod, by the `exec` of the Kubernetes API, a hidden
//! command (`pipe`) connects its own input and output to it. Who may do that is for the cluster's RBAC to say (`pods/exec`).

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{AttachParams, AttachedProcess, ListParams};
use kube::{Api, Client};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, join};

use super::client::{self, exchange};
use super::{Exit, Failure};
use crate::kube::{self as server, KubeError};

/// What the chart calls agents.
const AGENTS: &str = "app.kubernetes.io/name=mesh-agent,app.kubernetes.io/component=agent";
/// The agent of the container, whatever its image calls it.
const SELF: &str = "/proc/1/exe";
/// Of what the command says when it fails, at most so much is shown.
const WORDS: u64 = 2048;
/// And of what it answers.
const MOST: u64 = 16 << 20;

/// Which cluster.
#[derive(Clone, Debug)]
pub(super) struct ClusterArgs {
    /// Of the kubeconfig.
    pub context: Option<String>,
    /// Where agents are looked for; None for everywhere.
    pub namespace: Option<String>,
}

/// A pod that is an agent.
pub(super) struct AgentPod {
    /// The node that it serves.
    pub node: String,
    /// Of its first container.
    pub image: String,
    /// How that is started; empty where its image says so.
    pub command: Vec<String>,
    /// Of its cluster.
    pub client: Client,
    namespace: String,
    name: String,
    /// The pod is on its way out: another may be taking its place.
    leaves: bool,
}

impl fmt::Display for AgentPod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Every agent that runs, by node; of two on a node, of which one takes the other's place, the one that stays.
///
/// # Errors
/// There is no cluster, it doesn't answer, or it doesn't say.
pub(super) async fn agents(args: &ClusterArgs) -> Result<Vec<AgentPod>, Failure> {
    let config = server::config_of(args.context.as_deref()).await.map_err(no_client)?;
    let client = server::client(&config).map_err(no_client)?;
    let pods: Api<Pod> = match &args.namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    };
    let agents = ListParams::default().labels(AGENTS);
    let listed = tokio::time::timeout(server::DEADLINE, pods.list(&agents));
    let silent = |_| Failure::message(Exit::Unreachable, "the API server didn't answer in time");
    let listed =
        listed.await.map_err(silent)?.map_err(|error| refused("the agents' pods can't be listed", error))?;
    let mut agents: Vec<_> = listed.items.into_iter().filter_map(|pod| running(pod, &client)).collect();
    agents.sort_by(|a, b| (&a.node, a.leaves, &a.name).cmp(&(&b.node, b.leaves, &b.name)));
    agents.dedup_by(|later, earlier| later.node == earlier.node);
    Ok(agents)
}

/// The agent of one node.
///
/// # Errors
/// As [`agents`], and if there is none.
pub(super) async fn agent_of(node: &str, args: &ClusterArgs) -> Result<AgentPod, Failure> {
    let mut agents = agents(args).await?;
    match agents.iter().position(|agent| agent.node == node) {
        Some(at) => Ok(agents.swap_remove(at)),
        None => Err(none_on(node, args, &agents)),
    }
}

fn none_on(node: &str, args: &ClusterArgs, agents: &[AgentPod]) -> Failure {
    if agents.is_empty() {
        return none_in(args);
    }
    let nodes: Vec<_> = agents.iter().map(|agent| agent.node.as_str()).collect();
    Failure::message(Exit::Unreachable, format!("no agent runs on node {node}"))
        .hint(format!("agents run on {}", nodes.join(", ")))
}

/// What is said of a cluster without agents.
pub(super) fn none_in(args: &ClusterArgs) -> Failure {
    let place =
        args.namespace.as_ref().map_or_else(|| "this cluster".to_owned(), |it| format!("namespace {it}"));
    Failure::message(Exit::Unreachable, format!("no agent runs in {place}"))
        .hint(format!("no running pod there has the labels {AGENTS}: is mesh-agent installed?"))
}

fn running(pod: Pod, client: &Client) -> Option<AgentPod> {
    let spec = pod.spec?;
    let node = spec.node_name?;
    let is_running = pod.status?.phase.as_deref() == Some("Running");
    let container = spec.containers.into_iter().next()?;
    is_running.then_some(AgentPod {
        node,
        image: container.image.unwrap_or_default(),
        command: container.command.unwrap_or_default(),
        client: client.clone(),
        namespace: pod.metadata.namespace?,
        name: pod.metadata.name?,
        leaves: pod.metadata.deletion_timestamp.is_some(),
    })
}

/// One request to the admin socket of `agent`.
///
/// # Errors
/// The command can't be run there, or nobody answers.
pub(super) async fn ask(
    agent: &AgentPod,
    request: Request<Full<Bytes>>,
) -> Result<(StatusCode, Bytes), Failure> {
    let mut process = start(&agent.client, &agent.namespace, &agent.name, &["pipe"], true).await?;
    let (Some(stdin), Some(stdout), stderr) = (process.stdin(), process.stdout(), process.stderr()) else {
        return Err(Failure::message(Exit::Failed, format!("pod {agent} lends neither input nor output")));
    };
    let error = match exchange(join(stdout, stdin), request).await {
        Ok(answer) => return Ok(answer),
        Err(error) => error,
    };
    let error = anyhow::Error::new(error).context(format!("the agent in pod {agent} can't be asked"));
    let failure = Failure::new(Exit::Unreachable, error);
    let words = match stderr {
        Some(stderr) => words(stderr).await,
        None => String::new(),
    };
    Err(if words.is_empty() { failure } else { failure.hint(words) })
}

/// The same, when the head of the answer is there; the process has to outlive that.
///
/// # Errors
/// As [`ask`].
pub(super) async fn begin(
    agent: &AgentPod,
    request: Request<Full<Bytes>>,
) -> Result<(Response<Incoming>, AttachedProcess), Failure> {
    let mut process = start(&agent.client, &agent.namespace, &agent.name, &["pipe"], true).await?;
    let (Some(stdin), Some(stdout)) = (process.stdin(), process.stdout()) else {
        return Err(Failure::message(Exit::Failed, format!("pod {agent} lends neither input nor output")));
    };
    let begun = tokio::time::timeout(server::DEADLINE, client::begin(join(stdout, stdin), request)).await;
    let late =
        |_| Failure::message(Exit::Unreachable, format!("the agent in pod {agent} didn't answer in time"));
    let response = begun.map_err(late)?.map_err(|error| {
        let error = anyhow::Error::new(error).context(format!("the agent in pod {agent} can't be asked"));
        Failure::new(Exit::Unreachable, error)
    })?;
    Ok((response, process))
}

/// A connection to the admin socket of `agent`, for as long as the process is kept.
///
/// # Errors
/// The command can't be run there.
pub(super) async fn open(
    agent: &AgentPod,
) -> Result<(impl AsyncRead + AsyncWrite + Send + Unpin + 'static, AttachedProcess), Failure> {
    let mut process = start(&agent.client, &agent.namespace, &agent.name, &["pipe"], true).await?;
    match (process.stdin(), process.stdout()) {
        (Some(stdin), Some(stdout)) => Ok((join(stdout, stdin), process)),
        _ => Err(Failure::message(Exit::Failed, format!("pod {agent} lends neither input nor output"))),
    }
}

/// What the command line of `agent` prints to standard output, whatever its exit code.
///
/// # Errors
/// It can't be run there, or prints nothing.
pub(super) async fn run(agent: &AgentPod, command: &[&str]) -> Result<String, Failure> {
    run_in(&agent.client, &agent.namespace, &agent.name, command).await
}

/// The same of any pod whose first process is this program.
///
/// # Errors
/// As [`run`].
pub(super) async fn run_in(
    client: &Client,
    namespace: &str,
    pod: &str,
    command: &[&str],
) -> Result<String, Failure> {
    let mut process = start(client, namespace, pod, command, false).await?;
    let (stdout, stderr) = (process.stdout(), process.stderr());
    let mut said = String::new();
    if let Some(stdout) = stdout {
        let mut stdout = stdout.take(MOST);
        let read = stdout.read_to_string(&mut said);
        let late =
            |_| Failure::message(Exit::Unreachable, format!("pod {namespace}/{pod} didn't answer in time"));
        tokio::time::timeout(server::DEADLINE, read).await.map_err(late)??;
    }
    match stderr {
        Some(stderr) if said.is_empty() => Err(Failure::message(Exit::Failed, words(stderr).await)),
        _ => Ok(said),
    }
}

async fn start(
    client: &Client,
    namespace: &str,
    pod: &str,
    command: &[&str],
    stdin: bool,
) -> Result<AttachedProcess, Failure> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let params = AttachParams::default().stdin(stdin).stdout(true).stderr(true).tty(false);
    let command: Vec<&str> = [SELF].into_iter().chain(command.iter().copied()).collect();
    let started = tokio::time::timeout(server::DEADLINE, pods.exec(pod, command, &params));
    let late = |_| {
        Failure::message(Exit::Unreachable, format!("pod {namespace}/{pod} didn't start a command in time"))
    };
    let started = started.await.map_err(late)?;
    started.map_err(|error| refused(&format!("no command can be run in pod {namespace}/{pod}"), error))
}

/// What a process that ends says to standard error.
async fn words(stderr: impl AsyncRead + Unpin) -> String {
    let (mut words, mut stderr) = (String::new(), stderr.take(WORDS));
    let read = stderr.read_to_string(&mut words);
    // What isn't UTF-8 or doesn't come in time isn't shown.
    let _ = tokio::time::timeout(Duration::from_secs(1), read).await;
    words.trim().to_owned()
}

fn no_client(error: KubeError) -> Failure {
    Failure::new(Exit::Failed, error)
}

/// What the API server doesn't do, and why.
pub(super) fn refused(what: &str, error: kube::Error) -> Failure {
    let exit = match server::Failure::of(&error) {
        server::Failure::Forbidden | server::Failure::Unauthorized => Exit::NoPermission,
        server::Failure::Unreachable | server::Failure::Timeout => Exit::Unreachable,
        _ => Exit::Failed,
    };
    Failure::new(exit, anyhow::Error::new(error).context(what.to_owned()))
}
