//! Which tokens hold, and that nothing else does.
#![allow(clippy::unwrap_used, clippy::panic)]
use std::sync::LazyLock;

use data_encoding::BASE64URL_NOPAD;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::jwt::testing::{Signer, set};

const NOW: u64 = 1_800_000_000;
const ISSUER: &str = "https://idp.example";

fn expected() -> Expected {
    Expected { issuer: Some(ISSUER.to_owned()), ..Expected::default() }
}

fn claims() -> Value {
    json!({"iss": ISSUER, "sub": "alice", "exp": NOW + 300})
}

fn with(fields: Value) -> Value {
    let mut all = claims();
    for (name, value) in fields.as_object().unwrap() {
        all[name] = value.clone();
    }
    all
}

fn judge(claims: &Value, expected: &Expected) -> Result<Verified, Refusal> {
    let signer = Signer::new("ES256");
    verify(&signer.token(claims), expected, &signer.keys(), NOW)
}

#[test]
fn a_token_of_every_algorithm_holds() {
    for alg in ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"] {
        let signer = Signer::new(alg);
        let token = signer.token_with(&json!({"alg": alg}), &claims());
        let verified = verify(&token, &expected(), &signer.keys(), NOW);
        let verified = verified.unwrap_or_else(|why| panic!("{alg}: {why:?}"));
        assert_eq!(verified.claims.principal, format!("{ISSUER}/alice"), "{alg}");
        assert_eq!(verified.claims.all["sub"], "alice");
        // Another key of the same kind signed it.
        if !alg.starts_with(['R', 'P']) {
            let other = Signer::new(alg).keys();
            assert_eq!(verify(&token, &expected(), &other, NOW).err(), Some(Refusal::Signature), "{alg}");
        }
    }
}

#[test]
fn the_key_decides_about_the_algorithm_and_never_the_token() {
    fn check(key: Value, signer: &Signer, header: Value, want: Refusal) {
        let token = signer.token_with(&header, &claims());
        assert_eq!(verify(&token, &expected(), &set(&[key]), NOW).err(), Some(want), "{header}");
    }
    let (rsa, ec, ed) = (Signer::new("RS256"), Signer::new("ES256"), Signer::new("EdDSA"));
    // The signature is right, and its algorithm one that the key isn't for.
    check(rsa.jwk_with(json!({"alg": "PS256"})), &rsa, json!({"alg": "RS256"}), Refusal::NoKey);
    check(rsa.jwk_with(json!({"alg": "RS256"})), &rsa, json!({"alg": "RS512"}), Refusal::NoKey);
    check(rsa.jwk(), &ec, json!({"alg": "ES256"}), Refusal::NoKey);
    check(ec.jwk(), &rsa, json!({"alg": "RS256"}), Refusal::NoKey);
    check(ed.jwk(), &ec, json!({"alg": "ES256"}), Refusal::NoKey);
    // A P-256 signature that calls itself one of P-384.
    check(Signer::new("ES384").jwk(), &ec, json!({"alg": "ES384"}), Refusal::Signature);
    // The token brings its own key.
    let header = json!({"alg": "ES256", "jwk": ec.jwk(), "jku": "https://evil.example/keys", "x5u": "https://evil.example/x"});
    check(Signer::new("ES256").jwk(), &ec, header, Refusal::Signature);
    for alg in ["none", "HS256", "HS384", "HS512", "NONE"] {
        check(rsa.jwk(), &rsa, json!({"alg": alg}), Refusal::Algorithm);
    }
    check(rsa.jwk(), &rsa, json!({"alg": "RS256", "crit": ["x"], "x": 1}), Refusal::Critical);
}

#[test]
fn the_public_key_is_no_secret_of_an_hmac() {
    let rsa = Signer::new("RS256");
    let public = BASE64URL_NOPAD.decode(rsa.jwk()["n"].as_str().unwrap().as_bytes()).unwrap();
    let part = |value: &Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
    let signed = format!("{}.{}", part(&json!({"alg": "HS256"})), part(&claims()));
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &public);
    let tag = aws_lc_rs::hmac::sign(&key, signed.as_bytes());
    let token = format!("{signed}.{}", BASE64URL_NOPAD.encode(tag.as_ref()));
    assert_eq!(verify(&token, &expected(), &rsa.keys(), NOW).err(), Some(Refusal::Algorithm));
}

