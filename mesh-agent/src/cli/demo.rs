//! `demo`: its phases, or with `--keys` its stage below `top`'s tables, where keys change it.

use std::time::Duration;

use super::output::Out;
use super::style::Mark;
use super::top::{self, Panel, PanelLine};
use super::{Exit, Failure, Outcome};
use crate::demo::{self, DemoArgs, Keys, Tone};

/// Short, so that what a key does shows soon: the last full bucket of the agents and the newest.
const WINDOW: Duration = Duration::from_secs(10);

pub(super) fn run(args: DemoArgs, out: &mut Out<'_>) -> Outcome {
    if args.keys { with_keys(out) } else { demonstrated(demo::run(args)) }
}

fn with_keys(out: &mut Out<'_>) -> Outcome {
    if !out.style.terminal {
        return Err(Failure::message(Exit::Usage, "demo --keys draws on a terminal, and stdout isn't one")
            .hint("`mesh-agent demo` goes through its phases without one"));
    }
    let mut keys = Keys::build().map_err(Failure::of)?;
    let (agents, stop) = (keys.sockets().to_vec(), keys.interrupted());
    let outcome = top::with_panel(&agents, WINDOW, out.style.color, stop, &mut keys);
    // The terminal is the user's again.
    for failure in keys.failures() {
        out.note(&format!("warning: {failure}"))?;
    }
    outcome
}

/// How one of the demo's commands ended.
pub(super) fn demonstrated(outcome: anyhow::Result<()>) -> Outcome {
    outcome.map(|()| Exit::Ok).map_err(Failure::of)
}

impl Panel for Keys {
    fn lines(&mut self) -> Vec<PanelLine> {
        let mark = |tone| match tone {
            Tone::Plain => None,
            Tone::Good => Some(Mark::Good),
            Tone::Waiting => Some(Mark::Warn),
            Tone::Bad => Some(Mark::Bad),
        };
        Self::lines(self).into_iter().map(|(text, tone)| PanelLine { text, mark: mark(tone) }).collect()
    }

    fn key(&mut self, key: char) -> bool {
        self.press(key)
    }
}
