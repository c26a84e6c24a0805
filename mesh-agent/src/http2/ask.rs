//! A question of the agent's own to an endpoint over HTTP/2: a short request, and the whole of a short answer.
//!
//! Asked by `proxy::external`, within its deadline. Takes its place on the connections of `pool` like any request.

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Request, StatusCode};

use super::pool;
use crate::addr::ClientAddr;
use crate::proxy::{ErrorKind, Picked, Pod, ProxyError};

/// Connections that turn out to be going away before it is given up.
const MOST_CONNECTIONS_TRIED: usize = 3;

/// What was answered.
#[derive(Debug)]
pub struct Answered {
    /// Status.
    pub status: StatusCode,
    /// Of the head.
    pub headers: HeaderMap,
    /// All of the body.
    pub body: Bytes,
    /// Behind it.
    pub trailers: Option<HeaderMap>,
}

/// Asks the endpoint that was picked, and reads an answer whose body has at most `most` bytes. A question that certainly
/// wasn't taken up is asked once more on another connection.
///
/// # Errors
/// If the endpoint can't be reached, breaks off, or says more.
pub async fn ask(
    head: &Request<()>,
    body: &Bytes,
    picked: &Picked,
    pod: &Pod,
    client: ClientAddr,
    most: usize,
) -> Result<Answered, ProxyError> {
    for _ in 0..MOST_CONNECTIONS_TRIED {
        let mut lease = pool::lease(picked, pod, client).await?;
        let Some((response, mut to)) = lease.send(head.clone(), body.is_empty()).await? else { continue };
        // Questions are shorter than any window that a peer begins with; h2 keeps what goes beyond it.
        if !body.is_empty() && to.send_data(body.clone(), true).is_err() {
            continue;
        }
        let response = match response.await {
            Ok(response) => response,
            Err(error) if lease.fault(&error, false).untaken => continue,
            Err(error) => return Err(ProxyError::new(ErrorKind::UpstreamClosed, error)),
        };
        let (head, mut from) = response.into_parts();
        let broken = |error: h2::Error| ProxyError::new(ErrorKind::UpstreamClosed, error);
        let mut whole = BytesMut::new();
        while let Some(part) = from.data().await {
            let part = part.map_err(broken)?;
            from.flow_control().release_capacity(part.len()).map_err(broken)?;
            whole.extend_from_slice(&part);
            if whole.len() > most {
                return Err(ErrorKind::Overflow.into());
            }
        }
        let trailers = from.trailers().await.map_err(broken)?;
        return Ok(Answered { status: head.status, headers: head.headers, body: whole.freeze(), trailers });
    }
    Err(ErrorKind::UpstreamClosed.into())
}
