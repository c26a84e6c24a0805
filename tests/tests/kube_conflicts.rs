//! Controllers at a real API server when others write at the same time, when a leader is stopped and goes on, when the root gets old and
//! when tokens change: nothing is lost, and nobody writes again and again.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::fs;
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mesh_tests::PATIENCE;
use mesh_tests::controllers::{MESH, Stage, TAKEOVER, agent_pod, stage};
use mesh_tests::kube::service;
use mesh_tests::lab::eventually;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// Longer than a change takes to be seen, built and written, with a pause after a failure.
const SOON: Duration = Duration::from_secs(60);
const ROUTES: &str = "/apis/gateway.networking.k8s.io/v1/namespaces/shop/httproutes";
const SECRET: &str = "/api/v1/namespaces/mesh/secrets/mesh-agent-ca";
const BUNDLE: &str = "/api/v1/namespaces/shop/configmaps/mesh-agent-root";

macro_rules! need_stage {
    () => {
        match stage() {
            Some(turn) => turn,
            None => return,
        }
    };
}

fn route(name: &str) -> Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": name, "namespace": "shop"},
        "spec": {
            "parentRefs": [{"group": "", "kind": "Service", "name": name, "port": 80}, {"name": "gateway"}],
            "rules": [{"backendRefs": [{"name": name, "port": 80}]}],
        },
    })
}

/// A route that the leader accepts, after everything that came before it.
fn settle(stage: &Stage, name: &str) {
    stage.cluster.apply(&[service("shop", name, 80), route(name)]).unwrap();
    eventually(TAKEOVER, || accepted(stage, name)).unwrap();
}

fn accepted(stage: &Stage, name: &str) -> Result<Value> {
    let object = stage.get("httproutes", "shop", name)?;
    let parents = object["status"]["parents"].as_array().context("no status yet")?;
    let ours = parents.iter().find(|entry| entry["controllerName"] == "mesh-agent.dev/controller");
    let condition = &ours.context("nothing of ours yet")?["conditions"][0];
    ensure!(condition["status"] == "True", "{condition}");
    Ok(object)
}

/// How often controllers sent this request.
fn sent(stage: &Stage, method: &str, path: &str) -> usize {
    let asked = stage.asked().unwrap();
    let is = |url: &str| url.split('?').next() == Some(path);
    asked.iter().filter(|(how, url)| how == method && is(url)).count()
}

/// Replaces an object, or its status, by what `change` makes of it.
fn rewrite(stage: &Stage, path: &str, part: &str, change: impl Fn(&mut Value)) -> Result<()> {
    eventually(PATIENCE, || {
        let mut object: Value = serde_json::from_str(&stage.cluster.kubectl(&["get", "--raw", path], "")?)?;
        change(&mut object);
        let args = ["replace", "--raw", &format!("{path}{part}"), "-f", "-"];
        stage.cluster.kubectl(&args, &object.to_string()).map(drop)
    })
}

#[test]
fn a_status_that_others_write_meanwhile_is_read_again_and_nothing_is_lost() {
    let turn = need_stage!();
    let stage = &turn.stage;
    let path = format!("{ROUTES}/contested");
    // More often than one write is tried.
    let (meddler, of) = (stage.clone(), path.clone());
    stage.gate.before(&format!("PUT {path}/status"), 6, move || {
        rewrite(&meddler, &of, "/status", |object| {
            let mut parents = object["status"]["parents"].as_array().cloned().unwrap_or_default();
            let place = parents.iter().position(|entry| entry["controllerName"] == "example.com/other");
            let times = place
                .map_or(0, |place| parents[place]["conditions"][0]["observedGeneration"].as_u64().unwrap());
            let entry = json!({
                "parentRef": {"name": "gateway"}, "controllerName": "example.com/other",
                "conditions": [{"type": "Accepted", "status": "True", "reason": "A", "message": "",
                    "observedGeneration": times + 1, "lastTransitionTime": "2026-01-01T00:00:00Z"}],
            });
            place.map(|place| parents.remove(place));
            parents.push(entry);
            object["status"] = json!({"parents": parents});
        })
        .unwrap();
    });
    settle(stage, "contested");
    assert_eq!(stage.gate.left(), 0);
    settle(stage, "contested-after");
    let object = accepted(stage, "contested").unwrap();
    let parents = object["status"]["parents"].as_array().unwrap();
    let other = parents.iter().find(|entry| entry["controllerName"] == "example.com/other").unwrap();
    assert_eq!(
        (parents.len(), &other["conditions"][0]["observedGeneration"]),
        (2, &json!(6)),
        "every write of the other's"
    );
    assert_eq!(
        sent(stage, "PUT", &format!("{path}/status")),
        7,
        "each refused once, then one that was taken"
    );
}

