//! Judges the other side's certificate within a handshake: signed under the trust bundle, alive, and with exactly one
//! SPIFFE id, the one that is expected of a server, or any of the trust domain's for a client.
//!
//! `svid` puts these verifiers into configurations. What they refuse ends the handshake; [`Refusal`] is the reason, as
//! logs and metrics have it.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    AlertDescription, CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError,
    PeerIncompatible, SignatureScheme,
};

use super::id::{NotSpiffe, SpiffeId};
use super::trust::{Bundle, Trust};
use super::{provider, x509};

/// Why a certificate that is signed under the bundle proves no identity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// It sent none.
    #[error("the peer sent no certificate")]
    NoCertificate,
    /// Not X.509.
    #[error("the peer's certificate can't be read")]
    Unreadable(#[source] x509::Unreadable),
    /// X509-SVID, 4.1: an authority's certificate is nobody's identity.
    #[error("the peer's certificate is an authority's")]
    Authority,
    /// No URI among its names.
    #[error("the peer's certificate has no SPIFFE id")]
    NoId,
    /// X509-SVID, 2: more than one leaves open which it is.
    #[error("the peer's certificate has {0} URIs, where exactly one names its identity")]
    SeveralIds(usize),
    /// Another kind of URI.
    #[error("the peer's certificate has a URI that is no SPIFFE id")]
    NotSpiffe(#[source] NotSpiffe),
    /// Another trust domain's.
    #[error("the peer is {0}, of another trust domain")]
    TrustDomain(SpiffeId),
    /// Another workload's.
    #[error("the peer is {found}, where {expected} was expected")]
    Other {
        /// Whose certificate it is.
        found: SpiffeId,
        /// Whose it should be.
        expected: SpiffeId,
    },
}

/// Whether a server with this chain would be believed, whoever it is.
///
/// # Errors
/// As a handshake has it.
pub(super) fn signed_under(
    bundle: &Bundle,
    chain: &[CertificateDer<'_>],
    now: SystemTime,
) -> Result<(), Error> {
    let (leaf, above) = chain.split_first().ok_or(Error::NoCertificatesPresented)?;
    let parsed = ParsedCertificate::try_from(leaf)?;
    let now = UnixTime::since_unix_epoch(now.duration_since(UNIX_EPOCH).unwrap_or_default());
    let algorithms = provider().signature_verification_algorithms.all;
    verify_server_cert_signed_by_trust_anchor(&parsed, &bundle.roots, above, now, algorithms)
}

/// Identity of a peer whose certificate the handshake accepted.
///
/// # Errors
/// Its certificate has no identity: never for a peer that was verified here.
pub fn peer_of(chain: &[CertificateDer<'_>]) -> Result<SpiffeId, PeerError> {
    let facts = x509::facts(chain.first().ok_or(PeerError::NoCertificate)?).map_err(PeerError::Unreadable)?;
    if facts.authority {
        return Err(PeerError::Authority);
    }
    match facts.uris.as_slice() {
        [] => Err(PeerError::NoId),
        [uri] => SpiffeId::parse(uri).map_err(PeerError::NotSpiffe),
        several => Err(PeerError::SeveralIds(several.len())),
    }
}

/// Any workload of the trust domain, as the client.
#[derive(Debug)]
pub(super) struct Clients {
    pub trust: Arc<Trust>,
    pub algorithms: WebPkiSupportedAlgorithms,
}

/// One workload, as the server.
#[derive(Debug)]
pub(super) struct Server {
    pub trust: Arc<Trust>,
    pub expected: SpiffeId,
    pub algorithms: WebPkiSupportedAlgorithms,
}

impl Clients {
    fn identity(&self, leaf: &CertificateDer<'_>) -> Result<(), PeerError> {
        let id = peer_of(std::slice::from_ref(leaf))?;
        if self.trust.covers(id.trust_domain()) { Ok(()) } else { Err(PeerError::TrustDomain(id)) }
    }
}

impl Server {
    fn identity(&self, leaf: &CertificateDer<'_>) -> Result<(), PeerError> {
        let found = peer_of(std::slice::from_ref(leaf))?;
        if !self.trust.covers(found.trust_domain()) {
            return Err(PeerError::TrustDomain(found));
        }
        if self.trust.same(&found, &self.expected) {
            return Ok(());
        }
        Err(PeerError::Other { found, expected: self.expected.clone() })
    }
}

impl ClientCertVerifier for Clients {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // Clients have one certificate to send, and roots change.
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let bundle = self.trust.bundle();
        let verifier = bundle.clients.as_ref().ok_or(CertificateError::UnknownIssuer)?;
        let verified = verifier.verify_client_cert(leaf, intermediates, now)?;
        self.identity(leaf).map_err(refused)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(never_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ServerCertVerifier for Server {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let parsed = ParsedCertificate::try_from(leaf)?;
        let roots = &self.trust.bundle().roots;
        verify_server_cert_signed_by_trust_anchor(&parsed, roots, intermediates, now, self.algorithms.all)?;
        self.identity(leaf).map_err(refused)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(never_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

fn refused(error: PeerError) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(error))))
}

/// The configurations offer TLS 1.3 only, so this is never asked.
fn never_tls12() -> Error {
    Error::PeerIncompatible(PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig)
}

/// Why a handshake between agents failed, for a metric's label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Signed by nobody whom the trust bundle knows.
    UnknownRoot,
    /// Past its last moment.
    Expired,
    /// Before its first.
    NotYetValid,
    /// The peer sent none.
    NoCertificate,
    /// No, several or malformed ids, or an authority's certificate.
    NoIdentity,
    /// Of a trust domain that isn't ours.
    TrustDomain,
    /// Another workload's.
    OtherIdentity,
    /// Not TLS 1.3 as we speak it.
    Incompatible,
    /// The peer refused us.
    RefusedByPeer,
    /// Everything else.
    Failed,
}

impl Refusal {
    /// Of a handshake's error.
    pub fn of(error: &Error) -> Self {
        match error {
            Error::NoCertificatesPresented => Self::NoCertificate,
            Error::InvalidCertificate(error) => Self::of_certificate(error),
            Error::PeerIncompatible(_) => Self::Incompatible,
            // Offered TLS 1.3 alone, a server that speaks only what came before, or has no key exchange in common, says so.
            Error::AlertReceived(
                AlertDescription::ProtocolVersion
                | AlertDescription::HandshakeFailure
                | AlertDescription::InsufficientSecurity,
            ) => Self::Incompatible,
            Error::AlertReceived(AlertDescription::NoApplicationProtocol) => Self::Failed,
            Error::AlertReceived(_) => Self::RefusedByPeer,
            _ => Self::Failed,
        }
    }

    fn of_certificate(error: &CertificateError) -> Self {
        match error {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => Self::Expired,
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => Self::NotYetValid,
            CertificateError::UnknownIssuer | CertificateError::BadSignature => Self::UnknownRoot,
            CertificateError::Other(OtherError(error)) => match error.downcast_ref::<PeerError>() {
                Some(PeerError::NoCertificate) => Self::NoCertificate,
                Some(PeerError::TrustDomain(_)) => Self::TrustDomain,
                Some(PeerError::Other { .. }) => Self::OtherIdentity,
                Some(_) => Self::NoIdentity,
                None => match error.downcast_ref() {
                    // Found before anybody looks for an identity in it.
                    Some(webpki::Error::CaUsedAsEndEntity) => Self::NoIdentity,
                    _ => Self::Failed,
                },
            },
            _ => Self::Failed,
        }
    }

    /// The label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::UnknownRoot => "unknown_root",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::NoCertificate => "no_certificate",
            Self::NoIdentity => "no_identity",
            Self::TrustDomain => "trust_domain",
            Self::OtherIdentity => "other_identity",
            Self::Incompatible => "incompatible",
            Self::RefusedByPeer => "refused_by_peer",
            Self::Failed => "failed",
        }
    }
}
