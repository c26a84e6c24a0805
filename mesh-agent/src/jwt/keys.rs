//! An issuer's public keys: a JWK set (RFC 7517) read once, each key ready to verify with.
//!
//! A key that is for something else, of another kind or too weak is passed over with its reason; a set without a key that can
//! be used is refused as a whole, so that it never takes the place of a good one. Made when a rule is compiled or a fetch is
//! done, asked by `verify`.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use aws_lc_rs::signature::{ParsedPublicKey, RsaPublicKeyComponents};
use data_encoding::BASE64URL_NOPAD;
use serde_json::{Map, Value};

use super::algorithm::{Algorithm, RSA};
use super::json;
use super::refusal::Refusal;

/// Keys of one set: issuers have a handful.
const MOST_KEYS: usize = 64;
/// Values in a set, certificates and the like that nobody reads included.
const MOST_VALUES: usize = 4096;
/// Keys that one token is tried with. More could be meant only by a token without `kid`.
const MOST_TRIED: usize = 8;

/// An issuer's keys.
#[derive(Debug)]
pub struct KeySet {
    /// No two sets of one process have the same.
    id: u64,
    keys: Vec<Key>,
    passed_over: Vec<String>,
}

/// Why text is no key set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeySetError {
    /// Not JSON, or a name is said twice.
    #[error("it isn't JSON: {0}")]
    NotJson(String),
    /// No `keys`.
    #[error("it isn't a JWK set: expected an object with a list \"keys\"")]
    NotASet,
    /// Too many.
    #[error("it has more than {MOST_KEYS} keys")]
    TooMany,
    /// None can be used.
    #[error("none of its keys can be used ({})", if .0.is_empty() { "there is none" } else { .0 })]
    NoUsableKey(String),
}

#[derive(Debug)]
struct Key {
    kid: Option<String>,
    /// One for each algorithm that it may be used with.
    verifiers: Vec<(Algorithm, ParsedPublicKey)>,
}

impl KeySet {
    /// Reads a JWK set.
    ///
    /// # Errors
    /// [`KeySetError`], for a set without a key that can be used as well.
    pub fn parse(text: &[u8]) -> Result<Self, KeySetError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let set = json::object(text, MOST_VALUES).map_err(|error| KeySetError::NotJson(error.to_string()))?;
        let Some(Value::Array(list)) = set.get("keys") else { return Err(KeySetError::NotASet) };
        if list.len() > MOST_KEYS {
            return Err(KeySetError::TooMany);
        }
        let (mut keys, mut passed_over) = (Vec::new(), Vec::new());
        for (at, jwk) in list.iter().enumerate() {
            match jwk.as_object().ok_or("isn't an object").and_then(Key::read) {
                Ok(key) => keys.push(key),
                Err(why) => passed_over.push(format!("keys[{at}] {why}")),
            }
        }
        if keys.is_empty() {
            return Err(KeySetError::NoUsableKey(passed_over.join(", ")));
        }
        Ok(Self { id: NEXT.fetch_add(1, Relaxed), keys, passed_over })
    }

    /// Tells this set from every other one.
    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// How many keys can be used.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Never: a set without keys isn't made.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Keys that can't be used, each with why.
    pub fn passed_over(&self) -> &[String] {
        &self.passed_over
    }

    /// Checks a signature with the keys that may have made it: of the token's `kid`, where both name one, and of a kind that
    /// its algorithm is for.
    pub(super) fn verify(
        &self,
        algorithm: Algorithm,
        kid: Option<&str>,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), Refusal> {
        let mut refusal = Refusal::NoKey;
        let candidates =
            self.keys.iter().filter(|key| key.may_be(kid)).filter_map(|key| key.verifier(algorithm));
        for key in candidates.take(MOST_TRIED) {
            if key.verify_sig(message, signature).is_ok() {
                return Ok(());
            }
            refusal = Refusal::Signature;
        }
        Err(refusal)
    }
}

