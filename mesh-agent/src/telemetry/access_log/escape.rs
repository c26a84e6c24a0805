//! Bytes from the wire into a line that they can't break out of.

/// Appends `bytes` for a quoted text field: quotes and backslashes get a backslash, all but printable ASCII becomes
/// `\xNN`. Nothing can end the field or the line, or steer a terminal.
pub(super) fn push_text(out: &mut Vec<u8>, bytes: &[u8]) {
    for byte in bytes {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', *byte]),
            0x20..=0x7e => out.push(*byte),
            _ => out.extend_from_slice(&[b'\\', b'x', hex(byte >> 4), hex(byte & 15)]),
        }
    }
}

/// Appends `bytes` within a JSON string. What isn't UTF-8 becomes U+FFFD; control characters, line separators and
/// marks of writing direction are escaped.
pub(super) fn push_json(out: &mut Vec<u8>, bytes: &[u8]) {
    if bytes.iter().all(|b| matches!(b, 0x20..=0x7e) && !matches!(b, b'"' | b'\\')) {
        out.extend_from_slice(bytes);
        return;
    }
    for chunk in bytes.utf8_chunks() {
        chunk.valid().chars().for_each(|c| push_json_char(out, c));
        if !chunk.invalid().is_empty() {
            push_unicode(out, 0xfffd);
        }
    }
}

fn push_json_char(out: &mut Vec<u8>, c: char) {
    match c {
        '"' | '\\' => out.extend_from_slice(&[b'\\', c as u8]),
        c if c.is_control() || is_deceptive(c) => {
            c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| push_unicode(out, *unit));
        }
        c => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
    }
}

/// Line and paragraph separators, and what turns the writing direction (U+202A to E, U+2066 to 9).
fn is_deceptive(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn push_unicode(out: &mut Vec<u8>, unit: u16) {
    out.extend_from_slice(b"\\u");
    for shift in [12, 8, 4, 0] {
        out.push(hex((unit >> shift) as u8 & 15));
    }
}

fn hex(nibble: u8) -> u8 {
    if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 }
}
