//! Go templates, first step: text and actions, and an action's words (text/template, "Text and spaces").

use super::ManifestsError;

/// A part of a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Goes out as it is.
    Text(String),
    /// What stands between the braces, and its line.
    Action(Vec<Word>, usize),
}

/// A word of an action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Word {
    /// A function or keyword.
    Name(String),
    /// `.A.B`: empty for the dot alone.
    Field(Vec<String>),
    /// `$x.A`: name (empty for `$`), then fields.
    Variable(String, Vec<String>),
    /// A quoted text.
    Text(String),
    /// A whole number.
    Number(i64),
    /// `|`, `(`, `)`, `,`, `:=`.
    Sign(&'static str),
}

/// Takes a template apart; comments go.
pub fn pieces(file: &str, template: &str) -> Result<Vec<Piece>, ManifestsError> {
    let mut pieces = Vec::new();
    let (mut rest, mut line) = (template, 1);
    let mut trim = false;
    while let Some(begin) = rest.find("{{") {
        let (text, action) = (&rest[..begin], &rest[begin + 2..]);
        let at = line + text.matches('\n').count();
        let failed = |why: &str| ManifestsError::Template { file: file.into(), line: at, why: why.into() };
        let end = action.find("}}").ok_or_else(|| failed("an action isn't closed"))?;
        let inner = &action[..end];
        let (left, inner) = match inner.strip_prefix("- ") {
            Some(inner) => (true, inner),
            None => (false, inner),
        };
        let (right, inner) = match inner.strip_suffix(" -") {
            Some(inner) => (true, inner),
            None => (false, inner),
        };
        push(&mut pieces, text, trim, left);
        if !inner.trim_start().starts_with("/*") {
            pieces.push(Piece::Action(words(inner.trim()).map_err(|why| failed(&why))?, at));
        }
        trim = right;
        line = at + action[..end].matches('\n').count();
        rest = &action[end + 2..];
    }
    push(&mut pieces, rest, trim, false);
    Ok(pieces)
}

fn push(pieces: &mut Vec<Piece>, text: &str, start: bool, end: bool) {
    const SPACES: &[char] = &[' ', '\t', '\r', '\n'];
    let text = if start { text.trim_start_matches(SPACES) } else { text };
    let text = if end { text.trim_end_matches(SPACES) } else { text };
    if !text.is_empty() {
        pieces.push(Piece::Text(text.to_owned()));
    }
}

fn words(action: &str) -> Result<Vec<Word>, String> {
    let mut words = Vec::new();
    let mut rest = action;
    while let Some(first) = rest.chars().next() {
        let (word, length) = match first {
            c if c.is_whitespace() => {
                rest = &rest[c.len_utf8()..];
                continue;
            }
            '|' => (Word::Sign("|"), 1),
            '(' => (Word::Sign("("), 1),
            ')' => (Word::Sign(")"), 1),
            ',' => (Word::Sign(","), 1),
            ':' if rest.starts_with(":=") => (Word::Sign(":="), 2),
            '"' => quoted(rest)?,
            '.' | '$' => path(rest)?,
            c if c.is_ascii_digit() || c == '-' => number(rest)?,
            c if c.is_ascii_alphabetic() => {
                let length = name_length(rest);
                (Word::Name(rest[..length].to_owned()), length)
            }
            other => return Err(format!("{other:?} isn't expected")),
        };
        words.push(word);
        rest = &rest[length..];
    }
    Ok(words)
}

fn name_length(text: &str) -> usize {
    text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len())
}

/// A text as JSON has it, which has the escapes that Go has and the charts use.
fn quoted(text: &str) -> Result<(Word, usize), String> {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            '"' if !escaped => {
                let value = serde_json::from_str(&text[..=at]).map_err(|error| error.to_string())?;
                return Ok((Word::Text(value), at + 1));
            }
            c => escaped = c == '\\' && !escaped,
        }
    }
    Err("a text isn't closed".to_owned())
}

fn number(text: &str) -> Result<(Word, usize), String> {
    let length = text[1..].find(|c: char| !c.is_ascii_digit()).map_or(text.len(), |at| at + 1);
    let number = text[..length].parse().map_err(|_| format!("{:?} isn't a number", &text[..length]))?;
    Ok((Word::Number(number), length))
}

/// `.`, `.A.B`, `$`, `$x`, `$x.A`.
fn path(text: &str) -> Result<(Word, usize), String> {
    let mut at = 0;
    let variable = text.strip_prefix('$').map(|rest| {
        let length = name_length(rest);
        at = 1 + length;
        rest[..length].to_owned()
    });
    let mut fields = Vec::new();
    while let Some(rest) = text[at..].strip_prefix('.') {
        match name_length(rest) {
            0 if variable.is_none() && fields.is_empty() => {
                at += 1;
                break;
            }
            0 => return Err("a field has no name".to_owned()),
            length => {
                fields.push(rest[..length].to_owned());
                at += 1 + length;
            }
        }
    }
    Ok((variable.map_or(Word::Field(fields.clone()), |name| Word::Variable(name, fields)), at))
}
