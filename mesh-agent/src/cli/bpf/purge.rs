//! `bpf purge`: takes the agent's programs and maps off the node, which lets go of every pod that is still captured.
//!
//! Never under a running agent: it would go on without noticing that its pods aren't captured any more. One is noticed by
//! its admin socket, or by its heartbeat in the maps, whatever state directory it has.

use std::io;
use std::path::{Path, PathBuf};

use anyhow::Error;

use super::super::output::{Out, count};
use super::super::{AgentArgs, Exit, Failure, Outcome};
use crate::kernel;

#[derive(Debug, clap::Args)]
pub(in super::super) struct Args {
    #[command(flatten)]
    agent: AgentArgs,
    /// Where the stopped agent's pins are
    #[arg(long, env = "MESH_AGENT_BPFFS_DIR", default_value = "/sys/fs/bpf/mesh-agent", value_name = "DIR")]
    bpffs_dir: PathBuf,
    /// Purge even though an agent's heartbeat is seen in the maps
    #[arg(long)]
    force: bool,
}

/// A heartbeat as old as this is no living agent's: the programs give one up after 900 ms.
const STALE_MS: u64 = 2_000;

/// Prints the pins that went, one a line.
pub(super) fn run(args: &Args, out: &mut Out<'_>) -> Outcome {
    if args.agent.client()?.reachable()? {
        let message = format!("an agent still runs: it answers in {}", args.agent.state_dir.display());
        return Err(Failure::message(Exit::Failed, message).hint("stop it first: `mesh-agent drain --wait`"));
    }
    let dir = args.bpffs_dir.as_path();
    if let Some(age) = kernel::heartbeat_age_ms(dir).filter(|age| *age < STALE_MS && !args.force) {
        let message = format!("an agent still runs: its heartbeat in {} is {age} ms old", dir.display());
        return Err(Failure::message(Exit::Failed, message).hint(
            "stop it first: `mesh-agent drain --wait` with its --state-dir; if it was killed just now, try again in 2 s or add --force",
        ));
    }
    let removed = kernel::purge(dir).map_err(|error| cannot(dir, error))?;
    for pin in &removed {
        out.data(&format!("{}\n", pin.display()))?;
    }
    out.note(&summary(dir, &removed))?;
    Ok(Exit::Ok)
}

/// Each pod has one link in `links/netns`.
fn summary(dir: &Path, removed: &[PathBuf]) -> String {
    if removed.is_empty() {
        return format!("nothing is pinned in {}", dir.display());
    }
    let pods = removed.iter().filter(|pin| pin.parent().is_some_and(|p| p.ends_with("links/netns"))).count();
    format!("{} removed, {} let go", count(removed.len(), "pin"), count(pods, "pod"))
}

fn cannot(dir: &Path, error: io::Error) -> Failure {
    let denied = error.kind() == io::ErrorKind::PermissionDenied;
    let error = Error::new(error).context(format!("the pins in {} can't be removed", dir.display()));
    if denied {
        Failure::new(Exit::NoPermission, error).hint("pins are for the agent's own user: try sudo")
    } else {
        Failure::new(Exit::Failed, error)
            .hint("is --bpffs-dir (MESH_AGENT_BPFFS_DIR) the one the agent was given?")
    }
}
