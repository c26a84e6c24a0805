//! Pods of a real Kubernetes into the mesh and out of it, while they run: by label, from their first packet on, through new
//! sandboxes and new agents. A service's address leads somewhere only from a captured pod: no kube-proxy runs.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use mesh_tests::cluster::{BY_AND_BY, Nodes, PORT, container, deployment, pod, service, text};
use mesh_tests::lab::eventually;
use serde_json::{Value, json};

macro_rules! need_nodes {
    () => {
        match Nodes::shared() {
            Some(nodes) => nodes,
            None => return,
        }
    };
}

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
    Ok(peer.code == 0)
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
    let nodes = need_nodes!();
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
    let nodes = need_nodes!();
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
    let nodes = need_nodes!();
    nodes.namespace("hostnet", true).unwrap();
    let object = pod("hostnet", "host", &["wait"], |spec| spec["hostNetwork"] = json!(true));
    nodes.apply(&[object]).unwrap();
    let pods = nodes.wait_ready("hostnet", "host", 1).unwrap();
    nodes.wait_capture(&pods[0], "refused").unwrap();
    let (_, why) = nodes.agent_of(&pods[0]).unwrap().capture_of("hostnet", "host").unwrap();
    assert!(why.contains("host's network"), "{why}");
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
    let nodes = need_nodes!();
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
    let nodes = need_nodes!();
    let (servers, _) = with_server(&nodes, "doomed", true, 2).unwrap();
    servers.iter().for_each(|pod| nodes.wait_capture(pod, "captured").unwrap());
    nodes.kubectl(&["delete", "namespace", "doomed"], "").unwrap();
    for agent in &nodes.agents {
        eventually(BY_AND_BY, || {
            let known = agent.cli(&["get", "pods", "-o", "name"])?.success()?.stdout;
            ensure!(!known.contains("doomed/"), "{known}");
            Ok(())
        })
        .unwrap();
        assert!(agent.log().contains("left"), "{}", agent.log());
    }
    let _ = PORT;
}
