//! One check of one endpoint: a connection from a captured pod, and what is asked on it.
//!
//! The connection is made as the data path makes its own (`crate::proxy::upstream`): from the pod's network namespace, and
//! marked as the agent's, with TLS on it where the endpoint's DestinationRule asks for that (`mesh` for mutual TLS). It is for
//! this check alone. Used by `run`; `grpc` is its part for gRPC.

use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;

use bytes::Bytes;
use http::Request;
use http::header::{CONNECTION, HOST, USER_AGENT};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use super::grpc;
use super::wanted::Captured;
use crate::addr::EndpointAddr;
use crate::balance::health::Failure;
use crate::kernel::Flows;
use crate::policy::traffic::{HealthCheck, Probe};
use crate::proxy::{Stream, sockets};
use crate::tls::{Alpn, Origination};

/// What servers see in `User-Agent`.
pub(super) const AGENT: &str = "mesh-agent/health";
/// Of a response's head, and of its body: what comes after that isn't waited for.
const MOST_BYTES: usize = 64 * 1024;

/// Checks whoever `connect` leads to; `host` is what it is called where the check doesn't say.
pub(super) async fn ask(
    check: &HealthCheck,
    host: &str,
    connect: impl Future<Output = Result<Stream, Failure>>,
) -> Result<(), Failure> {
    let asked = async {
        let stream = connect.await?;
        match &check.probe {
            Probe::Tcp => {
                stream.farewell();
                Ok(())
            }
            Probe::Grpc(service) => grpc::check(stream, host, service).await,
            Probe::Http { path, host: own, .. } => {
                http(stream, path, own.as_deref().unwrap_or(host), check).await
            }
        }
    };
    timeout(check.timeout, asked).await.unwrap_or(Err(Failure::Timeout))
}

/// A connection to `to` from the pod, which no hook captures. `to_agent`: not the application takes it, but the agent that
/// stands before it.
pub(super) async fn connect(
    from: &Captured,
    flows: &Flows,
    to: EndpointAddr,
    to_agent: bool,
) -> io::Result<TcpStream> {
    let ip: IpAddr = to.ip();
    let socket = sockets::socket_in(from.netns.as_fd(), ip)?;
    match to_agent {
        true => flows.mark_own_unpublished(socket.as_fd())?,
        false => flows.mark_own(socket.as_fd(), None)?,
    }
    TcpSocket::from_std_stream(socket.into()).connect(to.socket_addr()).await
}

/// The connection as what `probe` asks goes over it: in TLS where the rule wants that (Envoy: checks have the cluster's
/// transport socket), so that one of `tcp` passes with the handshake.
pub(super) async fn wrap(
    tcp: TcpStream,
    to: EndpointAddr,
    tls: &Origination,
    probe: &Probe,
) -> Result<Stream, Failure> {
    let alpn = match probe {
        Probe::Tcp => Alpn::None,
        Probe::Http { .. } => Alpn::Http1,
        Probe::Grpc(_) => Alpn::Http2,
    };
    let wrapped = tls.shake_hands(tcp, alpn).await;
    wrapped.map(Stream::from).map_err(|error| {
        tls.tell(to, &error);
        Failure::Tls
    })
}

async fn http(stream: Stream, path: &str, host: &str, check: &HealthCheck) -> Result<(), Failure> {
    let handshake = http1::Builder::new().max_buf_size(MOST_BYTES).handshake(TokioIo::new(stream));
    let (mut sender, connection) = handshake.await.map_err(broken)?;
    let exchange = async {
        let request = Request::get(path)
            .header(HOST, host)
            .header(USER_AGENT, AGENT)
            .header(CONNECTION, "close")
            .body(Empty::<Bytes>::new())
            .map_err(|_| Failure::Protocol)?;
        let response = sender.send_request(request).await.map_err(broken)?;
        let status = response.status().as_u16();
        if !check.expects(status) {
            return Err(Failure::Status(status));
        }
        end(response.into_body()).await
    };
    tokio::pin!(exchange);
    tokio::select! {
        biased;
        outcome = &mut exchange => outcome,
        // What came before the connection's end still counts.
        _ = connection => exchange.await,
    }
}

/// Waits for the end of a body, or until it is clear that it is long.
async fn end(mut body: Incoming) -> Result<(), Failure> {
    let mut read = 0;
    while let Some(frame) = body.frame().await {
        read += frame.map_err(broken)?.data_ref().map_or(0, Bytes::len);
        if read > MOST_BYTES {
            break;
        }
    }
    Ok(())
}

fn broken(error: hyper::Error) -> Failure {
    if error.is_parse() || error.is_parse_too_large() { Failure::Protocol } else { Failure::Closed }
}

#[cfg(test)]
mod tests;
