//! An agent's admin side without the agent: state from YAML, a control loop that answers from fixed values.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use arc_swap::ArcSwap;
use tempfile::TempDir;
use tokio::sync::mpsc;

use super::{About, AdminState, Command, LogHandle, Readiness, SocketGuard, api, bind_socket, serve_socket};
use crate::enrol::PodState;
use crate::history::{self, Cause, Operation};
use crate::identity;
use crate::model::ObjectName;
use crate::model::build::BuildOptions;
use crate::source;
use crate::telemetry::Telemetry;

const SHOP: &str = r#"
{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {mesh-agent.dev/dataplane-mode: enabled}}}
---
apiVersion: v1
kind: Pod
metadata:
  {name: web-1, namespace: shop, labels: {app: web, version: v1}, annotations: {mesh-agent.dev/netns: /run/netns/web-1}}
spec: {nodeName: node-a, serviceAccountName: web}
status: {podIP: 10.1.0.1}
---
apiVersion: v1
kind: Pod
metadata:
  {name: cart-1, namespace: shop, labels: {app: cart, version: v2}, annotations: {mesh-agent.dev/netns: /run/netns/cart-1}}
spec: {nodeName: node-a, serviceAccountName: cart}
status: {podIP: 10.1.0.2, podIPs: [{ip: 10.1.0.2}, {ip: "fd00::2"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: cart-2, namespace: shop, labels: {app: cart, version: v2}}
spec: {nodeName: node-b, serviceAccountName: cart}
status: {podIP: 10.2.0.2}
---
apiVersion: v1
kind: Service
metadata: {name: cart, namespace: shop}
spec: {clusterIP: 10.96.0.10, clusterIPs: [10.96.0.10], ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: cart-a, namespace: shop, labels: {kubernetes.io/service-name: cart}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints:
- {addresses: [10.1.0.2], nodeName: node-a, zone: west, conditions: {ready: true}}
- {addresses: [10.2.0.2], nodeName: node-b, conditions: {ready: false, serving: true, terminating: true}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: cart, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: cart, port: 80}]
  rules: [{backendRefs: [{name: cart, port: 80}]}]
---
apiVersion: mesh-agent.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: limits, namespace: shop}
spec:
  targetRefs: [{kind: Service, name: cart}]
  rateLimit: {local: [{requests: 100, key: [{type: header, name: x-user}]}]}
  retry: {attempts: 1, statusCodes: [503]}
---
apiVersion: mesh-agent.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: slow, namespace: shop}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: cart}]
  timeout: 3s
---
apiVersion: gateway.networking.x-k8s.io/v1alpha1
kind: XBackendTrafficPolicy
metadata: {name: budget, namespace: shop}
spec:
  targetRefs: [{group: "", kind: Service, name: cart}]
  sessionPersistence: {type: Cookie, cookie: {name: s}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: cart, namespace: shop}
spec: {host: cart, trafficPolicy: {outlierDetection: {consecutive5xxErrors: 3}}}
---
{apiVersion: v1, kind: Gadget, metadata: {name: odd, namespace: shop}}
"#;

/// A running admin socket in a directory of its own.
pub(crate) struct Fixture {
    pub(crate) state: AdminState,
    pub(crate) dir: TempDir,
    pub(crate) _socket: SocketGuard,
    /// Ends the server's thread when dropped.
    _stop: tokio::sync::oneshot::Sender<()>,
}

impl Fixture {
    pub(crate) fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (state, mut commands) = state(dir.path());
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let (bound, wait) = std::sync::mpsc::channel();
        std::thread::spawn({
            let (state, path) = (state.clone(), dir.path().to_owned());
            move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async {
                    let (listener, guard) = bind_socket(&path).unwrap();
                    bound.send(guard).unwrap();
                    tokio::spawn(async move {
                        while let Some(command) = commands.recv().await {
                            answer(command);
                        }
                    });
                    tokio::select! {
                        () = serve_socket(listener, state) => {}
                        _ = stopped => {}
                    }
                });
            }
        });
        Self { state, dir, _socket: wait.recv().unwrap(), _stop: stop }
    }
}

