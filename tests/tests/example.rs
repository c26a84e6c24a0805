//! The example directory, as its README says: two agents as two nodes, pods made by `up.sh`, commands run by `in`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::fs::File;
use std::io::Write;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};
use mesh_tests::lab::{Finished, Running, eventually};
use mesh_tests::{PATIENCE, need_agent, peers};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::Signal;

fn example() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../example").canonicalize().unwrap()
}

/// The names in the example are fixed, so one run at a time; down again however the test ends. What somebody else has
/// put up is left alone.
struct Up {
    _lock: Flock<File>,
}

impl Up {
    fn new() -> Self {
        let file = File::create("/run/lock/mesh-agent-example").unwrap();
        let _lock = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| error).unwrap();
        let others = Path::new("/run/netns/ex-web").exists() || Path::new("/sys/class/net/ex-v2").exists();
        assert!(!others, "the example is up already: example/up.sh down");
        let up = Self { _lock };
        script("up.sh", &[]).unwrap().success().unwrap();
        up
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        let _ = script("up.sh", &["down"]);
        let _ = std::fs::remove_dir_all("/run/ex");
        for pins in ["/sys/fs/bpf/ex-a", "/sys/fs/bpf/ex-b"] {
            let _ = std::fs::remove_dir_all(pins);
        }
    }
}

fn script(name: &str, args: &[&str]) -> Result<Finished> {
    let mut command = Command::new(example().join(name));
    command.args(args);
    Running::start(command)?.finish(PATIENCE)
}

/// `./in POD COMMAND...`
fn in_pod(pod: &str, args: &[&str]) -> Running {
    let mut command = Command::new(example().join("in"));
    command.arg(pod).args(args);
    Running::start(command).unwrap()
}

/// `mesh-agent run` with the flags of the README.
fn agent(binary: &Path, cgroup: &Path, letter: &str, port: u16) -> Running {
    let mut command = Command::new(binary);
    command.current_dir(example().parent().unwrap()).arg("run").args(["--source", "dir:example/mesh"]);
    command.args(["--node-name", &format!("node-{letter}"), "--state-dir", &format!("/run/ex/{letter}")]);
    command.args([
        "--bpffs-dir",
        &format!("/sys/fs/bpf/ex-{letter}"),
        "--metrics-address",
        &format!("127.0.0.1:{port}"),
    ]);
    command.arg("--cgroup").arg(cgroup.join(format!("ex/node-{letter}")));
    let mut running = Running::start(command).unwrap();
    running.wait_for_line("ready", PATIENCE * 2).unwrap();
    running
}

fn cgroup2() -> PathBuf {
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap();
    let mount =
        mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>()).find(|fields| fields[2] == "cgroup2");
    PathBuf::from(mount.unwrap()[1])
}

