//! External authorization: what AuthorizationPolicies with action CUSTOM ask, and what becomes of the answer. Pure.
//!
//! `provider` is who is asked, from the configuration file; `question` what is said of a request or connection, `message` the
//! form that gRPC gives it (Envoy's `envoy.service.auth.v3`), `verdict` what an answer means, `headers` which of them pass.
//! `proxy::external` asks, where traffic arrives. Nothing here lets a request pass that wasn't answered, unless its provider
//! says `failOpen`.

mod headers;
pub mod message;
mod provider;
mod question;
mod verdict;

pub use headers::HeaderList;
pub use provider::{ExtensionProvider, GrpcProvider, HttpProvider, Protocol, Provider, Providers};
pub use question::{Asked, Peer, http_head};
pub use verdict::{Allowed, Denied, Verdict, of_grpc, of_http};
