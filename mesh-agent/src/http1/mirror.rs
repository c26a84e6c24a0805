//! A copy of an HTTP/1 request on its way to a mirror: the same bytes once more, the answer read and thrown away. Over
//! HTTP/2 where the mirror's DestinationRule says so.
//!
//! Made by `forward` when a request has been sent completely, delivered by `proxy::mirror`. Uses connections that requests
//! left behind and leaves its own to them.

use std::cell::Cell;

use bytes::{Bytes, BytesMut};
use http::{Version, request};

use super::body::Body;
use super::conn::{Conn, Reader};
use super::message::{Asked, RequestHead, ResponseHead};
use super::upload::Sent;
use super::{head, over_http2, write};
use crate::addr::ClientAddr;
use crate::http2;
use crate::proxy::{Limits, Picked, Pod};
use crate::tls::Alpn;

/// Interim responses before the final one.
const MAX_INTERIM: usize = 32;

/// A complete request, as it was sent to its endpoint.
#[derive(Clone, Debug)]
pub struct Mirrored {
    bytes: Bytes,
    asked: Asked,
    version: Version,
}

impl Mirrored {
    /// None if its body wasn't kept.
    pub(super) fn of(request: &RequestHead, sent: &Sent) -> Option<Self> {
        if !sent.is_whole() {
            return None;
        }
        let mut bytes = BytesMut::new();
        write::put_request(request, &mut bytes);
        sent.put(&mut bytes);
        Some(Self { bytes: bytes.freeze(), asked: request.asked(), version: request.parts.version })
    }

    /// With another head for one mirror. None if its own can't be read any more.
    pub fn with_head(&self, head: &request::Parts) -> Option<Self> {
        let (request, end) = self.request()?;
        let mut bytes = BytesMut::new();
        write::put_request_as(&request, head, false, &mut bytes);
        bytes.extend_from_slice(&self.bytes[end..]);
        Some(Self { bytes: bytes.freeze(), ..*self })
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
        if picked.is_over_http2() {
            return Box::pin(self.translated()?.deliver(picked, pod, client, answered)).await;
        }
        let upstream = &picked.upstream;
        // Requests that wait for a connection come first.
        let kept = if picked.is_crowded() { None } else { upstream.take_http1(picked.limits()) };
        let mut conn = match kept.filter(|kept| !kept.is_closed_now()) {
            Some(kept) => kept,
            None => {
                let place = picked.connection().ok()?;
                let stream =
                    upstream.connect_for_requests(pod, client, picked.limits(), Alpn::Http1).await.ok()?;
                Conn::new(stream, BytesMut::new()).hold(place)
            }
        };
        let head = {
            let (mut from, mut to) = conn.split();
            to.send(&self.bytes).await.ok()?;
            let head = final_head(&mut from, self.asked, &pod.worker.limits).await?;
            answered.set(true);
            discard(head.body, &mut from).await?;
            head
        };
        let delimited = !matches!(head.body, Body::UntilClose) && !head.switches(self.asked);
        let persistent = self.version == Version::HTTP_11 && head.options.persistent(head.version);
        if delimited && persistent && conn.is_clear() {
            conn.release();
            upstream.keep_http1(conn, picked.limits(), &pod.worker);
        }
        Some(())
    }

    /// The same over HTTP/2, for an endpoint that is spoken to in that.
    fn translated(&self) -> Option<http2::Mirrored> {
        let (request, end) = self.request()?;
        let (body, trailers) = over_http2::whole(request.body, &self.bytes[end..])?;
        Some(http2::Mirrored::translated(over_http2::head(&request), body, trailers))
    }

    /// Its head, and where that ends.
    fn request(&self) -> Option<(RequestHead, usize)> {
        let end = head::find_end(&self.bytes, &mut 0).ok()??;
        // Its limits were kept when it came.
        let request = RequestHead::parse(self.bytes.slice(..end), usize::MAX, usize::MAX).ok()?;
        Some((request, end))
    }
}

/// The head of the answer proper, past interim ones.
pub(super) async fn final_head(from: &mut Reader<'_>, asked: Asked, limits: &Limits) -> Option<ResponseHead> {
    for _ in 0..=MAX_INTERIM {
        let bytes = loop {
            match from.take_head(limits.max_head_bytes).ok()? {
                Some(bytes) => break bytes,
                None if from.fill().await.ok()? == 0 => return None,
                None => {}
            }
        };
        let head = ResponseHead::parse(bytes, limits.max_headers, asked).ok()?;
        if !head.status.is_informational() || head.switches(asked) {
            return Some(head);
        }
    }
    None
}

async fn discard(mut body: Body, from: &mut Reader<'_>) -> Option<()> {
    loop {
        let run = body.advance(from.buffered(), false).ok()?;
        if run.len > 0 {
            from.consume(run.len);
        }
        if run.end {
            return Some(());
        }
        if from.fill().await.ok()? == 0 {
            return matches!(body, Body::UntilClose).then_some(());
        }
    }
}
