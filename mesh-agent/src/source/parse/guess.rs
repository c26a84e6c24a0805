//! What a document's text tells at a glance, without parsing it.
//!
//! Used in two ways: to know the type of a well-formed document before it is parsed, and to name the object that a
//! broken one was meant to define. Both have a safe way out where the glance isn't enough.

use crate::objects::{Kind, Known, ObjectKey, kind_of};

/// The document's kind, if it is a block mapping with one plain `apiVersion` and one plain `kind` of those read.
pub fn kind(text: &str) -> Option<Kind> {
    match kind_of(top_level(text, "apiVersion")?, top_level(text, "kind")?) {
        Known::Read(kind) => Some(kind),
        _ => None,
    }
}

/// The object that a broken document seems to define.
pub fn key(text: &str) -> Option<ObjectKey> {
    let kind = kind(text)?;
    let metadata = metadata(text)?;
    let name = value_of(metadata, "name")?;
    Some(ObjectKey::new(kind, value_of(metadata, "namespace"), name))
}

/// Line, from 1, of the first thing in the document that is neither blank nor a comment.
pub fn first_line(text: &str) -> u32 {
    let skipped = text.lines().take_while(|line| {
        let line = line.trim();
        line.is_empty() || line.starts_with('#')
    });
    u32::try_from(skipped.count()).unwrap_or(0) + 1
}

/// Value of a key at the start of a line. None if it stands there twice: the parser must complain of that.
fn top_level<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let mut found = None;
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix(key).and_then(|rest| rest.strip_prefix(':')) {
            if found.is_some() {
                return None;
            }
            found = Some(plain(rest)?);
        }
    }
    found
}

/// A scalar without its quotes and comment.
fn plain(text: &str) -> Option<&str> {
    let text = text.split(" #").next().unwrap_or(text).trim();
    let inner = text.trim_matches(|c| c == '"' || c == '\'');
    (!inner.is_empty() && inner.bytes().all(|b| b.is_ascii_alphanumeric() || b"./-".contains(&b)))
        .then_some(inner)
}

/// The text from `metadata:` up to the next key of the top level.
fn metadata(text: &str) -> Option<&str> {
    let start = if text.starts_with("metadata:") { 0 } else { text.find("\nmetadata:")? + 1 };
    let body = &text[start + "metadata:".len()..];
    let mut end = body.len();
    for (at, _) in body.match_indices('\n') {
        if body.as_bytes().get(at + 1).is_some_and(|b| b.is_ascii_alphabetic()) {
            end = at;
            break;
        }
    }
    Some(&body[..end])
}

/// The first plain value of `key`, in block (`name: x`) or flow style (`{name: x, ...}`).
fn value_of<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    for (at, _) in text.match_indices(key) {
        let before = text[..at].chars().next_back();
        let own_word = before.is_none_or(|c| c.is_whitespace() || matches!(c, '{' | ',' | '"'));
        let rest = text[at + key.len()..].trim_start_matches('"');
        if own_word && let Some(value) = rest.strip_prefix(':') {
            return plain(value.split([',', '}', '\n']).next()?);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_document_still_names_its_object() {
        fn check(text: &str, want: Option<&str>) {
            assert_eq!(key(text).map(|key| key.to_string()).as_deref(), want, "{text}");
        }
        check(
            "apiVersion: v1\nkind: Service\nmetadata: {name: cart, namespace: shop}\nspec: {",
            Some("Service shop/cart"),
        );
        check(
            "\n# x\napiVersion: v1\nkind: Pod\nmetadata:\n  labels: {app: web}\n  name: web-1\n  namespace: shop\nspec:\n\t",
            Some("Pod shop/web-1"),
        );
        check(
            "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: \"shop\" # ours\n",
            Some("Namespace shop"),
        );
        check("apiVersion: v1\nkind: Service\nspec: {}\n", None);
        check("apiVersion: v1\nkind: Service\nmetadata:\n  labels: {\n", None);
        check("kind: Service\nkind: Pod\napiVersion: v1\nmetadata: {name: a}", None);
        check("", None);
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_stumble(text in "(apiVersion: v1\n|kind: Pod\n|metadata:|name: |\\PC|\n){0,20}") {
            let _ = (kind(&text), key(&text), first_line(&text));
        }
    }
}
