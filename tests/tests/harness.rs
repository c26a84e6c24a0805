//! The harness itself, on direct connections: no agent runs here.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::process::{Command, Stdio};

use mesh_tests::http1::{Client, echo_server};
use mesh_tests::lab::{self, Topology, eventually};
use mesh_tests::sockets::Host;
use mesh_tests::{PATIENCE, SOON};

fn possible() -> bool {
    match lab::missing() {
        Some(why) => {
            println!("SKIPPED: {why}");
            false
        }
        None => true,
    }
}

#[test]
fn pods_reach_each_other_by_both_families() {
    if !possible() {
        return;
    }
    let topology = Topology::new("reach").unwrap();
    let node = topology.node("node-a").unwrap();
    let client = Host::new(&topology, node.pod("client").unwrap()).unwrap();
    let server = Host::new(&topology, node.pod("server").unwrap()).unwrap();
    let (running, seen) = echo_server(server.listen(8080).unwrap(), "server");

    for address in [server.at(8080), server.at6(8080)] {
        let answer = Client::new(client.connect(address).unwrap()).get("server", "/").unwrap();
        assert_eq!((answer.status(), answer.text().as_str()), (200, "server"));
    }
    assert_eq!(client.curl(&[&format!("http://{}/", server.at(8080))]).unwrap(), "server");
    assert_eq!(seen.count(), 3);
    assert_eq!(running.peers()[0].ip(), std::net::IpAddr::from(client.v4()));

    let mapped = Client::new(client.connect_mapped(server.v4(), 8080).unwrap()).get("server", "/").unwrap();
    assert_eq!(mapped.status(), 200);
    let refused = client.connect(server.at(81)).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(nix::libc::ECONNREFUSED));
}

#[test]
fn commands_run_in_the_pods_cgroup_and_namespace() {
    if !possible() {
        return;
    }
    let topology = Topology::new("place").unwrap();
    let pod = topology.node("node-a").unwrap().pod("web").unwrap();
    let output = pod.command("sh").args(["-c", "cat /proc/self/cgroup; ip -o addr"]).run(PATIENCE).unwrap();
    let cgroup = pod.cgroup().file_name().unwrap().to_str().unwrap();
    assert!(output.stdout.lines().any(|l| l.starts_with("0::") && l.ends_with(cgroup)), "{}", output.stdout);
    assert!(output.stdout.contains(&format!("{}/16", pod.v4())), "{}", output.stdout);
}

#[test]
fn a_command_beyond_its_deadline_is_killed() {
    if !possible() {
        return;
    }
    let topology = Topology::new("deadline").unwrap();
    let pod = topology.node("node-a").unwrap().pod("web").unwrap();
    let error = pod.command("sleep").arg("60").run(std::time::Duration::from_millis(50)).unwrap_err();
    assert!(error.to_string().contains("ran longer"), "{error}");
    let left = || std::fs::read_to_string(pod.cgroup().join("cgroup.procs")).unwrap();
    eventually(SOON, || if left().is_empty() { Ok(()) } else { anyhow::bail!("{}", left()) }).unwrap();
}

#[test]
fn guards_leave_nothing() {
    if !possible() {
        return;
    }
    let topology = Topology::new("nothing").unwrap();
    let pod = topology.node("node-a").unwrap().pod("web").unwrap();
    let sleeper = pod.command("sleep").arg("60").start().unwrap();
    let paths = [
        pod.netns().path(),
        pod.cgroup().to_owned(),
        topology.scratch().to_owned(),
        topology.cgroup().to_owned(),
    ];
    std::mem::forget(sleeper);
    assert!(paths.iter().all(|path| path.exists()));
    drop((topology, pod));
    for path in paths {
        assert!(!path.exists(), "{} is left", path.display());
    }
}

/// Run by `a_killed_process_leaves_nothing` as a process of its own; does nothing otherwise.
#[test]
fn helper_that_waits_to_be_killed() {
    if std::env::var("LAB_WAIT").is_err() {
        return;
    }
    let topology = Topology::new("killed").unwrap();
    let pod = topology.node("node-a").unwrap().pod("web").unwrap();
    let _sleeper = pod.command("sleep").arg("60").start().unwrap();
    println!(
        "netns {}\ncgroup {}\nscratch {}\nup",
        pod.netns().name(),
        pod.cgroup().display(),
        topology.scratch().display()
    );
    std::thread::park();
}

#[test]
fn a_killed_process_leaves_nothing() {
    use std::io::{BufRead, BufReader};
    if !possible() {
        return;
    }
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["helper_that_waits_to_be_killed", "--exact", "--nocapture"])
        .env("LAB_WAIT", "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut left = Vec::new();
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        match line.split_once(' ') {
            Some(("netns", name)) => left.push(format!("/run/netns/{name}")),
            Some(("cgroup" | "scratch", path)) => left.push(path.to_owned()),
            _ if line == "up" => break,
            _ => {}
        }
    }
    assert_eq!(left.len(), 3);
    child.kill().unwrap();
    child.wait().unwrap();
    eventually(SOON, || match left.iter().find(|path| std::path::Path::new(path).exists()) {
        Some(path) => anyhow::bail!("{path} is left"),
        None => Ok(()),
    })
    .unwrap();
}
