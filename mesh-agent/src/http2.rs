//! HTTP/2 with prior knowledge, both sides: frames, flow control and HPACK are the h2 crate's.
//!
//! Comes after `proxy::carry` has seen the preface. `server` drives a client's connection and all of its streams in
//! one task; `stream` takes one request from its head to its end, `pass` does one try of it; `pool` and `link` are the connections to endpoints;
//! `outgoing` is a stream there for what came over HTTP/1 (`crate::http1::over_http2` carries it), `over_http1` makes HTTP/1 again of what
//! another agent carried so; `copy` moves a body in one direction;
//! between agents, and to and from what speaks HBONE (`hbone`), `tunnel` is a CONNECT stream as a connection of bytes, which `tunnels` opens and `connect` takes;
//! `hedge` is a try beside one that is slow; `mirror` sends a copy of a request, `ask` one of the agent's own; `guard` sits on each socket and counts what h2 doesn't limit.
//! Never collects a body, never answers what only an endpoint can answer.

mod allowance;
mod answer;
mod ask;
mod clock;
mod connect;
mod copy;
mod frames;
mod grpc;
mod guard;
mod hbone;
mod hedge;
mod link;
mod mirror;
mod outgoing;
mod over_http1;
mod pass;
mod pool;
pub(crate) mod request;
mod server;
mod stall;
mod stream;
#[cfg(test)]
pub(crate) mod tests;
mod tunnel;
mod tunnels;
mod unclaimed;
mod upload;

pub(crate) use answer::reset_code;
pub use ask::{Answered, ask};
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use connect::client_of;
pub use grpc::timeout_in as grpc_timeout;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use hbone::destination;
pub(crate) use link::Lease;
pub use mirror::Mirrored;
pub(crate) use outgoing::Outgoing;
pub use pool::Pool;
pub use server::{serve, serve_agent, serve_hbone};
pub use tunnel::Tunnel;
pub(crate) use tunnels::{open as open_tunnel, open_alone as open_tunnel_alone};

/// How much one side lets the other have under way.
#[derive(Clone, Copy, Debug)]
struct Windows {
    /// On one stream, and so the most that is held for a reader that doesn't read.
    stream: u32,
    /// On a whole connection: [`STALLED`] streams may stand still before the others do.
    connection: u32,
    /// In one frame.
    frame: u32,
}

/// So many streams of one connection may have full windows before the others stand still too.
const STALLED: u32 = 16;
/// Frames between agents: four TLS records, so that their heads cost a tenth of what they would at HTTP/2's default.
const FRAME: u32 = 64 * 1024;

/// Streams on one connection by HBONE (ztunnel, `POOL_MAX_STREAMS_PER_CONNECTION`).
const HBONE_STREAMS: u32 = 100;

impl Windows {
    /// To applications and from them: 2 Gbit/s at a round trip of 1 ms, on the stream's side.
    const PLAIN: Self = Self::of(256 * 1024, 16 * 1024);
    /// Between agents, where a connection may be between zones: 8 Gbit/s at 1 ms.
    const MESH: Self = Self::of(1024 * 1024, FRAME);

    /// From what speaks HBONE: as many streams as ztunnel puts on one connection may all stand still.
    const HBONE: Self = Self { stream: 256 * 1024, connection: HBONE_STREAMS * 256 * 1024, frame: FRAME };

    const fn of(stream: u32, frame: u32) -> Self {
        Self { stream, connection: STALLED * stream, frame }
    }
}

/// Handed to h2 per stream and not yet written to the socket.
const SEND_BUFFER: usize = 128 * 1024;
