//! The API server as the source: what appears, changes and vanishes there, and what an agent holds to while it is away.
//!
//! Agents are real ones, told by `--source kube`; pods have no kubelet, since nothing here goes through the data path.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::fs;
use std::time::Duration;

use anyhow::{Result, ensure};
use mesh_tests::kube::{Cluster, crd, pod, service, slice};
use mesh_tests::lab::{Agent, AgentOptions, Node, Topology, eventually};
use mesh_tests::pki::Authority;
use mesh_tests::{SOON, need_agent, need_kube};
use serde_json::{Value, json};

/// An API server that starts, and a back-off that was at its longest.
const BACK: Duration = Duration::from_secs(90);
/// A watch that is silent is given up after two minutes.
const SILENCE: Duration = Duration::from_secs(200);

struct World {
    agent: Agent,
    _node: Node,
    _topology: Topology,
}

impl World {
    fn start(name: &str, options: AgentOptions, cluster: &Cluster) -> Self {
        let mut world = Self::spawn(name, options, cluster);
        world.agent.wait_ready().unwrap();
        world
    }

    fn spawn(name: &str, options: AgentOptions, cluster: &Cluster) -> Self {
        let kubeconfig = cluster.kubeconfig().display().to_string();
        Self::with(name, options.source("kube").env("KUBECONFIG", kubeconfig))
    }

    fn with(name: &str, options: AgentOptions) -> Self {
        let topology = Topology::new(name).unwrap();
        let node = topology.node("node-a").unwrap();
        let agent = Agent::spawn(&node, options).unwrap();
        Self { agent, _node: node, _topology: topology }
    }

    /// Rows of `get KIND` in this namespace.
    fn get(&self, kind: &str, namespace: &str) -> Result<Vec<Value>> {
        let Value::Array(rows) = self.agent.cli_json(&["get", kind])? else { return Ok(Vec::new()) };
        Ok(rows.into_iter().filter(|row| row["namespace"] == namespace).collect())
    }

    /// Waits until `get KIND` has exactly these names in the namespace.
    fn expect(&self, kind: &str, namespace: &str, want: &[&str]) {
        self.expect_within(BACK, kind, namespace, want);
    }

    fn expect_within(&self, deadline: Duration, kind: &str, namespace: &str, want: &[&str]) {
        eventually(deadline, || {
            let rows = self.get(kind, namespace)?;
            let mut names: Vec<_> = rows.iter().filter_map(|row| row["name"].as_str()).collect();
            names.dedup();
            ensure!(names == want, "{kind} of {namespace}: {names:?}, not {want:?}");
            Ok(())
        })
        .unwrap();
    }

    fn warnings(&self) -> String {
        self.agent.cli(&["config", "warnings"]).map(|done| done.stdout).unwrap_or_default()
    }

    fn expect_warning(&self, part: &str, there: bool) {
        eventually(BACK, || {
            let warnings = self.warnings();
            ensure!(warnings.contains(part) == there, "{part}: {warnings}");
            Ok(())
        })
        .unwrap();
    }

    fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.agent.metrics().map_or(-1.0, |metrics| metrics.sum(name, labels))
    }

    /// How often the log has a line with this.
    fn said(&self, part: &str) -> usize {
        self.agent.log().lines().filter(|line| line.contains(part)).count()
    }

    fn is_ready(&self) -> bool {
        self.agent.get("/readyz").is_ok_and(|(status, _)| status == 200)
    }
}

fn enabled() -> Value {
    json!({"mesh-agent.dev/dataplane-mode": "enabled"})
}

fn route(namespace: &str, name: &str, version: &str, backend: &str) -> Value {
    json!({
        "apiVersion": format!("gateway.networking.k8s.io/{version}"), "kind": "HTTPRoute",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "parentRefs": [{"group": "", "kind": "Service", "name": backend}],
            "rules": [{"backendRefs": [{"name": backend, "port": 80}]}],
        },
    })
}

