//! The claims of a token, or of JSON, as they are: for questions, where nothing hangs on whether they are true.

use serde_json::{Map, Value};

use crate::jwt::Claims;

/// Of a token in its compact form, or of its claims as JSON. Nothing is verified.
pub fn claims(text: &str) -> Result<Claims, String> {
    let bad = || "the token is none: expected HEADER.CLAIMS.SIGNATURE, or the claims as JSON".to_owned();
    let text = text.trim();
    let json = if text.starts_with('{') {
        text.as_bytes().to_vec()
    } else {
        let mut parts = text.split('.');
        let (_, claims) = (parts.next(), parts.next().ok_or_else(bad)?);
        decode(claims).ok_or_else(bad)?
    };
    let all: Map<String, Value> = serde_json::from_slice(&json).map_err(|_| bad())?;
    let text = |name: &str| all.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (issuer, subject) = (text("iss"), text("sub"));
    let principal =
        if issuer.is_empty() || subject.is_empty() { String::new() } else { format!("{issuer}/{subject}") };
    let audiences = match all.get("aud") {
        Some(Value::Array(items)) => items.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        Some(Value::String(one)) => vec![one.clone()],
        _ => Vec::new(),
    };
    Ok(Claims { principal, audiences, presenter: text("azp"), all })
}

/// base64url without padding (RFC 7515, 2).
fn decode(text: &str) -> Option<Vec<u8>> {
    let (mut out, mut bits, mut held) = (Vec::new(), 0_u32, 0_u32);
    for byte in text.trim_end_matches('=').bytes() {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'-' => 62,
            b'_' => 63,
            _ => return None,
        };
        held = held << 6 | u32::from(value);
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            out.push(u8::try_from(held >> bits & 0xff).ok()?);
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_token_says_what_its_claims_do() {
        // {"alg":"none"} . {"iss":"i","sub":"s","aud":["a","b"]}
        let token = "eyJhbGciOiJub25lIn0.eyJpc3MiOiJpIiwic3ViIjoicyIsImF1ZCI6WyJhIiwiYiJdfQ.x";
        let json = r#"{"iss": "i", "sub": "s", "aud": ["a", "b"]}"#;
        for text in [token, json] {
            let claims = claims(text).unwrap();
            assert_eq!((claims.principal.as_str(), claims.audiences.len()), ("i/s", 2), "{text}");
        }
        for bad in ["", "a", "a.b!.c", "a.e30", "[1]"] {
            assert!(claims(bad).is_err() || bad == "a.e30", "{bad}");
        }
    }
}
