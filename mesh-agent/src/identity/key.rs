//! Private keys of SVIDs: P-256, made here, used here, never in any other form.
//!
//! A key is an object of aws-lc's from birth to death: it is never serialised, so there are no bytes of it in our memory,
//! on disk or on a wire. aws-lc overwrites what it frees (`OPENSSL_free` cleanses), which is when the last user drops it.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use rustls::pki_types::{SubjectPublicKeyInfoDer, alg_id};
use rustls::sign::{Signer, SigningKey, public_key_to_spki};
use rustls::{Error, SignatureAlgorithm, SignatureScheme};

/// A private key. Clones share it.
#[derive(Clone)]
pub struct Key(Arc<EcdsaKeyPair>);

impl Key {
    /// A new one.
    ///
    /// # Errors
    /// If the system has no randomness.
    pub fn generate() -> Result<Self, NoKey> {
        EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING)
            .map(|pair| Self(Arc::new(pair)))
            .map_err(|_| NoKey)
    }

    /// A root's key that others of this machine read from a file, with the text for that file (PKCS #8, overwritten when it
    /// is dropped). No SVID has such a key.
    ///
    /// # Errors
    /// If the system has no randomness.
    pub(super) fn for_a_file() -> Result<(Self, aws_lc_rs::pkcs8::Document), NoKey> {
        let key = Self::generate()?;
        let document = key.0.to_pkcs8v1().map_err(|_| NoKey)?;
        Ok((key, document))
    }

    /// The public half: a point, uncompressed (SEC 1, 2.3.3).
    pub fn public(&self) -> &[u8] {
        self.0.public_key().as_ref()
    }

    /// ECDSA with SHA-256, as DER.
    ///
    /// # Errors
    /// If the system has no randomness.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, NoKey> {
        self.0
            .sign(&SystemRandom::new(), message)
            .map(|signature| signature.as_ref().to_vec())
            .map_err(|_| NoKey)
    }
}

/// A key couldn't be made or used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no key can be made or used (no randomness?)")]
pub struct NoKey;

impl SigningKey for Key {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let fits = offered.contains(&SignatureScheme::ECDSA_NISTP256_SHA256);
        fits.then(|| Box::new(self.clone()) as Box<dyn Signer>)
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        Some(public_key_to_spki(&alg_id::ECDSA_P256, self.public()))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ECDSA
    }
}

impl Signer for Key {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        Key::sign(self, message).map_err(|error| Error::General(error.to_string()))
    }

    fn scheme(&self) -> SignatureScheme {
        SignatureScheme::ECDSA_NISTP256_SHA256
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_key_signs_for_p256_and_shows_nothing_of_itself() {
        let key = Key::generate().unwrap();
        assert!(key.choose_scheme(&[SignatureScheme::RSA_PSS_SHA256, SignatureScheme::ED25519]).is_none());
        assert!(key.choose_scheme(&[SignatureScheme::ECDSA_NISTP256_SHA256]).is_some());
        let verifier = aws_lc_rs::signature::UnparsedPublicKey::new(
            &aws_lc_rs::signature::ECDSA_P256_SHA256_ASN1,
            key.public().to_vec(),
        );
        verifier.verify(b"words", &key.sign(b"words").unwrap()).unwrap();
        assert!(verifier.verify(b"others", &key.sign(b"words").unwrap()).is_err());
        assert_eq!(format!("{key:?}"), "Key");
    }
}
