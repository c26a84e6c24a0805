//! What a rule asks of TLS to a host: pure data, compared and hashed, so that equal wishes share one [`super::Origination`].
//!
//! Made by `policy` from a DestinationRule, or by `model::build` from a BackendTLSPolicy; `originate` makes a configuration of it. No file is read here.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::pki_types::ServerName;

use crate::objects::ObjectKey;

/// TLS to one host, as one rule wants it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Spec {
    /// Who asks for it, for log and warnings.
    pub by: By,
    /// Name for SNI, and the one that the certificate must have where `names` is empty.
    pub server_name: ServerName<'static>,
    /// Names of which the certificate must have one.
    pub names: Vec<String>,
    /// Who may have signed it.
    pub trust: Trust,
    /// The client's own certificate.
    pub identity: Option<Identity>,
}

/// Who asks for a TLS connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum By {
    /// A DestinationRule or a BackendTLSPolicy.
    Object(ObjectKey),
    /// The agent, for itself.
    Agent(&'static str),
}

impl fmt::Display for By {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Object(key) => key.fmt(f),
            Self::Agent(what) => f.write_str(what),
        }
    }
}

/// Whose signatures count.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Trust {
    /// The operating system's certificate authorities.
    System,
    /// Those of this file.
    File(PathBuf),
    /// These, in PEM.
    Given(Arc<str>),
    /// Anybody's: `insecureSkipVerify`.
    Anybody,
}

/// A certificate chain and its key, as PEM files.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// Chain, the own certificate first.
    pub certificate: PathBuf,
    /// Key: PKCS #8, PKCS #1 or SEC1.
    pub key: PathBuf,
}

impl Spec {
    /// Files that it is made of, each with the field of `tls` that names it.
    pub(super) fn files(&self) -> Vec<(&'static str, PathBuf)> {
        let mut files = Vec::new();
        match &self.trust {
            Trust::File(path) => files.push(("caCertificates", path.clone())),
            Trust::System => files.extend(super::files::system_roots().map(|path| ("caCertificates", path))),
            Trust::Given(_) | Trust::Anybody => {}
        }
        if let Some(identity) = &self.identity {
            files.push(("clientCertificate", identity.certificate.clone()));
            files.push(("privateKey", identity.key.clone()));
        }
        files
    }
}
