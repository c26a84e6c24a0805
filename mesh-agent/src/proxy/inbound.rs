//! Connections that are opened to a pod. Reads in the order of the way: the socket's own name is the original
//! destination, the application behind it is the only backend, `probe` says whether plain text is accepted there, then
//! `carry`.
//!
//! The application is connected to inside the pod, at the address and port that the client dialled, and is shown the
//! client's address by the kernel hook.

use std::rc::Rc;
use std::sync::Arc;

use tokio::net::TcpStream;

use super::backend::Backends;
use super::carry;
use super::context::{Connection, Direction, Pod};
use super::error::ErrorKind;
use super::probe::{self, PlainText};
use super::upstream::{Edges, Upstream, reset};
use crate::addr::{ClientAddr, EndpointAddr, OrigDst};
use crate::model::{ServicePort, Target};

/// Handles one connection that sk_lookup handed to the in-pod inbound listener.
pub async fn serve(pod: Rc<Pod>, client: TcpStream, from: ClientAddr) {
    let Ok(dst) = client.local_addr().map(OrigDst::from) else { return reset(client) };
    if dst.ip().is_loopback() {
        tracing::debug!(pod = %pod.workload().name, client = %from, "inbound port dialled directly, closing");
        pod.worker.count_refused("no_original_destination");
        let conn = Connection::open(&pod, Direction::Inbound, from, dst, &Target::Unknown);
        return carry::refuse(&conn, client, ErrorKind::NoOriginalDestination);
    }
    serve_at(pod, client, from, dst).await;
}

/// Handles a connection that was made to `dst`.
pub(super) async fn serve_at(pod: Rc<Pod>, client: TcpStream, from: ClientAddr, dst: OrigDst) {
    let (conn, port) = open(&pod, from, dst);
    let edges = Edges::inbound(&conn, port.as_ref().map(|p| &p.service));
    let upstream = Upstream::paired(EndpointAddr::from(dst), Some(pod.workload()), edges);
    conn.set_backends(Backends::Single(Rc::new(upstream)));
    match conn.plain_text() {
        PlainText::All => carry::serve(&conn, client).await,
        // Boxed: few connections are probes, and all would carry what one takes.
        PlainText::Probes => Box::pin(probe::serve(&conn, client)).await,
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
