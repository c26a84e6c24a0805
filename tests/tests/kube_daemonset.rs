//! What the manifests make on real nodes: a mesh for a labelled namespace within a minute, a denied request with its reason,
//! updates without a failed request, and traffic that goes on without controllers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "kube_daemonset/seen.rs"]
mod seen;

use std::time::Duration;

use anyhow::{Result, ensure};
use mesh_tests::PATIENCE;
use mesh_tests::cluster::{BY_AND_BY, IMAGE, NAMESPACE_GONE, PORT, service};
use mesh_tests::daemons::{Daemons, MESH, apply, pods};
use mesh_tests::kube::crd;
use mesh_tests::lab::eventually;
use serde_json::{Value, json};

/// A pod of an account of its name, as a user that isn't root, on a node.
fn pod(name: &str, node: &str, args: &[&str]) -> Value {
    let command = [&["/kube-peer"], args].concat();
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "shop", "labels": {"app": name}},
        "spec": {
            "nodeName": node, "serviceAccountName": name, "automountServiceAccountToken": false,
            "terminationGracePeriodSeconds": 0,
            "securityContext": {"runAsUser": 1000, "runAsNonRoot": true},
            "containers": [{"name": "peer", "image": IMAGE, "imagePullPolicy": "Never", "command": command}],
        },
    })
}

fn account(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": "shop"}})
}

fn get(daemons: &Daemons, from: &str, address: &str) -> Result<String> {
    Ok(daemons.peer("shop", from, &["get", address, "/"])?.finish(PATIENCE)?.success()?.stdout)
}

#[test]
fn the_manifests_make_a_mesh_of_a_labelled_namespace() {
    let Some(daemons) = Daemons::start() else { return };
    assert!(daemons.took < Duration::from_secs(60), "agents and controllers took {:?}", daemons.took);
    let [a, b] = daemons.names().clone();
    let cluster = &daemons.cluster;
    cluster.kubectl(&["create", "namespace", "shop"], "").unwrap();
    cluster.apply(&[account("web"), account("batch"), account("cart")]).unwrap();
    let serve = PORT.to_string();
    let objects = [
        pod("web", &a, &["wait"]),
        pod("batch", &a, &["wait"]),
        pod("cart", &b, &["serve", &serve]),
        service("shop", "cart"),
    ];
    cluster.apply(&objects).unwrap();
    cluster.kubectl(&["label", "namespace", "shop", "mesh-agent.dev/dataplane-mode=enabled"], "").unwrap();
    for app in ["web", "batch", "cart"] {
        eventually(BY_AND_BY, || {
            let pods = pods(cluster, "shop", &format!("app={app}"))?;
            let annotation = &pods[0]["metadata"]["annotations"]["ambient.istio.io/redirection"];
            ensure!(annotation == "enabled", "{app}: {}", pods[0]["metadata"]["annotations"]);
            Ok(())
        })
        .unwrap();
    }
    // No kube-proxy is here: the address of the Service is the mesh's, and the other node is reached in mutual TLS.
    let ip = cluster
        .kubectl(&["get", "service", "cart", "-n", "shop", "-o", "jsonpath={.spec.clusterIP}"], "")
        .unwrap();
    let address = format!("{ip}:80");
    eventually(BY_AND_BY, || get(&daemons, "web", &address)).unwrap();
    let agents = ["agent-0", "agent-1"].map(|name| daemons.wait_agent(name).unwrap());
    let certs = daemons.cli(&agents[0], &["get", "certs", "-o", "json"]).unwrap().stdout;
    let certs: Vec<Value> = serde_json::from_str(&certs).unwrap();
    assert!(certs.iter().all(|row| row["state"] == "valid") && certs.len() == 2, "{certs:?}");

    asked_by_node(&daemons);
    seen::from_outside(&daemons, &address);
    tried_out(&daemons);
    every_right_is_used_and_every_request_has_its_right(&daemons);
    denied_and_told_why(&daemons, &agents[1], &address);
    updated_without_a_failed_request(&daemons, &address);
    traffic_goes_on_without_controllers(&daemons, &address);
}

