//! The charts: Helm and the command line make the same of them, every version of Kubernetes accepts it, and what is refused
//! is refused by both.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use mesh_tests::charts::{Objects, ask, by_cli, by_helm, chart, documents};
use serde_json::{Value, json};

/// Values that between them take every branch of every template.
fn cases() -> Vec<Value> {
    vec![
        json!({}),
        json!({"image": {"digest": format!("sha256:{}", "a".repeat(64)), "pullPolicy": "Always"}, "imagePullSecrets": ["a", "b"]}),
        json!({"image": {"tag": "1.2.3"}, "podMonitor": {"enabled": true, "labels": {"release": "off"}},
            "resourceQuota": {"enabled": true}, "prometheusRule": {"enabled": true, "labels": {"release": "p"}},
            "grafanaDashboards": {"enabled": true}, "kubernetesService": {"host": "10.0.0.1", "port": 6443}}),
        json!({"controller": {"enabled": false}, "agent": {"ca": "spiffe:/run/spire/agent.sock",
            "extraVolumes": [{"name": "spire", "hostPath": {"path": "/run/spire"}}],
            "extraVolumeMounts": [{"name": "spire", "mountPath": "/run/spire", "readOnly": true}]},
            "podMonitor": {"enabled": true}, "prometheusRule": {"enabled": true},
            "grafanaDashboards": {"enabled": true, "labels": {"a": "1"}, "annotations": {"folder": "mesh"}}}),
        json!({"agent": {"config": {"accessLog": "json", "workers": 2, "drainTime": "5s",
            "extensionProviders": [{"name": "opa", "envoyExtAuthzHttp": {"service": "opa.shop.svc", "port": 80}}]},
            "metricsPort": 25020, "podLabels": {"a": "yes"}, "podAnnotations": {"b": "1"}, "priorityClassName": "",
            "nodeSelector": {"pool": "1", "on": "true"}, "tolerations": [], "affinity": {"nodeAffinity": {}},
            "appArmorProfile": {}, "seLinuxOptions": {}, "updateStrategy": {"type": "OnDelete"}}}),
        json!({"controller": {"replicas": 1, "affinity": {"nodeAffinity": {}}, "tolerations": [{"operator": "Exists"}],
            "podDisruptionBudget": {"enabled": false}, "podAnnotations": {"a": "b"}, "podLabels": {"c": "d"},
            "nodeSelector": {}, "priorityClassName": ""},
            "networkPolicy": {"enabled": false}, "trafficPolicyAdmission": {"enabled": false},
            "agentAdmission": {"enabled": false}}),
    ]
}

/// The one label that is about who installs.
fn without_manager(mut objects: Objects) -> Objects {
    fn strip(value: &mut Value) {
        match value {
            Value::Object(map) => {
                map.remove("app.kubernetes.io/managed-by");
                map.values_mut().for_each(strip);
            }
            Value::Array(list) => list.iter_mut().for_each(strip),
            _ => {}
        }
    }
    objects.values_mut().for_each(strip);
    objects
}

#[test]
fn helm_and_the_command_line_make_the_same_objects() {
    for name in ["mesh-crds", "mesh-agent"] {
        let cases = if name == "mesh-crds" { vec![json!({})] } else { cases() };
        for values in cases {
            let helm = without_manager(by_helm(name, &values).unwrap().unwrap());
            let cli = without_manager(by_cli(name, &values).unwrap().unwrap());
            assert_eq!(helm.keys().collect::<Vec<_>>(), cli.keys().collect::<Vec<_>>(), "{values}");
            for (object, by_helm) in &helm {
                assert_eq!(by_helm, &cli[object], "{object} with {values}");
            }
        }
    }
}

#[test]
fn helm_and_the_command_line_refuse_the_same_values() {
    for (values, named) in [
        (json!({"imag": {}}), "imag"),
        (json!({"agent": {"metricsPort": "x"}}), "metricsPort"),
        (json!({"agent": {"metricsPort": 70000}}), "metricsPort"),
        (json!({"agent": {"config": {"source": "dir:/x"}}}), "source"),
        (json!({"agent": {"ca": "letsencrypt"}}), "ca"),
        (json!({"agent": {"seccompProfile": {"type": "None"}}}), "seccompProfile"),
        (json!({"controller": {"enabled": false}}), "agent.ca"),
        (json!({"controller": {"replicas": 0}}), "replicas"),
        (json!({"controller": {"maxCertificateLifetime": "long"}}), "maxCertificateLifetime"),
        (json!({"controller": {"rootLifetime": "ever"}}), "rootLifetime"),
        (json!({"image": {"digest": "latest"}}), "digest"),
        (json!({"prometheusRule": {"labels": {"a": 1}}}), "labels"),
        (json!({"grafanaDashboards": {"folder": "a"}}), "folder"),
    ] {
        for refusal in [by_helm("mesh-agent", &values), by_cli("mesh-agent", &values)] {
            let refusal = refusal.unwrap().expect_err(&values.to_string());
            assert!(refusal.contains(named), "{values}: {refusal}");
        }
    }
}

