//! Requests that are sent again: with what body, by which deadline, and when not.

use tokio::time::Instant;

use super::*;
use crate::route::{RetryOn, RetryPolicy, Timeouts};

/// A service of two endpoints whose requests go by a retry policy.
struct Two {
    lab: Lab,
    other: TcpListener,
}

async fn two(attempts: u32, timeouts: Timeouts) -> Two {
    let (one, other) =
        (TcpListener::bind("127.0.0.1:0").await.unwrap(), TcpListener::bind("127.0.0.1:0").await.unwrap());
    let addresses = [one.local_addr().unwrap(), other.local_addr().unwrap()];
    let lab = lab_on(one, testing::connection(addresses[0])).await;
    let on = RetryOn {
        connect_failure: true,
        reset: true,
        statuses: vec![StatusCode::SERVICE_UNAVAILABLE],
        ..RetryOn::default()
    };
    let backoff = Duration::from_millis(1);
    let retry = Some(RetryPolicy {
        attempts,
        on,
        least_wait: Duration::ZERO,
        backoff,
        max_backoff: backoff,
        per_try: None,
    });
    let rule = crate::route::Rule { timeouts, retry, ..testing::rule(&[0]) };
    testing::route(&lab.conn, rule, &[testing::service_port("two", &addresses)]);
    Two { lab, other }
}

/// The next try, at whichever endpoint: true if it is the other one.
async fn either(one: &TcpListener, other: &TcpListener) -> (TcpStream, bool) {
    tokio::select! {
        accepted = one.accept() => (accepted.unwrap().0, false),
        accepted = other.accept() => (accepted.unwrap().0, true),
    }
}

impl Two {
    async fn accept(&self) -> (TcpStream, bool) {
        either(&self.lab.endpoint, &self.other).await
    }

    /// True if no endpoint is connected to before the paused clock goes on, which it does once nothing else can.
    async fn is_left_alone(&self) -> bool {
        tokio::time::timeout(Duration::from_millis(100), self.accept()).await.is_err()
    }
}

const BUSY: &[u8] = b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy";
const NO_CONTENT: &str = "HTTP/1.1 204 No Content\r\n\r\n";

#[test]
fn a_body_that_is_still_arriving_is_sent_again_from_its_beginning() {
    run(async {
        let mut two = two(1, Timeouts::default()).await;
        two.lab.send("POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhel").await;
        let (mut first, at) = two.accept().await;
        let asked = head(&mut first).await;
        expect(&mut first, "5;x=y\r\nhel").await;
        first.write_all(BUSY).await.unwrap();
        let (mut second, other) = two.accept().await;
        assert_ne!(at, other, "another endpoint is asked");
        assert_eq!(head(&mut second).await, asked);
        expect(&mut second, "5;x=y\r\nhel").await;
        two.lab.send("lo\r\n0\r\nX-Sum: 5\r\n\r\n").await;
        expect(&mut second, "lo\r\n0\r\nX-Sum: 5\r\n\r\n").await;
        second.write_all(NO_CONTENT.as_bytes()).await.unwrap();
        expect(&mut two.lab.client, NO_CONTENT).await;
        // Both connections are clear for another request.
        two.lab.send("GET /b HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let mut byte = [0];
        let mut third = tokio::select! {
            (stream, _) = two.accept() => stream,
            peeked = second.peek(&mut byte) => { peeked.unwrap(); second }
        };
        assert!(head(&mut third).await.starts_with("GET /b "));
    });
}

#[test]
fn a_body_is_sent_again_if_it_fits_the_buffer() {
    for (size, again) in [(64 * 1024, true), (64 * 1024 + 1, false)] {
        run(async {
            let mut two = two(1, Timeouts::default()).await;
            let body = "x".repeat(size);
            two.lab.send(&format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n")).await;
            let Two { lab: Lab { client, endpoint, .. }, other } = two;
            let (client, mut sender) = client.into_split();
            let sent = body.clone();
            let sending =
                spawn_local(async move { sender.write_all(sent.as_bytes()).await.map(|()| sender) });
            let (mut first, _) = either(&endpoint, &other).await;
            head(&mut first).await;
            expect(&mut first, &body).await;
            first.write_all(BUSY).await.unwrap();
            let mut client = client.reunite(sending.await.unwrap().unwrap()).unwrap();
            if again {
                let (mut second, _) = either(&endpoint, &other).await;
                head(&mut second).await;
                expect(&mut second, &body).await;
                second.write_all(NO_CONTENT.as_bytes()).await.unwrap();
                expect(&mut client, NO_CONTENT).await;
            } else {
                expect(&mut client, std::str::from_utf8(BUSY).unwrap()).await;
            }
        });
    }
}

#[test]
fn a_try_that_takes_too_long_is_followed_by_one_at_another_endpoint() {
    run(async {
        let limit = Some(Duration::from_millis(1500));
        let mut two = two(1, Timeouts { request: None, backend_request: limit }).await;
        two.lab.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nok").await;
        let (mut silent, at) = two.accept().await;
        head(&mut silent).await;
        let (mut second, other) = two.accept().await;
        assert_ne!(at, other);
        head(&mut second).await;
        expect(&mut second, "ok").await;
        second.write_all(NO_CONTENT.as_bytes()).await.unwrap();
        expect(&mut two.lab.client, NO_CONTENT).await;
    });
}

#[test]
fn the_requests_deadline_bounds_all_tries_together() {
    limits::run_paused(async {
        let timeouts = Timeouts {
            request: Some(Duration::from_millis(500)),
            backend_request: Some(Duration::from_millis(150)),
        };
        let mut two = two(1000, timeouts).await;
        let began = Instant::now();
        two.lab.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let mut silent = Vec::new();
        let answer = loop {
            tokio::select! {
                readable = two.lab.client.readable() => {
                    readable.unwrap();
                    break head(&mut two.lab.client).await;
                }
                accepted = two.lab.endpoint.accept() => silent.push(accepted.unwrap()),
                accepted = two.other.accept() => silent.push(accepted.unwrap()),
            }
        };
        assert!(answer.starts_with("HTTP/1.1 504 "), "{answer}");
        assert!(began.elapsed() >= Duration::from_millis(300), "{:?}", began.elapsed());
        assert!((1..=4).contains(&silent.len()), "{} tries", silent.len());
    });
}

#[test]
fn nothing_is_sent_again_once_the_response_has_begun() {
    limits::run_paused(async {
        let mut two = two(3, Timeouts::default()).await;
        two.lab.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let (mut server, _) = two.accept().await;
        head(&mut server).await;
        let part = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\npart";
        server.write_all(part.as_bytes()).await.unwrap();
        expect(&mut two.lab.client, part).await;
        drop(server);
        assert_eq!(rest(&mut two.lab.client).await.unwrap_or_default(), "");
        assert!(two.is_left_alone().await);
    });
}

#[test]
fn what_is_not_asked_for_is_not_sent_again() {
    limits::run_paused(async {
        let mut two = two(3, Timeouts::default()).await;
        two.lab.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let (mut server, _) = two.accept().await;
        head(&mut server).await;
        let answer = "HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n";
        server.write_all(answer.as_bytes()).await.unwrap();
        expect(&mut two.lab.client, answer).await;
        assert!(two.is_left_alone().await);
    });
}
