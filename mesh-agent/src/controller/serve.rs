//! The controller's socket: TLS, then calls, each judged and answered, logged and counted.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use http::HeaderMap;
use http::header::AUTHORIZATION;
use rustls::pki_types::CertificateDer;
use rustls::server::ServerConnection;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::spawn_local;
use tokio::time::timeout;
use x509_cert::der::pem::{self, LineEnding};

use super::identity::ServerIdentity;
use super::judge::{self, Refusal};
use super::metrics::Metrics;
use super::tokens::Authenticator;
use crate::grpc::{self, Asked, Status};
use crate::identity::authority::Life;
use crate::identity::issuer::{BACKDATE, Files, IssueError};
use crate::identity::proto::{CREATE_CERTIFICATE, CertificateRequest, CertificateResponse};
use crate::identity::x509::San;
use crate::identity::{SpiffeId, peer_of};
use crate::proxy::Stream;
use crate::report;
use crate::source::{Coverage, Published};
use crate::tls::TlsStream;

/// Connections at a time. Each agent has a few for as long as a request takes.
const CONNECTIONS: usize = 1024;
/// For TLS to begin.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// It is said that the authority ends when it is within so many of the longest life of a certificate.
const LIVES_LEFT: u32 = 4;
/// After accept(2) failed.
const BACK_OFF: Duration = Duration::from_millis(100);

/// What it is made of.
pub struct Parts {
    /// Signs.
    pub authority: Rc<Files>,
    /// Shown to agents.
    pub server: ServerIdentity,
    /// Knows nodes.
    pub tokens: Authenticator,
    /// Of every identity.
    pub trust_domain: String,
    /// No certificate lives longer.
    pub lifetime: Duration,
    /// Which pods run where.
    pub published: Published,
    /// Counts.
    pub metrics: Rc<Metrics>,
}

/// The control plane's part that signs.
pub struct Controller {
    pub(super) parts: Parts,
    /// Sent at the end of every chain.
    roots: RefCell<Vec<CertificateDer<'static>>>,
    /// The same as PEM, for the trust bundle.
    bundle: watch::Sender<Rc<str>>,
    connections: Cell<usize>,
    /// It was said that the authority ends soon.
    warned: Cell<bool>,
}

impl Controller {
    /// Signs under these roots.
    pub fn new(parts: Parts, roots: Vec<CertificateDer<'static>>) -> Self {
        let bundle = watch::Sender::new(pem_of(&roots));
        let (roots, connections, warned) = (RefCell::new(roots), Cell::default(), Cell::default());
        let controller = Self { parts, roots, bundle, connections, warned };
        controller.show_expiry();
        controller
    }

    /// Looks at every file.
    pub fn refresh(&self, now: SystemTime) {
        let Parts { authority, server, tokens, metrics, .. } = &self.parts;
        let news = authority.refresh(now);
        if let Some(problem) = &news.problem
            && metrics.problem(problem)
        {
            tracing::error!(problem, "the certificate authority can't be read again, the former is in force");
        }
        if let Some(roots) = news.roots {
            tracing::info!(roots = roots.len(), "the certificate authority changed");
            self.bundle.send_replace(pem_of(&roots));
            self.roots.replace(roots);
            self.show_expiry();
        }
        if let Err(error) = server.refresh(authority, now) {
            let problem = report::chain(&error).to_string();
            if metrics.problem(&problem) {
                tracing::error!(problem, "the controller's own certificate can't be renewed");
            }
        }
        tokens.refresh();
        self.warn_of_the_end(now);
    }

    /// What is signed can't outlive who signed it: certificates get shorter, and agents ask more and more often.
    fn warn_of_the_end(&self, now: SystemTime) {
        let Ok(authority) = self.parts.authority.authority() else { return };
        let left = authority.not_after().duration_since(now).unwrap_or_default();
        let soon = left < self.parts.lifetime * LIVES_LEFT;
        if soon && !self.warned.get() {
            tracing::warn!(
                hours = left.as_secs() / 3600,
                "the certificate that signs expires soon, and all that it signs with it: renew it"
            );
        }
        self.warned.set(soon);
    }

    fn show_expiry(&self) {
        if let Ok(authority) = self.parts.authority.authority() {
            self.parts.metrics.authority_expires(authority.not_after());
        }
        self.parts.metrics.trusts(self.roots.borrow().len());
    }

    /// The roots that agents trust, as PEM; told when they change.
    pub fn bundle(&self) -> watch::Receiver<Rc<str>> {
        self.bundle.subscribe()
    }

    /// True once it can judge: before the pods were read nobody is on any node.
    pub fn is_ready(&self) -> bool {
        self.parts.published.coverage.get() > Coverage::Awaited
    }

