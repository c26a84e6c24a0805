//! TrafficPolicy: hedges of slow requests, another service in place of one that fails, and what each of two agents does.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::io::{BufReader, Read, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::ensure;
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use mesh_tests::http1::{Client, Message, echo_server, read_message};
use mesh_tests::http2::{Answer, H2Server, answer, collect, whole, with_client};
use mesh_tests::lab::{Object, PodObject, eventually};
use mesh_tests::policy::{destination_rule, traffic_policy};
use mesh_tests::server::Server;
use mesh_tests::shop::{NAMESPACE, Service, Shop};
use mesh_tests::sockets::Host;
use mesh_tests::{AT_ONCE, SOON, agent_options, need_shop, shared_shop};

shared_shop!("hedging");

/// What servers saw.
#[derive(Clone, Default)]
struct Seen {
    bodies: Arc<Mutex<Vec<Vec<u8>>>>,
    /// Requests that were given up before they were answered.
    cancelled: Arc<AtomicUsize>,
}

impl Seen {
    fn asked(&self) -> usize {
        self.bodies.lock().unwrap().len()
    }

    fn note(&self, body: Vec<u8>) {
        self.bodies.lock().unwrap().push(body);
    }

    fn all_cancelled(&self, count: usize) {
        eventually(SOON, || {
            let cancelled = self.cancelled.load(Ordering::SeqCst);
            ensure!(cancelled == count, "{cancelled} of {count} cancelled");
            Ok(())
        })
        .unwrap();
    }
}

/// An HTTP/1 server that takes requests and answers none, and one that answers with `good`.
fn pair(hangs: &Host, answers: &Host, port: u16) -> ([Server; 2], Seen, Seen) {
    let (hung, answered) = (Seen::default(), Seen::default());
    let (silent, good) = (hung.clone(), answered.clone());
    let hangs = Server::new(hangs.listen(port).unwrap(), move |stream, _| {
        let mut reader = BufReader::new(stream);
        while let Ok(Some(Message { body, .. })) = read_message(&mut reader, false) {
            silent.note(body);
            // Nothing comes but the end.
            if reader.read(&mut [0]).is_err() {
                silent.cancelled.fetch_add(1, Ordering::SeqCst);
            }
        }
    });
    let answers = Server::new(answers.listen(port).unwrap(), move |stream, _| {
        let mut out = stream.try_clone().unwrap();
        let mut reader = BufReader::new(stream);
        while let Ok(Some(Message { body, .. })) = read_message(&mut reader, false) {
            good.note(body);
            if out.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood").is_err() {
                return;
            }
        }
    });
    ([hangs, answers], hung, answered)
}

/// A service over the first two carts, whose requests go to them in turn.
fn in_turn(shop: &Shop, name: &str, port_name: &str, port: u16, spec: &str) -> Service {
    let [one, other, _] = &shop.carts;
    in_turn_over(shop, name, port_name, port, spec, [one, other])
}

fn in_turn_over(
    shop: &Shop,
    name: &str,
    port_name: &str,
    port: u16,
    spec: &str,
    endpoints: [&Host; 2],
) -> Service {
    let policy = traffic_policy(name, spec).unwrap();
    shop.topology.mesh().write(&format!("policy-{name}.yaml"), [policy]).unwrap();
    shop.expose_with(name, port_name, port, &endpoints, |service| service.load_balancer("ROUND_ROBIN"))
        .unwrap()
}

const HEDGE: &str = "{hedge: {after: 150ms}, retry: {budget: {percent: 100, minRetriesPerSecond: 1000}}}";
const REQUESTS: usize = 8;

/// The log has a request that was sent twice and answered by the endpoint that is not slow.
fn log_shows_two_attempts(shop: &Shop, path: &str, port: u16) {
    let twice = |line: &serde_json::Value| {
        line["path"] == path && line["reporter"] == "source" && line["upstream_request_attempt_count"] == 2
    };
    let line = shop.log_shows(path, twice).unwrap();
    assert_eq!((&line["response_code"], &line["response_flags"]), (&200.into(), &"-".into()), "{line}");
    assert_eq!(line["upstream_host"], shop.carts[1].at(port).to_string(), "{line}");
}

fn hedges(shop: &Shop, outcome: &str) -> f64 {
    shop.agent.metrics().unwrap().sum("mesh_agent_hedges_total", &[("outcome", outcome)])
}