#[test]
fn a_key_is_chosen_by_its_kid() {
    fn check(keys: &[Value], signer: &Signer, kid: Option<&str>, want: Option<Refusal>) {
        let mut header = json!({"alg": "ES256"});
        if let Some(kid) = kid {
            header["kid"] = kid.into();
        }
        let token = signer.token_with(&header, &claims());
        assert_eq!(verify(&token, &expected(), &set(keys), NOW).err(), want, "{kid:?}");
    }
    let (a, b) = (Signer::new("ES256"), Signer::new("ES256"));
    let keys = [a.jwk_with(json!({"kid": "a"})), b.jwk_with(json!({"kid": "b"}))];
    check(&keys, &a, Some("a"), None);
    check(&keys, &b, Some("b"), None);
    check(&keys, &a, Some("b"), Some(Refusal::Signature));
    check(&keys, &a, Some("c"), Some(Refusal::NoKey));
    check(&keys, &a, Some(""), Some(Refusal::NoKey));
    check(&keys, &b, None, None);
    check(&[a.jwk()], &a, Some("anything"), None);
    check(&[a.jwk()], &b, None, Some(Refusal::Signature));
}

#[test]
fn the_issuer_is_the_rules() {
    let check = |claims: Value, want: Option<Refusal>| {
        assert_eq!(judge(&claims, &expected()).err(), want, "{claims}");
    };
    check(claims(), None);
    check(with(json!({"iss": "https://idp.example/"})), Some(Refusal::UnknownIssuer));
    check(with(json!({"iss": "HTTPS://idp.example"})), Some(Refusal::UnknownIssuer));
    check(with(json!({"iss": ""})), Some(Refusal::UnknownIssuer));
    check(with(json!({"iss": [ISSUER]})), Some(Refusal::BadClaims));
    check(json!({"sub": "alice"}), Some(Refusal::UnknownIssuer));
    let any = judge(&with(json!({"iss": "somebody"})), &Expected::default()).unwrap();
    assert_eq!(any.claims.principal, "somebody/alice");
}

#[test]
fn a_principal_needs_issuer_and_subject() {
    let principal = |claims: Value| judge(&claims, &Expected::default()).unwrap().claims.principal.clone();
    assert_eq!(principal(json!({"iss": "i", "sub": "s"})), "i/s");
    for claims in [
        json!({"iss": "i"}),
        json!({"sub": "s"}),
        json!({"iss": "", "sub": "s"}),
        json!({"iss": "i", "sub": ""}),
        json!({}),
    ] {
        assert_eq!(principal(claims.clone()), "", "{claims}");
    }
    for claims in [json!({"sub": 7}), json!({"sub": null}), json!({"azp": ["a"]})] {
        assert_eq!(judge(&claims, &Expected::default()).err(), Some(Refusal::BadClaims), "{claims}");
    }
}

#[test]
fn audiences_are_one_or_a_list_and_one_of_them_is_enough() {
    fn check(wanted: &[&str], audience: Value, want: Option<Refusal>) {
        let wanted = wanted.iter().map(|audience| (*audience).to_owned()).collect();
        let expected = Expected { audiences: wanted, ..expected() };
        assert_eq!(judge(&with(json!({"aud": audience})), &expected).err(), want, "{audience}");
    }
    check(&[], json!("x"), None);
    check(&["a"], json!("a"), None);
    check(&["a", "b"], json!(["c", "b"]), None);
    check(&["https://a/"], json!("a"), None);
    check(&["a"], json!("http://a"), None);
    check(&["a"], json!("b"), Some(Refusal::Audience));
    check(&["a"], json!([]), Some(Refusal::Audience));
    check(&["a"], json!("A"), Some(Refusal::Audience));
    check(&["a"], json!("a b"), Some(Refusal::Audience));
    check(&["a"], json!(["a", 1]), Some(Refusal::BadClaims));
    check(&[], json!({"a": 1}), Some(Refusal::BadClaims));
    let expected = Expected { audiences: vec!["a".to_owned()], ..expected() };
    assert_eq!(judge(&claims(), &expected).err(), Some(Refusal::Audience));
    assert_eq!(Refusal::Audience.status(), 403);
}

