//! Controllers at a real API server, with no more rights than the chart gives them: who gets a certificate, who leads, what is
//! written into objects, and that each right is used.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mesh_agent::identity::issuer::IssueError;
use mesh_tests::PATIENCE;
use mesh_tests::charts::by_cli;
use mesh_tests::controllers::{MESH, Stage, TAKEOVER, account, agent_pod, pod_of, stage};
use mesh_tests::kube::service;
use mesh_tests::lab::eventually;
use serde_json::{Value, json};

/// Longer than a change takes to be seen, built and written.
const SOON: Duration = Duration::from_secs(60);

macro_rules! need_stage {
    () => {
        match stage() {
            Some(turn) => turn,
            None => return,
        }
    };
}

fn signed(stage: &Stage, token: &str, account: &str) -> Result<Vec<Vec<u8>>> {
    let address = stage.controllers()[0].address;
    eventually(SOON, || Ok(stage.ask(address, token, account)?))
}

fn refused(stage: &Stage, token: &str, account: &str) -> String {
    let address = stage.controllers()[0].address;
    match stage.ask(address, token, account) {
        Err(IssueError::Refused(why) | IssueError::Unavailable(why)) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_agents_token_gets_the_identities_of_its_own_nodes_pods() {
    let turn = need_stage!();
    let stage = &*turn.stage;
    let a = stage.token("mesh-agent", "mesh-agent", Some("mesh-agent-a")).unwrap();
    let b = stage.token("mesh-agent", "mesh-agent", Some("mesh-agent-b")).unwrap();
    signed(stage, &a, "web").unwrap();
    signed(stage, &b, "cart").unwrap();
    for (token, account) in [(&a, "cart"), (&b, "web"), (&a, "nobody")] {
        let why = refused(stage, token, account);
        assert!(why.contains("PERMISSION_DENIED") && why.contains("no pod of"), "{why}");
    }
    // A pod that comes later is known without a restart, and one that goes takes its identity along.
    stage.cluster.apply(&[account("shop", "late"), pod_of("shop", "late-1", "node-a", "late")]).unwrap();
    signed(stage, &a, "late").unwrap();
    stage.cluster.delete(&[pod_of("shop", "late-1", "node-a", "late")]).unwrap();
    let address = stage.controllers()[0].address;
    eventually(SOON, || {
        ensure!(matches!(stage.ask(address, &a, "late"), Err(IssueError::Refused(_))), "still signed");
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_token_that_is_not_an_agents_is_refused() {
    let turn = need_stage!();
    let stage = &*turn.stage;
    // First with a good one: what is refused below isn't for want of readiness.
    signed(stage, &stage.token("mesh-agent", "mesh-agent", Some("mesh-agent-a")).unwrap(), "web").unwrap();
    let mut other = pod_of(MESH, "other", "node-a", "default");
    other["metadata"]["labels"] = json!({});
    stage.cluster.apply(&[other]).unwrap();
    for (what, token) in [
        (
            "another audience",
            stage.token("mesh-agent", "https://kubernetes.default.svc", Some("mesh-agent-a")),
        ),
        ("another account", stage.token("default", "mesh-agent", Some("other"))),
        ("no pod", stage.token("mesh-agent", "mesh-agent", None)),
        ("no token", Ok("eyJhbGciOiJSUzI1NiJ9.e30.AAAA".to_owned())),
    ] {
        let why = refused(stage, &token.unwrap(), "web");
        assert!(why.contains("UNAUTHENTICATED"), "{what}: {why}");
    }
    stage.cluster.apply(&[agent_pod("mesh-agent-gone", "node-a")]).unwrap();
    let token = stage.token("mesh-agent", "mesh-agent", Some("mesh-agent-gone")).unwrap();
    signed(stage, &token, "web").unwrap();
    stage.cluster.delete(&[agent_pod("mesh-agent-gone", "node-a")]).unwrap();
    // The API server remembers for ten seconds that a token was good.
    let address = stage.controllers()[0].address;
    eventually(TAKEOVER, || match stage.ask(address, &token, "web") {
        Err(IssueError::Unavailable(why)) if why.contains("UNAUTHENTICATED") => Ok(()),
        other => anyhow::bail!("{other:?}"),
    })
    .unwrap();
}

#[test]
fn two_controllers_share_a_key_that_was_made_once_and_both_sign() {
    let turn = need_stage!();
    let stage = &*turn.stage;
    let token = stage.token("mesh-agent", "mesh-agent", Some("mesh-agent-a")).unwrap();
    let addresses: Vec<_> = stage.controllers().iter().map(|controller| controller.address).collect();
    assert_eq!(addresses.len(), 2);
    // Where another test has had the root renewed, each reads of it when it looks.
    eventually(SOON, || {
        let roots: Result<BTreeSet<_>, _> =
            addresses.iter().map(|address| stage.ask(*address, &token, "web")).collect();
        ensure!(roots?.len() == 1, "each has roots of its own");
        Ok(())
    })
    .unwrap();
    let secret = stage.get("secrets", MESH, "mesh-agent-ca").unwrap();
    assert_eq!(secret["type"], "kubernetes.io/tls");
    let keys: Vec<_> = secret["data"].as_object().unwrap().keys().collect();
    assert!(
        ["ca.crt", "tls.crt", "tls.key"].iter().all(|key| keys.contains(&&(*key).to_owned())),
        "{keys:?}"
    );
}

#[test]
fn another_controller_leads_when_the_one_that_led_ends_or_dies() {
    let turn = need_stage!();
    let stage = &*turn.stage;
    for kindly in [true, false] {
        let leader = eventually(TAKEOVER, || stage.leader()).unwrap();
        let before =
            stage.get("leases", MESH, "mesh-agent-controller").unwrap()["spec"]["holderIdentity"].clone();
        let begun = Instant::now();
        let mut gone = stage.controllers().remove(leader);
        gone.end(kindly).unwrap();
        eventually(TAKEOVER, || stage.leader()).unwrap();
        let took = begun.elapsed();
        assert!(
            !kindly || took < Duration::from_secs(10),
            "a Lease that is let go is taken at once: {took:?}"
        );
        assert!(
            kindly || took > Duration::from_secs(5),
            "a Lease isn't taken from one that may live: {took:?}"
        );
        let after =
            stage.get("leases", MESH, "mesh-agent-controller").unwrap()["spec"]["holderIdentity"].clone();
        assert_ne!(before, after);
        // The new one writes.
        let name = if kindly { "led-1" } else { "led-2" };
        stage.cluster.apply(&[service("shop", name, 80), route(name, name, &[name])]).unwrap();
        eventually(SOON, || accepted(stage, "httproutes", name)).unwrap();
        // And the other is there again, for the next round.
        drop(gone);
        stage.restore().unwrap();
    }
}

fn route(name: &str, parent: &str, backends: &[&str]) -> Value {
    let backends: Vec<_> = backends.iter().map(|name| json!({"name": name, "port": 80})).collect();
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": name, "namespace": "shop"},
        "spec": {
            "parentRefs": [{"group": "", "kind": "Service", "name": parent, "port": 80}, {"name": "gateway"}],
            "rules": [{"backendRefs": backends}],
        },
    })
}

fn policy(name: &str, target: &str, timeout: &str) -> Value {
    json!({
        "apiVersion": "mesh-agent.dev/v1alpha1", "kind": "TrafficPolicy", "metadata": {"name": name, "namespace": "shop"},
        "spec": {"targetRefs": [{"kind": "Service", "name": target}], "timeout": timeout},
    })
}

/// Our entries of an object's status, without times: `TYPE=STATUS:REASON@GENERATION`.
fn ours(object: &Value) -> Vec<String> {
    let lists = ["parents", "ancestors"].iter().filter_map(|list| object["status"][*list].as_array());
    let ours = lists.flatten().filter(|entry| entry["controllerName"] == "mesh-agent.dev/controller");
    let conditions = ours.flat_map(|entry| entry["conditions"].as_array().unwrap());
    let whole = object["status"]["conditions"].as_array().into_iter().flatten();
    conditions
        .chain(whole.filter(|condition| condition["type"] == "mesh-agent.dev/Accepted"))
        .map(|it| {
            let text = |field: &str| it[field].as_str().unwrap().to_owned();
            let name = text("type").replace("mesh-agent.dev/", "");
            format!("{name}={}:{}@{}", text("status"), text("reason"), it["observedGeneration"])
        })
        .collect()
}

fn accepted(stage: &Stage, resource: &str, name: &str) -> Result<Value> {
    let object = stage.get(resource, "shop", name)?;
    let ours = ours(&object);
    ensure!(ours.iter().any(|it| it.starts_with("Accepted=True")), "{name}: {ours:?}");
    Ok(object)
}

fn says(stage: &Stage, resource: &str, name: &str, wanted: &[&str]) {
    eventually(SOON, || {
        let found = ours(&stage.get(resource, "shop", name)?);
        ensure!(found == wanted, "{name}: {found:?}");
        Ok(())
    })
    .unwrap();
}

#[test]
fn routes_and_policies_say_what_became_of_them_and_follow_what_changes() {
    let turn = need_stage!();
    let stage = &*turn.stage;
    let cluster = &stage.cluster;
    cluster.apply(&[route("told", "told", &["told", "told-v2"]), policy("told-a", "told", "1s")]).unwrap();
    let nowhere = ["Accepted=False:NoMatchingParent@1", "ResolvedRefs=False:BackendNotFound@1"];
    says(stage, "httproutes", "told", &nowhere);
    says(stage, "trafficpolicies", "told-a", &["Accepted=False:TargetNotFound@1"]);
    cluster.apply(&[service("shop", "told", 80)]).unwrap();
    says(stage, "httproutes", "told", &["Accepted=True:Accepted@1", "ResolvedRefs=False:BackendNotFound@1"]);
    says(stage, "trafficpolicies", "told-a", &["Accepted=True:Accepted@1"]);
    cluster.apply(&[service("shop", "told-v2", 80)]).unwrap();
    says(stage, "httproutes", "told", &["Accepted=True:Accepted@1", "ResolvedRefs=True:ResolvedRefs@1"]);
    let mut changed = route("told", "told", &["told"]);
    changed["spec"]["rules"][0]["backendRefs"][0]["weight"] = 2.into();
    cluster.apply(&[changed]).unwrap();
    says(stage, "httproutes", "told", &["Accepted=True:Accepted@2", "ResolvedRefs=True:ResolvedRefs@2"]);
    cluster.apply(&[policy("told-b", "told", "2s")]).unwrap();
    says(stage, "trafficpolicies", "told-b", &["Accepted=False:Conflicted@1"]);
    // What the agent refuses is told too; its last valid version stays in force.
    cluster.apply(&[policy("told-a", "told", "0s")]).unwrap();
    says(stage, "trafficpolicies", "told-a", &["Accepted=False:Invalid@2"]);
    let told = stage.get("trafficpolicies", "shop", "told-a").unwrap();
    let message = told["status"]["ancestors"][0]["conditions"][0]["message"].as_str().unwrap();
    assert!(message.contains("spec.timeout") && message.contains("last valid version stays"), "{message}");
}

#[test]
fn a_status_is_written_once_however_much_else_changes() {
    let turn = need_stage!();
    let stage = &*turn.stage;
    let cluster = &stage.cluster;
    cluster
        .apply(&[service("shop", "once", 80), route("once", "once", &["once"]), policy("once", "once", "1s")])
        .unwrap();
    let before = eventually(SOON, || accepted(stage, "httproutes", "once")).unwrap();
    let policy_before = eventually(SOON, || accepted(stage, "trafficpolicies", "once")).unwrap();
    for name in ["once-a", "once-b", "once-c"] {
        cluster.apply(&[service("shop", name, 80), route(name, name, &[name])]).unwrap();
        eventually(SOON, || accepted(stage, "httproutes", name)).unwrap();
    }
    // A leader that knows nothing of what was written before looks at everything and changes nothing.
    let leader = eventually(TAKEOVER, || stage.leader()).unwrap();
    stage.controllers().remove(leader).end(true).unwrap();
    eventually(TAKEOVER, || stage.leader()).unwrap();
    cluster.apply(&[service("shop", "once-d", 80), route("once-d", "once-d", &["once-d"])]).unwrap();
    eventually(SOON, || accepted(stage, "httproutes", "once-d")).unwrap();
    let version = |object: &Value| object["metadata"]["resourceVersion"].clone();
    assert_eq!(version(&before), version(&stage.get("httproutes", "shop", "once").unwrap()));
    assert_eq!(version(&policy_before), version(&stage.get("trafficpolicies", "shop", "once").unwrap()));
}

fn istio(version: &str, kind: &str, name: &str, spec: &Value) -> Value {
    let metadata = json!({"name": name, "namespace": "shop"});
    json!({"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec})
}

#[test]
fn istios_objects_get_one_condition_beside_those_of_others() {
    let turn = need_stage!();
    let stage = &*turn.stage;
    let cluster = &stage.cluster;
    let policy = |action: &str| {
        istio(
            "security.istio.io/v1",
            "AuthorizationPolicy",
            "judged",
            &json!({"action": action, "rules": [{}]}),
        )
    };
    cluster.apply(&[policy("DENY")]).unwrap();
    says(stage, "authorizationpolicies", "judged", &["Accepted=True:Accepted@1"]);
    // As istiod writes it, before ours.
    let other = json!({"type": "WaypointAccepted", "status": "True", "reason": "Accepted", "x": "kept"});
    let path = "/apis/security.istio.io/v1/namespaces/shop/authorizationpolicies/judged";
    eventually(PATIENCE, || {
        let mut object: Value = serde_json::from_str(&cluster.kubectl(&["get", "--raw", path], "")?)?;
        object["status"]["conditions"].as_array_mut().context("no conditions")?.insert(0, other.clone());
        object["status"]["validationMessages"] = json!([{"level": "INFO"}]);
        let args = ["replace", "--raw", &format!("{path}/status"), "-f", "-"];
        cluster.kubectl(&args, &object.to_string()).map(drop)
    })
    .unwrap();
    cluster.apply(&[policy("PERHAPS")]).unwrap();
    says(stage, "authorizationpolicies", "judged", &["Accepted=False:Invalid@2"]);
    let found = stage.get("authorizationpolicies", "shop", "judged").unwrap();
    let conditions = found["status"]["conditions"].as_array().unwrap();
    assert_eq!((conditions.len(), &conditions[0]), (2, &other));
    assert_eq!(found["status"]["validationMessages"], json!([{"level": "INFO"}]));
    let message = conditions[1]["message"].as_str().unwrap();
    assert!(message.contains("spec.action") && message.contains("last valid version stays"), "{message}");
    // A leader that knows nothing of what was written looks at it and writes nothing.
    let leader = eventually(TAKEOVER, || stage.leader()).unwrap();
    stage.controllers().remove(leader).end(true).unwrap();
    eventually(TAKEOVER, || stage.leader()).unwrap();
    let rule = json!({"host": "later.shop.svc.cluster.local", "trafficPolicy": {"loadBalancer": {"simple": "RANDOM"}}});
    let later = istio("networking.istio.io/v1", "DestinationRule", "later", &rule);
    cluster.apply(&[service("shop", "later", 80), later]).unwrap();
    says(stage, "destinationrules", "later", &["Accepted=True:Accepted@1"]);
    let after = stage.get("authorizationpolicies", "shop", "judged").unwrap();
    assert_eq!(after["metadata"]["resourceVersion"], found["metadata"]["resourceVersion"]);
}

/// Has a CRD with or without a status that is written apart.
fn set_status(stage: &Stage, crd: &str, has: bool) {
    let value = if has { r#"{"status": {}}"# } else { "null" };
    let patch = format!(r#"[{{"op": "add", "path": "/spec/versions/0/subresources", "value": {value}}}]"#);
    stage.cluster.kubectl(&["patch", "crd", crd, "--type=json", "-p", &patch], "").unwrap();
}

#[test]
fn a_crd_without_a_status_is_left_alone() {
    let turn = need_stage!();
    let stage = &*turn.stage;
    let crd = "serviceentries.networking.istio.io";
    set_status(stage, crd, false);
    // What a controller knows of a resource it keeps: new ones.
    stage.controllers().clear();
    stage.restore().unwrap();
    let spec = json!({"hosts": ["plain.example.com"], "ports": [{"number": 80, "name": "http"}], "resolution": "DNS"});
    stage.cluster.apply(&[istio("networking.istio.io/v1", "ServiceEntry", "plain", &spec)]).unwrap();
    let seen = eventually(TAKEOVER, || {
        let leader = stage.leader()?;
        let controllers = stage.controllers();
        let metric = |outcome: &str| {
            let name = "mesh_agent_controller_status_writes_total";
            controllers[leader].metric(&format!(r#"{name}{{outcome="{outcome}"}}"#))
        };
        ensure!(metric("no_status")? > 0.0, "not looked at yet");
        metric("failed")
    });
    let object = stage.get("serviceentries", "shop", "plain").unwrap();
    set_status(stage, crd, true);
    assert_eq!(seen.unwrap(), 0.0);
    assert_eq!(object["status"], Value::Null);
    stage.controllers().clear();
    stage.restore().unwrap();
    says(stage, "serviceentries", "plain", &["Accepted=True:Accepted@1"]);
}

/// Writes the status of another controller into a route, from what is there, as often as it takes.
fn write_other(stage: &Stage, name: &str, reason: &str) -> Result<()> {
    let path = format!("/apis/gateway.networking.k8s.io/v1/namespaces/shop/httproutes/{name}");
    eventually(PATIENCE, || {
        let mut object: Value = serde_json::from_str(&stage.cluster.kubectl(&["get", "--raw", &path], "")?)?;
        let mut parents = object["status"]["parents"].as_array().cloned().unwrap_or_default();
        parents.retain(|entry| entry["controllerName"] != "example.com/other");
        parents.insert(
            0,
            json!({
                "parentRef": {"name": "gateway"}, "controllerName": "example.com/other",
                "conditions": [{"type": "Accepted", "status": "True", "reason": reason, "message": "",
                    "lastTransitionTime": "2026-01-01T00:00:00Z"}],
            }),
        );
        object["status"] = json!({"parents": parents});
        let args = ["replace", "--raw", &format!("{path}/status"), "-f", "-"];
        stage.cluster.kubectl(&args, &object.to_string()).map(drop)
    })
}

#[test]
fn another_controllers_entries_stay_though_both_write_at_once() {
    let turn = need_stage!();
    let stage = &*turn.stage;
    let cluster = &stage.cluster;
    cluster.apply(&[service("shop", "both", 80), route("both", "both", &["both"])]).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| (0..8).for_each(|round| write_other(stage, "both", &format!("R{round}")).unwrap()));
        scope.spawn(|| {
            for round in 0..8 {
                let mut route = route("both", "both", &["both"]);
                route["spec"]["rules"][0]["backendRefs"][0]["weight"] = (round + 1).into();
                cluster.apply(&[route]).unwrap();
            }
        });
    });
    let object = eventually(SOON, || {
        let object = accepted(stage, "httproutes", "both")?;
        let wanted = format!("Accepted=True:Accepted@{}", object["metadata"]["generation"]);
        ensure!(ours(&object).contains(&wanted), "{:?}", ours(&object));
        Ok(object)
    })
    .unwrap();
    let others: Vec<&Value> = object["status"]["parents"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|entry| entry["controllerName"] == "example.com/other")
        .collect();
    assert_eq!(others.len(), 1);
    assert_eq!(others[0]["conditions"][0]["reason"], "R7", "the last that it wrote");
}

#[test]
fn the_trust_bundle_is_where_captured_pods_are_and_is_mended() {
    let turn = need_stage!();
    let stage = &*turn.stage;
    let cluster = &stage.cluster;
    let root = eventually(SOON, || stage.bundle(MESH)).unwrap();
    assert!(root.starts_with("-----BEGIN CERTIFICATE-----"));
    // What another test renews meanwhile is published everywhere.
    let has_it = |namespace: &str| {
        eventually(SOON, || {
            ensure!(stage.bundle(namespace)? == stage.bundle(MESH)?, "{namespace} has another");
            Ok(())
        })
        .unwrap();
    };
    has_it("shop");
    cluster.namespace("apart", &json!({})).unwrap();
    cluster.namespace("later", &json!({})).unwrap();
    cluster
        .apply(&[pod_of("later", "a", "node-a", "default"), pod_of("apart", "a", "node-a", "default")])
        .unwrap();
    let label = ["label", "namespace", "later", "mesh-agent.dev/dataplane-mode=enabled"];
    cluster.kubectl(&label, "").unwrap();
    has_it("later");
    assert!(stage.bundle("apart").is_err(), "nothing is captured there");
    let change = r#"{"data": {"root-cert.pem": "other", "more": "x"}}"#;
    cluster
        .kubectl(&["patch", "configmap", "mesh-agent-root", "-n", "later", "--type=merge", "-p", change], "")
        .unwrap();
    eventually(SOON, || {
        let map = stage.get("configmaps", "later", "mesh-agent-root")?;
        ensure!(map["data"] == json!({"root-cert.pem": stage.bundle(MESH)?}), "{}", map["data"]);
        Ok(())
    })
    .unwrap();
    cluster.kubectl(&["delete", "configmap", "mesh-agent-root", "-n", "later"], "").unwrap();
    eventually(SOON, || stage.bundle("later")).unwrap();
}

/// A permission: verb, group, resource.
type Right = (String, String, String);

/// Every permission that rules give, with the names it is bound to.
fn rights(rules: &Value) -> BTreeMap<Right, Vec<String>> {
    let texts = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().map(|text| text.as_str().unwrap().to_owned()).collect()
    };
    let mut all = BTreeMap::new();
    for rule in rules.as_array().unwrap() {
        for group in texts(&rule["apiGroups"]) {
            for resource in texts(&rule["resources"]) {
                for verb in texts(&rule["verbs"]) {
                    all.insert((verb, group.clone(), resource.clone()), texts(&rule["resourceNames"]));
                }
            }
        }
    }
    all
}

/// What a request asks permission for; none for what is about no resource.
fn right(method: &str, url: &str) -> Option<Right> {
    let (path, query) = url.split_once('?').unwrap_or((url, ""));
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let (group, rest) = match parts.as_slice() {
        ["api", _, rest @ ..] => ("", rest),
        ["apis", group, _, rest @ ..] => (*group, rest),
        _ => return None,
    };
    let rest = match rest {
        ["namespaces", _, rest @ ..] if !rest.is_empty() => rest,
        rest => rest,
    };
    let (resource, name) = match rest {
        [] => return None,
        [resource] => ((*resource).to_owned(), None),
        [resource, name] => ((*resource).to_owned(), Some(*name)),
        [resource, name, sub, ..] => (format!("{resource}/{sub}"), Some(*name)),
    };
    let verb = match (method, name) {
        ("GET", None) if query.contains("watch=true") || query.contains("watch=1") => "watch",
        ("GET", None) => "list",
        ("GET", Some(_)) => "get",
        ("POST", _) => "create",
        ("PUT", _) => "update",
        ("PATCH", _) => "patch",
        ("DELETE", _) => "delete",
        _ => return None,
    };
    Some((verb.to_owned(), group.to_owned(), resource))
}

#[test]
fn every_right_is_used_and_every_request_has_its_right() {
    let turn = need_stage!();
    let stage = &*turn.stage;
    // Something of each kind, and a token, so that all that controllers do is done.
    let other = |version: &str, kind: &str| {
        let mut object = route("rights", "rights", &["rights"]);
        object["apiVersion"] = format!("gateway.networking.k8s.io/{version}").into();
        object["kind"] = kind.into();
        object
    };
    let mut retries = policy("rights", "rights", "1s");
    retries["apiVersion"] = "gateway.networking.x-k8s.io/v1alpha1".into();
    retries["kind"] = "XBackendTrafficPolicy".into();
    retries["spec"] = json!({"targetRefs": [{"group": "", "kind": "Service", "name": "rights"}],
        "retryConstraint": {"budget": {"percent": 20}}});
    let mut encrypted = other("v1", "BackendTLSPolicy");
    encrypted["spec"] = json!({"targetRefs": [{"group": "", "kind": "Service", "name": "rights"}],
        "validation": {"hostname": "rights", "caCertificateRefs": [{"group": "", "kind": "ConfigMap", "name": "rights"}]}});
    let objects = [
        service("shop", "rights", 80),
        encrypted,
        other("v1", "HTTPRoute"),
        other("v1", "GRPCRoute"),
        other("v1alpha2", "TLSRoute"),
        other("v1alpha2", "TCPRoute"),
        policy("rights", "rights", "1s"),
        retries,
        istio("security.istio.io/v1", "AuthorizationPolicy", "rights", &json!({"action": "AUDIT"})),
        istio(
            "security.istio.io/v1",
            "PeerAuthentication",
            "rights",
            &json!({"mtls": {"mode": "PERMISSIVE"}}),
        ),
        istio("security.istio.io/v1", "RequestAuthentication", "rights", &json!({"jwtRules": []})),
        istio("networking.istio.io/v1", "DestinationRule", "rights", &json!({"host": "rights"})),
        istio("networking.istio.io/v1", "ServiceEntry", "rights", &json!({"hosts": ["rights.example.com"]})),
    ];
    stage.cluster.apply(&objects).unwrap();
    for resource in [
        "httproutes",
        "grpcroutes",
        "tlsroutes",
        "tcproutes",
        "trafficpolicies",
        "xbackendtrafficpolicies",
        "backendtlspolicies",
        "authorizationpolicies",
        "peerauthentications",
        "requestauthentications",
        "destinationrules",
        "serviceentries",
    ] {
        eventually(SOON, || {
            let object = stage.get(resource, "shop", "rights")?;
            ensure!(!ours(&object).is_empty(), "{resource} has no status yet");
            Ok(())
        })
        .unwrap();
    }
    signed(stage, &stage.token("mesh-agent", "mesh-agent", Some("mesh-agent-a")).unwrap(), "web").unwrap();
    let change = r#"{"data": {"root-cert.pem": "other"}}"#;
    let patch = ["patch", "configmap", "mesh-agent-root", "-n", "shop", "--type=merge", "-p", change];
    stage.cluster.kubectl(&patch, "").unwrap();
    eventually(SOON, || {
        ensure!(stage.bundle("shop")? == stage.bundle(MESH)?, "not mended");
        Ok(())
    })
    .unwrap();

    let renew =
        ["annotate", "secret", "mesh-agent-ca", "-n", MESH, "--overwrite", "mesh-agent.dev/renew-root=now"];
    stage.cluster.kubectl(&renew, "").unwrap();
    eventually(TAKEOVER, || {
        let secret = stage.get("secrets", MESH, "mesh-agent-ca")?;
        ensure!(!secret["data"]["next.crt"].is_null(), "no new root yet");
        Ok(())
    })
    .unwrap();

    let objects = by_cli("mesh-agent", &json!({})).unwrap().unwrap();
    let mut granted = rights(&objects["ClusterRole /mesh-agent-controller"]["rules"]);
    granted.extend(rights(&objects["Role mesh/mesh-agent-controller"]["rules"]));
    let asked = stage.asked().unwrap();
    let used: BTreeSet<Right> = asked.iter().filter_map(|(method, url)| right(method, url)).collect();
    let missing: Vec<&Right> = used.iter().filter(|right| !granted.contains_key(right)).collect();
    assert!(missing.is_empty(), "asked without a right: {missing:?}");
    let idle: Vec<&Right> = granted.keys().filter(|right| !used.contains(right)).collect();
    assert!(idle.is_empty(), "granted and never used: {idle:?}");
    // What is bound to a name is asked by that name.
    for (method, url) in &asked {
        let Some(right) = right(method, url) else { continue };
        let names = &granted[&right];
        assert!(
            names.is_empty() || names.iter().any(|name| url.contains(name.as_str())),
            "{method} {url}: {names:?}"
        );
    }
    let log = asked.len();
    assert!(log > 20, "{log} requests");
}