#[test]
fn every_object_is_valid_in_every_version_of_kubernetes() {
    let mut all = Vec::new();
    for values in cases() {
        all.extend(by_helm("mesh-agent", &values).unwrap().unwrap().into_values());
    }
    all.extend(by_helm("mesh-crds", &json!({})).unwrap().unwrap().into_values());
    // Not of Kubernetes, so none of its schemas has it.
    all.retain(|object| object["apiVersion"] != "monitoring.coreos.com/v1");
    assert_eq!(ask("validate", &all.into()).unwrap(), json!([]));
    // Strict is meant: an unknown field is found.
    let odd =
        json!([{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "spec": {"portz": []}}]);
    assert_ne!(ask("validate", &odd).unwrap(), json!([]));
}

#[test]
fn dashboards_and_rules_are_those_of_the_files() {
    let values = json!({"prometheusRule": {"enabled": true}, "grafanaDashboards": {"enabled": true}});
    let objects = by_cli("mesh-agent", &values).unwrap().unwrap();
    let read = |path: &str| std::fs::read_to_string(chart("mesh-agent").join(path)).unwrap();
    let rules = &objects["PrometheusRule mesh/mesh-agent"]["spec"];
    assert_eq!(rules, &documents(&read("alerts/mesh-agent.rules.yaml")).unwrap()[0]);
    let shown = objects["ConfigMap mesh/mesh-agent-dashboards"]["data"].as_object().unwrap();
    assert_eq!(shown.len(), 3);
    for (name, text) in shown {
        let file = read(&format!("dashboards/{}", name.strip_prefix("mesh-agent-").unwrap()));
        let json = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        assert_eq!(json(text.as_str().unwrap()), json(&file), "{name}");
    }
}

#[test]
fn charts_pass_lint() {
    let charts = json!([chart("mesh-crds"), chart("mesh-agent")]);
    assert_eq!(ask("lint", &charts).unwrap(), json!([]));
}

/// TrafficPolicies of the documentation.
fn examples() -> Vec<Value> {
    let dir = chart("../../docs/examples");
    let files = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let texts = files.map(|path| std::fs::read_to_string(path).unwrap());
    let objects = texts.flat_map(|text| documents(&text).unwrap());
    objects.filter(|object| object["kind"] == "TrafficPolicy").collect()
}

fn policy(spec: Value) -> Value {
    let mut policy = json!({"apiVersion": "mesh-agent.dev/v1alpha1", "kind": "TrafficPolicy",
        "metadata": {"name": "a", "namespace": "shop"},
        "spec": {"targetRefs": [{"kind": "Service", "name": "cart"}]}});
    for (field, value) in spec.as_object().unwrap() {
        policy["spec"][field] = value.clone();
    }
    policy
}

