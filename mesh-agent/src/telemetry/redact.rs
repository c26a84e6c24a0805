//! Secrets, taken out before anything keeps or shows a request: what is logged and observed is read by more people than a
//! token is for.
//!
//! Of a target: what looks like a JWT, whatever its parameter is called, and the values of parameters that are called like
//! secrets. Of headers: the values of those that are called like secrets, and those that configuration names. Used where the
//! account of a request is made, before access log, observers and the ring of failures.

use std::borrow::Cow;

use http::{HeaderName, HeaderValue};

/// How every JWT begins: base64url of `{"`.
const BEGIN: &str = "eyJ";
const TOKEN: &str = "[token]";
/// Stands for a value that isn't shown.
pub const REDACTED: &str = "[redacted]";

/// Headers by their whole names. `x-forwarded-client-cert` has no secret, but a whole certificate may be in it.
const HEADERS: &[&str] = &["x-forwarded-client-cert", "x-auth", "x-session", "x-session-id", "x-key"];
/// Headers and parameters with one of these in their names.
const WORDS: &[&str] = &[
    "authorization",
    "cookie",
    "token",
    "secret",
    "password",
    "passwd",
    "passphrase",
    "credential",
    "apikey",
    "accesskey",
    "privatekey",
    "signature",
    "jwt",
    "assertion",
    "sessionid",
    "saml",
];
/// Parameters by their whole names: short ones of signed links and of keys for public APIs.
const PARAMETERS: &[&str] = &["sig", "pwd", "pass", "auth", "key", "session", "sid"];

/// Which headers are secrets.
#[derive(Clone, Debug, Default)]
pub struct Redact {
    /// Beside those that are built in.
    extra: Vec<HeaderName>,
}

impl Redact {
    /// With more headers than those that are built in.
    pub fn new(extra: Vec<HeaderName>) -> Self {
        Self { extra }
    }

    /// True of a header whose value is never kept.
    pub fn is_secret(&self, name: &HeaderName) -> bool {
        HEADERS.contains(&name.as_str()) || self.extra.contains(name) || has_word(name.as_str())
    }

    /// What is kept of a header's value.
    pub fn header(&self, name: &HeaderName, value: &HeaderValue) -> HeaderValue {
        if self.is_secret(name) {
            return HeaderValue::from_static(REDACTED);
        }
        let Ok(text) = value.to_str() else { return value.clone() };
        match target(text) {
            Cow::Borrowed(_) if !text.contains(BEGIN) => value.clone(),
            // Not only in a query: a header is all value.
            shown => HeaderValue::from_str(&tokens(&shown)).unwrap_or(HeaderValue::from_static(REDACTED)),
        }
    }
}

/// A request's target, or a link, without the secrets in its query.
pub fn target(target: &str) -> Cow<'_, str> {
    let Some((path, query)) = target.split_once('?') else { return Cow::Borrowed(target) };
    let is_plain = |pair: &str| parameter(pair).is_none() && !pair.contains(BEGIN);
    if query.split('&').all(is_plain) {
        return Cow::Borrowed(target);
    }
    let mut out = String::with_capacity(target.len());
    out.push_str(path);
    for (i, pair) in query.split('&').enumerate() {
        out.push(if i == 0 { '?' } else { '&' });
        match parameter(pair) {
            Some(name) => {
                out.push_str(name);
                out.push('=');
                out.push_str(REDACTED);
            }
            None => out.push_str(&tokens(pair)),
        }
    }
    Cow::Owned(out)
}

/// The name of a parameter whose value is a secret.
fn parameter(pair: &str) -> Option<&str> {
    let (name, _) = pair.split_once('=').filter(|(_, value)| !value.is_empty())?;
    let decoded = decode(name);
    let is_secret = PARAMETERS.iter().any(|it| decoded.eq_ignore_ascii_case(it)) || has_word(&decoded);
    is_secret.then_some(name)
}

