//! `cargo xtask setup`: the BPF tool chain and the programs that tests, gates and bench need.
//!
//! Everything is looked for before anything is installed, so a second run is quick and needs no network. What can't be
//! installed (no root, not Debian, no network) is named in one sentence each, with the way to get it.

mod linker;
mod packages;
mod unpacked;

use std::env;
use std::process::Command;

use anyhow::{Result, bail};

use crate::{bpf, sh, workspace};

/// Installed with `cargo install`; raised by hand so that every machine has the same one.
const CARGO_DENY: &str = "0.20.2";
/// The same of what runs fuzz targets.
const CARGO_FUZZ: &str = "0.13.1";

#[derive(clap::Args)]
pub struct Args {
    /// The programs that `cargo xtask bench` compares with, too
    #[arg(long)]
    bench: bool,
    /// Only say what is there and what is missing
    #[arg(long)]
    check: bool,
}

/// What a command needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Compiler and linker for the kernel programs.
    Bpf,
    /// npm, for the page.
    Page,
    /// What the demo calls.
    Demo,
    /// Real peers of the integration tests.
    Tests,
    /// What a Kubernetes takes that the tests start, where there is a script for that.
    Kube,
    /// cargo-deny, and clippy for the kernel programs.
    Gates,
    /// What the bench compares with.
    Bench,
    /// cargo-fuzz, and a compiler for its engine.
    Fuzz,
}

/// The command.
pub fn run(args: &Args) -> Result<()> {
    let mut parts = with_kube(&[Part::Bpf, Part::Page, Part::Demo, Part::Tests, Part::Gates]);
    if args.bench {
        parts.push(Part::Bench);
    }
    if !args.check {
        ensure(&parts)?;
        sh::progress("set-up is complete");
        return Ok(());
    }
    let missing: Vec<String> = parts.iter().flat_map(|&part| missing(part)).collect();
    if missing.is_empty() {
        sh::progress("everything is there");
        return Ok(());
    }
    bail!("missing: {}", missing.join("; "))
}

/// Installs what the parts need and this machine lacks. An optional part that can't be had is named and passed over.
pub fn ensure(parts: &[Part]) -> Result<()> {
    let parts = with_kube(parts);
    let mut debian: Vec<&str> = parts.iter().flat_map(|&part| packages::missing(part)).collect();
    debian.sort_unstable();
    debian.dedup();
    packages::install(&debian)?;
    if parts.contains(&Part::Bpf) {
        linker::ensure()?;
    }
    if parts.contains(&Part::Gates) {
        packages::install(missing_bpf_clippy().as_slice())?;
    }
    for &part in &parts {
        unpacked::ensure(part)?;
        packages::ensure_python(part)?;
    }
    if parts.contains(&Part::Gates) {
        cargo_tool("cargo-deny", CARGO_DENY)?;
    }
    if parts.contains(&Part::Fuzz) {
        cargo_tool("cargo-fuzz", CARGO_FUZZ)?;
    }
    Ok(())
}

/// The suites on Kubernetes start one by a script (`tests/src/kube.rs`), if there is one, of these programs.
fn with_kube(parts: &[Part]) -> Vec<Part> {
    let beside = || workspace::root().join("../shared/kube/cluster").is_file();
    let starts = parts.contains(&Part::Tests) && (env::var_os("MESH_KUBE").is_some() || beside());
    parts.iter().copied().chain(starts.then_some(Part::Kube)).collect()
}

/// Whether packages can be installed and namespaces made.
pub fn is_root() -> bool {
    sh::output(Command::new("id").arg("-u")).is_ok_and(|id| id.trim() == "0")
}

fn missing(part: Part) -> Vec<String> {
    let mut missing: Vec<String> =
        packages::missing(part).into_iter().map(|name| format!("package {name}")).collect();
    missing.extend(unpacked::missing(part).into_iter().map(|name| format!("program {name}")));
    missing.extend(packages::missing_python(part).into_iter().map(|name| format!("Python package {name}")));
    match part {
        Part::Bpf => missing.extend(linker::missing()),
        Part::Gates => {
            missing.extend(missing_bpf_clippy().map(|name| format!("package {name}")));
            missing.extend(sh::which("cargo-deny").is_none().then(|| "cargo-deny".to_owned()));
        }
        Part::Page | Part::Demo | Part::Tests | Part::Kube | Part::Bench | Part::Fuzz => {}
    }
    missing
}

/// Debian's clippy reads the `core` of Debian's compiler; rustup's can't.
fn missing_bpf_clippy() -> Option<&'static str> {
    let debian = matches!(bpf::Compiler::find(), Some(bpf::Compiler::Debian(_)));
    (debian && packages::is_debian() && !std::path::Path::new("/usr/bin/clippy-driver").is_file())
        .then_some("rust-web-clippy")
}

fn cargo_tool(name: &str, version: &str) -> Result<()> {
    if sh::which(name).is_some() {
        return Ok(());
    }
    sh::progress(format!("installing {name} {version} (a few minutes)"));
    sh::logged(name, sh::cargo().args(["install", "--locked", name, "--version", version]))
}
