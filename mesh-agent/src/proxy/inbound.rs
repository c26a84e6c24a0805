//! Connections that are opened to a pod. Reads in the order of the way: the socket's own name is the original
//! destination, another agent is told from a client in plain text, `probe` says whether plain text is accepted there, the
//! application is the only backend, then `carry`.
//!
//! The application is connected to inside the pod, at the address and port that the client dialled, and is shown the
//! client's address by the kernel hook. What other agents send is `agents`' to take, what comes by HBONE `hbone`'s.

mod agents;
mod hbone;

use std::rc::Rc;
use std::sync::Arc;

use bytes::BytesMut;
use tokio::net::TcpStream;

pub use self::agents::{serve_agent, serve_tunnel};
pub use self::hbone::{serve_hbone, serve_hbone_tunnel};
use super::backend::Backends;
use super::carry;
use super::context::{Connection, Direction, Pod};
use super::edges::Edges;
use super::error::ErrorKind;
use super::probe::{self, PlainText};
use super::stream::Stream;
use super::upstream::{Upstream, reset};
use crate::addr::{ClientAddr, EndpointAddr, OrigDst};
use crate::model::{ServicePort, Target};

/// Handles one connection that sk_lookup handed to the in-pod inbound listener.
pub async fn serve(pod: Rc<Pod>, client: TcpStream, from: ClientAddr) {
    let Ok(dst) = client.local_addr().map(OrigDst::from) else { return reset(client) };
    if dst.ip().is_loopback() {
        return dialled_directly(&pod, client, from, dst);
    }
    serve_at(pod, client, from, dst).await;
}

fn dialled_directly(pod: &Rc<Pod>, client: TcpStream, from: ClientAddr, dst: OrigDst) {
    tracing::debug!(pod = %pod.workload().name, client = %from, at = %dst, "the agent's port was dialled directly, closing");
    pod.worker.count_refused("no_original_destination");
    let conn = Connection::open(pod, Direction::Inbound, from, dst, &Target::Unknown);
    carry::refuse(&conn, client, ErrorKind::NoOriginalDestination);
}

/// Handles a connection that was made to `dst`.
pub(super) async fn serve_at(pod: Rc<Pod>, client: TcpStream, from: ClientAddr, dst: OrigDst) {
    let (conn, port) = open(&pod, from, dst);
    let mut client = Stream::from(client);
    let mut first = BytesMut::new();
    let plain_text = conn.plain_text();
    // Where plain text isn't accepted nobody else gets further, so all may take the time that a lost packet costs.
    let patience = match plain_text {
        PlainText::All => conn.limits().detect_timeout,
        PlainText::Probes | PlainText::Nothing => conn.limits().head_timeout,
    };
    let looks = plain_text != PlainText::All || agents::is_expected(&conn) && conn.may_be_an_agents();
    if looks && agents::hello(&mut client, &mut first, patience).await {
        return agents::serve_agent(&conn, client, first).await;
    }
    // Whoever comes this far has shown that it isn't an agent, or still may: `carry` looks at the first bytes of all others
    // before the application sees any of them. Plain text is let in here or not at all.
    conn.set_backends(application(&conn, port.as_ref()));
    match plain_text {
        PlainText::All => carry::serve(&conn, client, first).await,
        // Boxed: few connections are probes, and all would carry what one takes.
        PlainText::Probes => Box::pin(probe::serve(&conn, client, first)).await,
        PlainText::Nothing => probe::refuse(&conn, client),
    }
}

/// Resets a connection that its pod has no place for.
pub fn turn_away(pod: &Rc<Pod>, client: TcpStream, from: ClientAddr) {
    pod.worker.count_refused("too_many_connections");
    let Ok(dst) = client.local_addr().map(OrigDst::from) else { return reset(client) };
    carry::refuse(&open(pod, from, dst).0, client, ErrorKind::TooManyConnections);
}

fn open(pod: &Rc<Pod>, from: ClientAddr, dst: OrigDst) -> (Connection, Option<Arc<ServicePort>>) {
    let port = pod.worker.snapshot.load().by_endpoint.get(&EndpointAddr::from(dst)).cloned();
    let target = Target::Workload(pod.workload(), port.clone());
    (Connection::open(pod, Direction::Inbound, from, dst, &target), port)
}

/// The application at the address that was dialled.
fn application(conn: &Connection, port: Option<&Arc<ServicePort>>) -> Backends {
    let edges = Edges::inbound(conn, port.map(|port| &port.service));
    let upstream = Upstream::paired(EndpointAddr::from(conn.dst), Some(conn.pod.workload()), edges);
    Backends::Single(Rc::new(upstream))
}
