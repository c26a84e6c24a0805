//! One run: builds the scene, measures memory in fresh processes, then rows in turn for several rounds, then changes of
//! configuration, and reports.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::authorization::{self, Judged};
use crate::changes::{self, Changes, LARGE, USUAL};
use crate::cpu;
use crate::kube;
use crate::memory::{self, Memory};
use crate::mtls;
use crate::observed;
use crate::others;
use crate::peers;
use crate::report;
use crate::rows::{self, Row};
use crate::scene::Scene;
use crate::services::{self, Hook};

#[derive(clap::Args)]
pub struct Args {
    /// The agent's binary; without it only the peers are measured
    #[arg(long)]
    agent: Option<PathBuf>,
    /// Directory for the table and the plots
    #[arg(long)]
    out: Option<PathBuf>,
    /// Rounds; medians are reported
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Seconds of load for each row in each round
    #[arg(long, default_value_t = 4)]
    seconds: u32,
    /// Only these parts: http1, http2, tcp, connect, policies, slow, observed, mtls, others, authorization, memory, changes, services, kube; nothing is written but
    /// the page of the last
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Only rows whose name contains this; nothing is written
    #[arg(long)]
    row: Option<String>,
    /// One round of one second; nothing is written
    #[arg(long)]
    quick: bool,
    /// Configuration changes to make
    #[arg(long, default_value_t = 100)]
    changes: usize,
    /// Pods to make, and endpoints to take away, on Kubernetes
    #[arg(long, default_value_t = 60)]
    samples: usize,
}

/// Everything that was measured.
pub struct Results {
    pub rows: Vec<Row>,
    pub memory: Vec<Memory>,
    /// What the judge of AuthorizationPolicies takes.
    pub judged: Vec<Judged>,
    pub changes: Vec<Changes>,
    /// What the connect hook takes for services that the kernel balances.
    pub hook: Option<Hook>,
    /// Peers that aren't here, and what failed, each with its reason.
    pub absent: Vec<String>,
    pub rounds: u32,
    pub seconds: u32,
    /// Cores that others kept busy before the run began.
    pub background: f64,
}

const PARTS: [&str; 14] = [
    "http1",
    "http2",
    "tcp",
    "connect",
    "policies",
    "slow",
    "observed",
    "mtls",
    "others",
    "authorization",
    "memory",
    "changes",
    "services",
    "kube",
];

pub fn run(args: &Args) -> Result<()> {
    if let Some(unknown) = args.only.iter().find(|part| !PARTS.contains(&part.as_str())) {
        bail!("no part is called {unknown}: there are {}", PARTS.join(", "));
    }
    let wants_kube =
        args.row.is_none() && (args.only.is_empty() || args.only.iter().any(|part| part == "kube"));
    if wants_kube {
        on_kubernetes(args)?;
    }
    if args.only == ["kube"] {
        return Ok(());
    }
    let results = measure(args)?;
    let text = report::tables(&results);
    println!("{text}");
    let partial = args.quick || !args.only.is_empty() || args.row.is_some() || args.agent.is_none();
    match &args.out {
        Some(out) if !partial => report::write(out, &results, &text),
        _ => Ok(()),
    }
}

/// Has a page of its own, which stays as it is where there is no cluster.
fn on_kubernetes(args: &Args) -> Result<()> {
    let (agent, missing) = (args.agent.as_deref(), kube::missing());
    let (Some(agent), None) = (agent, missing) else {
        say(&format!("Kubernetes is not measured: {}", missing.unwrap_or("there is no agent's binary")));
        return Ok(());
    };
    let background = cpu::background()?;
    say("on Kubernetes");
    let measured = kube::measure(agent, if args.quick { 3 } else { args.samples })?;
    println!("{}", kube::table(&measured));
    match &args.out {
        Some(out) if !args.quick => kube::write(out, &measured, background),
        _ => Ok(()),
    }
}

fn measure(args: &Args) -> Result<Results> {
    let wanted = |part: &str| args.only.is_empty() || args.only.iter().any(|only| only == part);
    let (rounds, seconds) = if args.quick { (1, 1) } else { (args.rounds, args.seconds) };
    let background = cpu::background()?;
    if background > 0.1 {
        say(&format!("this machine is not idle: other work keeps {background:.1} cores busy"));
    }
    say("building pods");
    let mut scene = Scene::new(args.agent.as_deref())?;
    let (peers, mut absent) = peers::start(&scene);
    let (captured, more) = peers::capture(&scene);
    absent.extend(more);
    let mut memory = Vec::new();
    if wanted("memory") {
        say("memory");
        memory = memory::measure(&mut scene, &peers).with_context(|| agent_log(&scene))?;
    }
    scene.put_policies().with_context(|| agent_log(&scene))?;
    let mut rows = rows::all(&scene, &peers, &captured);
    let (between_nodes, pairs, more) = mtls::rows(&scene);
    rows.extend(between_nodes);
    rows.extend(observed::rows(&scene));
    absent.extend(more);
    rows.retain(|row| {
        wanted(row.work.part()) && args.row.as_ref().is_none_or(|name| row.name.contains(name))
    });
    let scratch = scene.topology.scratch().to_owned();
    rows.retain(|row| match row.warm_up(&scratch) {
        Ok(()) => true,
        Err(error) => {
            absent.push(format!("{} ({}): {error:#}", row.name, row.work.part()));
            false
        }
    });
    for round in 1..=rounds {
        say(&format!("round {round} of {rounds}, {} rows of {seconds} s", rows.len()));
        for row in &mut rows {
            row.measure(seconds, &scratch).with_context(|| format!("{} ({})", row.name, row.work.part()))?;
        }
    }
    if wanted("others") && args.row.is_none() && scene.mesh.is_some() {
        say("routes of other services");
        match others::measure(&scene, rounds, seconds) {
            Ok(measured) => rows.extend(measured),
            Err(error) => absent.push(format!("routes of other services: {error:#}")),
        }
    }
    drop((peers, captured, pairs, scene));
    let mut judged = Vec::new();
    if wanted("authorization") && args.row.is_none() {
        say("authorization");
        judged = authorization::measure()?;
    }
    let mut changes = Vec::new();
    let mut hook = None;
    if let Some(agent) = &args.agent {
        for scale in [USUAL, LARGE].into_iter().filter(|_| wanted("changes")) {
            say(&format!("configuration changes among {} services", scale.services));
            match changes::measure(agent, args.changes, scale) {
                Ok(measured) => changes.push(measured),
                Err(error) => absent.push(format!("configuration changes, {scale:?}: {error:#}")),
            }
        }
        if wanted("services") {
            say("services in the kernel");
            hook = services::measure(agent, seconds)
                .map_err(|error| absent.push(format!("services in the kernel: {error:#}")))
                .ok();
        }
    }
    Ok(Results { rows, memory, judged, changes, hook, absent, rounds, seconds, background })
}

/// What the agent said last, for a failure in which it had a part.
fn agent_log(scene: &Scene) -> String {
    let log = scene.mesh.as_ref().map(|mesh| mesh.agent.log()).unwrap_or_default();
    let lines: Vec<&str> = log.lines().collect();
    let last = lines[lines.len().saturating_sub(15)..].join("\n");
    if last.is_empty() {
        "the agent said nothing".to_owned()
    } else {
        format!("the agent's last words:\n{last}\n")
    }
}

fn say(text: &str) {
    eprintln!("bench: {text}");
}
