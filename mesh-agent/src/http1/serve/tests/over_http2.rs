//! Clients of HTTP/1 whose endpoint is spoken to in HTTP/2: the h2 crate plays the endpoint, bytes are the client's.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{HeaderMap, Method, Request, Response};

use super::*;
use crate::http2::tests::{Endpoint, collect, eventually, reply};
use crate::model::ServicePort;
use crate::policy::ClusterPolicy;
use crate::proxy::{Backends, Limits};
use crate::route::{HeaderEdits, PathRewrite, Rewrite};
use crate::tls::testing::{Authority, accept, origination};

mod bodies;
mod ends;
mod hedges;
mod quotas;
mod tries;

/// A service port under a rule with `h2UpgradePolicy: UPGRADE`.
fn upgraded(name: &str, endpoints: &[std::net::SocketAddr]) -> Arc<ServicePort> {
    let mut port = testing::service_port(name, endpoints);
    let policy = ClusterPolicy { over_http2: true, ..ClusterPolicy::default() };
    Arc::get_mut(&mut port).unwrap().policy = Arc::new(policy);
    port
}

/// Clients of a service whose endpoint is at `addr`.
struct Over {
    client: TcpStream,
    conn: Rc<Connection>,
}

impl Over {
    async fn to(addr: std::net::SocketAddr) -> Self {
        Self::with(addr, Limits::default()).await
    }

    async fn with(addr: std::net::SocketAddr, limits: Limits) -> Self {
        let conn = testing::connection_with(addr, limits);
        conn.set_backends(Backends::Service(upgraded("up", &[addr])));
        let lab = lab_on(TcpListener::bind("127.0.0.1:0").await.unwrap(), conn).await;
        Self { client: lab.client, conn: lab.conn }
    }

    /// Another client of the same pod.
    async fn another(&self) -> TcpStream {
        let front = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(front.local_addr().unwrap()).await.unwrap();
        let (stream, _) = front.accept().await.unwrap();
        let served = self.conn.clone();
        spawn_local(async move { serve(Conn::new(stream, BytesMut::new()), &served).await });
        client
    }

    async fn send(&mut self, text: &str) {
        self.client.write_all(text.as_bytes()).await.unwrap();
    }
}

fn fields(headers: &HeaderMap) -> Vec<(&str, &str)> {
    let fields = headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap()));
    fields.filter(|(name, _)| *name != "x-request-id").collect()
}

#[test]
fn a_request_arrives_as_http2_and_is_answered_as_http1() {
    run(async {
        let seen = Rc::new(RefCell::new(None));
        let note = seen.clone();
        let endpoint =
            Endpoint::start(move |request: Request<RecvStream>, mut respond: SendResponse<Bytes>| {
                note.replace(Some(request.into_parts().0));
                async move {
                    let response =
                        Response::builder().status(201).header("x-a", "1").header("content-length", 2);
                    let mut stream = respond.send_response(response.body(()).unwrap(), false).unwrap();
                    stream.send_data(Bytes::from_static(b"ok"), true).unwrap();
                }
            })
            .await;
        let mut over = Over::to(endpoint.addr).await;
        over.send(
            "GET /a?b=c HTTP/1.1\r\nhOST: cart:80\r\nX-Up: Y\r\nConnection: keep-alive, x-gone\r\nX-Gone: 1\r\n\
             Keep-Alive: timeout=5\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\nTE: trailers\r\n\r\n",
        )
        .await;
        expect(&mut over.client, "HTTP/1.1 201 Created\r\nx-a: 1\r\ncontent-length: 2\r\n\r\nok").await;
        let head = seen.take().unwrap();
        assert_eq!((head.method, head.version), (Method::GET, Version::HTTP_2));
        assert_eq!(head.uri.to_string(), "http://cart:80/a?b=c");
        assert_eq!(fields(&head.headers), [("x-up", "Y"), ("te", "trailers")]);
        assert!(head.headers.contains_key("x-request-id"));
    });
}