#[test]
fn admission_refuses_what_the_agent_refuses_and_nothing_else() {
    let objects = by_helm("mesh-agent", &json!({})).unwrap().unwrap();
    let admission = &objects["ValidatingAdmissionPolicy /trafficpolicies.mesh-agent.dev"];
    let twice = json!([{"kind": "Service", "name": "cart"}, {"kind": "Service", "name": "cart"}]);
    let bad = [
        (policy(json!({"targetRefs": twice, "timeout": "1s"})), "spec.targetRefs"),
        (policy(json!({"timeout": "0s"})), "spec.timeout"),
        (policy(json!({"hedge": {"after": "0s"}})), "spec.hedge.after"),
        (policy(json!({"retry": {"backoff": {"base": "1s", "max": "10ms"}}})), "spec.retry.backoff.base"),
        (
            policy(json!({"concurrency": {"adaptive": {"minLimit": 9, "maxLimit": 3}}})),
            "spec.concurrency.adaptive.minLimit",
        ),
        (
            policy(json!({"fallback": {"service": {"name": "b", "namespace": "other", "port": 80}}})),
            "spec.fallback.service.namespace",
        ),
        (policy(json!({"healthCheck": {"http": {"path": "healthz"}}})), "spec.healthCheck.http.path"),
    ];
    let good = examples();
    assert!(good.len() > 5);
    let all: Vec<&Value> = good.iter().chain(bad.iter().map(|(policy, _)| policy)).collect();
    let rules = &admission["spec"]["validations"];
    assert_eq!(rules.as_array().unwrap().len(), bad.len(), "each rule has its case");
    let all: Vec<Value> = all.into_iter().map(|object| json!({"object": object})).collect();
    let told = ask("cel", &json!({"conditions": [], "rules": rules, "requests": all})).unwrap();
    let (told_good, told_bad) = told.as_array().unwrap().split_at(good.len());
    assert!(told_good.iter().all(Value::is_null), "{told_good:?}");
    for ((policy, field), told) in bad.iter().zip(told_bad) {
        assert!(told.as_str().is_some_and(|told| told.starts_with(field)), "{policy}: {told}");
        // The agent says the same of the same field.
        let warnings = validated(policy);
        assert!(warnings.contains(field) && warnings.contains("MESH0109"), "{policy}: {warnings}");
    }
}

/// A request of a service account, with the node that its token names if it names one.
fn request(account: &str, node: Option<&str>, old: Value, object: Value) -> Value {
    let extra = match node {
        Some(node) => json!({"authentication.kubernetes.io/node-name": [node]}),
        None => json!({}),
    };
    let user = json!({"username": format!("system:serviceaccount:{account}"), "extra": extra});
    json!({"request": {"userInfo": user}, "oldObject": old, "object": object})
}

/// What the policy says to each: a message, or null where it lets it pass or isn't about it.
fn judged(policy: &str, requests: &[Value]) -> Vec<Value> {
    let objects = by_helm("mesh-agent", &json!({})).unwrap().unwrap();
    let spec = &objects[&format!("ValidatingAdmissionPolicy /{policy}")]["spec"];
    let binding = &objects[&format!("ValidatingAdmissionPolicyBinding /{policy}")]["spec"];
    assert_eq!(binding, &json!({"policyName": policy, "validationActions": ["Deny"]}));
    assert_eq!(spec["failurePolicy"], "Fail");
    let question =
        json!({"conditions": spec["matchConditions"], "rules": spec["validations"], "requests": requests});
    ask("cel", &question).unwrap().as_array().unwrap().clone()
}

fn check_judged(policy: &str, cases: &[(&str, Value, Option<&str>)]) {
    let requests: Vec<Value> = cases.iter().map(|(_, request, _)| request.clone()).collect();
    for ((what, _, want), told) in cases.iter().zip(judged(policy, &requests)) {
        let fits = match (want, told.as_str()) {
            (Some(part), Some(told)) => told.contains(part),
            (want, told) => want.is_none() && told.is_none(),
        };
        assert!(fits, "{what}: {told}, not {want:?}");
    }
}

const AGENT: &str = "mesh:mesh-agent";

#[test]
fn an_agent_writes_to_pods_of_its_own_node_only_and_changes_no_labels() {
    let pod = |node: &str, labels: Value, annotations: Value| json!({"metadata": {"name": "a", "labels": labels, "annotations": annotations}, "spec": {"nodeName": node}});
    let (app, on) = (json!({"app": "a"}), json!({"ambient.istio.io/redirection": "enabled"}));
    let plain = |node: &str| pod(node, app.clone(), json!({}));
    let captured = |node: &str| pod(node, app.clone(), on.clone());
    let bare = json!({"metadata": {"name": "a"}, "spec": {"nodeName": "node-a"}});
    let mut labelled = bare.clone();
    labelled["metadata"]["labels"] = app.clone();
    let waiting = json!({"metadata": {"name": "a"}, "spec": {}});
    let (elsewhere, labels) = (Some("isn't on the node"), Some("metadata.labels"));
    let own = |old: Value, new: Value| request(AGENT, Some("node-a"), old, new);
    check_judged(
        "agents-pods.mesh-agent.dev",
        &[
            ("its own node's", own(plain("node-a"), captured("node-a")), None),
            ("its own node's, without labels", own(bare.clone(), bare.clone()), None),
            ("another node's", own(plain("node-b"), captured("node-b")), elsewhere),
            ("another node's, said to be its own's", own(plain("node-b"), captured("node-a")), elsewhere),
            ("no node's", own(waiting.clone(), waiting), elsewhere),
            (
                "a token that names no node",
                request(AGENT, None, plain("node-a"), captured("node-a")),
                elsewhere,
            ),
            ("another label", own(plain("node-a"), pod("node-a", json!({"app": "b"}), on.clone())), labels),
            ("a first label", own(bare.clone(), labelled.clone()), labels),
            ("the last label gone", own(labelled, bare), labels),
            ("kubelet's", request("kube-system:kubelet", None, plain("node-b"), plain("node-b")), None),
            ("another release's", request("other:mesh-agent", None, plain("node-b"), plain("node-b")), None),
        ],
    );
}

