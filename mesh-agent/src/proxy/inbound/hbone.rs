//! HBONE to a pod: mutual TLS on its own port, on which every stream is a CONNECT that becomes a connection of its own.
//!
//! Part of `inbound`, beside `agents`, with which it shares the handshake. What a ztunnel or waypoint speaks; who the peer is says its
//! certificate. What is asked for is judged in `crate::http2`; from there on it is as any connection over mutual TLS, but for the answer:
//! the peer is told how connecting to the application went before a byte of it is read.

use std::rc::Rc;
use std::sync::Arc;

use bytes::BytesMut;
use http::HeaderMap;
use tokio::net::TcpStream;

use super::agents::{self, Speaks};
use super::{application, open};
use crate::addr::{ClientAddr, OrigDst};
use crate::http2::{self, Tunnel};
use crate::model::MtlsMode;
use crate::proxy::context::{Connection, Pod};
use crate::proxy::upstream::reset;
use crate::proxy::{ErrorKind, baggage, carry};

/// Handles one connection that sk_lookup handed to the in-pod listener for HBONE.
pub async fn serve_hbone(pod: Rc<Pod>, client: TcpStream, from: ClientAddr) {
    let Ok(dst) = client.local_addr().map(OrigDst::from) else { return reset(client) };
    if dst.ip().is_loopback() {
        return super::dialled_directly(&pod, client, from, dst);
    }
    let (conn, _) = open(&pod, from, dst);
    let Some(stream) = agents::prove(&conn, client, BytesMut::new(), Speaks::Hbone).await else { return };
    if let Some(error) = http2::serve_hbone(stream.into(), &conn).await {
        agents::broke(&conn, error, Speaks::Hbone);
    }
}

/// Serves a CONNECT stream of such a connection as one of `client`'s to `dst`. `said` are the CONNECT's headers.
pub async fn serve_hbone_tunnel(
    carrier: &Connection,
    tunnel: Tunnel,
    client: ClientAddr,
    dst: OrigDst,
    said: &HeaderMap,
) {
    let pod = &carrier.pod;
    let (conn, port) = open(pod, client, dst);
    conn.hbone.set(true);
    if let Some(peer) = carrier.peer.get() {
        if conn.source.is_none()
            && let Some(told) = baggage::read(said).workload(peer)
        {
            let _ = conn.told.set(Arc::new(told));
        }
        conn.prove(peer.clone());
        conn.note_client_cert_of(carrier);
    }
    let Some(_place) = pod.admit() else {
        pod.worker.count_refused("too_many_connections");
        return carry::refuse(&conn, tunnel, ErrorKind::TooManyConnections);
    };
    if conn.mtls_mode() == MtlsMode::Disable {
        let why = ErrorKind::MutualTlsRefused;
        pod.worker.count_refused(why.label());
        return carry::refuse(&conn, tunnel, why);
    }
    conn.set_backends(application(&conn, port.as_ref()));
    carry::serve_asked(&conn, tunnel.into()).await;
}
