//! How a message body ends, and how much of the bytes at hand belongs to it.
//!
//! `message` decides which of the four it is, `forward` moves the bytes.

use super::chunk::{Chunked, Piece};
use crate::proxy::error::Hostile;

/// What is still to come of a body.
#[derive(Clone, Copy, Debug)]
pub enum Body {
    /// Nothing.
    Empty,
    /// So many bytes.
    Length(u64),
    /// Chunks.
    Chunked(Chunked),
    /// Everything until the sender closes.
    UntilClose,
}

/// A run of bytes that may be forwarded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Run {
    /// Bytes to send on.
    pub len: usize,
    /// Bytes before them that are left out.
    pub skip: usize,
    /// The body ends with them.
    pub end: bool,
}

impl Body {
    /// By Content-Length.
    pub fn length(length: u64) -> Self {
        if length == 0 { Self::Empty } else { Self::Length(length) }
    }

    /// By chunks.
    pub fn chunked() -> Self {
        Self::Chunked(Chunked::default())
    }

    /// True once nothing more belongs to it.
    pub fn is_done(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Chunked(chunked) => chunked.is_done(),
            Self::Length(_) | Self::UntilClose => false,
        }
    }

    /// Moves past the longest run at the start of `buf`. With `bare`, chunk framing is left out: for a peer that
    /// doesn't know it. A run of no bytes that doesn't end the body means that more must be read.
    pub fn advance(&mut self, buf: &[u8], bare: bool) -> Result<Run, Hostile> {
        match self {
            Self::Empty => Ok(Run { end: true, ..Run::default() }),
            Self::UntilClose => Ok(Run { len: buf.len(), ..Run::default() }),
            Self::Length(left) => {
                let len = buf.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                *self = Self::length(*left - len as u64);
                Ok(Run { len, skip: 0, end: self.is_done() })
            }
            Self::Chunked(chunked) if bare => next_data(chunked, buf),
            Self::Chunked(chunked) => as_it_came(chunked, buf),
        }
    }
}

fn as_it_came(chunked: &mut Chunked, buf: &[u8]) -> Result<Run, Hostile> {
    let mut run = Run::default();
    loop {
        match chunked.next(&buf[run.len..])? {
            Piece::Framing(len) | Piece::Data(len) => run.len += len,
            Piece::Last(len) => return Ok(Run { len: run.len + len, end: true, ..run }),
            Piece::More => return Ok(run),
        }
    }
}

fn next_data(chunked: &mut Chunked, buf: &[u8]) -> Result<Run, Hostile> {
    let mut run = Run::default();
    loop {
        match chunked.next(&buf[run.skip..])? {
            Piece::Framing(len) => run.skip += len,
            Piece::Data(len) => return Ok(Run { len, ..run }),
            Piece::Last(len) => return Ok(Run { skip: run.skip + len, end: true, ..run }),
            Piece::More => return Ok(run),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn check(mut body: Body, buf: &str, bare: bool, expected: (usize, usize, bool)) {
        let run = body.advance(buf.as_bytes(), bare).unwrap();
        assert_eq!((run.skip, run.len, run.end), expected, "{buf:?}");
    }

    #[test]
    fn runs_stop_where_the_body_does() {
        check(Body::Empty, "GET", false, (0, 0, true));
        check(Body::length(0), "GET", false, (0, 0, true));
        check(Body::length(3), "abcGET", false, (0, 3, true));
        check(Body::length(9), "abc", false, (0, 3, false));
        check(Body::UntilClose, "abc", false, (0, 3, false));
        check(Body::chunked(), "3\r\nabc\r\n0\r\n\r\nGET", false, (0, 13, true));
        check(Body::chunked(), "3\r\nabc\r\n0\r\n", false, (0, 8, false));
        check(Body::chunked(), "3\r\nabc\r\n0\r\n\r\n", true, (3, 3, false));
        check(Body::chunked(), "0\r\n\r\n", true, (5, 0, true));
    }
}
