//! `log`: the filter of the agent's own log, while it runs.

use clap::Subcommand;

use super::output::{Out, TextFormat, document};
use super::{AgentArgs, Exit, Outcome};
use crate::admin::api::LogFilter;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Print the filter in force
    Get {
        #[command(flatten)]
        agent: AgentArgs,
        /// Output format
        #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
        output: TextFormat,
    },
    /// Put a filter in force, like info or info,mesh_agent::proxy=debug
    Set {
        #[command(flatten)]
        agent: AgentArgs,
        /// In tracing's filter syntax
        filter: String,
    },
}

pub(super) fn run(command: &Command, out: &mut Out<'_>) -> Outcome {
    let (now, output): (LogFilter, _) = match command {
        Command::Get { agent, output } => (agent.client()?.get("/v1/log")?, *output),
        Command::Set { agent, filter } => {
            let wanted = LogFilter { filter: filter.clone() };
            (agent.client()?.put("/v1/log", &wanted)?, TextFormat::Text)
        }
    };
    out.data(&document(output, &now, |now| format!("{}\n", now.filter))?)?;
    Ok(Exit::Ok)
}
