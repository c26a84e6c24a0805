//! Headers that a rule makes of a verified token: its claims as a whole, and single ones.
//!
//! Used by `verify` for a token that held. Whatever a client itself sent under these names is taken out of every request,
//! token or not (`edits`), so that the application may trust what it finds there.

use data_encoding::BASE64URL_NOPAD;
use http::{HeaderName, HeaderValue};
use serde_json::{Map, Value};

use super::claims::find;

/// `outputPayloadToHeader` and `outputClaimToHeaders`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outputs {
    /// Gets the claims as the token has them: base64url of JSON.
    pub payload: Option<HeaderName>,
    /// Header and claim, which may be a path.
    pub claims: Vec<(HeaderName, String)>,
}

impl Outputs {
    /// Every header that a rule may set.
    pub fn names(&self) -> impl Iterator<Item = &HeaderName> {
        self.payload.iter().chain(self.claims.iter().map(|(name, _)| name))
    }

    /// The headers for these claims. A claim that isn't there, or can't be a header's value, makes none.
    pub(super) fn headers(
        &self,
        claims: &Map<String, Value>,
        payload: &str,
    ) -> Vec<(HeaderName, HeaderValue)> {
        let mut headers = Vec::new();
        let mut put = |name: &HeaderName, value: &[u8]| {
            if let Ok(value) = HeaderValue::from_bytes(value) {
                headers.push((name.clone(), value));
            }
        };
        if let Some(name) = &self.payload {
            put(name, payload.as_bytes());
        }
        for (name, path) in &self.claims {
            if let Some(value) = find(claims, path).and_then(shown) {
                put(name, value.as_bytes());
            }
        }
        headers
    }
}

/// As Envoy's jwt_authn filter writes a claim: lists and objects as base64url of JSON.
fn shown(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        Value::Bool(_) | Value::Number(_) => Some(value.to_string()),
        Value::Array(_) | Value::Object(_) => Some(BASE64URL_NOPAD.encode(value.to_string().as_bytes())),
    }
    .filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    #[test]
    fn claims_become_headers_by_their_kind() {
        let claims = json!({
            "s": "text", "n": 7, "f": 1.5, "b": true, "null": null, "empty": "", "utf8": "é", "line": "a\r\nx: y",
            "list": ["a", 1], "in": {"a": {"b": "deep"}}, "in.a": "dotted",
        });
        let claims = claims.as_object().unwrap();
        fn check(claims: &Map<String, Value>, path: &str, want: Option<&[u8]>) {
            let outputs =
                Outputs { payload: None, claims: vec![(HeaderName::from_static("x-out"), path.to_owned())] };
            let got = outputs.headers(claims, "");
            let got = got.first().map(|(name, value)| {
                assert_eq!(name, "x-out");
                value.as_bytes()
            });
            assert_eq!(got, want, "{path}");
        }
        check(claims, "s", Some(b"text"));
        check(claims, "n", Some(b"7"));
        check(claims, "f", Some(b"1.5"));
        check(claims, "b", Some(b"true"));
        check(claims, "utf8", Some("é".as_bytes()));
        check(claims, "list", Some(b"WyJhIiwxXQ"));
        check(claims, "in.a.b", Some(b"deep"));
        check(claims, "in.a", Some(b"dotted"));
        for none in ["null", "empty", "line", "absent", "in.x"] {
            check(claims, none, None);
        }
    }

    #[test]
    fn the_payload_goes_as_the_token_has_it() {
        let outputs = Outputs { payload: Some(HeaderName::from_static("x-jwt")), claims: Vec::new() };
        let got = outputs.headers(&Map::new(), "eyJhIjoxfQ");
        assert_eq!(got, [(HeaderName::from_static("x-jwt"), HeaderValue::from_static("eyJhIjoxfQ"))]);
    }
}
