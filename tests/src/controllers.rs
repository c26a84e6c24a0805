//! Two controllers at a real API server, with the rights that the chart gives them, and a record of what they ask.
//!
//! They go through `kubectl proxy`, which is told every request and acts as the controller's service account, so that RBAC
//! judges what they do. The suite's tests share one stage and take turns.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use mesh_agent::identity::issuer::{IssueError, Issuer, IstioOptions};
use mesh_agent::identity::{SpiffeId, x509};
use mesh_agent::lab::{Running, eventually};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::charts::by_cli;
use crate::http1::Client;
use crate::kube::{Cluster, Gate, crd, pod};
use crate::{PATIENCE, agent_binary};

/// The namespace of controllers and agents.
pub const MESH: &str = "mesh";
/// What RBAC is made of.
const RIGHTS: [&str; 5] = ["ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"];
/// A Lease runs out in 15 s; the rest is for a busy machine.
pub const TAKEOVER: Duration = Duration::from_secs(40);

/// A controller's port may be taken between its choice and its use.
const TRIES: usize = 3;

/// API server, controllers, and pods on two nodes.
pub struct Stage {
    /// The API server.
    pub cluster: Arc<Cluster>,
    scratch: tempfile::TempDir,
    proxy: Proxy,
    /// Before the proxy: every controller's way.
    pub gate: Gate,
    controllers: Mutex<Vec<Replica>>,
}

/// One controller.
pub struct Replica {
    running: Running,
    /// Where agents ask.
    pub address: SocketAddr,
    /// `/metrics` and probes.
    pub metrics: SocketAddr,
}

struct Proxy {
    port: u16,
    log: PathBuf,
    _running: Running,
}

/// The stage for one test; others wait.
pub struct Turn {
    /// The stage.
    pub stage: Arc<Stage>,
    _turn: MutexGuard<'static, ()>,
}

/// Waits for its turn on the stage; `None`, with the reason printed, where there is no API server.
///
/// # Panics
/// It can't be built.
pub fn stage() -> Option<Turn> {
    static TURN: Mutex<()> = Mutex::new(());
    static STAGE: Mutex<Weak<Stage>> = Mutex::new(Weak::new());
    // Kept up between tests: as many threads wait as there are tests, and each holds the stage while it does.
    let stage = {
        let mut known = STAGE.lock().unwrap_or_else(PoisonError::into_inner);
        match known.upgrade() {
            Some(stage) => stage,
            None => {
                let stage = Arc::new(Stage::new(Cluster::shared()?).unwrap());
                *known = Arc::downgrade(&stage);
                stage
            }
        }
    };
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    stage.restore().unwrap();
    Some(Turn { stage, _turn: turn })
}

/// A kind with a status, of any shape.
fn with_status(group: &str, versions: &[&str], plural: &str, kind: &str) -> Value {
    let mut crd = crd(group, versions, plural, kind);
    for version in crd["spec"]["versions"].as_array_mut().into_iter().flatten() {
        version["subresources"] = json!({"status": {}});
    }
    crd
}

/// An agent's pod, as far as the API server knows.
pub fn agent_pod(name: &str, node: &str) -> Value {
    let mut pod = pod(MESH, name, node);
    pod["spec"]["serviceAccountName"] = "mesh-agent".into();
    pod
}

/// A pod of this account.
pub fn pod_of(namespace: &str, name: &str, node: &str, account: &str) -> Value {
    let mut pod = pod(namespace, name, node);
    pod["spec"]["serviceAccountName"] = account.into();
    pod
}

/// A service account.
pub fn account(namespace: &str, name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": namespace}})
}

