//! What other agents open to a pod: mutual TLS that ends here, with requests and CONNECT streams on it.
//!
//! Part of `inbound`; its handshake is `hbone`'s too. The peer is who its certificate says, and nobody else: an address is at most a hint that an agent will
//! speak first. Requests go on in `crate::http2` as any others; each CONNECT stream becomes a connection of its own.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use bytes::BytesMut;
use http::HeaderMap;
use rustls::server::ServerConnection;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};

use super::{application, open};
use crate::addr::ClientAddr;
use crate::clock;
use crate::http2::{self, Tunnel};
use crate::identity::{ALPN_HBONE, ALPN_MESH, NoIdentity, PeerError, Refusal, SpiffeId, peer_of};
use crate::proxy::context::Connection;
use crate::proxy::detect::{self, MAX_PEEK, Verdict};
use crate::proxy::stream::transport;
use crate::proxy::{Backends, ErrorKind, Hostile, Stream, carry, tcp};
use crate::report;
use crate::telemetry::L7;
use crate::tls::{TlsError, TlsStream};

/// A pod whose certificate is still on its way is waited for so long.
const FIRST_CERTIFICATE: Duration = Duration::from_secs(1);
/// Refused handshakes of one pod are told of at most this often for each reason, so that none hides another.
const SAY_AGAIN: Duration = Duration::from_secs(10);
const HELLO: usize = 2048;

/// True if the client's address is that of a pod behind an agent, which speaks before the application may. No more than a
/// hint: a client that isn't served as an agent has waited for nothing.
pub(super) fn is_expected(conn: &Connection) -> bool {
    let own = conn.pod.workload.borrow();
    let is_far = |node: &str| node != own.node || conn.pod.worker.same_node_mtls;
    conn.source.as_ref().is_some_and(|source| source.is_enrolled() && is_far(&source.node))
}

/// Reads the client's first bytes, as long as it takes to tell a protocol, and true if they are an agent's. It may also
/// stay silent: then it isn't one, and waits for the application to speak.
pub(super) async fn hello(client: &mut Stream, first: &mut BytesMut, patience: Duration) -> bool {
    let deadline = Instant::now() + patience;
    first.reserve(HELLO);
    loop {
        match timeout_at(deadline, client.read_buf(first)).await {
            Ok(Ok(1..)) => {}
            Ok(Ok(0)) | Ok(Err(_)) | Err(_) => return false,
        }
        match detect::classify(first) {
            Verdict::Unclear if first.len() < MAX_PEEK => {}
            Verdict::Tls(hello) => return hello.is_agents,
            _ => return false,
        }
    }
}

/// Serves a client that says it is an agent, once it has proven whose. `hello` was read from it.
pub async fn serve_agent(conn: &Connection, client: Stream, hello: BytesMut) {
    let Stream::Plain(tcp) = client else { return carry::refuse(conn, client, ErrorKind::Internal) };
    let Some(stream) = prove(conn, tcp, hello, Speaks::Mesh).await else { return };
    let port = conn.behind.borrow().clone();
    let backends = application(conn, port.as_ref());
    conn.keep_swept(&backends);
    conn.set_backends(backends);
    if let Some(error) = http2::serve_agent(stream.into(), conn).await {
        broke(conn, error, Speaks::Mesh);
    }
}

/// Takes note of a peer that had proven who it is, and then broke TLS.
pub(super) fn broke(conn: &Connection, error: rustls::Error, speaks: Speaks) {
    conn.pod.worker.count_hostile(Hostile::BadTls);
    Why::Broke(error).tell(conn, speaks);
}

/// Serves a CONNECT stream of an agent's connection as a connection of `client`'s. `said` are the CONNECT's headers.
pub async fn serve_tunnel(carrier: &Connection, tunnel: Tunnel, client: ClientAddr, said: &HeaderMap) {
    let pod = &carrier.pod;
    let (conn, port) = open(pod, client, carrier.dst);
    conn.continue_trace(said);
    if let Some(peer) = carrier.peer.get() {
        conn.prove(peer.clone());
        conn.note_client_cert_of(carrier);
    }
    let Some(_place) = pod.admit() else {
        pod.worker.count_refused("too_many_connections");
        return carry::refuse(&conn, tunnel, ErrorKind::TooManyConnections);
    };
    conn.set_backends(application(&conn, port.as_ref()));
    carry::serve(&conn, tunnel.into(), BytesMut::new()).await;
}

