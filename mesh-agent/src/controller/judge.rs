//! Who gets which certificate: reads a request strictly and holds it against the pods of the node that asks. Pure.
//!
//! The certificate has nothing of the request but its key: names, uses and life are the controller's own.

use std::time::Duration;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use x509_cert::der::oid::AssociatedOid;
use x509_cert::der::oid::db::rfc5912;
use x509_cert::der::{Decode, Encode, pem};
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::request::{CertReq, ExtensionReq};
use x509_cert::spki::{ObjectIdentifier, SubjectPublicKeyInfoOwned};

use super::review::Unanswered;
use crate::grpc::{Code, Status};
use crate::identity::SpiffeId;
use crate::identity::proto::CertificateRequest;
use crate::model::Snapshot;

/// What is asked for where nothing is said.
const DEFAULT_LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// A certificate that lives shorter isn't worth its signature.
const SHORTEST_LIFETIME: Duration = Duration::from_secs(10);

/// A request that makes sense.
#[derive(Debug)]
pub struct Wanted {
    /// For whom.
    pub id: SpiffeId,
    /// The key that it was signed with.
    pub public: SubjectPublicKeyInfoOwned,
    /// For how long, within what is allowed.
    pub lifetime: Duration,
}

/// Why nothing is signed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No token, or none of a node's.
    #[error("the token is no node's")]
    Unauthenticated,
    /// Nobody can tell whose token it is.
    #[error("{0}")]
    Unanswered(#[from] Unanswered),
    /// Not a request.
    #[error("the certificate request can't be read: {0}")]
    Request(String),
    /// Whoever asks doesn't have the key.
    #[error("the certificate request isn't signed with its own key")]
    Signature,
    /// A key of another kind.
    #[error("the key isn't ECDSA P-256")]
    KeyKind,
    /// It names somebody beside the one that is asked for.
    #[error("the certificate request names something else than {0}, or more")]
    Names(String),
    /// Nobody is named.
    #[error("no identity is asked for, neither as ImpersonatedIdentity nor in the certificate request")]
    NoIdentity,
    /// Not an identity of a service account.
    #[error("{0} is no service account's identity")]
    NotAnAccount(String),
    /// Of another trust domain.
    #[error("{0} is of another trust domain")]
    TrustDomain(SpiffeId),
    /// No pod of that service account runs there.
    #[error("no pod of {id} is on node {node}")]
    NotOnNode {
        /// Whose it is.
        id: SpiffeId,
        /// Who asks.
        node: String,
    },
    /// Not known yet.
    #[error("the pods of the nodes aren't known yet")]
    NotReady,
    /// No signature.
    #[error("nothing can be signed now")]
    Authority,
    /// Another method.
    #[error("there is no such method")]
    Method,
}

impl Refusal {
    /// For a metric's label.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Unauthenticated => "unauthenticated",
            Self::Unanswered(_) => "token_review",
            Self::Request(_) | Self::Names(_) | Self::NoIdentity | Self::NotAnAccount(_) => "bad_request",
            Self::Signature => "bad_signature",
            Self::KeyKind => "bad_key",
            Self::TrustDomain(_) => "trust_domain",
            Self::NotOnNode { .. } => "not_on_node",
            Self::NotReady => "not_ready",
            Self::Authority => "authority",
            Self::Method => "method",
        }
    }

    fn code(&self) -> Code {
        match self {
            Self::Unauthenticated => Code::UNAUTHENTICATED,
            Self::TrustDomain(_) | Self::NotOnNode { .. } => Code::PERMISSION_DENIED,
            Self::Unanswered(_) | Self::NotReady | Self::Authority => Code::UNAVAILABLE,
            Self::Method => Code::UNIMPLEMENTED,
            Self::Request(_)
            | Self::Signature
            | Self::KeyKind
            | Self::Names(_)
            | Self::NoIdentity
            | Self::NotAnAccount(_) => Code::INVALID_ARGUMENT,
        }
    }
}

impl From<&Refusal> for Status {
    fn from(refusal: &Refusal) -> Self {
        Self::new(refusal.code(), refusal.to_string())
    }
}

