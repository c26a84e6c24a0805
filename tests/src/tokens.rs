//! An issuer of tokens: a key, its key set, and what it signs.

use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use data_encoding::BASE64URL_NOPAD;
use serde_json::{Value, json};

/// Signs tokens with EdDSA.
pub struct Issuer {
    name: String,
    key: Ed25519KeyPair,
}

impl Issuer {
    /// With a key of its own.
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), key: Ed25519KeyPair::generate().unwrap() }
    }

    /// The claim `iss`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its key set.
    pub fn jwks(&self) -> String {
        let x = BASE64URL_NOPAD.encode(self.key.public_key().as_ref());
        json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "k", "use": "sig", "x": x}]}).to_string()
    }

    /// A token of `subject` that is good for five minutes.
    pub fn token(&self, subject: &str) -> String {
        self.token_with(subject, &json!({}))
    }

    /// The same with these claims, which may take the place of its own.
    pub fn token_with(&self, subject: &str, claims: &Value) -> String {
        let mut all = json!({"iss": self.name, "sub": subject, "exp": now() + 300});
        for (name, value) in claims.as_object().unwrap() {
            all[name] = value.clone();
        }
        let part = |value: &Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
        let signed = format!("{}.{}", part(&json!({"alg": "EdDSA", "kid": "k"})), part(&all));
        format!("{signed}.{}", BASE64URL_NOPAD.encode(self.key.sign(signed.as_bytes()).as_ref()))
    }
}

/// Seconds of Unix time.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}
