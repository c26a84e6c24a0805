//! TrafficPolicy: faults, circuit breaker, limits on requests at a time, fallbacks, timeout and retries.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::time::{Duration, Instant};

use anyhow::ensure;
use http::Request;
use mesh_tests::http1::Client;
use mesh_tests::http2::{H2Server, answer, whole, with_client};
use mesh_tests::lab::eventually;
use mesh_tests::policy::traffic_policy;
use mesh_tests::shop::{HttpService, Service, Shop};
use mesh_tests::{AT_ONCE, PATIENCE, SOON, need_shop, shared_shop};

shared_shop!("resilience");

fn flag_of(shop: &Shop, path: &str) -> String {
    let line = shop.log_shows(path, |line| line["path"] == path).unwrap();
    line["response_flags"].as_str().unwrap().to_owned()
}

fn decisions(shop: &Shop, decision: &str) -> f64 {
    let metrics = shop.agent.metrics().unwrap();
    metrics.sum("mesh_agent_traffic_policy_decisions_total", &[("decision", decision)])
}

/// A request whose answer nobody waits for yet.
fn begin(shop: &Shop, service: &Service, path: &str) -> Client {
    let mut client = shop.client(service).unwrap();
    client.send(format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n")).unwrap();
    client
}

/// Waits until the service's endpoints have received so many requests.
fn received(service: &HttpService, count: usize) {
    eventually(SOON, || {
        let counts = service.counts();
        ensure!(counts.iter().sum::<usize>() >= count, "{counts:?}");
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_delay_and_an_abort_hit_the_requests_that_match() {
    let shop = need_shop!();
    let spec = "faultInjection: {delay: {fixed: 5s}, abort: {httpStatus: 503}, match: {headers: [{name: x-chaos, value: 'yes'}]}}";
    let service = shop.http_under_policy("chaos", 1, spec).unwrap();
    let mut client = shop.client(&service).unwrap();
    let started = Instant::now();
    assert_eq!(client.get_with("c", "/", "X-Chaos: no").unwrap().status(), 200);
    assert!(started.elapsed() < AT_ONCE, "{:?}", started.elapsed());
    let started = Instant::now();
    assert_eq!(client.get_with("c", "/chaos", "X-Chaos: yes").unwrap().status(), 503);
    assert!(started.elapsed() >= Duration::from_secs(5), "{:?}", started.elapsed());
    assert_eq!(flag_of(shop, "/chaos"), "FI");
    assert_eq!(client.get("c", "/").unwrap().status(), 200, "the connection goes on");
    assert_eq!(service.counts(), [2]);
    assert!(decisions(shop, "fault_delay") >= 1.0 && decisions(shop, "fault_abort") >= 1.0);
}

#[test]
fn a_delay_alone_is_told_by_its_flag_over_both_versions() {
    let shop = need_shop!();
    let service = shop.http_under_policy("onlydelay", 1, "faultInjection: {delay: {fixed: 100ms}}").unwrap();
    assert_eq!(shop.get(&service, "/onlydelay").unwrap().status(), 200);
    let told = |path: &str| {
        let line = shop.log_shows(path, |line| line["path"] == path && line["reporter"] == "source").unwrap();
        (line["response_flags"].to_string(), line["response_code_details"].to_string())
    };
    let delayed = ("\"DI\"".to_owned(), "\"fault_delay\"".to_owned());
    assert_eq!(told("/onlydelay"), delayed);
    // The timeout that came first says more than the delay.
    let cut = "{faultInjection: {delay: {fixed: 1h}}, timeout: 50ms}";
    let service = shop.http_under_policy("cutdelay", 1, cut).unwrap();
    assert_eq!(shop.get(&service, "/cutdelay").unwrap().status(), 504);
    assert_eq!(told("/cutdelay"), ("\"UT\"".to_owned(), "\"request_timeout\"".to_owned()));

    let port = shop.port();
    let _server =
        H2Server::new(shop.carts[0].listen(port).unwrap(), None, |_request, mut respond| async move {
            answer(&mut respond, "ok", None);
        });
    let policy = traffic_policy("h2delay", "faultInjection: {delay: {fixed: 100ms}}").unwrap();
    shop.topology.mesh().write("policy-h2delay.yaml", [policy]).unwrap();
    let service = shop.expose("h2delay", "http2", port, &[&shop.carts[0]]).unwrap();
    with_client(shop.web.connect(service.at()).unwrap(), async |client| {
        let request = Request::get("http://g/h2delay").body(())?;
        let (response, _) = client.ready().await?.send_request(request, true)?;
        ensure!(whole(response.await?).await?.head.status == 200);
        Ok(())
    })
    .unwrap();
    assert_eq!(told("/h2delay"), delayed);
}

#[test]
fn an_abort_over_grpc_is_a_grpc_status() {
    let shop = need_shop!();
    let port = shop.port();
    let _server =
        H2Server::new(shop.carts[0].listen(port).unwrap(), None, |_request, mut respond| async move {
            answer(&mut respond, "reached", None);
        });
    let policy = traffic_policy("grpcabort", "faultInjection: {abort: {grpcStatus: 14}}").unwrap();
    shop.topology.mesh().write("policy-grpcabort.yaml", [policy]).unwrap();
    let service = shop.expose("grpcabort", "grpc", port, &[&shop.carts[0]]).unwrap();
    let answer = with_client(shop.web.connect(service.at()).unwrap(), async |client| {
        let request = Request::post("http://g/abort").header("content-type", "application/grpc").body(())?;
        let (response, _) = client.ready().await?.send_request(request, true)?;
        whole(response.await?).await
    })
    .unwrap();
    assert_eq!(
        (answer.head.status.as_u16(), &answer.head.headers["grpc-status"]),
        (200, &"14".parse().unwrap())
    );
    assert_eq!(flag_of(shop, "/abort"), "FI");
}

#[test]
fn a_delay_ends_with_its_client_and_its_timeout_and_no_more_than_max_active_suffer() {
    let shop = need_shop!();
    let service =
        shop.http_under_policy("delayed", 1, "faultInjection: {delay: {fixed: 1h}, maxActive: 1}").unwrap();
    let before = decisions(shop, "fault_delay");
    let waiting = begin(shop, &service, "/gone");
    eventually(SOON, || {
        ensure!(decisions(shop, "fault_delay") > before);
        Ok(())
    })
    .unwrap();
    assert_eq!(shop.get(&service, "/").unwrap().status(), 200, "a second one isn't delayed");
    drop(waiting);
    assert_eq!(flag_of(shop, "/gone"), "DC");
    let spec = "{timeout: 1s, faultInjection: {delay: {fixed: 1h}, maxActive: 1}}";
    let service = shop.http_under_policy("delayedtoolong", 1, spec).unwrap();
    assert_eq!(shop.get(&service, "/toolong").unwrap().status(), 504);
    assert_eq!(flag_of(shop, "/toolong"), "UT");
    assert_eq!(service.counts(), [0]);
}

const BREAKER: &str = "circuitBreaker: {errorRate: {percent: 50, minimumRequests: 4, window: 1m}, openFor: 2s, halfOpenRequests: 2}";

#[test]
fn a_breaker_opens_on_errors_answers_at_once_and_closes_after_good_probes() {
    let shop = need_shop!();
    let service = shop.http_under_policy("breaker", 2, BREAKER).unwrap();
    let answer_with = |status| service.backends.iter().for_each(|backend| backend.seen.answer_with(status));
    let mut client = shop.client(&service).unwrap();
    let mut get = |path: &str| client.get("b", path).unwrap();
    answer_with(500);
    for _ in 0..4 {
        assert_eq!(get("/").text(), "told so\n");
    }
    let sent = service.counts().iter().sum::<usize>();
    let refusal = get("/open");
    assert_eq!((refusal.status(), refusal.text().as_str()), (503, "circuit open\n"));
    assert_eq!((sent, service.counts().iter().sum::<usize>()), (4, 4));
    assert_eq!(flag_of(shop, "/open"), "UO");
    // Still failing: the first probe opens it again.
    let mut reached = |status| {
        answer_with(status);
        let before = service.counts().iter().sum::<usize>();
        eventually(SOON, || {
            client.get("b", "/").unwrap();
            ensure!(service.counts().iter().sum::<usize>() > before, "no probe yet");
            Ok(())
        })
        .unwrap();
    };
    reached(500);
    assert_eq!(shop.get(&service, "/").unwrap().text(), "circuit open\n");
    reached(0);
    let mut client = shop.client(&service).unwrap();
    for i in 0..10 {
        assert_eq!(client.get("b", "/").unwrap().status(), 200, "request {i} after good probes");
    }
    assert!(decisions(shop, "circuit_open") >= 2.0);
}

#[test]
fn a_probe_that_becomes_a_long_connection_closes_the_breaker_too() {
    let shop = need_shop!();
    let service = shop
        .http_under_policy("longprobe", 1, &BREAKER.replace("halfOpenRequests: 2", "halfOpenRequests: 1"))
        .unwrap();
    service.seen().answer_with(500);
    let mut client = shop.client(&service).unwrap();
    (0..4).for_each(|_| drop(client.get("l", "/").unwrap()));
    assert_eq!(client.get("l", "/").unwrap().text(), "circuit open\n");
    service.seen().answer_with(0);
    let upgrade = "GET /upgrade HTTP/1.1\r\nHost: l\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let socket = eventually(SOON, || {
        let mut socket = shop.client(&service)?;
        let status = socket.ask(upgrade)?.status();
        ensure!(status == 101, "{status}");
        Ok(socket)
    })
    .unwrap();
    assert_eq!(client.get("l", "/").unwrap().status(), 200, "while the probe's connection is open");
    drop(socket);
}

#[test]
fn an_open_breaker_gives_the_fallbacks_answer() {
    let shop = need_shop!();
    let fallback = "fallback: {answer: {status: 203, headers: [{name: content-type, value: application/json}], body: '[]'}}";
    let service = shop.http_under_policy("cached", 1, &format!("{BREAKER}\n{fallback}")).unwrap();
    service.seen().answer_with(500);
    let mut client = shop.client(&service).unwrap();
    (0..4).for_each(|_| assert_eq!(client.get("c", "/").unwrap().status(), 500));
    let cached = client.get("c", "/").unwrap();
    assert_eq!((cached.status(), cached.text().as_str()), (203, "[]"));
    assert_eq!(cached.headers("content-type"), ["application/json"]);
}

#[test]
fn requests_beyond_the_limit_at_a_time_overflow_until_one_ends() {
    let shop = need_shop!();
    let service = shop.http_under_policy("crowded", 1, "concurrency: {maxRequests: 2}").unwrap();
    let under_way = [begin(shop, &service, "/hang"), begin(shop, &service, "/hang")];
    received(&service, 2);
    let refusal = shop.get(&service, "/crowded").unwrap();
    assert_eq!((refusal.status(), refusal.text().as_str()), (503, "concurrency limit\n"));
    assert_eq!(flag_of(shop, "/crowded"), "UO");
    drop(under_way);
    let free = |what: &str| {
        eventually(SOON, || {
            let status = shop.get(&service, "/")?.status();
            ensure!(status == 200, "{status} {what}");
            Ok(())
        })
        .unwrap();
    };
    free("though the clients went away");
    // An upgraded connection is a request under way until it ends.
    let upgrade = "GET /upgrade HTTP/1.1\r\nHost: l\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let sockets = [shop.client(&service).unwrap(), shop.client(&service).unwrap()].map(|mut socket| {
        assert_eq!(socket.ask(upgrade).unwrap().status(), 101);
        socket
    });
    assert_eq!(shop.get(&service, "/").unwrap().status(), 503);
    drop(sockets);
    free("though the tunnels ended");
}