#[test]
fn times_hold_with_a_minute_of_skew() {
    let check = |fields: Value, want: Option<Refusal>| {
        let claims = with(fields);
        assert_eq!(judge(&claims, &expected()).err(), want, "{claims}");
    };
    check(json!({"exp": NOW - 60}), None);
    check(json!({"exp": NOW - 61}), Some(Refusal::Expired));
    check(json!({"exp": 0}), Some(Refusal::Expired));
    check(json!({"exp": u64::MAX}), None);
    check(json!({"exp": NOW as f64 + 0.5}), None);
    check(json!({"exp": -1}), Some(Refusal::BadClaims));
    check(json!({"exp": 1e300}), Some(Refusal::BadClaims));
    check(json!({"exp": (NOW + 300).to_string()}), Some(Refusal::BadClaims));
    check(json!({"exp": null}), Some(Refusal::BadClaims));
    check(json!({"nbf": NOW + 60}), None);
    check(json!({"nbf": NOW + 61}), Some(Refusal::NotYetValid));
    check(json!({"nbf": u64::MAX}), Some(Refusal::NotYetValid));
    check(json!({"nbf": "now"}), Some(Refusal::BadClaims));
    check(json!({"iat": "now"}), Some(Refusal::BadClaims));
    check(json!({"iat": NOW + 1000}), None);
    // A token without an end has none, as in Envoy.
    assert!(judge(&json!({"iss": ISSUER, "sub": "a"}), &expected()).is_ok());
    let verified = judge(&claims(), &expected()).unwrap();
    assert_eq!(verified.is_alive(NOW + 360), Ok(()));
    assert_eq!(verified.is_alive(NOW + 361), Err(Refusal::Expired));
}

#[test]
fn lists_delimited_by_spaces_are_lists_for_policies_and_stay_for_headers() {
    let outputs =
        Outputs { payload: None, claims: vec![(HeaderName::from_static("x-scope"), "scope".to_owned())] };
    let expected =
        Expected { space_delimited: vec!["scope".to_owned(), "n".to_owned()], outputs, ..expected() };
    let verified = judge(&with(json!({"scope": "read  write", "n": 7, "other": "a b"})), &expected).unwrap();
    assert_eq!(verified.claims.all["scope"], json!(["read", "write"]));
    assert_eq!((&verified.claims.all["n"], &verified.claims.all["other"]), (&json!(7), &json!("a b")));
    assert_eq!(
        verified.headers,
        [(HeaderName::from_static("x-scope"), HeaderValue::from_static("read  write"))]
    );
}

/// One key and a token for each kind of it: making keys takes too long for every case.
static TOKENS: LazyLock<Vec<(String, KeySet)>> = LazyLock::new(|| {
    let token = |alg: &&str| {
        let signer = Signer::new(alg);
        (signer.token_with(&json!({"alg": alg, "kid": "k"}), &claims()), signer.keys())
    };
    ["RS256", "PS256", "ES256", "EdDSA"].iter().map(token).collect()
});

proptest! {
    #[test]
    fn no_other_byte_anywhere_is_accepted(which in 0..4_usize, at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let (token, keys) = &TOKENS[which];
        prop_assert!(verify(token, &expected(), keys, NOW).is_ok());
        let mut bytes = token.clone().into_bytes();
        let at = at.index(bytes.len());
        prop_assume!(bytes[at] != byte);
        bytes[at] = byte;
        let Ok(changed) = String::from_utf8(bytes) else { return Ok(()) };
        prop_assert!(verify(&changed, &expected(), keys, NOW).is_err(), "{}", changed);
    }

    #[test]
    fn no_part_of_a_token_is_one(which in 0..4_usize, length in any::<prop::sample::Index>()) {
        let (token, keys) = &TOKENS[which];
        let part = &token[..length.index(token.len())];
        prop_assert!(verify(part, &expected(), keys, NOW).is_err());
    }

    #[test]
    fn nothing_that_looks_like_one_is(text in "[A-Za-z0-9_.-]{0,200}") {
        prop_assert!(verify(&text, &Expected::default(), &TOKENS[0].1, NOW).is_err());
    }
}
