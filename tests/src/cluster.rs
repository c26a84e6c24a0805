//! Two nodes of a real Kubernetes, each with its agent: pods in them, programs run in those, and what kubelets did by now.
//!
//! Stands on `kube`, which finds, starts and takes down the cluster. Clusters with nodes take turns on a host: kubelets,
//! runtimes and routes of two of them would meet.

use std::fs::{self, File};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_agent::kernel::cgroup::cgroup2_mount;
use mesh_agent::lab::{AgentOptions, Finished, Root, Running, eventually};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::PATIENCE;
use crate::kube::Cluster;
use crate::kube_agent::{KubeAgent, binary_beside};
use crate::pki::MeshAuthority;

/// For what kubelets and controllers do by and by.
pub const BY_AND_BY: Duration = Duration::from_secs(60);
/// For a namespace to go. Kubernetes waits five seconds before it looks at one, asks every kind of object, and looks again later
/// while anything is left; and a kubelet that was busy looks at a pod that has ended only once a minute.
pub const NAMESPACE_GONE: Duration = Duration::from_secs(180);
/// For another cluster to make room.
const TURN: Duration = Duration::from_secs(300);
const TURNS: &str = "/run/mesh-tests-nodes.lock";
/// The image with `kube-peer` in it.
pub const IMAGE: &str = "localhost/kube-peer:1";
/// Where its server listens.
pub const PORT: u16 = 8080;

/// A cluster of two nodes, and their agents.
// Dropped in this order.
pub struct Nodes {
    /// Of the first node and of the second.
    pub agents: [KubeAgent; 2],
    cluster: Cluster,
    names: [String; 2],
}

impl Deref for Nodes {
    type Target = Cluster;
    fn deref(&self) -> &Cluster {
        &self.cluster
    }
}

/// The nodes that this process's tests share, for one of them.
pub struct Turn {
    // Dropped before the nodes: the next test need not wait until they are down.
    _held: Held,
    nodes: Arc<Nodes>,
}

