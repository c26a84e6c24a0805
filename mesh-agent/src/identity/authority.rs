//! Signs certificates: an authority's chain and key, whatever its key is.
//!
//! Behind the issuers `dev` and `files`, and behind the controller. It signs what it is told to: who may have which identity
//! is decided before. The signature itself is rustls', so every key that rustls can use can sign here.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use aws_lc_rs::digest;
use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use rustls::SignatureScheme;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{Signer, SigningKey};
use x509_cert::certificate::TbsCertificate;
use x509_cert::der::asn1::{BitString, OctetString};
use x509_cert::der::oid::db::{rfc5912, rfc8410};
use x509_cert::der::oid::{AssociatedOid, ObjectIdentifier};
use x509_cert::der::{self, Any, Decode, Encode};
use x509_cert::ext::pkix::{
    AuthorityKeyIdentifier, BasicConstraints, ExtendedKeyUsage, KeyUsage, KeyUsages, SubjectKeyIdentifier,
};
use x509_cert::name::Name;
use x509_cert::serial_number::SerialNumber;
use x509_cert::spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned};
use x509_cert::{Certificate, ext};

use super::key::{Key, NoKey};
use super::x509::{self, San, V3};

/// With each the algorithm that certificates name (RFC 5758, RFC 4055, RFC 8410).
const SCHEMES: &[(SignatureScheme, ObjectIdentifier)] = &[
    (SignatureScheme::ECDSA_NISTP256_SHA256, rfc5912::ECDSA_WITH_SHA_256),
    (SignatureScheme::ECDSA_NISTP384_SHA384, rfc5912::ECDSA_WITH_SHA_384),
    (SignatureScheme::ECDSA_NISTP521_SHA512, rfc5912::ECDSA_WITH_SHA_512),
    (SignatureScheme::RSA_PKCS1_SHA256, rfc5912::SHA_256_WITH_RSA_ENCRYPTION),
    (SignatureScheme::ED25519, rfc8410::ID_ED_25519),
];

/// A certificate authority.
#[derive(Clone)]
pub struct Authority {
    /// Sent after each certificate that it signs: its own and those above, without the root.
    chain: Vec<CertificateDer<'static>>,
    name: Name,
    key_id: Option<OctetString>,
    key: Arc<dyn SigningKey>,
    not_after: SystemTime,
}

