//! DestinationRule `h2UpgradePolicy: UPGRADE`: clients of HTTP/1 whose endpoints are spoken to in HTTP/2.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;

use anyhow::ensure;
use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{HeaderMap, Request, Response};
use mesh_tests::http1::Client;
use mesh_tests::http2::{H2Server, answer, collect, get, with_client};
use mesh_tests::lab::{Object, PodObject, eventually};
use mesh_tests::policy::destination_rule;
use mesh_tests::shop::{NAMESPACE, Service, Shop};
use mesh_tests::sockets::Host;
use mesh_tests::{PATIENCE, SOON, agent_options, need_shop, peers, shared_shop};

shared_shop!("upgradehttp2", "workers" = "1");

const UPGRADE: &str = "connectionPool: {http: {h2UpgradePolicy: UPGRADE}}";
const EXAMPLE: &str = include_str!("../../docs/examples/destinationrule-upgrade.yaml");

/// A server of HTTP/2 on `host`, and a service over it under UPGRADE.
fn serve_on<F, R>(shop: &Shop, host: &Host, name: &str, handle: F) -> (H2Server, Service)
where
    F: Fn(Request<RecvStream>, SendResponse<Bytes>) -> R + Clone + Send + 'static,
    R: Future<Output = ()> + 'static,
{
    let port = shop.port();
    let server = H2Server::new(host.listen(port).unwrap(), None, handle);
    let rule = destination_rule(NAMESPACE, name, UPGRADE).unwrap();
    shop.topology.mesh().write(&format!("policy-{name}.yaml"), [rule]).unwrap();
    let service = shop.expose(name, "http", port, &[host]).unwrap();
    (server, service)
}

/// Says in which version, where, with how many bytes and which sum behind them the request came.
async fn tell(request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
    let (head, body) = request.into_parts();
    let Ok((body, trailers)) = collect(body).await else { return };
    let sum = trailers.and_then(|trailers| trailers.get("x-sum").cloned());
    let text = format!("{:?} {} {} {sum:?}", head.version, head.uri, body.len());
    let trailers: HeaderMap = [("x-back".parse().unwrap(), "1".parse().unwrap())].into_iter().collect();
    answer(&mut respond, text, Some(trailers));
}

#[test]
fn a_client_of_http1_is_answered_by_a_server_of_http2() {
    let shop = need_shop!();
    let (_server, service) = serve_on(shop, &shop.carts[0], "uptell", tell);
    let mut client = shop.client(&service).unwrap();
    let chunked = "POST /told?a=b HTTP/1.1\r\nHost: up.tell\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 9\r\n\r\n";
    let got = client.ask(chunked).unwrap();
    assert_eq!(got.start_line(), "HTTP/1.1 200 OK");
    assert_eq!(got.text(), "HTTP/2.0 http://up.tell/told?a=b 3 Some(\"9\")");
    assert_eq!(
        (got.header("transfer-encoding"), &got.trailers[..]),
        (Some("chunked"), &["x-back: 1".into()][..])
    );
    let megabyte = "x".repeat(1 << 20);
    let got = client
        .ask(format!(
            "POST /long HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n{megabyte}",
            megabyte.len()
        ))
        .unwrap();
    assert_eq!(got.text(), "HTTP/2.0 http://h/long 1048576 None");
    // The account is the client's.
    let line = shop.log_shows("/told", |line| line["path"] == "/told?a=b").unwrap();
    assert_eq!(line["protocol"], "HTTP/1.1", "{line}");
    assert_eq!((&line["response_code"], &line["response_flags"]), (&200.into(), &"-".into()), "{line}");
    shop.metrics_show(|metrics| {
        let labels =
            [("destination_service_name", "uptell"), ("request_protocol", "http"), ("reporter", "source")];
        let count = metrics.sum("istio_requests_total", &labels);
        ensure!(count == 2.0, "{count} requests");
        Ok(())
    })
    .unwrap();
}

