//! Takes out of a bug report what may be secret: what headers are set to or compared with, whatever stands under or behind a
//! name that sounds secret, and what looks like a token, a key or a password wherever it is. Pure.
//!
//! Rather too much than too little: a report that lacks a header's value can still be asked about.

use std::borrow::Cow;
use std::sync::LazyLock;

use regex::Regex;
use serde_json::Value;

const STAND_IN: &str = "[redacted]";

/// What a name has in it that stands for a secret, in small letters without hyphens and underlines.
const SECRET: &[&str] = &[
    "authorization",
    "password",
    "passwd",
    "secret",
    "token",
    "cookie",
    "credential",
    "apikey",
    "privatekey",
    "signature",
    "jwks",
    "stringdata",
    "bearer",
    "session",
];

/// Maps of names whose values are headers'.
const HEADERS: &[&str] = &["includeAdditionalHeadersInCheck", "headers"];

/// Every part of a JSON document.
pub(super) fn value(document: &mut Value) {
    match document {
        Value::Object(fields) => {
            for (name, field) in fields {
                if sounds_secret(name) || HEADERS.contains(&name.as_str()) {
                    blot_out(field);
                } else {
                    value(field);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(value),
        Value::String(said) => {
            if let Cow::Owned(clean) = text(said) {
                *said = clean;
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Everything that isn't a number or a truth goes.
fn blot_out(value: &mut Value) {
    match value {
        Value::Object(fields) => fields.values_mut().for_each(blot_out),
        Value::Array(items) => items.iter_mut().for_each(blot_out),
        Value::String(said) => *said = STAND_IN.to_owned(),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn sounds_secret(name: &str) -> bool {
    let plain: String = name.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_lowercase();
    SECRET.iter().any(|part| plain.contains(part))
}

/// Free text: a line of a rule, a message, the metrics.
pub(super) fn text(said: &str) -> Cow<'_, str> {
    let mut clean = Cow::Borrowed(said);
    for (pattern, stand_in) in PATTERNS.iter() {
        if let Cow::Owned(changed) = pattern.replace_all(&clean, *stand_in) {
            clean = Cow::Owned(changed);
        }
    }
    clean
}

static PATTERNS: LazyLock<Vec<(Regex, &'static str)>> = LazyLock::new(|| {
    let patterns = [
        // A rule's own words, as `describe` has them: what a header is set to, to the end of the line.
        (r"(header: (?:set|add) [^:\n]+:)[^\n]*", "$1 [redacted]"),
        // What a header or parameter is compared with: to the next one, or the end.
        (r"\b((?:header|query) [^\s=~,]+[=~])(?:[^,\n]|,[^ \n]|, [^hq\n])*", "$1[redacted]"),
        (r"-----BEGIN [A-Z ]*PRIVATE KEY-----(?s:.*?)(?:-----END [A-Z ]*PRIVATE KEY-----|\z)", STAND_IN),
        (r"(?i)\b(bearer|basic|digest)\s+[a-z0-9._~+/=%-]{4,}", "$1 [redacted]"),
        // JWTs, by how all of them begin.
        (r"\beyJ[A-Za-z0-9_-]{4,}(?:[.%][A-Za-z0-9_%-]*)*", STAND_IN),
        (r"(://)[^/\s@]+@", "$1[redacted]@"),
        (
            r#"(?i)((?:authorization|passw(?:or)?d|secret|token|cookie|credential|api[-_]?key|private[-_]?key|signature|session)[a-z0-9_.-]*["']?\s*[:=]\s*["']?)[^\s"',;&\[]+"#,
            "$1[redacted]",
        ),
    ];
    patterns.into_iter().filter_map(|(pattern, by)| Some((Regex::new(pattern).ok()?, by))).collect()
});

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_pattern_is_one() {
        assert_eq!(PATTERNS.len(), 7);
    }

    #[test]
    fn what_may_be_secret_goes_from_text() {
        fn check(said: &str, want: &str) {
            assert_eq!(text(said), want);
        }
        check("request header: set x-plain: MARK a, b", "request header: set x-plain: [redacted]");
        check("response header: add set-cookie: a=MARK; b", "response header: add set-cookie: [redacted]");
        check("request header: remove x-plain", "request header: remove x-plain");
        check(
            "PathPrefix /cart, POST, header x-a=MARK, b, query q~MA,RK",
            "PathPrefix /cart, POST, header x-a=[redacted], query q~[redacted]",
        );
        check("header x-token (absent)", "header x-token (absent)");
        check("Bearer MARK.x-1", "Bearer [redacted]");
        check("key eyJhbGciOi.eyJzdWIi.MARK-_ it is", "key [redacted] it is");
        check("redis://u:MARK@redis:6379/1", "redis://[redacted]@redis:6379/1");
        check("a password=MARK, x", "a password=[redacted], x");
        check("{\"client_secret\": \"MARK\"}", "{\"client_secret\": \"[redacted]\"}");
        check("a\n-----BEGIN EC PRIVATE KEY-----\nMARK\n-----END EC PRIVATE KEY-----\nb", "a\n[redacted]\nb");
        check("-----BEGIN PRIVATE KEY-----\nMARK", "[redacted]");
    }

    #[test]
    fn what_is_not_secret_stays() {
        for said in [
            "istio_requests_total{reporter=\"source\",source_principal=\"spiffe://a/ns/b/sa/c\"} 1",
            "https://10.0.0.1:6443 watched",
            "sessionAffinity ClientIP",
            "header x-user",
            "a token isn't valid",
        ] {
            assert_eq!(text(said), said);
        }
    }

    #[test]
    fn what_may_be_secret_goes_from_documents() {
        let mut document = json!({
            "jwksUri": "MARK", "apiKey": ["MARK", {"a": "MARK"}], "x-api_key": "MARK", "tokens": 3,
            "includeAdditionalHeadersInCheck": {"x-any": "MARK"},
            "filters": ["request header: set a: MARK"], "deep": [{"how": "Basic TUFSSw=="}], "node": "a",
        });
        value(&mut document);
        let text = document.to_string();
        assert!(!text.contains("MARK") && !text.contains("TUFSSw"), "{text}");
        assert_eq!((&document["tokens"], &document["node"]), (&json!(3), &json!("a")));
    }
}