#[test]
fn over_http1_a_hedge_hides_an_endpoint_that_hangs() {
    let shop = need_shop!();
    let port = shop.port();
    let (_servers, hung, answered) = pair(&shop.carts[0], &shop.carts[1], port);
    let service = in_turn(shop, "hedged1", "http", port, HEDGE);
    let won = hedges(shop, "won");
    let mut client = shop.client(&service).unwrap();
    let body = "payload ".repeat(500);
    let request =
        format!("POST /hedged1 HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    for i in 0..REQUESTS {
        let began = Instant::now();
        let answer = client.ask(&request).unwrap();
        assert_eq!((answer.status(), answer.text().as_str()), (200, "good"), "request {i}");
        assert!(began.elapsed() < AT_ONCE, "{:?}", began.elapsed());
    }
    let asked = hung.asked();
    assert!(asked > 0, "the endpoint that hangs was never asked");
    assert_eq!(answered.asked(), REQUESTS);
    let all = |seen: &Seen| seen.bodies.lock().unwrap().iter().all(|got| got == body.as_bytes());
    assert!(all(&hung) && all(&answered), "each got the whole body");
    hung.all_cancelled(asked);
    assert!(hedges(shop, "won") >= won + asked as f64);
    log_shows_two_attempts(shop, "/hedged1", port);
}

#[test]
fn between_nodes_a_hedge_hides_an_endpoint_that_hangs_wherever_it_is() {
    let shop = need_shop!();
    let node = shop.topology.node("node-hedges").unwrap();
    let far =
        ["hedgeone", "hedgetwo"].map(|name| Host::new(&shop.topology, node.pod(name).unwrap()).unwrap());
    let objects = far.each_ref().map(|host| PodObject::of(host, NAMESPACE).service_account("far").into());
    shop.topology.mesh().write("pods-hedges.yaml", objects).unwrap();
    let _agent = node.agent(agent_options().unwrap()).unwrap();
    let ([one, two], near) = (&far, &shop.carts[0]);
    for (name, hangs, answers) in
        [("hedgefarfar", one, two), ("hedgefarnear", one, near), ("hedgenearfar", near, one)]
    {
        let port = shop.port();
        let (_servers, hung, answered) = pair(hangs, answers, port);
        let service = in_turn_over(shop, name, "http", port, HEDGE, [hangs, answers]);
        let mut client = shop.client(&service).unwrap();
        let request = "POST /far HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nbod\r\n1\r\ny\r\n0\r\nX-Sum: 4\r\n\r\n";
        for i in 0..REQUESTS {
            let began = Instant::now();
            let answer = client.ask(request);
            let answer = answer.unwrap_or_else(|error| {
                panic!("{name}, request {i}: {error} {:#?}", shop.agent.access_log().last())
            });
            assert_eq!((answer.status(), answer.text().as_str()), (200, "good"), "{name}, request {i}");
            assert!(began.elapsed() < AT_ONCE, "{name}: {:?}", began.elapsed());
        }
        let asked = hung.asked();
        assert!(asked > 0, "{name}: the endpoint that hangs was never asked");
        assert_eq!(answered.asked(), REQUESTS, "{name}");
        let all = |seen: &Seen| seen.bodies.lock().unwrap().iter().all(|got| got == b"body");
        assert!(all(&hung) && all(&answered), "{name}: each got the whole body");
        hung.all_cancelled(asked);
    }
}

#[test]
fn over_http2_a_hedge_hides_an_endpoint_that_hangs() {
    let shop = need_shop!();
    let port = shop.port();
    let (hung, answered) = (Seen::default(), Seen::default());
    let silent = hung.clone();
    let _hangs = H2Server::new(shop.carts[0].listen(port).unwrap(), None, move |request, mut respond| {
        let silent = silent.clone();
        async move {
            let Ok((body, _)) = collect(request.into_body()).await else { return };
            silent.note(body);
            if std::future::poll_fn(|context| respond.poll_reset(context)).await.is_ok() {
                silent.cancelled.fetch_add(1, Ordering::SeqCst);
            }
        }
    });
    let good = answered.clone();
    let _answers = H2Server::new(shop.carts[1].listen(port).unwrap(), None, move |request, mut respond| {
        let good = good.clone();
        async move {
            let Ok((body, _)) = collect(request.into_body()).await else { return };
            good.note(body);
            answer(&mut respond, "good", Some(grpc_status("0")));
        }
    });
    let service = in_turn(shop, "hedged2", "grpc", port, HEDGE);
    for answer in calls(shop, &service, "/hedged.Two/Do", REQUESTS) {
        assert_eq!(
            (answer.body.as_slice(), &answer.trailers.unwrap()["grpc-status"]),
            (&b"good"[..], &"0".parse().unwrap())
        );
    }
    let asked = hung.asked();
    assert!(asked > 0, "the endpoint that hangs was never asked");
    assert_eq!(answered.asked(), REQUESTS);
    let all = |seen: &Seen| seen.bodies.lock().unwrap().iter().all(|got| got == CALL);
    assert!(all(&hung) && all(&answered), "each got the whole body");
    hung.all_cancelled(asked);
    log_shows_two_attempts(shop, "/hedged.Two/Do", port);
}

