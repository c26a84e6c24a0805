//! `mesh-agent demo`: a node, its agent and some pods on this machine, and what happens to their traffic.
//!
//! Everything is real: pods are network namespaces, the agent is this binary run as a child, the kernel programs are
//! attached to the pods' cgroups. Built on `lab`, so that nothing is left behind, whatever ends it.

mod far;
mod keys;
mod load;
mod peer;
mod phases;
mod policies;
mod security;
mod show;
mod stage;

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use tokio::signal::unix::{SignalKind, signal};

pub use keys::{Keys, Tone};
pub use peer::{ClientArgs, ServerArgs, client, server};
use show::{Report, Show};
use stage::Stage;

use crate::lab;

/// Flags of `mesh-agent demo`.
#[derive(Debug, clap::Args)]
pub struct DemoArgs {
    /// Go through it once, without pauses to watch, and exit with 1 if anything isn't as it should be
    #[arg(long)]
    pub once: bool,
    /// How the result is written
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    pub output: Output,
    /// Leave it running at the end, until Ctrl-C, and print the commands to look around with
    #[arg(long)]
    pub keep: bool,
    /// Watch it in `top`, and change it by keys: canary, kill, deny, mutual TLS, replace the agent
    #[arg(long, conflicts_with_all = ["once", "output", "keep"])]
    pub keys: bool,
}

/// How the result is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// For people, with live figures on a terminal.
    #[default]
    Text,
    /// One object at the end.
    Json,
}

/// Runs the demo.
///
/// # Errors
/// The topology can't be built here, a phase went wrong, or Ctrl-C.
pub fn run(args: DemoArgs) -> Result<()> {
    able()?;
    watch_signals(On::Lines)?;
    let show = Show::new(args.output);
    let watching = if args.once { Duration::from_millis(1000) } else { Duration::from_secs(4) };
    let started = Instant::now();
    show.note(BUILDING);
    let mut stage = Stage::build()?;
    show.introduce(&stage);
    let mut phases = Vec::new();
    for phase in phases::ALL {
        show.begin(phase.name, phase.what);
        let outcome = (phase.run)(&mut stage, &show, watching)?;
        show.end(&outcome);
        phases.push(outcome);
    }
    let report = Report::new(phases, started.elapsed());
    show.report(&report)?;
    if args.keep {
        stage.resume_clients()?;
        show.keep(&stage);
        while !interrupted() {
            std::thread::sleep(Duration::from_millis(50));
        }
        return Ok(());
    }
    match report.failed().as_slice() {
        [] => Ok(()),
        names => bail!("not as it should be: {}", names.join(", ")),
    }
}

const BUILDING: &str = "building two nodes out of seven network namespaces and starting their agents ...";
const CLEARING: &str = "clearing away ...";

/// Fails with what keeps the demo from running here.
fn able() -> Result<()> {
    let Some(why) = lab::missing() else { return Ok(()) };
    let why = format!("the demo {why}");
    let is_root = nix::unistd::geteuid().is_root();
    let kind = if is_root { io::ErrorKind::Unsupported } else { io::ErrorKind::PermissionDenied };
    Err(io::Error::new(kind, why).into())
}

/// What the terminal is used as.
#[derive(Clone, Copy, PartialEq, Eq)]
enum On {
    Lines,
    /// Drawn on, and to be given back.
    Screen,
}

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// Waits, in small steps, calling `step` with the time left; ends early on Ctrl-C.
fn pause(time: Duration, mut step: impl FnMut() -> Result<()>) -> Result<()> {
    let end = Instant::now() + time;
    while Instant::now() < end {
        if interrupted() {
            bail!("interrupted; everything is cleared away");
        }
        std::thread::sleep(Duration::from_millis(20));
        step()?;
    }
    Ok(())
}

/// The first Ctrl-C ends the demo at its next step, so that guards clean up; a second one ends the process, and the
/// reaper cleans up.
fn watch_signals(on: On) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut interrupt, mut terminate, mut hang_up) = {
        let _entered = runtime.enter();
        let hang_up = (on == On::Screen).then(|| signal(SignalKind::hangup())).transpose()?;
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?, hang_up)
    };
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        runtime.block_on(async {
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                    Some(_) = async { hang_up.as_mut()?.recv().await } => {}
                }
                if INTERRUPTED.swap(true, Ordering::Relaxed) {
                    if on == On::Screen {
                        // Nobody is left to tell that it can't be given back.
                        let _ = ratatui::try_restore();
                    }
                    std::process::exit(130);
                }
                if on == On::Lines {
                    eprintln!("\n{CLEARING}");
                }
            }
        });
    })?;
    Ok(())
}
