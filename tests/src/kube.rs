//! A real API server for suites: found, started, disturbed, taken down, and filled with objects by kubectl.
//!
//! `$MESH_KUBE`, or `../shared/kube/cluster` beside the checkout, is a script that starts etcd and an API server in a
//! directory. Without it `KUBECONFIG` serves where the API server needn't be disturbed. Without either, suites skip.

pub mod audit;
mod gate;
mod shared;

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use mesh_agent::lab::{Finished, Running, eventually};
use serde_json::{Value, json};

pub use self::gate::Gate;
pub use self::shared::Turn;

/// An API server starts within this on a busy machine.
const START: Duration = Duration::from_secs(180);
const COMMAND: Duration = Duration::from_secs(60);

/// Waits for the end of its standard input, which is that of the test however it ends, and takes the cluster down.
/// One without nodes is taken down where cgroups and network namespaces can't be seen: the script clears those of all clusters
/// away that nobody uses, and a pod of another one that is just being made has some that nobody uses yet.
const KEEPER: &str = r#"trap '' INT TERM HUP; while read -r _; do :; done; export KUBE_PORT="$3"
[ "$4" = 0 ] || exec "$1" down "$2"
mkdir -p /run/netns
exec unshare --mount /bin/sh -ec 'mount -t tmpfs none /run/netns; mount -t tmpfs none /sys/fs/cgroup; exec "$@"' sh "$1" down "$2""#;

/// An API server, with an admin's kubeconfig.
pub struct Cluster {
    kubeconfig: PathBuf,
    own: Option<Own>,
}

/// One that this process started.
struct Own {
    dir: PathBuf,
    port: u16,
    keeper: Child,
    /// Command lines of programs that were killed.
    killed: Mutex<BTreeMap<String, Vec<String>>>,
}

/// Why there is no API server for a test.
fn missing(disturbed: bool) -> Option<&'static str> {
    match (script(), kubeconfig()) {
        (Some(_), _) => None,
        (None, Some(_)) if !disturbed => None,
        (None, Some(_)) => Some("needs an API server of its own: set MESH_KUBE to a script that starts one"),
        (None, None) => Some("needs an API server: set MESH_KUBE to a script that starts one, or KUBECONFIG"),
    }
}

fn script() -> Option<PathBuf> {
    if let Some(script) = std::env::var_os("MESH_KUBE") {
        return Some(script.into());
    }
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/kube/cluster");
    beside.is_file().then_some(beside)
}

fn kubeconfig() -> Option<PathBuf> {
    std::env::var_os("KUBECONFIG").map(PathBuf::from)
}