#[test]
fn without_an_endpoint_a_fallback_answers_or_another_service_does() {
    let shop = need_shop!();
    let stand_in = shop.http("standin", "http", 1).unwrap();
    let empty = |name: &str, fallback: &str| {
        let policy = traffic_policy(name, &format!("fallback: {fallback}")).unwrap();
        shop.topology.mesh().write(&format!("policy-{name}.yaml"), [policy]).unwrap();
        shop.expose(name, "http", 1, &[]).unwrap()
    };
    let service = empty("emptyanswer", "{answer: {status: 200, body: closed}}");
    let answer = shop.get(&service, "/closed").unwrap();
    assert_eq!((answer.status(), answer.text().as_str()), (200, "closed"));
    assert_eq!(flag_of(shop, "/closed"), "UH");
    let service = empty("emptyservice", "{service: {name: standin, port: 80}}");
    let answer = shop.get(&service, "/head").unwrap();
    assert!(answer.status() == 200 && answer.text().contains("Host: emptyservice"), "{}", answer.text());
    assert_eq!(stand_in.counts(), [1]);
    let kept = empty("emptytimeout", "{answer: {status: 200}, on: [timeout]}");
    assert_eq!(shop.get(&kept, "/").unwrap().status(), 503, "not what it is for");
    assert!(decisions(shop, "fallback_answer") >= 1.0 && decisions(shop, "fallback_service") >= 1.0);
}

