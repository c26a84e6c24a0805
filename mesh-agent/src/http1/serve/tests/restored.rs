//! HTTP/1 through two agents, the stretch between them HTTP/2: what either end sees is what the other one sent.

use std::cell::RefCell;

use tokio::sync::Mutex;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::*;
use crate::addr::{ClientAddr, EndpointAddr, OrigDst};
use crate::identity::SpiffeId;
use crate::identity::testing::Root;
use crate::model::Target;
use crate::proxy::detect::TLS_HANDSHAKE;
use crate::proxy::edges::Edges;
use crate::proxy::{Backends, Direction, Limits, Pod, Reach, Upstream, inbound};
use crate::telemetry::Telemetry;

mod ends;
mod streams;

/// A client, the agent of its node, the agent of the application's node, the application.
struct Mesh {
    client: TcpStream,
    application: Mutex<UnboundedReceiver<TcpStream>>,
    source: Rc<Connection>,
    /// Connections between the agents, as the second one has them.
    between: Rc<RefCell<Vec<Rc<Connection>>>>,
}

fn pod(limits: &Limits) -> Rc<Pod> {
    let pod = testing::pod(limits.clone(), Telemetry::quiet());
    pod.identity.replace(Root::shared().identities().of_pod(&testing::workload()));
    pod
}

impl Mesh {
    async fn new() -> Self {
        Self::with(Limits::default()).await
    }

    async fn with(limits: Limits) -> Self {
        Self::of(&limits, true).await
    }

    /// The application listens where its agent is dialled, or nowhere.
    async fn of(limits: &Limits, listens: bool) -> Self {
        let gate = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = gate.local_addr().unwrap();
        let between: Rc<RefCell<Vec<Rc<Connection>>>> = Rc::default();
        let (made, far) = (between.clone(), pod(limits));
        let (to_application, application) = unbounded_channel();
        spawn_local(async move {
            while let Ok((stream, from)) = gate.accept().await {
                stream.set_nodelay(true).unwrap();
                let (made, far, to_application) = (made.clone(), far.clone(), to_application.clone());
                spawn_local(async move {
                    // Whoever speaks TLS is the near agent; the far one dials from within this process too.
                    let mut byte = [0];
                    if stream.peek(&mut byte).await.is_err() || byte[0] != TLS_HANDSHAKE {
                        return to_application.send(stream).unwrap_or(());
                    }
                    let mut dst = stream.local_addr().unwrap();
                    if !listens {
                        dst.set_port(1);
                    }
                    let from = ClientAddr::from(from);
                    let conn = Connection::open(
                        &far,
                        Direction::Inbound,
                        from,
                        OrigDst::from(dst),
                        &Target::Unknown,
                    );
                    let conn = Rc::new(conn);
                    made.borrow_mut().push(conn.clone());
                    inbound::serve_agent(&conn, stream.into(), BytesMut::new()).await;
                });
            }
        });
        let near = pod(limits);
        let client = ClientAddr::from(std::net::SocketAddr::from(([127, 0, 0, 1], 40000)));
        let conn =
            Connection::open(&near, Direction::Outbound, client, OrigDst::from(addr), &Target::Unknown);
        let reach = Reach::Mesh(SpiffeId::new("cluster.local", "test", "default"));
        let endpoint =
            Upstream::endpoint_at(EndpointAddr::from(addr), Some(std::sync::Arc::new(testing::workload())));
        let edges = Edges::outbound(&conn.pod, None, None, &reach);
        conn.set_backends(Backends::Single(Rc::new(Upstream::pooled(endpoint, edges, reach))));
        let lab = lab_on(TcpListener::bind("127.0.0.1:0").await.unwrap(), conn).await;
        Self { client: lab.client, application: Mutex::new(application), source: lab.conn, between }
    }

    async fn send(&mut self, text: &str) {
        self.client.write_all(text.as_bytes()).await.unwrap();
    }

    async fn accept(&self) -> TcpStream {
        self.application.lock().await.recv().await.unwrap()
    }

    /// Another client of the same pod.
    async fn another(&self) -> TcpStream {
        let front = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(front.local_addr().unwrap()).await.unwrap();
        let (stream, _) = front.accept().await.unwrap();
        let served = self.source.clone();
        spawn_local(async move { serve(Conn::new(stream, BytesMut::new()), &served).await });
        client
    }
}

