//! Connections to an endpoint: shared, retired, opened anew, and requests sent once more where that is safe.

use h2::Reason;
use http::StatusCode;
use tokio::io::AsyncWriteExt;

use super::*;

#[test]
fn a_refused_request_is_sent_once_more_with_its_body() {
    run(async {
        let first = Rc::new(Cell::new(true));
        let endpoint =
            Endpoint::start(move |mut request: Request<RecvStream>, mut respond: SendResponse<Bytes>| {
                let refuse = first.replace(false);
                async move {
                    let (body, _) = collect(request.body_mut()).await.unwrap();
                    if refuse {
                        return respond.send_reset(Reason::REFUSED_STREAM);
                    }
                    let mut stream = respond.send_response(Response::new(()), false).unwrap();
                    stream.send_data(Bytes::from(body), true).unwrap();
                }
            })
            .await;
        let client = Proxy::to(endpoint.addr).await.client().await;
        let (response, mut up) = send(&client, post("/"), false).await;
        up.send_data(Bytes::from_static(b"one "), false).unwrap();
        endpoint.has(1).await;
        up.send_data(Bytes::from_static(b"two"), true).unwrap();
        let mut body = response.await.unwrap().into_body();
        assert_eq!(collect(&mut body).await.unwrap().0, b"one two");
        assert_eq!(endpoint.requests.get(), 2);
    });
}

#[test]
fn a_request_that_is_refused_twice_is_refused_to_the_client() {
    run(async {
        let endpoint = Endpoint::start(|_, mut respond: SendResponse<Bytes>| async move {
            respond.send_reset(Reason::REFUSED_STREAM)
        })
        .await;
        let client = Proxy::to(endpoint.addr).await.client().await;
        let (response, _) = send(&client, get("/"), true).await;
        assert_eq!(response.await.unwrap_err().reason(), Some(Reason::REFUSED_STREAM));
    });
}

#[test]
fn no_request_is_lost_when_the_endpoint_goes_away_again_and_again() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = Proxy::to(listener.local_addr().unwrap()).await;
        spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                spawn_local(async move {
                    let mut h2 = h2::server::handshake(stream).await.unwrap();
                    let mut served = 0;
                    while let Some(Ok((_, respond))) = h2.accept().await {
                        reply(respond, "ok");
                        served += 1;
                        if served == 5 {
                            h2.graceful_shutdown();
                        }
                    }
                });
            }
        });
        let client = proxy.client().await;
        let mut calls = Vec::new();
        for _ in 0..8 {
            let client = client.clone();
            calls.push(spawn_local(async move {
                for _ in 0..50 {
                    let (response, _) = send(&client, get("/"), true).await;
                    assert_eq!(response.await.unwrap().status(), StatusCode::OK);
                }
            }));
        }
        for call in calls {
            call.await.unwrap();
        }
    });
}

#[test]
fn an_endpoint_of_http1_is_told_from_one_that_can_not_be_reached() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = Proxy::to(listener.local_addr().unwrap()).await.client().await;
        spawn_local(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (mut from, mut to) = stream.split();
                to.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
                let _ = tokio::io::copy(&mut from, &mut tokio::io::sink()).await;
            }
        });
        let (response, _) = send(&client, get("/"), true).await;
        assert_eq!(response.await.unwrap().status(), StatusCode::BAD_GATEWAY);
        let (response, _) = send(&client, grpc("/pkg.Service/Call"), true).await;
        assert_eq!(response.await.unwrap().headers()["grpc-status"], "14");
    });
}

#[test]
fn more_streams_than_the_endpoint_allows_take_more_connections() {
    run(async {
        let (under_way, all_there) = (Rc::new(Cell::new(0)), Rc::new(Notify::new()));
        let (count, go) = (under_way.clone(), all_there.clone());
        let mut builder = h2::server::Builder::new();
        builder.max_concurrent_streams(10);
        let endpoint = Endpoint::start_with(builder, move |request, respond| {
            let (count, go) = (count.clone(), go.clone());
            async move {
                if request.uri().path() == "/held" {
                    count.set(count.get() + 1);
                    go.notified().await;
                }
                reply(respond, "ok");
            }
        })
        .await;
        let client = Proxy::to(endpoint.addr).await.client().await;
        // The endpoint's SETTINGS are known once it has answered.
        send(&client, get("/"), true).await.0.await.unwrap();
        let mut waiting = Vec::new();
        for _ in 0..35 {
            waiting.push(send(&client, get("/held"), true).await.0);
        }
        eventually("all at once", || under_way.get() == 35).await;
        all_there.notify_waiters();
        for response in waiting {
            assert_eq!(response.await.unwrap().status(), 200);
        }
        assert!((4..=8).contains(&endpoint.connections.get()), "{} connections", endpoint.connections.get());
    });
}

#[test]
fn an_idle_connection_that_the_endpoint_closed_costs_no_request() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = Proxy::to(listener.local_addr().unwrap()).await;
        let (answered, closed) = (Rc::new(Notify::new()), Rc::new(Cell::new(0)));
        let (close, count) = (answered.clone(), closed.clone());
        spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let mut h2 = h2::server::handshake(stream).await.unwrap();
                let (_, respond) = h2.accept().await.unwrap().unwrap();
                reply(respond, "ok");
                tokio::select! {
                    _ = h2.accept() => panic!("a second request on a connection that is about to close"),
                    () = close.notified() => {}
                }
                // Without GOAWAY.
                drop(h2);
                count.set(count.get() + 1);
            }
        });
        let client = proxy.client().await;
        for round in 1..=10 {
            let (response, _) = send(&client, get("/"), true).await;
            assert_eq!(response.await.unwrap().status(), 200);
            answered.notify_one();
            // Whether the agent has seen it by then is as it happens.
            eventually("closed", || closed.get() == round).await;
        }
    });
}
