//! Who signs certificates, behind one interface: each issuer is asked for one identity at a time, and says which roots count.
//!
//! `run` asks, with a deadline, from a thread of its own; nothing here is on a connection's way. An issuer that can't be
//! reached takes nothing from anybody: what was issued goes on serving.

mod dev;
mod files;
mod istio;
mod spiffe;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::pki_types::CertificateDer;
use rustls::sign::SigningKey;

use super::authority::{Authority, AuthorityError, Life};
use super::id::SpiffeId;
use super::key::{Key, NoKey};
use super::trust::Trust;
use super::x509::{self, San};

pub use dev::{DEV_DIR, DevError, ROOT_LIFE, Root, root};
pub use files::{Files, Given};
pub use istio::Options as IstioOptions;

/// Certificates begin this long before they are issued, for peers whose clocks are behind.
pub const BACKDATE: Duration = Duration::from_secs(60);

/// Whoever signs.
#[derive(Debug)]
pub enum Issuer {
    /// A root in a directory of this machine, for trying out.
    Dev(files::Files),
    /// A certificate authority's chain and key in files.
    Files(files::Files),
    /// Istio's CSR protocol.
    Istio(istio::Istio),
    /// The SPIFFE Workload API.
    Spiffe(spiffe::Spiffe),
    /// Does what a test says.
    #[cfg(test)]
    Scripted(super::testing::Scripted),
}

/// What an issuer gave.
pub struct Issued {
    /// The certificate, and what is between it and the root.
    pub chain: Vec<CertificateDer<'static>>,
    /// Its key.
    pub key: Arc<dyn SigningKey>,
    /// Roots that came with it: trusted while what came with them is valid.
    pub roots: Vec<CertificateDer<'static>>,
}

/// Why an issuer gave nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IssueError {
    /// It can't be reached, is too slow, or can't sign now.
    #[error("{0}")]
    Unavailable(String),
    /// It won't sign for this identity.
    #[error("{0}")]
    Refused(String),
    /// What it gave can't be used.
    #[error("{0}")]
    Invalid(String),
}

/// What an issuer knows about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct News {
    /// The roots that count from now on. None: the same as before.
    pub roots: Option<Vec<CertificateDer<'static>>>,
    /// Certificates should be requested anew within this time, since others are to be had now.
    pub reissue: Option<Duration>,
    /// What is wrong with it, and needs somebody's hand.
    pub problem: Option<String>,
}

impl Issuer {
    /// The development root of this machine, made if there is none.
    ///
    /// # Errors
    /// It can't be made or read.
    pub fn dev(dir: PathBuf) -> Result<Self, DevError> {
        dev::ensure(&dir, SystemTime::now())?;
        Ok(Self::Dev(dev::files(dir)))
    }

    /// An authority's files in cert-manager's layout.
    pub fn files(dir: PathBuf) -> Self {
        Self::Files(files::Files::secret(dir))
    }

    /// A server of Istio's CSR protocol.
    pub fn istio(options: IstioOptions) -> Self {
        Self::Istio(istio::Istio::new(options))
    }

    /// The SPIFFE Workload API on this socket.
    pub fn spiffe(socket: PathBuf) -> Self {
        Self::Spiffe(spiffe::Spiffe::new(socket))
    }

    /// Looks whether anything changed. Called before the first request and every few seconds.
    pub fn refresh(&self, now: SystemTime) -> News {
        match self {
            Self::Dev(files) | Self::Files(files) => files.refresh(now),
            Self::Istio(istio) => istio.refresh(),
            Self::Spiffe(spiffe) => spiffe.refresh(),
            #[cfg(test)]
            Self::Scripted(script) => script.refresh(),
        }
    }

    /// Does what has to be done all the time, for ever.
    pub async fn follow(&self, trust: &Trust) {
        match self {
            Self::Spiffe(spiffe) => spiffe.follow(|id| trust.covers(id.trust_domain())).await,
            _ => std::future::pending().await,
        }
    }

    /// Returns when [`Self::refresh`] has something to say.
    pub async fn changed(&self) {
        match self {
            Self::Spiffe(spiffe) => spiffe.changed().await,
            _ => std::future::pending().await,
        }
    }

    /// A certificate for `id`, with a key that is made for it.
    ///
    /// # Errors
    /// [`IssueError`].
    pub async fn issue(
        &self,
        id: &SpiffeId,
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<Issued, IssueError> {
        match self {
            Self::Dev(files) | Self::Files(files) => files.issue(id, lifetime, now),
            Self::Istio(istio) => istio.issue(id, lifetime).await,
            Self::Spiffe(spiffe) => spiffe.issue(id, now),
            #[cfg(test)]
            Self::Scripted(script) => script.issue(id, lifetime, now).await,
        }
    }
}

impl fmt::Display for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dev(_) => f.write_str("dev"),
            Self::Files(files) => write!(f, "files:{}", files.dir().display()),
            Self::Istio(istio) => write!(f, "istio:https://{}", istio.authority()),
            Self::Spiffe(spiffe) => write!(f, "spiffe:{}", spiffe.socket().display()),
            #[cfg(test)]
            Self::Scripted(_) => f.write_str("scripted"),
        }
    }
}

impl fmt::Debug for Issued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issued").field("certificates", &self.chain.len()).finish_non_exhaustive()
    }
}

impl IssueError {
    /// For a metric's label.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Unavailable(_) => "unavailable",
            Self::Refused(_) => "refused",
            Self::Invalid(_) => "invalid",
        }
    }
}

impl From<NoKey> for IssueError {
    fn from(error: NoKey) -> Self {
        Self::Unavailable(error.to_string())
    }
}

impl From<AuthorityError> for IssueError {
    fn from(error: AuthorityError) -> Self {
        Self::Unavailable(crate::report::chain(&error).to_string())
    }
}

/// Signs for `id` with an authority that this process has.
fn sign(
    authority: &Authority,
    id: &SpiffeId,
    lifetime: Duration,
    now: SystemTime,
) -> Result<(Vec<CertificateDer<'static>>, Key), IssueError> {
    let key = Key::generate()?;
    let public = x509::spki(&key).map_err(AuthorityError::from)?;
    let life = Life { not_before: now - BACKDATE, not_after: now + lifetime };
    Ok((authority.sign(&public, &[San::Uri(id.as_str())], life)?, key))
}
