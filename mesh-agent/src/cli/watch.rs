//! `-w`: asks again every second and prints when something changed, until interrupted.

use std::time::Duration;

use super::output::Out;
use super::{Exit, Failure, Outcome};

const EVERY: Duration = Duration::from_secs(1);

/// Prints what `render` says: once, or with `watch` whenever it changes.
///
/// On a terminal each print replaces the last one; elsewhere an empty line separates them.
pub(super) fn show(
    watch: bool,
    out: &mut Out<'_>,
    render: impl FnMut() -> Result<Option<String>, Failure>,
) -> Outcome {
    show_or(watch, "nothing found", out, render)
}

/// The same, with what is said where there is nothing to print.
pub(super) fn show_or(
    watch: bool,
    nothing: &str,
    out: &mut Out<'_>,
    mut render: impl FnMut() -> Result<Option<String>, Failure>,
) -> Outcome {
    let mut shown = render()?;
    print(out, shown.as_deref(), nothing)?;
    if !watch {
        return Ok(Exit::Ok);
    }
    loop {
        std::thread::sleep(EVERY);
        let fresh = render()?;
        if fresh != shown {
            out.data(if out.style.terminal { "\x1b[H\x1b[2J" } else { "\n" })?;
            print(out, fresh.as_deref(), nothing)?;
            shown = fresh;
        }
    }
}

fn print(out: &mut Out<'_>, text: Option<&str>, nothing: &str) -> Result<(), Failure> {
    match text {
        Some(text) => out.data(text),
        None => out.note(nothing),
    }
}
