//! The issuer `files:DIR`: an authority's chain and key from files, in the layout of cert-manager's Secrets.
//!
//! `tls.crt` is the signing certificate with what is above it, `tls.key` its key, `ca.crt` the roots. They are read again
//! when they change, by whatever means; files that don't fit leave the former ones in force, and the reason is told.
//! `dev` is this with other names; a Secret that somebody else reads is this without files.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

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
    /// In place of the files' content, where somebody else reads it.
    given: Option<Mutex<(u64, Arc<Given>)>>,
    loaded: Mutex<Loaded>,
}

/// What the files would have.
#[derive(Clone, PartialEq, Eq)]
pub struct Given {
    /// `tls.crt`.
    pub chain: Zeroizing<Vec<u8>>,
    /// `tls.key`.
    pub key: Zeroizing<Vec<u8>>,
    /// `ca.crt`.
    pub roots: Zeroizing<Vec<u8>>,
}

impl std::fmt::Debug for Given {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Given").finish_non_exhaustive()
    }
}

/// Tells what was read from what is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    Files([Stamp; 3]),
    Given(u64),
}

#[derive(Debug, Default)]
struct Loaded {
    version: Option<Version>,
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
        Self { dir, paths, given: None, loaded: Mutex::default() }
    }

    /// What somebody else reads, and hands on with [`Self::give`]; `name` is for messages.
    pub fn given(name: &str, given: Given) -> Self {
        Self { given: Some(Mutex::new((0, Arc::new(given)))), ..Self::secret(PathBuf::from(name)) }
    }

    /// Puts what was read again in the place of what was given before.
    pub fn give(&self, new: Given) {
        let Some(given) = &self.given else { return };
        let mut given = given.lock().unwrap_or_else(PoisonError::into_inner);
        if *given.1 != new {
            *given = (given.0 + 1, Arc::new(new));
        }
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
        let (version, given) = match &self.given {
            None => (Version::Files([0, 1, 2].map(|at| Stamp::of(&self.paths[at]))), None),
            Some(given) => {
                let given = given.lock().unwrap_or_else(PoisonError::into_inner);
                (Version::Given(given.0), Some(given.1.clone()))
            }
        };
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if loaded.version == Some(version) {
            return News { problem: loaded.problem.clone(), ..News::default() };
        }
        loaded.version = Some(version);
        match self.load(given.as_deref(), now) {
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

    fn read(&self, given: Option<&Given>) -> Result<(Chain, PrivateKeyDer<'static>, Chain), FileError> {
        let [chain, key, roots] = &self.paths;
        Ok(match given {
            None => (pem::certificates(chain)?, pem::key(key)?, pem::certificates(roots)?),
            Some(given) => (
                pem::certificates_in(chain, &given.chain)?,
                pem::key_in(key, &given.key)?,
                pem::certificates_in(roots, &given.roots)?,
            ),
        })
    }

    fn load(&self, given: Option<&Given>, now: SystemTime) -> Result<Read, LoadError> {
        let [chain_path, key_path, roots_path] = &self.paths;
        let (chain, key, roots) = self.read(given)?;
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

type Chain = Vec<CertificateDer<'static>>;
type Read = (Authority, Chain, Chain);
