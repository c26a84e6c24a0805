//! Who may call what: AuthorizationPolicies compiled for a workload, and the judge that asks them. Pure.
//!
//! `model::build` finds the policies that select a workload, `proxy::access` gathers the facts about a connection or request
//! and asks [`Compiled::judge`] where the traffic arrives. Meanings are Istio's (`pilot/pkg/security/authz`), but for what
//! could let a request past them: a path is judged in every way that a server may read it (`path`).

mod compile;
mod explain;
mod facts;
mod index;
mod name;
mod network;
mod path;
mod pattern;
mod policy;
mod prefixes;
mod principal;
mod rule;
mod table;
mod template;
mod test;
#[cfg(test)]
mod tests;
mod verdict;

pub use compile::{Compiled, Scope, WorkloadPolicies};
pub use explain::Considered;
pub use facts::{Facts, RequestFacts, remote_address};
pub use name::{NONE_MATCHED, RuleName};
pub use network::Networks;
pub use path::{HasNul, Normalization, Readings, is_in_normal_form};
pub use policy::{Options, Policy, Selection};
pub use rule::Rule;
pub use template::Template;
pub use verdict::{Judged, Verdict};
