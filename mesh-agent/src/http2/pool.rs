//! The HTTP/2 connections from one pod to one endpoint, on one worker.
//!
//! Kept in `proxy::upstream`; `stream` takes a place on one for each request, `tunnels` for each opaque connection between
//! agents. The two kinds never share a connection. A second one for requests is opened only when the limit of concurrent
//! streams, the peer's or the policy's, is reached, or the first is worn: it had its share of requests, or is too old. One
//! dial of a kind at a time: whoever comes meanwhile waits for it, and shares its failure.

use std::cell::Cell;
use std::rc::Rc;

use tokio::sync::Notify;

use super::link::{Lease, Link, Pace};
use super::{STALLED, Windows};
use crate::addr::ClientAddr;
use crate::policy::PoolLimits;
use crate::proxy::{ErrorKind, Picked, Pod, ProxyError, Upstream};
use crate::tls::{Alpn, TlsError};

/// Connections for requests per pod, endpoint and worker.
const MOST_LINKS: usize = 16;
/// Requests that may wait, per connection, for the peer to allow another stream.
const MOST_WAITING: usize = 1024;
/// Dials after the first that an agent may cut off.
const MOST_CUT_OFF: u32 = 2;
/// Opaque connections on one of HTTP/2: as many as may all stand still, nobody reading them, before others would too.
const MOST_TUNNELS: usize = STALLED as usize;

/// Connections to one endpoint.
#[derive(Default)]
pub struct Pool {
    requests: Links,
    tunnels: Links,
    /// The log was told that the endpoint has no HTTP/2, since it last had.
    told: bool,
}

/// Connections of one kind.
#[derive(Default)]
struct Links {
    open: Vec<Link>,
    dialling: Option<Rc<Dialling>>,
}

#[derive(Default)]
struct Dialling {
    done: Notify,
    is_done: Cell<bool>,
    failure: Cell<Option<ErrorKind>>,
}

/// What there is for a request.
enum Place {
    Here(Lease),
    Wait(Rc<Dialling>),
    Dial(Dial),
    None,
}

/// The right to dial; others wait until it is dropped.
struct Dial {
    dialling: Rc<Dialling>,
}

impl Pool {
    /// Closes connections that nobody used since `oldest_ns` (`clock::now_ns`) or that are worn; true if any is left.
    pub fn sweep(&mut self, oldest_ns: u64, limits: &PoolLimits) -> bool {
        let is_fresh = |link: &Link| !link.is_closed() && !link.is_idle_since(oldest_ns);
        self.requests.open.retain(|link| is_fresh(link) && !link.is_worn(limits));
        self.tunnels.open.retain(is_fresh);
        !self.requests.open.is_empty() || !self.tunnels.open.is_empty()
    }

    /// Open connections that no request is on.
    pub fn idle_count(&self) -> usize {
        let all = self.requests.open.iter().chain(&self.tunnels.open);
        all.filter(|link| link.active() == 0 && !link.is_closed()).count()
    }

    fn request_place(&mut self, limits: &PoolLimits) -> Place {
        let Links { open, dialling } = &mut self.requests;
        // One that is worn ends by itself with the last request on it.
        open.retain(|link| !link.is_closed() && !link.is_worn(limits));
        if let Some(link) = open.iter().find(|link| !link.is_full() && !link.is_filled(limits)) {
            return Place::Here(link.lease());
        }
        // What the policy keeps off a connection needs another one, as over HTTP/1; the peer may let requests wait.
        if open.len() < MOST_LINKS || open.iter().all(|link| link.is_filled(limits)) {
            return Dialling::join(dialling);
        }
        let links = open.iter().filter(|link| !link.is_filled(limits));
        match links.min_by_key(|link| link.active()) {
            Some(link) if link.active() < MOST_WAITING => Place::Here(link.lease()),
            _ => Place::None,
        }
    }

    /// Each opaque connection has one of the pod's places, so that nothing else need bound how many connections they take.
    fn tunnel_place(&mut self) -> Place {
        let Links { open, dialling } = &mut self.tunnels;
        open.retain(|link| !link.is_closed());
        let has_room = |link: &&Link| !link.is_full() && link.active() < MOST_TUNNELS && !link.is_bulky();
        match open.iter().find(has_room) {
            Some(link) => Place::Here(link.lease()),
            None => Dialling::join(dialling),
        }
    }
}

/// A place on a connection from `pod` to the endpoint that was picked, opening one where needed.
pub(super) async fn lease(picked: &Picked, pod: &Pod, client: ClientAddr) -> Result<Lease, ProxyError> {
    let upstream = &picked.upstream;
    loop {
        let place = upstream.http2.borrow_mut().request_place(picked.limits());
        match place {
            Place::Here(lease) => {
                // What detection connected isn't needed; the endpoint needn't wait for it.
                drop(upstream.take_stashed());
                return Ok(lease);
            }
            Place::None => return Err(ErrorKind::Overflow.into()),
            Place::Wait(dialling) => dialling.wait().await?,
            Place::Dial(dial) => {
                let opened = open(picked, pod, client).await;
                return dial.settle(opened, &mut upstream.http2.borrow_mut().requests);
            }
        }
    }
}