impl Cluster {
    /// Why there is no cluster with nodes for a test, if there is none.
    pub fn missing_nodes() -> Option<&'static str> {
        script().is_none().then_some("needs a cluster with nodes: set MESH_KUBE to a script that starts one")
    }

    /// One with these nodes. `turn` stays open until it is down again, however this process ends.
    ///
    /// # Errors
    /// It doesn't come up.
    pub fn with_nodes(nodes: &[String], turn: fs::File) -> Result<Self> {
        Self::start(nodes, turn.into())
    }

    /// With nodes, or an API server alone.
    fn start(nodes: &[String], turn: Stdio) -> Result<Self> {
        let script = script().context("no script")?;
        let port = free_ports()?;
        let dir = std::env::temp_dir().join(format!("mesh-kube-{}-{port}", std::process::id()));
        let keeper = Command::new("/bin/sh")
            .args(["-c", KEEPER, "mesh-kube-keeper"])
            .arg(&script)
            .arg(&dir)
            .arg(port.to_string())
            .arg(nodes.len().to_string())
            .stdin(Stdio::piped())
            .stdout(turn)
            .stderr(Stdio::null())
            .spawn()
            .context("starting the keeper")?;
        let own = Own { dir, port, keeper, killed: Mutex::default() };
        let kubeconfig = own.dir.join("admin.kubeconfig");
        let mut up = Command::new(&script);
        up.arg("up").arg(&own.dir).args(nodes).env("KUBE_PORT", port.to_string());
        if nodes.is_empty() {
            up.env("KUBE_API_ONLY", "1");
        }
        let cluster = Self { kubeconfig, own: Some(own) };
        Running::start(up)?.finish(START)?.success().context("the API server didn't come up")?;
        Ok(cluster)
    }

    /// As in `KUBECONFIG`.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Runs kubectl, with `input` as its standard input.
    ///
    /// # Errors
    /// It fails, or takes longer than a minute.
    pub fn kubectl(&self, args: &[&str], input: &str) -> Result<String> {
        Ok(self
            .try_kubectl(args, input)?
            .success()
            .with_context(|| format!("kubectl {}", args.join(" ")))?
            .stdout)
    }

    fn try_kubectl(&self, args: &[&str], input: &str) -> Result<Finished> {
        let mut command = Command::new("kubectl");
        command.arg("--kubeconfig").arg(&self.kubeconfig).args(args);
        let mut kubectl = Running::start(command)?;
        kubectl.write(input.as_bytes())?;
        kubectl.finish(COMMAND)
    }

    /// Makes objects be as they are given, all in one go.
    ///
    /// # Errors
    /// The API server refuses one.
    pub fn apply(&self, objects: &[Value]) -> Result<()> {
        // Merged by the API server: what kubectl would send isn't taken for objects of CRDs.
        let args = ["apply", "--server-side", "--force-conflicts", "--validate=false", "-f", "-"];
        self.kubectl(&args, &list(objects)).map(drop)
    }

    /// Deletes objects, and waits until they are gone.
    ///
    /// # Errors
    /// The API server refuses it, or one isn't there.
    pub fn delete(&self, objects: &[Value]) -> Result<()> {
        let args = ["delete", "--grace-period=0", "--force", "-f", "-"];
        self.kubectl(&args, &list(objects)).map(drop)
    }

    /// Writes the status of a pod.
    ///
    /// # Errors
    /// There is no such pod.
    pub fn set_pod_status(&self, namespace: &str, name: &str, status: &Value) -> Result<()> {
        let path = format!("/api/v1/namespaces/{namespace}/pods/{name}");
        let mut pod: Value = serde_json::from_str(&self.kubectl(&["get", "--raw", &path], "")?)?;
        pod["status"] = status.clone();
        self.kubectl(&["replace", "--raw", &format!("{path}/status"), "-f", "-"], &pod.to_string()).map(drop)
    }

    /// A namespace with the service account that pods in it need, where no controller makes one.
    ///
    /// # Errors
    /// The API server refuses it.
    pub fn namespace(&self, name: &str, labels: &Value) -> Result<()> {
        let namespace =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}});
        let account = json!({
            "apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": name},
        });
        self.apply(&[namespace, account])
    }

    /// A copy of the admin's kubeconfig that acts as somebody else.
    ///
    /// # Errors
    /// It can't be read or written.
    pub fn kubeconfig_as(&self, user: &str, file: &Path) -> Result<()> {
        self.edit(file, |config| config["users"][0]["user"]["as"] = user.into())
    }

    /// A copy of the admin's kubeconfig that goes through a gate.
    ///
    /// # Errors
    /// It can't be read or written, or there is no address for the gate.
    pub fn kubeconfig_through_a_gate(&self, file: &Path) -> Result<Gate> {
        let gate = Gate::new(self.own_one()?.port)?;
        let server = format!("https://127.0.0.1:{}", gate.port);
        self.edit(file, |config| config["clusters"][0]["cluster"]["server"] = server.into())?;
        Ok(gate)
    }

    /// A copy of the admin's kubeconfig that shows the token of a file.
    ///
    /// # Errors
    /// It can't be read or written.
    pub fn kubeconfig_with_token_of(&self, token: &Path, file: &Path) -> Result<()> {
        self.edit(file, |config| {
            let mut user = serde_yaml_ng::Mapping::new();
            user.insert("tokenFile".into(), token.display().to_string().into());
            config["users"][0]["user"] = user.into();
        })
    }

    fn edit(&self, file: &Path, edit: impl FnOnce(&mut serde_yaml_ng::Value)) -> Result<()> {
        let mut config = serde_yaml_ng::from_str(&fs::read_to_string(&self.kubeconfig)?)?;
        edit(&mut config);
        fs::write(file, serde_yaml_ng::to_string(&config)?).context("writing a kubeconfig")
    }

    /// Makes an image of a folder, on every node; `command` is what it runs.
    ///
    /// # Errors
    /// It isn't this process's own, or a runtime refuses the image.
    pub fn image(&self, name: &str, rootfs: &Path, command: &Path) -> Result<()> {
        let script = script().context("no script")?;
        let mut image = Command::new(script);
        image.arg("image").arg(self.dir()?).arg(name).arg(rootfs).arg(command);
        Running::start(image)?.finish(START)?.success().map(drop)
    }

    /// Its directory.
    ///
    /// # Errors
    /// It isn't this process's own, as for all that follow.
    pub fn dir(&self) -> Result<&Path> {
        Ok(&self.own_one()?.dir)
    }

    /// Kills one of its programs: `etcd` or `kube-apiserver`.
    ///
    /// # Errors
    /// It doesn't run.
    pub fn kill(&self, program: &str) -> Result<()> {
        let own = self.own_one()?;
        let pid = own.pid(program)?;
        let line = command_line(pid).with_context(|| format!("{program} doesn't run"))?;
        own.killed.lock().unwrap_or_else(PoisonError::into_inner).insert(program.to_owned(), line);
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL)?;
        eventually(COMMAND, || {
            ensure!(is_gone(pid), "{program} is still there");
            Ok(())
        })
    }

    /// Starts a program again that was killed. An API server is waited for.
    ///
    /// # Errors
    /// It wasn't killed, or doesn't come up.
    pub fn revive(&self, program: &str) -> Result<()> {
        self.revive_with(program, &[])
    }

    /// The same, with more on its command line.
    fn revive_with(&self, program: &str, more: &[String]) -> Result<()> {
        let own = self.own_one()?;
        let killed = own.killed.lock().unwrap_or_else(PoisonError::into_inner).remove(program);
        let line = killed.with_context(|| format!("{program} wasn't killed"))?;
        let log = fs::OpenOptions::new().append(true).open(own.dir.join(format!("{program}.log")))?;
        let mut command = Command::new(&line[0]);
        command
            .args(&line[1..])
            .args(more)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0);
        let child = command.spawn().with_context(|| format!("starting {program}"))?;
        fs::write(own.dir.join("pids").join(program), child.id().to_string())?;
        if program == "kube-apiserver" {
            let log = || fs::read_to_string(own.dir.join(format!("{program}.log"))).unwrap_or_default();
            let last = || log().lines().rev().take(20).collect::<Vec<_>>().join("\n");
            eventually(START, || self.kubectl(&["get", "--raw", "/readyz"], "")).with_context(last)?;
        }
        Ok(())
    }

    fn own_one(&self) -> Result<&Own> {
        self.own.as_ref().context("this API server is somebody else's")
    }
}

