//! `version`: this binary's, and the running agent's if there is one.

use serde::Serialize;

use super::output::{Out, TextFormat, document};
use super::{AgentArgs, Exit, Outcome};
use crate::admin::api::Status;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    agent: AgentArgs,
    /// Output format
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: TextFormat,
    /// Don't ask the agent
    #[arg(long)]
    client: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Versions {
    client: &'static str,
    /// Of the kernel maps: agents with the same one take over from each other.
    map_layout: u32,
    /// None: no agent answers, which isn't an error here.
    #[serde(skip_serializing_if = "Option::is_none")]
    agent: Option<String>,
}

pub(super) fn run(args: &Args, out: &mut Out<'_>) -> Outcome {
    let running = || Some(args.agent.client().ok()?.get::<Status>("/v1/status").ok()?.agent.version);
    let versions = Versions {
        client: env!("CARGO_PKG_VERSION"),
        map_layout: mesh_common::LAYOUT_VERSION,
        agent: if args.client { None } else { running() },
    };
    let text = document(args.output, &versions, |v| {
        let client = format!("client: {} (map layout {})\n", v.client, v.map_layout);
        if args.client {
            client
        } else {
            format!("{client}agent:  {}\n", v.agent.as_deref().unwrap_or("not running"))
        }
    })?;
    out.data(&text)?;
    Ok(Exit::Ok)
}
