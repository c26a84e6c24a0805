//! However one side ends, the other sees the same.

use std::future::poll_fn;

use h2::Reason;

use super::*;

/// Tells of the reset that an endpoint's stream saw.
type Seen = Rc<Cell<Option<Reason>>>;

#[test]
fn the_clients_reset_reaches_the_endpoint_with_its_code() {
    run(async {
        let seen = Seen::default();
        let note = seen.clone();
        let endpoint = Endpoint::start(move |request, mut respond: SendResponse<Bytes>| {
            let note = note.clone();
            async move {
                note.set(poll_fn(|cx| respond.poll_reset(cx)).await.ok());
                drop(request);
            }
        })
        .await;
        let client = Proxy::to(endpoint.addr).await.client().await;
        let (_response, mut up) = send(&client, post("/"), false).await;
        up.send_data(Bytes::from_static(b"part"), false).unwrap();
        endpoint.has(1).await;
        up.send_reset(Reason::INADEQUATE_SECURITY);
        eventually("reset seen", || seen.get() == Some(Reason::INADEQUATE_SECURITY)).await;
    });
}

#[test]
fn a_client_that_vanishes_cancels_its_requests() {
    run(async {
        let seen = Seen::default();
        let note = seen.clone();
        let endpoint = Endpoint::start(move |_, mut respond: SendResponse<Bytes>| {
            let note = note.clone();
            async move { note.set(poll_fn(|cx| respond.poll_reset(cx)).await.ok()) }
        })
        .await;
        let proxy = Proxy::to(endpoint.addr).await;
        let stream = TcpStream::connect(proxy.addr).await.unwrap();
        let (client, connection) = h2::client::handshake(stream).await.unwrap();
        let driver = spawn_local(connection);
        let (_response, _up) = send(&client, get("/"), true).await;
        endpoint.has(1).await;
        driver.abort();
        eventually("cancel seen", || seen.get() == Some(Reason::CANCEL)).await;
        eventually("serve returns", || proxy.ended.get() == 1).await;
    });
}

#[test]
fn the_endpoints_reset_reaches_the_client_with_its_code() {
    run(async {
        let part_arrived = Rc::new(Notify::new());
        let go_on = part_arrived.clone();
        let endpoint = Endpoint::start(move |request, mut respond: SendResponse<Bytes>| {
            let go_on = go_on.clone();
            async move {
                if request.uri().path() == "/late" {
                    let mut stream = respond.send_response(Response::new(()), false).unwrap();
                    stream.send_data(Bytes::from_static(b"part"), false).unwrap();
                    go_on.notified().await;
                    stream.send_reset(Reason::ENHANCE_YOUR_CALM);
                } else {
                    respond.send_reset(Reason::INADEQUATE_SECURITY);
                }
            }
        })
        .await;
        let client = Proxy::to(endpoint.addr).await.client().await;
        let (response, _) = send(&client, get("/early"), true).await;
        assert_eq!(response.await.unwrap_err().reason(), Some(Reason::INADEQUATE_SECURITY));
        let (response, _) = send(&client, get("/late"), true).await;
        let mut body = response.await.unwrap().into_body();
        assert_eq!(body.data().await.unwrap().unwrap(), "part");
        part_arrived.notify_one();
        let error = collect(&mut body).await.unwrap_err();
        assert_eq!(error.reason(), Some(Reason::ENHANCE_YOUR_CALM));
    });
}

#[test]
fn an_early_answer_is_complete_and_stops_the_upload() {
    run(async {
        let endpoint = Endpoint::start(|_, respond| async move { reply(respond, "enough") }).await;
        let client = Proxy::to(endpoint.addr).await.client().await;
        let (response, mut up) = send(&client, post("/"), false).await;
        let mut body = response.await.unwrap().into_body();
        assert_eq!(collect(&mut body).await.unwrap().0, b"enough");
        let reason = poll_fn(|cx| up.poll_reset(cx)).await.unwrap();
        assert_eq!(reason, Reason::NO_ERROR);
    });
}

#[test]
fn an_endpoint_that_dies_within_a_body_ends_it_uncleanly() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = Proxy::to(listener.local_addr().unwrap()).await;
        spawn_local(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let mut h2 = h2::server::handshake(stream).await.unwrap();
            let (_, mut respond) = h2.accept().await.unwrap().unwrap();
            let mut stream = respond.send_response(Response::new(()), false).unwrap();
            stream.send_data(Bytes::from_static(b"part"), false).unwrap();
            let _ = tokio::time::timeout(Duration::from_millis(100), h2.accept()).await;
        });
        let client = proxy.client().await;
        let (response, _) = send(&client, get("/"), true).await;
        let mut body = response.await.unwrap().into_body();
        assert_eq!(collect(&mut body).await.unwrap_err().reason(), Some(Reason::INTERNAL_ERROR));
    });
}

