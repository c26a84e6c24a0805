//! Whom this agent believes: its trust domain, the domain's aliases, and the roots that may sign for it.
//!
//! Every verifier reads the roots when it is asked, so that a handshake goes by the newest and no connection that is open
//! notices a change. Several roots count at the same time: that is how one takes another's place.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;

use super::id::SpiffeId;
use super::provider;

/// The trust domain with its roots.
pub struct Trust {
    domain: String,
    aliases: Vec<String>,
    bundle: ArcSwap<Bundle>,
}

/// Roots of one moment.
pub struct Bundle {
    /// As given, without doubles.
    pub certificates: Vec<CertificateDer<'static>>,
    pub(super) roots: Arc<RootCertStore>,
    /// None while there is no root: then nobody is believed.
    pub(super) clients: Option<Arc<dyn ClientCertVerifier>>,
}

/// A root that can't be one.
#[derive(Debug, thiserror::Error)]
#[error("a root certificate can't be used")]
pub struct BadRoot(#[source] Option<rustls::Error>);

impl Trust {
    /// Believes nobody yet.
    pub fn new(domain: &str, aliases: &[String]) -> Self {
        Self { domain: domain.to_owned(), aliases: aliases.to_vec(), bundle: ArcSwap::default() }
    }

    /// The own trust domain.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// Trust domains that count as the own one.
    pub fn aliases(&self) -> &[String] {
        &self.aliases
    }

    /// True for the own trust domain and its aliases.
    pub fn covers(&self, domain: &str) -> bool {
        domain == self.domain || self.aliases.iter().any(|alias| alias == domain)
    }

    /// True if both name the same workload: the domain and its aliases are one.
    pub fn same(&self, one: &SpiffeId, other: &SpiffeId) -> bool {
        self.covers(one.trust_domain()) && self.covers(other.trust_domain()) && one.path() == other.path()
    }

    /// Roots as of now.
    pub fn bundle(&self) -> Arc<Bundle> {
        self.bundle.load_full()
    }

    /// Believes these roots from now on and no others. Returns whether that is a change.
    ///
    /// # Errors
    /// One of them is no certificate; the former stay.
    pub fn set_roots(&self, certificates: &[CertificateDer<'static>]) -> Result<bool, BadRoot> {
        let bundle = Bundle::new(certificates)?;
        if self.bundle.load().certificates == bundle.certificates {
            return Ok(false);
        }
        self.bundle.store(Arc::new(bundle));
        Ok(true)
    }
}

impl Default for Bundle {
    fn default() -> Self {
        Self { certificates: Vec::new(), roots: Arc::new(RootCertStore::empty()), clients: None }
    }
}

impl Bundle {
    /// # Errors
    /// One of them is no certificate.
    pub fn new(certificates: &[CertificateDer<'static>]) -> Result<Self, BadRoot> {
        let mut distinct: Vec<CertificateDer<'static>> = Vec::new();
        let mut roots = RootCertStore::empty();
        for certificate in certificates {
            if !distinct.contains(certificate) {
                roots.add(certificate.clone()).map_err(|error| BadRoot(Some(error)))?;
                distinct.push(certificate.clone());
            }
        }
        let roots = Arc::new(roots);
        let clients = match roots.is_empty() {
            true => None,
            false => {
                let builder = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider());
                Some(builder.build().map_err(|_| BadRoot(None))?)
            }
        };
        Ok(Self { certificates: distinct, roots, clients })
    }
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trust")
            .field("domain", &self.domain)
            .field("aliases", &self.aliases)
            .finish_non_exhaustive()
    }
}