/// Reads a request: who is meant, and that whoever asks has the key.
///
/// # Errors
/// The first thing that is wrong.
pub fn read(request: &CertificateRequest, longest: Duration) -> Result<Wanted, Refusal> {
    let bad = |error: &dyn std::fmt::Display| Refusal::Request(error.to_string());
    let (label, der) = pem::decode_vec(request.csr.trim().as_bytes()).map_err(|error| bad(&error))?;
    if label != "CERTIFICATE REQUEST" {
        return Err(bad(&format_args!("it is a {label}")));
    }
    let csr = CertReq::from_der(&der).map_err(|error| bad(&error))?;
    verify(&csr)?;
    let named = names(&csr)?;
    let wanted = match (request.identity(), named.as_slice()) {
        (Some(identity), []) => identity.to_owned(),
        (None, [GeneralName::UniformResourceIdentifier(uri)]) => uri.to_string(),
        (Some(identity), [GeneralName::UniformResourceIdentifier(uri)]) if uri.as_str() == identity => {
            identity.to_owned()
        }
        (None, []) => return Err(Refusal::NoIdentity),
        (identity, _) => return Err(Refusal::Names(identity.unwrap_or("one identity").to_owned())),
    };
    let id = SpiffeId::parse(&wanted).map_err(|_| Refusal::NotAnAccount(wanted))?;
    let asked = match u64::try_from(request.validity_duration) {
        Ok(0) | Err(_) => DEFAULT_LIFETIME,
        Ok(seconds) => Duration::from_secs(seconds),
    };
    Ok(Wanted { id, public: csr.info.public_key, lifetime: asked.max(SHORTEST_LIFETIME).min(longest) })
}

/// The key is P-256, and made the signature.
fn verify(csr: &CertReq) -> Result<(), Refusal> {
    let bad = |error: x509_cert::der::Error| Refusal::Request(error.to_string());
    let public = &csr.info.public_key;
    let curve = public.algorithm.parameters.as_ref().and_then(|any| any.decode_as::<ObjectIdentifier>().ok());
    if public.algorithm.oid != rfc5912::ID_EC_PUBLIC_KEY || curve != Some(rfc5912::SECP_256_R_1) {
        return Err(Refusal::KeyKind);
    }
    if csr.algorithm.oid != rfc5912::ECDSA_WITH_SHA_256 {
        return Err(Refusal::KeyKind);
    }
    let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, public.subject_public_key.raw_bytes());
    let signed = csr.info.to_der().map_err(bad)?;
    key.verify(&signed, csr.signature.raw_bytes()).map_err(|_| Refusal::Signature)
}

/// Every name that the request would like to have.
fn names(csr: &CertReq) -> Result<Vec<GeneralName>, Refusal> {
    let bad = |error: x509_cert::der::Error| Refusal::Request(error.to_string());
    let mut all = Vec::new();
    for attribute in csr.info.attributes.iter().filter(|attribute| attribute.oid == ExtensionReq::OID) {
        for value in attribute.values.iter() {
            let wanted = ExtensionReq::from_der(&value.to_der().map_err(bad)?).map_err(bad)?;
            for extension in wanted.0.iter().filter(|extension| extension.extn_id == SubjectAltName::OID) {
                all.extend(SubjectAltName::from_der(extension.extn_value.as_bytes()).map_err(bad)?.0);
            }
        }
    }
    Ok(all)
}

/// Whether the agent of `node` may have a certificate for `id`.
///
/// # Errors
/// It may not.
pub fn allow(snapshot: &Snapshot, trust_domain: &str, node: &str, id: &SpiffeId) -> Result<(), Refusal> {
    if id.trust_domain() != trust_domain {
        return Err(Refusal::TrustDomain(id.clone()));
    }
    let (Some(namespace), Some(account)) = (id.namespace(), id.service_account()) else {
        return Err(Refusal::NotAnAccount(id.to_string()));
    };
    let runs = snapshot
        .workloads
        .values()
        .any(|pod| pod.node == node && pod.name.namespace == namespace && pod.service_account == account);
    if runs { Ok(()) } else { Err(Refusal::NotOnNode { id: id.clone(), node: node.to_owned() }) }
}
