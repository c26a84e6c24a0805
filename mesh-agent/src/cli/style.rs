//! Colours and symbols. Colour only where a person looks at a terminal; every symbol has an ASCII form.

use std::env;
use std::io::{self, IsTerminal};

/// `--color`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum ColorChoice {
    #[default]
    Auto,
    Always,
    Never,
}

/// How to print.
#[derive(Clone, Copy, Debug, Default)]
pub struct Style {
    pub(super) color: bool,
    pub(super) color_stderr: bool,
    pub(super) unicode: bool,
    /// stdout is a terminal: a watch may clear it.
    pub(super) terminal: bool,
}

/// How a check or component stands; the worst is the greatest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Mark {
    Good,
    Warn,
    Bad,
}

impl Style {
    pub(super) fn detect(choice: ColorChoice) -> Self {
        let no_color = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = env::var_os("TERM").is_some_and(|term| term == "dumb");
        let colored = |terminal: bool| match choice {
            ColorChoice::Auto => terminal && !no_color && !dumb,
            ColorChoice::Always => true,
            ColorChoice::Never => false,
        };
        Self {
            color: colored(io::stdout().is_terminal()),
            color_stderr: colored(io::stderr().is_terminal()),
            unicode: !dumb && locale_is_utf8(),
            terminal: io::stdout().is_terminal(),
        }
    }

    /// `√`, `‼` or `×`, as linkerd's `check` has them.
    pub(super) fn mark(self, mark: Mark) -> String {
        let symbol = match (mark, self.unicode) {
            (Mark::Good, true) => "√",
            (Mark::Good, false) => "ok",
            (Mark::Warn, true) => "‼",
            (Mark::Warn, false) => "!!",
            (Mark::Bad, true) => "×",
            (Mark::Bad, false) => "x",
        };
        self.paint(mark, symbol)
    }

    /// `text` in the colour of `mark`.
    pub(super) fn paint(self, mark: Mark, text: &str) -> String {
        paint(self.color, mark, text)
    }

    pub(super) fn bad_on_stderr(self, text: &str) -> String {
        paint(self.color_stderr, Mark::Bad, text)
    }
}

fn paint(color: bool, mark: Mark, text: &str) -> String {
    let code = match mark {
        Mark::Good => "32",
        Mark::Warn => "33",
        Mark::Bad => "1;31",
    };
    if color { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
}

/// POSIX's order: the first that is set decides.
fn locale_is_utf8() -> bool {
    let mut locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().filter_map(|name| env::var(name).ok());
    let locale = locale.find(|value| !value.is_empty()).unwrap_or_default().to_lowercase();
    locale.contains("utf-8") || locale.contains("utf8")
}
