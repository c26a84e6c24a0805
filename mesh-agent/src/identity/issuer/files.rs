//! The issuer `files:DIR`: an authority's chain and key from files, in the layout of cert-manager's Secrets.
//!
//! `tls.crt` is the signing certificate with what is above it, `tls.key` its key, `ca.crt` the roots. They are read again
//! when they change, by whatever means; files that don't fit leave the former ones in force, and the reason is told.
//! `dev` is this with other names.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use rustls::pki_types::CertificateDer;

use super::{IssueError, Issued, News, sign};
use crate::identity::authority::{Authority, AuthorityError};
use crate::identity::id::SpiffeId;
use crate::identity::trust::{BadRoot, Bundle};
use crate::identity::verify::signed_under;
use crate::report;
use crate::tls::files::{self as pem, FileError, Stamp};

/// When another key signs, certificates are requested anew within this.
const REISSUE_WITHIN: Duration = Duration::from_secs(10);

/// An authority in files.
#[derive(Debug)]
pub struct Files {
    dir: PathBuf,
    /// Chain, key, roots.
    paths: [PathBuf; 3],
    loaded: Mutex<Loaded>,
}

#[derive(Debug, Default)]
struct Loaded {
    stamps: Option<[Stamp; 3]>,
    authority: Option<Arc<Authority>>,
    chain: Vec<CertificateDer<'static>>,
    problem: Option<String>,
}

/// Why files can't sign.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// Chain and key.
    #[error("{} with {} can't sign", chain.display(), key.display())]
    Authority {
        /// Chain.
        chain: PathBuf,
        /// Key.
        key: PathBuf,
        /// Why.
        source: AuthorityError,
    },
    /// Roots.
    #[error("{} has a root that can't be used", path.display())]
    Root {
        /// Roots.
        path: PathBuf,
        /// Why.
        source: BadRoot,
    },
    /// What it would sign is worth nothing.
    #[error("what {} signs isn't trusted under the roots of {}", chain.display(), roots.display())]
    Untrusted {
        /// Chain.
        chain: PathBuf,
        /// Roots.
        roots: PathBuf,
        /// Why.
        source: rustls::Error,
    },
    /// Signing failed.
    #[error("{0}")]
    Sign(IssueError),
}

impl Files {
    /// As cert-manager names them.
    pub fn secret(dir: PathBuf) -> Self {
        Self::named(dir, ["tls.crt", "tls.key", "ca.crt"])
    }

    pub(super) fn named(dir: PathBuf, names: [&str; 3]) -> Self {
        let paths = names.map(|name| dir.join(name));
        Self { dir, paths, loaded: Mutex::default() }
    }

    /// Where they are.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The authority as it is in force.
    ///
    /// # Errors
    /// Nothing could be read yet.
    pub fn authority(&self) -> Result<Arc<Authority>, IssueError> {
        let loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let why = || loaded.problem.clone().unwrap_or_else(|| "its files weren't read yet".to_owned());
        loaded.authority.clone().ok_or_else(|| IssueError::Unavailable(why()))
    }

    pub(super) fn issue(
        &self,
        id: &SpiffeId,
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<Issued, IssueError> {
        let (chain, key) = sign(&*self.authority()?, id, lifetime, now)?;
        Ok(Issued { chain, key: Arc::new(key), roots: Vec::new() })
    }

    /// Reads them again if they changed.
    pub fn refresh(&self, now: SystemTime) -> News {
        // Before they are read: what changes meanwhile is read the next time.
        let stamps = [0, 1, 2].map(|at| Stamp::of(&self.paths[at]));
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if loaded.stamps == Some(stamps) {
            return News { problem: loaded.problem.clone(), ..News::default() };
        }
        loaded.stamps = Some(stamps);
        match self.load(now) {
            Ok((authority, chain, roots)) => {
                let another = loaded.authority.is_some() && loaded.chain != chain;
                *loaded = Loaded { authority: Some(Arc::new(authority)), chain, problem: None, ..*loaded };
                News { roots: Some(roots), reissue: another.then_some(REISSUE_WITHIN), problem: None }
            }
            Err(error) => {
                loaded.problem = Some(report::chain(&error).to_string());
                News { problem: loaded.problem.clone(), ..News::default() }
            }
        }
    }

    fn load(&self, now: SystemTime) -> Result<Read, LoadError> {
        let [chain_path, key_path, roots_path] = &self.paths;
        let chain = pem::certificates(chain_path)?;
        let key = pem::key(key_path)?;
        let roots = pem::certificates(roots_path)?;
        let failed =
            |source| LoadError::Authority { chain: chain_path.clone(), key: key_path.clone(), source };
        let authority = Authority::new(chain.clone(), &key).map_err(failed)?;
        let bundle =
            Bundle::new(&roots).map_err(|source| LoadError::Root { path: roots_path.clone(), source })?;
        // A certificate for nobody shows whether what is signed here is trusted: a chain that lacks a link, a root that is
        // another's, names that the authority may not sign for would else be found out by every peer.
        let nobody = SpiffeId::new("check", "check", "check");
        let (probe, _) = sign(&authority, &nobody, Duration::from_secs(60), now).map_err(LoadError::Sign)?;
        match signed_under(&bundle, &probe, now) {
            Ok(()) => Ok((authority, chain, roots)),
            Err(source) => {
                Err(LoadError::Untrusted { chain: chain_path.clone(), roots: roots_path.clone(), source })
            }
        }
    }
}

type Read = (Authority, Vec<CertificateDer<'static>>, Vec<CertificateDer<'static>>);
