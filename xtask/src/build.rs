//! `cargo xtask build`: kernel programs and page first, then the agent that carries them.

use std::env;
use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::{bpf, page, sh, workspace};

#[derive(clap::Args)]
pub struct Args {
    /// Optimized, as it is measured and shipped
    #[arg(long)]
    pub release: bool,
    /// Only the kernel programs, for an agent that is built elsewhere or in another way
    #[arg(long, conflicts_with = "release")]
    pub kernel: bool,
    /// Only the page, likewise; with --kernel both
    #[arg(long, conflicts_with = "release")]
    pub page: bool,
}

/// The command.
pub fn run(args: &Args) -> Result<()> {
    if args.kernel || args.page {
        if args.kernel {
            kernel_programs()?;
        }
        return if args.page { page::build() } else { Ok(()) };
    }
    let binary = agent(args.release)?;
    sh::progress(format!("built {}", binary.display()));
    Ok(())
}

/// Kernel programs, page and agent; the agent's path.
pub fn agent(release: bool) -> Result<PathBuf> {
    kernel_programs()?;
    page::build()?;
    packages(&["mesh-agent"], release)?;
    Ok(workspace::binary("mesh-agent", release))
}

/// The kernel programs' object, built unless the environment names one.
pub fn kernel_programs() -> Result<()> {
    if let Some(object) = env::var_os("MESH_EBPF_OBJECT") {
        sh::progress(format!("kernel programs from MESH_EBPF_OBJECT: {}", object.to_string_lossy()));
        return Ok(());
    }
    let Some(compiler) = bpf::Compiler::find() else {
        bail!("no compiler for BPF here: run `cargo xtask setup`, or set MESH_EBPF_OBJECT to a ready object");
    };
    bpf::build(&compiler)?;
    Ok(())
}

/// A host build of some packages.
pub fn packages(names: &[&str], release: bool) -> Result<()> {
    let mut cargo = sh::cargo();
    cargo.args(["build", "--bins"]);
    for name in names {
        cargo.args(["--package", name]);
    }
    if release {
        cargo.arg("--release");
    }
    sh::run(&mut cargo)
}
