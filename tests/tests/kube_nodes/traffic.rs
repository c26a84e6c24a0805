//! Traffic between the pods of two real nodes: services without kube-proxy, splits, mutual TLS, denials, probes, rollouts; and
//! what goes on while kubelet or the API server doesn't.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mesh_tests::cluster::{BY_AND_BY, Nodes, PORT, deployment, pod, service, text};
use mesh_tests::kube::crd;
use mesh_tests::lab::{Wire, eventually};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// An enrolled namespace with a client on the first node and servers.
struct Scene<'n> {
    nodes: &'n Nodes,
    namespace: &'n str,
    client: Value,
}

impl<'n> Scene<'n> {
    fn new(nodes: &'n Nodes, namespace: &'n str) -> Self {
        nodes.namespace(namespace, true).unwrap();
        let client = deployment(namespace, "client", 1, &["wait"], |spec| {
            spec["nodeSelector"] = on(&nodes.names()[0]);
        });
        nodes.apply(&[client]).unwrap();
        let client = nodes.wait_ready(namespace, "client", 1).unwrap().remove(0);
        nodes.wait_capture(&client, "captured").unwrap();
        Self { nodes, namespace, client }
    }

    /// Servers behind a service of their name, and its address once the client is answered there.
    fn serve(&self, name: &str, replicas: usize, with: impl FnOnce(&mut Value)) -> (Vec<Value>, String) {
        let server = deployment(self.namespace, name, replicas, &["serve", "8080"], with);
        self.nodes.apply(&[server, service(self.namespace, name)]).unwrap();
        let pods = self.nodes.wait_ready(self.namespace, name, replicas).unwrap();
        let address = self.nodes.service_address(self.namespace, name).unwrap();
        eventually(BY_AND_BY, || self.ask(&address, "/")).unwrap();
        (pods, address)
    }

    fn ask(&self, address: &str, path: &str) -> Result<String> {
        self.nodes.ask(self.namespace, text(&self.client, "name"), address, path)
    }

    fn fails(&self, address: &str, path: &str) -> Result<String> {
        let peer = self.nodes.peer(self.namespace, text(&self.client, "name"), &["get", address, path])?;
        ensure!(peer.code != 0, "answered: {}", peer.stdout);
        Ok(peer.stdout)
    }

    /// So many requests from the client: what the last line says, and how many there were of each answer's first word.
    fn load(&self, address: &str, count: u32, every_ms: u32) -> mesh_tests::lab::Running {
        let (count, every) = (count.to_string(), every_ms.to_string());
        self.nodes
            .spawn_peer(
                self.namespace,
                text(&self.client, "name"),
                &["get", address, "/load", &count, &every],
            )
            .unwrap()
    }
}

fn on(node: &str) -> Value {
    json!({ "kubernetes.io/hostname": node })
}

fn spread(name: &str) -> impl FnOnce(&mut Value) {
    let constraints = json!([{
        "maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": { "matchLabels": { "app": name } },
    }]);
    move |spec| spec["topologySpreadConstraints"] = constraints
}

fn answered_by(answer: &str) -> &str {
    answer.split(' ').next().unwrap_or_default()
}

#[test]
fn a_service_s_address_leads_to_pods_of_both_nodes() {
    let nodes = need_nodes!(beside_others);
    let scene = Scene::new(&nodes, "both");
    let (servers, address) = scene.serve("server", 2, spread("server"));
    let all: BTreeSet<_> = servers.iter().map(|pod| text(pod, "name").to_owned()).collect();
    let mut seen = BTreeSet::new();
    eventually(BY_AND_BY, || {
        let answer = scene.ask(&address, "/")?;
        seen.insert(answered_by(&answer).to_owned());
        ensure!(seen == all, "only {seen:?} of {all:?}");
        // The server sees who it is.
        let client = scene.client["status"]["podIP"].as_str().context("no address")?;
        ensure!(answer.split(' ').nth(1) == Some(client), "{answer} isn't to {client}");
        Ok(())
    })
    .unwrap();
}

