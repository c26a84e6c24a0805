//! Every way in which a server may read a request's path.
//!
//! Nothing is changed in what is forwarded, and servers differ: some decode `%2f`, some take `;x` off a segment, some don't tell
//! case apart. So a path is judged as Istio normalizes it, and as every such server would read it; what isn't allowed in each of
//! these readings isn't allowed, so that no spelling of a path gets past a policy that names the plain one. A plain path in
//! lower case, as most are, has one reading.

use memchr::memmem;

/// `meshConfig.pathNormalization.normalization` of Istio: what its own reading does to a path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Normalization {
    /// Nothing.
    None,
    /// Unreserved characters decoded, `\` as `/`, dot segments resolved.
    #[default]
    Base,
    /// And slashes merged.
    MergeSlashes,
    /// And `%2f` and `%5c` decoded before all else.
    DecodeAndMergeSlashes,
}

/// The path has a NUL in it, encoded or not, at which some servers end it (Istio: refused with 400).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HasNul;

/// What a reading undoes before patterns are compared with it, and patterns then undo too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Istio's own.
    Istio = 0,
    /// Decoded.
    Decoded = 1,
    /// Decoded, with parameters of segments taken off.
    Stripped = 2,
}

/// The readings of one path; kept for the next, so that making them costs no allocation.
#[derive(Debug, Default)]
pub struct Readings {
    found: Vec<Found>,
    used: usize,
    scratch: Vec<u8>,
    decoded: Vec<u8>,
}

#[derive(Debug)]
struct Found {
    kind: Kind,
    text: Vec<u8>,
    lower: Vec<u8>,
}

/// One reading.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading<'r> {
    pub(super) kind: Kind,
    /// By a server that doesn't tell case apart; `text` is in lower case.
    pub(super) folded: bool,
    pub(super) text: &'r [u8],
    /// The text in lower case, for an index.
    pub(super) lower: &'r [u8],
}

impl Readings {
    /// Of `path`, a request's target without its query.
    ///
    /// # Errors
    /// If some server would end it at a NUL.
    pub fn read(&mut self, path: &str, how: Normalization) -> Result<(), HasNul> {
        self.used = 0;
        let path = path.as_bytes();
        if is_plain(path) {
            self.add(Kind::Istio, path);
            return Ok(());
        }
        let mut text = std::mem::take(&mut self.scratch);
        text.clear();
        normalize(path, how, &mut text);
        self.add(Kind::Istio, &text);
        let result = self.read_as_others(path, &mut text);
        self.scratch = text;
        result
    }

    fn read_as_others(&mut self, path: &[u8], text: &mut Vec<u8>) -> Result<(), HasNul> {
        let mut decoded = std::mem::take(&mut self.decoded);
        decoded.clear();
        decoded.extend_from_slice(path);
        let mut result = Ok(());
        // Once, as most do, then until nothing is left: some do it twice.
        for turn in 0..MOST_DECODINGS {
            let changed = decode(&mut decoded);
            if decoded.contains(&0) {
                result = Err(HasNul);
                break;
            }
            if turn > 0 && !changed {
                // It was read as it is in the turn before.
                break;
            }
            for stripped in [false, true] {
                for merged_first in [false, true] {
                    text.clear();
                    text.extend(decoded.iter().map(|b| if *b == b'\\' { b'/' } else { *b }));
                    if stripped {
                        strip_parameters(text);
                    }
                    if merged_first {
                        if memmem::find(text, b"//").is_none() {
                            // As it was read without.
                            continue;
                        }
                        merge_slashes(text);
                    }
                    resolve_dots(text);
                    merge_slashes(text);
                    self.add(if stripped { Kind::Stripped } else { Kind::Decoded }, text);
                }
            }
            if !changed {
                break;
            }
        }
        self.decoded = decoded;
        result
    }

    /// Without a request there is none.
    pub fn clear(&mut self) {
        self.used = 0;
    }

    fn add(&mut self, kind: Kind, text: &[u8]) {
        if self.found[..self.used].iter().any(|known| known.kind == kind && known.text == text) {
            return;
        }
        if self.used == self.found.len() {
            self.found.push(Found { kind, text: Vec::new(), lower: Vec::new() });
        }
        let found = &mut self.found[self.used];
        found.kind = kind;
        found.text.clear();
        found.text.extend_from_slice(text);
        found.lower.clear();
        found.lower.extend(text.iter().map(u8::to_ascii_lowercase));
        self.used += 1;
    }

    /// Each, and again for servers that don't tell case apart where that makes a difference.
    pub(super) fn iter(&self) -> impl Iterator<Item = Reading<'_>> {
        self.found[..self.used].iter().flat_map(|Found { kind, text, lower }| {
            let exact = Reading { kind: *kind, folded: false, text, lower };
            let folded = (text != lower).then_some(Reading { folded: true, text: lower, ..exact });
            [Some(exact), folded].into_iter().flatten()
        })
    }
}

/// More turns than any server takes; what is still encoded then is no attack on one.
const MOST_DECODINGS: usize = 4;