impl Stage {
    fn new(cluster: Arc<Cluster>) -> Result<Self> {
        let scratch = tempfile::tempdir()?;
        let gateway = "gateway.networking.k8s.io";
        let istio = |plural: &str, kind: &str| with_status("security.istio.io", &["v1"], plural, kind);
        let network = |plural: &str, kind: &str| with_status("networking.istio.io", &["v1"], plural, kind);
        let objects = [
            with_status(gateway, &["v1"], "httproutes", "HTTPRoute"),
            with_status(gateway, &["v1"], "grpcroutes", "GRPCRoute"),
            with_status(gateway, &["v1alpha2"], "tlsroutes", "TLSRoute"),
            with_status(gateway, &["v1alpha2"], "tcproutes", "TCPRoute"),
            with_status(gateway, &["v1"], "backendtlspolicies", "BackendTLSPolicy"),
            crd(gateway, &["v1beta1"], "referencegrants", "ReferenceGrant"),
            with_status(
                "gateway.networking.x-k8s.io",
                &["v1alpha1"],
                "xbackendtrafficpolicies",
                "XBackendTrafficPolicy",
            ),
            istio("authorizationpolicies", "AuthorizationPolicy"),
            istio("peerauthentications", "PeerAuthentication"),
            istio("requestauthentications", "RequestAuthentication"),
            network("destinationrules", "DestinationRule"),
            network("serviceentries", "ServiceEntry"),
        ];
        cluster.apply(&objects)?;
        // Older API servers know no CEL in definitions, and leave it out only here.
        let ours = by_cli("mesh-crds", &json!({}))?.map_err(anyhow::Error::msg)?.into_values();
        let ours = json!({"apiVersion": "v1", "kind": "List", "items": ours.collect::<Vec<_>>()});
        cluster.kubectl(&["apply", "--validate=false", "-f", "-"], &ours.to_string())?;
        cluster.namespace(MESH, &json!({}))?;
        cluster.namespace("shop", &json!({"mesh-agent.dev/dataplane-mode": "enabled"}))?;
        let rights = by_cli("mesh-agent", &json!({}))?.map_err(anyhow::Error::msg)?;
        let rights = rights.into_values().filter(|object| RIGHTS.iter().any(|kind| object["kind"] == *kind));
        cluster.apply(&rights.collect::<Vec<_>>())?;
        cluster.apply(&[account("shop", "web"), account("shop", "cart")])?;
        cluster.apply(&[
            agent_pod("mesh-agent-a", "node-a"),
            agent_pod("mesh-agent-b", "node-b"),
            pod_of("shop", "web-1", "node-a", "web"),
            pod_of("shop", "cart-1", "node-b", "cart"),
        ])?;
        let proxy = Proxy::start(&cluster, scratch.path())?;
        let gate = Gate::new(proxy.port)?;
        Ok(Self { cluster, scratch, proxy, gate, controllers: Mutex::default() })
    }

    /// The controllers, in the order of their start.
    pub fn controllers(&self) -> MutexGuard<'_, Vec<Replica>> {
        self.controllers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Two controllers run and are ready, whatever a test before did to them.
    ///
    /// # Errors
    /// One doesn't come up.
    pub fn restore(&self) -> Result<()> {
        let mut controllers = self.controllers();
        controllers.retain_mut(|controller| controller.running.try_wait().is_none());
        for _ in 0..TRIES {
            while controllers.len() < 2 {
                controllers.push(self.start_one(&self.kubeconfig()?, &[])?);
            }
            controllers.iter_mut().try_for_each(Replica::wait)?;
            // One that ended found its port taken meanwhile.
            controllers.retain_mut(|controller| controller.running.try_wait().is_none());
            if controllers.len() == 2 {
                return Ok(());
            }
        }
        bail!("controllers end again and again")
    }

    /// A directory that lasts as long as the stage.
    pub fn scratch(&self) -> &Path {
        self.scratch.path()
    }

    /// The kubeconfig of every controller of [`Self::restore`].
    ///
    /// # Errors
    /// It can't be written.
    pub fn kubeconfig(&self) -> Result<PathBuf> {
        self.proxy.kubeconfig(self.scratch.path(), self.gate.port)
    }

