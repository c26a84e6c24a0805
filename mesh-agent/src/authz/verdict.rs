//! What the judge says, and by which rule.

use std::sync::Arc;

use super::name::{NONE_MATCHED, RuleName};

/// Whether traffic passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict<'p> {
    /// It does: by this rule, or because no policy with action ALLOW holds.
    Allowed(Option<&'p Arc<RuleName>>),
    /// It doesn't: by this rule, or because none of those that allow fits.
    Denied(Option<&'p Arc<RuleName>>),
}

/// All that is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judged<'p> {
    /// The provider of this rule is asked first, and has to agree.
    pub custom: Option<&'p Arc<RuleName>>,
    /// Whether it passes then.
    pub verdict: Verdict<'p>,
    /// A rule says that it is to be noted.
    pub audit: Option<&'p Arc<RuleName>>,
    /// What policies that aren't enforced would say; None without any.
    pub dry_run: Option<Verdict<'p>>,
}

impl<'p> Verdict<'p> {
    /// True if it doesn't pass.
    pub const fn is_denied(self) -> bool {
        matches!(self, Self::Denied(_))
    }

    /// The rule that says so.
    pub const fn rule(self) -> Option<&'p Arc<RuleName>> {
        match self {
            Self::Allowed(rule) | Self::Denied(rule) => rule,
        }
    }

    /// For the access log, of what is denied.
    pub fn details(self) -> Arc<str> {
        self.rule().map_or_else(|| NONE_MATCHED.into(), |rule| rule.details.clone())
    }

    /// The worse of two.
    #[must_use]
    pub const fn or_worse(self, other: Self) -> Self {
        if self.is_denied() {
            self
        } else if other.is_denied() {
            other
        } else {
            self
        }
    }
}
