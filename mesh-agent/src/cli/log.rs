//! `log`: the filter of the agent's own log, while it runs.

use clap::Subcommand;

use super::output::Out;
use super::{AgentArgs, Exit, Outcome};
use crate::admin::api::LogFilter;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Print the filter in force
    Get(AgentArgs),
    /// Put a filter in force, like info or info,mesh_agent::proxy=debug
    Set {
        #[command(flatten)]
        agent: AgentArgs,
        /// In tracing's filter syntax
        filter: String,
    },
}

pub(super) fn run(command: &Command, out: &mut Out<'_>) -> Outcome {
    let now: LogFilter = match command {
        Command::Get(agent) => agent.client()?.get("/v1/log")?,
        Command::Set { agent, filter } => {
            agent.client()?.put("/v1/log", &LogFilter { filter: filter.clone() })?
        }
    };
    out.data(&format!("{}\n", now.filter))?;
    Ok(Exit::Ok)
}