enum Held {
    Beside(#[expect(dead_code, reason = "held")] RwLockReadGuard<'static, ()>),
    Alone(#[expect(dead_code, reason = "held")] RwLockWriteGuard<'static, ()>),
}

impl Deref for Turn {
    type Target = Nodes;
    fn deref(&self) -> &Nodes {
        &self.nodes
    }
}

static UNDISTURBED: RwLock<()> = RwLock::new(());

impl Nodes {
    /// The shared ones for a test that disturbs no other; or `None` with the reason printed.
    ///
    /// # Panics
    /// They don't come up.
    pub fn beside_others() -> Option<Turn> {
        let nodes = Self::shared()?;
        Some(Turn { nodes, _held: Held::Beside(UNDISTURBED.read().unwrap_or_else(PoisonError::into_inner)) })
    }

    /// The shared ones for a test that stops a part of them, so that others have to wait; or `None` with the reason printed.
    ///
    /// # Panics
    /// They don't come up.
    pub fn alone() -> Option<Turn> {
        let nodes = Self::shared()?;
        Some(Turn { nodes, _held: Held::Alone(UNDISTURBED.write().unwrap_or_else(PoisonError::into_inner)) })
    }

    /// Up for as long as a test has them. Those that wait for their turn do: so they stay up from the first test to the last.
    fn shared() -> Option<Arc<Self>> {
        static SHARED: Mutex<Weak<Nodes>> = Mutex::new(Weak::new());
        let options = crate::agent_options()?;
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(nodes) = shared.upgrade() {
            return Some(nodes);
        }
        if let Some(why) = Cluster::missing_nodes() {
            println!("SKIPPED: {why}");
            return None;
        }
        let nodes = Arc::new(Self::start(&options).unwrap());
        *shared = Arc::downgrade(&nodes);
        let (print, agents) = (std::panic::take_hook(), shared.clone());
        std::panic::set_hook(Box::new(move |info| {
            print(info);
            let nodes = agents.upgrade();
            for agent in nodes.iter().flat_map(|nodes| &nodes.agents) {
                eprintln!("the log of {}'s agent ends:\n{}", agent.node(), tail(&agent.log()));
            }
        }));
        Some(nodes)
    }

    /// Some of their own, for whoever isn't a test.
    ///
    /// # Errors
    /// They don't come up.
    pub fn start(options: &AgentOptions) -> Result<Self> {
        let turn = take_turn()?;
        let pid = std::process::id();
        let names = ["a", "b"].map(|name| format!("node-{name}-{pid}"));
        let cluster = Cluster::with_nodes(&names, turn)?;
        image(&cluster, IMAGE, &binary_beside("kube-peer")?, "/kube-peer")?;
        let ca = Root::get()?.state().join("ca");
        MeshAuthority::new(&ca, "kube")?;
        let ca = format!("files:{}", ca.display());
        let agent = |node: &str| {
            let agent = KubeAgent::spawn(&cluster, node, options, &[("ca", &ca)])?;
            agent.wait_ready()?;
            anyhow::Ok(agent)
        };
        let agents = [agent(&names[0])?, agent(&names[1])?];
        Ok(Self { agents, cluster, names })
    }

    /// The nodes' names, in the agents' order.
    pub fn names(&self) -> &[String; 2] {
        &self.names
    }

    /// A namespace of its own, with a label or two.
    pub fn namespace(&self, name: &str, enrolled: bool) -> Result<()> {
        let mode = if enrolled { "enabled" } else { "none" };
        let labels = json!({ "mesh-agent.dev/dataplane-mode": mode });
        let metadata = json!({ "name": name, "labels": labels });
        self.apply(&[json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": metadata })])?;
        // Without it no pod is let in.
        eventually(BY_AND_BY, || self.kubectl(&["get", "serviceaccount", "default", "-n", name], ""))?;
        Ok(())
    }

    /// Waits until `count` pods have the label `app` and all are ready; their objects.
    pub fn wait_ready(&self, namespace: &str, app: &str, count: usize) -> Result<Vec<Value>> {
        eventually(BY_AND_BY, || {
            let pods = self.pods(namespace, app)?;
            ensure!(
                pods.len() == count && pods.iter().all(is_ready),
                "{} of {count}: {}",
                pods.len(),
                states(&pods)
            );
            Ok(pods)
        })
    }

    /// The pods with the label `app`, without those that are being deleted.
    pub fn pods(&self, namespace: &str, app: &str) -> Result<Vec<Value>> {
        let list = self.get(&["pods", "-n", namespace, "-l", &format!("app={app}")])?;
        let pods = list["items"].as_array().cloned().unwrap_or_default();
        Ok(pods.into_iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null()).collect())
    }

    /// `kubectl get ARGS -o json`.
    pub fn get(&self, args: &[&str]) -> Result<Value> {
        let text = self.kubectl(&[&["get"], args, &["-o", "json"]].concat(), "")?;
        serde_json::from_str(&text).with_context(|| format!("no JSON: {text}"))
    }

    /// Runs `kube-peer ARGS` in a pod, however that ends.
    pub fn peer(&self, namespace: &str, pod: &str, args: &[&str]) -> Result<Finished> {
        self.spawn_peer(namespace, pod, args)?.finish(PATIENCE)
    }

    /// The same, beside the test.
    pub fn spawn_peer(&self, namespace: &str, pod: &str, args: &[&str]) -> Result<Running> {
        let mut command = Command::new("kubectl");
        command.arg("--kubeconfig").arg(self.kubeconfig());
        command.args(["exec", "-n", namespace, pod, "--", "/kube-peer"]).args(args);
        Running::start(command)
    }

    /// What a pod is answered at `ADDRESS:PORT`, which has to answer.
    pub fn ask(&self, namespace: &str, pod: &str, address: &str, path: &str) -> Result<String> {
        Ok(self.peer(namespace, pod, &["get", address, path])?.success()?.stdout)
    }

    /// The address of a service's first port.
    pub fn service_address(&self, namespace: &str, name: &str) -> Result<String> {
        let service = self.get(&["service", "-n", namespace, name])?;
        let ip = service["spec"]["clusterIP"].as_str().context("no clusterIP")?;
        Ok(format!("{ip}:{}", service["spec"]["ports"][0]["port"]))
    }

    /// The agent of the node that a pod is on.
    pub fn agent_of(&self, pod: &Value) -> Result<&KubeAgent> {
        let node = pod["spec"]["nodeName"].as_str().context("on no node")?;
        self.agents.iter().find(|agent| agent.node() == node).with_context(|| format!("no agent of {node}"))
    }

    /// Waits until its agent says that a pod is `captured`, `none`, ...
    pub fn wait_capture(&self, pod: &Value, capture: &str) -> Result<()> {
        let (namespace, name) = (text(pod, "namespace"), text(pod, "name"));
        self.agent_of(pod)?.wait_capture(namespace, name, capture, BY_AND_BY)
    }

    /// Sends a signal to one of the cluster's programs, such as `kube-apiserver` or `kubelet-NODE`.
    pub fn signal(&self, program: &str, signal: Signal) -> Result<()> {
        let file = self.dir()?.join("pids").join(program);
        let pid = fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
        Ok(kill(Pid::from_raw(pid.trim().parse()?), signal)?)
    }
}

/// The part of cgroup2 in which a node's pods are.
pub fn cgroup_of(node: &str) -> Result<PathBuf> {
    let cgroup = cgroup2_mount().context("no cgroup2")?.join(format!("k8s-{node}"));
    fs::create_dir_all(&cgroup)?;
    Ok(cgroup)
}

/// A part of an object's metadata.
pub fn text<'v>(object: &'v Value, key: &str) -> &'v str {
    object["metadata"][key].as_str().unwrap_or_default()
}

pub(crate) fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    conditions.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

fn states(pods: &[Value]) -> String {
    let state = |pod: &Value| format!("{} {}", text(pod, "name"), pod["status"]);
    pods.iter().map(state).collect::<Vec<_>>().join("\n")
}

/// Makes an image of one program, at this path in it, and the libraries that it needs, on every node.
pub(crate) fn image(cluster: &Cluster, name: &str, program: &Path, at: &str) -> Result<()> {
    let rootfs = cluster.dir()?.join("rootfs");
    let mut ldd = Command::new("ldd");
    ldd.arg(program);
    let libraries = Running::start(ldd)?.finish(PATIENCE)?.success()?.stdout;
    let libraries = libraries.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from);
    let files = libraries.map(|path| (path.clone(), path)).chain([(program.to_owned(), PathBuf::from(at))]);
    for (from, to) in files {
        let to = rootfs.join(to.strip_prefix("/")?);
        fs::create_dir_all(to.parent().context("no parent")?)?;
        fs::copy(&from, &to).with_context(|| format!("copying {}", from.display()))?;
    }
    cluster.image(name, &rootfs, Path::new(at))?;
    Ok(fs::remove_dir_all(&rootfs)?)
}

