//! RESP2, as far as a client of ours needs it: commands as arrays of bulk strings, and replies (Redis, "RESP protocol spec").

/// What Redis answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// A status, or a bulk string; None for nil.
    Text(Option<Vec<u8>>),
    /// An error, with its code as first word.
    Error(String),
    /// A number.
    Number(i64),
    /// Several; nil counts as none.
    Array(Vec<Reply>),
}

/// Bytes that are no reply, or one larger than any that we ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("what Redis sent isn't a reply that was asked for")]
pub struct Malformed;

/// No reply of ours is longer, in bytes or parts.
const LONGEST: i64 = 4096;
const DEEPEST: u32 = 2;

/// Appends a command.
pub fn command(parts: &[&[u8]], into: &mut Vec<u8>) {
    into.extend_from_slice(format!("*{}\r\n", parts.len()).as_bytes());
    for part in parts {
        into.extend_from_slice(format!("${}\r\n", part.len()).as_bytes());
        into.extend_from_slice(part);
        into.extend_from_slice(b"\r\n");
    }
}

/// The first reply in `bytes` and its length. None: there is more to come.
pub fn reply(bytes: &[u8]) -> Result<Option<(Reply, usize)>, Malformed> {
    part(bytes, 0)
}

fn part(bytes: &[u8], depth: u32) -> Result<Option<(Reply, usize)>, Malformed> {
    let Some(end) = memchr::memmem::find(bytes, b"\r\n") else {
        return if bytes.len() as i64 > LONGEST { Err(Malformed) } else { Ok(None) };
    };
    let (Some((kind, line)), after) = (bytes[..end].split_first(), end + 2) else { return Err(Malformed) };
    let number = || std::str::from_utf8(line).ok().and_then(|line| line.parse::<i64>().ok()).ok_or(Malformed);
    match kind {
        b'+' => Ok(Some((Reply::Text(Some(line.to_vec())), after))),
        b'-' => Ok(Some((Reply::Error(String::from_utf8_lossy(line).into_owned()), after))),
        b':' => Ok(Some((Reply::Number(number()?), after))),
        b'$' => match number()? {
            -1 => Ok(Some((Reply::Text(None), after))),
            length @ 0..=LONGEST => Ok(bulk(bytes, after, length as usize)?),
            _ => Err(Malformed),
        },
        b'*' => match number()? {
            -1 => Ok(Some((Reply::Array(Vec::new()), after))),
            count @ 0..=LONGEST if depth < DEEPEST => array(bytes, after, count, depth),
            _ => Err(Malformed),
        },
        _ => Err(Malformed),
    }
}

fn bulk(bytes: &[u8], from: usize, length: usize) -> Result<Option<(Reply, usize)>, Malformed> {
    let to = from + length;
    match bytes.get(to..to + 2) {
        None => Ok(None),
        Some(b"\r\n") => Ok(Some((Reply::Text(Some(bytes[from..to].to_vec())), to + 2))),
        Some(_) => Err(Malformed),
    }
}

fn array(bytes: &[u8], mut at: usize, count: i64, depth: u32) -> Result<Option<(Reply, usize)>, Malformed> {
    let mut parts = Vec::new();
    for _ in 0..count {
        let Some((reply, length)) = part(&bytes[at..], depth + 1)? else { return Ok(None) };
        parts.push(reply);
        at += length;
    }
    Ok(Some((Reply::Array(parts), at)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_command_is_an_array_of_bulk_strings() {
        let mut bytes = Vec::new();
        command(&[b"GET", b"a\r\nb"], &mut bytes);
        assert_eq!(bytes, b"*2\r\n$3\r\nGET\r\n$4\r\na\r\nb\r\n");
    }

    #[test]
    fn replies_are_read_whole_or_not_at_all() {
        fn check(text: &[u8], want: Reply) {
            for cut in 0..text.len() {
                assert_eq!(reply(&text[..cut]), Ok(None), "{cut} of {text:?}");
            }
            let more = [text, b"+OK"].concat();
            assert_eq!(reply(&more), Ok(Some((want, text.len()))));
        }
        check(b"+OK\r\n", Reply::Text(Some(b"OK".to_vec())));
        check(b"-NOSCRIPT no\r\n", Reply::Error("NOSCRIPT no".into()));
        check(b":-12\r\n", Reply::Number(-12));
        check(b"$5\r\na\r\nbc\r\n", Reply::Text(Some(b"a\r\nbc".to_vec())));
        check(b"$-1\r\n", Reply::Text(None));
        check(
            b"*2\r\n:1\r\n$1\r\nx\r\n",
            Reply::Array(vec![Reply::Number(1), Reply::Text(Some(b"x".to_vec()))]),
        );
    }

    #[test]
    fn what_is_no_reply_is_refused() {
        for bad in ["\r\n", "?\r\n", ":x\r\n", "$99999\r\n", "$1\r\nabc\r\n", "*1\r\n*1\r\n*1\r\n", "$-2\r\n"]
        {
            assert_eq!(reply(bad.as_bytes()), Err(Malformed), "{bad:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_stumble(bytes in "([-+:$*][0-9]{0,3}\r\n|\\PC){0,20}") {
            if let Ok(Some((_, length))) = reply(bytes.as_bytes()) {
                proptest::prop_assert!(length > 0 && length <= bytes.len());
            }
        }
    }
}
