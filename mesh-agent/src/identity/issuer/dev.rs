//! The issuer `dev`: a root that the agents of one machine share, for trying out.
//!
//! The first agent makes it, under a lock; its key lies in a directory that only root may enter. Whoever gets at that key
//! can be any workload, which is why nothing but a demonstration should run on it.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use nix::fcntl::{Flock, FlockArg};
use x509_cert::der::pem::{self, LineEnding};
use zeroize::Zeroizing;

use super::files::Files;
use crate::identity::authority::{Authority, AuthorityError, Life};
use crate::identity::key::{Key, NoKey};
use crate::identity::x509;
use crate::tls::files as read;

/// Where agents look for it, whatever their state directories are.
pub const DEV_DIR: &str = "/run/mesh-agent/dev-ca";
const CERTIFICATE: &str = "ca.crt";
const KEY: &str = "ca.key";
/// Life of a root unless something else is asked for: ten years.
pub const ROOT_LIFE: Duration = Duration::from_secs(10 * 365 * 86400);

/// Why there is no development root.
#[derive(Debug, thiserror::Error)]
pub enum DevError {
    /// Directory or file.
    #[error("{} can't be made or read", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others could put their own root there.
    #[error("{} belongs to somebody else or can be entered by others (chown it to this user and chmod 0700)", path.display())]
    Shared {
        /// The directory.
        path: PathBuf,
    },
    /// Making it.
    #[error("a root can't be made")]
    Root(#[from] AuthorityError),
}

pub(super) fn files(dir: PathBuf) -> Files {
    Files::named(dir, [CERTIFICATE, KEY, CERTIFICATE])
}

/// Makes the root unless there is one that is valid.
pub(super) fn ensure(dir: &Path, now: SystemTime) -> Result<(), DevError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| DevError::Io { path, source }
    };
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed(dir))?;
    let metadata = fs::metadata(dir).map_err(failed(dir))?;
    if metadata.mode() & 0o077 != 0 || metadata.uid() != nix::unistd::geteuid().as_raw() {
        return Err(DevError::Shared { path: dir.to_owned() });
    }
    let lock = dir.join("lock");
    let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&lock);
    let file = file.map_err(failed(&lock))?;
    let _locked =
        Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| failed(&lock)(error.into()))?;
    let certificate = dir.join(CERTIFICATE);
    if is_valid(&certificate, now) && dir.join(KEY).is_file() {
        return Ok(());
    }
    let Root { certificate: root, key } = root("CN=mesh-agent development root", ROOT_LIFE, now)?;
    // The certificate comes last: whoever sees it finds its key.
    write(&dir.join(KEY), key.as_bytes()).map_err(failed(&dir.join(KEY)))?;
    write(&certificate, root.as_bytes()).map_err(failed(&certificate))?;
    tracing::info!(path = %certificate.display(), "a development root was made");
    Ok(())
}

fn is_valid(certificate: &Path, now: SystemTime) -> bool {
    let found = read::certificates(certificate).ok().and_then(|all| x509::facts(all.first()?).ok());
    found.is_some_and(|facts| facts.not_after > now)
}

/// A root of our own making, as PEM.
pub struct Root {
    /// Signed by itself.
    pub certificate: String,
    /// Its key, to be kept where nobody else reads it.
    pub key: Zeroizing<String>,
}

/// Makes one. A root's key alone of all keys is written anywhere, since several processes share it.
///
/// # Errors
/// No key, or it can't sign.
pub fn root(subject: &str, lives: Duration, now: SystemTime) -> Result<Root, AuthorityError> {
    let (key, document) = Key::for_a_file()?;
    let life = Life { not_before: now - super::BACKDATE, not_after: now + lives };
    let (_, root) = Authority::self_signed(subject, &key, life)?;
    let encode = |label, bytes: &[u8]| pem::encode_string(label, LineEnding::LF, bytes);
    let encoding = |_| AuthorityError::NoKey(NoKey);
    let root = encode("CERTIFICATE", &root).map_err(encoding)?;
    let key = encode("PRIVATE KEY", document.as_ref()).map_err(encoding)?;
    Ok(Root { certificate: root, key: Zeroizing::new(key) })
}

/// Whole or not at all.
fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let beside = path.with_extension("new");
    let _ = fs::remove_file(&beside);
    let mut file: File = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&beside, path)
}