    /// Another controller, with more flags. It isn't waited for.
    ///
    /// # Errors
    /// It can't be started.
    pub fn start_one(&self, kubeconfig: &Path, flags: &[&str]) -> Result<Replica> {
        let [address, metrics] = [free()?, free()?];
        let mut command = Command::new(agent_binary()?);
        command.args(["controller", "--source", "kube", "--tokens", "kube", "--ca", "secret:mesh-agent-ca"]);
        command.args([
            "--namespace",
            MESH,
            "--tls-names",
            "127.0.0.1",
            "--log",
            "info,mesh_agent::controller=debug",
        ]);
        command.arg("--listen").arg(address.to_string()).arg("--metrics-address").arg(metrics.to_string());
        command.args(flags).env("KUBECONFIG", kubeconfig);
        Ok(Replica { running: Running::start(command)?, address, metrics })
    }

    /// A token of a service account of the namespace [`MESH`], bound to a pod if one is named.
    ///
    /// # Errors
    /// The API server refuses it.
    pub fn token(&self, account: &str, audience: &str, pod: Option<&str>) -> Result<String> {
        let mut request = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": {"audiences": [audience], "expirationSeconds": 600},
        });
        if let Some(pod) = pod {
            let path = format!("/api/v1/namespaces/{MESH}/pods/{pod}");
            let found: Value = serde_json::from_str(&self.cluster.kubectl(&["get", "--raw", &path], "")?)?;
            request["spec"]["boundObjectRef"] =
                json!({"kind": "Pod", "apiVersion": "v1", "name": pod, "uid": found["metadata"]["uid"]});
        }
        let path = format!("/api/v1/namespaces/{MESH}/serviceaccounts/{account}/token");
        let answer = self.cluster.kubectl(&["create", "--raw", &path, "-f", "-"], &request.to_string())?;
        let answer: Value = serde_json::from_str(&answer)?;
        Ok(answer["status"]["token"].as_str().context("no token")?.to_owned())
    }

    /// Asks a controller for a certificate of a service account of `shop`, as an agent does; its roots.
    ///
    /// # Errors
    /// Why there is none.
    pub fn ask(&self, address: SocketAddr, token: &str, account: &str) -> Result<Vec<Vec<u8>>, IssueError> {
        let failed = |error: anyhow::Error| IssueError::Invalid(format!("{error:#}"));
        let file = |name: &str, text: &str| -> Result<PathBuf> {
            let path = self.scratch.path().join(name);
            fs::write(&path, text)?;
            Ok(path)
        };
        let token_file = file("token", token).map_err(failed)?;
        let root_cert_file = file("root", &self.bundle(MESH).map_err(failed)?).map_err(failed)?;
        let issuer = Issuer::istio(IstioOptions {
            authority: address.to_string(),
            token_file,
            root_cert_file,
            cluster_id: "Kubernetes".to_owned(),
        });
        issuer.refresh(SystemTime::now());
        let id = SpiffeId::new("cluster.local", "shop", account);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| failed(error.into()))?;
        let asked = async {
            tokio::time::timeout(PATIENCE, issuer.issue(&id, Duration::from_secs(600), SystemTime::now()))
                .await
        };
        let issued = runtime.block_on(asked).map_err(|error| failed(error.into()))??;
        let facts = x509::facts(&issued.chain[0]).map_err(|error| failed(error.into()))?;
        assert_eq!(facts.uris, [id.as_str()]);
        Ok(issued.roots.iter().map(|root| root.to_vec()).collect())
    }

    /// The trust bundle of a namespace.
    ///
    /// # Errors
    /// There is none.
    pub fn bundle(&self, namespace: &str) -> Result<String> {
        let map = self.get("configmaps", namespace, "mesh-agent-root")?;
        Ok(map["data"]["root-cert.pem"].as_str().context("no bundle in it")?.to_owned())
    }

    /// An object.
    ///
    /// # Errors
    /// There is none.
    pub fn get(&self, resource: &str, namespace: &str, name: &str) -> Result<Value> {
        let text =
            self.cluster.kubectl(&["get", resource, "--namespace", namespace, name, "-o", "json"], "")?;
        Ok(serde_json::from_str(&text)?)
    }

    /// The one that leads.
    ///
    /// # Errors
    /// There isn't exactly one.
    pub fn leader(&self) -> Result<usize> {
        let mut leading = Vec::new();
        for (at, controller) in self.controllers().iter().enumerate() {
            if controller.metric("mesh_agent_controller_leader")? > 0.0 {
                leading.push(at);
            }
        }
        ensure!(leading.len() == 1, "{leading:?} lead");
        Ok(leading[0])
    }

    /// What controllers asked the API server so far: method, path with its query.
    ///
    /// # Errors
    /// The log can't be read.
    pub fn asked(&self) -> Result<Vec<(String, String)>> {
        let log = fs::read_to_string(&self.proxy.log)?;
        let request = |line: &str| {
            let (_, rest) = line.split_once("] ")?;
            let mut words = rest.split(' ');
            let (method, url) = (words.next()?, words.next()?);
            let path = url.strip_prefix("https://")?.split_once('/')?.1;
            Some((method.to_owned(), format!("/{path}")))
        };
        Ok(log.lines().filter_map(request).collect())
    }
}

