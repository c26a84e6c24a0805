//! Bodies of every kind, both ways: framing, trailers, interim responses, and who is held back by whom.

use super::*;

/// Answers with the request's body and trailers, and its length if it declared one.
async fn echo(mut request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
    let Ok((body, trailers)) = collect(request.body_mut()).await else { return };
    let declared = request.headers().get("content-length").cloned();
    let mut response = Response::new(());
    response.headers_mut().insert("x-declared", declared.unwrap_or_else(|| "none".parse().unwrap()));
    let mut stream = respond.send_response(response, false).unwrap();
    stream.send_data(Bytes::from(body), trailers.is_none()).unwrap();
    if let Some(trailers) = trailers {
        stream.send_trailers(trailers).unwrap();
    }
}

const CHUNKED: &str = "transfer-encoding: chunked\r\n\r\n";

#[test]
fn requests_arrive_whole_whatever_their_framing() {
    run(async {
        let endpoint = Endpoint::start(echo).await;
        let mut over = Over::to(endpoint.addr).await;
        over.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello").await;
        expect(
            &mut over.client,
            &format!("HTTP/1.1 200 OK\r\nx-declared: 5\r\n{CHUNKED}5\r\nhello\r\n0\r\n\r\n"),
        )
        .await;
        let body = "5\r\nhello\r\n1;x=y\r\n!\r\n0\r\nX-Sum: 7\r\n\r\n";
        over.send(&format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{}", &body[..4]))
            .await;
        endpoint.has(2).await;
        over.send(&body[4..]).await;
        expect(
            &mut over.client,
            &format!("HTTP/1.1 200 OK\r\nx-declared: none\r\n{CHUNKED}6\r\nhello!\r\n0\r\nx-sum: 7\r\n\r\n"),
        )
        .await;
        over.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").await;
        expect(&mut over.client, &format!("HTTP/1.1 200 OK\r\nx-declared: 0\r\n{CHUNKED}0\r\n\r\n")).await;
        let chunked = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
        over.send(chunked).await;
        expect(&mut over.client, &format!("HTTP/1.1 200 OK\r\nx-declared: none\r\n{CHUNKED}0\r\n\r\n")).await;
        assert_eq!(endpoint.connections.get(), 1);
    });
}

/// Answers as the path says.
async fn shaped(request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
    let path = request.uri().path().to_owned();
    let length = |n: u64| Response::builder().header("content-length", n).body(()).unwrap();
    let status = |code: u16| Response::builder().status(code).body(()).unwrap();
    match path.as_str() {
        "/head" => drop(respond.send_response(length(99), true)),
        "/headlater" => {
            let mut stream = respond.send_response(length(99), false).unwrap();
            stream.send_data(Bytes::new(), true).unwrap();
        }
        "/204" => drop(respond.send_response(status(204), true)),
        "/304" => drop(respond.send_response(status(304), true)),
        "/empty" => drop(respond.send_response(status(200), true)),
        "/both" => {
            let mut stream = respond.send_response(length(2), false).unwrap();
            stream.send_data(Bytes::from_static(b"ok"), false).unwrap();
            stream
                .send_trailers([("x-t".parse().unwrap(), "1".parse().unwrap())].into_iter().collect())
                .unwrap();
        }
        _ => reply(respond, "body"),
    }
}

#[test]
fn responses_end_as_their_client_can_tell() {
    run(async {
        let endpoint = Endpoint::start(shaped).await;
        let mut over = Over::to(endpoint.addr).await;
        for (asks, answer) in [
            ("HEAD /head", "HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n"),
            ("HEAD /headlater", "HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n"),
            ("HEAD /", "HTTP/1.1 200 OK\r\n\r\n"),
            ("GET /204", "HTTP/1.1 204 No Content\r\n\r\n"),
            ("GET /304", "HTTP/1.1 304 Not Modified\r\n\r\n"),
            ("GET /empty", "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"),
            // Only chunks have room for trailers.
            ("GET /both", "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"),
            ("GET /", "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n"),
        ] {
            over.send(&format!("{asks} HTTP/1.1\r\nHost: a\r\n\r\n")).await;
            expect(&mut over.client, answer).await;
        }
        over.send("GET /both HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").await;
        expect(&mut over.client, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: keep-alive\r\n\r\nok")
            .await;
        over.send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").await;
        assert_eq!(rest(&mut over.client).await.unwrap(), "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nbody");
    });
}

#[test]
fn interim_responses_pass_and_continue_is_the_endpoints_to_say() {
    run(async {
        let endpoint = Endpoint::start(
            |mut request: Request<RecvStream>, mut respond: SendResponse<Bytes>| async move {
                assert_eq!(request.headers()["expect"], "100-continue");
                let interim =
                    |code: u16| Response::builder().status(code).header("link", "x").body(()).unwrap();
                respond.send_informational(interim(103)).unwrap();
                respond.send_informational(interim(100)).unwrap();
                let (body, _) = collect(request.body_mut()).await.unwrap();
                assert_eq!(body, b"ok");
                reply(respond, "");
            },
        )
        .await;
        let mut over = Over::to(endpoint.addr).await;
        over.send("PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n").await;
        expect(
            &mut over.client,
            "HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 100 Continue\r\nlink: x\r\n\r\n",
        )
        .await;
        over.send("ok").await;
        expect(&mut over.client, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    });
}

#[test]
fn a_refusal_instead_of_continue_ends_the_connection() {
    run(async {
        let endpoint = Endpoint::start(|_, mut respond: SendResponse<Bytes>| async move {
            respond.send_response(Response::builder().status(401).body(()).unwrap(), true).unwrap();
        })
        .await;
        let mut over = Over::to(endpoint.addr).await;
        over.send("PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n").await;
        let got = rest(&mut over.client).await.unwrap();
        assert_eq!(got, "HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    });
}

#[test]
fn a_piece_of_a_response_does_not_wait_for_the_next() {
    run(async {
        let (go, went) = (Rc::new(tokio::sync::Notify::new()), Rc::new(Cell::new(0)));
        let (next, count) = (go.clone(), went.clone());
        let endpoint = Endpoint::start(move |_, mut respond: SendResponse<Bytes>| {
            let (next, count) = (next.clone(), count.clone());
            async move {
                let mut stream = respond.send_response(Response::new(()), false).unwrap();
                for piece in ["one", "three"] {
                    next.notified().await;
                    stream.send_data(Bytes::from(piece), false).unwrap();
                    count.set(count.get() + 1);
                }
                next.notified().await;
                stream.send_data(Bytes::new(), true).unwrap();
            }
        })
        .await;
        let mut over = Over::to(endpoint.addr).await;
        over.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        for piece in
            ["HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", "3\r\none\r\n", "5\r\nthree\r\n"]
        {
            expect(&mut over.client, piece).await;
            go.notify_one();
        }
        expect(&mut over.client, "0\r\n\r\n").await;
        assert_eq!(went.get(), 2);
    });
}

const LARGE: usize = 32 * 1024 * 1024;

#[test]
fn an_endpoint_that_does_not_read_holds_its_client_back() {
    run(async {
        let go = Rc::new(tokio::sync::Notify::new());
        let held = go.clone();
        let endpoint =
            Endpoint::start(move |mut request: Request<RecvStream>, mut respond: SendResponse<Bytes>| {
                let held = held.clone();
                async move {
                    held.notified().await;
                    let (mut size, mut good) = (0, true);
                    while let Some(part) = request.body_mut().data().await {
                        let part = part.unwrap();
                        request.body_mut().flow_control().release_capacity(part.len()).unwrap();
                        good &= part.iter().enumerate().all(|(i, byte)| *byte == (size + i) as u8);
                        size += part.len();
                    }
                    let response =
                        Response::builder().header("x-size", size).header("x-good", good.to_string());
                    respond.send_response(response.body(()).unwrap(), true).unwrap();
                }
            })
            .await;
        let mut over = Over::to(endpoint.addr).await;
        over.send(&format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {LARGE}\r\n\r\n")).await;
        let (mut client, mut sender) = over.client.into_split();
        let sent = Rc::new(Cell::new(0));
        let count = sent.clone();
        spawn_local(async move {
            let all: Vec<u8> = (0..LARGE).map(|i| i as u8).collect();
            for part in all.chunks(64 * 1024) {
                sender.write_all(part).await.unwrap();
                count.set(count.get() + part.len());
            }
        });
        endpoint.has(1).await;
        stands_still(&sent).await;
        // A stream's window and what the sockets on the way hold.
        assert!(sent.get() < LARGE / 2, "{} bytes were taken though nobody reads", sent.get());
        go.notify_one();
        let mut got = Vec::new();
        while !got.ends_with(b"\r\n\r\n") {
            got.push(client.read_u8().await.unwrap());
        }
        let got = String::from_utf8(got).unwrap();
        assert!(got.contains(&format!("x-size: {LARGE}\r\nx-good: true\r\n")), "{got}");
    });
}

#[test]
fn a_client_that_does_not_read_holds_its_endpoint_back() {
    run(async {
        let sent = Rc::new(Cell::new(0));
        let count = sent.clone();
        let endpoint = Endpoint::start(move |_, mut respond: SendResponse<Bytes>| {
            let count = count.clone();
            async move {
                let mut stream = respond.send_response(Response::new(()), false).unwrap();
                while count.get() < LARGE {
                    stream.reserve_capacity(64 * 1024);
                    let Some(Ok(room)) = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await else {
                        return;
                    };
                    let part: Vec<u8> =
                        (count.get()..LARGE.min(count.get() + room)).map(|i| i as u8).collect();
                    count.set(count.get() + part.len());
                    stream.send_data(Bytes::from(part), count.get() == LARGE).unwrap();
                }
            }
        })
        .await;
        let mut over = Over::to(endpoint.addr).await;
        over.send("GET / HTTP/1.0\r\n\r\n").await;
        endpoint.has(1).await;
        stands_still(&sent).await;
        assert!(sent.get() < LARGE / 2, "{} bytes were taken though nobody reads", sent.get());
        head(&mut over.client).await;
        let mut got = Vec::new();
        over.client.read_to_end(&mut got).await.unwrap();
        assert_eq!(got.len(), LARGE);
        assert!(got.iter().enumerate().all(|(i, byte)| *byte == i as u8));
    });
}
