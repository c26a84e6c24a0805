//! What waits for a connection: its turn, its bounds, what it is served on; and connections that carry only so much.

use std::sync::Arc;

use super::limits::run_paused;
use super::*;
use crate::model::ServicePort;
use crate::policy::{PoolLimits, RetryShare};
use crate::proxy::Backends;
use crate::route::{RetryOn, RetryPolicy};

const OK: &[u8] = b"HTTP/1.1 204 No Content\r\n\r\n";

/// An endpoint under limits, and clients of it.
struct Pool {
    endpoint: TcpListener,
    port: Arc<ServicePort>,
}

fn connections(most: u32, waiting: u32) -> PoolLimits {
    PoolLimits { max_connections: Some(most), max_pending: Some(waiting), ..PoolLimits::default() }
}

impl Pool {
    async fn new(limits: PoolLimits) -> Self {
        let endpoint = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = testing::limited_port(&[endpoint.local_addr().unwrap()], limits);
        Self { endpoint, port }
    }

    /// A client in a pod of its own.
    async fn client(&self) -> Lab {
        let conn = testing::connection(self.endpoint.local_addr().unwrap());
        conn.set_backends(Backends::Service(self.port.clone()));
        self.served(conn).await
    }

    /// One in the same pod as another.
    async fn beside(&self, other: &Lab) -> Lab {
        self.served(testing::another(&other.conn)).await
    }

    async fn served(&self, conn: Connection) -> Lab {
        // Its own endpoint is never dialled: the port's is.
        lab_on(TcpListener::bind("127.0.0.1:0").await.unwrap(), conn).await
    }

    async fn accept(&self) -> TcpStream {
        self.endpoint.accept().await.unwrap().0
    }

    fn nobody_dials(&self) -> bool {
        futures_util::FutureExt::now_or_never(self.endpoint.accept()).is_none()
    }

    async fn waits_for(&self, count: u32) {
        while self.port.endpoints.usage.connections.waiting() != count {
            tokio::task::yield_now().await;
        }
    }
}

