//! Whole exchanges over loopback, without the kernel programs.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use std::rc::Rc;
use std::time::Duration;

use bytes::BytesMut;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{LocalSet, spawn_local};

use super::*;
use crate::proxy::{Plan, testing};

mod budgets;
mod cookies;
mod hedges;
mod in_step;
mod limits;
mod mirrors;
mod over_http2;
mod queues;
mod restored;
mod retries;
mod sessions;

/// A client connected to `serve`, and the listener that plays the endpoint.
struct Lab {
    client: TcpStream,
    endpoint: TcpListener,
    conn: Rc<Connection>,
}

async fn lab() -> Lab {
    let endpoint = TcpListener::bind("127.0.0.1:0").await.unwrap();
    lab_with(endpoint).await
}

async fn lab_with(endpoint: TcpListener) -> Lab {
    let conn = testing::connection(endpoint.local_addr().unwrap());
    lab_on(endpoint, conn).await
}

async fn lab_on(endpoint: TcpListener, conn: Connection) -> Lab {
    let conn = Rc::new(conn);
    let front = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(front.local_addr().unwrap()).await.unwrap();
    let (stream, _) = front.accept().await.unwrap();
    let served = conn.clone();
    spawn_local(async move { serve(Conn::new(stream, BytesMut::new()), &served).await });
    Lab { client, endpoint, conn }
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let limit = async { tokio::time::timeout(Duration::from_secs(60), test).await.expect("test hangs") };
    LocalSet::new().block_on(&runtime, limit);
}

async fn expect(stream: &mut TcpStream, expected: &str) {
    let mut got = vec![0; expected.len()];
    let mut len = 0;
    while len < got.len() {
        match stream.read(&mut got[len..]).await {
            Ok(read @ 1..) => len += read,
            other => {
                panic!("{other:?} after {:?}, expected {expected:?}", String::from_utf8_lossy(&got[..len]))
            }
        }
    }
    assert_eq!(String::from_utf8_lossy(&got), expected);
}

/// Reads to the end of a head.
async fn head(stream: &mut TcpStream) -> String {
    let mut got = Vec::new();
    while !got.ends_with(b"\r\n\r\n") {
        got.push(
            stream
                .read_u8()
                .await
                .unwrap_or_else(|e| panic!("{e} after {:?}", String::from_utf8_lossy(&got))),
        );
    }
    String::from_utf8(got).unwrap()
}

async fn rest(stream: &mut TcpStream) -> std::io::Result<String> {
    let mut got = Vec::new();
    stream.read_to_end(&mut got).await.map(|_| String::from_utf8(got).unwrap())
}

impl Lab {
    async fn send(&mut self, text: &str) {
        self.client.write_all(text.as_bytes()).await.unwrap();
    }

    async fn accept(&self) -> TcpStream {
        self.endpoint.accept().await.unwrap().0
    }
}

/// The request as the endpoint sees it, without the id that is added.
fn without_id(head: &str) -> String {
    let lines = head.split_inclusive("\r\n").filter(|line| !line.starts_with("x-request-id: "));
    lines.collect()
}

#[test]
fn requests_share_connections_and_keep_their_spelling() {
    run(async {
        let mut lab = lab().await;
        lab.send("GET /1 HTTP/1.1\r\nhOST: a\r\nX-Y:  z\r\n\r\n").await;
        let mut server = lab.accept().await;
        let got = head(&mut server).await;
        assert!(got.contains("x-request-id: "), "{got}");
        assert_eq!(without_id(&got), "GET /1 HTTP/1.1\r\nhOST: a\r\nX-Y:  z\r\n\r\n");
        let answer = "HTTP/1.1 200 Fine\r\nSERVER: x\r\ncontent-length: 2\r\n\r\nok";
        server.write_all(answer.as_bytes()).await.unwrap();
        expect(&mut lab.client, answer).await;
        lab.send("POST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello").await;
        assert!(head(&mut server).await.starts_with("POST /2 "));
        expect(&mut server, "hello").await;
        server.write_all(b"HTTP/1.1 204 No\r\n\r\n").await.unwrap();
        expect(&mut lab.client, "HTTP/1.1 204 No\r\n\r\n").await;
    });
}

