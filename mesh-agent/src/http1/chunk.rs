//! Chunked coding, checked piece by piece and passed on as it came (RFC 9112, 7.1).
//!
//! The decoder never collects: it says how many of the bytes at hand are framing or data. Only the last chunk with its
//! trailers is taken as one piece, so that nothing of it is forwarded before all of it was checked.

use super::head::{self, HeadError, Known};
use super::pool;
use crate::proxy::client_cert;
use crate::proxy::error::Hostile;

/// A size line with its extensions.
const MAX_LINE: usize = 256;
/// Extensions of one message together; more only serves to burn time.
const MAX_EXTENSIONS: usize = 16 * 1024;
/// The last chunk with its trailers.
const MAX_TRAILERS: usize = 16 * 1024;
/// Trailer fields of one message.
pub const MAX_TRAILER_FIELDS: usize = 64;

/// What the next bytes of a body are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece {
    /// So many bytes of framing.
    Framing(usize),
    /// So many bytes of data.
    Data(usize),
    /// So many bytes of framing, and the message ends with them.
    Last(usize),
    /// Not enough there to tell.
    More,
}

/// Where in the coding the next byte is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Chunked {
    state: State,
    extensions: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Size,
    Data(u64),
    DataEnd,
    Done,
}

impl Chunked {
    /// True after the last piece.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Looks at the start of `buf` and moves past what it reports.
    pub fn next(&mut self, buf: &[u8]) -> Result<Piece, Hostile> {
        if buf.is_empty() {
            return Ok(Piece::More);
        }
        match self.state {
            State::Size => self.size_line(buf),
            State::Data(left) => {
                let len = buf.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                let left = left - len as u64;
                self.state = if left == 0 { State::DataEnd } else { State::Data(left) };
                Ok(Piece::Data(len))
            }
            State::DataEnd => match buf {
                [b'\r', b'\n', ..] => {
                    self.state = State::Size;
                    Ok(Piece::Framing(2))
                }
                [b'\r'] => Ok(Piece::More),
                _ => Err(Hostile::BadChunk),
            },
            State::Done => Ok(Piece::Last(0)),
        }
    }

    fn size_line(&mut self, buf: &[u8]) -> Result<Piece, Hostile> {
        let digits = buf.iter().take_while(|b| b.is_ascii_hexdigit()).count();
        // Sixteen digits fill 64 bits; leading zeros beyond them are as suspicious as a number that wraps.
        if digits == 0 || digits > 16 || !matches!(buf.get(digits), None | Some(b'\r' | b';')) {
            return Err(Hostile::BadChunk);
        }
        let Some(end) = memchr::memchr(b'\n', &buf[..buf.len().min(MAX_LINE)]) else {
            let rest = &buf[digits..];
            let may_become_one = rest == b";" || is_extension(rest.strip_suffix(b"\r").unwrap_or(rest));
            return if buf.len() < MAX_LINE && may_become_one {
                Ok(Piece::More)
            } else {
                Err(Hostile::BadChunk)
            };
        };
        let extension = buf[digits..end].strip_suffix(b"\r").ok_or(Hostile::BadChunk)?;
        if !is_extension(extension) || self.extensions + extension.len() > MAX_EXTENSIONS {
            return Err(Hostile::BadChunk);
        }
        let size = buf[..digits].iter().fold(0_u64, |sum, b| sum << 4 | u64::from(hex(*b)));
        if size == 0 {
            return self.last_chunk(buf);
        }
        self.extensions += extension.len();
        self.state = State::Data(size);
        Ok(Piece::Framing(end + 1))
    }

    fn last_chunk(&mut self, buf: &[u8]) -> Result<Piece, Hostile> {
        let mut scanned = 0;
        match head::find_end(buf, &mut scanned).map_err(|_| Hostile::BareLineFeed)? {
            Some(len) if len <= MAX_TRAILERS => {
                check_trailers(&buf[..len])?;
                self.state = State::Done;
                Ok(Piece::Last(len))
            }
            None if buf.len() <= MAX_TRAILERS => Ok(Piece::More),
            _ => Err(Hostile::BadTrailer),
        }
    }
}

/// `;` and what may follow it. Quoted strings aren't looked into: without CR and LF they can't end the line.
fn is_extension(text: &[u8]) -> bool {
    match text {
        [] => true,
        [b';', rest @ ..] => !rest.is_empty() && rest.iter().all(|b| head::is_value(*b)),
        _ => false,
    }
}

fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => (digit | 0x20) - b'a' + 10,
    }
}

/// Trailers are fields, and none that frames, routes or authenticates (RFC 9110, 6.5.1).
fn check_trailers(section: &[u8]) -> Result<(), Hostile> {
    let start = memchr::memchr(b'\n', section).map_or(section.len(), |at| at + 1);
    if start + 2 == section.len() {
        return Ok(());
    }
    let mut fields = pool::take_fields();
    let parsed = head::parse_fields(section, start, MAX_TRAILER_FIELDS, &mut fields);
    let forbidden =
        fields.iter().any(|field| !may_trail(&section[field.start as usize..field.name_end as usize]));
    pool::give_fields(fields);
    match parsed {
        Ok(()) if !forbidden => Ok(()),
        Err(HeadError::Hostile(hostile)) => Err(hostile),
        _ => Err(Hostile::BadTrailer),
    }
}

/// True if a field of this name may be a trailer.
pub fn may_trail(name: &[u8]) -> bool {
    head::known(name) == Known::Other
        && !client_cert::is_name(name)
        && !FORBIDDEN.iter().any(|other| name.eq_ignore_ascii_case(other.as_bytes()))
}