/// Whatever the case and what stands between the parts of the name.
fn has_word(name: &str) -> bool {
    let plain = name.bytes().filter(u8::is_ascii_alphanumeric).map(|b| b.to_ascii_lowercase());
    // Nearly all names fit: this runs for every parameter of every line.
    let (mut short, mut length) = ([0; 64], 0);
    for byte in plain.clone() {
        match short.get_mut(length) {
            Some(place) => *place = byte,
            None => return contains_word(&plain.collect::<Vec<_>>()),
        }
        length += 1;
    }
    contains_word(&short[..length])
}

fn contains_word(name: &[u8]) -> bool {
    WORDS.iter().any(|word| memchr::memmem::find(name, word.as_bytes()).is_some())
}

/// A name as the application will read it.
fn decode(name: &str) -> Cow<'_, str> {
    if !name.contains('%') {
        return Cow::Borrowed(name);
    }
    let (mut out, mut rest) = (Vec::with_capacity(name.len()), name.as_bytes());
    while let Some((byte, behind)) = rest.split_first() {
        let digits = behind.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()).filter(|_| *byte == b'%') {
            Some(decoded) => {
                out.push(decoded);
                rest = &behind[2..];
            }
            None => {
                out.push(*byte);
                rest = behind;
            }
        }
    }
    Cow::Owned(String::from_utf8_lossy(&out).into_owned())
}

/// The text without what looks like a token.
fn tokens(text: &str) -> Cow<'_, str> {
    if !text.contains(BEGIN) {
        return Cow::Borrowed(text);
    }
    let (mut out, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(at) = rest.find(BEGIN) {
        let (before, token) = rest.split_at(at);
        out.push_str(before);
        out.push_str(TOKEN);
        let end = token.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '%')));
        rest = &token[end.unwrap_or(token.len())..];
    }
    out.push_str(rest);
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn secrets_in_a_query_are_left_out_and_all_else_stays() {
        fn check(text: &str, want: &str) {
            assert_eq!(target(text), want);
        }
        check("/a?b=1", "/a?b=1");
        check("/a?token", "/a?token");
        check("/a?page=2&keyboard=us&monkey=1", "/a?page=2&keyboard=us&monkey=1");
        check("/eyJ/a?b=1", "/eyJ/a?b=1");
        check("/token/a", "/token/a");
        check("/a?x=1&t=eyJhbGci%2EeyJ.x", "/a?x=1&t=[token]");
        check("/a?t=eyJa.b.c&u=eyJd.e.f", "/a?t=[token]&u=[token]");
        check("/a?access_token=abc&b=1", "/a?access_token=[redacted]&b=1");
        check("/a?X-Amz-Signature=1f&X-Amz-Date=2", "/a?X-Amz-Signature=[redacted]&X-Amz-Date=2");
        check("/a?API-Key=1&sig=2&Password=3", "/a?API-Key=[redacted]&sig=[redacted]&Password=[redacted]");
        check("/a?%61ccess_toke%6e=abc", "/a?%61ccess_toke%6e=[redacted]");
        check("/a?b=%zz&c%", "/a?b=%zz&c%");
        let long = "a-".repeat(100);
        check(&format!("/a?{long}token=1"), &format!("/a?{long}token=[redacted]"));
        check(&format!("/a?{long}=1"), &format!("/a?{long}=1"));
    }

    #[test]
    fn headers_that_are_called_like_secrets_are_never_shown() {
        fn check(name: &str, value: &str, want: &str) {
            let redact = Redact::new(vec![HeaderName::from_static("x-plan")]);
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            assert_eq!(redact.header(&name, &value.parse().unwrap()), want, "{name}");
        }
        for name in [
            "authorization",
            "proxy-authorization",
            "cookie",
            "set-cookie",
            "x-api-key",
            "api_key",
            "x-auth-token",
            "x-amz-security-token",
            "x-goog-iap-jwt-assertion",
            "x-forwarded-client-cert",
            "x-plan",
        ] {
            check(name, "marker", REDACTED);
        }
        check("user-agent", "curl/8", "curl/8");
        check("x-monkey", "1", "1");
        check("x-id", "a eyJhbGci.eyJz.x b", "a [token] b");
        check("referer", "http://a/?token=1&b=2", "http://a/?token=[redacted]&b=2");
    }
}
