//! Opens CONNECT streams to endpoints that another agent stands before, one for each opaque connection, or a proxy that speaks
//! HBONE, one for each connection.
//!
//! Used by `proxy::upstream` in place of connect(2); comes after `pool`, hands a `tunnel` on. The peer answers once it has
//! connected to its application, so that an endpoint that can't be reached is still told from one that can.

use std::fmt::Write;
use std::time::Duration;

use http::header::FORWARDED;
use http::{HeaderValue, Method, Request, StatusCode, Uri};
use tokio::task::spawn_local;
use tokio::time::{Instant, timeout, timeout_at};

use super::tunnel::Tunnel;
use super::{hbone, pool};
use crate::addr::{ClientAddr, EndpointAddr};
use crate::policy::PoolLimits;
use crate::proxy::headers::TRACEPARENT;
use crate::proxy::{ErrorKind, Pod, ProxyError, Stream, Upstream};

/// Connections that turn out to be going away before it is given up.
const MOST_CONNECTIONS_TRIED: usize = 8;

/// The peer's agent didn't agree.
#[derive(Debug, thiserror::Error)]
#[error("what stands before the endpoint answered CONNECT with {0}")]
struct Refused(StatusCode);

/// Connects to the endpoint through its agent, within `limit`. `client` is who the application is told it is from;
/// `trace` is a `traceparent`.
///
/// # Errors
/// As connecting to it; 503 is an endpoint that doesn't take the connection.
pub(crate) async fn open(
    upstream: &Upstream,
    pod: &Pod,
    client: Option<ClientAddr>,
    limits: &PoolLimits,
    limit: Duration,
    trace: Option<HeaderValue>,
) -> Result<Tunnel, ProxyError> {
    let deadline = Instant::now() + limit;
    let to = upstream.endpoint.addr;
    // The peer believes a port of the address that the connection itself comes from, whatever family was dialled.
    let client = client.map(|client| match pod.address(to.ip()) {
        Some(own) => ClientAddr::new(own, client.port()),
        None => client,
    });
    let mut head = head(to, client)?;
    if upstream.reach().is_hbone() {
        hbone::describe(&mut head, upstream, pod, client);
    }
    if let Some(trace) = trace {
        head.headers_mut().insert(TRACEPARENT, trace);
    }
    for _ in 0..MOST_CONNECTIONS_TRIED {
        let leased = timeout_at(deadline, pool::lease_tunnel(upstream, pod, limits)).await;
        let mut lease = leased.map_err(|elapsed| ProxyError::new(ErrorKind::ConnectTimeout, elapsed))??;
        let Some((response, send)) = lease.send(head.clone(), false).await? else { continue };
        match timeout_at(deadline, response).await {
            Ok(Ok(response)) if response.status() == StatusCode::OK => {
                return Ok(Tunnel::outgoing(response.into_body(), send, lease));
            }
            Ok(Ok(response)) => return Err(refused(response.status())),
            // It was closed while it lay idle, or is going away.
            Ok(Err(error)) if lease.fault(&error, true).untaken => {
                pod.worker.telemetry.metrics.agent().upstream_retry(ErrorKind::UpstreamClosed.label());
            }
            // No byte of the client's was sent: it is as good as not connected.
            Ok(Err(error)) => return Err(ProxyError::new(ErrorKind::ConnectFailed, error)),
            Err(elapsed) => return Err(ProxyError::new(ErrorKind::ConnectTimeout, elapsed)),
        }
    }
    Err(ErrorKind::UpstreamClosed.into())
}

/// Connects to `to` through the agent at the other end of `stream`, which is for this alone and ends with the tunnel, or after
/// `longest`. On a thread with a `LocalSet`.
///
/// # Errors
/// As [`open`].
pub(crate) async fn open_alone(
    stream: Stream,
    to: EndpointAddr,
    longest: Duration,
) -> Result<Tunnel, ProxyError> {
    let closed = |error: h2::Error| ProxyError::new(ErrorKind::UpstreamClosed, error);
    let (client, connection) = h2::client::handshake(stream).await.map_err(closed)?;
    spawn_local(timeout(longest, connection));
    let mut client = client.ready().await.map_err(closed)?;
    let (response, send) = client.send_request(head(to, None)?, false).map_err(closed)?;
    let response = response.await.map_err(closed)?;
    match response.status() {
        StatusCode::OK => Ok(Tunnel::alone(response.into_body(), send)),
        status => Err(refused(status)),
    }
}

/// What is asked for: the address that is dialled, and for whom (RFC 7239, 4 and 6).
fn head(to: EndpointAddr, client: Option<ClientAddr>) -> Result<Request<()>, ProxyError> {
    let internal = |error: http::Error| ProxyError::new(ErrorKind::Internal, error);
    let mut request = Request::new(());
    *request.method_mut() = Method::CONNECT;
    *request.uri_mut() = Uri::try_from(to.to_string()).map_err(|error| internal(error.into()))?;
    if let Some(client) = client {
        let mut value = String::with_capacity(64);
        let _ = write!(value, "for=\"{client}\"");
        let value = HeaderValue::try_from(value).map_err(|error| internal(error.into()))?;
        request.headers_mut().insert(FORWARDED, value);
    }
    Ok(request)
}

fn refused(status: StatusCode) -> ProxyError {
    let kind = match status {
        // The application didn't take the connection: another endpoint's may.
        StatusCode::SERVICE_UNAVAILABLE => ErrorKind::ConnectFailed,
        // Of ztunnel, and of our agents.
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => ErrorKind::TunnelDenied,
        _ => ErrorKind::TunnelRefused,
    };
    ProxyError::new(kind, Refused(status))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::net::SocketAddr;

    use super::*;

    #[test]
    fn a_connect_names_the_endpoint_and_the_client() {
        let check = |to: &str, client: &str| {
            let addr = |text: &str| text.parse::<SocketAddr>().unwrap();
            let head = head(addr(to).into(), Some(addr(client).into())).unwrap();
            assert_eq!(head.uri().authority().unwrap().as_str(), to);
            assert!(head.uri().scheme().is_none() && head.uri().path_and_query().is_none());
            assert_eq!(head.headers()[FORWARDED], format!("for=\"{client}\""));
        };
        check("10.1.0.1:80", "10.1.0.2:40000");
        check("[fd00::1]:80", "[fd00::2]:40000");
    }
}