#[test]
fn a_trust_bundle_that_others_write_meanwhile_keeps_what_they_wrote_beside_it() {
    let turn = need_stage!();
    let stage = &turn.stage;
    let root = eventually(SOON, || stage.bundle("shop")).unwrap();
    let before = sent(stage, "PUT", BUNDLE);
    let meddler = stage.clone();
    stage.gate.before(&format!("PUT {BUNDLE}"), 3, move || {
        rewrite(&meddler, BUNDLE, "", |map| {
            let times = map["metadata"]["labels"]["times"].as_str().map_or(0, |times| times.parse().unwrap());
            map["metadata"]["labels"]["times"] = format!("{}", times + 1).into();
        })
        .unwrap();
    });
    rewrite(stage, BUNDLE, "", |map| map["data"]["root-cert.pem"] = "other".into()).unwrap();
    eventually(SOON, || {
        ensure!(stage.gate.left() == 0 && stage.bundle("shop")? == root, "not mended yet");
        Ok(())
    })
    .unwrap();
    settle(stage, "bundle-after");
    let map = stage.get("configmaps", "shop", "mesh-agent-root").unwrap();
    assert_eq!(map["metadata"]["labels"]["times"], "3");
    assert_eq!(sent(stage, "PUT", BUNDLE) - before, 4, "each refused once, then one that was taken");
}

#[test]
fn a_key_that_others_write_meanwhile_is_renewed_once() {
    let turn = need_stage!();
    let stage = &turn.stage;
    let before = sent(stage, "PUT", SECRET);
    let meddler = stage.clone();
    stage.gate.before(&format!("PUT {SECRET}"), 2, move || {
        rewrite(&meddler, SECRET, "", |secret| {
            let times =
                secret["metadata"]["labels"]["times"].as_str().map_or(0, |times| times.parse().unwrap());
            secret["metadata"]["labels"]["times"] = format!("{}", times + 1).into();
        })
        .unwrap();
    });
    let old = stage.get("secrets", MESH, "mesh-agent-ca").unwrap();
    let renew = ["annotate", "secret", "mesh-agent-ca", "-n", MESH, "mesh-agent.dev/renew-root=now"];
    stage.cluster.kubectl(&renew, "").unwrap();
    let both = eventually(TAKEOVER, || {
        let bundle = stage.bundle(MESH)?;
        ensure!(bundle.matches("BEGIN CERTIFICATE").count() == 2, "the new root isn't published yet");
        Ok(bundle)
    })
    .unwrap();
    settle(stage, "key-after");
    let new = stage.get("secrets", MESH, "mesh-agent-ca").unwrap();
    assert_eq!(new["metadata"]["labels"]["times"], "2");
    assert_eq!(
        new["data"]["tls.key"], old["data"]["tls.key"],
        "the old one signs until everybody has read the new one"
    );
    assert!(new["metadata"]["annotations"]["mesh-agent.dev/renew-root"].is_null());
    assert_eq!(sent(stage, "PUT", SECRET) - before, 3, "each refused once, then one that was taken");
    assert_eq!(stage.bundle(MESH).unwrap(), both);
}

