//! A token taken apart: its header, its claims as they stand, what is signed and the signature. Nothing is believed yet.
//!
//! Compact serialization with three parts (RFC 7515, 3.1), base64url without padding and without spare bits, so that a token
//! has one spelling. Of the header `alg` and `kid` are read; `jwk`, `jku`, `x5u` and `x5c` are a stranger's word for who the
//! stranger is, and looked at by nobody. Comes before `verify`.

use data_encoding::BASE64URL_NOPAD;
use serde_json::{Map, Value};

use super::algorithm::Algorithm;
use super::json;
use super::refusal::Refusal;

/// Longer than the tokens of identity providers with hundreds of groups in them.
pub const LONGEST: usize = 16 * 1024;
/// Values in all claims of a token together.
const MOST_CLAIMS: usize = 1024;
/// Values in a token's header.
const MOST_PARAMETERS: usize = 64;

/// A token that is well-formed.
#[derive(Debug)]
pub(super) struct Token<'t> {
    pub(super) algorithm: Algorithm,
    pub(super) kid: Option<String>,
    pub(super) claims: Map<String, Value>,
    /// The claims as they were sent.
    pub(super) payload: &'t str,
    /// Header and payload.
    pub(super) signed: &'t str,
    pub(super) signature: Vec<u8>,
}

impl<'t> Token<'t> {
    pub(super) fn parse(text: &'t str) -> Result<Self, Refusal> {
        if text.len() > LONGEST {
            return Err(Refusal::TooLarge);
        }
        let (signed, signature) = text.rsplit_once('.').ok_or(Refusal::Malformed)?;
        let (header, payload) = signed.split_once('.').ok_or(Refusal::Malformed)?;
        if payload.contains('.') || [header, payload, signature].iter().any(|part| part.is_empty()) {
            return Err(Refusal::Malformed);
        }
        let header = json::object(&decode(header)?, MOST_PARAMETERS).map_err(|_| Refusal::Malformed)?;
        let (algorithm, kid) = read_header(&header)?;
        let claims = json::object(&decode(payload)?, MOST_CLAIMS).map_err(|_| Refusal::BadClaims)?;
        Ok(Self { algorithm, kid, claims, payload, signed, signature: decode(signature)? })
    }
}

fn decode(part: &str) -> Result<Vec<u8>, Refusal> {
    BASE64URL_NOPAD.decode(part.as_bytes()).map_err(|_| Refusal::Malformed)
}

fn read_header(header: &Map<String, Value>) -> Result<(Algorithm, Option<String>), Refusal> {
    // RFC 7515, 4.1.11: who doesn't understand an extension that is critical refuses. None is understood here. `b64` and
    // `zip` change what was signed, whether they are said to be critical or not.
    if ["crit", "b64", "zip", "enc"].iter().any(|name| header.contains_key(*name)) {
        return Err(Refusal::Critical);
    }
    let algorithm = match header.get("alg") {
        Some(Value::String(name)) => Algorithm::find(name).ok_or(Refusal::Algorithm)?,
        _ => return Err(Refusal::Algorithm),
    };
    let kid = match header.get("kid") {
        None => None,
        Some(Value::String(kid)) => Some(kid.clone()),
        Some(_) => return Err(Refusal::Malformed),
    };
    if header.get("typ").is_some_and(|typ| !typ.is_string()) {
        return Err(Refusal::Malformed);
    }
    Ok((algorithm, kid))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn token(header: &str, payload: &str) -> String {
        let part = |text: &str| BASE64URL_NOPAD.encode(text.as_bytes());
        format!("{}.{}.{}", part(header), part(payload), part("signature"))
    }

    #[test]
    fn headers_are_read_strictly() {
        fn check(header: &str, want: Result<(Algorithm, Option<&str>), Refusal>) {
            let text = token(header, "{}");
            let got = Token::parse(&text).map(|token| (token.algorithm, token.kid));
            assert_eq!(got, want.map(|(algorithm, kid)| (algorithm, kid.map(str::to_owned))), "{header}");
        }
        check(r#"{"alg":"RS256"}"#, Ok((Algorithm::Rs256, None)));
        check(r#"{"alg":"ES256","kid":"a","typ":"JWT"}"#, Ok((Algorithm::Es256, Some("a"))));
        // What the header says of keys is passed over.
        check(
            r#"{"alg":"EdDSA","jwk":{"kty":"RSA"},"jku":"http://evil","x5u":"x","x5c":["x"]}"#,
            Ok((Algorithm::EdDsa, None)),
        );
        for alg in ["none", "None", "nOnE", "", "HS256", "HS512", "rs256", "RS1", "ES256K", "RSA-OAEP", "dir"]
        {
            check(&format!(r#"{{"alg":"{alg}"}}"#), Err(Refusal::Algorithm));
        }
        check("{}", Err(Refusal::Algorithm));
        check(r#"{"alg":null}"#, Err(Refusal::Algorithm));
        check(r#"{"alg":["RS256"]}"#, Err(Refusal::Algorithm));
        check(r#"{"alg":"RS256","crit":["exp"]}"#, Err(Refusal::Critical));
        check(r#"{"alg":"RS256","crit":[]}"#, Err(Refusal::Critical));
        check(r#"{"alg":"RS256","b64":false}"#, Err(Refusal::Critical));
        check(r#"{"alg":"RS256","zip":"DEF"}"#, Err(Refusal::Critical));
        check(r#"{"alg":"RS256","enc":"A128GCM"}"#, Err(Refusal::Critical));
        check(r#"{"alg":"RS256","alg":"none"}"#, Err(Refusal::Malformed));
        check(r#"{"alg":"RS256","kid":1}"#, Err(Refusal::Malformed));
        check(r#"{"alg":"RS256","typ":1}"#, Err(Refusal::Malformed));
        check("[]", Err(Refusal::Malformed));
        check("x", Err(Refusal::Malformed));
    }

    #[test]
    fn a_token_has_three_parts_and_one_spelling() {
        fn check(text: &str, want: Refusal) {
            assert_eq!(Token::parse(text).map(|_| ()), Err(want), "{text}");
        }
        let good = token(r#"{"alg":"RS256"}"#, "{}");
        assert!(Token::parse(&good).is_ok());
        for bad in ["", ".", "..", "...", "a", "a.b", "a.b.c.d", "a.b.c.d.e", "a.b.", ".b.c", "a..c"] {
            check(bad, Refusal::Malformed);
        }
        check(&format!("{good}="), Refusal::Malformed);
        check(&format!(" {good}"), Refusal::Malformed);
        check(&format!("{good}\n"), Refusal::Malformed);
        check(&good.replace('.', ".."), Refusal::Malformed);
        // "signature" ends in bits that aren't used: set, they would spell the same bytes once more.
        let last = good.strip_suffix('U').map(|rest| format!("{rest}V"));
        if let Some(spelled) = last {
            check(&spelled, Refusal::Malformed);
        }
        check(&format!("{good}{}", "A".repeat(LONGEST)), Refusal::TooLarge);
        check(&token(r#"{"alg":"RS256"}"#, r#"{"sub":"a","sub":"b"}"#), Refusal::BadClaims);
        check(&token(r#"{"alg":"RS256"}"#, "[]"), Refusal::BadClaims);
        let many: Vec<String> = (0..MOST_CLAIMS).map(|claim| format!("\"{claim}\":0")).collect();
        check(&token(r#"{"alg":"RS256"}"#, &format!("{{{}}}", many.join(","))), Refusal::BadClaims);
    }
}
