//! `cargo xtask demo`: from a clone to real interception in one command.

use std::process::Command;

use anyhow::{Result, bail};

use crate::{build, setup, sh};

#[derive(clap::Args)]
pub struct Args {
    /// Handed on to `mesh-agent demo`: `--once -o json`, `--keep` and so on
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

/// The command.
pub fn run(args: &Args) -> Result<()> {
    setup::ensure(&[setup::Part::Bpf, setup::Part::Demo])?;
    if let Err(error) = setup::ensure(&[setup::Part::Page]) {
        sh::progress(format!("going on without the page of `mesh-agent dashboard`: {error:#}"));
    }
    let agent = build::agent(true)?;
    if !setup::is_root() {
        bail!(
            "the demo makes network namespaces and loads kernel programs: run it as root (`sudo -E cargo xtask demo`)"
        );
    }
    sh::run(Command::new(agent).arg("demo").args(&args.args))
}
