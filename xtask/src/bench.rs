//! `cargo xtask bench`: builds what is measured, optimized, and hands over to the bench's own program.

use std::process::Command;

use anyhow::{Result, bail};

use crate::{build, setup, sh, workspace};

#[derive(clap::Args)]
pub struct Args {
    /// Handed on to the bench: `--rounds 3`, `--only http1`, `--quick` and so on; see `cargo xtask bench -- --help`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

/// The command.
pub fn run(args: &Args) -> Result<()> {
    if let Err(error) = setup::ensure(&[setup::Part::Bpf, setup::Part::Bench]) {
        // A peer that can't be had is named in the bench's own table.
        sh::progress(format!("set-up is not complete: {error:#}"));
    }
    let agent = build::agent(true)?;
    // The second for what runs in the pods of a Kubernetes.
    build::packages(&["mesh-bench", "mesh-tests"], true)?;
    if !setup::is_root() {
        bail!("the bench makes network namespaces and loads kernel programs: run it as root");
    }
    let mut bench = Command::new(workspace::binary("mesh-bench", true));
    bench.arg("run").arg("--agent").arg(agent).arg("--out").arg(workspace::root().join("docs/benchmarks"));
    sh::run(bench.args(&args.args).env("PATH", sh::path()))
}