#[test]
fn requests_of_many_clients_are_multiplexed_on_one_connection() {
    let shop = need_shop!();
    let (under_way, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (now, peak) = (under_way.clone(), most.clone());
    let (server, service) = serve_on(shop, &shop.carts[0], "upmany", move |_, mut respond| {
        let (now, peak) = (now.clone(), peak.clone());
        async move {
            peak.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            // Answered once all of them are there, which they can only be at the same time.
            while peak.load(Ordering::SeqCst) < 20 {
                tokio::task::yield_now().await;
            }
            answer(&mut respond, "all", None);
        }
    });
    let begin = Barrier::new(20);
    thread::scope(|scope| {
        for _ in 0..20 {
            scope.spawn(|| {
                let mut client = shop.client(&service).unwrap();
                begin.wait();
                assert_eq!(client.get("h", "/").unwrap().text(), "all");
            });
        }
    });
    assert_eq!((most.load(Ordering::SeqCst), server.accepted()), (20, 1));
}

#[test]
fn curl_and_a_load_of_http1_are_served_by_nginx_in_http2() {
    let shop = need_shop!();
    let port = shop.port();
    let root = shop.topology.scratch().join("upwww");
    std::fs::create_dir_all(&root).unwrap();
    std::fs::write(root.join("file"), vec![b'n'; 200_000]).unwrap();
    // This nginx takes nothing but HTTP/2 on such a port.
    let http = format!(
        "server {{ listen {port} http2; keepalive_requests 100000; client_max_body_size 100m; root {};\n\
         location /version {{ return 200 $server_protocol; }} }}",
        root.display()
    );
    let _nginx = peers::nginx(&shop.topology, &shop.carts[0], port, &http).unwrap();
    // The example is for a service of this name.
    shop.topology.mesh().write_text("policy-cart.yaml", EXAMPLE).unwrap();
    let service = shop.expose("cart", "http", port, &[&shop.carts[0]]).unwrap();
    let version = shop.web.curl(&["--http1.1", "-w", " %{http_version}", &service.url("/version")]).unwrap();
    assert_eq!(version, "HTTP/2.0 1.1");
    let url = service.url("/file");
    for how in ["--http1.1", "--http1.0"] {
        let size =
            shop.web.curl(&[how, "-o", "/dev/null", "-w", "%{http_code} %{size_download}", &url]).unwrap();
        assert_eq!(size, "200 200000", "{how}");
    }
    let head = shop.web.curl(&["--http1.1", "--head", &url]).unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.contains("content-length: 200000\r\n"), "{head}");
    let load = shop.web.command("h2load").args(["--h1", "-n", "600", "-c", "8", &url]);
    let output = load.run(PATIENCE * 3).unwrap().success().unwrap().stdout;
    assert!(output.contains("600 succeeded, 0 failed"), "{output}");
    assert!(output.contains("status codes: 600 2xx"), "{output}");
}

#[test]
fn an_endpoint_without_http2_fails_until_the_rule_is_changed() {
    let shop = need_shop!();
    let service = shop.http_under_rule("uphttp1", "http", 1, UPGRADE).unwrap();
    let mut client = shop.client(&service).unwrap();
    assert_eq!(client.get("h", "/refused").unwrap().status(), 502);
    let line = shop.log_shows("/refused", |line| line["path"] == "/refused").unwrap();
    assert_eq!(
        (&line["response_flags"], &line["response_code_details"]),
        (&"UPE".into(), &"upstream_not_http2".into()),
        "{line}"
    );
    let told = |log: &str| {
        log.lines().filter(|line| line.contains("h2UpgradePolicy") && line.contains("shop/uphttp1")).count()
    };
    assert_eq!(told(&shop.agent.log()), 1, "{}", shop.log_tail());
    assert_eq!(client.get("h", "/again").unwrap().status(), 502);
    assert_eq!(told(&shop.agent.log()), 1, "once is enough");
    // A server of HTTP/1 takes the preface for a request; the client's own never came.
    let came = |path: &str| service.request(path).is_some();
    assert!(!came("/refused") && !came("/again"), "no request of HTTP/1 in its place");
    for http in ["{h2UpgradePolicy: DO_NOT_UPGRADE}", "{h2UpgradePolicy: UPGRADE, useClientProtocol: true}"] {
        let rule =
            destination_rule(NAMESPACE, "uphttp1", &format!("connectionPool: {{http: {http}}}")).unwrap();
        shop.change_policies("uphttp1", [rule]).unwrap();
        let before = service.counts()[0];
        assert_eq!(client.get("h", "/").unwrap().status(), 200, "{http}");
        assert_eq!(service.counts()[0], before + 1);
    }
}

