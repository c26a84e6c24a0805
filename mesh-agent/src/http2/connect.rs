//! A CONNECT that came on a connection of mutual TLS: from another agent one opaque connection to this pod, or a connection of
//! HTTP/1 that is to be one; by HBONE any connection.
//!
//! Used by `server` in place of `stream`. Judges the head; what is asked for becomes a connection of its own in
//! `proxy::inbound`, with protocol, policies and log as any that is opened to the pod. Nobody gets further than to the
//! address that was dialled.

use std::net::SocketAddr;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::header::FORWARDED;
use http::{HeaderMap, Request, Response, StatusCode};

use super::hbone;
use super::tunnel::Tunnel;
use crate::addr::{ClientAddr, OrigDst};
use crate::proxy::{Connection, Hostile, inbound};

/// Carries one stream to its end.
pub(super) async fn serve(conn: &Connection, request: Request<RecvStream>, respond: SendResponse<Bytes>) {
    let authority = request.uri().authority();
    let dialled: Option<SocketAddr> = authority.and_then(|authority| authority.as_str().parse().ok());
    let client = client_of(request.headers(), conn.client);
    let (head, body) = request.into_parts();
    let tunnel = Tunnel::incoming(body, respond);
    if dialled.map(OrigDst::from) != Some(conn.dst) {
        conn.pod.worker.count_hostile(Hostile::WrongAuthority);
        return tunnel.refuse(StatusCode::BAD_REQUEST);
    }
    inbound::serve_tunnel(conn, tunnel, client, &head.headers).await;
}

/// The same for one that came by HBONE.
pub(super) async fn serve_hbone(
    conn: &Connection,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) {
    match hbone::asked(&request, conn) {
        Ok(dst) => {
            let (head, body) = request.into_parts();
            let client = client_of(&head.headers, conn.client);
            let tunnel = Tunnel::incoming(body, respond);
            inbound::serve_hbone_tunnel(conn, tunnel, client, dst, &head.headers).await;
        }
        Err(hostile) => {
            conn.pod.worker.count_hostile(hostile);
            let mut response = Response::new(());
            *response.status_mut() = StatusCode::BAD_REQUEST;
            // The peer may have taken it back.
            let _ = respond.send_response(response, true);
        }
    }
}

/// The client that the peer names, where it can be true: agents connect from their pod's own address, and only the port is
/// another than that of the connection.
pub(crate) fn client_of(headers: &HeaderMap, peer: ClientAddr) -> ClientAddr {
    let named = headers.get(FORWARDED).and_then(|value| value.to_str().ok()).and_then(forwarded_for);
    named.filter(|client| client.ip() == peer.ip()).unwrap_or(peer)
}

/// The only element's `for`, which comes first, if it is an address with a port (RFC 7239, 4 and 6).
fn forwarded_for(value: &str) -> Option<ClientAddr> {
    let (node, rest) = value.strip_prefix("for=\"")?.split_once('"')?;
    let is_alone = rest.is_empty() || rest.starts_with(';') && !rest.contains(',');
    node.parse::<SocketAddr>().ok().filter(|_| is_alone).map(ClientAddr::from)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn check(forwarded: &'static str, peer: &str, expected: &str) {
        let addr = |text: &str| ClientAddr::from(text.parse::<SocketAddr>().unwrap());
        let headers = HeaderMap::from_iter([(FORWARDED, http::HeaderValue::from_static(forwarded))]);
        assert_eq!(client_of(&headers, addr(peer)), addr(expected), "{forwarded}");
    }

    #[test]
    fn a_peer_may_name_another_port_of_its_own_address_and_nothing_else() {
        check("for=\"10.0.0.1:4000\"", "10.0.0.1:5000", "10.0.0.1:4000");
        check("for=\"[fd00::1]:4000\"", "[fd00::1]:5000", "[fd00::1]:4000");
        check("for=\"10.0.0.2:4000\"", "10.0.0.1:5000", "10.0.0.1:5000");
        check("for=\"10.0.0.1:4000\";host=cart.shop.svc.cluster.local", "10.0.0.1:5000", "10.0.0.1:4000");
        for other in [
            "for=10.0.0.1",
            "for=\"_hidden\"",
            "for=\"10.0.0.1\"",
            "host=cart",
            "for=\"10.0.0.1:4000\", for=\"10.0.0.1:4001\"",
            "for=\"10.0.0.1:4000\";proto=http, for=\"10.0.0.1:4001\"",
            "for=\"10.0.0.1:4000\"x",
            "",
        ] {
            check(other, "10.0.0.1:5000", "10.0.0.1:5000");
        }
    }
}