fn grpc_status(status: &str) -> HeaderMap {
    [("grpc-status".parse().unwrap(), status.parse().unwrap())].into_iter().collect()
}

const CALL: &[u8] = b"\0\0\0\0\x05hello";

/// Answers to gRPC calls, one after the other.
fn calls(shop: &Shop, service: &Service, path: &str, count: usize) -> Vec<Answer> {
    with_client(shop.web.connect(service.at()).unwrap(), async |client| {
        let mut answers = Vec::new();
        for _ in 0..count {
            let request = Request::post(format!("http://h{path}"))
                .header("content-type", "application/grpc")
                .body(())?;
            let (response, mut up) = client.clone().ready().await?.send_request(request, false)?;
            up.send_data(Bytes::from_static(CALL), true)?;
            answers.push(whole(response.await?).await?);
        }
        Ok(answers)
    })
    .unwrap()
}

fn fallback_to(spare: &str, on: &str) -> String {
    format!("fallback: {{service: {{name: {spare}, port: 80}}, on: [{on}]}}")
}

#[test]
fn over_http1_another_service_answers_errors_and_timeouts() {
    let shop = need_shop!();
    let spare = shop.http("spare1", "http", 1).unwrap();
    let spec = format!("timeout: 1s\n{}", fallback_to("spare1", "error5xx, timeout"));
    let service = shop.http_under_policy("failing1", 1, &spec).unwrap();
    let mut client = shop.client(&service).unwrap();
    // An error of the spare's own is what it says: nobody stands in for it.
    for path in ["/reset", "/status/500"] {
        client.get("f", path).unwrap();
        assert_eq!(spare.seen().of(path).len(), 1, "{path}");
    }
    service.seen().answer_with(503);
    let answer = client.ask("POST /echo HTTP/1.1\r\nHost: f\r\nContent-Length: 5\r\n\r\nwhole").unwrap();
    assert_eq!((answer.status(), answer.text().as_str()), (200, "whole"));
    service.seen().answer_with(404);
    assert_eq!(client.get("f", "/found").unwrap().status(), 404, "no failure of the service");
    service.seen().answer_with(0);
    // The service is given its second, and so is the spare.
    let began = Instant::now();
    assert_eq!(client.get("f", "/hang").unwrap().status(), 504);
    assert!(began.elapsed() >= Duration::from_secs(2), "{:?}", began.elapsed());
    assert_eq!((service.seen().of("/hang").len(), spare.seen().of("/hang").len()), (1, 1));
    let decisions = shop.agent.metrics().unwrap();
    assert!(
        decisions.sum("mesh_agent_traffic_policy_decisions_total", &[("decision", "fallback_service")])
            >= 4.0
    );
}

#[test]
fn over_http2_another_service_answers_errors_and_timeouts() {
    let shop = need_shop!();
    let port = shop.port();
    let failing = Seen::default();
    let seen = failing.clone();
    let _failing = H2Server::new(shop.carts[0].listen(port).unwrap(), None, move |request, mut respond| {
        let seen = seen.clone();
        async move {
            let hangs = request.uri().path() == "/f.F/Hang";
            let Ok((body, _)) = collect(request.into_body()).await else { return };
            seen.note(body);
            if hangs {
                let _ = std::future::poll_fn(|context| respond.poll_reset(context)).await;
                return;
            }
            let unavailable = Response::builder().header("grpc-status", "14").body(()).unwrap();
            let _ = respond.send_response(unavailable, true);
        }
    });
    let good = Seen::default();
    let seen = good.clone();
    let _spare = H2Server::new(shop.carts[1].listen(port).unwrap(), None, move |request, mut respond| {
        let seen = seen.clone();
        async move {
            let Ok((body, _)) = collect(request.into_body()).await else { return };
            seen.note(body);
            answer(&mut respond, "spare", Some(grpc_status("0")));
        }
    });
    shop.expose("spare2", "grpc", port, &[&shop.carts[1]]).unwrap();
    let spec = format!("timeout: 1s\n{}", fallback_to("spare2", "error5xx, timeout"));
    shop.topology.mesh().write("policy-failing2.yaml", [traffic_policy("failing2", &spec).unwrap()]).unwrap();
    let service = shop.expose("failing2", "grpc", port, &[&shop.carts[0]]).unwrap();
    for path in ["/f.F/Fail", "/f.F/Hang"] {
        let answers = calls(shop, &service, path, 1);
        assert_eq!(answers[0].body, b"spare", "{path}: {answers:?}");
    }
    assert_eq!(*failing.bodies.lock().unwrap(), [CALL, CALL]);
    assert_eq!(*good.bodies.lock().unwrap(), [CALL, CALL]);
}

