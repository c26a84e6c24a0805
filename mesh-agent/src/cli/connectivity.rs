//! `connectivity test`: does a mesh that is installed do what it is for? Makes pods in a namespace of its own, lets them call each
//! other, and takes everything away again.
//!
//! The pods run this program, from the agents' own image. `scene` makes them, `scenarios` is what has to hold, `junit` writes it
//! down for CI.

mod junit;
mod scenarios;
mod scene;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::Serialize;

use self::scenarios::{ALL, Verdict};
use self::scene::Scene;
use super::cluster::ClusterArgs;
use super::output::{Out, TextFormat, json};
use super::style::Mark;
use super::{Exit, Failure, Outcome};
use crate::report;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Let pods of a namespace of their own call each other through the mesh
    Test(Box<Args>),
}

/// Flags of `connectivity test`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Context of the kubeconfig, if not its current one
    #[arg(long, value_name = "CONTEXT")]
    context: Option<String>,
    /// Namespace that the cluster's agents run in, if they may not be looked for in all
    #[arg(long, env = "MESH_AGENT_NAMESPACE", value_name = "NAMESPACE")]
    agent_namespace: Option<String>,
    /// Namespace that is made for the test, and deleted after it
    #[arg(long, default_value = "mesh-agent-test", value_name = "NAMESPACE")]
    namespace: String,
    /// Image of the pods, whose entry point is mesh-agent, if not that of the agents
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,
    /// Write the result as JUnit XML too
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Leave the namespace as it is at the end
    #[arg(long)]
    keep: bool,
    /// Output format
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: TextFormat,
}

/// How one scenario went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Case {
    name: &'static str,
    what: &'static str,
    result: CaseResult,
    /// Why it didn't hold, or wasn't tried.
    detail: String,
    millis: u128,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum CaseResult {
    Passed,
    Failed,
    Skipped,
}

impl Case {
    fn of(
        (name, what): (&'static str, &'static str),
        outcome: anyhow::Result<Verdict>,
        took: Duration,
    ) -> Self {
        let (result, detail) = match outcome {
            Ok(Verdict::Holds) => (CaseResult::Passed, String::new()),
            Ok(Verdict::NotTried(why)) => (CaseResult::Skipped, why),
            Err(error) => (CaseResult::Failed, report::chain(error.as_ref()).to_string()),
        };
        Self { name, what, result, detail, millis: took.as_millis() }
    }

    fn mark(&self) -> Mark {
        match self.result {
            CaseResult::Passed => Mark::Good,
            CaseResult::Skipped => Mark::Warn,
            CaseResult::Failed => Mark::Bad,
        }
    }
}

pub(super) fn run(command: &Command, out: &mut Out<'_>) -> Outcome {
    let Command::Test(args) = command;
    let cluster = ClusterArgs { context: args.context.clone(), namespace: args.agent_namespace.clone() };
    out.note(&format!("making pods in namespace {} ...", args.namespace))?;
    let scene = Scene::make(&cluster, &args.namespace, args.image.as_deref())?;
    let told = test(&scene, args, out);
    if args.keep {
        out.note(&format!("namespace {} is left as it is", args.namespace))?;
    } else {
        scene.delete()?;
    }
    let cases = told?;
    if let Some(path) = &args.junit {
        std::fs::write(path, junit::document(&cases)).map_err(|error| {
            Failure::of(anyhow::Error::new(error).context(format!("writing {}", path.display())))
        })?;
    }
    match args.output {
        TextFormat::Text => {}
        TextFormat::Json => out.data(&json(&cases)?)?,
        TextFormat::Yaml => out.data(&serde_yaml_ng::to_string(&cases)?)?,
    }
    let failed = cases.iter().any(|case| case.result == CaseResult::Failed);
    Ok(if failed { Exit::Failed } else { Exit::Ok })
}

/// Tells of each scenario as it is done.
fn test(scene: &Scene, args: &Args, out: &mut Out<'_>) -> Result<Vec<Case>, Failure> {
    let mut cases = Vec::new();
    for scenario in ALL {
        let begun = Instant::now();
        let case = Case::of((scenario.name, scenario.what), (scenario.run)(scene), begun.elapsed());
        if args.output == TextFormat::Text {
            let style = out.style;
            let detail =
                if case.detail.is_empty() { String::new() } else { format!("\n    {}", case.detail) };
            out.data(&format!("{} {}{detail}\n", style.mark(case.mark()), case.what))?;
        }
        cases.push(case);
    }
    Ok(cases)
}
