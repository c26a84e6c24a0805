//! Compiler and linker for the kernel programs: finds them, or installs them as way A or B of `crate::bpf`.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::bpf::Compiler;
use crate::setup::packages;
use crate::sh;

/// Way A's compiler, with a ready `core` for BPF.
const DEBIAN_COMPILER: [&str; 2] = ["rustc-web", "libstd-rust-web-dev-bpf"];
/// Raised by hand; newer ones want a newer LLVM by default but build with any that they name as a feature.
const BPF_LINKER: &str = "0.13.0";

const ADVICE: &str = "on Debian run `cargo xtask setup` as root; elsewhere \
    `rustup toolchain install nightly --component rust-src` and `cargo install bpf-linker`";

/// What is missing, for people.
pub fn missing() -> Vec<String> {
    let mut missing = Vec::new();
    let compiler = Compiler::find();
    if compiler.is_none() {
        missing.push(format!("a compiler for BPF ({ADVICE})"));
    }
    if !compiler.map_or_else(|| sh::which("bpf-linker").is_some(), |compiler| has_linker(&compiler)) {
        missing.push(format!("bpf-linker of the compiler's LLVM ({ADVICE})"));
    }
    missing
}

/// Both are there afterwards: the compiler that is there; else Debian's where apt has it; else a nightly of rustup's. One
/// whose LLVM no bpf-linker can be built for here is as good as none.
pub fn ensure() -> Result<()> {
    let compiler = match Compiler::find() {
        Some(compiler) if has_linker(&compiler) => return Ok(()),
        Some(compiler) if llvm_can_be_had(&compiler)? => compiler,
        other => match debian()? {
            Some(compiler) => compiler,
            None => other.map_or_else(nightly, Ok)?,
        },
    };
    if has_linker(&compiler) {
        return Ok(());
    }
    let llvm = compiler.llvm()?;
    let prefix = llvm_prefix(&llvm)?;
    sh::progress(format!("installing bpf-linker {BPF_LINKER} for LLVM {llvm} (about a minute)"));
    let mut install = sh::cargo();
    install.args(["install", "bpf-linker", "--force", "--version", BPF_LINKER, "--no-default-features"]);
    install.arg("--features").arg(format!("llvm-{llvm}")).env("LLVM_PREFIX", prefix);
    sh::logged("bpf-linker", &mut install)
        .with_context(|| format!("bpf-linker could not be installed: {ADVICE}"))
}

/// A bpf-linker that is linked to another LLVM than the compiler's can't read its bitcode. One with its LLVM inside
/// doesn't show which it is, and is believed.
fn has_linker(compiler: &Compiler) -> bool {
    let Some(linker) = sh::which("bpf-linker") else { return false };
    let libraries = sh::output(Command::new("ldd").arg(linker)).unwrap_or_default();
    match (linked_llvm(&libraries), compiler.llvm()) {
        (Some(linked), Ok(llvm)) => linked == llvm,
        _ => true,
    }
}

/// Major version of the LLVM library among those that `ldd` lists.
fn linked_llvm(libraries: &str) -> Option<String> {
    let version = libraries.split_once("libLLVM")?.1.trim_start_matches(['-', '.', 's', 'o']);
    let major: String = version.chars().take_while(char::is_ascii_digit).collect();
    (!major.is_empty()).then_some(major)
}

/// Way A, where apt has its packages and may install them.
fn debian() -> Result<Option<Compiler>> {
    let unwanted = std::env::var("MESH_BPF_COMPILER").is_ok_and(|choice| choice != "debian");
    if unwanted || !packages::can_install() || !packages::has_all(&DEBIAN_COMPILER) {
        return Ok(None);
    }
    packages::install(&DEBIAN_COMPILER)?;
    Ok(Compiler::find())
}

/// Way B, where rustup is there and Debian's compiler can't be had.
fn nightly() -> Result<Compiler> {
    if sh::which("rustup").is_none() {
        bail!("no compiler for BPF and no rustup to get one: {ADVICE}");
    }
    sh::progress("installing a nightly with rust-src");
    let mut rustup = Command::new("rustup");
    rustup.args(["toolchain", "install", "nightly", "--profile", "minimal", "--component", "rust-src"]);
    sh::logged("nightly", &mut rustup).with_context(|| format!("no compiler for BPF: {ADVICE}"))?;
    Compiler::find().with_context(|| format!("no compiler for BPF: {ADVICE}"))
}

fn has_headers(llvm: &str) -> bool {
    prefix_of(llvm).join("include/llvm-c").is_dir()
}

fn prefix_of(llvm: &str) -> PathBuf {
    PathBuf::from(format!("/usr/lib/llvm-{llvm}"))
}

/// True if the headers of the compiler's LLVM are here or apt can bring them.
fn llvm_can_be_had(compiler: &Compiler) -> Result<bool> {
    let llvm = compiler.llvm()?;
    Ok(has_headers(&llvm) || (packages::can_install() && packages::has_all(&[&format!("llvm-{llvm}-dev")])))
}

/// Headers and libraries of the compiler's LLVM, installed where that is possible.
fn llvm_prefix(llvm: &str) -> Result<PathBuf> {
    if !has_headers(llvm) {
        let package = format!("llvm-{llvm}-dev");
        if !packages::can_install() || !packages::has_all(&[&package]) {
            bail!(
                "bpf-linker needs the headers of LLVM {llvm} in {}: install {package} (https://apt.llvm.org has it), or `cargo install bpf-linker` by its own instructions",
                prefix_of(llvm).display()
            );
        }
        packages::install(&[&package])?;
    }
    Ok(prefix_of(llvm))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_linked_llvm_is_read_from_the_libraries() {
        let check = |libraries, expected: Option<&str>| {
            assert_eq!(linked_llvm(libraries).as_deref(), expected, "{libraries}");
        };
        check("\tlibLLVM.so.22.1 => /usr/lib/llvm-22/lib/libLLVM.so.22.1 (0x0)\n", Some("22"));
        check("\tlibLLVM-19.so.1 => /usr/lib/llvm-19/lib/libLLVM-19.so.1 (0x0)\n", Some("19"));
        check("\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x0)\n", None);
    }
}