#[test]
fn an_agent_writes_events_of_its_own_only() {
    let event = |by: &str, node: &str| json!({"reportingController": by, "reportingInstance": node});
    let ours = |node: &str| event("mesh-agent.dev/agent", node);
    let own = |old: Value, new: Value| request(AGENT, Some("node-a"), old, new);
    let (as_other, elsewhere) = (Some("reportingController"), Some("reportingInstance"));
    check_judged(
        "agents-events.mesh-agent.dev",
        &[
            ("a new one", own(Value::Null, ours("node-a")), None),
            ("counted once more", own(ours("node-a"), ours("node-a")), None),
            ("as kubelet", own(Value::Null, event("kubelet", "node-a")), as_other),
            ("as nobody", own(Value::Null, json!({"reportingInstance": "node-a"})), as_other),
            ("kubelet's", own(event("kubelet", "node-a"), ours("node-a")), as_other),
            ("as another node's", own(Value::Null, ours("node-b")), elsewhere),
            ("another node's", own(ours("node-b"), ours("node-a")), elsewhere),
            ("as no node's", own(Value::Null, ours("")), elsewhere),
            ("a token that names no node", request(AGENT, None, Value::Null, ours("node-a")), elsewhere),
            (
                "kubelet's own",
                request("kube-system:kubelet", None, Value::Null, event("kubelet", "node-b")),
                None,
            ),
        ],
    );
}

/// What `config validate` says of an object.
fn validated(object: &Value) -> String {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("a.yaml"), object.to_string()).unwrap();
    let mut command = std::process::Command::new(mesh_tests::agent_binary().unwrap());
    let output = command.args(["config", "validate"]).arg(dir.path()).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// The containers' security contexts, by who they are of.
fn security(objects: &Objects, workload: &str) -> Value {
    let spec = &objects[workload]["spec"]["template"]["spec"];
    assert_eq!(spec["containers"].as_array().unwrap().len(), 1);
    spec["containers"][0]["securityContext"].clone()
}

#[test]
fn privileges_are_those_that_are_documented_and_no_others() {
    let objects = by_helm("mesh-agent", &json!({})).unwrap().unwrap();
    let agent = security(&objects, "DaemonSet mesh/mesh-agent");
    assert_eq!(agent["capabilities"]["drop"], json!(["ALL"]));
    let added: Vec<&str> =
        agent["capabilities"]["add"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    let text = std::fs::read_to_string(chart("../../docs/kubernetes.md")).unwrap();
    for name in &added {
        assert!(
            text.contains(&format!("| `{name}` | ")),
            "docs/kubernetes.md doesn't say what {name} is for"
        );
    }
    assert_eq!(added, ["NET_ADMIN", "SYS_ADMIN", "SYS_PTRACE"]);
    let controller = security(&objects, "Deployment mesh/mesh-agent-controller");
    assert_eq!(controller["capabilities"], json!({"drop": ["ALL"]}));
    for context in [&agent, &controller] {
        assert_eq!(context["readOnlyRootFilesystem"], true);
        assert_eq!(context["allowPrivilegeEscalation"], false);
        assert!(context["privileged"].is_null());
    }
    let daemon = &objects["DaemonSet mesh/mesh-agent"]["spec"]["template"]["spec"];
    assert_eq!((&daemon["hostPID"], &daemon["hostNetwork"]), (&Value::Null, &json!(true)));
    let writable: Vec<&Value> = daemon["containers"][0]["volumeMounts"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|mount| mount["readOnly"] != true)
        .map(|mount| &mount["mountPath"])
        .collect();
    assert_eq!(writable, ["/run/mesh-agent", "/sys/fs/bpf"]);
    assert!(daemon["containers"][0]["ports"].is_null(), "ports would keep the successor from starting");
}