#[test]
fn over_tls_http2_is_agreed_on_and_http1_is_not_spoken_instead() {
    run(async {
        let authority = Authority::new();
        let server = authority.server(&["up.test"], false);
        let mut http1_only = (*server).clone();
        http1_only.alpn_protocols = vec![b"http/1.1".to_vec()];
        for (server, status) in [(server, 204), (Arc::new(http1_only), 503)] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let addr = listener.local_addr().unwrap();
            spawn_local(async move {
                while let Ok((tcp, _)) = listener.accept().await {
                    let Ok(stream) = accept(&server, tcp).await else { continue };
                    assert_eq!(stream.alpn().unwrap(), b"h2");
                    let mut connection =
                        h2::server::handshake(crate::proxy::Stream::from(stream)).await.unwrap();
                    while let Some(Ok((_, mut respond))) = connection.accept().await {
                        respond
                            .send_response(Response::builder().status(204).body(()).unwrap(), true)
                            .unwrap();
                    }
                }
            });
            let mut over = Over::to(addr).await;
            let mut port = upgraded("up", &[addr]);
            let tls = Some(origination(authority.spec("up.test")));
            let policy = ClusterPolicy { over_http2: true, tls, ..ClusterPolicy::default() };
            Arc::get_mut(&mut port).unwrap().policy = Arc::new(policy);
            over.conn.set_backends(Backends::Service(port));
            over.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
            let head = head(&mut over.client).await;
            assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
        }
    });
}