/// What a peer speaks within its TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Speaks {
    /// As our agents do.
    Mesh,
    /// HBONE.
    Hbone,
}

/// Ends the client's TLS, from which `hello` was read already, and notes who it has proven to be. None: it is refused, which was
/// told.
pub(super) async fn prove(
    conn: &Connection,
    tcp: TcpStream,
    hello: BytesMut,
    speaks: Speaks,
) -> Option<TlsStream> {
    match shake_hands(conn, tcp, hello, speaks).await {
        Ok((stream, peer)) => {
            count(conn, speaks, "ok");
            conn.live.set_protocol(if speaks == Speaks::Hbone { L7::Hbone } else { L7::Mesh });
            conn.prove(peer);
            conn.note_client_cert(stream.peer_certificates().first());
            Some(stream)
        }
        Err(why) => {
            count(conn, speaks, why.label());
            why.tell(conn, speaks);
            tcp::note_refused(conn, why.kind());
            None
        }
    }
}

async fn shake_hands(
    conn: &Connection,
    tcp: TcpStream,
    hello: BytesMut,
    speaks: Speaks,
) -> Result<(TlsStream, SpiffeId), Why> {
    let identity = conn.pod.identity.borrow().clone();
    let configured = || match speaks {
        Speaks::Mesh => identity.server(),
        Speaks::Hbone => identity.hbone_server(),
    };
    let mut config = configured();
    if config.as_ref().is_err_and(|why| *why == NoIdentity::NotYetIssued) {
        let _ = timeout(FIRST_CERTIFICATE, identity.decided()).await;
        config = configured();
    }
    let session = ServerConnection::new(config.map_err(Why::Certificate)?);
    let session = session.map_err(|error| Why::Refused(TlsError::Handshake(error)))?;
    let shaken = timeout(conn.limits().head_timeout, TlsStream::server_after(hello, tcp, session));
    let stream = shaken.await.map_err(|_| Why::Late)?.map_err(Why::Refused)?;
    let is_fit = match (speaks, stream.alpn().as_deref()) {
        (Speaks::Mesh, alpn) => alpn == Some(ALPN_MESH),
        // Nothing else is spoken on that port, and not every peer says so.
        (Speaks::Hbone, alpn) => alpn.is_none_or(|alpn| alpn == ALPN_HBONE),
    };
    if !is_fit {
        let other = io::Error::other("it offered to speak as an agent, and speaks otherwise");
        return Err(Why::Refused(TlsError::Io(other)));
    }
    let peer = peer_of(&stream.peer_certificates()).map_err(Why::Peer)?;
    Ok((stream, peer))
}

fn count(conn: &Connection, speaks: Speaks, result: &str) {
    let handshakes = &conn.pod.worker.telemetry.metrics.agent().mesh_handshakes;
    handshakes.with_label_values(&["inbound", transport(speaks == Speaks::Hbone), result]).inc();
}

