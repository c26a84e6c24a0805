//! Pods of a real Kubernetes into the mesh and out of it, while they run: by label, from their first packet on, through new
//! sandboxes and new agents. A service's address leads somewhere only from a captured pod: no kube-proxy runs.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use mesh_tests::cluster::{BY_AND_BY, NAMESPACE_GONE, Nodes, container, deployment, pod, service, text};
use mesh_tests::kube_agent::KubeAgent;
use mesh_tests::lab::eventually;
use serde_json::{Value, json};

fn serve() -> [&'static str; 2] {
    ["serve", "8080"]
}

/// A namespace with a server of as many replicas behind a service, on both nodes if there is more than one.
fn with_server(
    nodes: &Nodes,
    namespace: &str,
    enrolled: bool,
    replicas: usize,
) -> Result<(Vec<Value>, String)> {
    nodes.namespace(namespace, enrolled)?;
    let server = deployment(namespace, "server", replicas, &serve(), |spec| {
        spec["topologySpreadConstraints"] = json!([{
            "maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": { "matchLabels": { "app": "server" } },
        }]);
    });
    nodes.apply(&[server, service(namespace, "server")])?;
    let pods = nodes.wait_ready(namespace, "server", replicas)?;
    Ok((pods, nodes.service_address(namespace, "server")?))
}

fn mode(nodes: &Nodes, kind: &str, name: &str, namespace: &str, value: &str) -> Result<()> {
    let label = format!("mesh-agent.dev/dataplane-mode{value}");
    let args = ["label", kind, name, &label, "--overwrite", "-n", namespace];
    let args = if kind == "namespace" { &args[..5] } else { &args[..] };
    nodes.kubectl(args, "").map(drop)
}

/// Whether a pod's connections to a service's address are answered, or refused as unreachable.
fn reaches(nodes: &Nodes, client: &Value, address: &str) -> Result<bool> {
    let peer = nodes.peer(text(client, "namespace"), text(client, "name"), &["get", address, "/"])?;
    // The code alone doesn't tell: kubectl may lose that of what it has run.
    Ok(peer.code == 0 && peer.stdout.ends_with("1 answered, 0 failed\n"))
}

fn containers(pod: &Value) -> Vec<(String, i64)> {
    let statuses = pod["status"]["containerStatuses"].as_array().cloned().unwrap_or_default();
    let one = |status: &Value| {
        (
            status["containerID"].as_str().unwrap_or_default().to_owned(),
            status["restartCount"].as_i64().unwrap_or(-1),
        )
    };
    statuses.iter().map(one).collect()
}

#[test]
fn labels_enrol_and_let_go_of_running_pods_on_both_nodes() {
    let nodes = need_nodes!(beside_others);
    let (servers, address) = with_server(&nodes, "labels", false, 2).unwrap();
    let on: BTreeSet<_> = servers.iter().map(|pod| pod["spec"]["nodeName"].as_str().unwrap()).collect();
    assert_eq!(on.len(), 2, "on both nodes");
    servers.iter().for_each(|pod| nodes.wait_capture(pod, "none").unwrap());
    assert!(!reaches(&nodes, &servers[0], &address).unwrap());

    mode(&nodes, "namespace", "labels", "", "=enabled").unwrap();
    servers.iter().for_each(|pod| nodes.wait_capture(pod, "captured").unwrap());
    for pod in &servers {
        eventually(BY_AND_BY, || {
            ensure!(reaches(&nodes, pod, &address)?, "not reached");
            Ok(())
        })
        .unwrap();
    }
    // The pod's own label beats its namespace's.
    mode(&nodes, "pod", text(&servers[0], "name"), "labels", "=none").unwrap();
    nodes.wait_capture(&servers[0], "none").unwrap();
    assert!(!reaches(&nodes, &servers[0], &address).unwrap());
    assert!(reaches(&nodes, &servers[1], &address).unwrap());
    mode(&nodes, "pod", text(&servers[0], "name"), "labels", "-").unwrap();
    nodes.wait_capture(&servers[0], "captured").unwrap();
    mode(&nodes, "namespace", "labels", "", "-").unwrap();
    servers.iter().for_each(|pod| nodes.wait_capture(pod, "none").unwrap());

    let after = nodes.pods("labels", "server").unwrap();
    let of = |pods: &[Value]| {
        pods.iter().map(|pod| (text(pod, "uid").to_owned(), containers(pod))).collect::<BTreeSet<_>>()
    };
    assert_eq!(of(&after), of(&servers), "no pod was restarted");
}

