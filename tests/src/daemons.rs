//! The rendered manifests on two nodes of a real Kubernetes: agents as DaemonSets in an image of their own, controllers as a
//! Deployment.
//!
//! Nodes of such a cluster share the host, so that each has a DaemonSet of its own with other paths and ports; but for that,
//! objects are what `mesh-agent manifests` prints.

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use mesh_agent::kernel::cgroup::cgroup2_mount;
use mesh_agent::lab::{Finished, Root, Running, eventually};
use serde_json::{Value, json};

use crate::charts::{Objects, by_cli};
use crate::cluster::{self, BY_AND_BY, image, is_ready};
use crate::kube::audit::{Right, granted};
use crate::kube::{Cluster, crd};
use crate::kube_agent::binary_beside;
use crate::{PATIENCE, agent_binary};

/// The namespace of the release.
pub const MESH: &str = "mesh";
const AGENT: &str = "localhost/mesh-agent:v1";
/// Where agents find cgroup2's tree.
const HOST_CGROUP: &str = "/sys/fs/cgroup";

/// Two nodes with what the manifests make on them.
pub struct Daemons {
    /// The cluster.
    pub cluster: Cluster,
    /// From the first object that was applied to the last pod that was ready.
    pub took: Duration,
    names: [String; 2],
    agents: [Value; 2],
}

impl Daemons {
    /// Starts all of it; `None`, with the reason printed, where that can't be.
    ///
    /// # Panics
    /// It doesn't come up.
    pub fn start() -> Option<Self> {
        crate::agent_options()?;
        if let Some(why) = Cluster::missing_nodes() {
            println!("SKIPPED: {why}");
            return None;
        }
        Some(Self::new().unwrap())
    }

    fn new() -> Result<Self> {
        let turn = cluster::take_turn()?;
        let names = ["a", "b"].map(|name| format!("node-{name}-{}", std::process::id()));
        let cluster = Cluster::with_nodes(&names, turn)?;
        thread::scope(|scope| {
            let audit = scope.spawn(|| cluster.audit(&format!("system:serviceaccount:{MESH}:mesh-agent")));
            image(&cluster, AGENT, &agent_binary()?, "/usr/bin/mesh-agent")?;
            image(&cluster, cluster::IMAGE, &binary_beside("kube-peer")?, "/kube-peer")?;
            audit.join().map_err(|_| anyhow!("starting the API server anew panicked"))?
        })?;
        cluster.apply(&[
            crd("security.istio.io", &["v1"], "authorizationpolicies", "AuthorizationPolicy"),
            crd("security.istio.io", &["v1"], "peerauthentications", "PeerAuthentication"),
            crd("gateway.networking.k8s.io", &["v1"], "httproutes", "HTTPRoute"),
        ])?;
        let begun = Instant::now();
        apply(
            &cluster,
            by_cli("mesh-crds", &json!({}))?.map_err(anyhow::Error::msg)?.into_values().collect(),
        )?;
        cluster.kubectl(&["create", "namespace", MESH], "")?;
        let address = address(&cluster)?;
        let all = render(&values(&address, &names[0], 0, "")?)?;
        apply(&cluster, all.into_values().filter(|object| object["kind"] != "DaemonSet").collect())?;
        let ca = eventually(BY_AND_BY, || {
            let pods = pods(&cluster, MESH, "app.kubernetes.io/component=controller")?;
            ensure!(pods.len() == 2 && pods.iter().all(is_ready), "controllers aren't ready");
            Ok(pods[0]["status"]["podIP"].as_str().context("no address")?.to_owned())
        })?;
        let mut agents = [Value::Null, Value::Null];
        for (at, name) in names.iter().enumerate() {
            let objects = render(&values(&address, name, at, &ca)?)?;
            let [config, daemon] = of_node(objects, at)?;
            apply(&cluster, vec![config, daemon.clone()])?;
            agents[at] = daemon;
        }
        let daemons = Self { cluster, took: Duration::ZERO, names, agents };
        for at in 0..2 {
            daemons.wait_agent(&format!("agent-{at}"))?;
        }
        Ok(Self { took: begun.elapsed(), ..daemons })
    }

    /// The nodes' names.
    pub fn names(&self) -> &[String; 2] {
        &self.names
    }

    /// The DaemonSet of a node, under another name: the pod that an update starts beside the one that runs.
    pub fn next(&self, node: usize) -> Value {
        renamed(self.agents[node].clone(), "next")
    }

    /// The one pod of an agent's DaemonSet, ready.
    ///
    /// # Errors
    /// It isn't in time.
    pub fn wait_agent(&self, instance: &str) -> Result<Value> {
        eventually(BY_AND_BY, || {
            let pods = pods(&self.cluster, MESH, &format!("app.kubernetes.io/instance={instance}"))?;
            ensure!(pods.len() == 1 && is_ready(&pods[0]), "{instance} isn't ready: {}", json!(pods));
            Ok(pods[0].clone())
        })
    }

    /// What the chart lets agents ask the API server.
    ///
    /// # Errors
    /// It can't be rendered.
    pub fn granted(&self) -> Result<BTreeSet<Right>> {
        let objects = render(&json!({}))?;
        let rules = |name: &str| objects.get(name).map(|role| granted(&role["rules"])).unwrap_or_default();
        Ok(&rules("ClusterRole /mesh-agent") | &rules(&format!("Role {MESH}/mesh-agent")))
    }

