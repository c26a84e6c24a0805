//! Protobuf as it is written on the wire: what a worker makes a span or a log record of, straight into its buffer.
//!
//! A span has some thirty strings; as messages of prost each would be allocated, for every request that is recorded. Answers are
//! read by prost (`message`), and so are spans in tests. Pure.

/// A text longer than this is cut: a header may have many kilobytes.
const LONGEST: usize = 1024;

/// A number that isn't zero, which is what a field has that isn't there.
pub fn number(out: &mut Vec<u8>, field: u32, value: u64) {
    if value != 0 {
        key(out, field, 0);
        varint(out, value);
    }
}

/// Eight bytes.
pub fn fixed64(out: &mut Vec<u8>, field: u32, value: u64) {
    key(out, field, 1);
    out.extend_from_slice(&value.to_le_bytes());
}

/// Four bytes.
pub fn fixed32(out: &mut Vec<u8>, field: u32, value: u32) {
    key(out, field, 5);
    out.extend_from_slice(&value.to_le_bytes());
}

/// Bytes as they are.
pub fn bytes(out: &mut Vec<u8>, field: u32, value: &[u8]) {
    key(out, field, 2);
    varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

/// A text of bytes that came from anybody: cut to a length, and what isn't UTF-8 replaced, which a string has to be.
pub fn text(out: &mut Vec<u8>, field: u32, value: &[u8]) {
    let cut = &value[..value.len().min(LONGEST)];
    let end = match std::str::from_utf8(cut) {
        Ok(text) => text.len(),
        // It was cut within a character.
        Err(error) if error.error_len().is_none() && cut.len() < value.len() => error.valid_up_to(),
        Err(_) => return bytes(out, field, String::from_utf8_lossy(cut).as_bytes()),
    };
    bytes(out, field, &cut[..end]);
}

/// A message within.
pub fn message(out: &mut Vec<u8>, field: u32, content: impl FnOnce(&mut Vec<u8>)) {
    key(out, field, 2);
    let at = out.len();
    // Most are short, and then their length is one byte.
    out.push(0);
    content(out);
    let length = out.len() - at - 1;
    if length < 0x80 {
        out[at] = length as u8;
        return;
    }
    let mut prefix = Vec::with_capacity(4);
    varint(&mut prefix, length as u64);
    out.splice(at..=at, prefix);
}

fn key(out: &mut Vec<u8>, field: u32, kind: u32) {
    varint(out, u64::from((field << 3) | kind));
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value as u8) | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;
    use prost::Message;

    use super::*;

    #[derive(Clone, PartialEq, prost::Message)]
    struct All {
        #[prost(uint64, tag = "1")]
        number: u64,
        #[prost(fixed64, tag = "2")]
        eight: u64,
        #[prost(fixed32, tag = "16")]
        four: u32,
        #[prost(string, tag = "4")]
        text: String,
        #[prost(message, optional, boxed, tag = "5")]
        within: Option<Box<All>>,
    }

    proptest! {
        #[test]
        fn prost_reads_what_is_written(value: u64, four: u32, said in ".{0,400}") {
            let mut out = Vec::new();
            message(&mut out, 5, |out| {
                number(out, 1, value);
                fixed64(out, 2, value);
                fixed32(out, 16, four);
                text(out, 4, said.as_bytes());
            });
            let read = All::decode(&out[..]).unwrap().within.unwrap();
            prop_assert_eq!((read.number, read.eight, read.four), (value, value, four));
            prop_assert!(said.starts_with(&read.text) && (said.len() > LONGEST || read.text == said));
        }
    }

    #[test]
    fn texts_are_cut_between_characters_and_are_always_utf_8() {
        let written = |value: &[u8]| {
            let mut out = Vec::new();
            text(&mut out, 4, value);
            All::decode(&out[..]).unwrap().text
        };
        let long = "é".repeat(600);
        assert_eq!(written(long.as_bytes()), "é".repeat(512));
        let odd = format!("x{long}");
        assert_eq!(written(odd.as_bytes()), format!("x{}", "é".repeat(511)));
        assert_eq!(written(b"a\xffb"), "a\u{fffd}b");
        assert_eq!(written(b"a\xc3"), "a\u{fffd}");
    }
}
