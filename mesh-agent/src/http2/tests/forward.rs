//! What is passed on is what was sent.

use std::future::poll_fn;

use http::{HeaderValue, StatusCode};

use super::*;

/// Sends the request's body and trailers back as they come.
async fn echo(request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
    let (head, mut body) = request.into_parts();
    let mut response = Response::builder();
    for (name, value) in &head.headers {
        response = response.header(format!("echo-{name}"), value);
    }
    let response =
        response.header("echo-uri", head.uri.to_string()).header("echo-method", head.method.as_str());
    let mut stream = respond.send_response(response.body(()).unwrap(), false).unwrap();
    while let Some(Ok(data)) = body.data().await {
        stream.reserve_capacity(data.len());
        let mut data = data;
        while !data.is_empty() {
            let Some(Ok(capacity)) = poll_fn(|cx| stream.poll_capacity(cx)).await else { return };
            let part = data.split_to(capacity.min(data.len()));
            body.flow_control().release_capacity(part.len()).unwrap();
            stream.send_data(part, false).unwrap();
        }
    }
    match body.trailers().await.unwrap() {
        Some(trailers) => stream.send_trailers(trailers).unwrap(),
        None => stream.send_data(Bytes::new(), true).unwrap(),
    }
}

#[test]
fn head_body_and_trailers_arrive_as_they_were_sent() {
    run(async {
        let endpoint = Endpoint::start(echo).await;
        let client = Proxy::to(endpoint.addr).await.client().await;
        let mut request = post("/path?query=1");
        request.headers_mut().insert("x-custom", HeaderValue::from_static("value"));
        let (response, mut up) = send(&client, request, false).await;
        up.send_data(Bytes::from_static(b"hello "), false).unwrap();
        up.send_data(Bytes::from_static(b"world"), false).unwrap();
        let mut trailers = HeaderMap::new();
        trailers.insert("x-trailer", HeaderValue::from_static("end"));
        up.send_trailers(trailers.clone()).unwrap();
        let (head, mut body) = response.await.unwrap().into_parts();
        assert_eq!(head.headers["echo-uri"], "http://service.test/path?query=1");
        assert_eq!(head.headers["echo-method"], "POST");
        assert_eq!(head.headers["echo-x-custom"], "value");
        assert!(head.headers.contains_key("echo-x-request-id"));
        assert_eq!(collect(&mut body).await.unwrap(), (b"hello world".to_vec(), Some(trailers)));
    });
}

#[test]
fn large_bodies_go_both_ways_at_once_within_the_windows() {
    run(async {
        let endpoint = Endpoint::start(echo).await;
        let client = Proxy::to(endpoint.addr).await.client().await;
        let (response, mut up) = send(&client, post("/"), false).await;
        const SIZE: usize = 5_000_000;
        let sent: Vec<u8> = (0..SIZE).map(|at| (at % 251) as u8).collect();
        let mut left = Bytes::from(sent.clone());
        spawn_local(async move {
            while !left.is_empty() {
                up.reserve_capacity(left.len());
                let capacity = poll_fn(|cx| up.poll_capacity(cx)).await.unwrap().unwrap();
                let part = left.split_to(capacity.min(left.len()));
                up.send_data(part, left.is_empty()).unwrap();
            }
        });
        let mut body = response.await.unwrap().into_body();
        let (received, _) = collect(&mut body).await.unwrap();
        assert!(received == sent);
    });
}

#[test]
fn a_reader_that_does_not_read_stops_the_sender() {
    run(async {
        let sent = Rc::new(Cell::new(0));
        let count = sent.clone();
        let endpoint = Endpoint::start(move |_, mut respond| {
            let count = count.clone();
            async move {
                let mut stream = respond.send_response(Response::new(()), false).unwrap();
                loop {
                    stream.reserve_capacity(16 * 1024);
                    let Some(Ok(capacity)) = poll_fn(|cx| stream.poll_capacity(cx)).await else { return };
                    stream.send_data(Bytes::from(vec![0; capacity]), false).unwrap();
                    count.set(count.get() + capacity);
                }
            }
        })
        .await;
        let client = Proxy::to(endpoint.addr).await.client().await;
        let (response, _up) = send(&client, get("/"), true).await;
        let _body = response.await.unwrap();
        let mut last = 0;
        eventually("the sender stands still", || std::mem::replace(&mut last, sent.get()) == sent.get())
            .await;
        assert!(last <= 1024 * 1024, "{last} bytes are held for a reader that doesn't read");
    });
}

