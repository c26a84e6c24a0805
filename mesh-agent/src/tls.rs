//! TLS of the agent's own: connections wrapped on their way to an endpoint, by rustls with aws-lc-rs.
//!
//! `spec` is what a rule asks for, `store` keeps each of them ready for use, `files` reads certificates and keys, `verify`
//! judges the peer's certificate, `stream` carries bytes once `originate` has shaken hands. Used by `proxy::upstream`, which
//! connects; knows nothing of requests, routes or directions.

pub(crate) mod files;
mod originate;
mod spec;
mod store;
mod stream;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod verify;

pub use originate::{Alpn, Origination};
pub use spec::{By, Identity, Spec, Trust};
pub use store::{FileProblem, Store};
pub use stream::{TlsError, TlsStream};

use std::path::Path;
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};

use crate::report;

/// Whether these are authorities' certificates in PEM, at least one.
///
/// # Errors
/// Says what is wrong with them.
pub fn check_authorities(pem: &str) -> Result<(), String> {
    let roots = files::roots_in(Path::new("it"), pem.as_bytes(), false);
    roots.map(|_| ()).map_err(|error| report::chain(&error).to_string())
}

/// The cryptography that everything here uses. Never installed as the process's default, so that nothing depends on who
/// came first.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: std::sync::OnceLock<Arc<CryptoProvider>> = std::sync::OnceLock::new();
    PROVIDER.get_or_init(|| Arc::new(aws_lc_rs::default_provider())).clone()
}
