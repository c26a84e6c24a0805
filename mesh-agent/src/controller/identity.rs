//! The certificate that the controller shows to agents: from files, or signed by its own authority.
//!
//! Files are read again when they change; one of its own is made anew at half of its life. Connections that are open keep
//! what they have.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use rustls::server::NoServerSessionStorage;
use rustls::sign::{CertifiedKey, SigningKey, SingleCertAndKey};

use crate::identity::authority::{AuthorityError, Life};
use crate::identity::issuer::{BACKDATE, Files, IssueError};
use crate::identity::x509::{self, San};
use crate::identity::{Key, NoKey};
use crate::tls::{self, files};

/// A certificate of its own lives this long, or as long as its authority.
pub const LIFE: Duration = Duration::from_secs(24 * 3600);

/// Where the certificate comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tls {
    /// Chain and key.
    Files {
        /// PEM.
        certificate: PathBuf,
        /// PEM.
        key: PathBuf,
    },
    /// The own authority, for these names.
    Own(Vec<String>),
}

/// The configuration that agents are served with.
#[derive(Debug)]
pub struct ServerIdentity {
    tls: Tls,
    config: ArcSwapOption<ServerConfig>,
    /// What it was made of.
    made: Mutex<Option<Made>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Made {
    Files(files::Stamp, files::Stamp),
    Until(SystemTime),
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file.
    #[error(transparent)]
    File(#[from] files::FileError),
    /// The key doesn't fit.
    #[error("the certificate and the key aren't a pair, or of a kind that isn't supported")]
    Pair(#[from] rustls::Error),
    /// It can't be signed.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// There is no authority.
    #[error(transparent)]
    Issue(#[from] IssueError),
    /// No key.
    #[error(transparent)]
    Key(#[from] NoKey),
}

type Pair = (Vec<CertificateDer<'static>>, Arc<dyn SigningKey>);

impl ServerIdentity {
    /// Nothing is read yet.
    pub fn new(tls: Tls) -> Self {
        Self { tls, config: ArcSwapOption::empty(), made: Mutex::default() }
    }

    /// For the next connection.
    pub fn config(&self) -> Option<Arc<ServerConfig>> {
        self.config.load_full()
    }

    /// Reads files again that changed, makes a certificate anew whose half is over.
    ///
    /// # Errors
    /// It can't; the former stays.
    pub fn refresh(&self, authority: &Files, now: SystemTime) -> Result<(), TlsError> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let next = match (&self.tls, &*made) {
            (Tls::Own(_), Some(Made::Until(half))) if now < *half => return Ok(()),
            (Tls::Own(_), _) => Made::Until(now),
            (Tls::Files { certificate, key }, _) => {
                Made::Files(files::Stamp::of(certificate), files::Stamp::of(key))
            }
        };
        if matches!(self.tls, Tls::Files { .. }) && *made == Some(next.clone()) {
            return Ok(());
        }
        let (chain, key) = match &self.tls {
            Tls::Files { certificate, key } => from_files(certificate, key)?,
            Tls::Own(names) => own(authority, names, now)?,
        };
        let ends = chain.first().and_then(|own| x509::facts(own).ok()).map(|facts| facts.not_after);
        let half = now + ends.and_then(|ends| ends.duration_since(now).ok()).unwrap_or(LIFE) / 2;
        self.config.store(Some(Arc::new(config(chain, key)?)));
        *made = Some(match next {
            Made::Until(_) => Made::Until(half),
            files => files,
        });
        Ok(())
    }
}

fn from_files(certificate: &std::path::Path, key: &std::path::Path) -> Result<Pair, TlsError> {
    let chain = files::certificates(certificate)?;
    let key = tls::provider().key_provider.load_private_key(files::key(key)?)?;
    Ok((chain, key))
}

fn own(authority: &Files, names: &[String], now: SystemTime) -> Result<Pair, TlsError> {
    let key = Key::generate()?;
    let names: Vec<_> = names.iter().map(|name| named(name)).collect();
    let life = Life { not_before: now - BACKDATE, not_after: now + LIFE };
    let public = x509::spki(&key).map_err(AuthorityError::from)?;
    let chain = authority.authority()?.sign(&public, &names, life)?;
    Ok((chain, Arc::new(key)))
}

fn named(name: &str) -> San<'_> {
    name.parse::<IpAddr>().map_or(San::Dns(name), San::Ip)
}

fn config(
    chain: Vec<CertificateDer<'static>>,
    key: Arc<dyn SigningKey>,
) -> Result<ServerConfig, rustls::Error> {
    let certified = CertifiedKey::new(chain, key);
    match certified.keys_match() {
        // The key can't be asked: as before.
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {}
        Err(error) => return Err(error),
    }
    let mut config = ServerConfig::builder_with_provider(tls::provider())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}