/// The command line of this machine, through the API server.
fn asked_by_node(daemons: &Daemons) {
    let [a, b] = daemons.names();
    let told = daemons.cli_here(&["status", "--all-nodes", "-o", "json"]).unwrap().success().unwrap();
    let status: Value = serde_json::from_str(&told.stdout).unwrap();
    for node in [a, b] {
        let agent = &status[node]["agent"];
        assert!(agent["node"] == node.as_str() && agent["ready"] == true, "{status}");
    }
    let told = daemons.cli_here(&["get", "certs", "--node", b]).unwrap().success().unwrap();
    assert!(told.stdout.contains("cart") && !told.stdout.contains("batch"), "{}", told.stdout);
    let told = daemons.cli_here(&["describe", "pod", "shop/cart", "--node", b]).unwrap().success().unwrap();
    assert!(told.stdout.contains("captured"), "{}", told.stdout);
    let told = daemons.cli_here(&["check", "--node", a]).unwrap();
    assert!(told.stdout.contains("kernel\n------\n") && told.stdout.contains("cgroup2"), "{}", told.stdout);
    let told = daemons.cli_here(&["status", "--node", "nowhere"]).unwrap();
    assert!(told.code == 69 && told.stderr.contains(a.as_str()), "{} {}", told.code, told.stderr);
    let told = daemons.cli_here(&["check", "--pre"]).unwrap().success().unwrap();
    for line in [format!("√ node {a}"), "√ peerauthentications.security.istio.io".to_owned()] {
        assert!(told.stdout.contains(&line), "{}", told.stdout);
    }
    assert!(told.stdout.contains("‼ destinationrules.networking.istio.io"), "{}", told.stdout);
}

/// As somebody would who has just installed it.
fn tried_out(daemons: &Daemons) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("junit.xml");
    let junit = file.display().to_string();
    let told = daemons.cli_here(&["connectivity", "test", "--junit", &junit, "-o", "json"]).unwrap();
    let cases: Vec<Value> = serde_json::from_str(&told.stdout).unwrap_or_default();
    assert_eq!(told.code, 0, "{}\n{}", told.stdout, told.stderr);
    assert!(cases.len() == 8 && cases.iter().all(|case| case["result"] == "passed"), "{}", told.stdout);
    let junit = std::fs::read_to_string(&file).unwrap();
    assert!(junit.contains("tests=\"8\" failures=\"0\" skipped=\"0\""), "{junit}");
    eventually(NAMESPACE_GONE, || {
        let args = ["get", "namespace", "mesh-agent-test", "--ignore-not-found", "-o", "json"];
        let left = daemons.cluster.kubectl(&args, "")?;
        ensure!(left.is_empty(), "the namespace is still there: {left}");
        Ok(())
    })
    .unwrap();
}

/// Kinds that the rest of the test does without, so that agents ask for every one that they read.
const OTHER_KINDS: [(&str, &str, &str, &str); 9] = [
    ("gateway.networking.k8s.io", "v1", "grpcroutes", "GRPCRoute"),
    ("gateway.networking.k8s.io", "v1alpha2", "tlsroutes", "TLSRoute"),
    ("gateway.networking.k8s.io", "v1alpha2", "tcproutes", "TCPRoute"),
    ("gateway.networking.k8s.io", "v1beta1", "referencegrants", "ReferenceGrant"),
    ("gateway.networking.x-k8s.io", "v1alpha1", "xbackendtrafficpolicies", "XBackendTrafficPolicy"),
    ("gateway.networking.k8s.io", "v1", "backendtlspolicies", "BackendTLSPolicy"),
    ("security.istio.io", "v1", "requestauthentications", "RequestAuthentication"),
    ("networking.istio.io", "v1", "destinationrules", "DestinationRule"),
    ("networking.istio.io", "v1", "serviceentries", "ServiceEntry"),
];

