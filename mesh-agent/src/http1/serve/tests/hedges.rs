//! Requests that are sent to another endpoint as well for being slow, and what goes to a fallback's service.

use std::sync::Arc;

use super::*;
use crate::model::ServicePort;
use crate::policy::PoolLimits;

/// A service of so many endpoints under a policy.
struct Many {
    lab: Lab,
    endpoints: Vec<TcpListener>,
    port: Arc<ServicePort>,
}

async fn many(count: usize, groups: &str) -> Many {
    many_under(PoolLimits::default(), count, groups).await
}

/// The same under a DestinationRule's limits.
async fn many_under(limits: PoolLimits, count: usize, groups: &str) -> Many {
    let mut endpoints = Vec::new();
    for _ in 0..count {
        endpoints.push(TcpListener::bind("127.0.0.1:0").await.unwrap());
    }
    let unused = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let lab = lab_on(unused, testing::connection(endpoints[0].local_addr().unwrap())).await;
    let addresses: Vec<_> = endpoints.iter().map(|endpoint| endpoint.local_addr().unwrap()).collect();
    let port = testing::limited_port(&addresses, limits);
    testing::police(&lab.conn, port.clone(), groups);
    Many { lab, endpoints, port }
}

impl Many {
    /// The next try, at whichever endpoint, and the endpoint's number.
    async fn accept(&self) -> (TcpStream, usize) {
        let all = self
            .endpoints
            .iter()
            .enumerate()
            .map(|(at, endpoint)| Box::pin(async move { (endpoint.accept().await.unwrap().0, at) }));
        futures_util::future::select_all(all).await.0
    }

    /// True if no endpoint is connected to though, in paused time, hedges would have been due.
    async fn is_left_alone(&self) -> bool {
        tokio::time::timeout(Duration::from_millis(300), self.accept()).await.is_err()
    }

    fn count(&self, outcome: &str) -> u64 {
        self.lab.conn.pod.worker.telemetry.metrics.agent().hedges.with_label_values(&[outcome]).get()
    }
}

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const BUSY: &[u8] = b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy";
const HEDGE: &str = "hedge: {after: 50ms, max: 1}";

async fn answer(server: &mut TcpStream, text: &str) {
    server.write_all(text.as_bytes()).await.unwrap();
}

async fn is_reset(server: &mut TcpStream) {
    let end = server.read_to_end(&mut Vec::new()).await;
    assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
}

#[test]
fn a_hedge_that_answers_first_is_passed_on_and_the_slow_try_reset() {
    run(async {
        let mut many = many(2, HEDGE).await;
        many.lab.send("POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello").await;
        let (mut slow, first) = many.accept().await;
        let asked = head(&mut slow).await;
        expect(&mut slow, "hello").await;
        let (mut quick, second) = many.accept().await;
        assert_ne!(first, second, "another endpoint is asked");
        assert_eq!(head(&mut quick).await, asked);
        expect(&mut quick, "hello").await;
        // Interim answers of a hedge are nobody's business.
        answer(&mut quick, "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n").await;
        answer(&mut quick, OK).await;
        expect(&mut many.lab.client, OK).await;
        is_reset(&mut slow).await;
        assert_eq!((many.count("sent"), many.count("won")), (1, 1));
        // The client's connection goes on, and the winner's was kept.
        many.lab.send("GET /b HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let mut next = tokio::select! {
            (stream, _) = many.accept() => stream,
            peeked = quick.readable() => { peeked.unwrap(); quick }
        };
        assert!(head(&mut next).await.starts_with("GET /b "));
    });
}

#[test]
fn a_try_that_answers_before_its_hedge_is_passed_on_and_the_hedge_reset() {
    run(async {
        let mut many = many(2, HEDGE).await;
        many.lab.send(GET).await;
        let (mut slow, _) = many.accept().await;
        head(&mut slow).await;
        let (mut hedge, _) = many.accept().await;
        head(&mut hedge).await;
        answer(&mut slow, OK).await;
        expect(&mut many.lab.client, OK).await;
        is_reset(&mut hedge).await;
        assert_eq!((many.count("sent"), many.count("won")), (1, 0));
    });
}

#[test]
fn a_client_that_resets_cancels_its_hedges_too() {
    run(async {
        let mut many = many(3, "hedge: {after: 20ms, max: 2}").await;
        many.lab.send(GET).await;
        let mut tries = Vec::new();
        for _ in 0..3 {
            let (mut stream, _) = many.accept().await;
            head(&mut stream).await;
            tries.push(stream);
        }
        SockRef::from(&many.lab.client).set_linger(Some(Duration::ZERO)).unwrap();
        drop(many.lab.client);
        for mut stream in tries {
            is_reset(&mut stream).await;
        }
    });
}