fn routes(versions: &[&str]) -> Value {
    crd("gateway.networking.k8s.io", versions, "httproutes", "HTTPRoute")
}

/// As an API server that was never told of routes.
fn forget_routes(cluster: &Cluster) {
    let args =
        ["delete", "customresourcedefinition", "httproutes.gateway.networking.k8s.io", "--ignore-not-found"];
    cluster.kubectl(&args, "").unwrap();
}

#[test]
fn objects_are_known_as_they_appear_change_and_vanish() {
    let (options, cluster) = (need_agent!(), need_kube!(shared));
    let world = World::start("kube-objects", options, &cluster);
    let ns = "objects";
    cluster.namespace(ns, &json!({})).unwrap();
    cluster.apply(&[service(ns, "cart", 80), slice(ns, "cart", &["10.1.0.1"])]).unwrap();
    cluster.apply(&[pod(ns, "here", "node-a"), pod(ns, "there", "node-b")]).unwrap();
    world.expect("services", ns, &["cart"]);
    world.expect("workloads", ns, &["here", "there"]);
    let status = json!({"phase": "Running", "podIP": "10.1.0.1", "podIPs": [{"ip": "10.1.0.1"}]});
    cluster.set_pod_status(ns, "there", &status).unwrap();
    cluster.apply(&[slice(ns, "cart", &["10.1.0.1", "10.1.0.2"])]).unwrap();
    eventually(SOON, || {
        let endpoints = world.get("endpoints", ns)?;
        ensure!(endpoints.len() == 2, "{endpoints:?}");
        let pods = world.get("workloads", ns)?;
        let there = pods.iter().find(|pod| pod["name"] == "there").unwrap();
        ensure!(there["addresses"] == json!(["10.1.0.1"]) && there["node"] == "node-b", "{there}");
        Ok(())
    })
    .unwrap();
    cluster.namespace(ns, &enabled()).unwrap();
    eventually(SOON, || {
        let pods = world.get("workloads", ns)?;
        ensure!(pods.iter().all(|pod| pod["capture"] != "none"), "{pods:?}");
        Ok(())
    })
    .unwrap();
    cluster.delete(&[pod(ns, "there", "node-b"), service(ns, "cart", 80), slice(ns, "cart", &[])]).unwrap();
    world.expect("services", ns, &[]);
    world.expect("workloads", ns, &["here"]);
    for resource in ["pods", "services", "httproutes"] {
        let connected = world.metric("mesh_agent_source_connected", &[("resource", resource)]);
        assert!((connected - 1.0).abs() < f64::EPSILON, "{resource}: {connected}");
    }
}

/// Whoever may create pods could otherwise have the node's own network namespace captured as that pod's.
#[test]
fn no_pod_names_its_network_namespace() {
    let (options, cluster) = (need_agent!(), need_kube!(shared));
    let world = World::start("kube-netns", options, &cluster);
    let ns = "netns";
    cluster.namespace(ns, &enabled()).unwrap();
    let mut intruder = pod(ns, "intruder", "node-a");
    intruder["metadata"]["annotations"] = json!({"mesh-agent.dev/netns": "/proc/1/ns/net"});
    cluster.apply(&[intruder]).unwrap();
    world.expect("workloads", ns, &["intruder"]);
    let row = &world.get("workloads", ns).unwrap()[0];
    let by_uid = row["netns"].as_str().is_some_and(|found| found.starts_with("uid:"));
    assert!(by_uid && row["capture"] != "captured", "{row}");
}

