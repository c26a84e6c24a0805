//! HTTP/1.0 and 1.1 on the data path: one task drives both sides of every exchange, without channels or collected bodies.
//!
//! `serve` reads a request (`conn`, `head`, `message`, `target`), finds it an upstream connection and lets `forward`
//! move both bodies (`body`, `chunk`); `write` sends heads on as they were spelled, `answer` is what the agent itself has
//! to say, `hedge` is a try beside one that is slow, `mirror` sends copies of requests, `ask` the agent's own. `over_http2` stands in for `forward`
//! where the endpoint is spoken to in HTTP/2, `mark` says to another agent what that leaves out. Comes after `proxy::carry`; switched protocols go on in `proxy::tcp`. Ambiguous framing is refused, never
//! repaired.

mod answer;
mod ask;
pub(crate) mod body;
mod chunk;
pub(crate) mod conn;
pub(crate) mod forward;
pub(crate) mod head;
mod hedge;
pub(crate) mod mark;
pub(crate) mod message;
mod mirror;
pub(crate) mod over_http2;
mod pool;
mod serve;
mod target;
mod timer;
mod upload;
pub(crate) mod write;

pub use ask::ask;
pub use conn::Conn;
pub use mirror::Mirrored;
pub use serve::serve;
pub(crate) use serve::{connection_to, keep};
