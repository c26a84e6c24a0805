//! Connections to another agent, or to whatever speaks HBONE for the endpoint: mutual TLS to the endpoint's own port, or to
//! that of HBONE, and what is said of those that don't come about.
//!
//! Part of `upstream`. `crate::http2` keeps the connections and puts requests and CONNECT streams on them; here is the
//! handshake, which nothing can turn into plain text.

use std::io;
use std::time::Duration;

use http::HeaderValue;
use rustls::client::ClientConnection;
use rustls::pki_types::ServerName;
use tokio::time::{Instant, timeout_at};

use super::{Mark, Reach, Upstream, connect_timeout, count_connect};
use crate::addr::{ClientAddr, EndpointAddr};
use crate::clock;
use crate::http2;
use crate::identity::{ALPN_HBONE, ALPN_MESH, NoIdentity, Refusal, SpiffeId};
use crate::policy::PoolLimits;
use crate::proxy::stream::transport;
use crate::proxy::{ErrorKind, Pod, ProxyError, Stream};
use crate::report;
use crate::tls::{TlsError, TlsStream};

/// A pod's first certificate is waited for so long: it was asked for when the pod was enrolled.
const FIRST_CERTIFICATE: Duration = Duration::from_secs(1);
/// An endpoint whose handshakes fail is told of at most this often.
const SAY_AGAIN: Duration = Duration::from_secs(10);

impl Upstream {
    /// A connection to what stands for the endpoint, which has proven that the endpoint runs as it should.
    ///
    /// # Errors
    /// Also if this pod has no certificate: then nothing is sent at all.
    pub(crate) async fn connect_mesh(&self, pod: &Pod, limits: &PoolLimits) -> Result<Stream, ProxyError> {
        let result = self.shake_hands(pod, limits).await;
        count_connect(pod, result.as_ref().err());
        match result {
            Ok(stream) => Ok(stream.into()),
            Err(error) => {
                self.note(pod, Some((Why::of(&error), &error)));
                Err(error)
            }
        }
    }

    async fn shake_hands(&self, pod: &Pod, limits: &PoolLimits) -> Result<TlsStream, ProxyError> {
        let (expected, alpn, addr) = match &self.reach {
            Reach::Mesh(expected) => (expected, ALPN_MESH, self.endpoint.addr),
            Reach::Hbone(expected) => {
                let addr = EndpointAddr::new(self.endpoint.addr.ip(), pod.worker.ports.hbone);
                (expected, ALPN_HBONE, addr)
            }
            Reach::Plain | Reach::Tls(_) | Reach::Nowhere => return Err(ErrorKind::Internal.into()),
        };
        let deadline = Instant::now() + connect_timeout(pod, limits);
        let identity = pod.identity.borrow().clone();
        let mut config = identity.client(expected);
        if config.as_ref().is_err_and(|why| *why == NoIdentity::NotYetIssued) {
            let patience = deadline.min(Instant::now() + FIRST_CERTIFICATE);
            let _ = timeout_at(patience, identity.decided()).await;
            config = identity.client(expected);
        }
        let config = config.map_err(|why| ProxyError::new(ErrorKind::NoIdentity, why))?;
        let failed = |error: TlsError| {
            let kind = match error {
                TlsError::Certificate(_) => ErrorKind::CertificateRefused,
                TlsError::Handshake(_) | TlsError::Io(_) => ErrorKind::TlsFailed,
            };
            ProxyError::new(kind, error)
        };
        // An address isn't said in the ClientHello; whose certificate it is the identity's verifier judges.
        let name = ServerName::IpAddress(addr.ip().into());
        let session = ClientConnection::new_with_alpn(config, name, vec![alpn.to_vec()]);
        let session = session.map_err(|error| failed(TlsError::Handshake(error)))?;
        let tcp = self.try_connect(pod, addr, Mark::Agents, limits).await?;
        let stream = match timeout_at(deadline, TlsStream::client(tcp, session)).await {
            Ok(shaken) => shaken.map_err(failed)?,
            Err(elapsed) => return Err(ProxyError::new(ErrorKind::ConnectTimeout, elapsed)),
        };
        if stream.alpn().as_deref() != Some(alpn) {
            let other = io::Error::other("it speaks TLS, but not as the mesh does");
            return Err(failed(TlsError::Io(other)));
        }
        Ok(stream)
    }

    /// A CONNECT stream to the application behind what stands for the endpoint. `client` is who that is told it is from, `trace` its part in
    /// a trace.
    ///
    /// # Errors
    /// As [`Self::connect`].
    pub async fn tunnel(
        &self,
        pod: &Pod,
        client: Option<ClientAddr>,
        limits: &PoolLimits,
        trace: Option<HeaderValue>,
    ) -> Result<Stream, ProxyError> {
        self.used_at.set(clock::now_ns());
        let limit = connect_timeout(pod, limits);
        Ok(http2::open_tunnel(self, pod, client, limits, limit, trace).await?.into())
    }

