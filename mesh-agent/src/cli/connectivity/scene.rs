//! The pods of a test, and what is asked of them: a client, servers on as many nodes as there are agents on, one that a route leads
//! to, and a stranger outside of the mesh.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
use kube::api::{DeleteParams, DynamicObject, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::cli::cluster::{self, ClusterArgs};
use crate::cli::{Exit, Failure};

/// Where servers listen.
pub(super) const PORT: u16 = 8080;
/// As many servers as tell a service from a pod.
const MOST_SERVERS: usize = 2;
/// For images to be pulled and pods to start.
const START: Duration = Duration::from_secs(180);
/// For what was changed to be in force.
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(250);
/// What the agent writes on a pod that it captures.
const CAPTURED: &str = "ambient.istio.io/redirection";

/// Everything that was made.
pub(super) struct Scene {
    pub servers: Vec<Server>,
    client: Client,
    namespace: String,
    runtime: Runtime,
}

/// A pod that answers with its name and its client's address.
pub(super) struct Server {
    pub name: String,
    pub ip: IpAddr,
}

/// This program in an image.
struct Program {
    image: String,
    /// Empty where the image's own entry point is it.
    command: Vec<String>,
}

/// What a client was answered.
pub(super) enum Answer {
    /// 200.
    Ok {
        /// Who answered.
        name: String,
        /// Whom it takes for its client.
        peer: IpAddr,
    },
    /// A status, or an error's name.
    Failed(String),
}

impl Scene {
    /// Makes it, and waits until every pod is ready.
    pub fn make(args: &ClusterArgs, namespace: &str, image: Option<&str>) -> Result<Self, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let agents = runtime.block_on(cluster::agents(args))?;
        let Some(first) = agents.first() else { return Err(cluster::none_in(args)) };
        let image = image.map_or_else(|| first.image.clone(), str::to_owned);
        let program = Program { image, command: first.command.clone() };
        let nodes: Vec<String> = agents.iter().take(MOST_SERVERS).map(|agent| agent.node.clone()).collect();
        let client = first.client.clone();
        let mut scene = Self { servers: Vec::new(), client, namespace: namespace.to_owned(), runtime };
        scene.make_namespace()?;
        if let Err(error) = scene.fill(&nodes, &program) {
            // What is there already isn't left behind; that it isn't deleted adds nothing to the first failure.
            let _ = scene.delete();
            return Err(Failure::of(error));
        }
        Ok(scene)
    }

    /// Takes the namespace and all that is in it away.
    pub fn delete(&self) -> Result<(), Failure> {
        let namespaces = Api::<Namespace>::all(self.client.clone());
        let deleted = self.runtime.block_on(namespaces.delete(&self.namespace, &DeleteParams::background()));
        let what = format!("namespace {} can't be deleted: delete it by hand", self.namespace);
        deleted.map(drop).map_err(|error| cluster::refused(&what, error))
    }

    /// Pods that the mesh is to have.
    pub fn enrolled(&self) -> impl Iterator<Item = &str> {
        ["client", "other"].into_iter().chain(self.servers.iter().map(|server| &*server.name))
    }

    /// Tries until it holds, or time is over.
    pub fn until<T>(&self, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
        wait(PATIENCE, &mut attempt)
    }

    /// True if the agent of its node says so.
    pub fn is_captured(&self, pod: &str) -> Result<bool> {
        let annotations = self.pod(pod)?.metadata.annotations.unwrap_or_default();
        Ok(annotations.get(CAPTURED).is_some_and(|value| value == "enabled"))
    }

    /// Where a pod is.
    pub fn address_of(&self, pod: &str) -> Result<IpAddr> {
        let ip = self.pod(pod)?.status.and_then(|status| status.pod_ip);
        ip.with_context(|| format!("pod {pod} has no address yet"))?.parse().context("an address")
    }

    /// A Service's address.
    pub fn vip(&self, service: &str) -> Result<IpAddr> {
        let services = Api::<Service>::namespaced(self.client.clone(), &self.namespace);
        let found = self.runtime.block_on(services.get(service))?;
        let ip = found.spec.and_then(|spec| spec.cluster_ip);
        ip.with_context(|| format!("Service {service} has no address"))?.parse().context("an address")
    }

    /// One request, sent by a process in that pod.
    pub fn ask(&self, from: &str, to: IpAddr, port: u16, path: &str) -> Result<Answer> {
        let to = std::net::SocketAddr::new(to, port).to_string();
        let command = ["demo-client", "--to", &to, "--path", path, "--every", "0", "--count", "1"];
        let asked = cluster::run_in(&self.client, &self.namespace, from, &command);
        let said = self.runtime.block_on(asked).map_err(|failure| anyhow!("{failure}"))?;
        let words: Vec<&str> = said.split_whitespace().collect();
        Ok(match words[..] {
            ["ok", name, _, peer, ..] => {
                Answer::Ok { name: name.to_owned(), peer: peer.parse().context("the client's address")? }
            }
            ["fail", what, ..] => Answer::Failed(what.to_owned()),
            _ => bail!("the client in pod {from} said {said:?}"),
        })
    }

    /// An object of Istio's security API that is there until it is dropped; None if the cluster doesn't know the kind.
    pub fn security(&self, kind: &str, spec: &Value) -> Result<Option<Made<'_>>> {
        self.policy("security.istio.io/v1", kind, spec)
    }

    /// An HTTPRoute that leads from one Service to another; likewise.
    pub fn route(&self, from: &str, to: &str) -> Result<Option<Made<'_>>> {
        let parent = json!({"group": "", "kind": "Service", "name": from, "port": PORT});
        let rules = json!([{"backendRefs": [{"name": to, "port": PORT}]}]);
        let spec = json!({"parentRefs": [parent], "rules": rules});
        self.policy("gateway.networking.k8s.io/v1", "HTTPRoute", &spec)
    }

    fn policy(&self, api: &str, kind: &str, spec: &Value) -> Result<Option<Made<'_>>> {
        let object = json!({"apiVersion": api, "kind": kind, "metadata": {"name": "test"}, "spec": spec});
        match self.create(object) {
            Ok(()) => Ok(Some(Made { scene: self, api: api.to_owned(), kind: kind.to_owned() })),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
            Err(error) => Err(anyhow::Error::new(error).context(format!("making a {kind}"))),
        }
    }

    fn make_namespace(&self) -> Result<(), Failure> {
        let labels = json!({"mesh-agent.dev/dataplane-mode": "enabled"});
        let object = json!({"metadata": {"name": self.namespace, "labels": labels}});
        let namespace: Namespace = serde_json::from_value(object)?;
        let namespaces = Api::<Namespace>::all(self.client.clone());
        let made = self.runtime.block_on(namespaces.create(&PostParams::default(), &namespace));
        made.map(drop).map_err(|error| match error {
            kube::Error::Api(status) if status.code == 409 => {
                Failure::message(Exit::Failed, format!("there is a namespace {} already", self.namespace))
                    .hint("delete it, or name another with --namespace")
            }
            error => cluster::refused(&format!("namespace {} can't be made", self.namespace), error),
        })
    }

    fn fill(&mut self, nodes: &[String], program: &Program) -> Result<()> {
        let names: Vec<String> = (0..nodes.len()).map(|at| format!("server-{at}")).collect();
        for account in ["client", "server"] {
            let metadata = json!({"name": account});
            self.create(json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata}))?;
        }
        for (name, node) in names.iter().zip(nodes) {
            self.create(pod(name, "echo", "server", node, program, "enabled"))?;
        }
        self.create(pod("client", "client", "client", &nodes[0], program, "enabled"))?;
        self.create(pod("other", "other", "server", nodes.last().unwrap_or(&nodes[0]), program, "enabled"))?;
        self.create(pod("stranger", "stranger", "client", &nodes[0], program, "none"))?;
        for app in ["echo", "other"] {
            let ports = json!([{"name": "http", "port": PORT}]);
            let spec = json!({"selector": {"app": app}, "ports": ports});
            self.create(
                json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": app}, "spec": spec}),
            )?;
        }
        for name in ["client", "other", "stranger"].into_iter().chain(names.iter().map(|name| &**name)) {
            wait(START, &mut || self.is_ready(name))?;
        }
        let servers = names.into_iter().map(|name| Ok(Server { ip: self.address_of(&name)?, name }));
        self.servers = servers.collect::<Result<_>>()?;
        Ok(())
    }

    fn is_ready(&self, name: &str) -> Result<()> {
        let status = self.pod(name)?.status.unwrap_or_default();
        let conditions = status.conditions.unwrap_or_default();
        if conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True") {
            return Ok(());
        }
        let waits =
            status.container_statuses.unwrap_or_default().into_iter().find_map(|it| it.state?.waiting);
        let why = waits.and_then(|waiting| waiting.message.or(waiting.reason)).unwrap_or_default();
        bail!("pod {name} doesn't get ready: {} {why}", status.phase.unwrap_or_default())
    }

    fn pod(&self, name: &str) -> Result<Pod> {
        let pods = Api::<Pod>::namespaced(self.client.clone(), &self.namespace);
        self.runtime.block_on(pods.get(name)).with_context(|| format!("asking for pod {name}"))
    }

    fn create(&self, object: Value) -> Result<(), kube::Error> {
        let object: DynamicObject = serde_json::from_value(object).map_err(kube::Error::SerdeError)?;
        let types = object.types.clone().unwrap_or_default();
        let api = self.api(&types.api_version, &types.kind);
        self.runtime.block_on(api.create(&PostParams::default(), &object)).map(drop)
    }

    fn api(&self, version: &str, kind: &str) -> Api<DynamicObject> {
        let (group, version) = version.rsplit_once('/').unwrap_or(("", version));
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
        Api::namespaced_with(self.client.clone(), &self.namespace, &resource)
    }
}

