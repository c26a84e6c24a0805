//! A check of an endpoint that requests reach in mutual TLS with its agent, or by HBONE: asked the same way, as the pod that it
//! comes from.
//!
//! What is asked goes in a CONNECT stream on a connection of its own, so that who stands before the endpoint takes it as any
//! connection of that pod: its policies hold, and nothing goes in plain text. Comes after `ask::connect`; what is asked is `ask`'s again.

use std::time::Duration;

use rustls::client::ClientConnection;
use tokio::net::TcpStream;

use super::Parts;
use super::wanted::Captured;
use crate::addr::EndpointAddr;
use crate::balance::health::Failure;
use crate::http2;
use crate::identity::{ALPN_HBONE, ALPN_MESH, Refusal, SpiffeId};
use crate::model::ObjectName;
use crate::proxy::ErrorKind;
use crate::proxy::stream::{Stream, transport};
use crate::tls::{TlsError, TlsStream};

/// Who has to be at the other end.
#[derive(Clone, Copy)]
pub(super) struct Peer<'a> {
    /// As whom the endpoint runs, which is to be proven.
    pub account: &'a ObjectName,
    /// It isn't an agent of ours.
    pub is_hbone: bool,
}

/// A connection to the application at `to` behind `peer`, which is at the other end of `tcp`. It ends with the check, or after
/// `longest`.
pub(super) async fn through(
    parts: &Parts,
    from: &Captured,
    peer: Peer<'_>,
    tcp: TcpStream,
    to: EndpointAddr,
    longest: Duration,
) -> Result<Stream, Failure> {
    let shaken = shake_hands(parts, from, peer, tcp).await;
    let label = shaken.as_ref().err().copied().unwrap_or("ok");
    let handshakes = &parts.telemetry.metrics.agent().mesh_handshakes;
    handshakes.with_label_values(&["outbound", transport(peer.is_hbone), label]).inc();
    let stream = shaken.map_err(|reason| {
        tracing::debug!(from = %from.workload.name, endpoint = %to, reason, "no mutual TLS for a health check");
        Failure::Tls
    })?;
    let opened = http2::open_tunnel_alone(stream.into(), to, longest).await;
    opened.map(Stream::from).map_err(|error| match error.kind {
        ErrorKind::ConnectFailed => Failure::Connect,
        _ => Failure::Closed,
    })
}

/// The label of the metric says why not.
async fn shake_hands(
    parts: &Parts,
    from: &Captured,
    peer: Peer<'_>,
    tcp: TcpStream,
) -> Result<TlsStream, &'static str> {
    let identity = parts.identities.of_pod(&from.workload);
    // A new pod's certificate is on its way; the check's own timeout bounds the wait.
    identity.decided().await;
    let domain = identity.id().trust_domain();
    let expected = SpiffeId::new(domain, &peer.account.namespace, &peer.account.name);
    let config = identity.client(&expected).map_err(|_| "without_certificate")?;
    let alpn = if peer.is_hbone { ALPN_HBONE } else { ALPN_MESH };
    // Not said in the ClientHello; whose certificate it is the identity's verifier judges.
    let at = tcp.peer_addr().map_err(|_| "broken_off")?;
    let session = ClientConnection::new_with_alpn(config, at.ip().into(), vec![alpn.to_vec()]);
    let session = session.map_err(|error| Refusal::of(&error).label())?;
    let stream = TlsStream::client(tcp, session).await.map_err(|error| match error {
        TlsError::Certificate(error) | TlsError::Handshake(error) => Refusal::of(&error).label(),
        TlsError::Io(_) => "broken_off",
    })?;
    if stream.alpn().as_deref() == Some(alpn) { Ok(stream) } else { Err("failed") }
}
