//! `mesh-agent demo`: its phases pass, its keys do what they say, and it leaves nothing behind, also when it is interrupted.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "demo/keys.rs"]
mod keys;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use anyhow::ensure;
use mesh_tests::PATIENCE;
use mesh_tests::lab::{Running, eventually};
use nix::sys::signal::Signal;
use serde_json::Value;

fn demo(args: &[&str]) -> Option<Running> {
    mesh_tests::agent_options()?;
    let mut command = Command::new(mesh_tests::agent_binary().unwrap());
    command.arg("demo").args(args);
    Some(Running::start(command).unwrap())
}

/// Whatever of this process stands in /run, /run/netns, bpffs and the cgroup tree.
pub fn left(pid: u32) -> BTreeSet<String> {
    let cgroup = std::fs::read_to_string("/proc/mounts").unwrap();
    let cgroup =
        cgroup.lines().find(|l| l.split(' ').nth(2) == Some("cgroup2")).unwrap().split(' ').nth(1).unwrap();
    let mut left = BTreeSet::new();
    for dir in ["/run", "/run/netns", "/sys/fs/bpf", cgroup] {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let name = entry.file_name().into_string().unwrap();
            if name == format!("mesh-lab-{pid}") || name.starts_with(&format!("mal{pid}-")) {
                left.insert(Path::new(dir).join(name).display().to_string());
            }
        }
    }
    left
}

pub fn nothing_left(pid: u32) {
    eventually(PATIENCE, || {
        let left = left(pid);
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })
    .unwrap();
}

/// All of them, in order.
const PHASES: [&str; 15] = [
    "interception",
    "balancing",
    "canary",
    "outside",
    "endpoint killed",
    "retries",
    "ejection",
    "rate limit",
    "mutual TLS",
    "stranger",
    "denied",
    "metrics",
    "fail closed",
    "fail open",
    "return",
];

/// What the checks judged is in the report, for scripts that judge for themselves.
fn policies_are_told_in_figures(report: &Value) {
    let figure = |phase: &str, pointer: &str| -> Value {
        let phases = report["phases"].as_array().unwrap();
        let figures = &phases.iter().find(|p| p["name"] == phase).unwrap()["figures"];
        figures.pointer(pointer).unwrap_or_else(|| panic!("{phase} has no {pointer}: {figures:#}")).clone()
    };
    let number = |phase: &str, pointer: &str| figure(phase, pointer).as_f64().unwrap();
    assert!(number("canary", "/90~110/v2Percent") < number("canary", "/50~150/v2Percent"));
    assert!(number("retries", "/without/web/failed/status-503") > 0.0);
    assert_eq!(figure("retries", "/with/web/answered").as_u64().map(|answered| answered > 0), Some(true));
    assert!(number("ejection", "/reachedBefore") > number("ejection", "/reachedAfter"));
    assert!(number("ejection", "/ejections") >= 1.0);
    assert_eq!(
        number("rate limit", "/sent"),
        number("rate limit", "/passed") + number("rate limit", "/limited")
    );
    assert!(!figure("rate limit", "/rateLimitPolicy").as_object().unwrap().is_empty());
    assert!(number("mutual TLS", "/valid") >= 4.0 && number("mutual TLS", "/readOnTheWire") == 0.0);
    assert!(number("stranger", "/before") > 0.0 && number("stranger", "/refused") > 0.0);
    assert!(number("denied", "/forbidden") > 0.0 && number("denied", "/web") > 0.0);
}

#[test]
fn every_phase_passes_and_nothing_is_left() {
    let Some(running) = demo(&["--once", "-o", "json"]) else { return };
    let pid = running.pid();
    let output = running.finish(PATIENCE * 6).unwrap();
    let report: Value = serde_json::from_str(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    assert_eq!((output.code, &report["passed"]), (0, &Value::Bool(true)), "{report:#}");
    let names: Vec<_> = report["phases"].as_array().unwrap().iter().map(|phase| &phase["name"]).collect();
    assert_eq!(names, PHASES);
    policies_are_told_in_figures(&report);
    nothing_left(pid);
}

#[test]
fn interrupted_it_leaves_nothing() {
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGKILL] {
        let Some(mut running) = demo(&[]) else { return };
        eventually(PATIENCE * 2, || {
            ensure!(running.stdout().contains("BALANCING"), "{}{}", running.stdout(), running.stderr());
            Ok(())
        })
        .unwrap();
        assert!(left(running.pid()).len() > 3);
        running.signal(signal);
        let code =
            eventually(PATIENCE, || running.try_wait().ok_or_else(|| anyhow::anyhow!("still running")))
                .unwrap();
        assert_ne!(code, 0);
        nothing_left(running.pid());
    }
}

#[test]
fn kept_it_goes_on_and_the_commands_it_prints_work() {
    let Some(mut running) = demo(&["--once", "--keep"]) else { return };
    eventually(PATIENCE * 6, || {
        ensure!(
            running.stderr().contains("MESH_AGENT_STATE_DIR"),
            "{}{}",
            running.stdout(),
            running.stderr()
        );
        Ok(())
    })
    .unwrap();
    let told = running.stderr();
    let commands: String = told
        .lines()
        .filter(|line| line.starts_with("  ") && !line.contains("tail -f"))
        .map(|l| format!("{}\n", l.trim()))
        .collect();
    let path = mesh_tests::agent_binary().unwrap().parent().unwrap().display().to_string();
    let mut shell = Command::new("sh");
    let script = format!("set -e\nPATH={path}:$PATH\n{}", commands.replace(" -w\n", "\n"));
    shell.args(["-c", &script]);
    let output = Running::start(shell).unwrap().finish(PATIENCE * 2).unwrap().success().unwrap();
    assert!(
        output.stdout.contains("cart-3") && output.stdout.contains("istio_requests_total"),
        "{}",
        output.stdout
    );
    running.signal(Signal::SIGINT);
    let code =
        eventually(PATIENCE, || running.try_wait().ok_or_else(|| anyhow::anyhow!("still running"))).unwrap();
    assert_eq!(code, 0);
    nothing_left(running.pid());
}
