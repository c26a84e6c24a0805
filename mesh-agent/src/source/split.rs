//! Cuts a file into YAML documents without parsing it, so that only changed ones need to be parsed.
//!
//! `---` and `...` at the start of a line end a document wherever they stand, even inside a block scalar (YAML 1.2.2,
//! 9.1.2: c-forbidden), so looking at line starts is exact.

/// One document's text and the line (from 1) that it starts on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk<'a> {
    /// Text after the marker.
    pub text: &'a str,
    /// Line of the text's first byte.
    pub line: u32,
}

/// The documents of `text` in order, without those that hold nothing but blanks, comments and directives.
pub fn split(text: &str) -> Vec<Chunk<'_>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut chunks = Vec::new();
    let (mut start, mut start_line, mut line_at, mut line) = (0, 1, 0, 1);
    for at in line_starts(text.as_bytes()) {
        let Some(marker) = marker_at(text.as_bytes(), at) else { continue };
        line += newlines(&text.as_bytes()[line_at..at]);
        line_at = at;
        push(&mut chunks, &text[start..at], start_line);
        (start, start_line) = (at + marker, line);
    }
    push(&mut chunks, &text[start..], start_line);
    chunks
}

/// Starts of lines that may be markers, in order. Whole-text searches: a file of megabytes is cut ten times a second.
fn line_starts(text: &[u8]) -> Vec<usize> {
    let mut starts = vec![0];
    starts.extend(memchr::memmem::find_iter(text, b"\n---").map(|at| at + 1));
    let sorted = starts.len();
    starts.extend(memchr::memmem::find_iter(text, b"\n...").map(|at| at + 1));
    if starts.len() > sorted {
        starts.sort_unstable();
    }
    starts
}

fn newlines(text: &[u8]) -> u32 {
    u32::try_from(memchr::memchr_iter(b'\n', text).count()).unwrap_or(u32::MAX)
}

/// Length of the marker at the start of the line at `at`.
fn marker_at(text: &[u8], at: usize) -> Option<usize> {
    let line = &text[at..];
    if !(line.starts_with(b"---") || line.starts_with(b"...")) {
        return None;
    }
    matches!(line.get(3), None | Some(b' ' | b'\t' | b'\r' | b'\n')).then_some(3)
}

fn push<'a>(chunks: &mut Vec<Chunk<'a>>, text: &'a str, line: u32) {
    let empty = text.lines().all(|line| {
        let line = line.trim();
        line.is_empty() || line.starts_with('#') || line.starts_with('%')
    });
    if !empty {
        chunks.push(Chunk { text, line });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_begin_and_end_at_markers() {
        fn check(text: &str, want: &[(&str, u32)]) {
            let got: Vec<_> = split(text).iter().map(|chunk| (chunk.text, chunk.line)).collect();
            assert_eq!(got, want, "{text:?}");
        }
        check("", &[]);
        check("# only\n---\n---\n \n", &[]);
        check("a: 1", &[("a: 1", 1)]);
        check("a: 1\n---\nb: 2\n", &[("a: 1\n", 1), ("\nb: 2\n", 2)]);
        check("---\na: 1\n...\n---\nb: 2", &[("\na: 1\n", 1), ("\nb: 2", 4)]);
        check("--- {a: 1}\n--- # note\nb: 2", &[(" {a: 1}\n", 1), (" # note\nb: 2", 2)]);
        check("%YAML 1.2\n---\na: 1", &[("\na: 1", 2)]);
        check("a: |\n  ---\n  x\n----\n---x", &[("a: |\n  ---\n  x\n----\n---x", 1)]);
        check("\u{feff}a: 1\r\n---\r\nb: 2\r\n", &[("a: 1\r\n", 1), ("\r\nb: 2\r\n", 2)]);
    }

    proptest::proptest! {
        #[test]
        fn every_document_comes_back_with_its_line(
            bodies in proptest::collection::vec("[a-z]: [0-9]{1,3}\n([a-z]: x\n){0,3}", 1..8)
        ) {
            let text = bodies.join("---\n");
            let chunks = split(&text);
            proptest::prop_assert_eq!(chunks.len(), bodies.len());
            let mut line = 1;
            for (chunk, body) in chunks.iter().zip(&bodies) {
                proptest::prop_assert_eq!(chunk.text.trim_start_matches('\n'), body);
                proptest::prop_assert_eq!(chunk.line, line);
                line += u32::try_from(body.lines().count()).unwrap_or(0) + u32::from(line > 1);
                if chunk.line == 1 { line = 1 + u32::try_from(body.lines().count()).unwrap_or(0); }
            }
        }
    }
}
