//! `get`: lists of what the agent knows. Live, or off line from what `config dump` wrote.

mod certs;
mod connections;
mod endpoints;
mod policies;
mod routes;
mod services;
mod workloads;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Error;
use clap::{Args, Subcommand};
use serde::de::DeserializeOwned;

use super::output::{Format, Out, Row, list};
use super::{AgentArgs, Exit, Failure, Outcome, watch};
use crate::admin::api;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Pods and whether they are captured
    #[command(visible_aliases = ["w", "pods"])]
    Workloads(Common),
    /// Services, their ports and how many endpoints are ready
    #[command(visible_alias = "svc")]
    Services(Common),
    /// Routes, the Services that they are attached to, and whether they hold
    #[command(visible_alias = "route")]
    Routes(Common),
    /// Policies in force, what they are for, and whether they hold there
    #[command(visible_alias = "policy")]
    Policies(Common),
    /// Endpoints with their state and load
    #[command(visible_alias = "ep")]
    Endpoints {
        #[command(flatten)]
        common: Common,
        /// Only those of this service
        #[arg(long, value_name = "NAME")]
        service: Option<String>,
    },
    /// Certificates of the service accounts that have pods here, and their lives
    #[command(visible_aliases = ["cert", "certificates"])]
    Certs(Common),
    /// Open connections that the agent carries
    #[command(visible_alias = "conn")]
    Connections {
        #[command(flatten)]
        common: Common,
        /// Only outbound or inbound
        #[arg(long, value_parser = ["outbound", "inbound"])]
        direction: Option<String>,
    },
}

#[derive(Debug, Args)]
pub(super) struct Common {
    #[command(flatten)]
    agent: AgentArgs,
    /// Output format
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
    /// Only this namespace
    #[arg(short, long, value_name = "NAME")]
    namespace: Option<String>,
    /// Print again whenever something changes
    #[arg(short, long)]
    watch: bool,
    /// Read a file that `config dump` wrote instead of asking the agent
    #[arg(short, long, value_name = "FILE", conflicts_with = "watch")]
    file: Option<PathBuf>,
}

pub(super) fn run(command: &Command, out: &mut Out<'_>) -> Outcome {
    match command {
        Command::Workloads(common) => common.show("workloads", |dump| Some(dump.workloads), |_| true, out),
        Command::Services(common) => common.show("services", |dump| Some(dump.services), |_| true, out),
        Command::Routes(common) => common.show("routes", |dump| Some(dump.routes), |_| true, out),
        Command::Policies(common) => common.show("policies", |dump| Some(dump.policies), |_| true, out),
        Command::Endpoints { common, service } => {
            let wanted = |e: &api::Endpoint| service.as_ref().is_none_or(|name| *name == e.service);
            common.show("endpoints", |dump| Some(dump.endpoints), wanted, out)
        }
        Command::Certs(common) => common.show("certificates", |_| None, |_: &api::Certificate| true, out),
        Command::Connections { common, direction } => {
            let wanted = |c: &api::Connection| direction.as_ref().is_none_or(|d| *d == c.direction);
            common.show("connections", |_| None, wanted, out)
        }
    }
}

/// What `-n` compares.
trait InNamespace {
    fn namespace(&self) -> &str;
}

impl Common {
    /// Fetches, filters and prints. `from_dump` picks the list out of a dump, if a dump has it.
    fn show<T: Row + InNamespace + DeserializeOwned>(
        &self,
        kind: &str,
        from_dump: impl Fn(api::Dump) -> Option<Vec<T>>,
        wanted: impl Fn(&T) -> bool,
        out: &mut Out<'_>,
    ) -> Outcome {
        let client = self.agent.client()?;
        let fetch = || match &self.file {
            None => client.get(&format!("/v1/{kind}")),
            Some(path) => from_dump(read_dump(path)?).ok_or_else(|| {
                Failure::message(Exit::Usage, format!("a dump has no {kind}")).hint("leave out --file")
            }),
        };
        watch::show(self.watch, out, || {
            let mut rows: Vec<T> = fetch()?;
            rows.retain(|row| self.namespace.as_deref().is_none_or(|n| n == row.namespace()) && wanted(row));
            list(self.output, &rows)
        })
    }
}

/// JSON is YAML, so both that `config dump` writes are read.
pub(super) fn read_dump(path: &Path) -> Result<api::Dump, Failure> {
    let name = path.display();
    let bad = |error: Error, what: String| Failure::new(Exit::BadInput, error.context(what));
    let text =
        fs::read_to_string(path).map_err(|error| bad(error.into(), format!("{name} can't be read")))?;
    serde_yaml_ng::from_str(&text).map_err(|error| {
        bad(error.into(), format!("{name} is no dump of an agent"))
            .hint("make one with `mesh-agent config dump > dump.json`")
    })
}
