//! A question of the agent's own to an endpoint over HTTP/1: a request without a body, and the whole of a short answer.
//!
//! Asked by `proxy::external`, within its deadline. Uses connections that requests left behind and leaves its own to them, as
//! `mirror` does.

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};

use super::body::Body;
use super::conn::{Conn, Reader};
use super::message::{Asked, ResponseHead};
use super::mirror::final_head;
use crate::addr::ClientAddr;
use crate::proxy::error::{ErrorKind, ProxyError};
use crate::proxy::{Limits, Picked, Pod};
use crate::tls::Alpn;

/// What was answered.
#[derive(Debug)]
pub struct Answered {
    /// Status.
    pub status: StatusCode,
    /// Fields that don't end at this hop.
    pub headers: HeaderMap,
    /// All of the body.
    pub body: Bytes,
}

/// Asks the endpoint that was picked, and reads an answer whose body has at most `most` bytes. Asked once more where a
/// connection kept from earlier turns out to be closed: nothing came back on it.
///
/// # Errors
/// If the endpoint can't be reached, breaks off, or says more.
pub async fn ask(
    (method, path, headers): &(Method, String, HeaderMap),
    picked: &Picked,
    pod: &Pod,
    client: ClientAddr,
    most: usize,
) -> Result<Answered, ProxyError> {
    let question = question(method, path, headers);
    let asked = Asked { head: *method == Method::HEAD, connect: false };
    let upstream = &picked.upstream;
    // Requests that wait for a connection come first.
    let kept = if picked.is_crowded() { None } else { upstream.take_http1(picked.limits()) };
    if let Some(mut kept) = kept.filter(|kept| !kept.is_closed_now())
        && let Ok((answered, keeps)) = exchange(&mut kept, &question, asked, &pod.worker.limits, most).await
    {
        settle(kept, keeps, picked, pod);
        return Ok(answered);
    }
    let place = picked.connection()?;
    let stream = upstream.connect_for_requests(pod, client, picked.limits(), Alpn::Http1).await?;
    let mut fresh = Conn::new(stream, BytesMut::new()).hold(place);
    let (answered, keeps) = exchange(&mut fresh, &question, asked, &pod.worker.limits, most).await?;
    settle(fresh, keeps, picked, pod);
    Ok(answered)
}

/// The request as it goes out. Its parts are of types that have no line ends in them.
fn question(method: &Method, path: &str, headers: &HeaderMap) -> BytesMut {
    let mut out = BytesMut::with_capacity(512);
    for part in [method.as_str(), " ", path, " HTTP/1.1\r\n"] {
        out.put_slice(part.as_bytes());
    }
    for (name, value) in headers {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            out.put_slice(part);
        }
    }
    out.put_slice(b"\r\n");
    out
}

/// And whether the connection can carry another request.
async fn exchange(
    conn: &mut Conn,
    question: &[u8],
    asked: Asked,
    limits: &Limits,
    most: usize,
) -> Result<(Answered, bool), ProxyError> {
    let broken = |error: std::io::Error| ProxyError::new(ErrorKind::UpstreamClosed, error);
    let (mut from, mut to) = conn.split();
    to.send(question).await.map_err(broken)?;
    let head = final_head(&mut from, asked, limits).await.ok_or(ErrorKind::UpstreamClosed)?;
    let body = read(head.body, &mut from, most).await?;
    let delimited = !matches!(head.body, Body::UntilClose) && !head.switches(asked);
    let keeps = delimited && head.options.persistent(head.version) && conn.is_clear();
    Ok((Answered { status: head.status, headers: map(&head), body }, keeps))
}

async fn read(mut body: Body, from: &mut Reader<'_>, most: usize) -> Result<Bytes, ProxyError> {
    let mut whole = BytesMut::new();
    loop {
        let run = body.advance(from.buffered(), true).map_err(ErrorKind::UpstreamProtocol)?;
        whole.extend_from_slice(&from.buffered()[run.skip..run.skip + run.len]);
        from.consume(run.skip + run.len);
        if whole.len() > most {
            return Err(ErrorKind::Overflow.into());
        }
        if run.end {
            return Ok(whole.freeze());
        }
        if run.len > 0 && !from.buffered().is_empty() {
            continue;
        }
        let filled = from.fill().await.map_err(|error| ProxyError::new(ErrorKind::UpstreamClosed, error))?;
        if filled == 0 {
            return match body {
                Body::UntilClose => Ok(whole.freeze()),
                _ => Err(ErrorKind::UpstreamClosed.into()),
            };
        }
    }
}

fn map(head: &ResponseHead) -> HeaderMap {
    let mut map = HeaderMap::new();
    for field in head.raw.fields.iter().filter(|field| !field.hop) {
        let name = HeaderName::from_bytes(head.raw.name(field));
        let value = HeaderValue::from_bytes(head.raw.value(field));
        if let (Ok(name), Ok(value)) = (name, value) {
            map.append(name, value);
        }
    }
    map
}

fn settle(mut conn: Conn, keeps: bool, picked: &Picked, pod: &Pod) {
    if keeps && !pod.worker.drain.is_draining() {
        conn.release();
        picked.upstream.keep_http1(conn, picked.limits(), &pod.worker);
    } else {
        conn.farewell();
    }
}