fn every_right_is_used_and_every_request_has_its_right(daemons: &Daemons) {
    let cluster = &daemons.cluster;
    cluster
        .apply(&OTHER_KINDS.map(|(group, version, plural, kind)| crd(group, &[version], plural, kind)))
        .unwrap();
    // One that names a ConfigMap: none is asked for without.
    let encrypted = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "BackendTLSPolicy",
        "metadata": {"name": "encrypted", "namespace": "shop"},
        "spec": {"targetRefs": [{"group": "", "kind": "Service", "name": "nobody"}], "validation": {
            "hostname": "nobody", "caCertificateRefs": [{"group": "", "kind": "ConfigMap", "name": "nobody"}]}},
    });
    cluster.apply(&[encrypted]).unwrap();
    // Out of the mesh and in again, by the same agent: counted in the Event that there is.
    let mode = |label: &str| cluster.kubectl(&["label", "pod", "batch", "-n", "shop", label], "").unwrap();
    for (label, says) in
        [("mesh-agent.dev/dataplane-mode=none", false), ("mesh-agent.dev/dataplane-mode-", true)]
    {
        mode(label);
        eventually(BY_AND_BY, || {
            let pods = pods(cluster, "shop", "app=batch")?;
            let annotation = &pods[0]["metadata"]["annotations"]["ambient.istio.io/redirection"];
            ensure!((annotation == "enabled") == says, "{annotation} with {label}");
            Ok(())
        })
        .unwrap();
    }
    let granted = daemons.granted().unwrap();
    let asked = eventually(BY_AND_BY, || {
        let asked = cluster.asked()?;
        let idle: Vec<_> = granted.difference(&asked.rights).collect();
        ensure!(idle.is_empty(), "granted and never used: {idle:?}");
        Ok(asked)
    })
    .unwrap();
    assert!(asked.forbidden.is_empty(), "asked without a right: {:?}", asked.forbidden);
    let beyond: Vec<_> = asked.rights.difference(&granted).collect();
    assert!(beyond.is_empty(), "let through by another's rules: {beyond:?}");
}

fn denied_and_told_why(daemons: &Daemons, agent: &Value, address: &str) {
    let policy = json!({
        "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
        "metadata": {"name": "cart", "namespace": "shop"},
        "spec": {
            "selector": {"matchLabels": {"app": "cart"}},
            "rules": [{"from": [{"source": {"principals": ["cluster.local/ns/shop/sa/web"]}}]}],
        },
    });
    daemons.cluster.apply(&[policy]).unwrap();
    eventually(BY_AND_BY, || {
        ensure!(get(daemons, "batch", address).is_err(), "batch is still let in");
        Ok(())
    })
    .unwrap();
    get(daemons, "web", address).unwrap();
    let args = ["authz", "check", "--from", "pod/shop/batch", "--to", "pod/shop/cart"];
    let told = daemons.cli(agent, &args).unwrap();
    assert!(told.stdout.contains("denied") && told.stdout.contains("shop/cart"), "{}", told.stdout);
}

/// A pod of the same node starts beside the one that runs, as in a rolling update with maxSurge, and takes over.
fn updated_without_a_failed_request(daemons: &Daemons, address: &str) {
    let load = daemons.peer("shop", "web", &["get", address, "/", "200", "50"]).unwrap();
    apply(&daemons.cluster, vec![daemons.next(0)]).unwrap();
    let next = daemons.wait_agent("next").unwrap();
    // The one that was replaced waits, and isn't started again to take over in its turn.
    let old = daemons.wait_agent("agent-0").unwrap();
    daemons.cluster.kubectl(&["delete", "daemonset", "mesh-agent-0", "-n", MESH], "").unwrap();
    let ended = load.finish(PATIENCE * 2).unwrap();
    assert_eq!(ended.code, 0, "{} {}", ended.stdout, ended.stderr);
    assert_eq!(old["status"]["containerStatuses"][0]["restartCount"], 0);
    let status = daemons.cli(&next, &["status"]).unwrap();
    assert!(status.stdout.contains("2/2 captured"), "{}", status.stdout);
}

fn traffic_goes_on_without_controllers(daemons: &Daemons, address: &str) {
    let scale = ["scale", "deployment", "mesh-agent-controller", "-n", MESH, "--replicas=0"];
    daemons.cluster.kubectl(&scale, "").unwrap();
    eventually(BY_AND_BY, || {
        let left = pods(&daemons.cluster, MESH, "app.kubernetes.io/component=controller")?;
        ensure!(left.is_empty(), "{} are left", left.len());
        Ok(())
    })
    .unwrap();
    let ended =
        daemons.peer("shop", "web", &["get", address, "/", "50", "20"]).unwrap().finish(PATIENCE).unwrap();
    assert_eq!(ended.code, 0, "{} {}", ended.stdout, ended.stderr);
}
