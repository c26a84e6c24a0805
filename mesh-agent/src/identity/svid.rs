//! One certificate with its key, ready for handshakes: TLS 1.3 only, hybrid key exchange first, nothing resumed.
//!
//! `run` makes one of what an issuer gave; `crate::identity` hands its configurations out. A former one goes on serving
//! the connections that were made with it.

use std::fmt;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::server::NoServerSessionStorage;
use rustls::sign::{CertifiedKey, SigningKey, SingleCertAndKey};
use rustls::version::TLS13;
use rustls::{ClientConfig, ServerConfig};

use super::id::SpiffeId;
use super::trust::Trust;
use super::x509::{self, Facts};
use super::{ALPN_HBONE, ALPN_MESH, provider, verify};

/// A certificate in use.
pub struct Svid {
    /// What it says.
    pub facts: Facts,
    /// It, and what is between it and the root.
    pub chain: Vec<CertificateDer<'static>>,
    /// Name of the root that the chain leads to.
    pub root: String,
    client: ClientConfig,
    server: Arc<ServerConfig>,
    hbone: Arc<ServerConfig>,
    trust: Arc<Trust>,
}

/// Why a certificate can't be used.
#[derive(Debug, thiserror::Error)]
pub enum BadSvid {
    /// Nothing came.
    #[error("there is no certificate")]
    None,
    /// Not X.509.
    #[error("the certificate can't be read")]
    Unreadable(#[from] x509::Unreadable),
    /// No configuration can be made.
    #[error("TLS can't be set up with it")]
    Tls(#[from] rustls::Error),
}

impl Svid {
    /// From what was issued.
    ///
    /// # Errors
    /// It can't be read.
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: Arc<dyn SigningKey>,
        trust: Arc<Trust>,
    ) -> Result<Self, BadSvid> {
        let facts = x509::facts(chain.first().ok_or(BadSvid::None)?)?;
        let root = x509::facts(chain.last().ok_or(BadSvid::None)?)?.issuer;
        let provider = provider();
        let algorithms = provider.signature_verification_algorithms;
        let certified = Arc::new(SingleCertAndKey::from(CertifiedKey::new(chain.clone(), key)));
        let own = SpiffeId::new(trust.domain(), "", "");
        let verifier = verify::Server { trust: trust.clone(), expected: own, algorithms };
        let mut client = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(certified.clone());
        client.resumption = Resumption::disabled();
        client.enable_sni = false;
        let verifier = verify::Clients { trust: trust.clone(), algorithms };
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(Arc::new(verifier))
            .with_cert_resolver(certified);
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        server.alpn_protocols = vec![ALPN_MESH.to_vec()];
        let mut hbone = server.clone();
        hbone.alpn_protocols = vec![ALPN_HBONE.to_vec()];
        Ok(Self { facts, chain, root, client, server: Arc::new(server), hbone: Arc::new(hbone), trust })
    }

    /// For connections to `expected`.
    pub fn client(&self, expected: &SpiffeId) -> Arc<ClientConfig> {
        let mut config = self.client.clone();
        let algorithms = self.provider().signature_verification_algorithms;
        let verifier = verify::Server { trust: self.trust.clone(), expected: expected.clone(), algorithms };
        config.dangerous().set_certificate_verifier(Arc::new(verifier));
        Arc::new(config)
    }

    /// For connections from any workload of the trust domain.
    pub fn server(&self) -> Arc<ServerConfig> {
        self.server.clone()
    }

    /// The same for HBONE.
    pub fn hbone_server(&self) -> Arc<ServerConfig> {
        self.hbone.clone()
    }

    fn provider(&self) -> &Arc<CryptoProvider> {
        self.client.crypto_provider()
    }
}

impl fmt::Debug for Svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Svid").field("facts", &self.facts).finish_non_exhaustive()
    }
}