fn tail(log: &str) -> &str {
    const LINES: usize = 40;
    let start = log.rmatch_indices('\n').nth(LINES).map_or(0, |(at, _)| at + 1);
    &log[start..]
}

/// A lock for as long as the file is open anywhere.
pub(crate) fn take_turn() -> Result<File> {
    let file = File::create(TURNS)?;
    eventually(TURN, || file.try_lock().context("another cluster with nodes is up"))?;
    Ok(file)
}

/// A Deployment of `kube-peer ARGS`; `with` changes the pods' spec.
pub fn deployment(
    namespace: &str,
    name: &str,
    replicas: usize,
    args: &[&str],
    with: impl FnOnce(&mut Value),
) -> Value {
    let mut spec = pod_spec(args);
    with(&mut spec);
    let labels = json!({ "app": name });
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": { "name": name, "namespace": namespace },
        "spec": {
            "replicas": replicas,
            "selector": { "matchLabels": labels },
            "template": { "metadata": { "labels": labels }, "spec": spec },
        },
    })
}

/// A pod of `kube-peer ARGS`; `with` changes its spec.
pub fn pod(namespace: &str, name: &str, args: &[&str], with: impl FnOnce(&mut Value)) -> Value {
    let mut spec = pod_spec(args);
    with(&mut spec);
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name, "namespace": namespace, "labels": { "app": name } },
        "spec": spec,
    })
}

fn pod_spec(args: &[&str]) -> Value {
    json!({
        "automountServiceAccountToken": false,
        "terminationGracePeriodSeconds": 0,
        "containers": [container("peer", args)],
    })
}

/// A container of `kube-peer ARGS`.
pub fn container(name: &str, args: &[&str]) -> Value {
    let command = [&["/kube-peer"], args].concat();
    json!({ "name": name, "image": IMAGE, "imagePullPolicy": "Never", "command": command })
}

/// A service of the pods with label `app`, port 80.
pub fn service(namespace: &str, app: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": app, "namespace": namespace },
        "spec": {
            "selector": { "app": app },
            "ports": [{ "name": "http", "port": 80, "targetPort": PORT, "protocol": "TCP" }],
        },
    })
}