    /// Takes note of what became of a connection after its handshake: the endpoint's agent speaks, or it doesn't.
    pub(crate) fn agreed<T>(&self, pod: &Pod, opened: Result<T, ProxyError>) -> Result<T, ProxyError> {
        let failed = opened.as_ref().err().map(|error| match Why::of(error) {
            // There was a connection.
            Why::Connect => (Why::Broken, error),
            why => (why, error),
        });
        self.note(pod, failed);
        opened
    }

    fn note(&self, pod: &Pod, failed: Option<(Why, &ProxyError)>) {
        let is_hbone = self.reach.is_hbone();
        let Some((why, error)) = failed else { return count(pod, is_hbone, "ok") };
        count(pod, is_hbone, why.label());
        // A socket that couldn't be connected is no handshake, and is told of where such are.
        if why != Why::Connect && self.is_to_be_told() {
            let expected = self.reach.expected().map(SpiffeId::as_str).unwrap_or_default();
            let to = self.endpoint.workload.as_ref().map(|workload| workload.name.to_string());
            tracing::warn!(
                source = %pod.workload().name,
                destination = to.as_deref().unwrap_or_default(),
                endpoint = %self.endpoint.addr,
                expected,
                reason = why.label(),
                error = %report::chain(error),
                "no mutual TLS with {} of the destination, so nothing is sent there: {}",
                if is_hbone { "the HBONE proxy" } else { "the agent" },
                why.advice(is_hbone)
            );
        }
    }

    fn is_to_be_told(&self) -> bool {
        let (now, told) = (clock::now_ns().max(1), self.told_at.get());
        let again = told == 0 || now.saturating_sub(told) >= SAY_AGAIN.as_nanos() as u64;
        if again {
            self.told_at.set(now);
        }
        again
    }
}

fn count(pod: &Pod, is_hbone: bool, result: &str) {
    let handshakes = &pod.worker.telemetry.metrics.agent().mesh_handshakes;
    handshakes.with_label_values(&["outbound", transport(is_hbone), result]).inc();
}

/// Why there is no connection to an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    /// The handshake was refused, by us or by the peer.
    Refused(Refusal),
    /// This pod has no certificate.
    Certificate,
    /// No end of it in time.
    Late,
    /// There is no socket.
    Connect,
    /// The socket failed, or something else than an agent is there.
    Broken,
}

impl Why {
    fn of(error: &ProxyError) -> Self {
        match error.kind {
            ErrorKind::NoIdentity => Self::Certificate,
            ErrorKind::CertificateRefused | ErrorKind::TlsFailed => match error.cause() {
                Some(TlsError::Certificate(error) | TlsError::Handshake(error)) => {
                    Self::Refused(Refusal::of(error))
                }
                Some(TlsError::Io(_)) => Self::Broken,
                // After the handshake's client has done its part only the server's alert is left to come.
                None => Self::Refused(Refusal::RefusedByPeer),
            },
            ErrorKind::ConnectTimeout => Self::Late,
            ErrorKind::NotHttp2 => Self::Broken,
            _ => Self::Connect,
        }
    }

    fn label(self) -> &'static str {
        match self {
            Self::Refused(refusal) => refusal.label(),
            Self::Certificate => "without_certificate",
            Self::Late => "timeout",
            Self::Connect => "connect_failed",
            Self::Broken => "broken_off",
        }
    }

    fn advice(self, is_hbone: bool) -> &'static str {
        match self {
            Self::Late | Self::Connect if is_hbone => {
                "see whether its ztunnel runs and whether a NetworkPolicy is before its HBONE port"
            }
            Self::Refused(Refusal::Incompatible | Refusal::Failed) | Self::Broken if is_hbone => {
                "nothing speaks HBONE there; its Pod object says otherwise, by label or annotation"
            }
            Self::Refused(Refusal::UnknownRoot) => {
                "its certificate is signed by a root that isn't trusted here; give both nodes the same `ca`"
            }
            Self::Refused(Refusal::Expired | Refusal::NotYetValid) => {
                "its certificate isn't valid now; see `mesh-agent get certs` and the clock of its node"
            }
            Self::Refused(Refusal::TrustDomain) => {
                "it is of another trust domain; give both nodes the same, or name it as an alias"
            }
            Self::Refused(Refusal::OtherIdentity | Refusal::NoIdentity | Refusal::NoCertificate) => {
                "somebody else answers at its address; see whether its Pod object says how it really runs"
            }
            Self::Refused(Refusal::RefusedByPeer) => {
                "it refuses this pod's certificate; its agent's log says why, `mesh-agent get certs` shows the certificate"
            }
            Self::Certificate => "this pod has no certificate to show; see `mesh-agent get certs` for why",
            Self::Late | Self::Connect => {
                "see whether its node's agent runs and whether a NetworkPolicy is between them"
            }
            Self::Refused(Refusal::Incompatible | Refusal::Failed) | Self::Broken => {
                "no agent of this mesh answers there; see whether its node's agent runs and has captured the pod"
            }
        }
    }
}
