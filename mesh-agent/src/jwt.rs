//! Who sends a request, proven by a token in it: RequestAuthentication (security.istio.io), on the way into a pod.
//!
//! `rule` is what a policy's rule came to, `authenticate` holds a request against all that apply: `location` finds tokens,
//! `token` takes one apart, `verify` judges it by `keys` of `algorithm`s, `cache` remembers what held, `edits` and `output` are
//! what changes in the request. `remote` holds keys that `keeper` fetches (`fetch`, `reach`, `schedule`). All but the fetching
//! is pure. `proxy::access` asks before it asks for authorization, which gets the [`Claims`].

mod algorithm;
mod authenticate;
mod cache;
mod claims;
mod edits;
mod fetch;
mod json;
mod keeper;
mod keys;
mod location;
mod output;
mod reach;
mod refusal;
mod remote;
mod rule;
mod schedule;
#[cfg(test)]
pub(crate) mod testing;
mod token;
mod verify;

pub use authenticate::{Authenticated, Authentication, Refused};
pub use cache::Cache;
pub use claims::Claims;
pub use edits::Edits;
pub use keeper::{Keeper, OUTCOMES, Stats};
pub use keys::{KeySet, KeySetError};
pub use location::Location;
pub use output::Outputs;
pub use refusal::Refusal;
pub use remote::{Remote, Source, Spec, Store, url};
pub use rule::{Keys, Rule};
pub use token::LONGEST;
pub use verify::{Expected, Verified, verify};