/// A place for a CONNECT stream from `pod` to an endpoint that another agent stands before.
pub(super) async fn lease_tunnel(
    upstream: &Upstream,
    pod: &Pod,
    limits: &PoolLimits,
) -> Result<Lease, ProxyError> {
    loop {
        let place = upstream.http2.borrow_mut().tunnel_place();
        match place {
            Place::Here(lease) => return Ok(lease),
            Place::None => return Err(ErrorKind::Overflow.into()),
            Place::Wait(dialling) => dialling.wait().await?,
            Place::Dial(dial) => {
                let opened = open_mesh(upstream, pod, limits).await;
                return dial.settle(opened, &mut upstream.http2.borrow_mut().tunnels);
            }
        }
    }
}

async fn open(picked: &Picked, pod: &Pod, client: ClientAddr) -> Result<Link, ProxyError> {
    let upstream = &picked.upstream;
    if upstream.is_mesh() {
        // Bytes that detection made a way for aren't what requests go on.
        drop(upstream.take_stashed());
        return open_mesh(upstream, pod, picked.limits()).await;
    }
    let stream = upstream.connect_for_requests(pod, client, picked.limits(), Alpn::Http2).await?;
    let opened = Link::open(stream, Windows::PLAIN, Pace::APPLICATION, &pod.worker.limits).await;
    let failed = opened.as_ref().err();
    let told = std::mem::replace(&mut upstream.http2.borrow_mut().told, failed.is_some());
    if let Some(error) = failed.filter(|_| !told) {
        picked.has_no_http2(error);
    }
    opened
}

/// A connection to the endpoint's agent. One that is cut off before anything was asked on it is made anew at once: an agent that
/// is being replaced may close what had only come as far as its socket, and its successor is there already.
async fn open_mesh(upstream: &Upstream, pod: &Pod, limits: &PoolLimits) -> Result<Link, ProxyError> {
    let mut left = MOST_CUT_OFF;
    loop {
        let (opened, shaken) = match upstream.connect_mesh(pod, limits).await {
            Ok(stream) => {
                let opened = Link::open(stream, Windows::MESH, Pace::AGENT, &pod.worker.limits).await;
                (upstream.agreed(pod, opened), true)
            }
            Err(error) => (Err(error), false),
        };
        match opened {
            Err(error) if left > 0 && is_cut_off(&error, shaken) => {
                left -= 1;
                pod.worker.telemetry.metrics.agent().upstream_retry(error.kind.label());
            }
            opened => return opened,
        }
    }
}

/// True if the peer closed the socket within the handshake, or after it (`shaken`) without a word. Not if there was no socket.
fn is_cut_off(error: &ProxyError, shaken: bool) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionReset, NotConnected, UnexpectedEof};
    match (error.kind, error.cause()) {
        (ErrorKind::ConnectFailed, _) => shaken,
        (ErrorKind::TlsFailed, Some(TlsError::Io(error))) => {
            matches!(error.kind(), BrokenPipe | ConnectionReset | NotConnected | UnexpectedEof)
        }
        _ => false,
    }
}

impl Dialling {
    /// The right to dial, or a wait for whoever has it.
    fn join(current: &mut Option<Rc<Self>>) -> Place {
        if let Some(dialling) = current.as_ref().filter(|dialling| !dialling.is_done.get()) {
            return Place::Wait(dialling.clone());
        }
        let dialling = Rc::new(Self::default());
        *current = Some(dialling.clone());
        Place::Dial(Dial { dialling })
    }

    /// Until it is worth looking again.
    ///
    /// # Errors
    /// The dial's.
    async fn wait(&self) -> Result<(), ErrorKind> {
        let done = self.done.notified();
        if !self.is_done.get() {
            done.await;
        }
        self.failure.get().map_or(Ok(()), Err)
    }
}

impl Dial {
    /// A place on what was opened, which others find among `links`.
    fn settle(self, opened: Result<Link, ProxyError>, links: &mut Links) -> Result<Lease, ProxyError> {
        links.dialling = None;
        match opened {
            Ok(link) => {
                let lease = link.lease();
                links.open.push(link);
                Ok(lease)
            }
            Err(error) => {
                self.dialling.failure.set(Some(error.kind));
                Err(error)
            }
        }
    }
}

impl Drop for Dial {
    fn drop(&mut self) {
        self.dialling.is_done.set(true);
        self.dialling.done.notify_waiters();
    }
}