#[test]
fn the_readmes_commands_work() {
    let _options = need_agent!();
    let binary = mesh_tests::agent_binary().unwrap();
    let _up = Up::new();
    let cgroup = cgroup2();
    let (a, b) = (agent(&binary, &cgroup, "a", 15021), agent(&binary, &cgroup, "b", 15022));
    let servers: Vec<Running> = ["cart-1", "cart-2"]
        .map(|pod| {
            in_pod(
                pod,
                &[
                    peers::python(),
                    "-u",
                    "-m",
                    "http.server",
                    "8080",
                    "--bind",
                    "::",
                    "--directory",
                    "/usr/share/doc",
                ],
            )
        })
        .into();
    for pod in ["cart-1", "cart-2"] {
        eventually(PATIENCE, || {
            in_pod(pod, &["curl", "-sf", "-o", "/dev/null", "http://127.0.0.1:8080/"])
                .finish(PATIENCE)?
                .success()
        })
        .unwrap();
    }
    // node-a's pod to carts of both nodes.
    for i in 0..20 {
        let got = in_pod(
            "web",
            &["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "--max-time", "5", "http://10.96.0.10/"],
        );
        let got = got.finish(PATIENCE).unwrap();
        assert_eq!(
            (got.code, got.stdout.as_str()),
            (0, "200"),
            "request {i}: {got:?}\nnode-a: {}\nnode-b: {}",
            a.stderr(),
            b.stderr()
        );
    }
    routed(&a);
    // By IPv6 too. A host outside any mesh speaks plain text to a pod's own address, which the mesh policy refuses.
    let v6 = in_pod(
        "web",
        &["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "--max-time", "5", "http://[fd96::10]/"],
    );
    assert_eq!(v6.finish(PATIENCE).unwrap().stdout, "200");
    let outside = in_pod(
        "outside",
        &[
            "curl",
            "-s",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            "--max-time",
            "5",
            "http://10.245.0.4:8080/",
        ],
    );
    let refused = outside.finish(PATIENCE).unwrap();
    assert_ne!(refused.code, 0, "{refused:?}");
    assert_eq!(refused.stdout, "000");
    // web may GET and POST, and nothing else.
    let url = "http://10.96.0.10/";
    let format =
        ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "--max-time", "5", "-X", "DELETE", url];
    assert_eq!(in_pod("web", &format).finish(PATIENCE).unwrap().stdout, "403");
    for server in &servers {
        ensure_served(server).unwrap();
    }
    for (agent, node) in [(&a, "node-a"), (&b, "node-b")] {
        // The access log goes to standard output as text unless told otherwise.
        assert!(agent.stdout().contains("cart"), "{node}: {}", agent.stdout());
    }
    for port in [15021, 15022] {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.write_all(b"GET /readyz HTTP/1.0\r\n\r\n").unwrap();
    }
    for mut agent in [a, b] {
        agent.signal(Signal::SIGTERM);
        let code =
            eventually(PATIENCE * 3, || agent.try_wait().ok_or_else(|| anyhow::anyhow!("still running")))
                .unwrap();
        assert_eq!(code, 0);
    }
}

/// The route of `30-route.yaml`: `/beta` by its first rule, everything else by the second, which gives it five seconds.
fn routed(agent: &Running) {
    let asked = |path: &str| {
        let url = format!("http://10.96.0.10{path}");
        let got =
            in_pod("web", &["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "--max-time", "5", &url]);
        let got = got.finish(PATIENCE).unwrap();
        assert_eq!(got.code, 0, "{path}: {got:?}\n{}", agent.stderr());
        got.stdout
    };
    // The servers have neither; that they were asked is the point.
    assert_eq!((asked("/beta").as_str(), asked("/beta/x").as_str()), ("404", "404"));
    for (path, rule, limits) in [
        ("/beta", "0", vec![]),
        ("/beta/x?y=1", "0", vec![]),
        ("/betamax", "1", vec!["request 5s"]),
        ("/", "1", vec!["request 5s"]),
    ] {
        let mut command = Command::new(mesh_tests::agent_binary().unwrap());
        command.args(["route", "test", "--from", "pod/shop/web", &format!("http://cart{path}")]);
        command.args(["--state-dir", "/run/ex/a", "-o", "json"]);
        let said = Running::start(command).unwrap().finish(PATIENCE).unwrap();
        assert_eq!(said.code, 0, "{said:?}");
        let answer: serde_json::Value = serde_json::from_str(&said.stdout).unwrap();
        assert_eq!(answer["outcome"], "routed", "{path}: {answer:#}");
        assert_eq!((&answer["rule"]["route"], &answer["rule"]["rule"]), (&"shop/cart".into(), &rule.into()));
        let timeouts = answer["rule"].get("timeouts").cloned().unwrap_or_else(|| serde_json::json!([]));
        assert_eq!(timeouts, serde_json::json!(limits), "{path}");
        let endpoints = answer["backends"][0]["endpoints"].as_array().unwrap();
        assert_eq!(endpoints.len(), 2, "{path}: {answer:#}");
    }
    assert!(!agent.stderr().contains("HTTPRoute"), "a warning about the route:\n{}", agent.stderr());
}

fn ensure_served(server: &Running) -> Result<()> {
    eventually(PATIENCE, || {
        let log = server.stderr();
        ensure!(log.lines().filter(|line| line.contains("\"GET / HTTP/1.1\" 200")).count() >= 2, "{log}");
        Ok(())
    })
}