    /// Runs the command line in the agent's pod of a node.
    ///
    /// # Errors
    /// It doesn't end.
    pub fn cli(&self, pod: &Value, args: &[&str]) -> Result<Finished> {
        let name = pod["metadata"]["name"].as_str().context("no name")?;
        let mut command = Command::new("kubectl");
        command.arg("--kubeconfig").arg(self.cluster.kubeconfig());
        command.args(["exec", "-n", MESH, name, "--", "/usr/bin/mesh-agent"]).args(args);
        Running::start(command)?.finish(PATIENCE)
    }

    /// Runs the command line on this machine, with the cluster's kubeconfig.
    ///
    /// # Errors
    /// It doesn't end.
    pub fn cli_here(&self, args: &[&str]) -> Result<Finished> {
        let mut command = Command::new(agent_binary()?);
        command.env("KUBECONFIG", self.cluster.kubeconfig()).args(args);
        Running::start(command)?.finish(PATIENCE * 4)
    }

    /// Runs `kube-peer ARGS` in a pod.
    ///
    /// # Errors
    /// It can't be started.
    pub fn peer(&self, namespace: &str, pod: &str, args: &[&str]) -> Result<Running> {
        let mut command = Command::new("kubectl");
        command.arg("--kubeconfig").arg(self.cluster.kubeconfig());
        command.args(["exec", "-n", namespace, pod, "--", "/kube-peer"]).args(args);
        Running::start(command)
    }
}

/// By kubectl itself: older API servers leave fields out that they don't know only so.
///
/// # Errors
/// The API server refuses one.
pub fn apply(cluster: &Cluster, objects: Vec<Value>) -> Result<()> {
    let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
    cluster.kubectl(&["apply", "--validate=false", "-f", "-"], &list.to_string()).map(drop)
}

/// Pods by a label.
///
/// # Errors
/// The API server can't be asked.
pub fn pods(cluster: &Cluster, namespace: &str, selector: &str) -> Result<Vec<Value>> {
    let list = cluster.kubectl(&["get", "pods", "-n", namespace, "-l", selector, "-o", "json"], "")?;
    let list: Value = serde_json::from_str(&list)?;
    let all = list["items"].as_array().cloned().unwrap_or_default();
    Ok(all.into_iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null()).collect())
}

fn address(cluster: &Cluster) -> Result<(String, String)> {
    let nodes =
        cluster.kubectl(&["get", "nodes", "-o", "jsonpath={.items[0].status.addresses[0].address}"], "")?;
    let config: serde_yaml_ng::Value = serde_yaml_ng::from_str(&fs::read_to_string(cluster.kubeconfig())?)?;
    let server = config["clusters"][0]["cluster"]["server"].as_str().context("no server")?;
    let port = server.rsplit_once(':').context("no port")?.1.to_owned();
    Ok((nodes, port))
}

/// Values of a node's agent, apart from others of this host.
fn values(api: &(String, String), node: &str, at: usize, ca: &str) -> Result<Value> {
    let own = |dir: &Path| -> Result<String> {
        let dir = dir.join(format!("daemon-{at}"));
        fs::create_dir_all(&dir)?;
        Ok(dir.display().to_string())
    };
    let root = Root::get()?;
    let below = cgroup2_mount()?.strip_prefix(HOST_CGROUP)?.join(format!("k8s-{node}"));
    let ca = if ca.is_empty() { String::new() } else { format!("istio:https://{ca}:15012") };
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    Ok(json!({
        "image": {"repository": "localhost/mesh-agent", "tag": "v1", "pullPolicy": "Never"},
        "kubernetesService": {"host": api.0, "port": api.1},
        // The API of these servers is older.
        "trafficPolicyAdmission": {"enabled": false},
        "agentAdmission": {"enabled": false},
        "controller": {"podDisruptionBudget": {"enabled": false}},
        "agent": {
            "ca": ca,
            "metricsPort": port,
            "config": {"cgroup": Path::new("/host/cgroup").join(below), "drainTime": "5s"},
            "hostPaths": {"state": own(root.state())?, "bpffs": own(root.bpffs())?},
            "nodeSelector": {"kubernetes.io/hostname": node},
            "updateStrategy": {"rollingUpdate": {"maxSurge": null, "maxUnavailable": 1}},
        },
    }))
}

fn render(values: &Value) -> Result<Objects> {
    by_cli("mesh-agent", values)?.map_err(anyhow::Error::msg)
}

/// ConfigMap and DaemonSet, under names of the node's own.
fn of_node(mut objects: Objects, at: usize) -> Result<[Value; 2]> {
    let name = format!("mesh-agent-{at}");
    let mut config = objects.remove("ConfigMap mesh/mesh-agent").context("no ConfigMap")?;
    config["metadata"]["name"] = name.clone().into();
    let mut daemon = objects.remove("DaemonSet mesh/mesh-agent").context("no DaemonSet")?;
    for volume in daemon["spec"]["template"]["spec"]["volumes"].as_array_mut().into_iter().flatten() {
        if volume["name"] == "config" {
            volume["configMap"]["name"] = name.clone().into();
        }
    }
    Ok([config, renamed(daemon, &format!("agent-{at}"))])
}

fn renamed(mut daemon: Value, instance: &str) -> Value {
    daemon["metadata"]["name"] = format!("mesh-{instance}").into();
    for labels in ["/spec/selector/matchLabels", "/spec/template/metadata/labels"] {
        if let Some(labels) = daemon.pointer_mut(labels) {
            labels["app.kubernetes.io/instance"] = instance.into();
        }
    }
    daemon
}