/// One exchange: what the client sends, what the application sees of it, what that answers, what the client sees of it.
async fn check(sent: &str, seen: &str, said: &str, got: &str) {
    let mut mesh = Mesh::new().await;
    mesh.send(sent).await;
    let mut server = mesh.accept().await;
    let (seen_head, seen_body) = seen.split_at(seen.find("\r\n\r\n").unwrap() + 4);
    assert_eq!(without_id(&head(&mut server).await), seen_head, "{sent}");
    expect(&mut server, seen_body).await;
    server.write_all(said.as_bytes()).await.unwrap();
    if !["ength", "ENGTH", "chunked", " 204 "].iter().any(|part| said.contains(part)) {
        // The connection's end is that of the response.
        drop(server);
        assert_eq!(rest(&mut mesh.client).await.unwrap(), got, "{sent}");
    } else {
        expect(&mut mesh.client, got).await;
    }
}

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

#[test]
fn requests_arrive_as_they_were_sent() {
    run(async {
        for text in [
            "GET /a?b=%20 HTTP/1.1\r\nhOST: a:8080\r\nX-B: 1\r\nx-a: \r\nX-b: 2\r\n\r\n",
            "GET http://a/b HTTP/1.1\r\nHost: A:80\r\n\r\n",
            "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: \r\n\r\n",
            "PURGE /x HTTP/1.1\r\nHost: a\r\ncookie: a=b\r\nX-Y: z\r\nCOOKIE: c\r\n\r\n",
            "POST /p HTTP/1.1\r\nHost: a\r\nContent-LENGTH: 5\r\nContent-Type: text/plain\r\n\r\nhello",
            "POST /p HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
            "POST /p HTTP/1.1\r\nHost: a\r\nTransfer-ENCODING: chunked\r\nTE: trailers\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            "POST /p HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n2\r\nab\r\n0\r\nX-SUM: 1\r\ny: 2\r\n\r\n",
            "POST /p HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ] {
            // The id comes behind the lines of the head.
            check(text, text, OK, OK).await;
        }
        let old = "GET /old HTTP/1.0\r\nX-A: 1\r\n\r\n";
        check(
            old,
            old,
            "HTTP/1.0 200 OK\r\nServer: x\r\n\r\nall of it",
            "HTTP/1.0 200 OK\r\nServer: x\r\nConnection: close\r\n\r\nall of it",
        )
        .await;
    });
}

