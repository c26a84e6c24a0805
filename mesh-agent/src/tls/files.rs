//! Certificates and keys from PEM files, and whether a file is still the one that was read.
//!
//! Called from the thread that follows the configuration, never on a connection's way.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustls::RootCertStore;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

/// More than any bundle of authorities; a larger file isn't one.
const LARGEST: u64 = 8 * 1024 * 1024;

/// Where distributions keep the bundle of their certificate authorities; the first that is there counts (Istio's
/// pilot-agent, `security.SystemRootCerts`; Go, crypto/x509 root_linux.go).
const BUNDLES: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/cacert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Why a file is of no use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    #[error("{} can't be read", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("{} is larger than {} MiB", path.display(), LARGEST >> 20)]
    TooLarge { path: PathBuf },
    #[error("{} isn't PEM", path.display())]
    NotPem { path: PathBuf, source: pem::Error },
    #[error("{} has no certificate", path.display())]
    NoCertificate { path: PathBuf },
    #[error("{} has no private key", path.display())]
    NoKey { path: PathBuf },
    #[error("{} has a certificate that can't be an authority's", path.display())]
    BadAuthority { path: PathBuf, source: rustls::Error },
}

/// The operating system's bundle: `SSL_CERT_FILE`, else the usual places.
pub(crate) fn system_roots() -> Option<PathBuf> {
    let named = std::env::var_os("SSL_CERT_FILE").filter(|path| !path.is_empty()).map(PathBuf::from);
    named.or_else(|| BUNDLES.iter().map(PathBuf::from).find(|path| path.is_file()))
}

/// Authorities. In a bundle of the system's, what can't be read is passed over: it is none of the rule's doing.
pub(crate) fn roots(path: &Path, lenient: bool) -> Result<RootCertStore, FileError> {
    roots_in(path, &read(path)?, lenient)
}

/// [`roots`] of what was read already, at `path`.
pub(crate) fn roots_in(path: &Path, bytes: &[u8], lenient: bool) -> Result<RootCertStore, FileError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates_in(path, bytes)? {
        match roots.add(certificate) {
            Ok(()) => {}
            Err(_) if lenient => {}
            Err(source) => return Err(FileError::BadAuthority { path: path.to_owned(), source }),
        }
    }
    if roots.is_empty() { Err(FileError::NoCertificate { path: path.to_owned() }) } else { Ok(roots) }
}

/// A chain, at least one certificate long.
pub(crate) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, FileError> {
    certificates_in(path, &read(path)?)
}

/// [`certificates`] of what was read already, at `path`.
pub(crate) fn certificates_in(path: &Path, bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, FileError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(bytes).collect();
    let found = found.map_err(|source| FileError::NotPem { path: path.to_owned(), source })?;
    if found.is_empty() { Err(FileError::NoCertificate { path: path.to_owned() }) } else { Ok(found) }
}

/// The first private key.
pub(crate) fn key(path: &Path) -> Result<PrivateKeyDer<'static>, FileError> {
    key_in(path, &Zeroizing::new(read(path)?))
}

/// [`key`] of what was read already, at `path`.
pub(crate) fn key_in(path: &Path, bytes: &[u8]) -> Result<PrivateKeyDer<'static>, FileError> {
    PrivateKeyDer::from_pem_slice(bytes).map_err(|source| match source {
        pem::Error::NoItemsFound => FileError::NoKey { path: path.to_owned() },
        source => FileError::NotPem { path: path.to_owned(), source },
    })
}

fn read(path: &Path) -> Result<Vec<u8>, FileError> {
    let unreadable = |source| FileError::Unreadable { path: path.to_owned(), source };
    let metadata = fs::metadata(path).map_err(unreadable)?;
    // A pipe or a device would be read for ever.
    if !metadata.is_file() {
        return Err(unreadable(io::Error::other("not a regular file")));
    }
    if metadata.len() > LARGEST {
        return Err(FileError::TooLarge { path: path.to_owned() });
    }
    fs::read(path).map_err(unreadable)
}

/// What changes with a file's content, through symbolic links as a mounted Secret has them. None: it isn't there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp(Option<(u64, u64, i64, i64, u64)>);

impl Stamp {
    pub(crate) fn of(path: &Path) -> Self {
        let metadata = fs::metadata(path).ok();
        Self(metadata.map(|m| (m.dev(), m.ino(), m.mtime(), m.mtime_nsec(), m.len())))
    }
}