#[test]
fn a_crd_that_appears_later_is_read_and_one_that_vanishes_takes_its_objects_along() {
    let (options, cluster) = (need_agent!(), need_kube!(in_turn));
    forget_routes(&cluster);
    let world = World::start("kube-crd", options, &cluster);
    let ns = "crds";
    cluster.namespace(ns, &json!({})).unwrap();
    cluster.apply(&[service(ns, "cart", 80)]).unwrap();
    world.expect("services", ns, &["cart"]);
    world.expect("routes", ns, &[]);
    cluster.apply(&[routes(&["v1beta1"])]).unwrap();
    eventually(SOON, || cluster.apply(&[route(ns, "old", "v1beta1", "cart")])).unwrap();
    world.expect("routes", ns, &["old"]);
    // Another version of it, then only that one.
    cluster.apply(&[routes(&["v1beta1", "v1"])]).unwrap();
    eventually(SOON, || cluster.apply(&[route(ns, "new", "v1", "cart")])).unwrap();
    world.expect("routes", ns, &["new", "old"]);
    cluster.delete(&[routes(&["v1"])]).unwrap();
    world.expect("routes", ns, &[]);
    cluster.apply(&[routes(&["v1"])]).unwrap();
    eventually(SOON, || cluster.apply(&[route(ns, "again", "v1", "cart")])).unwrap();
    world.expect("routes", ns, &["again"]);
    world.expect("services", ns, &["cart"]);
}

#[test]
fn a_version_that_is_served_no_more_gives_way_to_the_one_that_is() {
    let (options, cluster) = (need_agent!(), need_kube!(in_turn));
    forget_routes(&cluster);
    let ns = "versions";
    cluster.namespace(ns, &json!({})).unwrap();
    let mut both = routes(&["v1", "v1beta1"]);
    cluster.apply(&[both.clone(), service(ns, "cart", 80)]).unwrap();
    eventually(SOON, || cluster.apply(&[route(ns, "cart", "v1", "cart")])).unwrap();
    let world = World::start("kube-versions", options, &cluster);
    world.expect("routes", ns, &["cart"]);
    both["spec"]["versions"][0]["served"] = json!(false);
    cluster.apply(&[both]).unwrap();
    eventually(SOON, || cluster.apply(&[route(ns, "later", "v1beta1", "cart")])).unwrap();
    world.expect("routes", ns, &["cart", "later"]);
}

#[test]
fn what_was_known_stays_while_the_api_server_is_away_and_is_brought_up_to_date_after() {
    let (options, cluster) = (need_agent!(), need_kube!(in_turn));
    let world = World::start("kube-away", options, &cluster);
    let ns = "away";
    cluster.namespace(ns, &json!({})).unwrap();
    cluster.apply(&[service(ns, "cart", 80), pod(ns, "web", "node-a")]).unwrap();
    world.expect("services", ns, &["cart"]);
    world.expect("workloads", ns, &["web"]);
    cluster.kill("kube-apiserver").unwrap();
    world.expect_warning("MESH0155", true);
    eventually(SOON, || {
        let status = world.agent.cli(&["status"])?.stdout;
        ensure!(status.contains("not watched for") && status.contains("stays in force"), "{status}");
        let connected = world.metric("mesh_agent_source_connected", &[]);
        ensure!(connected == 0.0, "{connected} watches are connected");
        Ok(())
    })
    .unwrap();
    assert!(world.is_ready());
    world.expect("services", ns, &["cart"]);
    cluster.revive("kube-apiserver").unwrap();
    cluster.delete(&[pod(ns, "web", "node-a")]).unwrap();
    cluster.apply(&[service(ns, "shop", 80)]).unwrap();
    world.expect("services", ns, &["cart", "shop"]);
    world.expect("workloads", ns, &[]);
    world.expect_warning("MESH0155", false);
    assert_eq!((world.said("MESH0155"), world.said("no longer so")), (2, 1), "{}", world.agent.log());
}