#[test]
fn the_first_packet_of_a_new_pod_is_captured_in_its_init_container_too() {
    let nodes = need_nodes!(beside_others);
    let (_, address) = with_server(&nodes, "first", true, 1).unwrap();
    let first = |n: usize, init: bool| {
        let once = ["get", address.as_str(), "/first"];
        pod("first", &format!("first-{n}"), &once, |spec| {
            spec["restartPolicy"] = json!("Never");
            if init {
                spec["initContainers"] = json!([container("init", &once)]);
            }
        })
    };
    let pods: Vec<_> = (0..12).map(|n| first(n, n % 2 == 0)).collect();
    nodes.apply(&pods).unwrap();
    for pod in &pods {
        let name = text(pod, "name");
        let phase = eventually(BY_AND_BY, || {
            let pod = nodes.get(&["pod", "-n", "first", name])?;
            let phase = pod["status"]["phase"].as_str().unwrap_or_default().to_owned();
            ensure!(matches!(phase.as_str(), "Succeeded" | "Failed"), "{name} is {phase}: {}", pod["status"]);
            Ok(phase)
        });
        assert_eq!(phase.unwrap(), "Succeeded", "{name}'s only request failed");
    }
}

#[test]
fn a_pod_on_the_node_s_network_is_refused_by_name() {
    let nodes = need_nodes!(beside_others);
    nodes.namespace("hostnet", true).unwrap();
    let object = pod("hostnet", "host", &["wait"], |spec| spec["hostNetwork"] = json!(true));
    nodes.apply(&[object]).unwrap();
    let pods = nodes.wait_ready("hostnet", "host", 1).unwrap();
    nodes.wait_capture(&pods[0], "refused").unwrap();
    let (_, why) = nodes.agent_of(&pods[0]).unwrap().capture_of("hostnet", "host").unwrap();
    assert!(why.contains("host's network"), "{why}");
    let event =
        eventually(BY_AND_BY, || events(&nodes, "hostnet", "host").into_iter().next().context("no event"));
    assert_eq!(event.unwrap(), ("MeshEnrolFailed".to_owned(), "the pod is on the host's network".to_owned()));
}

/// Reason and note of the mesh's Events on a pod.
fn events(nodes: &Nodes, namespace: &str, pod: &str) -> Vec<(String, String)> {
    let list = nodes.get(&["events.v1.events.k8s.io", "-n", namespace]).unwrap();
    let items = list["items"].as_array().cloned().unwrap_or_default();
    let ours = items.iter().filter(|event| {
        event["regarding"]["name"] == pod && event["reportingController"] == "mesh-agent.dev/agent"
    });
    let word = |event: &Value, key: &str| event[key].as_str().unwrap_or_default().to_owned();
    ours.map(|event| (word(event, "reason"), word(event, "note"))).collect()
}

const REDIRECTION: &str = "ambient.istio.io/redirection";

fn wait_annotation(nodes: &Nodes, pod: &Value, value: Option<&str>) -> Value {
    eventually(BY_AND_BY, || {
        let pod = nodes.get(&["pod", text(pod, "name"), "-n", text(pod, "namespace")])?;
        let now = pod["metadata"]["annotations"][REDIRECTION].as_str();
        ensure!(now == value, "{now:?}");
        Ok(pod)
    })
    .unwrap()
}

/// What an agent has written of pods since it started.
fn written(agent: &KubeAgent, what: &str) -> f64 {
    agent.metrics().unwrap().sum("mesh_agent_pod_reports_total", &[("what", what)])
}

#[test]
fn a_captured_pod_says_so_and_a_new_agent_writes_nothing_again() {
    let nodes = need_nodes!(alone);
    let (servers, _) = with_server(&nodes, "told", true, 1).unwrap();
    let server = &servers[0];
    let before = wait_annotation(&nodes, server, Some("enabled"));
    let enrolled = eventually(BY_AND_BY, || {
        let events = events(&nodes, "told", text(server, "name"));
        ensure!(events.len() == 1, "{events:?}");
        Ok(events[0].0.clone())
    });
    assert_eq!(enrolled.unwrap(), "MeshEnrolled");

    let agent = nodes.agent_of(server).unwrap();
    agent.restart().unwrap();
    nodes.wait_capture(server, "captured").unwrap();
    // What comes later of the same pod is written: so what came before wasn't to be.
    mode(&nodes, "namespace", "told", "", "=none").unwrap();
    nodes.wait_capture(server, "none").unwrap();
    let after = wait_annotation(&nodes, server, None);
    assert_eq!((written(agent, "annotation"), written(agent, "event")), (1.0, 0.0));
    assert_eq!(text(&after, "uid"), text(&before, "uid"));
    // Captured again it is counted in the same Event.
    mode(&nodes, "namespace", "told", "", "=enabled").unwrap();
    wait_annotation(&nodes, server, Some("enabled"));
    let series = eventually(BY_AND_BY, || {
        let list = nodes.get(&["events.v1.events.k8s.io", "-n", "told"])?;
        let items = list["items"].as_array().cloned().unwrap_or_default();
        let ours = items.into_iter().find(|event| event["reason"] == "MeshEnrolled").context("no event")?;
        ours["series"]["count"].as_i64().with_context(|| format!("not counted: {ours}"))
    });
    assert_eq!(series.unwrap(), 2);
}

