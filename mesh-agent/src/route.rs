//! Which rule a request goes by and what that rule does to it: Gateway API routes, compiled. Pure: no I/O, no clock.
//!
//! `model::build` compiles route objects into [`PortRoutes`] whenever one of them changes; a connection takes the
//! [`Routes`] of the service port that it dialled and of its own namespace once, and `proxy::plan` asks the table for
//! each request. Destination address decides which table is asked, never Host (GEP-1426). Nothing here is looked up by
//! name per request.

mod apply;
mod asked;
mod bound;
mod cors;
mod edit;
mod explain;
mod filter;
mod matches;
mod pattern;
mod precedence;
mod redirect;
mod rule;
mod session;
mod stream;
mod table;
mod weights;

pub use apply::{Before, Unusable};
pub use bound::{BackendName, BackendPort, PortRoutes, Routes, Sources};
pub use cors::{Cors, OriginPattern};
pub use edit::HeaderEdits;
pub use explain::{Considered, ConsideredStream, Explanation, Misfit, Verdict};
pub use filter::{Filters, Mirror};
pub use matches::{GrpcMatch, HeaderMatch, Match, PathMatch, QueryMatch, ValueMatch};
pub use pattern::{Pattern, PatternError};
pub use redirect::{PathRewrite, Redirect, Rewrite};
pub use rule::{
    Backend, BackendTarget, RetryBudget, RetryOn, RetryPolicy, Rule, RuleName, SessionKind,
    SessionPersistence, Timeouts,
};
pub use session::{Scope, Session};
pub use stream::{StreamEntry, StreamRule, StreamTable};
pub use table::{Found, RouteEntry, RouteTable};
pub use weights::Backends;
