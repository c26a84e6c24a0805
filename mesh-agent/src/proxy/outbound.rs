//! Connections that a pod opens. Reads in the order of the way: original destination, what it stands for, where it may
//! go, then `carry`.
//!
//! Never guesses a destination: a connection without a record was made to the agent's port by hand and is reset.

use std::os::fd::AsFd;
use std::rc::Rc;

use bytes::BytesMut;
use tokio::net::TcpStream;

use super::carry;
use super::context::{Connection, Direction, Pod};
use super::error::ErrorKind;
use super::upstream::reset;
use crate::addr::{ClientAddr, OrigDst};
use crate::model::Target;

/// Handles one connection that the connect hook sent to the in-pod outbound listener.
pub async fn serve(pod: Rc<Pod>, client: TcpStream, from: ClientAddr) {
    let Some(dst) = pod.worker.flows.original_dst(client.as_fd()) else {
        return without_destination(&pod, client, from);
    };
    let (conn, target) = open(&pod, from, dst);
    if matches!(target, Target::Unknown) && pod.worker.registry_only {
        return carry::refuse(&conn, client, ErrorKind::UnknownDestination);
    }
    conn.set_backends(conn.backends_for(target));
    carry::serve(&conn, client.into(), BytesMut::new()).await;
}

/// Resets a connection that its pod has no place for.
pub fn turn_away(pod: &Rc<Pod>, client: TcpStream, from: ClientAddr) {
    pod.worker.count_refused("too_many_connections");
    let dst = pod.worker.flows.original_dst(client.as_fd()).or_else(|| dialled(&client));
    let Some(dst) = dst else { return reset(client) };
    carry::refuse(&open(pod, from, dst).0, client, ErrorKind::TooManyConnections);
}

fn without_destination(pod: &Rc<Pod>, client: TcpStream, from: ClientAddr) {
    tracing::debug!(pod = %pod.workload().name, client = %from, "no original destination, closing");
    pod.worker.count_refused("no_original_destination");
    let Some(dst) = dialled(&client) else { return reset(client) };
    let conn = Connection::open(pod, Direction::Outbound, from, dst, &Target::Unknown);
    carry::refuse(&conn, client, ErrorKind::NoOriginalDestination);
}

/// Without a record all that is known to have been dialled is the agent's own port.
fn dialled(client: &TcpStream) -> Option<OrigDst> {
    client.local_addr().ok().map(OrigDst::from)
}

fn open(pod: &Rc<Pod>, from: ClientAddr, dst: OrigDst) -> (Connection, Target) {
    let target = pod.worker.snapshot.load().resolve_for(dst, &pod.workload.borrow().name.namespace);
    let conn = Connection::open(pod, Direction::Outbound, true_client(pod, from, dst), dst, &target);
    (conn, target)
}

/// Capture leaves a loopback source address; the pod's own is what every other party knows it by. The port is true.
fn true_client(pod: &Pod, from: ClientAddr, dst: OrigDst) -> ClientAddr {
    if !from.ip().is_loopback() {
        return from;
    }
    ClientAddr::new(pod.address(dst.ip()).unwrap_or(from.ip()), from.port())
}