/// An object that is taken away again.
pub(super) struct Made<'s> {
    scene: &'s Scene,
    api: String,
    kind: String,
}

impl Drop for Made<'_> {
    fn drop(&mut self) {
        let api = self.scene.api(&self.api, &self.kind);
        // The namespace goes in the end, and it with that.
        let _ = self.scene.runtime.block_on(api.delete("test", &DeleteParams::default()));
    }
}

fn wait<T>(limit: Duration, attempt: &mut dyn FnMut() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        match attempt() {
            Err(error) if Instant::now() >= deadline => return Err(error),
            Err(_) => std::thread::sleep(PAUSE),
            done => return done,
        }
    }
}

/// A pod that serves, and in which clients can be started. It needs nothing that a restricted namespace forbids.
fn pod(name: &str, app: &str, account: &str, node: &str, program: &Program, mode: &str) -> Value {
    let args = json!([
        "demo-server",
        "--name",
        name,
        "--release",
        "v1",
        "--port",
        PORT.to_string(),
        "--fails-while",
        "/nonexistent"
    ]);
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "labels": {"app": app, "mesh-agent.dev/dataplane-mode": mode},
        },
        "spec": {
            "nodeName": node,
            "serviceAccountName": account,
            "automountServiceAccountToken": false,
            // They hold nothing that an end in order would save, and go from the API at once.
            "terminationGracePeriodSeconds": 0,
            "securityContext": {
                "runAsNonRoot": true,
                "runAsUser": 65532,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [{
                "name": "peer",
                "image": program.image,
                "command": program.command,
                "imagePullPolicy": "IfNotPresent",
                "args": args,
                "ports": [{"name": "http", "containerPort": PORT}],
                "readinessProbe": {"tcpSocket": {"port": PORT}, "periodSeconds": 1},
                "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
            }],
        },
    })
}
