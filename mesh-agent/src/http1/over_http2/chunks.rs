//! Bodies between chunks and DATA frames: data and trailers out of what a client sent, and chunks for what an endpoint sends.
//!
//! `upload` takes pieces out of the client's buffer, `download` puts size lines and the last chunk. Judging chunks is
//! `http1::chunk`'s alone.

use std::fmt::Write;

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::http1::body::Body;
use crate::http1::chunk::{self, MAX_TRAILER_FIELDS, Piece};
use crate::http1::{head, mark};
use crate::proxy::error::Hostile;

/// What of a body is at the start of a buffer.
#[derive(Debug, Default)]
pub(crate) struct Part {
    /// Bytes of the buffer, framing included.
    pub(crate) taken: usize,
    /// The data among them.
    pub(crate) data: BytesMut,
    /// The body ends with them.
    pub(crate) end: bool,
    /// What follows the data of the last part.
    pub(crate) trailers: Option<Trailers>,
}

/// What follows a body's data.
#[derive(Debug)]
pub(crate) struct Trailers {
    /// As HTTP/2 has them.
    pub(crate) fields: HeaderMap,
    /// The last chunk, in which they came as they were spelled.
    pub(crate) last: Bytes,
}

impl Part {
    /// Moves past what `buf` has of the body, up to `most` bytes of data. A part of no bytes that doesn't end the body
    /// means that more must be read.
    pub(crate) fn take(body: &mut Body, buf: &[u8], most: usize) -> Result<Self, Hostile> {
        let Body::Chunked(chunked) = body else {
            let run = body.advance(&buf[..buf.len().min(most)], true)?;
            let data = BytesMut::from(&buf[..run.len]);
            return Ok(Self { taken: run.len, data, end: run.end, trailers: None });
        };
        let mut part = Self::default();
        loop {
            let rest = &buf[part.taken..];
            let mut next = *chunked;
            match next.next(rest)? {
                Piece::Framing(len) => part.taken += len,
                Piece::Data(len) => {
                    let len = len.min(most - part.data.len());
                    if len == 0 {
                        return Ok(part);
                    }
                    next = *chunked;
                    next.next(&rest[..len])?;
                    if part.data.is_empty() {
                        part.data.reserve(rest.len().min(most));
                    }
                    part.data.extend_from_slice(&rest[..len]);
                    part.taken += len;
                }
                Piece::Last(len) => {
                    *chunked = next;
                    part.trailers = trailers(&rest[..len])?;
                    return Ok(Self { taken: part.taken + len, end: true, ..part });
                }
                Piece::More => return Ok(part),
            }
            *chunked = next;
        }
    }
}

/// The trailers of a last chunk that was accepted; None without any.
fn trailers(last: &[u8]) -> Result<Option<Trailers>, Hostile> {
    let start = memchr::memchr(b'\n', last).map_or(last.len(), |at| at + 1);
    let mut fields = Vec::new();
    head::parse_fields(last, start, MAX_TRAILER_FIELDS, &mut fields).map_err(|_| Hostile::BadTrailer)?;
    let mut map = HeaderMap::new();
    for field in &fields {
        let name = HeaderName::from_bytes(&last[field.start as usize..field.name_end as usize]);
        let value = HeaderValue::from_bytes(&last[field.value as usize..field.value_end as usize]);
        let (Ok(name), Ok(value)) = (name, value) else { return Err(Hostile::BadTrailer) };
        map.append(name, value);
    }
    if map.is_empty() {
        return Ok(None);
    }
    Ok(Some(Trailers { fields: map, last: Bytes::copy_from_slice(last) }))
}

/// A chunk of this size begins; it isn't the last, which has none.
pub(crate) fn put_size(len: usize, out: &mut BytesMut) {
    // A buffer takes all that is written to it.
    let _ = write!(out, "{len:x}\r\n");
}