#[test]
fn a_pod_that_uses_the_agent_s_port_is_told_why_it_is_not_captured() {
    let nodes = need_nodes!(beside_others);
    nodes.namespace("taken", false).unwrap();
    nodes.apply(&[pod("taken", "taken", &["serve", "15006"], |_| {})]).unwrap();
    let taken = nodes.wait_ready("taken", "taken", 1).unwrap().remove(0);
    mode(&nodes, "namespace", "taken", "", "=enabled").unwrap();
    nodes.wait_capture(&taken, "pending").unwrap();
    let event =
        eventually(BY_AND_BY, || events(&nodes, "taken", "taken").into_iter().next().context("no event"));
    let (reason, note) = event.unwrap();
    assert!(
        reason == "MeshEnrolFailed" && note.contains("15006") && note.contains("in use"),
        "{reason}: {note}"
    );
    assert!(taken["metadata"]["annotations"][REDIRECTION].is_null());
}

/// Kills the process that holds the pod's sandbox, as the runtime has it: the oldest in the pod's part of the cgroups.
fn kill_sandbox(pod: &Value) -> Result<()> {
    let uid = format!("pod{}/", text(pod, "uid"));
    let processes = std::fs::read_dir("/proc")?.flatten().filter_map(|entry| {
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        let cgroup = std::fs::read_to_string(entry.path().join("cgroup")).ok()?;
        let command = std::fs::read_to_string(entry.path().join("cmdline")).ok()?;
        (cgroup.contains(&uid) && command.starts_with("/bin/sleep")).then_some(pid)
    });
    let sandbox = processes.min().context("no sandbox")?;
    Ok(nix::sys::signal::kill(nix::unistd::Pid::from_raw(sandbox), nix::sys::signal::Signal::SIGKILL)?)
}

#[test]
fn a_sandbox_made_anew_is_captured_anew() {
    let nodes = need_nodes!(beside_others);
    let (servers, address) = with_server(&nodes, "sandbox", true, 1).unwrap();
    let server = &servers[0];
    nodes.wait_capture(server, "captured").unwrap();
    let ip = server["status"]["podIP"].as_str().unwrap().to_owned();
    kill_sandbox(server).unwrap();
    let again = eventually(BY_AND_BY, || {
        let pods = nodes.wait_ready("sandbox", "server", 1)?;
        ensure!(
            pods[0]["status"]["podIP"] != *ip && containers(&pods[0]) != containers(server),
            "the same sandbox"
        );
        Ok(pods[0].clone())
    })
    .unwrap();
    assert_eq!(text(&again, "uid"), text(server, "uid"), "the same pod");
    nodes.wait_capture(&again, "captured").unwrap();
    eventually(BY_AND_BY, || {
        ensure!(reaches(&nodes, &again, &address)?, "not reached");
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_namespace_that_is_deleted_leaves_nothing_captured() {
    let nodes = need_nodes!(beside_others);
    let (servers, _) = with_server(&nodes, "doomed", true, 2).unwrap();
    servers.iter().for_each(|pod| nodes.wait_capture(pod, "captured").unwrap());
    nodes.kubectl(&["delete", "namespace", "doomed", "--wait=false"], "").unwrap();
    for agent in &nodes.agents {
        eventually(NAMESPACE_GONE, || {
            let known = agent.cli(&["get", "pods", "-o", "name"])?.success()?.stdout;
            ensure!(!known.contains("doomed/"), "{known}");
            let log = agent.log();
            ensure!(log.lines().any(|line| line.contains("left") && line.contains("doomed/")), "{log}");
            Ok(())
        })
        .unwrap();
    }
}
