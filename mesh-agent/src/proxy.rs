//! The data path in user space, in the order a connection takes it.
//!
//! `listener` accepts in a pod's netns, `outbound` and `inbound` compose what follows: `detect` the protocol, `plan` what
//! happens to a request (or `answer` it at once), pick a `backend`, reach it through an `upstream`, then copy (`tcp`) or exchange requests (`crate::http1`, `crate::http2`);
//! `retry` counts its tries, `hedge` makes some of them run beside each other, `exchange` keeps its account, `mirror` sends copies of it elsewhere. Each worker thread owns its
//! state; nothing here is locked, and shared is only `ceiling`'s count of connections.

pub mod access;
mod activation;
pub mod answer;
mod authenticate;
pub mod backend;
pub mod baggage;
pub mod carry;
pub mod ceiling;
pub mod client_cert;
pub mod context;
pub mod detect;
pub mod drain;
pub mod edges;
pub mod error;
pub mod exchange;
mod external;
pub mod gate;
pub mod headers;
pub mod hedge;
mod identity;
pub mod inbound;
pub mod limits;
pub mod listener;
pub mod mirror;
pub mod node;
pub mod outbound;
pub mod plan;
pub mod probe;
pub mod reach;
pub mod retry;
pub mod session;
pub mod sockets;
mod spans;
pub mod stream;
pub mod tcp;
#[cfg(test)]
pub mod testing;
pub mod turn;
pub mod upstream;
pub mod worker;

pub use answer::LocalAnswer;
pub use backend::{Backends, Picked};
pub use context::{Connection, Direction, Pod, Worker};
pub use error::{ErrorKind, Hostile, ProxyError, Side};
pub use exchange::Exchange;
pub use limits::Limits;
pub use mirror::Copied;
pub use plan::{Plan, TryDeadline};
pub use reach::Reach;
pub use retry::Tries;
pub use stream::Stream;
pub use upstream::Upstream;