#[test]
fn two_that_make_a_key_at_once_take_the_one_that_was_first() {
    let turn = need_stage!();
    let stage = &turn.stage;
    stage.controllers().clear();
    stage.cluster.kubectl(&["delete", "secret", "mesh-agent-ca", "-n", MESH], "").unwrap();
    let path = "/api/v1/namespaces/mesh/secrets";
    let before = sent(stage, "POST", path);
    // Neither has seen one when both make one.
    let both = Arc::new(Barrier::new(2));
    stage.gate.before(&format!("POST {path}"), 2, move || {
        both.wait();
    });
    stage.restore().unwrap();
    assert_eq!((stage.gate.left(), sent(stage, "POST", path) - before), (0, 2));
    let token = stage.token("mesh-agent", "mesh-agent", Some("mesh-agent-a")).unwrap();
    let secret = stage.get("secrets", MESH, "mesh-agent-ca").unwrap();
    let addresses: Vec<_> = stage.controllers().iter().map(|controller| controller.address).collect();
    let of_each: Vec<_> = addresses
        .iter()
        .map(|address| eventually(TAKEOVER, || Ok(stage.ask(*address, &token, "web")?)).unwrap())
        .collect();
    assert_eq!(of_each[0], of_each[1], "one root for both");
    settle(stage, "first-after");
    assert_eq!(stage.get("secrets", MESH, "mesh-agent-ca").unwrap()["data"], secret["data"]);
}

#[test]
fn a_leader_that_was_stopped_past_its_lease_writes_nothing_when_it_goes_on() {
    let turn = need_stage!();
    let stage = &turn.stage;
    let stopped = eventually(TAKEOVER, || stage.leader()).unwrap();
    let lease = stage.get("leases", MESH, "mesh-agent-controller").unwrap();
    // Between its reading and its writing, for as long as it takes another to lead and to write.
    let path = format!("{ROUTES}/stopped");
    let (meddler, first) = (stage.clone(), lease["spec"]["holderIdentity"].clone());
    stage.gate.before(&format!("PUT {path}/status"), 1, move || {
        meddler.controllers()[stopped].signal(Signal::SIGSTOP);
        eventually(TAKEOVER, || {
            let lease = meddler.get("leases", MESH, "mesh-agent-controller")?;
            ensure!(lease["spec"]["holderIdentity"] != first, "nobody else leads yet");
            accepted(&meddler, "stopped").map(drop)
        })
        .unwrap();
    });
    settle(stage, "stopped");
    let object = stage.get("httproutes", "shop", "stopped").unwrap();
    let second =
        stage.get("leases", MESH, "mesh-agent-controller").unwrap()["spec"]["holderIdentity"].clone();
    assert_ne!(second, lease["spec"]["holderIdentity"]);
    stage.controllers()[stopped].signal(Signal::SIGCONT);
    // Its write comes too late, and is refused; then it looks whether it leads.
    eventually(TAKEOVER, || {
        ensure!(stage.leader()? != stopped, "it still thinks that it leads");
        Ok(())
    })
    .unwrap();
    settle(stage, "stopped-after");
    assert_eq!(
        stage.get("httproutes", "shop", "stopped").unwrap()["metadata"]["resourceVersion"],
        object["metadata"]["resourceVersion"]
    );
    assert_eq!(
        sent(stage, "PUT", &format!("{path}/status")),
        2,
        "one that was refused, one of the new leader's"
    );
    let now = stage.get("leases", MESH, "mesh-agent-controller").unwrap()["spec"]["holderIdentity"].clone();
    assert_eq!(now, second, "who went on took nothing back");
}

#[test]
fn probes_answer_from_the_start_and_say_what_is_waited_for() {
    let turn = need_stage!();
    let stage = &turn.stage;
    stage.controllers().clear();
    stage.gate.shut();
    let mut early = stage.start_one(&stage.kubeconfig().unwrap(), &[]).unwrap();
    let said = eventually(PATIENCE, || {
        let (status, text) = early.probe("/readyz")?;
        ensure!(status == 503 && text.contains("no connection"), "{status} {text}");
        Ok(text)
    });
    let (live, metrics) = (early.probe("/livez"), early.probe("/metrics"));
    stage.gate.open();
    let said = said.unwrap();
    assert!(said.contains("Secret mesh/mesh-agent-ca"), "{said}");
    assert_eq!(live.unwrap().0, 200);
    assert!(metrics.unwrap().1.contains("mesh_agent_controller_leader 0"));
    early.wait().unwrap();
    assert!(early.is_alive());
}

