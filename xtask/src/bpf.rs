//! The BPF tool chain: which compiler makes bitcode here, and the build of the kernel programs with it.
//!
//! Way A is Debian's compiler with a ready `core` for BPF, no nightly needed. Way B is a nightly with rust-src, where
//! cargo builds `core`. Both link with bpf-linker, whose LLVM must be the one of the compiler.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::{sh, workspace};

/// The target of the kernel programs.
pub const TARGET: &str = "bpfel-unknown-none";
/// Debian's compiler.
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";

/// A compiler that can make BPF bitcode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compiler {
    /// Debian's, with `core` for BPF installed.
    Debian(PathBuf),
    /// A rustup nightly with rust-src.
    Nightly,
}

impl Compiler {
    /// The one to use here, Debian's first, or none. `MESH_BPF_COMPILER` narrows the choice to `debian` or `nightly`.
    pub fn find() -> Option<Self> {
        let choice = std::env::var("MESH_BPF_COMPILER").ok();
        let allowed = |name: &str| choice.as_deref().is_none_or(|choice| choice == name);
        let debian = PathBuf::from(DEBIAN_RUSTC);
        if allowed("debian") && has_bpf_core(&debian) {
            return Some(Self::Debian(debian));
        }
        (allowed("nightly") && nightly_has_source()).then_some(Self::Nightly)
    }

    /// For people.
    pub fn describe(&self) -> String {
        match self {
            Self::Debian(rustc) => format!("{} with core for {TARGET}", rustc.display()),
            Self::Nightly => "nightly with rust-src".to_owned(),
        }
    }

    /// Major version of its LLVM.
    pub fn llvm(&self) -> Result<String> {
        let mut command = match self {
            Self::Debian(rustc) => Command::new(rustc),
            Self::Nightly => rustup_nightly("rustc"),
        };
        llvm_version(&sh::output(command.arg("-vV"))?).context("`rustc -vV` names no LLVM version")
    }

    /// A cargo for the BPF target: `build`, `check` and the like follow as arguments.
    pub fn cargo(&self, subcommand: &str) -> Command {
        let mut cargo = match self {
            Self::Debian(rustc) => {
                let mut cargo = sh::cargo();
                // The target isn't a stable one; Debian's compiler has its `core` all the same.
                cargo.env("RUSTC", rustc).env("RUSTC_BOOTSTRAP", "1").arg(subcommand);
                cargo
            }
            Self::Nightly => {
                let mut cargo = rustup_nightly("cargo");
                cargo.args([subcommand, "-Z", "build-std=core"]);
                cargo
            }
        };
        // A target directory of its own: the two compilers would otherwise rebuild each other's host crates.
        cargo
            .args(["--package", "mesh-ebpf", "--release", "--target", TARGET])
            .arg("--target-dir")
            .arg(workspace::root().join("target/bpf-build"))
            .current_dir(workspace::root())
            .env("PATH", sh::path())
            .env("CARGO_ENCODED_RUSTFLAGS", rustflags())
            // Split into units as increments are, the programs aren't optimized as a whole, and the verifier refuses them.
            .env("CARGO_INCREMENTAL", "0")
            .env_remove("RUSTFLAGS")
            .env_remove("RUSTC_WRAPPER");
        cargo
    }
}

/// Builds the kernel programs into [`workspace::bpf_object`].
pub fn build(compiler: &Compiler) -> Result<PathBuf> {
    let object = workspace::bpf_object();
    sh::progress(format!("kernel programs with {}", compiler.describe()));
    sh::logged("build-ebpf", &mut compiler.cargo("build"))
        .context("the kernel programs did not build; if it is the linker: its LLVM must be the compiler's, see `cargo xtask setup`")?;
    let built = workspace::root().join("target/bpf-build").join(TARGET).join("release/mesh-ebpf");
    copy_if_changed(&built, &object)?;
    Ok(object)
}

/// A copy that leaves the file alone when nothing changed, so that cargo doesn't rebuild what includes it.
fn copy_if_changed(from: &Path, to: &Path) -> Result<()> {
    let new = fs::read(from).with_context(|| format!("could not read {}", from.display()))?;
    if fs::read(to).is_ok_and(|old| old == new) {
        return Ok(());
    }
    if let Some(dir) = to.parent() {
        fs::create_dir_all(dir)?;
    }
    fs::write(to, new).with_context(|| format!("could not write {}", to.display()))
}

/// BTF needs debug information; aya-ebpf's bindings ask for the architecture that the programs will run on, this one's
/// unless `MESH_BPF_ARCH` says another.
fn rustflags() -> String {
    let arch = std::env::var("MESH_BPF_ARCH").unwrap_or_else(|_| std::env::consts::ARCH.to_owned());
    let arch = format!("--cfg=bpf_target_arch=\"{arch}\"");
    [arch.as_str(), "-Cdebuginfo=2", "-Clink-arg=--btf"].join("\x1f")
}

fn has_bpf_core(rustc: &Path) -> bool {
    let Ok(sysroot) = sh::output(Command::new(rustc).args(["--print", "sysroot"])) else { return false };
    let lib = Path::new(sysroot.trim()).join("lib/rustlib").join(TARGET).join("lib");
    fs::read_dir(lib).is_ok_and(|mut entries| entries.any(|entry| entry.is_ok()))
}

fn nightly_has_source() -> bool {
    let Ok(sysroot) = sh::output(rustup_nightly("rustc").args(["--print", "sysroot"])) else { return false };
    Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core/Cargo.toml").is_file()
}

/// A program of the nightly tool chain, whichever one runs us.
fn rustup_nightly(program: &str) -> Command {
    let mut command = Command::new("rustup");
    command
        .args(["run", "nightly", program])
        .env_remove("RUSTC")
        .env_remove("RUSTUP_TOOLCHAIN")
        .env_remove("CARGO");
    command
}

fn llvm_version(verbose: &str) -> Option<String> {
    let version = verbose.lines().find_map(|line| line.strip_prefix("LLVM version: "))?;
    version.split('.').next().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llvm_major_version_is_read_from_rustc() {
        assert_eq!(llvm_version("rustc 1.96.0\nhost: x\nLLVM version: 22.1.8\n").as_deref(), Some("22"));
        assert_eq!(llvm_version("rustc 1.96.0\n"), None);
    }
}