#[test]
fn a_routes_filters_hold_and_none_of_them_breaks_the_other_version() {
    run(async {
        let endpoint =
            Endpoint::start(|request: Request<RecvStream>, mut respond: SendResponse<Bytes>| async move {
                let mut response = Response::new(());
                response.headers_mut().insert("x-target", request.uri().to_string().parse().unwrap());
                response.headers_mut().insert("x-env", request.headers()["x-env"].clone());
                response.headers_mut().insert("server", "secret".parse().unwrap());
                respond.send_response(response, true).unwrap();
            })
            .await;
        let mut over = Over::to(endpoint.addr).await;
        let set = |name: &str, value: &str| (name.parse().unwrap(), value.parse().unwrap());
        let mut rule = testing::rule(&[0]);
        rule.filters.request = HeaderEdits {
            set: vec![set("x-env", "test"), set("keep-alive", "5"), set("connection", "x")],
            ..HeaderEdits::default()
        };
        rule.filters.rewrite = Some(Rewrite {
            hostname: Some("b".parse().unwrap()),
            path: Some(PathRewrite::Full("/new".into())),
        });
        rule.filters.response = HeaderEdits {
            set: vec![set("x-added", "1"), set("transfer-encoding", "gzip")],
            remove: vec!["server".parse().unwrap()],
            ..HeaderEdits::default()
        };
        testing::route(&over.conn, rule, &[upgraded("up", &[endpoint.addr])]);
        over.send("GET /old?q HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let got = head(&mut over.client).await;
        let mut lines: Vec<_> = got.trim_end().lines().collect();
        lines.sort_unstable();
        let want =
            ["HTTP/1.1 200 OK", "content-length: 0", "x-added: 1", "x-env: test", "x-target: http://b/new?q"];
        assert_eq!(lines, want);
    });
}

#[test]
fn targets_of_every_form_arrive_as_they_were_meant() {
    run(async {
        let endpoint =
            Endpoint::start(|request: Request<RecvStream>, mut respond: SendResponse<Bytes>| async move {
                let mut response = Response::new(());
                let told = format!("{} {}", request.method(), request.uri());
                response.headers_mut().insert("x-got", told.parse().unwrap());
                respond.send_response(response, true).unwrap();
            })
            .await;
        let mut over = Over::to(endpoint.addr).await;
        for (line, got) in [
            ("GET /a%20b?c=d", "GET http://a/a%20b?c=d"),
            ("OPTIONS *", "OPTIONS http://a*"),
            ("PURGE http://a:80/x", "PURGE http://a:80/x"),
        ] {
            over.send(&format!("{line} HTTP/1.1\r\nHost: a\r\n\r\n")).await;
            let head = head(&mut over.client).await;
            assert!(head.contains(&format!("x-got: {got}\r\n")), "{line}: {head}");
        }
    });
}

#[test]
fn a_limit_on_requests_counts_those_too() {
    run(async {
        let go = Rc::new(tokio::sync::Notify::new());
        let held = go.clone();
        let endpoint = Endpoint::start(move |_, respond| {
            let held = held.clone();
            async move {
                held.notified().await;
                reply(respond, "");
            }
        })
        .await;
        let mut over = Over::to(endpoint.addr).await;
        let mut port = upgraded("one", &[endpoint.addr]);
        let policy = Arc::get_mut(&mut Arc::get_mut(&mut port).unwrap().policy).unwrap();
        policy.limits.max_requests = Some(1);
        over.conn.set_backends(Backends::Service(port));
        let mut other = over.another().await;
        other.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        endpoint.has(1).await;
        over.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert!(head(&mut over.client).await.starts_with("HTTP/1.1 503 "));
        expect(&mut over.client, "overflow\n").await;
        go.notify_one();
        expect(&mut other, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    });
}

#[test]
fn pipelined_requests_are_answered_in_order_on_a_kept_connection() {
    run(async {
        let endpoint =
            Endpoint::start(|request: Request<RecvStream>, mut respond: SendResponse<Bytes>| async move {
                let path = request.uri().path().to_owned();
                if path == "/1" {
                    // A server that takes its time: the others could overtake it. Real, since h2's exchanges let a paused
                    // clock run on.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                let mut stream = respond.send_response(Response::new(()), false).unwrap();
                stream.send_data(Bytes::from(path), true).unwrap();
            })
            .await;
        let mut over = Over::to(endpoint.addr).await;
        let get = |n: usize| format!("GET /{n} HTTP/1.1\r\nHost: a\r\n\r\n");
        over.send(&(1..=3).map(get).collect::<String>()).await;
        for n in 1..=3 {
            let answer =
                format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n/{n}\r\n0\r\n\r\n");
            expect(&mut over.client, &answer).await;
        }
        over.send(&get(4)).await;
        assert!(head(&mut over.client).await.starts_with("HTTP/1.1 200 "));
        assert_eq!((endpoint.connections.get(), endpoint.requests.get()), (1, 4));
    });
}

#[test]
fn requests_of_several_clients_share_one_connection_at_the_same_time() {
    run(async {
        let go = Rc::new(tokio::sync::Notify::new());
        let held = go.clone();
        let endpoint = Endpoint::start(move |_, respond| {
            let held = held.clone();
            async move {
                held.notified().await;
                reply(respond, "");
            }
        })
        .await;
        let over = Over::to(endpoint.addr).await;
        let mut clients = vec![over.another().await, over.another().await, over.another().await];
        for client in &mut clients {
            client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        }
        endpoint.has(3).await;
        assert_eq!(endpoint.connections.get(), 1);
        go.notify_waiters();
        for client in &mut clients {
            expect(client, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
        }
    });
}

#[test]
fn what_leaves_http_behind_stays_on_a_connection_of_its_own() {
    run(async {
        for asks in [
            "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
            "CONNECT b:443 HTTP/1.1\r\nHost: b:443\r\n\r\n",
        ] {
            let endpoint = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let mut over = Over::to(endpoint.local_addr().unwrap()).await;
            over.send(asks).await;
            let (mut server, _) = endpoint.accept().await.unwrap();
            let got = head(&mut server).await;
            assert_eq!(got.lines().next(), asks.lines().next());
            let switch = if asks.starts_with("CONNECT") { "200 Go" } else { "101 Go" };
            server.write_all(format!("HTTP/1.1 {switch}\r\n\r\n").as_bytes()).await.unwrap();
            head(&mut over.client).await;
            over.send("bytes").await;
            expect(&mut server, "bytes").await;
        }
    });
}

#[test]
fn an_endpoint_without_http2_fails_its_requests_and_is_not_asked_in_http1() {
    run(async {
        for answer in ["HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n", "<html>\n", ""] {
            let endpoint = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let mut over = Over::to(endpoint.local_addr().unwrap()).await;
            over.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
            let (mut server, _) = endpoint.accept().await.unwrap();
            expect(&mut server, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
            server.write_all(answer.as_bytes()).await.unwrap();
            server.shutdown().await.unwrap();
            let (status, body) = match answer {
                // Nothing was said: it may as well be going away.
                "" => (" 503 ", "connect failed\n"),
                _ => (" 502 ", "upstream not http2\n"),
            };
            let got = head(&mut over.client).await;
            assert!(got.contains(status), "{answer:?}: {got}");
            expect(&mut over.client, body).await;
            // The rest of what it got is the agent's SETTINGS, no request.
            let mut rest = Vec::new();
            let _ = server.read_to_end(&mut rest).await;
            assert!(!rest.windows(4).any(|part| part == b"HTTP" || part == b"GET "), "{rest:?}");
            // The client's own connection has nothing to do with it.
            over.send("GET /2 HTTP/1.1\r\nHost: a\r\n\r\n").await;
            endpoint.accept().await.unwrap();
        }
    });
}
