//! However one side ends early, the other sees that it did.

use std::future::poll_fn;

use super::*;

/// Holds every request, reading its body, and tells of the reset that its stream sees.
async fn holding() -> (Endpoint, Rc<Cell<Option<Reason>>>) {
    let seen = Rc::new(Cell::new(None));
    let note = seen.clone();
    let endpoint =
        Endpoint::start(move |mut request: Request<RecvStream>, mut respond: SendResponse<Bytes>| {
            let note = note.clone();
            async move {
                let reset = async { note.set(poll_fn(|cx| respond.poll_reset(cx)).await.ok()) };
                tokio::join!(reset, async { drop(collect(request.body_mut()).await) });
            }
        })
        .await;
    (endpoint, seen)
}

fn reset_it(client: TcpStream) {
    SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
}

#[test]
fn a_client_that_goes_away_cancels_its_request() {
    run(async {
        let post = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\npa";
        for (asks, end) in [
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", reset_it as fn(TcpStream)),
            (post, reset_it),
            // An orderly end within a body is none.
            (post, drop),
        ] {
            let (endpoint, seen) = holding().await;
            let mut over = Over::to(endpoint.addr).await;
            over.send(asks).await;
            endpoint.has(1).await;
            end(over.client);
            eventually("cancelled", || seen.get() == Some(Reason::CANCEL)).await;
        }
    });
}

