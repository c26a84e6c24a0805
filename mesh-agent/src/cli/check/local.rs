//! Checks of this machine that aren't the kernel's: directories, ports, another agent.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;

use super::{AgentArgs, Check, CheckResult};
use crate::admin::api;

/// The state directory and who lives in it.
pub(super) fn agent(args: &AgentArgs, bpffs_dir: &Path) -> Vec<Check> {
    vec![running(args), writable("state directory", &args.state_dir), bpffs(bpffs_dir)]
}

fn running(args: &AgentArgs) -> Check {
    let name = "no other agent in the state directory";
    let status = args.client().ok().and_then(|client| client.get::<api::Status>("/v1/status").ok());
    match status {
        None => ok(name, ""),
        Some(status) => check(
            CheckResult::Warn,
            name,
            format!("pid {} runs v{}", status.agent.pid, status.agent.version),
            "fine if that is the one; a second agent needs --state-dir and --bpffs-dir of its own",
        ),
    }
}

/// It, or the nearest directory above that exists.
fn writable(name: &str, dir: &Path) -> Check {
    let detail = dir.display().to_string();
    let existing = dir.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(Path::new("/"));
    match nix::unistd::access(existing, nix::unistd::AccessFlags::W_OK) {
        Ok(()) => ok(format!("{name} can be written"), detail),
        Err(error) => check(
            CheckResult::Fail,
            format!("{name} can be written"),
            format!("{detail}: {}", error.desc()),
            "run as root, or name another with --state-dir",
        ),
    }
}

fn bpffs(dir: &Path) -> Check {
    let name = "pins of an earlier agent";
    match fs::read_dir(dir.join("links")).map(|entries| entries.flatten().filter(is_pin).count()) {
        Ok(links) if links > 0 => ok(name, format!("{links} links in {}, to be adopted", dir.display())),
        _ => ok(name, "none"),
    }
}

/// The metrics port in this namespace. (In-pod ports are bound in each pod's own namespace.)
pub(super) fn ports(metrics: SocketAddr, args: &AgentArgs) -> Vec<Check> {
    let name = format!("metrics address {metrics} is free");
    let check = match TcpListener::bind(metrics) {
        Ok(_) => ok(name, ""),
        Err(_) if args.client().and_then(|client| client.reachable()).unwrap_or(false) => {
            check(CheckResult::Warn, name, "in use, an agent runs here", "")
        }
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => check(
            CheckResult::Fail,
            name,
            "in use",
            format!(
                "see who has it with `ss -ltnp sport = :{}`, or choose another --metrics-address",
                metrics.port()
            ),
        ),
        Err(error) => check(CheckResult::Fail, name, error.to_string(), "choose another --metrics-address"),
    };
    vec![check]
}

pub(super) fn ok(name: impl Into<String>, detail: impl Into<String>) -> Check {
    check(CheckResult::Ok, name, detail, "")
}

pub(super) fn check(
    result: CheckResult,
    name: impl Into<String>,
    detail: impl Into<String>,
    hint: impl Into<String>,
) -> Check {
    Check { name: name.into(), result, detail: detail.into(), hint: hint.into() }
}

/// Directories beside the pins hold those of pods.
fn is_pin(entry: &fs::DirEntry) -> bool {
    entry.file_type().is_ok_and(|kind| kind.is_file())
}