#[test]
fn where_watching_cannot_go_on_everything_is_read_again_as_a_difference() {
    let (options, cluster) = (need_agent!(), need_kube!(in_turn));
    let kubeconfig = cluster.dir().unwrap().join("gate.kubeconfig");
    let gate = cluster.kubeconfig_through_a_gate(&kubeconfig).unwrap();
    let options = options.source("kube").env("KUBECONFIG", kubeconfig.display().to_string());
    let mut world = World::with("kube-relist", options);
    world.agent.wait_ready().unwrap();
    let ns = "relist";
    cluster.namespace(ns, &json!({})).unwrap();
    cluster.apply(&[service(ns, "stays", 80), service(ns, "goes", 80), service(ns, "changes", 80)]).unwrap();
    world.expect("services", ns, &["changes", "goes", "stays"]);
    let generation = world.agent.cli_json(&["status"]).unwrap()["config"]["generation"].as_u64().unwrap();
    // It isn't told what happens, and an API server that starts anew remembers nothing of it.
    gate.shut();
    cluster.delete(&[service(ns, "goes", 80)]).unwrap();
    cluster.apply(&[service(ns, "changes", 81), service(ns, "comes", 80)]).unwrap();
    cluster.kill("kube-apiserver").unwrap();
    cluster.revive("kube-apiserver").unwrap();
    gate.open();
    world.expect("services", ns, &["changes", "comes", "stays"]);
    let relists = world.metric("mesh_agent_source_relists_total", &[("resource", "services")]);
    let expired = world.metric("mesh_agent_source_errors_total", &[("reason", "expired")]);
    assert!(relists >= 1.0 && expired >= 1.0, "{relists} relists, {expired} times expired");
    let history = world.agent.cli_json(&["config", "history"]).unwrap();
    let later =
        history.as_array().unwrap().iter().filter(|entry| entry["generation"].as_u64() > Some(generation));
    let changed: Vec<String> = later
        .flat_map(|entry| entry["changes"].as_array().cloned().unwrap_or_default())
        .map(|change| {
            format!("{} {}", change["change"].as_str().unwrap(), change["object"].as_str().unwrap())
        })
        .filter(|change| change.contains("relist/"))
        .collect();
    let mut sorted = changed.clone();
    sorted.sort();
    let want =
        ["added Service relist/comes", "changed Service relist/changes", "removed Service relist/goes"];
    assert_eq!(sorted, want);
}

#[test]
fn a_restored_backup_of_etcd_is_followed() {
    let (options, cluster) = (need_agent!(), need_kube!(own));
    let world = World::start("kube-backup", options, &cluster);
    let ns = "backup";
    cluster.namespace(ns, &json!({})).unwrap();
    cluster.apply(&[service(ns, "early", 80)]).unwrap();
    world.expect("services", ns, &["early"]);
    let (data, copy) = (cluster.dir().unwrap().join("etcd"), cluster.dir().unwrap().join("etcd-copy"));
    let stop = || {
        cluster.kill("kube-apiserver").unwrap();
        cluster.kill("etcd").unwrap();
    };
    let start = || {
        cluster.revive("etcd").unwrap();
        cluster.revive("kube-apiserver").unwrap();
    };
    let copy_all = |from: &std::path::Path, to: &std::path::Path| {
        let done = std::process::Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
        assert!(done.success());
    };
    stop();
    copy_all(&data, &copy);
    start();
    for port in 80..140 {
        cluster.apply(&[service(ns, "late", port)]).unwrap();
        if port == 80 {
            world.expect("services", ns, &["early", "late"]);
        }
    }
    stop();
    fs::remove_dir_all(&data).unwrap();
    fs::rename(&copy, &data).unwrap();
    start();
    world.expect_within(SILENCE, "services", ns, &["early"]);
    cluster.apply(&[service(ns, "after", 80)]).unwrap();
    world.expect("services", ns, &["after", "early"]);
}