/// Puts the last chunk of what another agent sent, with its trailers as they were spelled.
///
/// # Errors
/// As [`put_last`].
pub(crate) fn put_last_restored(trailers: Option<HeaderMap>, out: &mut BytesMut) -> Result<(), Hostile> {
    out.put_slice(b"0\r\n");
    if let Some(mut trailers) = trailers {
        check(trailers.keys().filter(|name| **name != mark::MARK))?;
        mark::restore_trailers(&mut trailers, out)?;
    }
    out.put_slice(b"\r\n");
    Ok(())
}

fn check<'n>(mut names: impl Iterator<Item = &'n HeaderName>) -> Result<(), Hostile> {
    if names.all(|name| chunk::may_trail(name.as_str().as_bytes())) {
        Ok(())
    } else {
        Err(Hostile::BadTrailer)
    }
}

/// Puts the last chunk.
///
/// # Errors
/// If a field may not be a trailer: a client that adds them to the head would be fooled (RFC 9110, 6.5.1).
pub(super) fn put_last(trailers: Option<&HeaderMap>, out: &mut BytesMut) -> Result<(), Hostile> {
    let fields = || trailers.iter().flat_map(|map| map.iter());
    check(trailers.iter().flat_map(|map| map.keys()))?;
    out.put_slice(b"0\r\n");
    for (name, value) in fields() {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            out.extend_from_slice(part);
        }
    }
    out.put_slice(b"\r\n");
    Ok(())
}

/// All of a body that is known to be whole.
pub(in crate::http1) fn whole(mut body: Body, bytes: &[u8]) -> Option<(Bytes, Option<HeaderMap>)> {
    let part = Part::take(&mut body, bytes, usize::MAX).ok()?;
    part.end.then(|| (part.data.freeze(), part.trailers.map(|trailers| trailers.fields)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    /// Feeds `input` as it comes in `cuts`; returns the data, the trailers and what is left over.
    fn decode(
        mut body: Body,
        input: &[u8],
        cuts: &[usize],
        most: usize,
    ) -> (Vec<u8>, Option<HeaderMap>, usize) {
        let (mut data, mut at) = (Vec::new(), 0);
        for end in cuts.iter().copied().chain([input.len()]) {
            loop {
                let part = Part::take(&mut body, &input[at..end.max(at)], most).unwrap();
                assert!(part.data.len() <= most);
                at += part.taken;
                data.extend_from_slice(&part.data);
                if part.end {
                    return (data, part.trailers.map(|it| it.fields), input.len() - at);
                }
                if part.taken == 0 {
                    break;
                }
            }
        }
        (data, None, usize::MAX)
    }

    #[test]
    fn bodies_by_length_end_where_they_do() {
        assert_eq!(decode(Body::length(3), b"abcGET", &[1], 2), (b"abc".to_vec(), None, 3));
        assert_eq!(decode(Body::length(9), b"abc", &[], 9), (b"abc".to_vec(), None, usize::MAX));
    }

    proptest! {
        #[test]
        fn data_and_trailers_come_out_however_they_are_cut(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..6),
            cuts in prop::collection::btree_set(0_usize..300, 0..12),
            most in 1_usize..50,
        ) {
            let mut input = BytesMut::new();
            for chunk in &chunks {
                put_size(chunk.len(), &mut input);
                input.extend_from_slice(chunk);
                input.extend_from_slice(b"\r\n");
            }
            let wanted: HeaderMap = [("x-a".parse().unwrap(), "b".parse().unwrap())].into_iter().collect();
            put_last(Some(&wanted), &mut input).unwrap();
            input.extend_from_slice(b"GET");
            let cuts: Vec<usize> = cuts.into_iter().filter(|cut| *cut < input.len()).collect();
            let (data, trailers, left) = decode(Body::chunked(), &input, &cuts, most);
            prop_assert_eq!((data, trailers, left), (chunks.concat(), Some(wanted), 3));
        }
    }

    #[test]
    fn what_may_not_be_a_trailer_is_refused() {
        let map: HeaderMap =
            [("content-length".parse().unwrap(), "3".parse().unwrap())].into_iter().collect();
        assert_eq!(put_last(Some(&map), &mut BytesMut::new()), Err(Hostile::BadTrailer));
    }
}