impl Key {
    fn read(jwk: &Map<String, Value>) -> Result<Self, &'static str> {
        let text = |name: &str| jwk.get(name).and_then(Value::as_str);
        if jwk.get("use").is_some_and(|used| used.as_str() != Some("sig")) {
            return Err("isn't for signatures (use)");
        }
        if let Some(operations) = jwk.get("key_ops") {
            let list = operations.as_array().map(Vec::as_slice).unwrap_or_default();
            if !list.iter().any(|operation| operation.as_str() == Some("verify")) {
                return Err("isn't for verifying (key_ops)");
            }
        }
        let only = match jwk.get("alg") {
            None => None,
            Some(alg) => {
                let known = alg.as_str().and_then(Algorithm::find);
                Some(known.ok_or("is for an algorithm that isn't supported (alg)")?)
            }
        };
        let kid = match jwk.get("kid") {
            None => None,
            Some(kid) => Some(kid.as_str().ok_or("has a kid that isn't text")?.to_owned()),
        };
        let mut verifiers = match text("kty") {
            Some("RSA") => rsa(jwk)?,
            Some("EC") => vec![curve(jwk)?],
            Some("OKP") => vec![edwards(jwk)?],
            Some("oct") => return Err("is a shared secret (kty oct)"),
            _ => return Err("is of a kind that isn't supported (kty)"),
        };
        if let Some(only) = only {
            verifiers.retain(|(algorithm, _)| *algorithm == only);
            if verifiers.is_empty() {
                return Err("is of a kind that its alg isn't for");
            }
        }
        Ok(Self { kid, verifiers })
    }

    /// A key or a token without `kid` leaves it open.
    fn may_be(&self, kid: Option<&str>) -> bool {
        match (&self.kid, kid) {
            (Some(own), Some(kid)) => own == kid,
            _ => true,
        }
    }

    fn verifier(&self, algorithm: Algorithm) -> Option<&ParsedPublicKey> {
        self.verifiers.iter().find(|(known, _)| *known == algorithm).map(|(_, key)| key)
    }
}

fn bytes(jwk: &Map<String, Value>, name: &str) -> Option<Vec<u8>> {
    BASE64URL_NOPAD.decode(jwk.get(name)?.as_str()?.as_bytes()).ok()
}

/// RFC 7518, 6.3.1. Some issuers put a zero byte before the modulus.
fn rsa(jwk: &Map<String, Value>) -> Result<Vec<(Algorithm, ParsedPublicKey)>, &'static str> {
    let number = |name| {
        let bytes = bytes(jwk, name)?;
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        Some(bytes.get(zeros..)?.to_vec())
    };
    let (Some(n), Some(e)) = (number("n"), number("e")) else {
        return Err("has no modulus or exponent (n, e)");
    };
    // The library looks at the length of a modulus only when it verifies, and at nothing of the exponent.
    let bits = n.len() * 8 - n.first().map_or(0, |byte| byte.leading_zeros() as usize);
    if !(2048..=8192).contains(&bits) || n.last().is_none_or(|byte| byte % 2 == 0) {
        return Err("isn't an RSA key of 2048 to 8192 bits");
    }
    if e.len() > 8 || e.last().is_none_or(|byte| byte % 2 == 0) || *e == [1] {
        return Err("has an exponent that isn't odd, or is 1");
    }
    let parts = RsaPublicKeyComponents { n, e };
    let each = RSA.into_iter().filter_map(|algorithm| Some((algorithm, algorithm.rsa()?)));
    let parsed: Result<Vec<_>, _> = each
        .map(|(algorithm, parameters)| Ok((algorithm, parts.to_parsed_public_key(parameters)?)))
        .collect();
    parsed.map_err(|_: aws_lc_rs::error::KeyRejected| "isn't an RSA key")
}

/// RFC 7518, 6.2.1: coordinates have the full length of their field.
fn curve(jwk: &Map<String, Value>) -> Result<(Algorithm, ParsedPublicKey), &'static str> {
    let (algorithm, length) = match jwk.get("crv").and_then(Value::as_str) {
        Some("P-256") => (Algorithm::Es256, 32),
        Some("P-384") => (Algorithm::Es384, 48),
        Some("P-521") => (Algorithm::Es512, 66),
        _ => return Err("is on a curve that isn't supported (crv)"),
    };
    match (bytes(jwk, "x"), bytes(jwk, "y")) {
        (Some(x), Some(y)) if x.len() == length && y.len() == length => {
            parsed(algorithm, &[&[4], &*x, &*y].concat())
        }
        _ => Err("has coordinates that aren't of its curve (x, y)"),
    }
}

/// RFC 8037, 2.
fn edwards(jwk: &Map<String, Value>) -> Result<(Algorithm, ParsedPublicKey), &'static str> {
    match (jwk.get("crv").and_then(Value::as_str), bytes(jwk, "x")) {
        (Some("Ed25519"), Some(x)) if x.len() == 32 => parsed(Algorithm::EdDsa, &x),
        (Some("Ed25519"), _) => Err("has no public key of 32 bytes (x)"),
        _ => Err("is on a curve that isn't supported (crv)"),
    }
}

fn parsed(algorithm: Algorithm, key: &[u8]) -> Result<(Algorithm, ParsedPublicKey), &'static str> {
    let parameters = algorithm.curve().ok_or("is of a kind that isn't supported (kty)")?;
    let key = ParsedPublicKey::new(parameters, key).map_err(|_| "isn't a point on its curve")?;
    Ok((algorithm, key))
}

#[cfg(test)]
mod tests;