#[test]
fn what_detection_connected_is_used_before_what_was_kept() {
    run(async {
        let mut lab = lab().await;
        let upstream = lab.conn.pick(&Plan::default(), &[], None).unwrap().upstream;
        lab.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let mut kept = lab.accept().await;
        head(&mut kept).await;
        kept.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
        head(&mut lab.client).await;
        upstream.stash(TcpStream::connect(lab.endpoint.local_addr().unwrap()).await.unwrap(), None);
        let mut made = lab.accept().await;
        lab.send("GET /second HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert!(head(&mut made).await.starts_with("GET /second "));
        made.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
        head(&mut lab.client).await;
    });
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    run(async {
        let mut lab = lab().await;
        lab.send("GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let mut server = lab.accept().await;
        for n in 1..=2 {
            assert!(head(&mut server).await.starts_with(&format!("GET /{n} ")));
            server
                .write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{n}").as_bytes())
                .await
                .unwrap();
            expect(&mut lab.client, &format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{n}")).await;
        }
    });
}

#[test]
fn chunks_and_trailers_pass_both_ways() {
    run(async {
        let mut lab = lab().await;
        let body = "5\r\nhello\r\n1;x=y\r\n!\r\n0\r\nX-Sum: 7\r\n\r\n";
        lab.send(&format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{}", &body[..7]))
            .await;
        let mut server = lab.accept().await;
        head(&mut server).await;
        lab.send(&body[7..]).await;
        expect(&mut server, body).await;
        let answer = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
        server.write_all(answer.as_bytes()).await.unwrap();
        expect(&mut lab.client, &answer).await;
    });
}

#[test]
fn a_large_body_passes_with_back_pressure() {
    run(async {
        let mut lab = lab().await;
        let body = "0123456789abcdef".repeat(1024 * 1024);
        lab.send(&format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len())).await;
        let mut server = lab.accept().await;
        head(&mut server).await;
        let (mut client_in, mut client_out) = lab.client.into_split();
        let sent = body.clone();
        let sending =
            spawn_local(async move { client_out.write_all(sent.as_bytes()).await.map(|()| client_out) });
        // Nobody reads: what the agent takes from the client is bounded by its own buffer and the sockets'.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert!(!sending.is_finished());
        let mut got = vec![0; body.len()];
        server.read_exact(&mut got).await.unwrap();
        assert_eq!(got, body.as_bytes());
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        let all = answer.clone();
        let answering =
            spawn_local(async move { server.write_all(answer.as_bytes()).await.map(|()| server) });
        let mut got = vec![0; all.len()];
        client_in.read_exact(&mut got).await.unwrap();
        assert_eq!(got, all.as_bytes());
        drop((sending, answering));
    });
}

#[test]
fn continue_is_the_servers_to_say() {
    run(async {
        let mut lab = lab().await;
        lab.send("PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n").await;
        let mut server = lab.accept().await;
        assert!(head(&mut server).await.contains("Expect: 100-continue\r\n"));
        server
            .write_all(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n")
            .await
            .unwrap();
        expect(&mut lab.client, "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n")
            .await;
        lab.send("ok").await;
        expect(&mut server, "ok").await;
        server.write_all(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n").await.unwrap();
        expect(&mut lab.client, "HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n").await;
    });
}

#[test]
fn a_refusal_instead_of_continue_ends_the_connection() {
    run(async {
        let mut lab = lab().await;
        lab.send("PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n").await;
        let mut server = lab.accept().await;
        head(&mut server).await;
        server.write_all(b"HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n").await.unwrap();
        let got = rest(&mut lab.client).await.unwrap();
        assert_eq!(got, "HTTP/1.1 401 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    });
}

#[test]
fn head_responses_have_no_body() {
    run(async {
        let mut lab = lab().await;
        lab.send("HEAD / HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let mut server = lab.accept().await;
        head(&mut server).await;
        server.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n").await.unwrap();
        assert!(head(&mut server).await.starts_with("GET /2 "));
    });
}

#[test]
fn upgrade_makes_a_tunnel_with_half_close() {
    run(async {
        let mut lab = lab().await;
        lab.send("GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n\x01early")
            .await;
        let mut server = lab.accept().await;
        assert!(head(&mut server).await.ends_with("Connection: Upgrade\r\n\r\n"));
        server
            .write_all(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n\x02first")
            .await
            .unwrap();
        let got = head(&mut lab.client).await;
        assert_eq!(
            got,
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
        );
        expect(&mut lab.client, "\x02first").await;
        expect(&mut server, "\x01early").await;
        lab.client.shutdown().await.unwrap();
        assert_eq!(rest(&mut server).await.unwrap(), "");
        server.write_all(b"late").await.unwrap();
        drop(server);
        assert_eq!(rest(&mut lab.client).await.unwrap(), "late");
    });
}

/// Resolves once `count` has stood still for a while. Under a paused clock it would be one that only seems to.
async fn stands_still(count: &std::cell::Cell<usize>) {
    let mut seen = None;
    while seen != Some(count.get()) {
        seen = Some(count.get());
        // Time in which a sender that isn't held back would have gone on, socket buffers and h2's windows included.
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[test]
fn a_switch_within_the_requests_body_sends_no_byte_twice() {
    run(async {
        let mut lab = lab().await;
        // More than the sockets hold, so that the server's 101 comes while a write to it is half done.
        let body: Vec<u8> = (0..4_000_000_u32).flat_map(u32::to_be_bytes).collect();
        let asks = format!(
            "POST / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: x\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        lab.send(&asks).await;
        let mut server = lab.accept().await;
        head(&mut server).await;
        let sent = Rc::new(std::cell::Cell::new(0));
        let (mut from_proxy, mut to_proxy) = lab.client.into_split();
        let (count, whole) = (sent.clone(), body.clone());
        spawn_local(async move {
            for part in whole.chunks(10_000) {
                to_proxy.write_all(part).await.unwrap();
                count.set(count.get() + part.len());
            }
            to_proxy.write_all(b"and now bytes").await.unwrap();
        });
        stands_still(&sent).await;
        assert!(sent.get() < body.len(), "nothing held the client back");
        let switch = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n";
        server.write_all(switch).await.unwrap();
        let mut got = vec![0; switch.len()];
        from_proxy.read_exact(&mut got).await.unwrap();
        let mut got = vec![0; body.len()];
        server.read_exact(&mut got).await.unwrap();
        let differs = got.iter().zip(&body).position(|(got, sent)| got != sent);
        assert_eq!(differs, None, "the body arrives as it was sent");
        expect(&mut server, "and now bytes").await;
    });
}

#[test]
fn connect_makes_a_tunnel() {
    run(async {
        let mut lab = lab().await;
        lab.send("CONNECT b:443 HTTP/1.1\r\nHost: b:443\r\n\r\n").await;
        let mut server = lab.accept().await;
        assert!(head(&mut server).await.starts_with("CONNECT b:443 HTTP/1.1\r\n"));
        server.write_all(b"HTTP/1.1 200 Go\r\n\r\n").await.unwrap();
        expect(&mut lab.client, "HTTP/1.1 200 Go\r\n\r\n").await;
        lab.send("hi").await;
        expect(&mut server, "hi").await;
    });
}

#[test]
fn a_half_closed_client_is_answered_and_its_end_is_passed_on() {
    run(async {
        let mut lab = lab().await;
        lab.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        lab.client.shutdown().await.unwrap();
        let mut server = lab.accept().await;
        head(&mut server).await;
        assert_eq!(rest(&mut server).await.unwrap(), "");
        server.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
        assert!(rest(&mut lab.client).await.unwrap().ends_with("\r\n\r\nok"));
    });
}

#[test]
fn a_client_that_resets_cancels_upstream() {
    run(async {
        let mut lab = lab().await;
        lab.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let mut server = lab.accept().await;
        head(&mut server).await;
        SockRef::from(&lab.client).set_linger(Some(Duration::ZERO)).unwrap();
        drop(lab.client);
        let end = rest(&mut server).await;
        assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    });
}

#[test]
fn an_unclean_upstream_end_is_never_a_clean_one() {
    run(async {
        for (answer, reset_it) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort", false),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort\r\n", false),
            ("HTTP/1.1 200 OK\r\n\r\nuntil close", true),
        ] {
            let mut lab = lab().await;
            lab.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
            let mut server = lab.accept().await;
            head(&mut server).await;
            server.write_all(answer.as_bytes()).await.unwrap();
            let seen = head(&mut lab.client).await;
            if reset_it {
                SockRef::from(&server).set_linger(Some(Duration::ZERO)).unwrap();
            }
            drop(server);
            match rest(&mut lab.client).await {
                Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
                Ok(body) => {
                    assert!(!reset_it && !body.ends_with("0\r\n\r\n") && body.len() != 9, "{seen}{body}")
                }
            }
        }
    });
}

#[test]
fn a_response_that_ends_with_its_connection_does_so_for_the_client() {
    run(async {
        let mut lab = lab().await;
        lab.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let mut server = lab.accept().await;
        head(&mut server).await;
        server.write_all(b"HTTP/1.0 200 OK\r\nX: y\r\n\r\nall of it").await.unwrap();
        drop(server);
        let got = rest(&mut lab.client).await.unwrap();
        assert_eq!(got, "HTTP/1.0 200 OK\r\nX: y\r\nConnection: close\r\n\r\nall of it");
    });
}

#[test]
fn a_client_of_version_1_0_gets_no_chunks_and_no_interim_responses() {
    run(async {
        let mut lab = lab().await;
        lab.send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").await;
        let mut server = lab.accept().await;
        assert!(head(&mut server).await.starts_with("GET / HTTP/1.0\r\n"));
        let chunked = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n";
        server.write_all(chunked.as_bytes()).await.unwrap();
        assert_eq!(rest(&mut lab.client).await.unwrap(), "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nabc");
    });
}

#[test]
fn version_1_0_keeps_its_connection_when_it_asks_to() {
    run(async {
        let mut lab = lab().await;
        for _ in 0..2 {
            lab.send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").await;
            let mut server = lab.accept().await;
            head(&mut server).await;
            server.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx").await.unwrap();
            expect(
                &mut lab.client,
                "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: keep-alive\r\n\r\nx",
            )
            .await;
        }
    });
}

#[test]
fn a_kept_connection_that_was_closed_is_replaced() {
    run(async {
        let mut lab = lab().await;
        lab.send("GET /1 HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let mut server = lab.accept().await;
        head(&mut server).await;
        server.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
        head(&mut lab.client).await;
        lab.send("GET /2 HTTP/1.1\r\nHost: a\r\n\r\n").await;
        // It takes the request and closes without a word.
        head(&mut server).await;
        drop(server);
        let mut server = lab.accept().await;
        assert!(head(&mut server).await.starts_with("GET /2 "));
        server.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
        head(&mut lab.client).await;
        drop(server);
        lab.send("POST /3 HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx").await;
        let mut server = lab.accept().await;
        assert!(head(&mut server).await.starts_with("POST /3 "));
        let metrics = lab.conn.pod.worker.telemetry.metrics.agent();
        assert_eq!(metrics.upstream_retries.with_label_values(&["upstream_closed"]).get(), 1);
    });
}

#[test]
fn an_endpoint_that_closes_without_an_answer_is_a_503() {
    run(async {
        let mut lab = lab().await;
        lab.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let mut server = lab.accept().await;
        head(&mut server).await;
        drop(server);
        assert!(head(&mut lab.client).await.starts_with("HTTP/1.1 503 "));
        expect(&mut lab.client, "upstream closed\n").await;
        // The client's own connection has nothing to do with it.
        lab.send("GET /2 HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let mut server = lab.accept().await;
        assert!(head(&mut server).await.starts_with("GET /2 "));
    });
}

#[test]
fn an_endpoint_that_cannot_be_reached_is_a_503() {
    run(async {
        let mut lab = lab().await;
        let Lab { endpoint, .. } = lab_with(TcpListener::bind("127.0.0.1:0").await.unwrap()).await;
        drop(std::mem::replace(&mut lab.endpoint, endpoint));
        lab.send("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert!(head(&mut lab.client).await.starts_with("HTTP/1.1 503 "));
        let endpoint = lab.conn.pick(&Plan::default(), &[], None).unwrap().upstream.endpoint.clone();
        let cost = f64::from_bits(endpoint.load.ewma_ns.load(std::sync::atomic::Ordering::Relaxed));
        assert!(cost >= 20e6, "the balancer was told: {cost}");
    });
}

#[test]
fn an_upstream_that_breaks_the_protocol_is_a_502() {
    run(async {
        for answer in [
            "SSH-2.0-x\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            "HTTP/1.1 101 x\r\n\r\n",
            "HTTP/1.1 200 OK\n\n",
        ] {
            let mut lab = lab().await;
            lab.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
            let mut server = lab.accept().await;
            head(&mut server).await;
            server.write_all(answer.as_bytes()).await.unwrap();
            assert!(head(&mut lab.client).await.starts_with("HTTP/1.1 502 "), "{answer:?}");
        }
    });
}

#[test]
fn a_reset_ends_a_request_whose_body_the_server_does_not_take() {
    limits::run_paused(async {
        let mut lab = lab().await;
        lab.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000\r\n\r\n").await;
        let mut server = lab.accept().await;
        head(&mut server).await;
        while tokio::time::timeout(Duration::from_millis(300), lab.client.writable()).await.is_ok() {
            let _ = lab.client.try_write(&[7; 64 * 1024]);
        }
        SockRef::from(&lab.client).set_linger(Some(Duration::ZERO)).unwrap();
        drop(lab.client);
        let end = server.read_to_end(&mut Vec::new()).await;
        assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    });
}

#[test]
fn a_reset_behind_pipelined_requests_cancels_the_one_under_way() {
    run(async {
        let mut lab = lab().await;
        let request = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        lab.send(&request.repeat(10_000)).await;
        let mut server = lab.accept().await;
        head(&mut server).await;
        SockRef::from(&lab.client).set_linger(Some(Duration::ZERO)).unwrap();
        drop(lab.client);
        let end = server.read(&mut [0]).await;
        assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    });
}

#[test]
fn a_request_that_has_arrived_when_the_drain_begins_is_answered() {
    run(async {
        let mut lab = lab().await;
        lab.send("GET /1 HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let mut server = lab.accept().await;
        head(&mut server).await;
        server.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
        head(&mut lab.client).await;
        // Nothing between the two lets the connection hear of its bytes first.
        lab.client.try_write(b"GET /2 HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        lab.conn.pod.worker.drain.begin();
        assert!(head(&mut server).await.starts_with("GET /2 "));
        server.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
        let answer = rest(&mut lab.client).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 204 ") && answer.contains("Connection: close"), "{answer}");
    });
}
