//! gRPC off the data path: one call on a connection of its own, and a server of unary calls, by h2 and prost.
//!
//! Certificates are requested with it (`identity::issuer`) and issued (`controller`). Every message and every wait has a
//! bound: the other side may be anybody. No request of an application ever comes here.

mod client;
mod message;
mod server;
#[cfg(test)]
mod tests;

pub use client::{Call, call, unary};
pub use message::Messages;
pub use server::{Asked, serve};

use std::fmt;

use bytes::Bytes;

/// Status codes that are used here (github.com/grpc/grpc, doc/statuscodes.md).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Code(pub u32);

impl Code {
    /// Done.
    pub const OK: Self = Self(0);
    /// The other side gave up.
    pub const CANCELLED: Self = Self(1);
    /// Nobody knows.
    pub const UNKNOWN: Self = Self(2);
    /// The question makes no sense.
    pub const INVALID_ARGUMENT: Self = Self(3);
    /// Too late.
    pub const DEADLINE_EXCEEDED: Self = Self(4);
    /// Known, and not allowed.
    pub const PERMISSION_DENIED: Self = Self(7);
    /// Too much.
    pub const RESOURCE_EXHAUSTED: Self = Self(8);
    /// Given up in favour of another.
    pub const ABORTED: Self = Self(10);
    /// Beyond the end.
    pub const OUT_OF_RANGE: Self = Self(11);
    /// No such method.
    pub const UNIMPLEMENTED: Self = Self(12);
    /// Broken.
    pub const INTERNAL: Self = Self(13);
    /// Not now.
    pub const UNAVAILABLE: Self = Self(14);
    /// Gone for good.
    pub const DATA_LOSS: Self = Self(15);
    /// Who asks isn't known.
    pub const UNAUTHENTICATED: Self = Self(16);

    /// As the specification spells it.
    pub const fn name(self) -> &'static str {
        match self.0 {
            0 => "OK",
            1 => "CANCELLED",
            3 => "INVALID_ARGUMENT",
            4 => "DEADLINE_EXCEEDED",
            5 => "NOT_FOUND",
            6 => "ALREADY_EXISTS",
            7 => "PERMISSION_DENIED",
            8 => "RESOURCE_EXHAUSTED",
            9 => "FAILED_PRECONDITION",
            10 => "ABORTED",
            11 => "OUT_OF_RANGE",
            12 => "UNIMPLEMENTED",
            13 => "INTERNAL",
            14 => "UNAVAILABLE",
            15 => "DATA_LOSS",
            16 => "UNAUTHENTICATED",
            _ => "UNKNOWN",
        }
    }
}

/// How a call ended, if not well.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Status {
    /// What kind of end.
    pub code: Code,
    /// For people.
    pub message: String,
    /// `google.rpc.Status`, where the other side gave one; read by whom it concerns.
    pub details: Bytes,
}

impl Status {
    /// An end with a reason.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), details: Bytes::new() }
    }

    fn broken(error: &h2::Error) -> Self {
        let code = if error.is_io() || error.is_go_away() { Code::UNAVAILABLE } else { Code::INTERNAL };
        Self::new(code, format!("the connection failed: {error}"))
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code.name())?;
        if self.message.is_empty() { Ok(()) } else { write!(f, ": {}", self.message) }
    }
}

/// What text becomes in `grpc-message`: everything but printable ASCII as %XX (PROTOCOL-HTTP2.md, Status-Message).
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'%' => out.push_str("%25"),
            0x20..=0x7e => out.push(char::from(byte)),
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}

fn unescape(text: &[u8]) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, tail @ ..] = rest {
        let digits = tail.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) if *first == b'%' => {
                out.push(byte);
                rest = &tail[2..];
            }
            _ => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}
