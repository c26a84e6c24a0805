//! Requests that are sent again: those that no endpoint took up, those that a policy names; and their copies.

use super::*;
use crate::route::{Mirror, RetryOn, RetryPolicy, Timeouts};

pub(super) const BODY: &str = "5;x=y\r\nhello\r\n2\r\n, \r\n0\r\nX-Sum: 7\r\n\r\n";

/// Whole requests as their endpoint saw them: path, body, trailers.
pub(super) type Seen = Rc<RefCell<Vec<(String, String, Option<String>)>>>;

/// Notes every request and answers as `answer` says to its number.
pub(super) async fn noting(
    seen: &Seen,
    answer: impl Fn(usize, SendResponse<Bytes>) + Clone + 'static,
) -> Endpoint {
    let seen = seen.clone();
    Endpoint::start(move |mut request: Request<RecvStream>, respond| {
        let (seen, answer) = (seen.clone(), answer.clone());
        async move {
            let (body, trailers) = collect(request.body_mut()).await.unwrap();
            let sum = trailers.map(|trailers| trailers["x-sum"].to_str().unwrap().to_owned());
            let path = request.uri().path().to_owned();
            let number = seen.borrow().len();
            seen.borrow_mut().push((path, String::from_utf8(body).unwrap(), sum));
            answer(number, respond);
        }
    })
    .await
}

pub(super) fn whole(path: &str) -> (String, String, Option<String>) {
    (path.to_owned(), "hello, ".to_owned(), Some("7".to_owned()))
}

pub(super) fn status(mut respond: SendResponse<Bytes>, code: u16) {
    respond.send_response(Response::builder().status(code).body(()).unwrap(), true).unwrap();
}

#[test]
fn a_refused_request_is_sent_once_more_with_its_body_and_trailers() {
    run(async {
        let seen = Seen::default();
        let endpoint = noting(&seen, |number, mut respond| match number {
            0 | 2.. => respond.send_reset(Reason::REFUSED_STREAM),
            _ => status(respond, 200),
        })
        .await;
        let mut over = Over::to(endpoint.addr).await;
        over.send(&format!("POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{BODY}")).await;
        expect(&mut over.client, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
        assert_eq!(*seen.borrow(), [whole("/a"), whole("/a")]);
        // Once, and no more.
        over.send("GET /b HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert!(head(&mut over.client).await.starts_with("HTTP/1.1 503 "));
        assert_eq!(seen.borrow().len(), 4);
    });
}

#[test]
fn a_refused_request_whose_body_is_longer_than_what_is_kept_is_not_sent_again() {
    run(async {
        let (size, seen) = (over_http2_kept() + 1, Seen::default());
        let endpoint = noting(&seen, |_, mut respond| respond.send_reset(Reason::REFUSED_STREAM)).await;
        let mut over = Over::to(endpoint.addr).await;
        over.send(&format!(
            "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n{}",
            "x".repeat(size)
        ))
        .await;
        assert!(head(&mut over.client).await.starts_with("HTTP/1.1 503 "));
        assert_eq!(seen.borrow().len(), 1);
    });
}

fn over_http2_kept() -> usize {
    crate::http1::over_http2::KEPT
}

#[test]
fn no_request_is_lost_when_the_endpoint_goes_away_again_and_again() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let over = Over::to(listener.local_addr().unwrap()).await;
        spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                spawn_local(async move {
                    let mut h2 = h2::server::handshake(stream).await.unwrap();
                    let mut served = 0;
                    while let Some(Ok((_, respond))) = h2.accept().await {
                        reply(respond, "");
                        served += 1;
                        if served == 5 {
                            h2.graceful_shutdown();
                        }
                    }
                });
            }
        });
        let mut calls = Vec::new();
        for _ in 0..8 {
            let mut client = over.another().await;
            calls.push(spawn_local(async move {
                for _ in 0..50 {
                    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
                    expect(&mut client, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
                }
            }));
        }
        for call in calls {
            call.await.unwrap();
        }
    });
}

#[test]
fn an_idle_connection_that_the_endpoint_closed_costs_no_request() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut over = Over::to(listener.local_addr().unwrap()).await;
        let (answered, closed) = (Rc::new(tokio::sync::Notify::new()), Rc::new(Cell::new(0)));
        let (close, count) = (answered.clone(), closed.clone());
        spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let mut h2 = h2::server::handshake(stream).await.unwrap();
                let (_, respond) = h2.accept().await.unwrap().unwrap();
                reply(respond, "");
                tokio::select! {
                    _ = h2.accept() => panic!("a second request on a connection that is about to close"),
                    () = close.notified() => {}
                }
                // Without GOAWAY.
                drop(h2);
                count.set(count.get() + 1);
            }
        });
        for round in 1..=10 {
            over.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").await;
            expect(&mut over.client, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
            answered.notify_one();
            // Whether the agent has seen it by then is as it happens.
            eventually("closed", || closed.get() == round).await;
        }
    });
}