impl Replica {
    /// Returns once it is ready, or has ended.
    ///
    /// # Errors
    /// Neither comes.
    pub fn wait(&mut self) -> Result<()> {
        eventually(PATIENCE * 2, || {
            if self.running.try_wait().is_some() {
                return Ok(());
            }
            let (status, text) = self.probe("/readyz")?;
            ensure!(status == 200, "not ready: {text}");
            Ok(())
        })
    }

    /// Status and text of one of its probes.
    ///
    /// # Errors
    /// It doesn't answer.
    pub fn probe(&self, path: &str) -> Result<(u16, String)> {
        let answer = Client::new(TcpStream::connect(self.metrics)?).get("controller", path)?;
        Ok((answer.status(), answer.text().to_string()))
    }

    /// Signals it.
    pub fn signal(&self, signal: Signal) {
        self.running.signal(signal);
    }

    /// True while it runs.
    pub fn is_alive(&mut self) -> bool {
        self.running.try_wait().is_none()
    }

    /// A metric's value; 0 without a series.
    ///
    /// # Errors
    /// It doesn't answer.
    pub fn metric(&self, name: &str) -> Result<f64> {
        let answer = Client::new(TcpStream::connect(self.metrics)?).get("controller", "/metrics")?;
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(line.map_or(Ok(0.0), str::parse)?)
    }

    /// Ends it: by SIGTERM, or without a word.
    ///
    /// # Errors
    /// It doesn't end.
    pub fn end(&mut self, kindly: bool) -> Result<()> {
        self.running.signal(if kindly { Signal::SIGTERM } else { Signal::SIGKILL });
        eventually(PATIENCE, || {
            ensure!(self.running.try_wait().is_some(), "it still runs");
            Ok(())
        })
    }
}

impl Proxy {
    fn start(cluster: &Cluster, scratch: &Path) -> Result<Self> {
        let kubeconfig = scratch.join("as-controller");
        cluster.kubeconfig_as(&format!("system:serviceaccount:{MESH}:mesh-agent-controller"), &kubeconfig)?;
        let port = free()?.port();
        let log = scratch.join("asked");
        let mut command = Command::new("/bin/sh");
        // Six is the level at which every request is told.
        command.args(["-c", r#"exec kubectl --kubeconfig "$1" proxy --port "$2" -v=6 2>"$3""#, "proxy"]);
        command.arg(&kubeconfig).arg(port.to_string()).arg(&log);
        let running = Running::start(command)?;
        eventually(PATIENCE, || {
            TcpStream::connect(("127.0.0.1", port))?;
            Ok(())
        })?;
        Ok(Self { port, log, _running: running })
    }

    fn kubeconfig(&self, scratch: &Path, port: u16) -> Result<PathBuf> {
        let path = scratch.join("kubeconfig");
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "proxy",
            "clusters": [{"name": "proxy", "cluster": {"server": format!("http://127.0.0.1:{port}")}}],
            "contexts": [{"name": "proxy", "context": {"cluster": "proxy", "user": "nobody"}}],
            "users": [{"name": "nobody", "user": {}}],
        });
        fs::write(&path, config.to_string())?;
        Ok(path)
    }
}

fn free() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}