impl Own {
    fn pid(&self, program: &str) -> Result<i32> {
        let file = self.dir.join("pids").join(program);
        let text = fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
        Ok(text.trim().parse()?)
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        // It takes the cluster down now.
        let _ = self.keeper.wait();
    }
}

/// True once nothing of it holds a socket any more: a process loses its command line first, and its threads one by one.
fn is_gone(pid: i32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return true };
    let dead = stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(['Z', 'X']));
    dead && fs::read_dir(format!("/proc/{pid}/task")).map_or(true, |threads| threads.count() <= 1)
}

/// Of a living process: a dead one that nobody has waited for has none.
fn command_line(pid: i32) -> Option<Vec<String>> {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let line: Vec<String> = text.split_terminator('\0').map(str::to_owned).collect();
    (!line.is_empty()).then_some(line)
}

/// The API server's port; the two below it are etcd's, the two above it the controllers' and the scheduler's. Nobody holds them
/// until then, so that another process may be faster: the choice is spread.
fn free_ports() -> Result<u16> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    for _ in 0..100 {
        let offset =
            std::process::id().wrapping_mul(37).wrapping_add(NEXT.fetch_add(5, Ordering::Relaxed)) % 4000;
        let port = 20_000 + u16::try_from(offset)?;
        if (port - 2..=port + 2).all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok()) {
            return Ok(port);
        }
    }
    bail!("no five free ports in a row")
}

fn list(objects: &[Value]) -> String {
    json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string()
}

/// A CustomResourceDefinition that takes whatever is in its objects; the first of `versions` is stored.
pub fn crd(group: &str, versions: &[&str], plural: &str, kind: &str) -> Value {
    let version = |(at, name): (usize, &&str)| {
        json!({
            "name": name, "served": true, "storage": at == 0,
            "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}},
        })
    };
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {
            "name": format!("{plural}.{group}"),
            // Groups of Kubernetes itself want one.
            "annotations": {"api-approved.kubernetes.io": "unapproved, for a test"},
        },
        "spec": {
            "group": group, "scope": "Namespaced",
            "names": {"plural": plural, "singular": kind.to_lowercase(), "kind": kind, "listKind": format!("{kind}List")},
            "versions": versions.iter().enumerate().map(version).collect::<Vec<_>>(),
        },
    })
}

/// A pod that is bound to a node, for no kubelet to run.
pub fn pod(namespace: &str, name: &str, node: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": {"app": name}},
        "spec": {
            "nodeName": node, "automountServiceAccountToken": false,
            "containers": [{"name": "app", "image": "localhost/none:1", "ports": [{"name": "http", "containerPort": 8080}]}],
        },
    })
}

/// A service with one port and the address that the API server gives it.
pub fn service(namespace: &str, name: &str, port: u16) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": namespace},
        "spec": {"ports": [{"name": "http", "port": port, "protocol": "TCP"}]},
    })
}

/// The endpoints of a service, at these addresses' port 8080.
pub fn slice(namespace: &str, service: &str, addresses: &[&str]) -> Value {
    let endpoint = |address: &&str| json!({"addresses": [address], "conditions": {"ready": true}});
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": format!("{service}-1"), "namespace": namespace, "labels": {"kubernetes.io/service-name": service},
        },
        "addressType": "IPv4", "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": addresses.iter().map(endpoint).collect::<Vec<_>>(),
    })
}
