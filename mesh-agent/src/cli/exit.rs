//! Exit codes, after BSD's sysexits where they fit and istioctl's 79.

use std::process::ExitCode;

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Fine.
    Ok = 0,
    /// Failed.
    Failed = 1,
    /// The answer is "denied" or "no match".
    No = 3,
    /// The command line can't be understood.
    Usage = 64,
    /// A file can't be understood.
    BadInput = 65,
    /// No agent answers.
    Unreachable = 69,
    /// The user may not.
    NoPermission = 77,
    /// Configuration has issues.
    Issues = 79,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}