#[test]
fn a_client_that_ends_its_side_is_answered() {
    run(async {
        let endpoint = Endpoint::start(|_, respond| async move { reply(respond, "") }).await;
        let mut over = Over::to(endpoint.addr).await;
        over.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        over.client.shutdown().await.unwrap();
        assert_eq!(rest(&mut over.client).await.unwrap(), "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    });
}

#[test]
fn a_broken_chunk_is_never_the_end_of_a_request() {
    run(async {
        let (endpoint, seen) = holding().await;
        let mut over = Over::to(endpoint.addr).await;
        over.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n").await;
        endpoint.has(1).await;
        over.send("x\r\n").await;
        assert!(rest(&mut over.client).await.unwrap().starts_with("HTTP/1.1 400 "));
        eventually("reset", || seen.get() == Some(Reason::PROTOCOL_ERROR)).await;
    });
}

#[test]
fn a_reset_before_the_response_is_a_503_and_the_client_goes_on() {
    run(async {
        let endpoint =
            Endpoint::start(|request: Request<RecvStream>, mut respond: SendResponse<Bytes>| async move {
                match request.uri().path() {
                    "/" => respond.send_reset(Reason::INADEQUATE_SECURITY),
                    _ => reply(respond, ""),
                }
            })
            .await;
        let mut over = Over::to(endpoint.addr).await;
        over.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert!(head(&mut over.client).await.starts_with("HTTP/1.1 503 "));
        expect(&mut over.client, "upstream reset\n").await;
        over.send("GET /2 HTTP/1.1\r\nHost: a\r\n\r\n").await;
        expect(&mut over.client, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
        assert_eq!(endpoint.requests.get(), 2, "it isn't sent again");
    });
}

/// The client's side of a response that begins and is cut off: what came behind its head, and whether by a reset.
async fn cut(asks: &str, addr: std::net::SocketAddr, go: &tokio::sync::Notify) -> (String, bool) {
    let mut over = Over::to(addr).await;
    over.send(asks).await;
    head(&mut over.client).await;
    let mut got = vec![0; 4];
    over.client.read_exact(&mut got).await.unwrap();
    go.notify_one();
    let reset = over.client.read_to_end(&mut got).await.is_err();
    (String::from_utf8(got).unwrap(), reset)
}

const CUT: [&str; 3] = [
    "GET /chunked HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET /length HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET /close HTTP/1.0\r\n\r\n",
];

fn begin(request: &Request<RecvStream>, respond: &mut SendResponse<Bytes>) -> h2::SendStream<Bytes> {
    let mut response = Response::new(());
    if request.uri().path() == "/length" {
        response.headers_mut().insert("content-length", "9".parse().unwrap());
    }
    let mut stream = respond.send_response(response, false).unwrap();
    stream.send_data(Bytes::from_static(b"part"), false).unwrap();
    stream
}

#[test]
fn a_response_that_is_reset_never_ends_cleanly() {
    run(async {
        for reason in [Reason::INTERNAL_ERROR, Reason::CANCEL, Reason::NO_ERROR] {
            for asks in CUT {
                let go = Rc::new(tokio::sync::Notify::new());
                let told = go.clone();
                let endpoint = Endpoint::start(move |request, mut respond: SendResponse<Bytes>| {
                    let told = told.clone();
                    async move {
                        let mut stream = begin(&request, &mut respond);
                        told.notified().await;
                        stream.send_reset(reason);
                    }
                })
                .await;
                let (_, reset) = cut(asks, endpoint.addr, &go).await;
                assert!(reset, "{reason:?} {asks}");
            }
        }
    });
}

#[test]
fn an_endpoint_that_dies_within_a_response_never_ends_it_cleanly() {
    run(async {
        for asks in CUT {
            let go = Rc::new(tokio::sync::Notify::new());
            let told = go.clone();
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let addr = listener.local_addr().unwrap();
            spawn_local(async move {
                let (stream, _) = listener.accept().await.unwrap();
                let mut h2 = h2::server::handshake(stream).await.unwrap();
                let (request, mut respond) = h2.accept().await.unwrap().unwrap();
                let _stream = begin(&request, &mut respond);
                tokio::select! {
                    _ = h2.accept() => {}
                    () = told.notified() => {}
                }
            });
            let (got, reset) = cut(asks, addr, &go).await;
            // Where the client can tell by the framing an orderly end of its connection will do.
            let told = matches!(got.as_str(), "4\r\npart\r\n" if asks.contains("/chunked"))
                || matches!(got.as_str(), "part" if asks.contains("/length"));
            assert!(reset || told, "{asks}{got}");
        }
    });
}

#[test]
fn an_early_answer_is_complete_and_ends_the_upload() {
    run(async {
        let endpoint = Endpoint::start(|_, respond| async move { reply(respond, "enough") }).await;
        let mut over = Over::to(endpoint.addr).await;
        over.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\npart").await;
        let got = rest(&mut over.client).await.unwrap();
        let want = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n6\r\nenough\r\n0\r\n\r\n";
        assert_eq!(got, want);
    });
}

#[test]
fn more_or_less_than_the_promised_length_is_no_clean_end() {
    run(async {
        for body in ["", "toolong"] {
            let endpoint = Endpoint::start(move |_, mut respond: SendResponse<Bytes>| async move {
                let response = Response::builder().header("content-length", 5).body(()).unwrap();
                let mut stream = respond.send_response(response, false).unwrap();
                stream.send_data(Bytes::from_static(b"par"), false).unwrap();
                stream.send_data(Bytes::from(body), true).unwrap();
            })
            .await;
            let mut over = Over::to(endpoint.addr).await;
            over.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
            let got = rest(&mut over.client).await;
            // It may be noticed before the head was passed on.
            assert!(!got.as_ref().is_ok_and(|got| got.starts_with("HTTP/1.1 200 ")), "{body:?}: {got:?}");
        }
    });
}

#[test]
fn what_does_not_move_any_more_is_given_up_on_both_sides() {
    run(async {
        let limits = || Limits { body_idle_timeout: Duration::from_millis(400), ..Limits::default() };
        for (asks, status) in [
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", " 504 "),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\npa", " 408 "),
        ] {
            let (endpoint, seen) = holding().await;
            let mut over = Over::with(endpoint.addr, limits()).await;
            over.send(asks).await;
            let got = head(&mut over.client).await;
            assert!(got.contains(status), "{got}");
            eventually("cancelled", || seen.get() == Some(Reason::CANCEL)).await;
        }
    });
}
