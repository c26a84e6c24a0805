//! Copies of requests: what a mirror gets, and that nothing it does is seen by the client.

use super::*;
use crate::model::ServicePort;
use crate::proxy::Limits;
use crate::route::{HeaderEdits, Mirror};
use std::sync::Arc;

/// Every request goes to the lab's endpoint, with a header added, and so large a share of them to each of `mirrors`.
async fn mirrored(mirrors: &[Arc<ServicePort>], numerator: u32, limits: Limits) -> Lab {
    let endpoint = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = endpoint.local_addr().unwrap();
    let lab = lab_on(endpoint, testing::connection_with(addr, limits)).await;
    let mut rule = testing::rule(&[0]);
    rule.filters.request =
        HeaderEdits { set: vec![("x-env".parse().unwrap(), "test".parse().unwrap())], ..Default::default() };
    rule.filters.mirrors =
        (1..=mirrors.len()).map(|target| Mirror { target, numerator, denominator: 2 }).collect();
    let ports: Vec<_> =
        [testing::service_port("main", &[addr])].into_iter().chain(mirrors.iter().cloned()).collect();
    testing::route(&lab.conn, rule, &ports);
    lab
}

async fn listening(name: &str) -> (TcpListener, Arc<ServicePort>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = testing::service_port(name, &[listener.local_addr().unwrap()]);
    (listener, port)
}

fn outcomes(lab: &Lab, outcome: &str) -> u64 {
    let metrics = lab.conn.pod.worker.telemetry.metrics.agent();
    metrics.mirrored_requests.with_label_values(&[outcome]).get()
}

async fn counted(lab: &Lab, outcome: &str, count: u64) {
    while outcomes(lab, outcome) < count {
        tokio::task::yield_now().await;
    }
    assert_eq!(outcomes(lab, outcome), count, "{outcome}");
}

const BODY: &str = "3\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n";

async fn post_is_answered(lab: &mut Lab, server: &mut TcpStream) -> String {
    lab.send(&format!("POST /a?b HTTP/1.1\r\nhOST: a\r\nTransfer-Encoding: chunked\r\n\r\n{BODY}")).await;
    let got = head(server).await;
    expect(server, BODY).await;
    server.write_all(b"HTTP/1.1 204 Main\r\n\r\n").await.unwrap();
    expect(&mut lab.client, "HTTP/1.1 204 Main\r\n\r\n").await;
    got
}

#[test]
fn every_mirror_gets_the_request_as_the_endpoint_does_and_its_answer_is_thrown_away() {
    run(async {
        let (one, one_port) = listening("one").await;
        let (two, two_port) = listening("two").await;
        let mut lab = mirrored(&[one_port, two_port], 2, Limits::default()).await;
        lab.send("POST /a?b HTTP/1.1\r\nhOST: a\r\nTransfer-Encoding: chunked\r\n\r\n").await;
        let mut server = lab.accept().await;
        let got = head(&mut server).await;
        lab.send(BODY).await;
        expect(&mut server, BODY).await;
        let (mut one, mut two) = (one.accept().await.unwrap().0, two.accept().await.unwrap().0);
        for mirror in [&mut one, &mut two] {
            expect(mirror, &got).await;
            expect(mirror, BODY).await;
            mirror.write_all(b"HTTP/1.1 500 Mirror\r\nContent-Length: 4\r\n\r\noops").await.unwrap();
        }
        assert!(got.starts_with("POST /a?b ") && got.contains("x-env: test\r\n"), "{got}");
        counted(&lab, "sent", 2).await;
        server.write_all(b"HTTP/1.1 204 Main\r\n\r\n").await.unwrap();
        expect(&mut lab.client, "HTTP/1.1 204 Main\r\n\r\n").await;
        // The next copy takes the connection that the first one left.
        let again = post_is_answered(&mut lab, &mut server).await;
        expect(&mut one, &again).await;
        expect(&mut one, BODY).await;
    });
}

#[test]
fn mirrors_that_are_dead_or_silent_or_gone_change_nothing_for_the_client() {
    run(async {
        let (silent, silent_port) = listening("silent").await;
        let (dead, dead_port) = listening("dead").await;
        drop(dead);
        let gone = testing::service_port("gone", &[]);
        let limits = Limits { mirror_timeout: Duration::from_millis(50), ..Limits::default() };
        let mut lab = mirrored(&[silent_port, dead_port, gone], 2, limits).await;
        lab.send("GET /1 HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let mut server = lab.accept().await;
        head(&mut server).await;
        server.write_all(b"HTTP/1.1 204 Main\r\n\r\n").await.unwrap();
        expect(&mut lab.client, "HTTP/1.1 204 Main\r\n\r\n").await;
        post_is_answered(&mut lab, &mut server).await;
        assert!(head(&mut silent.accept().await.unwrap().0).await.starts_with("GET /1 "));
        counted(&lab, "failed", 4).await;
        counted(&lab, "no_endpoint", 2).await;
        assert_eq!(lab.conn.pod.worker.mirrors.get(), 0);
    });
}

#[test]
fn a_body_beyond_the_replay_buffer_goes_to_the_endpoint_alone() {
    run(async {
        let (_mirror, port) = listening("mirror").await;
        let mut lab = mirrored(&[port], 2, Limits::default()).await;
        let body = "x".repeat(64 * 1024 + 1);
        lab.send(&format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len())).await;
        let mut server = lab.accept().await;
        head(&mut server).await;
        tokio::join!(lab.client.write_all(body.as_bytes()), expect(&mut server, &body)).0.unwrap();
        counted(&lab, "too_large", 1).await;
        server.write_all(b"HTTP/1.1 204 Main\r\n\r\n").await.unwrap();
        expect(&mut lab.client, "HTTP/1.1 204 Main\r\n\r\n").await;
        assert_eq!((outcomes(&lab, "sent"), outcomes(&lab, "failed")), (0, 0));
    });
}

#[test]
fn so_many_copies_at_a_time_and_no_more() {
    run(async {
        let (_mirror, port) = listening("mirror").await;
        let limits = Limits { max_mirrors: 1, ..Limits::default() };
        let mut lab = mirrored(&[port.clone(), port], 2, limits).await;
        lab.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let mut server = lab.accept().await;
        head(&mut server).await;
        counted(&lab, "overflow", 1).await;
        assert_eq!(lab.conn.pod.worker.mirrors.get(), 1);
        server.write_all(b"HTTP/1.1 204 Main\r\n\r\n").await.unwrap();
        expect(&mut lab.client, "HTTP/1.1 204 Main\r\n\r\n").await;
    });
}

#[test]
fn a_mirror_gets_its_share_of_the_requests() {
    run(async {
        let limits = Limits { max_mirrors: 0, ..Limits::default() };
        let (_mirror, port) = listening("mirror").await;
        let mut lab = mirrored(&[port], 1, limits).await;
        lab.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let mut server = lab.accept().await;
        for left in (0..400).rev() {
            head(&mut server).await;
            server.write_all(b"HTTP/1.1 204 Main\r\n\r\n").await.unwrap();
            expect(&mut lab.client, "HTTP/1.1 204 Main\r\n\r\n").await;
            if left > 0 {
                lab.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
            }
        }
        // Half of 400, ten standard deviations either way.
        let drawn = outcomes(&lab, "overflow");
        assert!((100..=300).contains(&drawn), "{drawn}");
    });
}
