//! What counts as healthy: answers of real servers, and what isn't one.
#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::tls::testing::{self, Authority, origination};

fn check(probe: Probe, timeout_ms: u64) -> HealthCheck {
    HealthCheck {
        probe,
        interval: Duration::from_secs(1),
        timeout: Duration::from_millis(timeout_ms),
        healthy_threshold: 1,
        unhealthy_threshold: 1,
        port: None,
    }
}

async fn dial(address: SocketAddr) -> Result<Stream, Failure> {
    TcpStream::connect(address).await.map(Stream::from).map_err(|_| Failure::Connect)
}

fn get() -> Probe {
    Probe::Http { path: "/healthz?deep=1".into(), host: None, statuses: vec![200..=299, 418..=418] }
}

/// The outcome of a check against a server that reads a head and answers with these bytes, and that head.
async fn answered(probe: Probe, bytes: &'static [u8]) -> (Result<(), Failure>, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        let whole = |head: &[u8]| head.windows(4).any(|end| end == b"\r\n\r\n");
        while !whole(&head) && stream.read_buf(&mut head).await.unwrap() > 0 {}
        stream.write_all(bytes).await.unwrap();
        String::from_utf8_lossy(&head).into_owned()
    };
    let check = check(probe, 30_000);
    tokio::join!(ask(&check, "cart.shop", dial(address)), server)
}

