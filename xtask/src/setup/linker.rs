//! Compiler and linker for the kernel programs: finds them, or installs them as way A or B of `crate::bpf`.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::bpf::Compiler;
use crate::setup::{is_root, packages};
use crate::sh;

/// Way A's compiler, with a ready `core` for BPF.
pub const DEBIAN_COMPILER: [&str; 2] = ["rustc-web", "libstd-rust-web-dev-bpf"];
/// Raised by hand; newer ones want a newer LLVM by default but build with any that they name as a feature.
const BPF_LINKER: &str = "0.13.0";

const ADVICE: &str = "on Debian or Ubuntu run `cargo xtask setup` as root; elsewhere \
    `rustup toolchain install nightly --component rust-src` and `cargo install bpf-linker`";

/// What is missing, for people.
pub fn missing() -> Vec<String> {
    let mut missing = Vec::new();
    if Compiler::find().is_none() {
        missing.push(format!("a compiler for BPF ({ADVICE})"));
    }
    if sh::which("bpf-linker").is_none() {
        missing.push(format!("bpf-linker ({ADVICE})"));
    }
    missing
}

/// Both are there afterwards. Debian's packages have been installed by the caller where that was possible.
pub fn ensure() -> Result<()> {
    let compiler = match Compiler::find() {
        Some(compiler) => compiler,
        None => nightly()?,
    };
    if sh::which("bpf-linker").is_some() {
        return Ok(());
    }
    let llvm = compiler.llvm()?;
    let prefix = llvm_prefix(&llvm)?;
    sh::progress(format!("installing bpf-linker {BPF_LINKER} for LLVM {llvm} (about a minute)"));
    let mut install = sh::cargo();
    install.args(["install", "bpf-linker", "--version", BPF_LINKER, "--no-default-features", "--features"]);
    install.arg(format!("llvm-{llvm}")).env("LLVM_PREFIX", prefix);
    sh::logged("bpf-linker", &mut install)
        .with_context(|| format!("bpf-linker could not be installed: {ADVICE}"))
}

/// Way B, where rustup is there and Debian's compiler can't be had.
fn nightly() -> Result<Compiler> {
    if sh::which("rustup").is_none() {
        bail!("no compiler for BPF and no rustup to get one: {ADVICE}");
    }
    sh::progress("installing a nightly with rust-src");
    let mut rustup = std::process::Command::new("rustup");
    rustup.args(["toolchain", "install", "nightly", "--profile", "minimal", "--component", "rust-src"]);
    sh::logged("nightly", &mut rustup).with_context(|| format!("no compiler for BPF: {ADVICE}"))?;
    Compiler::find().with_context(|| format!("no compiler for BPF: {ADVICE}"))
}

/// Headers and libraries of the compiler's LLVM, installed where that is possible.
fn llvm_prefix(llvm: &str) -> Result<PathBuf> {
    let prefix = PathBuf::from(format!("/usr/lib/llvm-{llvm}"));
    if !prefix.join("include/llvm-c").is_dir() {
        if !packages::is_debian() || !is_root() {
            bail!(
                "bpf-linker needs the headers of LLVM {llvm}: install llvm-{llvm}-dev (https://apt.llvm.org has it)"
            );
        }
        packages::install(&[&format!("llvm-{llvm}-dev")])?;
    }
    Ok(prefix)
}