async fn ask(lab: &mut Lab, path: &str) {
    lab.send(&format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")).await;
}

async fn asked_for(server: &mut TcpStream, path: &str) {
    let got = head(server).await;
    assert!(got.starts_with(&format!("GET {path} ")), "{path}: {got}");
}

async fn answered(server: &mut TcpStream, lab: &mut Lab) {
    server.write_all(OK).await.unwrap();
    assert!(head(&mut lab.client).await.starts_with("HTTP/1.1 204 "));
}

#[test]
fn requests_of_one_pod_wait_their_turn_for_the_same_connection() {
    run(async {
        let pool = Pool::new(connections(1, 9)).await;
        let mut one = pool.client().await;
        let (mut two, mut three) = (pool.beside(&one).await, pool.beside(&one).await);
        ask(&mut one, "/1").await;
        let mut server = pool.accept().await;
        asked_for(&mut server, "/1").await;
        ask(&mut two, "/2").await;
        pool.waits_for(1).await;
        ask(&mut three, "/3").await;
        pool.waits_for(2).await;
        let metrics = one.conn.pod.worker.telemetry.metrics.agent().clone();
        assert_eq!(metrics.queue_waiting.get(), 2);
        answered(&mut server, &mut one).await;
        // One that comes back comes behind those that wait.
        ask(&mut one, "/4").await;
        for (path, lab) in [("/2", &mut two), ("/3", &mut three), ("/4", &mut one)] {
            asked_for(&mut server, path).await;
            answered(&mut server, lab).await;
        }
        assert!(pool.nobody_dials(), "a second connection");
        assert_eq!(pool.port.endpoints.usage.connections.taken(), 1);
        assert_eq!((metrics.queue_waiting.get(), metrics.queue_wait.get_sample_count()), (0, 3));
    });
}

#[test]
fn a_request_of_another_pod_gets_the_place_and_dials() {
    run(async {
        let pool = Pool::new(connections(1, 9)).await;
        let (mut one, mut other) = (pool.client().await, pool.client().await);
        ask(&mut one, "/1").await;
        let mut server = pool.accept().await;
        asked_for(&mut server, "/1").await;
        ask(&mut other, "/2").await;
        pool.waits_for(1).await;
        assert!(pool.nobody_dials());
        answered(&mut server, &mut one).await;
        assert_eq!(rest(&mut server).await.unwrap(), "", "the connection is closed for who waits");
        let mut server = pool.accept().await;
        asked_for(&mut server, "/2").await;
        answered(&mut server, &mut other).await;
    });
}

#[test]
fn beyond_the_queue_requests_overflow_at_once() {
    run(async {
        let pool = Pool::new(connections(1, 1)).await;
        let (mut one, mut two, mut three) = (pool.client().await, pool.client().await, pool.client().await);
        ask(&mut one, "/1").await;
        let _server = pool.accept().await;
        ask(&mut two, "/2").await;
        pool.waits_for(1).await;
        ask(&mut three, "/3").await;
        assert!(head(&mut three.client).await.starts_with("HTTP/1.1 503 "));
        let text = three.conn.pod.worker.telemetry.metrics.text();
        assert!(text.contains("response_flags=\"UO\""), "{text}");
    });
}

#[test]
fn a_wait_ends_with_the_connect_timeout_or_the_requests_deadline() {
    for (connect, deadline, status) in [(700, None, "503"), (90_000, Some(1), "504")] {
        run_paused(async move {
            let connect_timeout = Some(Duration::from_millis(connect));
            let pool = Pool::new(PoolLimits { connect_timeout, ..connections(1, 9) }).await;
            let (mut one, mut two) = (pool.client().await, pool.client().await);
            let mut rule = testing::rule(&[0]);
            rule.timeouts.request = deadline.map(Duration::from_secs);
            testing::route(&two.conn, rule, std::slice::from_ref(&pool.port));
            ask(&mut one, "/1").await;
            let _server = pool.accept().await;
            let begun = tokio::time::Instant::now();
            ask(&mut two, "/2").await;
            let got = head(&mut two.client).await;
            assert!(got.starts_with(&format!("HTTP/1.1 {status} ")), "{got}");
            let waited = begun.elapsed().as_millis();
            let limit = u128::from(deadline.map_or(connect, |seconds| seconds * 1000));
            assert!((limit..limit + 100).contains(&waited), "{waited} ms");
            assert_eq!(pool.port.endpoints.usage.connections.waiting(), 0);
        });
    }
}

#[test]
fn a_client_that_goes_away_leaves_the_queue() {
    run(async {
        let pool = Pool::new(connections(1, 9)).await;
        let (mut one, mut two, mut three) = (pool.client().await, pool.client().await, pool.client().await);
        ask(&mut one, "/1").await;
        let mut server = pool.accept().await;
        asked_for(&mut server, "/1").await;
        ask(&mut two, "/2").await;
        pool.waits_for(1).await;
        ask(&mut three, "/3").await;
        pool.waits_for(2).await;
        drop(two.client);
        pool.waits_for(1).await;
        answered(&mut server, &mut one).await;
        asked_for(&mut pool.accept().await, "/3").await;
    });
}

#[test]
fn a_raised_limit_lets_waiting_requests_go() {
    run(async {
        let pool = Pool::new(connections(1, 9)).await;
        let (mut one, mut two) = (pool.client().await, pool.client().await);
        ask(&mut one, "/1").await;
        let _server = pool.accept().await;
        ask(&mut two, "/2").await;
        pool.waits_for(1).await;
        pool.port.endpoints.usage.connections.set_limits(Some(2), Some(9));
        asked_for(&mut pool.accept().await, "/2").await;
    });
}

#[test]
fn a_connection_carries_as_many_requests_as_it_may() {
    run(async {
        let limits = PoolLimits { max_requests_per_connection: Some(2), ..PoolLimits::default() };
        let pool = Pool::new(limits).await;
        let mut lab = pool.client().await;
        for round in 0..3 {
            ask(&mut lab, "/first").await;
            let mut server = pool.accept().await;
            asked_for(&mut server, "/first").await;
            answered(&mut server, &mut lab).await;
            ask(&mut lab, "/second").await;
            asked_for(&mut server, "/second").await;
            answered(&mut server, &mut lab).await;
            assert_eq!(rest(&mut server).await.unwrap(), "", "round {round}");
        }
    });
}

#[test]
fn a_connection_that_is_too_old_ends_between_two_requests() {
    run_paused(async {
        let longest = Duration::from_secs(60);
        let limits = PoolLimits { max_connection_duration: Some(longest), ..PoolLimits::default() };
        let pool = Pool::new(limits).await;
        let mut lab = pool.client().await;
        ask(&mut lab, "/1").await;
        let mut server = pool.accept().await;
        asked_for(&mut server, "/1").await;
        answered(&mut server, &mut lab).await;
        // Paused time: just short of its age.
        tokio::time::sleep(longest - Duration::from_secs(1)).await;
        ask(&mut lab, "/2").await;
        asked_for(&mut server, "/2").await;
        // It becomes too old meanwhile: the request is finished all the same.
        tokio::time::sleep(longest).await;
        answered(&mut server, &mut lab).await;
        assert_eq!(rest(&mut server).await.unwrap(), "");
        ask(&mut lab, "/3").await;
        asked_for(&mut pool.accept().await, "/3").await;
    });
}

#[test]
fn retries_beyond_their_number_are_not_made() {
    fn check(limits: PoolLimits, tries: usize) {
        run(async move {
            let pool = Pool::new(limits).await;
            let _held = pool.port.endpoints.usage.retries.take(None).unwrap();
            let mut lab = pool.client().await;
            let mut rule = testing::rule(&[0]);
            let on = RetryOn { server_error: true, ..RetryOn::default() };
            let (least_wait, backoff, max_backoff) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
            let policy = RetryPolicy { attempts: 1, on, least_wait, backoff, max_backoff, per_try: None };
            rule.retry = Some(policy);
            testing::route(&lab.conn, rule, std::slice::from_ref(&pool.port));
            ask(&mut lab, "/").await;
            let refusal = b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n";
            for _ in 0..tries {
                let mut server = pool.accept().await;
                asked_for(&mut server, "/").await;
                server.write_all(refusal).await.unwrap();
            }
            assert!(head(&mut lab.client).await.starts_with("HTTP/1.1 503 No\r\n"));
            let exhausted = lab.conn.pod.worker.telemetry.metrics.agent().retry_budget_exhausted.get();
            assert_eq!(exhausted, u64::from(tries == 1), "{limits:?}");
            assert_eq!(pool.port.endpoints.usage.retries.get(), 1);
        });
    }
    let retries = |most| PoolLimits { max_retries: Some(most), ..PoolLimits::default() };
    let share = |thousandths, least| PoolLimits {
        retry_share: Some(RetryShare { thousandths, least }),
        ..retries(9)
    };
    check(retries(1), 1);
    check(retries(2), 2);
    check(share(1000, 1), 1);
    check(share(2000, 1), 2);
    check(share(0, 2), 2);
}
