//! Keys and tokens for unit tests: an issuer of each kind of key.

#![allow(clippy::unwrap_used)]

use std::sync::LazyLock;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{self, KeySize};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, ECDSA_P521_SHA512_FIXED_SIGNING,
    EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512,
    RSA_PSS_SHA256, RSA_PSS_SHA384, RSA_PSS_SHA512,
};
use data_encoding::BASE64URL_NOPAD;
use serde_json::{Value, json};

use super::keys::KeySet;

/// A key that signs.
pub(crate) enum Signer {
    Rsa(rsa::KeyPair),
    Ec(&'static str, EcdsaKeyPair),
    Ed(Ed25519KeyPair),
}

/// Made once: an RSA key takes a while.
static RSA: LazyLock<rsa::KeyPair> = LazyLock::new(|| rsa::KeyPair::generate(KeySize::Rsa2048).unwrap());

impl Signer {
    /// For this algorithm. RSA keys are all the same one.
    pub(crate) fn new(alg: &str) -> Self {
        let curve = |curve, algorithm| Self::Ec(curve, EcdsaKeyPair::generate(algorithm).unwrap());
        match alg {
            "ES256" => curve("P-256", &ECDSA_P256_SHA256_FIXED_SIGNING),
            "ES384" => curve("P-384", &ECDSA_P384_SHA384_FIXED_SIGNING),
            "ES512" => curve("P-521", &ECDSA_P521_SHA512_FIXED_SIGNING),
            "EdDSA" => Self::Ed(Ed25519KeyPair::generate().unwrap()),
            _ => Self::Rsa(RSA.clone()),
        }
    }

    /// Its public part.
    pub(crate) fn jwk(&self) -> Value {
        let text = |bytes: &[u8]| BASE64URL_NOPAD.encode(bytes);
        match self {
            Self::Rsa(key) => {
                // RSAPublicKey (RFC 8017, A.1.1) of 2048 bits: a sequence, the modulus behind nine bytes, the exponent 65537.
                json!({"kty": "RSA", "n": text(&key.public_key().as_ref()[9..265]), "e": "AQAB"})
            }
            Self::Ec(curve, key) => {
                let point = &key.public_key().as_ref()[1..];
                let (x, y) = point.split_at(point.len() / 2);
                json!({"kty": "EC", "crv": curve, "x": text(x), "y": text(y)})
            }
            Self::Ed(key) => json!({"kty": "OKP", "crv": "Ed25519", "x": text(key.public_key().as_ref())}),
        }
    }

    /// The same with more fields.
    pub(crate) fn jwk_with(&self, fields: Value) -> Value {
        let mut jwk = self.jwk();
        for (name, value) in fields.as_object().unwrap() {
            jwk[name] = value.clone();
        }
        jwk
    }

    /// A key set of this key alone.
    pub(crate) fn keys(&self) -> KeySet {
        set(&[self.jwk()])
    }

    fn sign(&self, alg: &str, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match self {
            Self::Rsa(key) => {
                let encoding: &'static dyn aws_lc_rs::signature::RsaEncoding = match alg {
                    "RS384" => &RSA_PKCS1_SHA384,
                    "RS512" => &RSA_PKCS1_SHA512,
                    "PS256" => &RSA_PSS_SHA256,
                    "PS384" => &RSA_PSS_SHA384,
                    "PS512" => &RSA_PSS_SHA512,
                    _ => &RSA_PKCS1_SHA256,
                };
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(encoding, &random, message, &mut signature).unwrap();
                signature
            }
            Self::Ec(_, key) => key.sign(&random, message).unwrap().as_ref().to_vec(),
            Self::Ed(key) => key.sign(message).as_ref().to_vec(),
        }
    }

    /// A token with this header, signed as its `alg` says as far as the key can.
    pub(crate) fn token_with(&self, header: &Value, claims: &Value) -> String {
        let part = |value: &Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
        let signed = format!("{}.{}", part(header), part(claims));
        let signature = self.sign(header["alg"].as_str().unwrap_or_default(), signed.as_bytes());
        format!("{signed}.{}", BASE64URL_NOPAD.encode(&signature))
    }

    /// A token.
    pub(crate) fn token(&self, claims: &Value) -> String {
        let alg = match self {
            Self::Rsa(_) => "RS256",
            Self::Ec("P-256", _) => "ES256",
            Self::Ec("P-384", _) => "ES384",
            Self::Ec(..) => "ES512",
            Self::Ed(_) => "EdDSA",
        };
        self.token_with(&json!({"alg": alg, "typ": "JWT"}), claims)
    }
}

/// A key set.
pub(crate) fn set(keys: &[Value]) -> KeySet {
    KeySet::parse(jwks(keys).as_bytes()).unwrap()
}

/// A key set's text.
pub(crate) fn jwks(keys: &[Value]) -> String {
    json!({"keys": keys}).to_string()
}
