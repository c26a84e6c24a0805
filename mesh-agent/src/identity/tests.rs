//! What holds for identities: what they offer, whom they believe, and what is never written.
#![allow(clippy::unwrap_used, clippy::panic)]

mod handshakes;
mod issuers;
mod life;
mod running;
mod workload_api;

use std::io::{Read, Write};
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, Error, ServerConfig, ServerConnection};

use super::{SpiffeId, peer_of};

/// Who each side is to the other, and what they agreed on.
#[derive(Debug, PartialEq, Eq)]
struct Met {
    client: SpiffeId,
    server: SpiffeId,
    group: Option<rustls::NamedGroup>,
    alpn: Option<Vec<u8>>,
    tickets: u32,
}

/// Which side ended a handshake, and why.
#[derive(Debug, PartialEq)]
enum Side {
    Client(Error),
    Server(Error),
}

/// A handshake without sockets, and some bytes each way.
fn meet(client: Arc<ClientConfig>, server: Arc<ServerConfig>) -> Result<Met, Side> {
    let name = ServerName::try_from("10.0.0.1").unwrap();
    let alpn = vec![super::ALPN_MESH.to_vec()];
    let mut client = ClientConnection::new_with_alpn(client, name, alpn).unwrap();
    let mut server = ServerConnection::new(server).unwrap();
    client.writer().write_all(b"hello").unwrap();
    server.writer().write_all(b"welcome").unwrap();
    for _ in 0..10 {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        let mut wire = wire.as_slice();
        while !wire.is_empty() {
            server.read_tls(&mut wire).unwrap();
            server.process_new_packets().map_err(Side::Server)?;
        }
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        let mut wire = wire.as_slice();
        while !wire.is_empty() {
            client.read_tls(&mut wire).unwrap();
            client.process_new_packets().map_err(Side::Client)?;
        }
    }
    let mut heard = [0; 5];
    server.reader().read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"hello");
    Ok(Met {
        client: peer_of(server.peer_certificates().unwrap()).unwrap(),
        server: peer_of(client.peer_certificates().unwrap()).unwrap(),
        group: client.negotiated_key_exchange_group().map(|group| group.name()),
        alpn: server.alpn_protocol().map(<[u8]>::to_vec),
        tickets: client.tls13_tickets_received(),
    })
}
