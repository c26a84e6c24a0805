//! Timeouts and retries of a route: what a client is spared, and what it is told when nothing helps.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::io::{BufReader, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use mesh_tests::http1::{Message, read_message};
use mesh_tests::http2::{H2Server, collect, whole, with_client};
use mesh_tests::routes::to;
use mesh_tests::server::Server;
use mesh_tests::shop::{Service, Shop};
use mesh_tests::{AT_ONCE, need_shop, shared_shop};

shared_shop!("retries");

/// What servers received, by the name of the server.
type Bodies = Arc<Mutex<Vec<(&'static str, Vec<u8>)>>>;

/// A server that reads the whole request and says 503, or with `ok` 200 and its name.
fn answering(shop: &Shop, cart: usize, port: u16, name: &'static str, ok: bool, bodies: &Bodies) -> Server {
    let bodies = bodies.clone();
    Server::new(shop.carts[cart].listen(port).unwrap(), move |stream, _| {
        let mut out = stream.try_clone().unwrap();
        let mut reader = BufReader::new(stream);
        while let Ok(Some(Message { body, .. })) = read_message(&mut reader, false) {
            bodies.lock().unwrap().push((name, body));
            let status = if ok { "200 OK" } else { "503 Service Unavailable" };
            let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{name}", name.len());
            if out.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    })
}

/// The access log's flag of the request for `path`.
fn flag(shop: &Shop, path: &str) -> String {
    let of = |line: &serde_json::Value| line["path"] == path && line["reporter"] == "source";
    shop.log_shows(path, of).unwrap()["response_flags"].as_str().unwrap().to_owned()
}

#[test]
fn mesh_http_route_request_timeout_is_504_with_flag_ut() {
    let shop = need_shop!();
    let v = shop.versions("timeout", "http").unwrap();
    shop.route(&v, &format!("{{timeouts: {{request: 2s}}, {}}}", to("timeout-v1"))).unwrap();
    let mut client = shop.client(&v).unwrap();
    let began = Instant::now();
    let answer = client.get("a", "/hang/request").unwrap();
    assert!(
        began.elapsed() >= Duration::from_secs(2) && began.elapsed() < AT_ONCE + Duration::from_secs(2),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(answer.status(), 504);
    assert_eq!(flag(shop, "/hang/request"), "UT");
    // The connection is none the worse, and what answers in time isn't touched.
    assert_eq!(client.get("a", "/slow/10").unwrap().text(), "v1");
    shop.route(&v, &format!("{{timeouts: {{request: 0s}}, {}}}", to("timeout-v1"))).unwrap();
    assert_eq!(client.get("a", "/slow/2100").unwrap().text(), "v1", "0s is no deadline");
}

#[test]
fn mesh_http_route_backend_request_timeout_bounds_each_try() {
    let shop = need_shop!();
    let v = shop.versions("trytimeout", "http").unwrap();
    let rule =
        |retry: &str| format!("{{timeouts: {{backendRequest: 300ms}}, {retry} {}}}", to("trytimeout-v1"));
    shop.route(&v, &rule("")).unwrap();
    assert_eq!(shop.get(&v, "/hang/once").unwrap().status(), 504);
    assert_eq!((flag(shop, "/hang/once").as_str(), v.v1.seen().of("/hang/once").len()), ("UT", 1));
    shop.route(&v, &rule("retry: {attempts: 2},")).unwrap();
    let began = Instant::now();
    assert_eq!(shop.get(&v, "/hang/thrice").unwrap().status(), 504);
    assert!(began.elapsed() >= Duration::from_millis(900), "{:?}", began.elapsed());
    assert_eq!((flag(shop, "/hang/thrice").as_str(), v.v1.seen().of("/hang/thrice").len()), ("URX", 3));
}

#[test]
fn the_request_deadline_ends_a_wait_for_an_endpoint_that_cannot_be_reached() {
    let shop = need_shop!();
    let v = shop.versions("blackhole", "http").unwrap();
    // An address on the bridge that nobody has.
    let (v4, v6) = shop.vips();
    let nowhere = Service { name: "void".into(), port_name: "http".into(), target: 9, v4, v6 };
    let slice = mesh_tests::lab::SliceObject::new("shop", "void", "void-4").port("http", 9);
    let address: std::net::IpAddr = "10.77.200.200".parse().unwrap();
    shop.rewrite_endpoints(&nowhere, slice.endpoint(mesh_tests::lab::EndpointObject::address(address)))
        .unwrap();
    shop.wait_known("void").unwrap();
    shop.route(&v, &format!("{{timeouts: {{request: 500ms}}, {}}}", to("void"))).unwrap();
    let began = Instant::now();
    let answer = shop.get(&v, "/unreachable").unwrap();
    assert_eq!(answer.status(), 504, "{}", answer.head);
    assert!(began.elapsed() < AT_ONCE, "{:?}", began.elapsed());
}

#[test]
fn mesh_http_route_retry_hides_a_failing_endpoint_and_sends_the_body_again() {
    let shop = need_shop!();
    let bodies = Bodies::default();
    let port = shop.port();
    let _servers =
        [answering(shop, 0, port, "bad", false, &bodies), answering(shop, 1, port, "good", true, &bodies)];
    let [bad, good, _] = &shop.carts;
    let service = shop
        .expose_with("flaky", "http", port, &[bad, good], |service| service.load_balancer("ROUND_ROBIN"))
        .unwrap();
    let body = "payload ".repeat(1000);
    let request = format!("POST /flaky HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let statuses = |count: usize| -> Vec<u16> {
        let mut client = shop.client(&service).unwrap();
        (0..count).map(|_| client.ask(&request).unwrap().status()).collect()
    };
    assert!(statuses(10).contains(&503), "it does fail without retries");
    bodies.lock().unwrap().clear();
    shop.route(&service, &format!("{{retry: {{codes: [503], attempts: 2, backoff: 1ms}}, {}}}", to("flaky")))
        .unwrap();
    assert_eq!(statuses(30), vec![200; 30]);
    let seen = bodies.lock().unwrap().clone();
    assert!(seen.iter().any(|(name, _)| *name == "bad"), "the failing endpoint was asked");
    assert!(seen.iter().all(|(_, got)| got == body.as_bytes()), "each got the whole body");
    assert_eq!(flag(shop, "/flaky"), "-");
}

/// No budget that nobody asked for takes away what the route promises.
#[test]
fn what_an_http_route_retries_hides_one_failing_endpoint_of_three_at_every_rate() {
    let shop = need_shop!();
    let bodies = Bodies::default();
    let port = shop.port();
    let _servers = [
        answering(shop, 0, port, "bad", false, &bodies),
        answering(shop, 1, port, "good", true, &bodies),
        answering(shop, 2, port, "good", true, &bodies),
    ];
    let [one, two, three] = &shop.carts;
    let service = shop
        .expose_with("third", "http", port, &[one, two, three], |service| {
            service.load_balancer("ROUND_ROBIN")
        })
        .unwrap();
    shop.route(&service, &format!("{{retry: {{codes: [503], attempts: 2, backoff: 1ms}}, {}}}", to("third")))
        .unwrap();
    // As fast as they are answered, and one at a time.
    for clients in [8, 1] {
        bodies.lock().unwrap().clear();
        let ask = || {
            let mut client = shop.client(&service).unwrap();
            (0..320 / clients).filter(|_| client.get("third", "/third").unwrap().status() == 200).count()
        };
        let answered: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..clients).map(|_| scope.spawn(ask)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        let bad = bodies.lock().unwrap().iter().filter(|(name, _)| *name == "bad").count();
        // The share of a budget of 20 %, and its minimum, would have been 64 and a few.
        assert!(bad > 90, "the failing endpoint was asked {bad} times");
        assert_eq!(answered, 320, "{clients} clients");
    }
    assert_eq!(shop.agent.metrics().unwrap().sum("mesh_agent_retry_budget_exhausted_total", &[]), 0.0);
}

#[test]
fn a_retry_policy_that_is_used_up_passes_on_the_last_answer_with_flag_urx() {
    let shop = need_shop!();
    let bodies = Bodies::default();
    let port = shop.port();
    let _server = answering(shop, 0, port, "bad", false, &bodies);
    let service = shop.expose("broken", "http", port, &[&shop.carts[0]]).unwrap();
    shop.route(
        &service,
        &format!("{{retry: {{codes: [503], attempts: 3, backoff: 1ms}}, {}}}", to("broken")),
    )
    .unwrap();
    let answer = shop.get(&service, "/broken").unwrap();
    assert_eq!((answer.status(), answer.text().as_str()), (503, "bad"));
    assert_eq!(bodies.lock().unwrap().len(), 4, "three after the first");
    assert_eq!(flag(shop, "/broken"), "URX");
    // Another status isn't asked for.
    shop.route(
        &service,
        &format!("{{retry: {{codes: [500], attempts: 3, backoff: 1ms}}, {}}}", to("broken")),
    )
    .unwrap();
    assert_eq!(shop.get(&service, "/broken-500").unwrap().status(), 503);
    assert_eq!(bodies.lock().unwrap().len(), 5);
    assert_eq!(flag(shop, "/broken-500"), "-");
}

#[test]
fn a_single_endpoint_that_refuses_is_tried_as_often_as_the_policy_says() {
    let shop = need_shop!();
    let port = shop.port();
    let service = shop.expose("refusing", "http", port, &[&shop.carts[0]]).unwrap();
    shop.route(&service, &format!("{{retry: {{attempts: 2, backoff: 1ms}}, {}}}", to("refusing"))).unwrap();
    assert_eq!(shop.get(&service, "/refusing").unwrap().status(), 503);
    assert_eq!(flag(shop, "/refusing"), "URX");
}

#[test]
fn over_http2_a_retry_hides_a_failing_endpoint_and_sends_the_body_again() {
    let shop = need_shop!();
    let bodies = Bodies::default();
    let port = shop.port();
    let serve = |cart: usize, name: &'static str, status: u16| {
        let bodies = bodies.clone();
        H2Server::new(
            shop.carts[cart].listen(port).unwrap(),
            None,
            move |request: Request<h2::RecvStream>, mut respond| {
                let bodies = bodies.clone();
                async move {
                    let Ok((body, _)) = collect(request.into_body()).await else { return };
                    bodies.lock().unwrap().push((name, body));
                    let response = Response::builder().status(status).body(()).unwrap();
                    let mut stream = respond.send_response(response, false).unwrap();
                    let _ = stream.send_data(Bytes::from_static(name.as_bytes()), true);
                }
            },
        )
    };
    let _servers = [serve(0, "bad", 503), serve(1, "good", 200)];
    let [bad, good, _] = &shop.carts;
    let service = shop
        .expose_with("flaky2", "http2", port, &[bad, good], |service| service.load_balancer("ROUND_ROBIN"))
        .unwrap();
    shop.route(
        &service,
        &format!("{{retry: {{codes: [503], attempts: 2, backoff: 1ms}}, {}}}", to("flaky2")),
    )
    .unwrap();
    let body = Bytes::from("payload ".repeat(1000));
    let sent = body.clone();
    let asked = AtomicUsize::new(0);
    with_client(shop.web.connect(service.at()).unwrap(), async |client| {
        for _ in 0..30 {
            let request = Request::post("http://flaky2/two").body(())?;
            let (response, mut stream) = client.clone().ready().await?.send_request(request, false)?;
            stream.send_data(sent.clone(), true)?;
            let answer = whole(response.await?).await?;
            assert_eq!((answer.head.status.as_u16(), answer.body.as_slice()), (200, &b"good"[..]));
            asked.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    })
    .unwrap();
    let seen = bodies.lock().unwrap().clone();
    assert_eq!(asked.into_inner(), 30);
    assert!(seen.iter().any(|(name, _)| *name == "bad"), "the failing endpoint was asked");
    assert!(seen.iter().all(|(_, got)| *got == body), "each got the whole body");
}