#[test]
fn interim_responses_are_passed_on() {
    run(async {
        let endpoint = Endpoint::start(|_, mut respond: SendResponse<Bytes>| async move {
            for status in [StatusCode::CONTINUE, StatusCode::EARLY_HINTS] {
                let mut interim = Response::new(());
                *interim.status_mut() = status;
                respond.send_informational(interim).unwrap();
            }
            reply(respond, "final");
        })
        .await;
        let client = Proxy::to(endpoint.addr).await.client().await;
        let (mut response, _up) = send(&client, get("/"), true).await;
        let mut seen = Vec::new();
        while let Some(Ok(interim)) = poll_fn(|cx| response.poll_informational(cx)).await {
            seen.push(interim.status().as_u16());
        }
        assert_eq!(seen, [100, 103]);
        assert_eq!(response.await.unwrap().status(), 200);
    });
}

#[test]
fn head_requests_and_empty_answers_end_at_once() {
    run(async {
        let endpoint = Endpoint::start(|_, mut respond: SendResponse<Bytes>| async move {
            let response = Response::builder().header("content-length", "1234").body(()).unwrap();
            respond.send_response(response, true).unwrap();
        })
        .await;
        let client = Proxy::to(endpoint.addr).await.client().await;
        let request = Request::head("http://service.test/").body(()).unwrap();
        let (response, _) = send(&client, request, true).await;
        let mut response = response.await.unwrap();
        assert_eq!(response.headers()["content-length"], "1234");
        assert_eq!(collect(response.body_mut()).await.unwrap().0, b"");
    });
}

#[test]
fn many_requests_share_one_connection() {
    run(async {
        let endpoint = Endpoint::start(|_, respond| async move { reply(respond, "ok") }).await;
        let client = Proxy::to(endpoint.addr).await.client().await;
        let mut waiting = Vec::new();
        for _ in 0..100 {
            waiting.push(send(&client, get("/"), true).await.0);
        }
        for response in waiting {
            let mut body = response.await.unwrap().into_body();
            assert_eq!(collect(&mut body).await.unwrap().0, b"ok");
        }
        assert_eq!(endpoint.connections.get(), 1);
    });
}

#[test]
fn connect_is_a_tunnel() {
    run(async {
        let endpoint = Endpoint::start(echo).await;
        let client = Proxy::to(endpoint.addr).await.client().await;
        let request = Request::connect("service.test:443").body(()).unwrap();
        let (response, mut up) = send(&client, request, false).await;
        let mut body = response.await.unwrap().into_body();
        up.send_data(Bytes::from_static(b"ping"), false).unwrap();
        assert_eq!(body.data().await.unwrap().unwrap(), "ping");
        up.send_data(Bytes::new(), true).unwrap();
        assert!(body.data().await.is_none_or(|last| last.unwrap().is_empty()));
    });
}

#[test]
fn marks_of_clients_and_endpoints_are_dropped() {
    run(async {
        let seen = Rc::new(RefCell::new(None));
        let note = seen.clone();
        let endpoint =
            Endpoint::start(move |request: Request<RecvStream>, mut respond: SendResponse<Bytes>| {
                note.replace(Some(request.headers().contains_key("mesh-agent-http1")));
                async move {
                    let response =
                        Response::builder().header("mesh-agent-http1", "1.1 r=Evil").body(()).unwrap();
                    respond.send_response(response, true).unwrap();
                }
            })
            .await;
        let proxy = Proxy::to(endpoint.addr).await;
        let client = proxy.client().await;
        let mut request = get("/public");
        request.headers_mut().insert("mesh-agent-http1", "1.1 n=Host t=/admin".parse().unwrap());
        let (response, _) = send(&client, request, true).await;
        let response = response.await.unwrap();
        assert_eq!(seen.take(), Some(false));
        assert!(!response.headers().contains_key("mesh-agent-http1"));
    });
}