    /// Serves for as long as it is polled.
    pub async fn accept(self: Rc<Self>, listener: TcpListener) {
        loop {
            match listener.accept().await {
                Ok((stream, from)) if self.connections.get() < CONNECTIONS => {
                    let controller = self.clone();
                    spawn_local(async move { controller.connection(stream, from).await });
                }
                Ok((_, from)) => tracing::warn!(%from, "too many connections: one is closed"),
                Err(error) => {
                    tracing::warn!(%error, "agents can't be accepted (is the descriptor limit reached?)");
                    tokio::time::sleep(BACK_OFF).await;
                }
            }
        }
    }

    async fn connection(&self, stream: TcpStream, from: SocketAddr) {
        let _place = Place::take(&self.connections);
        let Some(config) = self.parts.server.config() else { return };
        let Ok(session) = ServerConnection::new(config) else { return };
        let stream: Stream = match timeout(HANDSHAKE, TlsStream::server(stream, session)).await {
            Ok(Ok(stream)) => stream.into(),
            Ok(Err(error)) => {
                return tracing::debug!(%from, error = %report::chain(&error), "no TLS with an agent");
            }
            Err(_) => return tracing::debug!(%from, "an agent is too slow to begin TLS"),
        };
        if let Err(error) = grpc::serve(stream, async |asked| self.answer(asked, from).await).await {
            tracing::debug!(%from, %error, "an agent's connection ended");
        }
    }

    async fn answer(&self, asked: Asked, from: SocketAddr) -> Result<CertificateResponse, Status> {
        let mut node = None;
        let answer = self.sign(&asked, &mut node).await;
        let node = node.as_deref().unwrap_or("unknown");
        match answer {
            Ok((id, answer)) => {
                tracing::info!(%id, node, %from, "a certificate was signed");
                self.parts.metrics.request("signed");
                Ok(answer)
            }
            Err(refusal) => {
                tracing::warn!(node, %from, reason = refusal.label(), %refusal, "a certificate was refused");
                self.parts.metrics.request(refusal.label());
                Err(Status::from(&refusal))
            }
        }
    }

    async fn sign(
        &self,
        asked: &Asked,
        node: &mut Option<String>,
    ) -> Result<(SpiffeId, CertificateResponse), Refusal> {
        let token = bearer(&asked.headers).ok_or(Refusal::Unauthenticated)?;
        let bearer = self.parts.tokens.node_of(token).await?;
        let node = node.insert(bearer.ok_or(Refusal::Unauthenticated)?);
        if asked.path != CREATE_CERTIFICATE {
            return Err(Refusal::Method);
        }
        let request = asked.message::<CertificateRequest>();
        let request = request.map_err(|error| Refusal::Request(error.to_string()))?;
        let wanted = judge::read(&request, self.parts.lifetime)?;
        if !self.is_ready() {
            return Err(Refusal::NotReady);
        }
        let snapshot = self.parts.published.snapshot.load();
        judge::allow(&snapshot, &self.parts.trust_domain, node, &wanted.id)?;
        let answer = self.certificate(&wanted).map_err(|error| {
            tracing::error!(%error, "a certificate can't be signed");
            Refusal::Authority
        })?;
        Ok((wanted.id, answer))
    }

    fn certificate(&self, wanted: &judge::Wanted) -> Result<CertificateResponse, IssueError> {
        let now = SystemTime::now();
        let life = Life { not_before: now - BACKDATE, not_after: now + wanted.lifetime };
        let authority = self.parts.authority.authority()?;
        let chain = authority.sign(&wanted.public, &[San::Uri(wanted.id.as_str())], life)?;
        let text = |certificate: &CertificateDer<'_>| {
            pem::encode_string("CERTIFICATE", LineEnding::LF, certificate)
                .map_err(|error| IssueError::Invalid(error.to_string()))
        };
        let all: Result<Vec<_>, _> = chain.iter().chain(self.roots.borrow().iter()).map(text).collect();
        debug_assert!(peer_of(&chain).is_ok_and(|id| id == wanted.id));
        Ok(CertificateResponse { cert_chain: all? })
    }
}

/// One of the connections that there may be.
struct Place<'a>(&'a Cell<usize>);

impl<'a> Place<'a> {
    fn take(count: &'a Cell<usize>) -> Self {
        count.set(count.get() + 1);
        Self(count)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

fn pem_of(roots: &[CertificateDer<'_>]) -> Rc<str> {
    roots.iter().map(pem).collect::<String>().into()
}

/// A certificate as text.
pub fn pem(certificate: &CertificateDer<'_>) -> String {
    // DER of any length can be written.
    pem::encode_string("CERTIFICATE", LineEnding::LF, certificate).unwrap_or_default()
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut all = headers.get_all(AUTHORIZATION).iter();
    let (Some(value), None) = (all.next(), all.next()) else { return None };
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim()).filter(|token| !token.is_empty())
}