pub(crate) fn state(dir: &Path) -> (AdminState, mpsc::Receiver<Command>) {
    let objects = tempfile::tempdir().unwrap();
    std::fs::write(objects.path().join("shop.yaml"), SHOP).unwrap();
    let options = BuildOptions { node: "node-a".into(), ..BuildOptions::default() };
    let report = source::validate(objects.path(), options).unwrap();
    let (control, commands) = mpsc::channel(1);
    let pods = BTreeMap::from([
        (ObjectName::new("shop", "cart-1"), PodState::Pending("/run/netns/cart-1: not found".into())),
        (ObjectName::new("shop", "web-1"), PodState::Enrolled),
    ]);
    let identities = identity::testing::Root::shared().identities();
    identities.follow(&report.snapshot);
    let state = AdminState {
        snapshot: Arc::new(ArcSwap::new(report.snapshot)),
        telemetry: Telemetry::quiet(),
        warnings: Arc::new(ArcSwap::from_pointee(report.warnings)),
        identities,
        history: history(),
        health: Arc::default(),
        pods: Arc::new(ArcSwap::from_pointee(pods)),
        settings: Arc::new(serde_json::json!({ "nodeName": "node-a" })),
        about: Arc::new(About {
            node: "node-a".into(),
            source: "dir:/mesh".into(),
            state_dir: dir.to_owned(),
            bpffs_dir: "/sys/fs/bpf/mesh-agent".into(),
            registry_only: true,
            kernel_services: crate::kernel::KernelServices::Enrolled,
            workers: 2,
            started: UNIX_EPOCH,
        }),
        readiness: Readiness::default(),
        alive: Arc::new(|| Ok(())),
        log: LogHandle::foreign(),
        control,
    };
    (state, commands)
}

/// What `config dump` says of it.
pub(crate) fn dump(state: &AdminState) -> api::Dump {
    super::views::dump(state)
}

/// Three generations, of which the first is put back; whoever asks for more is refused.
fn history() -> history::Shared {
    let service =
        |port: u16| format!("kind: Service\nmetadata: {{name: cart}}\nspec: {{ports: [{{port: {port}}}]}}\n");
    let change = |operation, object: &str, text: Option<String>| history::Change {
        operation,
        object: object.into(),
        text: text.map(Into::into),
    };
    let entry = |generation, cause, changes| history::Entry {
        generation,
        time: UNIX_EPOCH + std::time::Duration::from_secs(1_800_000_000 + generation),
        cause,
        changes,
        warnings: 1,
        discovery: 7,
    };
    let shared = history::Shared::default();
    let added = ["Namespace shop", "Service shop/cart", "Service shop/web", "Service shop/zoo"];
    let added = added.map(|name| change(Operation::Added, name, Some(service(80)))).to_vec();
    shared.record(entry(1, Cause::Source, added));
    let changed = change(Operation::Changed, "Service shop/cart", Some(service(81)));
    let removed = change(Operation::Removed, "Service shop/web", None);
    shared.record(entry(4, Cause::Source, vec![changed, removed]));
    let back = |name| change(Operation::Changed, name, Some(service(80)));
    shared.record(entry(5, Cause::Rollback(1), vec![back("Service shop/cart"), back("Service shop/web")]));
    shared.serve(|request| {
        let answer = match request.generation {
            Some(9) => Err("generation 9 isn't kept".to_owned()),
            _ => Ok(()),
        };
        request.answer.send(answer).is_ok()
    });
    shared
}

fn answer(command: Command) {
    match command {
        Command::Kernel(answer) => answer.send(kernel()).unwrap(),
        Command::Drain(answer) | Command::Replaced(answer) => answer.send(()).unwrap(),
        Command::HandOver(answer) => drop(answer.send(HashMap::default())),
    }
}

pub(crate) fn kernel() -> api::Kernel {
    let program = |name: &str, hook: &str, id, run_count| api::Program {
        name: name.into(),
        id,
        hook: hook.into(),
        attached_to: vec!["/sys/fs/cgroup".into()],
        run_count,
        run_time_ns: run_count * 410,
    };
    api::Kernel {
        release: "6.8.0".into(),
        heartbeat_age_ms: Some(40),
        programs: vec![
            program("connect4", "cgroup/connect4", 31, 100),
            program("sock_ops", "sockops", 32, 0),
        ],
        maps: vec![api::Map {
            name: "pods_v1".into(),
            kind: "hash".into(),
            entries: Some(2),
            max_entries: 4096,
            pin: "/sys/fs/bpf/mesh-agent/maps/pods_v1".into(),
        }],
        reasons: vec![
            api::Reason { number: 0, reason: "captured".into(), count: 7 },
            api::Reason { number: 1, reason: "agent_socket".into(), count: 0 },
        ],
    }
}
