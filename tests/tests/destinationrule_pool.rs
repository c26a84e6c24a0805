//! DestinationRule's connectionPool: whose turn it is for a connection, how much one carries and for how long, how many
//! retries go at a time.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::io::{BufReader, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use http::Request;
use mesh_tests::http1::{Client, read_message};
use mesh_tests::http2::{H2Server, answer, with_client};
use mesh_tests::lab::eventually;
use mesh_tests::policy::destination_rule;
use mesh_tests::server::Server;
use mesh_tests::shop::{HttpService, NAMESPACE, Service, Shop};
use mesh_tests::sockets::Host;
use mesh_tests::{AT_ONCE, SOON, need_shop, shared_shop};

shared_shop!("drpool");

/// Far longer than anything takes, so that no wait ends by itself.
const PATIENT: &str = "connectTimeout: 60s";

fn flag_of(shop: &Shop, path: &str) -> String {
    let line = shop.log_shows(path, |line| line["path"] == path).unwrap();
    line["response_flags"].as_str().unwrap().to_owned()
}

fn begin(from: &Host, service: &Service, path: &str) -> Client {
    let mut client = Client::new(from.connect(service.at()).unwrap());
    client.send(format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n")).unwrap();
    client
}

fn reaches_the_endpoint(service: &HttpService, path: &str) {
    eventually(SOON, || {
        ensure!(service.request(path).is_some(), "{path} isn't there yet");
        Ok(())
    })
    .unwrap();
}

fn status(client: &mut Client) -> u16 {
    client.read().unwrap().unwrap().status()
}

#[test]
fn requests_beyond_the_connections_wait_and_those_beyond_the_queue_overflow() {
    let shop = need_shop!();
    let pool = format!(
        "connectionPool: {{tcp: {{maxConnections: 1, {PATIENT}}}, http: {{http1MaxPendingRequests: 1}}}}"
    );
    for (name, port_name) in [("waits", "http"), ("waitsdetect", "")] {
        let service = shop.http_under_rule(name, port_name, 1, &pool).unwrap();
        let first = begin(&shop.web, &service, "/hang");
        reaches_the_endpoint(&service, "/hang");
        // One of three waits, whichever comes first; the others are refused before anything becomes free.
        let (answers, answered) = mpsc::channel();
        for (at, from) in [&shop.web, &shop.batch, &shop.batch].into_iter().enumerate() {
            let path = format!("/{name}-{at}");
            let (mut client, answers) = (begin(from, &service, &path), answers.clone());
            thread::spawn(move || answers.send((status(&mut client), path)));
        }
        for _ in 0..2 {
            let (status, path) = answered.recv_timeout(SOON).unwrap();
            assert_eq!((status, &*flag_of(shop, &path)), (503, "UO"), "{path}");
        }
        assert_eq!(service.counts(), [1], "nothing else has come to the endpoint");
        drop(first);
        assert_eq!(answered.recv_timeout(SOON).unwrap().0, 200, "{name}");
    }
}

#[test]
fn a_wait_ends_with_the_connect_timeout() {
    let shop = need_shop!();
    let pool = "connectionPool: {tcp: {maxConnections: 1, connectTimeout: 300ms}}";
    let service = shop.http_under_rule("waitstoolong", "http", 1, pool).unwrap();
    let _first = begin(&shop.web, &service, "/hang");
    reaches_the_endpoint(&service, "/hang");
    let started = Instant::now();
    assert_eq!(shop.get(&service, "/too-long").unwrap().status(), 503);
    assert!((Duration::from_millis(300)..AT_ONCE).contains(&started.elapsed()), "{:?}", started.elapsed());
    assert_eq!(flag_of(shop, "/too-long"), "UO");
}

#[test]
fn an_idle_connection_of_another_pod_gives_its_place_to_who_waits() {
    let shop = need_shop!();
    let pool = format!("connectionPool: {{tcp: {{maxConnections: 1, {PATIENT}}}}}");
    let service = shop.http_under_rule("givesway", "http", 1, &pool).unwrap();
    let (mut web, mut batch) = (shop.client(&service).unwrap(), begin(&shop.batch, &service, "/first"));
    assert_eq!(status(&mut batch), 200);
    for round in 0..5 {
        let started = Instant::now();
        assert_eq!(web.get("h", "/web").unwrap().status(), 200, "round {round}");
        assert_eq!(batch.get("h", "/batch").unwrap().status(), 200, "round {round}");
        assert!(started.elapsed() < AT_ONCE, "{:?}", started.elapsed());
    }
}

#[test]
fn the_endpoint_never_has_more_connections_than_it_may() {
    let shop = need_shop!();
    let pool = format!("connectionPool: {{tcp: {{maxConnections: 2, {PATIENT}}}}}");
    let rule = destination_rule(NAMESPACE, "nevermore", &pool).unwrap();
    shop.topology.mesh().write("policy-nevermore.yaml", [rule]).unwrap();
    let (at_once, most) = (AtomicUsize::new(0), Arc::new(AtomicUsize::new(0)));
    let (port, seen) = (shop.port(), most.clone());
    // A connection of HTTP/1 has one request at a time.
    let _server = Server::new(shop.carts[0].listen(port).unwrap(), move |stream, _| {
        let mut out = stream.try_clone().unwrap();
        let mut reader = BufReader::new(stream);
        while let Ok(Some(_)) = read_message(&mut reader, false) {
            seen.fetch_max(at_once.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
            // The time that a request takes.
            thread::sleep(Duration::from_millis(3));
            at_once.fetch_sub(1, Ordering::Relaxed);
            out.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap();
        }
    });
    let service = shop.expose("nevermore", "http", port, &[&shop.carts[0]]).unwrap();
    thread::scope(|scope| {
        for client in 0..8 {
            let from = if client % 2 == 0 { &shop.web } else { &shop.batch };
            let mut client = Client::new(from.connect(service.at()).unwrap());
            scope.spawn(move || {
                for _ in 0..20 {
                    assert_eq!(client.get("h", "/").unwrap().status(), 204);
                }
            });
        }
    });
    assert!((1..=2).contains(&most.load(Ordering::Relaxed)), "{most:?} at once");
}

#[test]
fn a_raised_limit_reaches_a_request_that_waits() {
    let shop = need_shop!();
    let pool = |most: u32| format!("connectionPool: {{tcp: {{maxConnections: {most}, {PATIENT}}}}}");
    let service = shop.http_under_rule("raised", "http", 1, &pool(1)).unwrap();
    let _first = begin(&shop.web, &service, "/hang");
    reaches_the_endpoint(&service, "/hang");
    let mut waiting = begin(&shop.batch, &service, "/raised");
    shop.change_policies("raised", [destination_rule(NAMESPACE, "raised", &pool(2)).unwrap()]).unwrap();
    assert_eq!(status(&mut waiting), 200);
}

#[test]
fn a_connection_carries_no_more_requests_than_it_may() {
    let shop = need_shop!();
    let rule = "connectionPool: {http: {maxRequestsPerConnection: 3}}";
    let service = shop.http_under_rule("worn", "http", 1, rule).unwrap();
    let mut client = shop.client(&service).unwrap();
    for _ in 0..9 {
        assert_eq!(client.get("w", "/").unwrap().status(), 200);
    }
    assert_eq!(service.backends[0].server.accepted(), 3);
    let (server, service) = http2(shop, "worn2", rule, false);
    asks(shop, &service, 9).unwrap();
    assert_eq!(server.accepted(), 3);
}

/// An HTTP/2 server under a rule; it answers no request if `hangs`.
fn http2(shop: &Shop, name: &str, rule: &str, hangs: bool) -> (H2Server, Service) {
    let port = shop.port();
    let server = H2Server::new(shop.carts[0].listen(port).unwrap(), None, move |_, mut respond| async move {
        if hangs {
            // Held: dropping it would reset the stream.
            std::future::pending::<()>().await;
        }
        answer(&mut respond, "", None);
    });
    shop.topology
        .mesh()
        .write(&format!("policy-{name}.yaml"), [destination_rule(NAMESPACE, name, rule).unwrap()])
        .unwrap();
    (server, shop.expose(name, "http2", port, &[&shop.carts[0]]).unwrap())
}

fn asks(shop: &Shop, service: &Service, count: usize) -> Result<()> {
    with_client(shop.web.connect(service.at())?, async |client| {
        for _ in 0..count {
            let request = Request::get("http://h/").body(())?;
            let (response, _) = client.clone().ready().await?.send_request(request, true)?;
            ensure!(response.await?.status() == 200);
        }
        Ok(())
    })
}

#[test]
fn more_streams_than_a_connection_may_have_go_on_others() {
    let shop = need_shop!();
    let (server, service) = http2(shop, "streams", "connectionPool: {http: {maxConcurrentStreams: 2}}", true);
    with_client(shop.web.connect(service.at()).unwrap(), async |client| {
        let mut under_way = Vec::new();
        for _ in 0..6 {
            let request = Request::get("http://h/").body(())?;
            under_way.push(client.clone().ready().await?.send_request(request, true)?);
        }
        let deadline = Instant::now() + SOON;
        while server.accepted() < 3 && Instant::now() < deadline {
            // The pause between two looks.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        ensure!(server.accepted() == 3, "{} connections", server.accepted());
        Ok(())
    })
    .unwrap();
}

#[test]
fn an_opaque_connection_ends_at_its_age_and_says_so() {
    let shop = need_shop!();
    let rule = "connectionPool: {tcp: {maxConnectionDuration: 1s}}";
    let service = shop.http_under_rule("aged", "tcp", 1, rule).unwrap();
    let mut stream = shop.web.connect(service.at()).unwrap();
    let started = Instant::now();
    // Traffic doesn't keep it.
    while stream.write_all(b"GET / HTTP/1.1\r\nHost: i\r\n\r\n").is_ok() {
        if !matches!(stream.read(&mut [0; 1000]), Ok(1..)) {
            break;
        }
    }
    assert!((Duration::from_millis(900)..SOON).contains(&started.elapsed()), "{:?}", started.elapsed());
    let host = "aged.shop.svc.cluster.local";
    let line = shop
        .log_shows(host, |line| line["response_flags"] == "DT" && line.to_string().contains(host))
        .unwrap();
    assert_eq!(line["response_code_details"], "connection_duration", "{line}");
}

#[test]
fn a_connection_for_requests_ends_at_its_age_between_two_of_them() {
    let shop = need_shop!();
    let rule = "connectionPool: {tcp: {maxConnectionDuration: 500ms}}";
    let service = shop.http_under_rule("agedhttp", "http", 1, rule).unwrap();
    let mut client = shop.client(&service).unwrap();
    assert_eq!(client.get("a", "/slow/1000").unwrap().status(), 200, "it becomes too old within the request");
    eventually(SOON, || {
        ensure!(client.get("a", "/")?.status() == 200);
        ensure!(service.backends[0].server.accepted() >= 3, "still on the second connection");
        Ok(())
    })
    .unwrap();
}

#[test]
fn retries_beyond_their_number_are_not_made() {
    let shop = need_shop!();
    for (name, policy) in [
        ("retries", "connectionPool: {http: {maxRetries: 1}}"),
        ("budgeted", "retryBudget: {percent: 0, minRetryConcurrency: 1}"),
    ] {
        let rule = format!("{{loadBalancer: {{simple: ROUND_ROBIN}}, {policy}}}");
        let service = shop.http_under_rule(name, "http", 2, &rule).unwrap();
        service.backends[0].seen.answer_with(503);
        let rule = format!(
            "{{retry: {{codes: [503], attempts: 1, backoff: 1ms}}, backendRefs: [{{name: {name}, port: 80}}]}}"
        );
        shop.route(&service, &rule).unwrap();
        let mut client = shop.client(&service).unwrap();
        let failures =
            |client: &mut Client| (0..4).filter(|_| client.get("r", "/").unwrap().status() == 503).count();
        assert_eq!(failures(&mut client), 0, "{name}: retries hide the endpoint that fails");
        // Until one of them is at its second try, and stays there.
        let mut hanging = Vec::new();
        eventually(SOON, || {
            hanging.push(begin(&shop.batch, &service, "/hang"));
            let both =
                || service.backends.iter().all(|backend| backend.seen.of("/hang").len() >= hanging.len());
            eventually(Duration::from_millis(500), || {
                ensure!(both());
                Ok(())
            })
        })
        .unwrap();
        assert!(failures(&mut client) > 0, "{name}: retried beyond the number");
        drop(hanging);
        eventually(SOON, || {
            ensure!(failures(&mut client) == 0, "{name}: the place of the retry isn't back");
            Ok(())
        })
        .unwrap();
    }
}

#[test]
fn a_request_that_waits_is_not_charged_to_its_endpoint() {
    let shop = need_shop!();
    let rule = "{connectionPool: {tcp: {maxConnections: 1, connectTimeout: 100ms}}, outlierDetection: {consecutive5xxErrors: 2, baseEjectionTime: 1h}}";
    let service = shop.http_under_rule("uncharged", "http", 1, rule).unwrap();
    let first = begin(&shop.web, &service, "/hang");
    reaches_the_endpoint(&service, "/hang");
    let refused: Arc<AtomicUsize> = Arc::default();
    for _ in 0..3 {
        refused.fetch_add(usize::from(shop.get(&service, "/").unwrap().status() == 503), Ordering::Relaxed);
    }
    assert_eq!(refused.load(Ordering::Relaxed), 3);
    drop(first);
    eventually(SOON, || {
        ensure!(shop.get(&service, "/")?.status() == 200, "ejected for what it never saw");
        Ok(())
    })
    .unwrap();
}