#[test]
fn a_root_is_renewed_while_everybody_goes_on_being_trusted() {
    let turn = need_stage!();
    let stage = &turn.stage;
    stage.controllers().clear();
    stage.cluster.kubectl(&["delete", "secret", "mesh-agent-ca", "-n", MESH], "").unwrap();
    let kubeconfig = stage.kubeconfig().unwrap();
    // A tenth of it is what two looks at the bundle may be apart on a busy machine.
    let flags = ["--root-lifetime", "100s", "--max-certificate-lifetime", "10s"];
    let mut one = stage.start_one(&kubeconfig, &flags).unwrap();
    one.wait().unwrap();
    let begun = Instant::now();
    let token = stage.token("mesh-agent", "mesh-agent", Some("mesh-agent-a")).unwrap();
    let address = one.address;
    // What is published, each time that it is something else, while an agent goes by that.
    let (mut seen, mut failed) = (Vec::<usize>::new(), Vec::new());
    let first = eventually(TAKEOVER, || {
        // First by what is published: until then that is another root's.
        stage.ask(address, &token, "web")?;
        stage.bundle(MESH)
    })
    .unwrap();
    let last = eventually(Duration::from_secs(180), || {
        let bundle = stage.bundle(MESH)?;
        let count = bundle.matches("BEGIN CERTIFICATE").count();
        if seen.last() != Some(&count) {
            seen.push(count);
        }
        if let Err(error) = stage.ask(address, &token, "web") {
            failed.push(format!("{:?}: {error}", begun.elapsed()));
        }
        ensure!(!bundle.contains(first.trim()), "the old root is still trusted: {seen:?}");
        Ok(bundle)
    })
    .unwrap();
    assert_eq!(seen, [1, 2, 1]);
    assert_eq!(failed, Vec::<String>::new());
    assert!(begun.elapsed() > Duration::from_secs(20), "{:?}", begun.elapsed());
    assert_ne!(last, first);
    // The rest of the suite has a root that lasts.
    drop(one);
    stage.cluster.kubectl(&["delete", "secret", "mesh-agent-ca", "-n", MESH], "").unwrap();
}

#[test]
fn a_controllers_token_file_that_changes_is_read_again() {
    let turn = need_stage!();
    let stage = &turn.stage;
    stage.controllers().clear();
    let bound = |name: &str| {
        let mut pod = agent_pod(name, "node-a");
        pod["spec"]["serviceAccountName"] = "mesh-agent-controller".into();
        stage.cluster.apply(&[pod.clone()]).unwrap();
        let token =
            stage.token("mesh-agent-controller", "https://kubernetes.default.svc", Some(name)).unwrap();
        (pod, token)
    };
    let (file, kubeconfig) = (stage.scratch().join("own-token"), stage.scratch().join("by-token"));
    let (old_pod, old) = bound("controller-old");
    fs::write(&file, &old).unwrap();
    stage.cluster.kubeconfig_with_token_of(&file, &kubeconfig).unwrap();
    let mut one = stage.start_one(&kubeconfig, &[]).unwrap();
    one.wait().unwrap();
    settle(stage, "token-before");
    // With its pod the token ends, within the ten seconds that the API server remembers it.
    let (_, new) = bound("controller-new");
    stage.cluster.delete(&[old_pod]).unwrap();
    fs::write(file.with_extension("new"), new).unwrap();
    fs::rename(file.with_extension("new"), &file).unwrap();
    let shown = stage.scratch().join("shown");
    fs::write(&shown, &old).unwrap();
    let refused = stage.scratch().join("refused");
    stage.cluster.kubeconfig_with_token_of(&shown, &refused).unwrap();
    eventually(SOON, || {
        let mut command = std::process::Command::new("kubectl");
        let asked =
            command.arg("--kubeconfig").arg(&refused).args(["get", "--raw", "/api/v1/services"]).output()?;
        ensure!(String::from_utf8_lossy(&asked.stderr).contains("Unauthorized"), "the old token still holds");
        Ok(())
    })
    .unwrap();
    // A file is read again within a minute.
    stage.cluster.apply(&[service("shop", "token-after", 80), route("token-after")]).unwrap();
    eventually(Duration::from_secs(120), || accepted(stage, "token-after")).unwrap();
    assert!(one.is_alive());
}