const FORBIDDEN: [&str; 6] =
    ["authorization", "content-encoding", "content-type", "content-range", "set-cookie", "trailer"];

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    /// Feeds `input` in the given pieces; returns data and the bytes left over.
    fn decode(input: &[u8], cuts: &[usize]) -> Result<(Vec<u8>, usize), Hostile> {
        let mut decoder = Chunked::default();
        let (mut data, mut at) = (Vec::new(), 0);
        for end in cuts.iter().copied().chain([input.len()]) {
            loop {
                match decoder.next(&input[at..end.max(at)])? {
                    Piece::Framing(len) => at += len,
                    Piece::Data(len) => {
                        data.extend_from_slice(&input[at..at + len]);
                        at += len;
                    }
                    Piece::Last(len) => return Ok((data, input.len() - at - len)),
                    Piece::More => break,
                }
            }
        }
        Err(Hostile::BadPreface) // stands for "incomplete" in these tests
    }

    fn check(input: &str, expected: Result<(&str, usize), Hostile>) {
        let expected = expected.map(|(data, rest)| (data.as_bytes().to_vec(), rest));
        assert_eq!(decode(input.as_bytes(), &[]), expected, "{input:?}");
        let bytewise: Vec<usize> = (0..input.len()).collect();
        assert_eq!(decode(input.as_bytes(), &bytewise), expected, "{input:?} byte by byte");
    }

    #[test]
    fn chunks_are_read() {
        check("0\r\n\r\n", Ok(("", 0)));
        check("5\r\nhello\r\n0\r\n\r\nGET", Ok(("hello", 3)));
        check("5;a=b;c=\"d e\"\r\nhello\r\n1\r\n!\r\n000\r\n\r\n", Ok(("hello!", 0)));
        check("A\r\n0123456789\r\n0\r\nx-sum: 1\r\ny: 2\r\n\r\n", Ok(("0123456789", 0)));
        check("5\r\nhel", Err(Hostile::BadPreface));
    }

    #[test]
    fn what_others_may_read_differently_is_refused() {
        for input in [
            "5\nhello\r\n0\r\n\r\n",
            "5\r\nhelloX\r\n0\r\n\r\n",
            "5\r\nhello\n0\r\n\r\n",
            "5 \r\nhello\r\n0\r\n\r\n",
            " 5\r\nhello\r\n",
            "+5\r\nhello\r\n",
            "-5\r\nhello\r\n",
            "0x5\r\nhello\r\n",
            "\r\nhello\r\n",
            "5 a=b\r\nhello\r\n",
            "5;\r\nhello\r\n",
            "5;a\rb\r\nhello\r\n",
            "5;a\nb\r\nhello\r\n",
            "5\r\r\nhello\r\n",
            "00000000000000005\r\nhello\r\n",
            "FFFFFFFFFFFFFFFFF\r\n",
            "g\r\n",
        ] {
            check(input, Err(Hostile::BadChunk));
        }
        check("0\r\na: b\nc: d\r\n\r\n", Err(Hostile::BareLineFeed));
        check("0\r\na : b\r\n\r\n", Err(Hostile::SpaceBeforeColon));
        check("0\r\nContent-Length: 3\r\n\r\n", Err(Hostile::BadTrailer));
        check("0\r\nhost: a\r\n\r\n", Err(Hostile::BadTrailer));
        check("0\r\nAuthorization: a\r\n\r\n", Err(Hostile::BadTrailer));
        check("0\r\nX-Forwarded-Client-CERT: a\r\n\r\n", Err(Hostile::BadTrailer));
        check("0\r\nx_forwarded-client_cert: a\r\n\r\n", Err(Hostile::BadTrailer));
    }

    #[test]
    fn long_lines_extensions_and_trailers_are_refused() {
        check(&format!("5;{}\r\nhello\r\n", "a".repeat(300)), Err(Hostile::BadChunk));
        check(&format!("1;{}\r\na\r\n", "a".repeat(200)).repeat(100), Err(Hostile::BadChunk));
        check(&format!("0\r\na: {}\r\n\r\n", "b".repeat(20_000)), Err(Hostile::BadTrailer));
    }

    proptest! {
        #[test]
        fn any_split_reads_the_same(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..6),
            trailer in any::<bool>(),
            cuts in prop::collection::btree_set(0_usize..300, 0..12),
        ) {
            let mut input = Vec::new();
            for chunk in &chunks {
                input.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                input.extend_from_slice(chunk);
                input.extend_from_slice(b"\r\n");
            }
            input.extend_from_slice(if trailer { b"0\r\na: b\r\n\r\n" } else { b"0\r\n\r\n" });
            let cuts: Vec<usize> = cuts.into_iter().filter(|cut| *cut < input.len()).collect();
            prop_assert_eq!(decode(&input, &cuts).unwrap(), (chunks.concat(), 0));
        }

        #[test]
        fn any_bytes_read_the_same_in_any_split(
            input in "([0-2a;=\r\n :]|1\r\na\r\n|1;a=b\r\n;\r\n|0\r\n\r\n){0,12}",
            cuts in prop::collection::btree_set(0_usize..40, 0..6),
        ) {
            let cuts: Vec<usize> = cuts.into_iter().filter(|cut| *cut < input.len()).collect();
            let whole = decode(input.as_bytes(), &[]);
            let split = decode(input.as_bytes(), &cuts);
            // A refusal may be noticed earlier or by another name, never missed.
            prop_assert!(whole == split || whole.is_err() && split.is_err());
        }
    }
}