/// Why a client isn't served as one of the mesh.
#[derive(Debug, thiserror::Error)]
enum Why {
    #[error("the pod has no certificate")]
    Certificate(#[source] NoIdentity),
    #[error("the client didn't end the handshake in time")]
    Late,
    #[error("the client isn't let in")]
    Refused(#[source] TlsError),
    #[error("the client's certificate isn't one of the mesh")]
    Peer(#[source] PeerError),
    #[error("the client broke TLS after its handshake")]
    Broke(#[source] rustls::Error),
}

impl Why {
    fn refusal(&self) -> Option<Refusal> {
        match self {
            Self::Refused(TlsError::Certificate(error) | TlsError::Handshake(error)) => {
                Some(Refusal::of(error))
            }
            Self::Peer(_) => Some(Refusal::NoIdentity),
            Self::Certificate(_) | Self::Late | Self::Broke(_) | Self::Refused(TlsError::Io(_)) => None,
        }
    }

    fn label(&self) -> &'static str {
        match (self, self.refusal()) {
            (_, Some(refusal)) => refusal.label(),
            (Self::Certificate(_), None) => "without_certificate",
            (Self::Late, None) => "timeout",
            (Self::Broke(_), None) => Hostile::BadTls.label(),
            (Self::Refused(_) | Self::Peer(_), None) => "broken_off",
        }
    }

    fn kind(&self) -> ErrorKind {
        match self {
            Self::Certificate(_) => ErrorKind::NoIdentity,
            Self::Peer(_) | Self::Refused(TlsError::Certificate(_)) => ErrorKind::PeerCertificateRefused,
            Self::Refused(TlsError::Handshake(rustls::Error::NoCertificatesPresented)) => {
                ErrorKind::PeerCertificateRefused
            }
            Self::Late | Self::Broke(_) | Self::Refused(_) => ErrorKind::PeerTlsFailed,
        }
    }

    /// Tells the log, naming both ends as far as they are known, unless that was done a moment ago.
    fn tell(&self, conn: &Connection, speaks: Speaks) {
        let (now, mut told) = (clock::now_ns(), conn.pod.told_at.borrow_mut());
        let is_known = |at: &u64| now.saturating_sub(*at) < SAY_AGAIN.as_nanos() as u64;
        if told.get(self.label()).is_some_and(is_known) {
            return;
        }
        told.insert(self.label(), now);
        let source = conn.source.as_ref().map(|source| source.name.to_string());
        tracing::warn!(
            // By its address, which proves nothing.
            source = source.as_deref().unwrap_or_default(),
            client = %conn.client,
            destination = %conn.pod.workload().name,
            endpoint = %conn.dst,
            reason = self.label(),
            error = %report::chain(self),
            "a client that {} is refused: {}",
            if speaks == Speaks::Hbone { "comes by HBONE" } else { "speaks as an agent" },
            self.advice()
        );
    }

    fn advice(&self) -> &'static str {
        match (self, self.refusal()) {
            (Self::Certificate(_), _) => {
                "this pod has no certificate to show; see `mesh-agent get certs` for why"
            }
            (Self::Broke(_), _) => "it does what no agent does; see what runs at its address",
            (_, Some(Refusal::UnknownRoot)) => {
                "its certificate is signed by a root that isn't trusted here; give both nodes the same `ca`"
            }
            (_, Some(Refusal::Expired | Refusal::NotYetValid)) => {
                "its certificate isn't valid now; see `mesh-agent get certs` and the clock of its node"
            }
            (_, Some(Refusal::TrustDomain)) => {
                "it is of another trust domain; give both nodes the same, or name it as an alias"
            }
            (_, Some(Refusal::NoIdentity | Refusal::OtherIdentity | Refusal::NoCertificate)) => {
                "it doesn't prove who it is; if it is an agent of this mesh, see its issuer"
            }
            (_, Some(Refusal::RefusedByPeer)) => {
                "it refuses this pod's certificate; its agent's log says why, `mesh-agent get certs` shows the certificate"
            }
            (_, Some(Refusal::Incompatible | Refusal::Failed) | None) => {
                "it doesn't end the handshake as an agent of this mesh does; see what runs at its address"
            }
        }
    }
}

impl Connection {
    /// Notes who the client has proven to be.
    pub(in crate::proxy) fn prove(&self, peer: SpiffeId) {
        self.live.set_peer(peer.as_str());
        let _ = self.reached_as.set(self.pod.identity.borrow().id().clone());
        let _ = self.peer.set(peer);
    }

    /// Has connections swept that lie idle in an upstream of this connection, which may live for long.
    fn keep_swept(&self, backends: &Backends) {
        if let Backends::Single(upstream) = backends {
            self.pod.arrivals.borrow_mut().push(Rc::downgrade(upstream));
        }
    }
}

#[cfg(test)]
mod tests;
