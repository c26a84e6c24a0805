//! The HTTP/2 connections from one pod to one endpoint, on one worker.
//!
//! Kept in `proxy::upstream`; `stream` takes a place on one for each request. A second connection is opened only when
//! the limit of concurrent streams, the peer's or the policy's, is reached, or the first is worn: it had its share of
//! requests, or is too old. One dial at a time: whoever comes meanwhile waits for it, and shares its failure.

use std::cell::Cell;
use std::rc::Rc;

use tokio::sync::Notify;

use super::link::{Lease, Link};
use crate::addr::ClientAddr;
use crate::policy::PoolLimits;
use crate::proxy::{ErrorKind, Picked, Pod, ProxyError};
use crate::tls::Alpn;

/// Connections per pod, endpoint and worker.
const MOST_LINKS: usize = 16;
/// Requests that may wait, per connection, for the peer to allow another stream.
const MOST_WAITING: usize = 1024;

/// Connections to one endpoint.
#[derive(Default)]
pub struct Pool {
    links: Vec<Link>,
    dialling: Option<Rc<Dialling>>,
    /// The log was told that the endpoint has no HTTP/2, since it last had.
    told: bool,
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
        self.links
            .retain(|link| !link.is_closed() && !link.is_idle_since(oldest_ns) && !link.is_worn(limits));
        !self.links.is_empty()
    }

    /// Open connections that no request is on.
    pub fn idle_count(&self) -> usize {
        self.links.iter().filter(|link| link.active() == 0 && !link.is_closed()).count()
    }

    fn place(&mut self, limits: &PoolLimits) -> Place {
        // One that is worn ends by itself with the last request on it.
        self.links.retain(|link| !link.is_closed() && !link.is_worn(limits));
        if let Some(link) = self.links.iter().find(|link| !link.is_full() && !link.is_filled(limits)) {
            return Place::Here(link.lease());
        }
        // What the policy keeps off a connection needs another one, as over HTTP/1; the peer may let requests wait.
        if self.links.len() < MOST_LINKS || self.links.iter().all(|link| link.is_filled(limits)) {
            if let Some(dialling) = self.dialling.as_ref().filter(|dialling| !dialling.is_done.get()) {
                return Place::Wait(dialling.clone());
            }
            let dialling = Rc::new(Dialling::default());
            self.dialling = Some(dialling.clone());
            return Place::Dial(Dial { dialling });
        }
        let links = self.links.iter().filter(|link| !link.is_filled(limits));
        match links.min_by_key(|link| link.active()) {
            Some(link) if link.active() < MOST_WAITING => Place::Here(link.lease()),
            _ => Place::None,
        }
    }
}

/// A place on a connection from `pod` to the endpoint that was picked, opening one where needed.
pub(super) async fn lease(picked: &Picked, pod: &Pod, client: ClientAddr) -> Result<Lease, ProxyError> {
    let upstream = &picked.upstream;
    loop {
        let place = upstream.http2.borrow_mut().place(picked.limits());
        match place {
            Place::Here(lease) => {
                // What detection connected isn't needed; the endpoint needn't wait for it.
                drop(upstream.take_stashed());
                return Ok(lease);
            }
            Place::None => return Err(ErrorKind::Overflow.into()),
            Place::Wait(dialling) => {
                if let Some(kind) = dialling.wait().await {
                    return Err(kind.into());
                }
            }
            Place::Dial(dial) => {
                let opened = open(picked, pod, client).await;
                let mut pool = upstream.http2.borrow_mut();
                pool.dialling = None;
                match opened {
                    Ok(link) => {
                        let lease = link.lease();
                        pool.links.push(link);
                        return Ok(lease);
                    }
                    Err(error) => {
                        dial.dialling.failure.set(Some(error.kind));
                        return Err(error);
                    }
                }
            }
        }
    }
}

async fn open(picked: &Picked, pod: &Pod, client: ClientAddr) -> Result<Link, ProxyError> {
    let stream = picked.upstream.connect_for_requests(pod, client, picked.limits(), Alpn::Http2).await?;
    let opened = Link::open(stream, &pod.worker.limits).await;
    let failed = opened.as_ref().err();
    let told = std::mem::replace(&mut picked.upstream.http2.borrow_mut().told, failed.is_some());
    if let Some(error) = failed.filter(|_| !told) {
        picked.has_no_http2(error);
    }
    opened
}

impl Dialling {
    /// The dial's failure, or None if it is worth looking again.
    async fn wait(&self) -> Option<ErrorKind> {
        let done = self.done.notified();
        if !self.is_done.get() {
            done.await;
        }
        self.failure.get()
    }
}

impl Drop for Dial {
    fn drop(&mut self) {
        self.dialling.is_done.set(true);
        self.dialling.done.notify_waiters();
    }
}