#[test]
fn config_maps_are_watched_that_a_policy_of_tls_names_and_no_others() {
    let (options, cluster) = (need_agent!(), need_kube!(shared));
    let policies = crd("gateway.networking.k8s.io", &["v1"], "backendtlspolicies", "BackendTLSPolicy");
    cluster.apply(&[policies]).unwrap();
    cluster.namespace("tls", &enabled()).unwrap();
    let policy = |map: &str| {
        json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "BackendTLSPolicy",
            "metadata": {"name": "cart", "namespace": "tls"},
            "spec": {"targetRefs": [{"group": "", "kind": "Service", "name": "cart"}], "validation": {
                "hostname": "cart.test", "caCertificateRefs": [{"group": "", "kind": "ConfigMap", "name": map}]}},
        })
    };
    let dir = tempfile::tempdir().unwrap();
    let authority = fs::read_to_string(Authority::new(dir.path(), "ca").unwrap().file()).unwrap();
    let map = |name: &str, pem: &str| {
        let metadata = json!({"name": name, "namespace": "tls"});
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"ca.crt": pem}})
    };
    cluster.apply(&[service("tls", "cart", 80), policy("one"), map("one", &authority)]).unwrap();
    let mut world = World::start("kube-tls", options, &cluster);
    let known = |world: &World| world.metric("mesh_agent_source_objects", &[("resource", "configmaps")]);
    // It was there before the agent, and is in force with the first that is.
    assert_eq!(known(&world), 1.0);
    assert!(!world.warnings().contains("MESH0157"), "{}", world.warnings());
    cluster.apply(&[map("one", "nothing")]).unwrap();
    world.expect_warning("ca.crt of ConfigMap tls/one", true);
    cluster.apply(&[policy("two")]).unwrap();
    world.expect_warning("there is no ConfigMap tls/two", true);
    cluster.apply(&[map("two", &authority)]).unwrap();
    world.expect_warning("MESH0157", false);
    assert_eq!(known(&world), 1.0, "the one that nobody names any more isn't known");
    world.agent.restart().unwrap();
    world.agent.wait_ready().unwrap();
    assert!(!world.warnings().contains("MESH0157"), "{}", world.warnings());
    cluster.delete(&[map("two", "")]).unwrap();
    world.expect_warning("there is no ConfigMap tls/two", true);
    cluster.delete(&[policy("two")]).unwrap();
    world.expect_warning("MESH0157", false);
    assert_eq!(known(&world), 0.0);
}

#[test]
fn an_invalid_object_leaves_its_last_valid_version_in_force() {
    let (options, cluster) = (need_agent!(), need_kube!(shared));
    let world = World::start("kube-invalid", options, &cluster);
    let ns = "invalid";
    cluster.namespace(ns, &json!({})).unwrap();
    cluster.apply(&[service(ns, "cart", 80), slice(ns, "cart", &["10.1.0.1"])]).unwrap();
    let endpoints = |count: usize| {
        eventually(SOON, || {
            let rows = world.get("endpoints", ns)?;
            ensure!(rows.len() == count, "{rows:?}");
            Ok(())
        })
        .unwrap();
    };
    endpoints(1);
    let mut broken = slice(ns, "cart", &["10.1.0.1", "10.1.0.2"]);
    broken["ports"][0]["port"] = json!(70_000);
    cluster.apply(&[broken]).unwrap();
    world.expect_warning("invalid/cart-1", true);
    assert!(world.warnings().contains("ports[0].port"), "{}", world.warnings());
    endpoints(1);
    cluster.apply(&[slice(ns, "cart", &["10.1.0.1", "10.1.0.2"])]).unwrap();
    world.expect_warning("invalid/cart-1", false);
    endpoints(2);
}

#[test]
fn an_agent_that_starts_again_goes_on_from_the_generation_it_had() {
    let (options, cluster) = (need_agent!(), need_kube!(in_turn));
    forget_routes(&cluster);
    let mut world = World::start("kube-restart", options, &cluster);
    let ns = "restart";
    cluster.namespace(ns, &json!({})).unwrap();
    cluster.apply(&[service(ns, "cart", 80)]).unwrap();
    world.expect("services", ns, &["cart"]);
    let newest = |world: &World| world.agent.cli_json(&["config", "history"]).unwrap()[0].clone();
    let before = newest(&world);
    // What is kept is written once a second.
    eventually(SOON, || {
        let text = fs::read_to_string(world.agent.state_dir().join("config-history.json"))?;
        ensure!(text.contains("restart/cart"), "not written yet");
        Ok(())
    })
    .unwrap();
    world.agent.restart().unwrap();
    world.expect("services", ns, &["cart"]);
    assert_eq!(newest(&world)["generation"], before["generation"]);
}

