//! Which keys are read, and which are passed over.
#![allow(clippy::unwrap_used)]
use serde_json::json;

use super::*;
use crate::jwt::testing::{Signer, jwks};

fn one(jwk: &Value) -> Result<KeySet, KeySetError> {
    KeySet::parse(jwks(std::slice::from_ref(jwk)).as_bytes())
}

#[test]
fn keys_of_every_kind_are_read_for_their_own_algorithms() {
    fn check(signer: &str, want: &[Algorithm]) {
        let set = one(&Signer::new(signer).jwk()).unwrap();
        let got: Vec<_> = set.keys[0].verifiers.iter().map(|(algorithm, _)| *algorithm).collect();
        assert_eq!(got, want, "{signer}");
    }
    check("RS256", &RSA);
    check("ES256", &[Algorithm::Es256]);
    check("ES384", &[Algorithm::Es384]);
    check("ES512", &[Algorithm::Es512]);
    check("EdDSA", &[Algorithm::EdDsa]);
}

#[test]
fn a_key_says_what_it_may_be_used_for() {
    fn check(signer: &str, fields: Value, want: Result<usize, &str>) {
        let jwk = Signer::new(signer).jwk_with(fields.clone());
        let got = one(&jwk).map(|set| set.keys[0].verifiers.len());
        match (got, want) {
            (Ok(got), Ok(want)) => assert_eq!(got, want, "{fields}"),
            (Err(KeySetError::NoUsableKey(why)), Err(want)) => assert!(why.contains(want), "{fields}: {why}"),
            (got, want) => assert_eq!(format!("{got:?}"), format!("{want:?}"), "{fields}"),
        }
    }
    check("RS256", json!({"use": "sig", "key_ops": ["verify"], "kid": "a"}), Ok(6));
    check("RS256", json!({"alg": "PS384"}), Ok(1));
    check("RS256", json!({"use": "enc"}), Err("(use)"));
    check("RS256", json!({"use": null}), Err("(use)"));
    check("RS256", json!({"key_ops": ["encrypt"]}), Err("(key_ops)"));
    check("RS256", json!({"key_ops": "verify"}), Err("(key_ops)"));
    check("RS256", json!({"alg": "HS256"}), Err("(alg)"));
    check("RS256", json!({"alg": "none"}), Err("(alg)"));
    check("RS256", json!({"alg": "RSA-OAEP"}), Err("(alg)"));
    check("RS256", json!({"alg": "ES256"}), Err("alg isn't for"));
    check("RS256", json!({"kid": 1}), Err("kid"));
    check("RS256", json!({"kty": "oct", "k": "AAAA"}), Err("shared secret"));
    check("RS256", json!({"kty": "XYZ"}), Err("(kty)"));
    check("ES256", json!({"crv": "P-384"}), Err("(x, y)"));
    check("ES256", json!({"crv": "secp256k1"}), Err("(crv)"));
    check("ES256", json!({"x": "AAAA"}), Err("(x, y)"));
    check("ES256", json!({"y": Signer::new("ES256").jwk()["x"]}), Err("point"));
    check("EdDSA", json!({"crv": "X25519"}), Err("(crv)"));
    check("EdDSA", json!({"x": "AAAA"}), Err("32 bytes"));
}

#[test]
fn weak_and_broken_rsa_keys_are_passed_over() {
    // 1024 bits, as some issuers had them.
    let weak = json!({"kty": "RSA", "e": "AQAB", "n": BASE64URL_NOPAD.encode(&[0xC1; 128])});
    for jwk in [
        weak,
        json!({"kty": "RSA", "e": "AQAB"}),
        json!({"kty": "RSA", "e": "AQAB", "n": ""}),
        json!({"kty": "RSA", "e": "AA", "n": Signer::new("RS256").jwk()["n"]}),
        json!({"kty": "RSA", "e": "AQ", "n": Signer::new("RS256").jwk()["n"]}),
        json!({"kty": "RSA", "e": "AQAB", "n": "not base64url!"}),
    ] {
        assert!(matches!(one(&jwk), Err(KeySetError::NoUsableKey(_))), "{jwk}");
    }
    let n = Signer::new("RS256").jwk()["n"]
        .as_str()
        .map(|n| BASE64URL_NOPAD.decode(n.as_bytes()).unwrap())
        .unwrap();
    let padded = [&[0][..], &n].concat();
    assert!(one(&json!({"kty": "RSA", "e": "AQAB", "n": BASE64URL_NOPAD.encode(&padded)})).is_ok());
}

#[test]
fn what_is_no_key_set_is_refused_and_what_is_one_in_part_serves() {
    let parse = |text: &str| KeySet::parse(text.as_bytes());
    assert!(matches!(parse("x"), Err(KeySetError::NotJson(_))));
    assert!(matches!(parse(r#"{"keys":[],"keys":[]}"#), Err(KeySetError::NotJson(_))));
    for text in ["{}", r#"{"keys":{}}"#] {
        assert_eq!(parse(text).err(), Some(KeySetError::NotASet), "{text}");
    }
    assert!(matches!(parse(r#"{"keys":[]}"#), Err(KeySetError::NoUsableKey(_))));
    let good = Signer::new("ES256").jwk();
    assert_eq!(KeySet::parse(jwks(&vec![good.clone(); 65]).as_bytes()).err(), Some(KeySetError::TooMany));
    let mixed = [json!({"kty": "oct", "k": "AAAA"}), good, json!(1)];
    let set = KeySet::parse(jwks(&mixed).as_bytes()).unwrap();
    assert_eq!((set.len(), set.passed_over().len()), (1, 2));
}