#[test]
fn errors_that_a_fallback_replaces_never_reach_the_client() {
    let shop = need_shop!();
    let spec = "{timeout: 1s, fallback: {answer: {status: 200, body: calm}, on: [error5xx, timeout]}}";
    let service = shop.http_under_policy("calm", 1, spec).unwrap();
    let mut client = shop.client(&service).unwrap();
    for path in ["/status/500", "/reset", "/hang", "/status/404"] {
        let answer = client.get("c", path).unwrap();
        let expected = if path == "/status/404" { (404, "status\n") } else { (200, "calm") };
        assert_eq!((answer.status(), answer.text().as_str()), expected, "{path}");
    }
}

#[test]
fn a_request_beyond_its_timeout_is_504() {
    let shop = need_shop!();
    let service = shop.http_under_policy("timed", 1, "timeout: 1s").unwrap();
    let started = Instant::now();
    assert_eq!(shop.get(&service, "/hang").unwrap().status(), 504);
    assert!((Duration::from_secs(1)..PATIENCE).contains(&started.elapsed()), "{:?}", started.elapsed());
    assert_eq!(flag_of(shop, "/hang"), "UT");
    assert_eq!(shop.get(&service, "/").unwrap().status(), 200);
}

#[test]
fn retries_hide_an_endpoint_that_fails() {
    let shop = need_shop!();
    let spec = "retry: {attempts: 3, on: [5xx], budget: {percent: 100, minRetriesPerSecond: 1000}}";
    let service = shop.http_under_policy("hidden", 3, spec).unwrap();
    service.backends[1].seen.answer_with(503);
    let mut client = shop.client(&service).unwrap();
    for i in 0..60 {
        let request = format!("POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nno {i:02}");
        let answer = client.ask(request).unwrap();
        assert_eq!((answer.status(), answer.text()), (200, format!("no {i:02}")));
    }
    assert!(service.counts()[1] > 0, "the failing one was never asked: {:?}", service.counts());
}

#[test]
fn a_budget_bounds_what_retries_add() {
    let shop = need_shop!();
    let spec = "retry: {attempts: 5, on: [5xx], backoff: {base: 1ms}, budget: {percent: 10, minRetriesPerSecond: 0}}";
    let service = shop.http_under_policy("bounded", 2, spec).unwrap();
    service.backends.iter().for_each(|backend| backend.seen.answer_with(500));
    let mut client = shop.client(&service).unwrap();
    for _ in 0..200 {
        assert_eq!(client.get("b", "/").unwrap().status(), 500);
    }
    let sent: usize = service.counts().iter().sum();
    assert!((205..=220).contains(&sent), "{sent} for 200 requests");
    shop.metrics_show(|metrics| {
        ensure!(metrics.sum("mesh_agent_retry_budget_exhausted_total", &[]) >= 1.0);
        Ok(())
    })
    .unwrap();
}
