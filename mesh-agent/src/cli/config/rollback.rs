//! `config rollback`: an earlier generation in force again though the source says otherwise, or the end of that.

use crate::admin::api::{Config, RollbackRequest};
use crate::cli::output::Out;
use crate::cli::{AgentArgs, Exit, Outcome};

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    #[command(flatten)]
    agent: AgentArgs,
    /// Which generation, as `config history` lists them
    #[arg(value_name = "GENERATION", required_unless_present = "release")]
    generation: Option<u64>,
    /// Let the source decide again
    #[arg(long, conflicts_with = "generation")]
    release: bool,
}

pub(super) fn run(args: &Args, out: &mut Out<'_>) -> Outcome {
    let client = args.agent.client()?;
    let request = RollbackRequest { generation: args.generation };
    let now: Config = client.put("/v1/config/rollback", &request)?;
    out.note(&match args.generation {
        Some(generation) => format!(
            "the configuration objects of generation {generation} are in force as generation {}, until {} changes; pods \
             and endpoints stay as they are\nend it with `mesh-agent config rollback --release`",
            now.generation, now.source
        ),
        None => format!("{} decides again, with generation {}", now.source, now.generation),
    })?;
    Ok(Exit::Ok)
}
