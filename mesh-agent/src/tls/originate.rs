//! A rule's TLS, ready for connections: its configuration with the sessions to resume, and the handshake.
//!
//! Belongs to the compiled policy of a service port; `proxy::upstream` shakes hands with it on a connected socket. `store`
//! loads it before the policy is in force, and again when a file changes: connections made from then on use the new files,
//! those that are open go on.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use rustls::ClientConfig;
use rustls::client::ClientConnection;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use tokio::net::TcpStream;

use super::files::{self, FileError, Stamp};
use super::spec::{Spec, Trust};
use super::stream::{TlsError, TlsStream};
use super::{provider, verify};
use crate::addr::EndpointAddr;
use crate::clock;
use crate::report;

/// A rule whose connections fail says so at most this often.
const SAY_AGAIN: Duration = Duration::from_secs(10);

/// What is offered by ALPN (RFC 7301).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alpn {
    /// Nothing: bytes that nobody looks into, or nobody has looked at yet.
    None,
    /// `http/1.1`.
    Http1,
    /// `h2`.
    Http2,
}

/// One rule's TLS to one host.
pub struct Origination {
    spec: Spec,
    config: ArcSwapOption<ClientConfig>,
    loaded: Mutex<Loaded>,
    /// Nanoseconds of the process's clock at which a failure was last told.
    told_at: AtomicU64,
}

#[derive(Debug, Default)]
struct Loaded {
    stamps: Vec<(PathBuf, Stamp)>,
    problem: Option<Problem>,
}

/// Why files aren't in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    /// Below `tls`.
    pub(super) field: &'static str,
    /// With its causes.
    pub(super) message: String,
    /// What was read before still is.
    pub(super) former: bool,
}

#[derive(Debug, thiserror::Error)]
enum LoadError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("there is no bundle of certificate authorities on this node")]
    NoSystemRoots,
    #[error("the certificate and the key aren't a pair, or of a kind that isn't supported")]
    Identity(#[source] rustls::Error),
    #[error("no verifier can be made of the authorities")]
    Verifier(#[source] rustls::client::VerifierBuilderError),
    #[error("no TLS version is supported")]
    Versions(#[source] rustls::Error),
}

impl Alpn {
    fn protocols(self) -> Vec<Vec<u8>> {
        match self {
            Self::None => Vec::new(),
            Self::Http1 => vec![b"http/1.1".to_vec()],
            Self::Http2 => vec![b"h2".to_vec()],
        }
    }
}

impl Origination {
    pub(super) fn new(spec: Spec) -> Self {
        let told_at = AtomicU64::new(0);
        Self { spec, config: ArcSwapOption::empty(), loaded: Mutex::default(), told_at }
    }

    /// What was asked for.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// False while the files that it needs were never readable: nothing can be sent then.
    pub fn is_ready(&self) -> bool {
        self.config.load().is_some()
    }

    /// Shakes hands on a connected socket. Not bounded in time.
    ///
    /// # Errors
    /// [`TlsError`]; the socket is closed then.
    pub async fn shake_hands(&self, tcp: TcpStream, alpn: Alpn) -> Result<TlsStream, TlsError> {
        let config = self.config.load_full().ok_or_else(|| {
            TlsError::Handshake(rustls::Error::General("certificates or key can't be read".to_owned()))
        })?;
        let name = self.spec.server_name.clone();
        let session = ClientConnection::new_with_alpn(config, name, alpn.protocols());
        TlsStream::client(tcp, session.map_err(TlsError::Handshake)?).await
    }

    /// Logs a failure, naming the rule, unless that was done a moment ago.
    pub fn tell(&self, endpoint: EndpointAddr, error: &TlsError) {
        let (now, told) = (clock::now_ns().max(1), self.told_at.load(Relaxed));
        let again = told == 0 || now.saturating_sub(told) >= SAY_AGAIN.as_nanos() as u64;
        if again && self.told_at.compare_exchange(told, now, Relaxed, Relaxed).is_ok() {
            tracing::warn!(
                rule = %self.spec.by,
                server_name = %self.spec.server_name.to_str(),
                %endpoint,
                error = %report::chain(error),
                "no TLS connection as the rule asks for it"
            );
        }
    }

    /// Reads files that changed since the last call. What can't be used leaves the former ones in force.
    pub(super) fn refresh(&self) {
        let stamps: Vec<_> =
            self.spec.files().into_iter().map(|(_, path)| (path.clone(), Stamp::of(&path))).collect();
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if loaded.stamps == stamps && (self.is_ready() || loaded.problem.is_some()) {
            return;
        }
        let reloads = self.is_ready();
        loaded.problem = match self.load() {
            Ok(config) => {
                self.config.store(Some(Arc::new(config)));
                if reloads {
                    tracing::info!(rule = %self.spec.by, "certificates changed and are in force for new connections");
                }
                None
            }
            Err((field, error)) => {
                let message = report::chain(&error).to_string();
                Some(Problem { field, message, former: reloads })
            }
        };
        loaded.stamps = stamps;
    }

    pub(super) fn problem(&self) -> Option<Problem> {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner).problem.clone()
    }

    fn load(&self) -> Result<ClientConfig, (&'static str, LoadError)> {
        let verifier = self.verifier().map_err(|error| ("caCertificates", error))?;
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| ("mode", LoadError::Versions(error)))?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let Some(identity) = &self.spec.identity else { return Ok(config.with_no_client_auth()) };
        let chain = files::certificates(&identity.certificate);
        let chain = chain.map_err(|error| ("clientCertificate", error.into()))?;
        let key = files::key(&identity.key).map_err(|error| ("privateKey", error.into()))?;
        config
            .with_client_auth_cert(chain, key)
            .map_err(|error| ("clientCertificate", LoadError::Identity(error)))
    }

    fn verifier(&self) -> Result<Arc<dyn ServerCertVerifier>, LoadError> {
        let provider = provider();
        let algorithms = provider.signature_verification_algorithms;
        let roots = match &self.spec.trust {
            Trust::Anybody => return Ok(Arc::new(verify::Anybody { algorithms })),
            Trust::File(path) => files::roots(path, false)?,
            Trust::System => files::roots(&files::system_roots().ok_or(LoadError::NoSystemRoots)?, true)?,
            Trust::Given(pem) => files::roots_in(Path::new("ca.crt"), pem.as_bytes(), false)?,
        };
        let roots = Arc::new(roots);
        if !self.spec.names.is_empty() {
            let names = self.spec.names.clone();
            return Ok(Arc::new(verify::OneOf { roots, names, algorithms }));
        }
        let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider).build();
        Ok(verifier.map_err(LoadError::Verifier)?)
    }
}

impl PartialEq for Origination {
    fn eq(&self, other: &Self) -> bool {
        self.spec == other.spec
    }
}

impl fmt::Debug for Origination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Origination").field("spec", &self.spec).finish_non_exhaustive()
    }
}