#[test]
fn a_request_is_not_hedged_before_it_has_come_nor_after_its_answer_has_begun() {
    limits::run_paused(async {
        let mut many = many(2, HEDGE).await;
        many.lab.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nha").await;
        let (mut server, _) = many.accept().await;
        head(&mut server).await;
        assert!(many.is_left_alone().await, "half of it has come");
        answer(&mut server, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\npa").await;
        expect(&mut many.lab.client, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\npa")
            .await;
        many.lab.send("lf").await;
        expect(&mut server, "half").await;
        assert!(many.is_left_alone().await, "its answer has begun");
        assert_eq!(many.count("sent"), 0);
    });
}

#[test]
fn a_body_beyond_the_buffer_and_a_switch_of_protocols_are_not_hedged() {
    for asks in [
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n",
    ] {
        limits::run_paused(async {
            let mut many = many(2, "hedge: {after: 50ms}, retry: {bufferLimit: 4}").await;
            many.lab.send(asks).await;
            let (mut server, _) = many.accept().await;
            head(&mut server).await;
            assert!(many.is_left_alone().await, "{asks}");
            assert_eq!(many.count("sent"), 0, "{asks}");
        });
    }
}

#[test]
fn an_endpoint_that_takes_no_connection_is_hedged() {
    run(async {
        let mut many = many(2, HEDGE).await;
        // A full backlog swallows the handshake.
        let deaf = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        deaf.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
        deaf.listen(0).unwrap();
        let deaf_at = deaf.local_addr().unwrap().as_socket().unwrap();
        let _fill: Vec<_> = (0..4)
            .map(|_| {
                let client =
                    socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
                client.set_nonblocking(true).unwrap();
                let _ = client.connect(&deaf_at.into());
                client
            })
            .collect();
        let good = many.endpoints.pop().unwrap();
        let addresses = [deaf_at, good.local_addr().unwrap()];
        many.endpoints = vec![good];
        testing::police(&many.lab.conn, testing::service_port("half", &addresses), HEDGE);
        for _ in 0..6 {
            many.lab.send(GET).await;
            let (mut server, _) = many.accept().await;
            head(&mut server).await;
            answer(&mut server, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n").await;
            assert!(head(&mut many.lab.client).await.starts_with("HTTP/1.1 200 "));
            if many.count("won") > 0 {
                return;
            }
        }
        panic!("the deaf endpoint was never asked first");
    });
}

#[test]
fn a_failure_leaves_the_answer_to_the_hedge() {
    run(async {
        for closes in [true, false] {
            let mut many = many(2, "hedge: {after: 50ms}, retry: {on: [5xx]}").await;
            many.lab.send(GET).await;
            let (mut own, _) = many.accept().await;
            head(&mut own).await;
            let (mut hedge, _) = many.accept().await;
            head(&mut hedge).await;
            if closes {
                drop(own);
            } else {
                own.write_all(BUSY).await.unwrap();
            }
            answer(&mut hedge, OK).await;
            expect(&mut many.lab.client, OK).await;
            assert_eq!(many.count("won"), 1);
        }
    });
}

#[test]
fn where_every_try_fails_the_retry_policy_has_its_word() {
    run(async {
        let mut many =
            many(3, "hedge: {after: 50ms}, retry: {attempts: 1, on: [5xx], backoff: {base: 1ms}}").await;
        many.lab.send(GET).await;
        let (mut own, _) = many.accept().await;
        head(&mut own).await;
        let (mut hedge, _) = many.accept().await;
        head(&mut hedge).await;
        own.write_all(BUSY).await.unwrap();
        hedge.write_all(BUSY).await.unwrap();
        let (mut third, _) = many.accept().await;
        head(&mut third).await;
        answer(&mut third, OK).await;
        expect(&mut many.lab.client, OK).await;
        assert_eq!((many.count("sent"), many.count("won")), (1, 0));
    });
}

const FALLBACK: &str = "timeout: 500ms, fallback: {service: {name: spare, namespace: test, port: 80}, on: [error5xx, timeout, noEndpoint]}";

/// The service of [`many`] with another one that answers in its place.
async fn with_spare(groups: &str) -> (Many, TcpListener) {
    let many = many(1, groups).await;
    let spare = TcpListener::bind("127.0.0.1:0").await.unwrap();
    testing::serve(&many.lab.conn, &testing::service_port("spare", &[spare.local_addr().unwrap()]));
    (many, spare)
}

async fn spare_answers(many: &mut Many, spare: &TcpListener, body: &str) {
    let (mut server, _) = spare.accept().await.unwrap();
    head(&mut server).await;
    expect(&mut server, body).await;
    answer(&mut server, OK).await;
    expect(&mut many.lab.client, OK).await;
}

#[test]
fn another_service_answers_what_failed_with_the_whole_request() {
    run(async {
        let (mut many, spare) = with_spare(FALLBACK).await;
        let post = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello";
        for how in ["busy", "closes", "silent"] {
            many.lab.send(post).await;
            let (mut server, _) = many.accept().await;
            head(&mut server).await;
            expect(&mut server, "hello").await;
            match how {
                "busy" => server.write_all(BUSY).await.unwrap(),
                "closes" => drop(server),
                _ => {}
            }
            spare_answers(&mut many, &spare, "hello").await;
        }
        let decisions = &many.lab.conn.pod.worker.telemetry.metrics.agent().traffic_policy;
        assert_eq!(decisions.with_label_values(&["fallback_service"]).get(), 3);
    });
}

#[test]
fn what_cant_be_sent_again_gets_the_answer_that_there_is() {
    run(async {
        let (mut many, _spare) =
            with_spare(&format!("{FALLBACK}, retry: {{attempts: 0, bufferLimit: 4}}")).await;
        many.lab.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello").await;
        let (mut server, _) = many.accept().await;
        head(&mut server).await;
        expect(&mut server, "hello").await;
        server.write_all(BUSY).await.unwrap();
        expect(&mut many.lab.client, std::str::from_utf8(BUSY).unwrap()).await;
    });
}

#[test]
fn a_fallback_that_fails_is_the_end_of_it() {
    limits::run_paused(async {
        let (mut many, spare) = with_spare(FALLBACK).await;
        many.lab.send(GET).await;
        let (mut server, _) = many.accept().await;
        head(&mut server).await;
        server.write_all(BUSY).await.unwrap();
        let (mut server, _) = spare.accept().await.unwrap();
        head(&mut server).await;
        answer(&mut server, "HTTP/1.1 502 Spare\r\nContent-Length: 0\r\n\r\n").await;
        expect(&mut many.lab.client, "HTTP/1.1 502 Spare\r\nContent-Length: 0\r\n\r\n").await;
        assert!(many.is_left_alone().await);
    });
}

#[test]
fn hedges_take_no_connection_that_is_not_free_and_nothing_is_hedged_before_its_turn() {
    limits::run_paused(async {
        let limits = PoolLimits { max_connections: Some(1), ..PoolLimits::default() };
        let mut many = many_under(limits, 2, HEDGE).await;
        let places = many.port.endpoints.usage.connections.clone();
        let place = places.take().unwrap();
        many.lab.send(GET).await;
        while places.waiting() == 0 {
            tokio::task::yield_now().await;
        }
        assert!(many.is_left_alone().await, "it is another's turn");
        assert_eq!(many.count("sent"), 0);
        drop(place);
        let (mut server, _) = many.accept().await;
        head(&mut server).await;
        assert!(many.is_left_alone().await, "there is no second place");
        assert_eq!((many.count("sent"), many.count("overflow")), (0, 1));
        assert_eq!((places.taken(), places.waiting()), (1, 0));
        answer(&mut server, OK).await;
        expect(&mut many.lab.client, OK).await;
        assert_eq!(many.count("won"), 0);
    });
}

#[test]
fn a_hedge_is_one_of_the_retries_that_may_be_under_way() {
    limits::run_paused(async {
        let limits = PoolLimits { max_retries: Some(1), ..PoolLimits::default() };
        let mut many = many_under(limits, 2, HEDGE).await;
        let retries = || many.port.endpoints.usage.retries.get();
        let held = many.port.endpoints.usage.retries.take(None);
        many.lab.send(GET).await;
        let (mut server, _) = many.accept().await;
        head(&mut server).await;
        assert!(many.is_left_alone().await);
        assert_eq!((many.count("sent"), many.count("budget")), (0, 1));
        answer(&mut server, OK).await;
        expect(&mut many.lab.client, OK).await;
        drop((held, server));
        many.lab.send(GET).await;
        let (_slow, _) = many.accept().await;
        let (mut quick, _) = many.accept().await;
        assert_eq!(retries(), 1);
        answer(&mut quick, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no").await;
        expect(&mut many.lab.client, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no").await;
        assert_eq!(retries(), 1, "for as long as it answers");
        answer(&mut quick, "k").await;
        expect(&mut many.lab.client, "k").await;
        while retries() > 0 {
            tokio::task::yield_now().await;
        }
    });
}
