//! A copy of an HTTP/2 request on its way to a mirror: the same head and body once more, the answer read and thrown away.
//!
//! Made by `stream` when a request has been sent completely, delivered by `proxy::mirror`. Takes its place on the
//! connections of `pool` like any request.

use std::cell::Cell;
use std::future::poll_fn;

use bytes::Bytes;
use h2::SendStream;
use http::{HeaderMap, Request, request};

use super::pool;
use crate::addr::ClientAddr;
use crate::proxy::{Picked, Pod};

/// Connections that turn out to be going away before it is given up.
const MOST_CONNECTIONS_TRIED: usize = 3;

/// A complete request, as it was sent to its endpoint.
#[derive(Clone, Debug)]
pub struct Mirrored {
    head: request::Parts,
    body: Vec<Bytes>,
    trailers: Option<HeaderMap>,
}

impl Mirrored {
    pub(super) fn of(head: &request::Parts, body: &[Bytes]) -> Self {
        Self { head: head.clone(), body: body.to_vec(), trailers: None }
    }

    /// Of a request that came over HTTP/1.
    pub(crate) fn translated(head: Request<()>, body: Bytes, trailers: Option<HeaderMap>) -> Self {
        let body = Some(body).filter(|body| !body.is_empty()).into_iter().collect();
        Self { head: head.into_parts().0, body, trailers }
    }

    /// With another head for one mirror.
    pub fn with_head(&self, head: &request::Parts) -> Self {
        Self { head: head.clone(), ..self.clone() }
    }

    /// Sends it and reads the answer to its end; `answered` is set at the answer's head. None if that is all there is to
    /// say: it failed.
    pub async fn deliver(
        &self,
        picked: &Picked,
        pod: &Pod,
        client: ClientAddr,
        answered: &Cell<bool>,
    ) -> Option<()> {
        for _ in 0..MOST_CONNECTIONS_TRIED {
            let mut lease = pool::lease(picked, pod, client).await.ok()?;
            let request = Request::from_parts(self.head.clone(), ());
            let Some((response, mut to)) = lease.send(request, self.is_bodiless()).await.ok()? else {
                continue;
            };
            // A mirror that wants no more of it may have answered all the same.
            let _ = self.send_body(&mut to).await;
            let mut body = response.await.ok()?.into_body();
            answered.set(true);
            while let Some(part) = body.data().await {
                body.flow_control().release_capacity(part.ok()?.len()).ok()?;
            }
            return Some(());
        }
        None
    }

    fn is_bodiless(&self) -> bool {
        self.body.is_empty() && self.trailers.is_none()
    }

    async fn send_body(&self, to: &mut SendStream<Bytes>) -> Option<()> {
        for (at, part) in self.body.iter().enumerate() {
            let mut left = part.clone();
            while !left.is_empty() {
                to.reserve_capacity(left.len());
                let capacity = match to.capacity() {
                    0 => poll_fn(|cx| to.poll_capacity(cx)).await?.ok()?,
                    capacity => capacity,
                };
                let now = left.split_to(capacity.min(left.len()));
                let last = left.is_empty() && at + 1 == self.body.len() && self.trailers.is_none();
                to.send_data(now, last).ok()?;
            }
        }
        self.trailers.clone().map_or(Some(()), |trailers| to.send_trailers(trailers).ok())
    }
}
