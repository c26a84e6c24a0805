//! `manifests`: what the Helm charts install, as plain YAML on stdout, for `kubectl apply -f -`.

use std::path::PathBuf;

use anyhow::Error;
use serde_json::json;

use super::output::Out;
use super::{Exit, Failure, Outcome};
use crate::manifests::{self, AGENT, CRDS, Chart, Release};

/// Which objects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum Which {
    /// The definitions of our own kinds, then agent and controller
    #[default]
    All,
    /// The chart mesh-crds
    Crds,
    /// The chart mesh-agent
    Agent,
}

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Where agent and controller go
    #[arg(short, long, value_name = "NAME", default_value = "mesh-agent")]
    namespace: String,
    /// Values over the chart's own, as helm's --set: agent.log=debug,image.tag=1.2.3
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// A file of values; --set comes over it
    #[arg(short = 'f', long, value_name = "FILE")]
    values: Vec<PathBuf>,
    /// Which objects
    #[arg(long, value_enum, default_value_t, value_name = "CHART")]
    chart: Which,
    /// Print every value of the chart mesh-agent with what it is for, and end
    #[arg(long)]
    show_values: bool,
}

pub(super) fn run(args: &Args, out: &mut Out<'_>) -> Outcome {
    if args.show_values {
        out.data(AGENT.file("values.yaml"))?;
        return Ok(Exit::Ok);
    }
    let text = render(args).map_err(|error| Failure::new(Exit::BadInput, Error::new(error)))?;
    out.data(&text)?;
    Ok(Exit::Ok)
}

fn render(args: &Args) -> Result<String, manifests::ManifestsError> {
    let mut values = json!({});
    for file in &args.values {
        manifests::merge(&mut values, manifests::read_values(file)?);
    }
    for set in &args.set {
        manifests::assign(&mut values, set)?;
    }
    let namespace = args.namespace.clone();
    let release = Release { name: "mesh-agent".into(), namespace, service: "mesh-agent".into() };
    let one = |chart: &Chart, values| manifests::render(chart, values, &release);
    match args.chart {
        Which::Crds => one(&CRDS, values),
        Which::Agent => one(&AGENT, values),
        Which::All => Ok(one(&CRDS, json!({}))? + &namespace_object(&args.namespace) + &one(&AGENT, values)?),
    }
}

/// Helm makes it with --create-namespace.
fn namespace_object(name: &str) -> String {
    format!("---\napiVersion: v1\nkind: Namespace\nmetadata:\n  name: {}\n", json!(name))
}
