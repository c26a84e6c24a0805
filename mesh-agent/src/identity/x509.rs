//! What certificates and requests say, and their encoding: x509-cert's strict DER, in the project's own words.
//!
//! Nothing here verifies a signature: a peer's chain is rustls' business (`verify`), a request's the controller's.

use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::CertificateDer;
use x509_cert::der::asn1::{BitString, GeneralizedTime, Ia5String, OctetString, SetOfVec, UtcTime};
use x509_cert::der::oid::AssociatedOid;
use x509_cert::der::oid::db::rfc5912;
use x509_cert::der::{self, DateTime, Decode, Encode};
use x509_cert::ext::Extension;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{BasicConstraints, KeyUsage, SubjectAltName};
use x509_cert::name::Name;
use x509_cert::request::{CertReq, CertReqInfo, ExtensionReq, Version};
use x509_cert::spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned};
use x509_cert::time::{Time, Validity};
use x509_cert::{Certificate, certificate};

use super::key::Key;

/// What is worth knowing of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Hexadecimal, without separators.
    pub serial: String,
    /// Whose it is.
    pub subject: String,
    /// Who signed it.
    pub issuer: String,
    /// First moment of its life.
    pub not_before: SystemTime,
    /// Last moment of its life.
    pub not_after: SystemTime,
    /// Every URI among its names. Other kinds of names mean nothing here.
    pub uris: Vec<String>,
    /// It is an authority's, or may sign as if it were.
    pub authority: bool,
    /// Its public key, encoded.
    pub spki: Vec<u8>,
}

/// A certificate or request that can't be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it isn't X.509 in DER")]
pub struct Unreadable(#[from] pub der::Error);

/// Reads a certificate.
///
/// # Errors
/// It isn't one, or isn't DER.
pub fn facts(certificate: &CertificateDer<'_>) -> Result<Facts, Unreadable> {
    let Certificate { tbs_certificate: tbs, .. } = Certificate::from_der(certificate)?;
    let mut found = Facts {
        serial: hex(tbs.serial_number.as_bytes()),
        subject: tbs.subject.to_string(),
        issuer: tbs.issuer.to_string(),
        not_before: system_time(tbs.validity.not_before),
        not_after: system_time(tbs.validity.not_after),
        uris: Vec::new(),
        authority: false,
        spki: tbs.subject_public_key_info.to_der()?,
    };
    for extension in tbs.extensions.iter().flatten() {
        let value = extension.extn_value.as_bytes();
        if extension.extn_id == SubjectAltName::OID {
            found.uris.extend(uris(&SubjectAltName::from_der(value)?));
        } else if extension.extn_id == BasicConstraints::OID {
            found.authority |= BasicConstraints::from_der(value)?.ca;
        } else if extension.extn_id == KeyUsage::OID {
            let usage = KeyUsage::from_der(value)?;
            found.authority |= usage.key_cert_sign() || usage.crl_sign();
        }
    }
    Ok(found)
}

/// The URIs among a certificate's names.
pub fn uris(names: &SubjectAltName) -> Vec<String> {
    let uri = |name: &GeneralName| match name {
        GeneralName::UniformResourceIdentifier(uri) => Some(uri.to_string()),
        _ => None,
    };
    names.0.iter().filter_map(uri).collect()
}

/// A name that a certificate is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum San<'a> {
    /// A SPIFFE id.
    Uri(&'a str),
    /// A server's.
    Dns(&'a str),
    /// A server's.
    Ip(IpAddr),
}

impl San<'_> {
    fn general(&self) -> der::Result<GeneralName> {
        Ok(match self {
            Self::Uri(uri) => GeneralName::UniformResourceIdentifier(Ia5String::new(*uri)?),
            Self::Dns(name) => GeneralName::DnsName(Ia5String::new(*name)?),
            Self::Ip(IpAddr::V4(ip)) => GeneralName::IpAddress(OctetString::new(ip.octets())?),
            Self::Ip(IpAddr::V6(ip)) => GeneralName::IpAddress(OctetString::new(ip.octets())?),
        })
    }
}

/// An extension with these names.
pub fn names(names: &[San<'_>], critical: bool) -> der::Result<Extension> {
    extension(&SubjectAltName(names.iter().map(San::general).collect::<Result<_, _>>()?), critical)
}

/// Any extension.
pub fn extension<T: AssociatedOid + Encode>(value: &T, critical: bool) -> der::Result<Extension> {
    Ok(Extension { extn_id: T::OID, critical, extn_value: OctetString::new(value.to_der()?)? })
}

/// A P-256 key in the form that certificates have it.
pub fn spki(key: &Key) -> der::Result<SubjectPublicKeyInfoOwned> {
    Ok(SubjectPublicKeyInfoOwned {
        algorithm: AlgorithmIdentifierOwned {
            oid: rfc5912::ID_EC_PUBLIC_KEY,
            parameters: Some(der::Any::encode_from(&rfc5912::SECP_256_R_1)?),
        },
        subject_public_key: BitString::from_bytes(key.public())?,
    })
}

/// A request for a certificate that names one URI, signed with its key (RFC 2986).
pub fn request(key: &Key, uri: &str) -> Result<Vec<u8>, RequestError> {
    let wanted = ExtensionReq(vec![names(&[San::Uri(uri)], false)?]);
    let attribute = x509_cert::attr::Attribute {
        oid: ExtensionReq::OID,
        values: SetOfVec::try_from(vec![der::Any::encode_from(&wanted)?])?,
    };
    let info = CertReqInfo {
        version: Version::V1,
        subject: Name::default(),
        public_key: spki(key)?,
        attributes: SetOfVec::try_from(vec![attribute])?,
    };
    let signature = key.sign(&info.to_der()?)?;
    let algorithm = AlgorithmIdentifierOwned { oid: rfc5912::ECDSA_WITH_SHA_256, parameters: None };
    Ok(CertReq { info, algorithm, signature: BitString::from_bytes(&signature)? }.to_der()?)
}

/// Why a request can't be made.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The name isn't ASCII.
    #[error("it can't be encoded")]
    Encoding(#[from] der::Error),
    /// No signature.
    #[error(transparent)]
    Key(#[from] super::key::NoKey),
}

/// A span of life in whole seconds, which is what certificates have.
pub fn validity(not_before: SystemTime, not_after: SystemTime) -> der::Result<Validity> {
    Ok(Validity { not_before: time(not_before)?, not_after: time(not_after)? })
}

/// RFC 5280, 4.1.2.5: two digits for the year until 2049.
fn time(at: SystemTime) -> der::Result<Time> {
    let seconds = at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let date = DateTime::from_unix_duration(Duration::from_secs(seconds))?;
    match UtcTime::from_date_time(date) {
        Ok(time) => Ok(Time::UtcTime(time)),
        Err(_) => Ok(Time::GeneralTime(GeneralizedTime::from_date_time(date))),
    }
}

fn system_time(time: Time) -> SystemTime {
    UNIX_EPOCH + time.to_unix_duration()
}

/// Two digits a byte.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Version of every certificate that has extensions.
pub const V3: certificate::Version = certificate::Version::V3;
