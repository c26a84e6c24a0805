//! A command's failure: what happened, the exit code, and what to do about it.

use std::error::Error;
use std::fmt;
use std::io::{self, Write};

use super::{Exit, Style};
use crate::report;

/// Why a command failed.
#[derive(Debug)]
pub struct Failure {
    exit: Exit,
    error: anyhow::Error,
    hint: Option<String>,
}

impl Failure {
    /// With the code that the process shall end with.
    pub fn new(exit: Exit, error: impl Into<anyhow::Error>) -> Self {
        Self { exit, error: error.into(), hint: None }
    }

    /// With the code that its causes ask for.
    pub fn of(error: anyhow::Error) -> Self {
        let mut causes = error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>());
        let denied = causes.any(|error| error.kind() == io::ErrorKind::PermissionDenied);
        Self::new(if denied { Exit::NoPermission } else { Exit::Failed }, error)
    }

    /// From a sentence.
    pub fn message(exit: Exit, message: impl Into<String>) -> Self {
        Self::new(exit, anyhow::Error::msg(message.into()))
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub(super) fn is_broken_pipe(&self) -> bool {
        let mut causes = self.error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>());
        causes.any(|error| error.kind() == io::ErrorKind::BrokenPipe)
    }

    /// The one place where failures become text.
    pub(super) fn print(&self, stderr: &mut dyn Write, style: Style) -> Exit {
        // Nowhere is left to report that this can't be written.
        let _ = writeln!(stderr, "{} {}", style.bad_on_stderr("error:"), report::chain(self.error.as_ref()));
        if let Some(hint) = &self.hint {
            let _ = writeln!(stderr, "hint: {hint}");
        }
        self.exit
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        report::chain(self.error.as_ref()).fmt(f)
    }
}

impl<E: Error + Send + Sync + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::of(error.into())
    }
}