/// True if a pattern is as paths are judged in their last reading, so that it can match.
pub fn is_in_normal_form(pattern: &str) -> bool {
    let text = pattern.as_bytes();
    let mut decoded = text.to_vec();
    let mut resolved = text.to_vec();
    resolve_dots(&mut resolved);
    let slashes = text.contains(&b'\\') || memmem::find(text, b"//").is_some();
    !decode(&mut decoded) && !slashes && resolved == text
}

/// True if all servers read it alike, case apart.
fn is_plain(path: &[u8]) -> bool {
    let odd = |b: &u8| matches!(*b, b'%' | b'\\' | b';' | 0) || !b.is_ascii();
    !path.iter().any(odd) && memmem::find(path, b"//").is_none() && memmem::find(path, b"/.").is_none()
}

/// Envoy's steps in its order: escaped slashes, then the path, then slashes.
pub(super) fn normalize(path: &[u8], how: Normalization, out: &mut Vec<u8>) {
    let slashes = how == Normalization::DecodeAndMergeSlashes;
    let mut at = 0;
    while at < path.len() {
        let decoded = hex(path, at).filter(|byte| match *byte {
            b'/' | b'\\' => slashes,
            byte => how != Normalization::None && is_unreserved(byte),
        });
        let byte = decoded.unwrap_or(path[at]);
        at += if decoded.is_some() { 3 } else { 1 };
        out.push(if byte == b'\\' && how != Normalization::None { b'/' } else { byte });
    }
    if how != Normalization::None {
        resolve_dots(out);
    }
    if matches!(how, Normalization::MergeSlashes | Normalization::DecodeAndMergeSlashes) {
        merge_slashes(out);
    }
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~')
}

/// The byte that `%HH` at this place stands for.
fn hex(text: &[u8], at: usize) -> Option<u8> {
    let digit = |at: usize| text.get(at).and_then(|b| char::from(*b).to_digit(16));
    let value = (text[at] == b'%').then(|| Some(digit(at + 1)? * 16 + digit(at + 2)?))??;
    u8::try_from(value).ok()
}

/// `%uHHHH` of an ASCII character, which some servers take.
fn wide_hex(text: &[u8], at: usize) -> Option<u8> {
    let lead = text.get(at..at + 2)?;
    if !lead.eq_ignore_ascii_case(b"%u") {
        return None;
    }
    let digits = text.get(at + 2..at + 6)?;
    let value = digits.iter().try_fold(0, |sum, b| Some(sum * 16 + char::from(*b).to_digit(16)?))?;
    u8::try_from(value).ok().filter(u8::is_ascii)
}

/// Decodes everything once, the ways around included: `%uHHHH`, and ASCII in two bytes of UTF-8. True if anything was.
pub(super) fn decode(text: &mut Vec<u8>) -> bool {
    let (mut from, mut to) = (0, 0);
    while from < text.len() {
        let (byte, width) = match hex(text, from) {
            Some(byte) => (byte, 3),
            None => match wide_hex(text, from) {
                Some(byte) => (byte, 6),
                None => (text[from], 1),
            },
        };
        text[to] = byte;
        (from, to) = (from + width, to + 1);
    }
    let changed = to < text.len();
    text.truncate(to);
    let overlong = |pair: &[u8]| matches!(pair, [0xc0 | 0xc1, 0x80..=0xbf]);
    if !text.windows(2).any(overlong) {
        return changed;
    }
    let (mut from, mut to) = (0, 0);
    while from < text.len() {
        match text.get(from..from + 2) {
            Some([lead @ (0xc0 | 0xc1), tail @ 0x80..=0xbf]) => {
                text[to] = (lead & 1) << 6 | tail & 0x3f;
                from += 2;
            }
            _ => {
                text[to] = text[from];
                from += 1;
            }
        }
        to += 1;
    }
    text.truncate(to);
    true
}

/// Takes `;NAME=VALUE` off every segment.
pub(super) fn strip_parameters(text: &mut Vec<u8>) {
    let mut inside = false;
    text.retain(|b| {
        inside = *b != b'/' && (inside || *b == b';');
        !inside
    });
}

/// Makes one slash of several.
fn merge_slashes(text: &mut Vec<u8>) {
    text.dedup_by(|second, first| *first == b'/' && *second == b'/');
}

/// RFC 3986, 5.2.4: `.` and `..` as segments. Empty segments count as segments.
fn resolve_dots(text: &mut Vec<u8>) {
    if text.first() != Some(&b'/') || memmem::find(text, b"/.").is_none() {
        return;
    }
    let (mut from, mut to) = (0, 0);
    while from < text.len() {
        // `from` is at a slash.
        let end = text[from + 1..].iter().position(|b| *b == b'/').map_or(text.len(), |at| from + 1 + at);
        match &text[from + 1..end] {
            b"." | b".." if end == text.len() => {
                if text[from + 1..end].len() == 2 {
                    to = text[..to].iter().rposition(|b| *b == b'/').unwrap_or(0);
                }
                text[to] = b'/';
                to += 1;
            }
            b"." => {}
            b".." => to = text[..to].iter().rposition(|b| *b == b'/').unwrap_or(0),
            _ => {
                text.copy_within(from..end, to);
                to += end - from;
            }
        }
        from = end;
    }
    if to == 0 {
        text[0] = b'/';
        to = 1;
    }
    text.truncate(to);
}

#[cfg(test)]
mod tests;