#[test]
fn datagrams_to_a_service_reach_pods_of_both_nodes_and_come_back_from_it() {
    let nodes = need_nodes!(beside_others);
    let scene = Scene::new(&nodes, "datagrams");
    let (servers, _) = scene.serve("server", 2, spread("server"));
    let all: BTreeSet<_> = servers.iter().map(|pod| text(pod, "name").to_owned()).collect();
    let udp = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": "udp", "namespace": scene.namespace },
        "spec": {
            "selector": { "app": "server" },
            "ports": [{ "name": "dns", "port": 53, "targetPort": PORT, "protocol": "UDP" }],
        },
    });
    nodes.apply(&[udp]).unwrap();
    let address = nodes.service_address(scene.namespace, "udp").unwrap();
    let mut seen = BTreeSet::new();
    eventually(BY_AND_BY, || {
        let sent =
            nodes.peer(scene.namespace, text(&scene.client, "name"), &["send", &address])?.success()?;
        seen.insert(sent.stdout.trim().to_owned());
        ensure!(seen == all, "only {seen:?} of {all:?}");
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_route_splits_between_versions() {
    let nodes = need_nodes!(beside_others);
    let scene = Scene::new(&nodes, "split");
    let (_, address) = scene.serve("front", 1, |_| {});
    let versions = ["one", "two"].map(|name| text(&scene.serve(name, 1, |_| {}).0[0], "name").to_owned());
    nodes.apply(&[crd("gateway.networking.k8s.io", &["v1"], "httproutes", "HTTPRoute")]).unwrap();
    let backend = |name: &str, weight: u32| json!({ "name": name, "port": 80, "weight": weight });
    let route = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": { "name": "front", "namespace": "split" },
        "spec": {
            "parentRefs": [{ "group": "", "kind": "Service", "name": "front", "port": 80 }],
            "rules": [{ "backendRefs": [backend("one", 3), backend("two", 1)] }],
        },
    });
    eventually(BY_AND_BY, || nodes.apply(std::slice::from_ref(&route))).unwrap();
    let mut seen: BTreeMap<String, u32> = BTreeMap::new();
    eventually(BY_AND_BY, || {
        let answer = scene.ask(&address, "/")?;
        ensure!(versions.iter().any(|version| answered_by(&answer) == version), "{answer}");
        Ok(())
    })
    .unwrap();
    for _ in 0..24 {
        *seen.entry(answered_by(&scene.ask(&address, "/").unwrap()).to_owned()).or_default() += 1;
    }
    let [one, two] = versions.map(|version| seen.remove(&version).unwrap_or_default());
    assert!(seen.is_empty() && one > two && two > 0, "{one} and {two}, others: {seen:?}");
}

#[test]
fn between_nodes_nothing_is_said_in_clear_text() {
    let nodes = need_nodes!(beside_others);
    let scene = Scene::new(&nodes, "secret");
    let (_, far) = scene.serve("far", 1, |spec| spec["nodeSelector"] = on(&nodes.names()[1]));
    let (_, near) = scene.serve("near", 1, |spec| spec["nodeSelector"] = on(&nodes.names()[0]));
    let wire = Wire::on_host().unwrap();
    scene.ask(&near, "/said-on-the-node").unwrap();
    scene.ask(&far, "/said-between-nodes").unwrap();
    let line =
        nodes.agents[1].log_shows("the request", |line| line["path"] == "/said-between-nodes").unwrap();
    assert!(line.to_string().contains("spiffe://cluster.local/ns/secret/sa/default"), "{line}");
    // The ear hears what is said in plain text. Answers pass it once more, on kubectl's way.
    assert!(wire.count(b"kube-peer/said-on-the-node") > 0, "of {} frames", wire.frames());
    assert_eq!(wire.count(b"kube-peer/said-between-nodes"), 0);
}

#[test]
fn a_denied_call_never_reaches_its_server_and_probes_pass_under_strict() {
    let nodes = need_nodes!(beside_others);
    let scene = Scene::new(&nodes, "strict");
    let crds = [
        crd("security.istio.io", &["v1"], "peerauthentications", "PeerAuthentication"),
        crd("security.istio.io", &["v1"], "authorizationpolicies", "AuthorizationPolicy"),
    ];
    nodes.apply(&crds).unwrap();
    let policies = [
        json!({
            "apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication",
            "metadata": { "name": "strict", "namespace": "strict" }, "spec": { "mtls": { "mode": "STRICT" } },
        }),
        json!({
            "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
            "metadata": { "name": "deny", "namespace": "strict" },
            "spec": { "action": "DENY", "rules": [{ "to": [{ "operation": { "paths": ["/denied"] } }] }] },
        }),
    ];
    eventually(BY_AND_BY, || nodes.apply(&policies)).unwrap();
    let probe =
        json!({ "httpGet": { "path": "/probe", "port": PORT }, "periodSeconds": 1, "failureThreshold": 2 });
    let (servers, address) = scene.serve("server", 1, |spec| {
        spec["nodeSelector"] = on(&nodes.names()[1]);
        spec["containers"][0]["readinessProbe"] = probe.clone();
        spec["containers"][0]["livenessProbe"] = probe;
    });
    eventually(BY_AND_BY, || {
        let why = scene.fails(&address, "/denied")?;
        ensure!(why.contains("status 403"), "{why}");
        Ok(())
    })
    .unwrap();
    scene.ask(&address, "/allowed").unwrap();
    // In plain text, from the host itself, which isn't in the mesh: only kubelet's path passes.
    let ip = servers[0]["status"]["podIP"].as_str().unwrap();
    let strict = eventually(BY_AND_BY, || {
        let modes = nodes.agents[1].cli(&["get", "pods", "-o", "json"])?.success()?.stdout;
        ensure!(modes.to_lowercase().contains("strict"), "{modes}");
        Ok(())
    });
    strict.unwrap();
    let plain = |path: &str| {
        let stream = std::net::TcpStream::connect((ip, PORT))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        anyhow::Ok(mesh_tests::http1::Client::new(stream).get("plain", path)?.status())
    };
    assert_eq!(plain("/probe").unwrap(), 200);
    assert_eq!(plain("/other").unwrap(), 403);
    let now = nodes.wait_ready("strict", "server", 1).unwrap();
    assert_eq!(now[0]["status"]["containerStatuses"][0]["restartCount"], 0, "{}", now[0]["status"]);
}