#[test]
fn an_endpoint_that_can_not_be_reached_is_answered_in_the_clients_terms() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        drop(listener);
        let client = Proxy::to(addr).await.client().await;
        let (response, _) = send(&client, get("/"), true).await;
        assert_eq!(response.await.unwrap().status(), 503);
        let (response, _) = send(&client, grpc("/pkg.Service/Call"), true).await;
        let response = response.await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["grpc-status"], "14");
        assert_eq!(response.headers()["content-type"], "application/grpc");
    });
}

#[test]
fn drain_finishes_what_is_under_way_and_closes() {
    run(async {
        let draining = Rc::new(Notify::new());
        let go_on = draining.clone();
        let endpoint = Endpoint::start(move |_, respond| {
            let go_on = go_on.clone();
            async move {
                go_on.notified().await;
                reply(respond, "done");
            }
        })
        .await;
        let proxy = Proxy::to(endpoint.addr).await;
        let client = proxy.client().await;
        let (response, _) = send(&client, get("/"), true).await;
        endpoint.has(1).await;
        proxy.conn().pod.worker.drain.begin();
        draining.notify_one();
        let mut body = response.await.unwrap().into_body();
        assert_eq!(collect(&mut body).await.unwrap().0, b"done");
        drop(body);
        assert!(client.clone().ready().await.is_err(), "GOAWAY was seen");
        eventually("serve returns", || proxy.ended.get() == 1).await;
    });
}

/// The other limits stay long: a machine that stalls may exceed any short one before a test has begun.
fn impatient() -> Limits {
    Limits { body_idle_timeout: Duration::from_millis(400), ..Limits::default() }
}

#[test]
fn a_request_body_that_stands_still_is_ended() {
    run(async {
        let endpoint = Endpoint::start(|mut request, respond| async move {
            let _ = collect(request.body_mut()).await;
            drop(respond);
        })
        .await;
        let client = Proxy::with(endpoint.addr, impatient()).await.client().await;
        let (response, mut up) = send(&client, post("/"), false).await;
        up.send_data(Bytes::from_static(b"part"), false).unwrap();
        assert_eq!(response.await.unwrap().status(), 408);
    });
}

#[test]
fn an_endpoint_that_does_not_answer_is_given_up_and_grpc_may_wait() {
    run(async {
        let given_up = Rc::new(Notify::new());
        let go_on = given_up.clone();
        let endpoint = Endpoint::start(move |request, respond| {
            let go_on = go_on.clone();
            async move {
                go_on.notified().await;
                if request.uri().path() == "/grpc" {
                    reply(respond, "");
                }
            }
        })
        .await;
        let client = Proxy::with(endpoint.addr, impatient()).await.client().await;
        let (patient, _) = send(&client, grpc("/grpc"), true).await;
        endpoint.has(1).await;
        for _ in 0..2 {
            let (response, _) = send(&client, get("/"), true).await;
            assert_eq!(response.await.unwrap().status(), 504);
        }
        given_up.notify_waiters();
        assert_eq!(patient.await.unwrap().status(), 200);
    });
}

#[test]
fn a_client_that_does_not_read_is_ended_even_if_it_speaks_grpc() {
    run(async {
        let seen = Seen::default();
        let note = seen.clone();
        let endpoint = Endpoint::start(move |_, mut respond: SendResponse<Bytes>| {
            let note = note.clone();
            async move {
                let mut stream = respond.send_response(Response::new(()), false).unwrap();
                stream.send_data(Bytes::from(vec![0; 2_000_000]), false).unwrap();
                note.set(poll_fn(|cx| stream.poll_reset(cx)).await.ok());
            }
        })
        .await;
        let client = Proxy::with(endpoint.addr, impatient()).await.client().await;
        let (response, _) = send(&client, grpc("/"), true).await;
        let _unread = response.await.unwrap();
        eventually("cancelled", || seen.get() == Some(Reason::CANCEL)).await;
    });
}

#[test]
fn an_idle_connection_is_closed_with_goaway() {
    run(async {
        let endpoint = Endpoint::start(|_, respond| async move { reply(respond, "") }).await;
        let limits = Limits { keepalive_idle: Duration::from_secs(3), ..Limits::default() };
        let proxy = Proxy::with(endpoint.addr, limits).await;
        let client = proxy.client().await;
        send(&client, get("/"), true).await.0.await.unwrap();
        eventually("closed", || proxy.ended.get() == 1).await;
    });
}