#[tokio::test]
async fn an_expected_status_passes_and_the_request_is_as_configured() {
    let (outcome, head) = answered(get(), b"HTTP/1.1 204 No Content\r\n\r\n").await;
    assert_eq!(outcome, Ok(()));
    assert!(head.starts_with("GET /healthz?deep=1 HTTP/1.1\r\n"), "{head}");
    let head = head.to_ascii_lowercase();
    assert!(
        head.contains("host: cart.shop\r\n") && head.contains("user-agent: mesh-agent/health\r\n"),
        "{head}"
    );
    let own = Probe::Http { path: "/".into(), host: Some("own.example".into()), statuses: vec![200..=200] };
    let (outcome, head) = answered(own, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    assert_eq!(outcome, Ok(()));
    assert!(head.to_ascii_lowercase().contains("host: own.example\r\n"), "{head}");
    assert_eq!(answered(get(), b"HTTP/1.1 418 Teapot\r\nContent-Length: 0\r\n\r\n").await.0, Ok(()));
    assert_eq!(answered(get(), b"HTTP/1.0 200 OK\r\n\r\nuntil the end").await.0, Ok(()));
}

#[tokio::test]
async fn everything_else_fails_by_its_name() {
    let failure = async |bytes| answered(get(), bytes).await.0.unwrap_err();
    assert_eq!(failure(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n").await, Failure::Status(503));
    assert_eq!(failure(b"HTTP/1.1 302 Elsewhere\r\nLocation: /\r\n\r\n").await, Failure::Status(302));
    assert_eq!(failure(b"").await, Failure::Closed);
    assert_eq!(failure(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort").await, Failure::Closed);
    assert_eq!(failure(b"SSH-2.0-OpenSSH_9.2\r\n\r\n").await, Failure::Protocol);
    let grpc = answered(Probe::Grpc(String::new()), b"HTTP/1.1 400 Bad\r\n\r\n").await.0.unwrap_err();
    assert!(matches!(grpc, Failure::Protocol | Failure::Closed), "{grpc:?}");
}

#[tokio::test]
async fn no_connection_and_no_answer_in_time_are_told_apart() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    // Accepted by the kernel, answered by nobody.
    assert_eq!(ask(&check(get(), 50), "h", dial(address)).await, Err(Failure::Timeout));
    assert_eq!(ask(&check(Probe::Tcp, 30_000), "h", dial(address)).await, Ok(()));
    drop(listener);
    for probe in [get(), Probe::Tcp, Probe::Grpc("a".into())] {
        let outcome = ask(&check(probe, 30_000), "h", dial(address)).await;
        assert_eq!(outcome, Err(Failure::Connect));
    }
}

/// The outcome of a gRPC check of `service`, by a server that answers so; and what it was sent.
async fn grpc(
    service: &str,
    message: Option<&'static [u8]>,
    status: &'static str,
) -> (Result<(), Failure>, Vec<u8>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (sent, received) = tokio::sync::oneshot::channel();
    let server = async {
        let (stream, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(stream).await.unwrap();
        let (request, mut respond) = connection.accept().await.unwrap().unwrap();
        let handled = async {
            assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
            assert_eq!(request.uri().authority().unwrap(), "cart.shop");
            assert_eq!(request.headers()["content-type"], "application/grpc");
            assert_eq!(request.headers()["te"], "trailers");
            let mut body = request.into_body();
            let mut asked = Vec::new();
            while let Some(data) = body.data().await {
                asked.extend_from_slice(&data.unwrap());
            }
            let _ = sent.send(asked);
            let trailers: HeaderMap =
                [("grpc-status".parse().unwrap(), status.parse().unwrap())].into_iter().collect();
            match message {
                Some(message) => {
                    let mut stream = respond.send_response(http::Response::new(()), false).unwrap();
                    stream.send_data(Bytes::from_static(message), false).unwrap();
                    stream.send_trailers(trailers).unwrap();
                }
                None => {
                    let mut response = http::Response::new(());
                    *response.headers_mut() = trailers;
                    respond.send_response(response, true).unwrap();
                }
            }
        };
        tokio::join!(handled, async { while connection.accept().await.is_some() {} });
    };
    let check = check(Probe::Grpc(service.to_owned()), 30_000);
    let (outcome, ()) = tokio::join!(ask(&check, "cart.shop", dial(address)), server);
    (outcome, received.await.unwrap())
}

#[tokio::test]
async fn over_grpc_only_serving_passes() {
    let serving = Some(&b"\0\0\0\0\x02\x08\x01"[..]);
    let (outcome, asked) = grpc("shop.Cart", serving, "0").await;
    assert_eq!((outcome, &asked[..]), (Ok(()), &b"\0\0\0\0\x0b\x0a\x09shop.Cart"[..]));
    let (outcome, asked) = grpc("", serving, "0").await;
    assert_eq!((outcome, &asked[..]), (Ok(()), &b"\0\0\0\0\0"[..]));
    assert_eq!(grpc("", Some(b"\0\0\0\0\x02\x08\x02"), "0").await.0, Err(Failure::NotServing(2)));
    assert_eq!(grpc("", Some(b"\0\0\0\0\0"), "0").await.0, Err(Failure::NotServing(0)));
    assert_eq!(grpc("", Some(b"nonsense"), "0").await.0, Err(Failure::Protocol));
    assert_eq!(grpc("", serving, "13").await.0, Err(Failure::Grpc(13)));
    assert_eq!(grpc("", None, "5").await.0, Err(Failure::Grpc(5)));
    assert_eq!(grpc("", None, "12").await.0, Err(Failure::Grpc(12)));
}

/// The outcome of a check under `tls`, by a server of HTTP/1 or HTTP/2 that is healthy, and what it agreed to speak.
async fn over_tls(
    tls: &Origination,
    server: &Arc<rustls::ServerConfig>,
    probe: Probe,
) -> (Result<(), Failure>, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let served = async {
        let (tcp, _) = listener.accept().await.unwrap();
        let Ok(tls) = testing::accept(server, tcp).await else { return String::new() };
        let alpn = String::from_utf8(tls.alpn().unwrap_or_default()).unwrap();
        let mut stream = Stream::from(tls);
        match &*alpn {
            "h2" => {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                let (request, mut respond) = connection.accept().await.unwrap().unwrap();
                assert_eq!(request.uri().scheme_str(), Some("https"));
                let mut sending = respond.send_response(http::Response::new(()), false).unwrap();
                sending.send_data(Bytes::from_static(b"\0\0\0\0\x02\x08\x01"), false).unwrap();
                let end = [("grpc-status".parse().unwrap(), "0".parse().unwrap())];
                sending.send_trailers(end.into_iter().collect()).unwrap();
                while connection.accept().await.is_some() {}
            }
            "http/1.1" => {
                assert!(stream.read_buf(&mut Vec::new()).await.unwrap() > 0);
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
            }
            _ => assert_eq!(stream.read(&mut [0]).await.ok(), Some(0), "nothing is said on it"),
        }
        alpn
    };
    let check = check(probe.clone(), 30_000);
    let connect = async {
        let tcp = TcpStream::connect(address).await.map_err(|_| Failure::Connect)?;
        wrap(tcp, address.into(), tls, &probe).await
    };
    tokio::join!(ask(&check, "cart.shop", connect), served)
}

#[tokio::test]
async fn what_a_rule_wants_encrypted_is_asked_over_tls() {
    let authority = Authority::new();
    let (tls, server) = (origination(authority.spec("cart.shop")), authority.server(&["cart.shop"], false));
    for (probe, spoken) in [(get(), "http/1.1"), (Probe::Grpc("a".into()), "h2"), (Probe::Tcp, "")] {
        assert_eq!(over_tls(&tls, &server, probe).await, (Ok(()), spoken.to_owned()));
    }
    let other = authority.server(&["other.shop"], false);
    for probe in [get(), Probe::Tcp] {
        assert_eq!(
            over_tls(&tls, &other, probe).await.0,
            Err(Failure::Tls),
            "its certificate is somebody else's"
        );
    }
}