fn retrying(timeouts: Timeouts) -> crate::route::Rule {
    let on = RetryOn { reset: true, statuses: vec![StatusCode::SERVICE_UNAVAILABLE], ..RetryOn::default() };
    let backoff = Duration::from_millis(1);
    let retry = Some(RetryPolicy {
        attempts: 1,
        on,
        backoff,
        max_backoff: backoff,
        least_wait: Duration::ZERO,
        per_try: None,
    });
    crate::route::Rule { timeouts, retry, ..testing::rule(&[0]) }
}

#[test]
fn a_policys_retry_sends_the_body_to_another_endpoint_from_its_beginning() {
    run(async {
        let seen = Seen::default();
        // Answers without having heard all, so that the rest comes to the next alone.
        let busy = |_: Request<RecvStream>, respond: SendResponse<Bytes>| async move { status(respond, 503) };
        let good = |number: usize, respond: SendResponse<Bytes>| status(respond, 200 + 4 * number as u16);
        let (one, two) = (Endpoint::start(busy).await, noting(&seen, good).await);
        let mut over = Over::to(one.addr).await;
        // Whichever is asked first: by now the first has no request, and is left out once it had one.
        let route = |addresses: &[std::net::SocketAddr]| {
            testing::route(&over.conn, retrying(Timeouts::default()), &[upgraded("two", addresses)]);
        };
        route(&[one.addr, two.addr]);
        let (begin, end) = BODY.split_at(9);
        let asks = format!("POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{begin}");
        while one.requests.get() == 0 {
            let before = seen.borrow().len();
            over.send(&asks).await;
            eventually("asked", || one.requests.get() > 0 || two.requests.get() > before).await;
            over.send(end).await;
            assert!(head(&mut over.client).await.starts_with("HTTP/1.1 20"));
        }
        assert!(seen.borrow().iter().all(|request| *request == whole("/a")), "{seen:?}");
        assert_eq!(seen.borrow().len(), two.requests.get());
    });
}

#[test]
fn a_try_that_takes_too_long_is_reset_and_followed_by_another() {
    run(async {
        let reset = Rc::new(Cell::new(None));
        let note = reset.clone();
        let endpoint = Endpoint::start(move |_, mut respond: SendResponse<Bytes>| {
            let note = note.clone();
            async move { note.set(std::future::poll_fn(|cx| respond.poll_reset(cx)).await.ok()) }
        })
        .await;
        let mut over = Over::to(endpoint.addr).await;
        let limit = Some(Duration::from_millis(100));
        let timeouts = Timeouts { request: None, backend_request: limit };
        testing::route(&over.conn, retrying(timeouts), &[upgraded("slow", &[endpoint.addr])]);
        over.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert!(head(&mut over.client).await.starts_with("HTTP/1.1 504 "));
        assert_eq!(endpoint.requests.get(), 2);
        eventually("reset", || reset.get() == Some(Reason::CANCEL)).await;
    });
}

#[test]
fn a_copy_goes_to_its_mirror_in_the_mirrors_own_version() {
    run(async {
        for mirror_is_http2 in [true, false] {
            let (main, copies) = (Seen::default(), Seen::default());
            let endpoint = noting(&main, |_, respond| status(respond, 204)).await;
            let mirror = noting(&copies, |_, respond| status(respond, 500)).await;
            let plain = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let mut over = Over::to(endpoint.addr).await;
            let mut rule = testing::rule(&[0]);
            rule.filters.mirrors = vec![Mirror { target: 1, numerator: 1, denominator: 1 }];
            let copy_to = match mirror_is_http2 {
                true => upgraded("mirror", &[mirror.addr]),
                false => testing::service_port("mirror", &[plain.local_addr().unwrap()]),
            };
            testing::route(&over.conn, rule, &[upgraded("main", &[endpoint.addr]), copy_to]);
            over.send(&format!("POST /a HTTP/1.1\r\nhOST: a\r\nTransfer-Encoding: chunked\r\n\r\n{BODY}"))
                .await;
            expect(&mut over.client, "HTTP/1.1 204 No Content\r\n\r\n").await;
            assert_eq!(*main.borrow(), [whole("/a")]);
            if mirror_is_http2 {
                eventually("copied", || *copies.borrow() == [whole("/a")]).await;
            } else {
                let (mut plain, _) = plain.accept().await.unwrap();
                assert!(head(&mut plain).await.starts_with("POST /a HTTP/1.1\r\nhOST: a\r\n"));
                expect(&mut plain, BODY).await;
            }
        }
    });
}