#[test]
fn what_ends_at_the_clients_hop_ends_there() {
    run(async {
        check(
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: close, x-gone\r\nX-Gone: 1\r\nKeep-Alive: 5\r\nMesh-Agent-Http1: 1.0 t=/evil\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive\r\nmesh-agent-http1: 1.0 r=evil\r\n\r\nok",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok",
        )
        .await;
        // Chunks are framing, and their extensions with them; that there are chunks is said.
        check(
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n0;c\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x=\"y\"\r\nok\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        )
        .await;
    });
}

#[test]
fn responses_arrive_as_they_were_said() {
    run(async {
        let get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        let head = "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n";
        for (asked, said) in [
            (
                get,
                "HTTP/1.1 299 Very  Fine 100%\r\nSERVER: x\r\nX-a: 1\r\nY: 2\r\nx-A: 3\r\nContent-LENGTH: 2\r\n\r\nok",
            ),
            (get, "HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n"),
            (
                get,
                "HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\nTrailer: X-End\r\n\r\n2\r\nok\r\n0\r\nX-END: y\r\n\r\n",
            ),
            (get, "HTTP/1.1 204 No Content\r\nX: y\r\n\r\n"),
            (get, "HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\nETag: \"a\"\r\n\r\n"),
            (head, "HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n"),
            (head, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
            (
                get,
                "HTTP/1.1 103 Early Hints\r\nLINK: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
            ),
            (
                get,
                "HTTP/1.1 426 Go Higher\r\nUpgrade: TLS/1.0, a/1\r\nContent-Length: 0\r\nConnection: Upgrade\r\n\r\n",
            ),
        ] {
            check(asked, asked, said, said).await;
        }
        // Its length is where its connection ends, and so is the client's.
        check(
            get,
            get,
            "HTTP/1.1 200 OK\r\nX: y\r\n\r\nto the end",
            "HTTP/1.1 200 OK\r\nX: y\r\nConnection: close\r\n\r\nto the end",
        )
        .await;
        // A client that doesn't know chunks gets none.
        let old = "GET / HTTP/1.0\r\nHost: a\r\n\r\n";
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n";
        let mut mesh = Mesh::new().await;
        mesh.send(old).await;
        let mut server = mesh.accept().await;
        head_of(&mut server, old).await;
        server.write_all(chunked.as_bytes()).await.unwrap();
        assert_eq!(rest(&mut mesh.client).await.unwrap(), "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nok");
    });
}

async fn head_of(server: &mut TcpStream, sent: &str) {
    assert_eq!(without_id(&head(server).await), sent);
}

#[test]
fn a_body_that_waits_for_100_continue_waits() {
    run(async {
        let mut mesh = Mesh::new().await;
        let post = "POST / HTTP/1.1\r\nHost: a\r\nEXPECT: 100-continue\r\nContent-Length: 5\r\n\r\n";
        mesh.send(post).await;
        let mut server = mesh.accept().await;
        head_of(&mut server, post).await;
        server.write_all(b"HTTP/1.1 100 Go On\r\nX-Y: z\r\n\r\n").await.unwrap();
        expect(&mut mesh.client, "HTTP/1.1 100 Go On\r\nX-Y: z\r\n\r\n").await;
        mesh.send("hello").await;
        expect(&mut server, "hello").await;
        server.write_all(OK.as_bytes()).await.unwrap();
        expect(&mut mesh.client, OK).await;
        // Refused without: the body never comes, and the connection goes on with the next request where both want it.
        mesh.send(post).await;
        head_of(&mut server, post).await;
        server.write_all(b"HTTP/1.1 417 No\r\nContent-Length: 0\r\n\r\n").await.unwrap();
        assert!(head(&mut mesh.client).await.starts_with("HTTP/1.1 417 No\r\n"));
    });
}

#[test]
fn the_applications_connections_are_kept_for_the_next_request() {
    run(async {
        let mut mesh = Mesh::new().await;
        let mut server = None;
        for n in 0..3 {
            let get = format!("GET /{n} HTTP/1.1\r\nHost: a\r\n\r\n");
            mesh.send(&get).await;
            if server.is_none() {
                server = Some(mesh.accept().await);
            }
            let server = server.as_mut().unwrap();
            head_of(server, &get).await;
            server.write_all(OK.as_bytes()).await.unwrap();
            expect(&mut mesh.client, OK).await;
        }
        assert_eq!(mesh.between.borrow().len(), 1);
        // One that the application closed meanwhile is replaced without the client's noticing.
        drop(server);
        mesh.send("GET /again HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let mut server = mesh.accept().await;
        head(&mut server).await;
        server.write_all(OK.as_bytes()).await.unwrap();
        expect(&mut mesh.client, OK).await;
    });
}

#[test]
fn clients_of_a_pod_share_one_connection_between_agents_and_have_their_own_to_the_application() {
    run(async {
        let mesh = Mesh::new().await;
        let mut clients = [mesh.another().await, mesh.another().await, mesh.another().await];
        let mut servers = Vec::new();
        for (n, client) in clients.iter_mut().enumerate() {
            let get = format!("GET /{n} HTTP/1.1\r\nHost: a\r\n\r\n");
            client.write_all(get.as_bytes()).await.unwrap();
            let mut server = mesh.accept().await;
            head_of(&mut server, &get).await;
            servers.push(server);
        }
        for (client, server) in clients.iter_mut().zip(&mut servers).rev() {
            server.write_all(OK.as_bytes()).await.unwrap();
            expect(client, OK).await;
        }
        assert_eq!(mesh.between.borrow().len(), 1);
    });
}

#[test]
fn a_request_is_accounted_by_both_agents() {
    run(async {
        let mut mesh = Mesh::new().await;
        mesh.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let mut server = mesh.accept().await;
        head(&mut server).await;
        let active = |conn: &Connection| conn.pod.worker.telemetry.metrics.agent().requests_active.get();
        let second = mesh.between.borrow()[0].clone();
        assert_eq!((active(&mesh.source), active(&second)), (1, 1));
        server.write_all(OK.as_bytes()).await.unwrap();
        expect(&mut mesh.client, OK).await;
        while active(&mesh.source) + active(&second) > 0 {
            tokio::task::yield_now().await;
        }
    });
}

#[test]
fn what_leaves_http_behind_goes_through_a_tunnel_as_it_is() {
    run(async {
        let mut mesh = Mesh::new().await;
        let asks =
            "GET /ws HTTP/1.1\r\nHost: a\r\nUPGRADE: websocket\r\nX-b: 1\r\nConnection: Upgrade\r\n\r\n";
        mesh.send(asks).await;
        let mut server = mesh.accept().await;
        head_of(&mut server, asks).await;
        let said = "HTTP/1.1 101 Go\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
        server.write_all(said.as_bytes()).await.unwrap();
        expect(&mut mesh.client, said).await;
        mesh.send("bytes\0there").await;
        expect(&mut server, "bytes\0there").await;
        server.write_all(b"and back").await.unwrap();
        expect(&mut mesh.client, "and back").await;
        mesh.client.shutdown().await.unwrap();
        assert_eq!(rest(&mut server).await.unwrap(), "");
    });
}
