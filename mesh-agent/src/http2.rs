//! HTTP/2 with prior knowledge, both sides: frames, flow control and HPACK are the h2 crate's.
//!
//! Comes after `proxy::carry` has seen the preface. `server` drives a client's connection and all of its streams in
//! one task; `stream` takes one request from its head to its end, `pass` does one try of it; `pool` and `link` are the connections to endpoints;
//! `outgoing` is a stream there for what came over HTTP/1 (`crate::http1::over_http2` carries it), `over_http1` makes HTTP/1 again of what
//! another agent carried so; `copy` moves a body in one direction;
//! `hedge` is a try beside one that is slow; `mirror` sends a copy of a request; `guard` sits on each socket and counts what h2 doesn't limit.
//! Never collects a body, never answers what only an endpoint can answer.

mod allowance;
mod answer;
mod clock;
mod copy;
mod frames;
mod grpc;
mod guard;
mod hedge;
mod link;
mod mirror;
mod outgoing;
mod over_http1;
mod pass;
mod pool;
mod request;
mod server;
mod stall;
mod stream;
#[cfg(test)]
pub(crate) mod tests;
mod unclaimed;
mod upload;

pub(crate) use answer::reset_code;
pub use grpc::timeout_in as grpc_timeout;
pub(crate) use link::Lease;
pub use mirror::Mirrored;
pub(crate) use outgoing::Outgoing;
pub use pool::Pool;
pub use server::serve;

/// What a sender may have under way on one stream, and so the most that is held for a reader that doesn't read. Enough
/// for 2 Gbit/s at a round trip of 1 ms.
const STREAM_WINDOW: u32 = 256 * 1024;
/// The same for a whole connection: sixteen streams may stall before the others do.
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
/// Handed to h2 per stream and not yet written to the socket.
const SEND_BUFFER: usize = 128 * 1024;