/// Why nothing is signed.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// No chain.
    #[error("there is no certificate")]
    NoCertificate,
    /// A certificate or a name can't be read or written.
    #[error("a certificate can't be read or encoded")]
    Encoding(#[from] der::Error),
    /// Not an authority's.
    #[error("its first certificate isn't an authority's (no CA:TRUE)")]
    NotAnAuthority,
    /// Key of another kind.
    #[error("its key is of a kind that can't be used")]
    Key(#[source] rustls::Error),
    /// Signing failed.
    #[error("it can't sign")]
    Sign(#[source] rustls::Error),
    /// The key doesn't belong to the certificate.
    #[error("its key isn't the one of its first certificate")]
    NotAPair,
    /// No randomness.
    #[error(transparent)]
    NoKey(#[from] NoKey),
    /// Past its end.
    #[error("its certificate has expired")]
    Expired,
}

/// First and last moment of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    /// It means nothing before.
    pub not_before: SystemTime,
    /// Nor after.
    pub not_after: SystemTime,
}

impl Authority {
    /// From a chain, the signing certificate first, and its key.
    ///
    /// # Errors
    /// The two don't fit, or can't sign.
    pub fn new(chain: Vec<CertificateDer<'static>>, key: &PrivateKeyDer<'_>) -> Result<Self, AuthorityError> {
        let key = any_supported_type(key).map_err(AuthorityError::Key)?;
        let first = chain.first().ok_or(AuthorityError::NoCertificate)?;
        if key.public_key().is_some_and(|public| Ok(public.as_ref()) != encoded_key(first).as_deref()) {
            return Err(AuthorityError::NotAPair);
        }
        Self::with(chain, key)
    }

    fn with(
        mut chain: Vec<CertificateDer<'static>>,
        key: Arc<dyn SigningKey>,
    ) -> Result<Self, AuthorityError> {
        let first = chain.first().ok_or(AuthorityError::NoCertificate)?;
        let own = Certificate::from_der(first)?;
        let facts = x509::facts(first).map_err(|error| error_of(&error))?;
        if !facts.authority {
            return Err(AuthorityError::NotAnAuthority);
        }
        let key_id = extension_of::<SubjectKeyIdentifier>(&own)?.map(|id| id.0);
        // Peers have the root, and trust it only if they do.
        chain.retain(|certificate| x509::facts(certificate).is_ok_and(|facts| facts.subject != facts.issuer));
        let name = own.tbs_certificate.subject;
        Ok(Self { chain, name, key_id, key, not_after: facts.not_after })
    }

    /// A root of its own. Returns it with its certificate.
    ///
    /// # Errors
    /// No randomness, or a life that can't be written.
    pub fn self_signed(
        name: &str,
        key: &Key,
        life: Life,
    ) -> Result<(Self, CertificateDer<'static>), AuthorityError> {
        let name: Name = name.parse()?;
        let spki = x509::spki(key)?;
        let id = key_id(&spki)?;
        let usage = KeyUsage(KeyUsages::KeyCertSign | KeyUsages::CRLSign);
        let extensions = vec![
            x509::extension(&BasicConstraints { ca: true, path_len_constraint: None }, true)?,
            x509::extension(&usage, true)?,
            x509::extension(&SubjectKeyIdentifier(id), false)?,
        ];
        let to_be = tbs(name.clone(), name, spki, life, extensions, rfc5912::ECDSA_WITH_SHA_256, None)?;
        let root = finish(to_be, |message| Ok(key.sign(message)?))?;
        let authority = Self::with(vec![root.clone()], Arc::new(key.clone()))?;
        Ok((authority, root))
    }

    /// When its own certificate ends, and with it all that it signs.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// A certificate for these names and this key, for both ends of TLS, and what has to be sent with it.
    ///
    /// # Errors
    /// The key can't sign, or a name isn't ASCII.
    pub fn sign(
        &self,
        public: &SubjectPublicKeyInfoOwned,
        names: &[San<'_>],
        life: Life,
    ) -> Result<Vec<CertificateDer<'static>>, AuthorityError> {
        if self.not_after <= life.not_before {
            return Err(AuthorityError::Expired);
        }
        let life = Life { not_after: life.not_after.min(self.not_after), ..life };
        let (scheme, oid, signer) = self.signer()?;
        let both = ExtendedKeyUsage(vec![rfc5912::ID_KP_SERVER_AUTH, rfc5912::ID_KP_CLIENT_AUTH]);
        let usage = KeyUsage(KeyUsages::DigitalSignature.into());
        let mut extensions = vec![
            x509::extension(&BasicConstraints { ca: false, path_len_constraint: None }, true)?,
            x509::extension(&usage, true)?,
            x509::extension(&both, false)?,
            x509::extension(&SubjectKeyIdentifier(key_id(public)?), false)?,
        ];
        if let Some(id) = &self.key_id {
            let id = AuthorityKeyIdentifier { key_identifier: Some(id.clone()), ..Default::default() };
            extensions.push(x509::extension(&id, false)?);
        }
        if !names.is_empty() {
            // Without a subject the name has to be critical (RFC 5280, 4.2.1.6).
            extensions.push(x509::names(names, true)?);
        }
        let null = (scheme == SignatureScheme::RSA_PKCS1_SHA256).then(Any::null);
        let to_be = tbs(self.name.clone(), Name::default(), public.clone(), life, extensions, oid, null)?;
        let leaf = finish(to_be, |message| signer.sign(message).map_err(AuthorityError::Sign))?;
        Ok(std::iter::once(leaf).chain(self.chain.iter().cloned()).collect())
    }

    fn signer(&self) -> Result<(SignatureScheme, ObjectIdentifier, Box<dyn Signer>), AuthorityError> {
        let find = |(scheme, oid): &(SignatureScheme, ObjectIdentifier)| {
            self.key.choose_scheme(&[*scheme]).map(|signer| (*scheme, *oid, signer))
        };
        let none = || AuthorityError::Key(rustls::Error::General("no scheme fits".to_owned()));
        SCHEMES.iter().find_map(find).ok_or_else(none)
    }
}

fn tbs(
    issuer: Name,
    subject: Name,
    public: SubjectPublicKeyInfoOwned,
    life: Life,
    extensions: Vec<ext::Extension>,
    oid: ObjectIdentifier,
    parameters: Option<Any>,
) -> Result<TbsCertificate, AuthorityError> {
    Ok(TbsCertificate {
        version: V3,
        serial_number: serial()?,
        signature: AlgorithmIdentifierOwned { oid, parameters },
        issuer,
        validity: x509::validity(life.not_before, life.not_after)?,
        subject,
        subject_public_key_info: public,
        issuer_unique_id: None,
        subject_unique_id: None,
        extensions: Some(extensions),
    })
}

fn finish(
    tbs: TbsCertificate,
    sign: impl FnOnce(&[u8]) -> Result<Vec<u8>, AuthorityError>,
) -> Result<CertificateDer<'static>, AuthorityError> {
    let signature = BitString::from_bytes(&sign(&tbs.to_der()?)?)?;
    let signature_algorithm = tbs.signature.clone();
    let certificate = Certificate { tbs_certificate: tbs, signature_algorithm, signature };
    Ok(certificate.to_der()?.into())
}

/// 128 bits of chance, positive (RFC 5280, 4.1.2.2).
fn serial() -> Result<SerialNumber, AuthorityError> {
    let mut bytes = [0; 16];
    SystemRandom::new().fill(&mut bytes).map_err(|_| NoKey)?;
    bytes[0] = bytes[0] & 0x7f | 0x40;
    Ok(SerialNumber::new(&bytes)?)
}

/// RFC 7093, 2, method 1.
fn key_id(public: &SubjectPublicKeyInfoOwned) -> der::Result<OctetString> {
    let hash = digest::digest(&digest::SHA256, public.subject_public_key.raw_bytes());
    OctetString::new(&hash.as_ref()[..20])
}

fn encoded_key(certificate: &CertificateDer<'_>) -> Result<Vec<u8>, x509::Unreadable> {
    x509::facts(certificate).map(|facts| facts.spki)
}

fn error_of(error: &x509::Unreadable) -> AuthorityError {
    AuthorityError::Encoding(error.0)
}

fn extension_of<'a, T: AssociatedOid + Decode<'a>>(certificate: &'a Certificate) -> der::Result<Option<T>> {
    let mut all = certificate.tbs_certificate.extensions.iter().flatten();
    let found = all.find(|extension| extension.extn_id == T::OID);
    found.map(|extension| T::from_der(extension.extn_value.as_bytes())).transpose()
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("name", &self.name.to_string()).finish_non_exhaustive()
    }
}