#[test]
fn an_agent_without_an_api_server_waits_for_it() {
    let (options, cluster) = (need_agent!(), need_kube!(in_turn));
    let ns = "waits";
    cluster.namespace(ns, &json!({})).unwrap();
    cluster.apply(&[service(ns, "cart", 80)]).unwrap();
    cluster.kill("kube-apiserver").unwrap();
    let mut world = World::spawn("kube-waits", options, &cluster);
    world.expect_warning("MESH0155", true);
    assert!(!world.is_ready());
    let status = world.agent.cli(&["status"]).unwrap().stdout;
    assert!(status.contains("generation 0") && status.contains("configuration loaded"), "{status}");
    assert!(status.contains("never heard"), "{status}");
    cluster.revive("kube-apiserver").unwrap();
    world.agent.wait_ready().unwrap();
    world.expect("services", ns, &["cart"]);
    world.expect_warning("MESH0155", false);
}

/// Without its policies an agent would let through what they forbid.
#[test]
fn an_agent_that_may_not_read_everything_is_not_ready_and_says_what_it_lacks() {
    let (options, cluster) = (need_agent!(), need_kube!(shared));
    let role = |resources: &[&str]| {
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "agent"},
            "rules": [{"apiGroups": ["", "discovery.k8s.io"], "resources": resources, "verbs": ["list", "watch"]}],
        })
    };
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "agent"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "agent"},
        "subjects": [{"kind": "User", "name": "agent", "apiGroup": "rbac.authorization.k8s.io"}],
    });
    let all = ["namespaces", "nodes", "pods", "services", "endpointslices"];
    cluster.apply(&[role(&all[..4]), binding]).unwrap();
    let kubeconfig = cluster.dir().unwrap().join("agent.kubeconfig");
    cluster.kubeconfig_as("agent", &kubeconfig).unwrap();
    let options = options.source("kube").env("KUBECONFIG", kubeconfig.display().to_string());
    let mut world = World::with("kube-rbac", options);
    world.expect_warning("MESH0156", true);
    let warnings = world.warnings();
    assert!(
        warnings.contains("endpointslices.discovery.k8s.io") && !warnings.contains("MESH0155"),
        "{warnings}"
    );
    assert!(!world.is_ready());
    cluster.apply(&[role(&all)]).unwrap();
    world.agent.wait_ready().unwrap();
    world.expect_warning("MESH0156", false);
}

#[test]
fn inside_a_cluster_the_api_server_is_the_source_unless_another_is_given() {
    let (options, cluster) = (need_agent!(), need_kube!(shared));
    let kubeconfig = cluster.kubeconfig().display().to_string();
    let inside = options.env("KUBERNETES_SERVICE_HOST", "127.0.0.1").env("KUBERNETES_SERVICE_PORT", "1");
    let mut world =
        World::with("kube-default", inside.clone().without_source().env("KUBECONFIG", &kubeconfig));
    world.agent.wait_ready().unwrap();
    assert_eq!(world.agent.cli_json(&["status"]).unwrap()["config"]["source"], "kube");
    // A variable that leads nowhere never turns into another cluster.
    let mut lost = World::with("kube-lost", inside.without_source().env("KUBECONFIG", "/nowhere/kubeconfig"));
    eventually(SOON, || {
        ensure!(lost.agent.exit_code().is_some_and(|code| code != 0), "it runs");
        ensure!(lost.agent.log().contains("KUBECONFIG") && lost.agent.log().contains("/nowhere/kubeconfig"));
        Ok(())
    })
    .unwrap();
}