#[test]
fn a_deployment_of_none_refuses_at_once_and_serves_again_when_scaled_up() {
    let nodes = need_nodes!(beside_others);
    let scene = Scene::new(&nodes, "scaled");
    let (_, address) = scene.serve("server", 1, |_| {});
    let scale = |to: &str| nodes.kubectl(&["scale", "deployment", "server", "-n", "scaled", to], "").unwrap();
    scale("--replicas=0");
    eventually(BY_AND_BY, || {
        let why = scene.fails(&address, "/")?;
        ensure!(why.contains("No route to host") || why.contains("status 503"), "{why}");
        Ok(())
    })
    .unwrap();
    scale("--replicas=2");
    eventually(BY_AND_BY, || scene.ask(&address, "/")).unwrap();
}

#[test]
fn a_rolling_update_under_load_fails_no_request() {
    let nodes = need_nodes!(beside_others);
    let scene = Scene::new(&nodes, "rolling");
    let (_, address) = scene.serve("server", 2, |spec| {
        spread("server")(spec);
        // It serves on for so long after it was told to end: the first process of a container ignores SIGTERM.
        spec["terminationGracePeriodSeconds"] = json!(3);
        spec["containers"][0]["readinessProbe"] =
            json!({ "tcpSocket": { "port": PORT }, "periodSeconds": 1 });
    });
    let load = scene.load(&address, 900, 20);
    nodes.kubectl(&["rollout", "restart", "deployment", "server", "-n", "rolling"], "").unwrap();
    nodes
        .kubectl(&["rollout", "status", "deployment", "server", "-n", "rolling", "--timeout=60s"], "")
        .unwrap();
    let done = load.finish(BY_AND_BY).unwrap();
    assert_eq!(done.stdout.lines().last(), Some("900 answered, 0 failed"), "{}", done.stdout);
}

#[test]
fn while_a_node_s_kubelet_is_stopped_its_pods_serve_and_labels_hold() {
    let nodes = need_nodes!(alone);
    let scene = Scene::new(&nodes, "kubelet");
    let far = &nodes.names()[1];
    let (servers, address) = scene.serve("server", 1, |spec| spec["nodeSelector"] = on(far));
    let kubelet = format!("kubelet-{far}");
    nodes.signal(&kubelet, Signal::SIGSTOP).unwrap();
    let result = (|| {
        scene.ask(&address, "/while-stopped")?;
        let label = ["label", "pod", text(&servers[0], "name"), "-n", "kubelet"];
        nodes.kubectl(&[&label[..], &["mesh-agent.dev/dataplane-mode=none"]].concat(), "")?;
        nodes.wait_capture(&servers[0], "none")?;
        nodes.kubectl(&[&label[..], &["mesh-agent.dev/dataplane-mode-"]].concat(), "")?;
        nodes.wait_capture(&servers[0], "captured")?;
        scene.ask(&address, "/while-stopped")
    })();
    nodes.signal(&kubelet, Signal::SIGCONT).unwrap();
    result.unwrap();
}

#[test]
fn while_the_api_server_is_stopped_traffic_goes_on_and_changes_follow_afterwards() {
    let nodes = need_nodes!(alone);
    let scene = Scene::new(&nodes, "api");
    let (_, address) = scene.serve("server", 2, spread("server"));
    // kubectl exec goes by the API server, which is to be away: a pod of its own asks.
    let load = pod("api", "load", &["get", &address, "/load", "700", "100"], |spec| {
        spec["restartPolicy"] = json!("Never");
        spec["nodeSelector"] = on(&nodes.names()[0]);
    });
    nodes.apply(&[load]).unwrap();
    nodes.agents[0].log_shows("the load", |line| line["path"] == "/load").unwrap();
    nodes.signal("kube-apiserver", Signal::SIGSTOP).unwrap();
    let stopped = Instant::now();
    let ready = eventually(Duration::from_secs(70), || {
        nodes.agents.iter().try_for_each(|agent| agent.is_ready())?;
        ensure!(stopped.elapsed() >= Duration::from_secs(60), "not a minute yet");
        Ok(())
    });
    nodes.signal("kube-apiserver", Signal::SIGCONT).unwrap();
    ready.unwrap();
    let log = eventually(BY_AND_BY, || {
        let log = nodes.kubectl(&["logs", "load", "-n", "api"], "")?;
        ensure!(log.contains(" answered, "), "{log}");
        Ok(log)
    })
    .unwrap();
    assert_eq!(log.lines().last(), Some("700 answered, 0 failed"), "{log}");
    let (_, other) = scene.serve("after", 1, |_| {});
    scene.ask(&other, "/").unwrap();
}