#[test]
fn resets_are_carried_both_ways() {
    let shop = need_shop!();
    let (code, read) = (Arc::new(AtomicU32::new(u32::MAX)), Arc::new(AtomicBool::new(false)));
    let (seen, is_read) = (code.clone(), read.clone());
    let (server, service) = serve_on(shop, &shop.carts[0], "upreset", move |request, mut respond| {
        let (seen, is_read) = (seen.clone(), is_read.clone());
        async move {
            match request.uri().path() {
                "/held" => {
                    if let Ok(reason) = std::future::poll_fn(|cx| respond.poll_reset(cx)).await {
                        seen.store(reason.into(), Ordering::SeqCst);
                    }
                }
                "/early" => respond.send_reset(Reason::INTERNAL_ERROR),
                _ => {
                    let mut stream = respond.send_response(Response::new(()), false).unwrap();
                    stream.send_data(Bytes::from_static(b"part"), false).unwrap();
                    while !is_read.load(Ordering::SeqCst) {
                        tokio::task::yield_now().await;
                    }
                    stream.send_reset(Reason::INTERNAL_ERROR);
                }
            }
        }
    });
    assert_eq!(shop.get(&service, "/early").unwrap().status(), 503);
    let line = shop.log_shows("/early", |line| line["path"] == "/early").unwrap();
    assert_eq!(line["response_flags"], "UR", "{line}");
    let mut late = shop.client(&service).unwrap();
    late.send("GET /late HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    let begun = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\npart\r\n";
    assert_eq!(late.read_bytes(begun.len()).unwrap(), begun);
    read.store(true, Ordering::SeqCst);
    assert!(late.read_all().is_err(), "a part of a body is never followed by a clean end");
    let mut client = shop.client(&service).unwrap();
    client.send("GET /held HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    let line = shop.log_shows("/late", |line| line["path"] == "/late").unwrap();
    assert_eq!(line["response_flags"], "UR", "{line}");
    eventually(SOON, || {
        ensure!(shop.agent.metrics()?.sum("mesh_agent_requests_active", &[]) >= 1.0);
        Ok(())
    })
    .unwrap();
    mesh_tests::server::reset(client.stream().try_clone().unwrap());
    drop(client);
    eventually(SOON, || {
        ensure!(code.load(Ordering::SeqCst) == u32::from(Reason::CANCEL), "{code:?}");
        Ok(())
    })
    .unwrap();
    assert_eq!(server.accepted(), 1, "a reset ends a stream, no connection");
}

#[test]
fn an_endpoint_behind_another_agent_is_spoken_to_in_http2_all_the_way() {
    let shop = need_shop!();
    let node = shop.topology.node("node-up").unwrap();
    let far = Host::new(&shop.topology, node.pod("upfar").unwrap()).unwrap();
    let object = Object::from(PodObject::of(&far, NAMESPACE).service_account("upfar"));
    shop.topology.mesh().write("pod-upfar.yaml", [object]).unwrap();
    let agent = node.agent(agent_options().unwrap().flag("workers", "1")).unwrap();
    let (_server, service) = serve_on(shop, &far, "upfar", tell);
    let got = shop.get(&service, "/far").unwrap();
    assert_eq!(got.text(), "HTTP/2.0 http://upfar/far 0 None");
    eventually(SOON, || {
        let lines = agent.access_log();
        let line = lines.iter().find(|line| line["path"] == "/far");
        ensure!(line.is_some_and(|line| line["protocol"] == "HTTP/2"), "{line:?}");
        Ok(())
    })
    .unwrap();
}

#[test]
fn clients_of_either_version_share_the_endpoints_connection() {
    let shop = need_shop!();
    let (server, service) = serve_on(shop, &shop.carts[0], "upnative", tell);
    let mut old = shop.client(&service).unwrap();
    let back = with_client(shop.web.connect(service.at()).unwrap(), async |client| {
        get(&client, "native", "/").await
    })
    .unwrap();
    assert_eq!(back.body, b"HTTP/2.0 http://native/ 0 None");
    assert_eq!(old.get("old", "/").unwrap().text(), "HTTP/2.0 http://old/ 0 None");
    assert_eq!(server.accepted(), 1, "both are on one connection");
}

#[test]
fn a_websocket_stays_on_a_connection_of_http1() {
    let shop = need_shop!();
    let service = shop.http_under_rule("upsocket", "http", 1, UPGRADE).unwrap();
    let mut client = Client::new(shop.web.connect(service.at()).unwrap());
    let asks = "GET /ws HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    client.ask(asks).unwrap();
    let seen = service.request("/ws").unwrap();
    assert_eq!(seen.header("upgrade"), Some("websocket"), "{}", seen.head);
}