#[test]
fn another_service_answers_while_every_endpoint_is_ejected() {
    let shop = need_shop!();
    let spare = shop.http("spare3", "http", 1).unwrap();
    let outlier =
        "outlierDetection: {consecutive5xxErrors: 1, baseEjectionTime: 1h, maxEjectionPercent: 100}";
    let rule = destination_rule(NAMESPACE, "ejected", outlier).unwrap();
    let policy = traffic_policy("ejected", &fallback_to("spare3", "noEndpoint")).unwrap();
    shop.topology.mesh().write("policy-ejected.yaml", [rule, policy]).unwrap();
    let service = shop.http("ejected", "http", 2).unwrap();
    let mut client = shop.client(&service).unwrap();
    service.backends.iter().for_each(|backend| backend.seen.answer_with(500));
    for _ in 0..2 {
        assert_eq!(client.get("e", "/").unwrap().status(), 500);
    }
    assert_eq!(client.get("e", "/ejected").unwrap().status(), 200);
    assert_eq!(spare.seen().of("/ejected").len(), 1);
}

#[test]
fn of_two_agents_the_clients_alone_retries_delays_and_falls_back() {
    let shop = need_shop!();
    let node = shop.topology.node("node-hedging").unwrap();
    let far = Host::new(&shop.topology, node.pod("hedgefar").unwrap()).unwrap();
    let object = Object::from(PodObject::of(&far, NAMESPACE).service_account("far"));
    shop.topology.mesh().write("pod-hedgefar.yaml", [object]).unwrap();
    let agent = node.agent(agent_options().unwrap()).unwrap();
    let port = shop.port();
    let (_server, seen) = echo_server(far.listen(port).unwrap(), "far");
    let spec = "timeout: 20s
retry: {attempts: 2, on: [5xx], backoff: {base: 1ms}, budget: {percent: 100, minRetriesPerSecond: 1000}}
hedge: {after: 10s}
faultInjection: {delay: {fixed: 10ms}}
circuitBreaker: {errorRate: {percent: 100, minimumRequests: 1000}}
concurrency: {maxRequests: 1}
fallback: {answer: {status: 200, body: calm}, on: [error5xx]}";
    shop.topology.mesh().write("policy-faraway.yaml", [traffic_policy("faraway", spec).unwrap()]).unwrap();
    let service = shop.expose("faraway", "http", port, &[&far]).unwrap();
    eventually(SOON, || {
        let listed = agent.cli(&["get", "services", "-o", "name"])?.success()?.stdout;
        ensure!(listed.lines().any(|line| line.trim().ends_with("/faraway")), "{listed}");
        Ok(())
    })
    .unwrap();
    seen.answer_with(503);
    let decision = |agent: &mesh_tests::lab::Agent, decision: &str| {
        agent.metrics().unwrap().sum("mesh_agent_traffic_policy_decisions_total", &[("decision", decision)])
    };
    let before = ["fault_delay", "fallback_answer"].map(|what| decision(&shop.agent, what));
    let answer = shop.get(&service, "/far").unwrap();
    assert_eq!((answer.status(), answer.text().as_str()), (200, "calm"));
    assert_eq!(
        seen.count(),
        3,
        "the client's agent tries it three times, and the endpoint's each of them once"
    );
    let after = ["fault_delay", "fallback_answer"].map(|what| decision(&shop.agent, what));
    assert_eq!(after, before.map(|count| count + 1.0));
    for what in ["fault_delay", "fallback_answer", "fallback_service", "circuit_open", "concurrency_limit"] {
        assert_eq!(decision(&agent, what), 0.0, "{what} by the endpoint's agent");
    }
    let retries = agent.metrics().unwrap().sum("mesh_agent_upstream_retries_total", &[("reason", "status")]);
    assert_eq!(retries, 0.0, "by the endpoint's agent");
    // Who is in no mesh gets what the application says.
    let direct = Client::new(shop.outside.connect(far.at(port)).unwrap()).get("d", "/direct").unwrap();
    assert_eq!((direct.status(), seen.count()), (503, 4));
}
