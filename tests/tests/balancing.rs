//! From a service's address to its endpoints: who gets how much, who gets nothing, and what happens without any.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::ensure;
use mesh_tests::http1::{Client, echo_server};
use mesh_tests::lab::{EndpointObject, PodObject, ServiceObject, SliceObject, eventually};
use mesh_tests::server::Server;
use mesh_tests::shop::{HttpService, NAMESPACE, Shop};
use mesh_tests::sockets::Host;
use mesh_tests::{AT_ONCE, PATIENCE, SOON, need_agent, need_shop, shared_shop};
use nix::libc::{ECONNREFUSED, ECONNRESET};

shared_shop!("balancing");

/// `count` requests on one connection; how many each endpoint got.
fn requests(shop: &Shop, service: &HttpService, count: usize) -> Vec<usize> {
    let before = service.counts();
    let mut client = shop.client(service).unwrap();
    for _ in 0..count {
        assert_eq!(client.get("b", "/").unwrap().status(), 200);
    }
    service.counts().iter().zip(before).map(|(after, before)| after - before).collect()
}

/// `count` requests, each on a connection of its own.
fn connections(from: &Host, service: &HttpService, count: usize) -> Vec<usize> {
    let before = service.counts();
    for _ in 0..count {
        assert_eq!(Client::new(from.connect(service.at()).unwrap()).get("b", "/").unwrap().status(), 200);
    }
    service.counts().iter().zip(before).map(|(after, before)| after - before).collect()
}

#[test]
fn requests_of_one_connection_are_spread_over_the_endpoints() {
    let shop = need_shop!();
    let service = shop.http("ewma", "http", 3).unwrap();
    let mut client = shop.client(&service).unwrap();
    // One that was measured in a bad moment has its share again when that is forgotten.
    eventually(PATIENCE, || {
        for _ in 0..50 {
            assert_eq!(client.get("b", "/").unwrap().status(), 200);
        }
        let counts = service.counts();
        ensure!(counts.iter().all(|&n| n >= 10), "{counts:?}");
        Ok(())
    })
    .unwrap();
}

#[test]
fn tcp_is_spread_by_connection() {
    let shop = need_shop!();
    let service = shop.http("tcpspread", "tcp", 3).unwrap();
    let one = requests(shop, &service, 10);
    assert_eq!(one.iter().filter(|&&n| n > 0).count(), 1, "one connection has one endpoint: {one:?}");
    eventually(PATIENCE, || {
        connections(&shop.web, &service, 20);
        let counts = service.counts();
        // The ten above are one connection's.
        ensure!(counts.iter().all(|&n| n >= 15), "{counts:?}");
        Ok(())
    })
    .unwrap();
}

#[test]
fn round_robin_takes_turns() {
    let shop = need_shop!();
    let service = shop.http_with("roundrobin", "http", 3, |s| s.load_balancer("ROUND_ROBIN")).unwrap();
    assert_eq!(requests(shop, &service, 30), [10, 10, 10]);
}

#[test]
fn random_and_least_request_reach_every_endpoint() {
    let shop = need_shop!();
    for policy in ["RANDOM", "LEAST_REQUEST"] {
        let name = policy.to_lowercase().replace('_', "");
        let service = shop.http_with(&name, "http", 3, |s| s.load_balancer(policy)).unwrap();
        let counts = requests(shop, &service, 120);
        assert!(counts.iter().all(|&n| n >= 15), "{policy}: {counts:?}");
    }
}

#[test]
fn a_slow_endpoint_gets_less() {
    let shop = need_shop!();
    let port = shop.port();
    let (_a, fast1) = echo_server(shop.carts[0].listen(port).unwrap(), "fast");
    let (_b, fast2) = echo_server(shop.carts[1].listen(port).unwrap(), "fast");
    // Answers every request after 100 ms.
    let counted = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = counted.clone();
    let _c = Server::new(shop.carts[2].listen(port).unwrap(), move |stream, _| {
        use std::io::Write;
        let mut out = stream.try_clone().unwrap();
        let mut reader = std::io::BufReader::new(stream);
        while let Ok(Some(_)) = mesh_tests::http1::read_message(&mut reader, false) {
            count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            // What makes this endpoint the slow one.
            std::thread::sleep(Duration::from_millis(100));
            if out.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").is_err() {
                return;
            }
        }
    });
    let [a, b, c] = &shop.carts;
    let service = shop.expose("slowone", "http", port, &[a, b, c]).unwrap();
    let mut client = shop.client(&service).unwrap();
    for _ in 0..150 {
        assert_eq!(client.get("b", "/").unwrap().status(), 200);
    }
    let slow_count = counted.load(std::sync::atomic::Ordering::Relaxed);
    assert!(slow_count <= 20, "slow {slow_count}, fast {} and {}", fast1.count(), fast2.count());
}

#[test]
fn client_ip_affinity_keeps_a_client_at_its_endpoint() {
    let shop = need_shop!();
    let service = shop.http_with("sticky", "http", 3, ServiceObject::client_ip_affinity).unwrap();
    for client in [&shop.web, &shop.batch] {
        let counts = connections(client, &service, 20);
        assert_eq!(counts.iter().filter(|&&n| n > 0).count(), 1, "{counts:?}");
    }
    let tcp = shop.http_with("stickytcp", "tcp", 3, ServiceObject::client_ip_affinity).unwrap();
    let counts = connections(&shop.web, &tcp, 20);
    assert_eq!(counts.iter().filter(|&&n| n > 0).count(), 1, "{counts:?}");
}

#[test]
fn a_new_endpoint_gets_requests_and_a_removed_one_none() {
    let shop = need_shop!();
    let service = shop.http("changing", "http", 3).unwrap();
    let [a, b, c] = &shop.carts;
    let set = |hosts: &[&Host]| {
        shop.rewrite_endpoints(
            &service,
            mesh_tests::shop::slice(&service.name, "http", service.target, hosts),
        )
        .unwrap();
    };
    set(&[a]);
    eventually(SOON, || {
        let counts = requests(shop, &service, 20);
        ensure!(counts == [20, 0, 0], "{counts:?}");
        Ok(())
    })
    .unwrap();
    set(&[a, b, c]);
    eventually(SOON, || {
        let counts = requests(shop, &service, 60);
        ensure!(counts.iter().all(|&n| n > 0), "{counts:?}");
        Ok(())
    })
    .unwrap();
}

/// Addresses of a service's available endpoints, out of `config dump`.
fn in_force(dump: &serde_json::Value, name: &str) -> Vec<String> {
    let endpoints = dump["endpoints"].as_array().into_iter().flatten();
    let of = |endpoint: &&serde_json::Value| endpoint["service"] == name && endpoint["available"] == true;
    endpoints.filter(of).filter_map(|endpoint| endpoint["address"].as_str()).map(str::to_owned).collect()
}

#[test]
fn once_a_change_is_in_force_no_request_goes_to_the_removed_endpoint() {
    let shop = need_shop!();
    let service = shop.http("moved", "http", 2).unwrap();
    let [a, b, _] = &shop.carts;
    // Kept across the changes: they hold for the next request, not only for the next connection.
    let mut client = shop.client(&service).unwrap();
    for only in [a, b, a, b, a, b] {
        let slice = mesh_tests::shop::slice(&service.name, "http", service.target, &[only]);
        shop.rewrite_endpoints(&service, slice).unwrap();
        eventually(SOON, || {
            let dump = shop.agent.cli_json(&["config", "dump"])?;
            let endpoints = in_force(&dump, &service.name);
            ensure!(endpoints == [only.at(service.target).to_string()], "{endpoints:?}");
            Ok(())
        })
        .unwrap();
        for _ in 0..50 {
            assert_eq!(client.get("m", "/").unwrap().text(), only.name());
        }
    }
}

#[test]
fn what_is_not_ready_gets_nothing_and_terminating_ones_only_when_there_is_no_other() {
    let shop = need_shop!();
    let service = shop.http("conditions", "http", 3).unwrap();
    let slice = |conditions: [(bool, bool, bool); 3]| {
        let mut slice =
            SliceObject::new(NAMESPACE, "conditions", "conditions-4").port("http", service.target);
        for (host, (ready, serving, terminating)) in shop.carts.iter().zip(conditions) {
            slice = slice.endpoint(EndpointObject::of(host, NAMESPACE, false).conditions(
                ready,
                serving,
                terminating,
            ));
        }
        shop.rewrite_endpoints(&service, slice).unwrap();
    };
    let settles = |check: &dyn Fn(&[usize]) -> bool| {
        eventually(SOON, || {
            let counts = requests(shop, &service, 30);
            ensure!(check(&counts), "{counts:?}");
            Ok(())
        })
        .unwrap();
    };
    let (ready, unready, leaving) = ((true, true, false), (false, false, false), (false, true, true));
    slice([ready, unready, leaving]);
    settles(&|counts| counts == [30, 0, 0]);
    slice([unready, unready, leaving]);
    settles(&|counts| counts == [0, 0, 30]);
    slice([ready, ready, ready]);
    settles(&|counts| counts.iter().all(|&n| n > 0));
}

#[test]
fn a_connection_to_a_terminating_endpoint_finishes() {
    let shop = need_shop!();
    let service = shop.http("finishing", "tcp", 2).unwrap();
    let mut client = shop.client(&service).unwrap();
    let mine = client.get("f", "/").unwrap().text();
    let mut slice = SliceObject::new(NAMESPACE, "finishing", "finishing-4").port("tcp", service.target);
    for host in &shop.carts[..2] {
        let leaving = host.name() == mine;
        let endpoint = EndpointObject::of(host, NAMESPACE, false);
        slice = slice.endpoint(if leaving { endpoint.conditions(false, true, true) } else { endpoint });
    }
    shop.rewrite_endpoints(&service, slice).unwrap();
    eventually(SOON, || {
        for _ in 0..10 {
            ensure!(shop.get(&service, "/")?.text() != mine, "new connections still go to {mine}");
        }
        Ok(())
    })
    .unwrap();
    assert_eq!(client.get("f", "/").unwrap().text(), mine, "the old connection goes on");
}

#[test]
fn a_dead_endpoint_costs_no_request() {
    let shop = need_shop!();
    let mut service = shop.http("dying", "http", 3).unwrap();
    requests(shop, &service, 30);
    service.backends[1].server.die();
    let before = service.counts();
    let mut client = shop.client(&service).unwrap();
    for i in 0..100 {
        assert_eq!(client.get("d", "/").unwrap().status(), 200, "request {i}");
    }
    let after = service.counts();
    assert_eq!(after[1], before[1]);
    assert_eq!(after.iter().sum::<usize>() - before.iter().sum::<usize>(), 100);
}

#[test]
fn a_service_without_endpoints_is_answered_503_uh_at_once() {
    let shop = need_shop!();
    let service = shop.expose("nobody", "http", 1, &[]).unwrap();
    let started = Instant::now();
    let answer = shop.get(&service, "/nobody").unwrap();
    assert_eq!(answer.status(), 503);
    assert!(started.elapsed() < AT_ONCE, "{:?}", started.elapsed());
    let line = shop.log_shows("/nobody", |line| line["path"] == "/nobody").unwrap();
    assert_eq!(line["response_flags"], "UH", "{line}");
    shop.metrics_show(|metrics| {
        let labels =
            [("destination_service_name", "nobody"), ("response_code", "503"), ("response_flags", "UH")];
        ensure!(metrics.sum("istio_requests_total", &labels) == 1.0);
        Ok(())
    })
    .unwrap();
}

#[test]
fn endpoints_that_all_refuse_are_answered_503_uf_at_once() {
    let shop = need_shop!();
    let [a, b, c] = &shop.carts;
    let service = shop.expose("allrefuse", "http", shop.port(), &[a, b, c]).unwrap();
    let started = Instant::now();
    assert_eq!(shop.get(&service, "/allrefuse").unwrap().status(), 503);
    assert!(started.elapsed() < AT_ONCE, "{:?}", started.elapsed());
    let line = shop.log_shows("/allrefuse", |line| line["path"] == "/allrefuse").unwrap();
    assert_eq!(line["response_flags"], "UF", "{line}");
}

#[test]
fn one_service_has_several_ports_by_number_and_by_name() {
    let shop = need_shop!();
    let pod = Host::new(&shop.topology, shop.node.pod("ports").unwrap()).unwrap();
    let (one, two) =
        (echo_server(pod.listen(8081).unwrap(), "one"), echo_server(pod.listen(8082).unwrap(), "two"));
    let (v4, _) = shop.vips();
    let service = ServiceObject::new(NAMESPACE, "ports").vip(v4).port("http-a", 80).target_port(8081);
    let service = service.port("http-b", 81).target_port("named");
    let slice = SliceObject::new(NAMESPACE, "ports", "ports-4").port("http-a", 8081).port("http-b", 8082);
    let object = PodObject::of(&pod, NAMESPACE).port("named", 8082);
    let objects = [object.into(), service.into(), slice.pods(NAMESPACE, [&*pod]).into()];
    shop.topology.mesh().write("ports.yaml", objects).unwrap();
    shop.wait_known("ports").unwrap();
    for (port, expected) in [(80, "one"), (81, "two")] {
        eventually(SOON, || {
            let text = Client::new(shop.web.connect(SocketAddr::new(v4.into(), port))?).get("p", "/")?.text();
            ensure!(text == expected, "{text}");
            Ok(())
        })
        .unwrap();
    }
    assert_eq!((one.1.count() > 0, two.1.count() > 0), (true, true));
}

#[test]
fn an_ipv6_slice_serves_an_ipv6_address() {
    let shop = need_shop!();
    let port = shop.port();
    let host = &shop.carts[0];
    let (server, _) = echo_server(host.listen(port).unwrap(), "six");
    let (_, v6) = shop.vips();
    let service = ServiceObject::new(NAMESPACE, "six").vip(v6).port("http", 80);
    let slice =
        SliceObject::new(NAMESPACE, "six", "six-6").v6().port("http", port).pods(NAMESPACE, [&**host]);
    shop.topology.mesh().write("six.yaml", [service.into(), slice.into()]).unwrap();
    shop.wait_known("six").unwrap();
    eventually(SOON, || {
        let text = Client::new(shop.web.connect(SocketAddr::new(v6.into(), 80))?).get("s", "/")?.text();
        ensure!(text == "six", "{text}");
        Ok(())
    })
    .unwrap();
    assert!(server.peers().iter().all(|peer| peer.ip() == shop.web.v6()), "{:?}", server.peers());
}

#[test]
fn slices_of_one_service_are_merged() {
    let shop = need_shop!();
    let service = shop.http("merged", "http", 3).unwrap();
    let [a, b, c] = &shop.carts;
    let slice = |name: &str, hosts: &[&Host]| {
        let slice = SliceObject::new(NAMESPACE, "merged", name).port("http", service.target);
        slice.pods(NAMESPACE, hosts.iter().map(|h| &***h)).into()
    };
    shop.topology.mesh().write("merged-more.yaml", [slice("merged-x", &[c])]).unwrap();
    shop.rewrite_endpoints(&service, slice("merged-4", &[a, b])).unwrap();
    eventually(SOON, || {
        let counts = requests(shop, &service, 60);
        ensure!(counts.iter().all(|&n| n > 0), "{counts:?}");
        Ok(())
    })
    .unwrap();
}

#[test]
fn pod_addresses_and_headless_services_are_reached_directly() {
    let shop = need_shop!();
    let port = shop.port();
    let host = &shop.carts[1];
    let (_server, _) = echo_server(host.listen(port).unwrap(), "direct");
    let service = ServiceObject::new(NAMESPACE, "headless").headless().port("http", 80);
    let slice =
        SliceObject::new(NAMESPACE, "headless", "headless-4").port("http", port).pods(NAMESPACE, [&**host]);
    shop.topology.mesh().write("headless.yaml", [service.into(), slice.into()]).unwrap();
    shop.wait_known("headless").unwrap();
    assert_eq!(
        Client::new(shop.web.connect(host.at(port)).unwrap()).get("h", "/headless").unwrap().text(),
        "direct"
    );
    let line = shop
        .log_shows("/headless", |line| line["path"] == "/headless" && line["reporter"] == "source")
        .unwrap();
    assert_eq!(line["destination_workload"], "shop/cart-2", "{line}");
    assert_eq!(line["destination_service"], "headless.shop.svc.cluster.local", "{line}");
}

#[test]
fn what_no_service_knows_passes_through() {
    let shop = need_shop!();
    let port = shop.port();
    let (server, seen) = echo_server(shop.outside.listen(port).unwrap(), "outside");
    let mut client = Client::new(shop.web.connect(shop.outside.at(port)).unwrap());
    assert_eq!(client.get("unknown.example", "/unknown").unwrap().text(), "outside");
    assert!(server.peers().iter().all(|peer| peer.ip() == shop.web.v4()), "{:?}", server.peers());
    assert_eq!(seen.all()[0].header("host"), Some("unknown.example"));
    assert_eq!(seen.all()[0].header("x-request-id"), None, "untouched");
    shop.metrics_show(|metrics| {
        let labels = [("destination_service_name", "PassthroughCluster"), ("source_workload", "web")];
        ensure!(metrics.sum("istio_tcp_connections_opened_total", &labels) >= 1.0);
        ensure!(metrics.sum("istio_requests_total", &labels) == 0.0);
        Ok(())
    })
    .unwrap();
    // And what nobody listens on is refused as it would be without the agent: the connection ends, nothing hangs.
    let started = Instant::now();
    let dead = shop.web.connect(shop.outside.at(shop.port()));
    let ended = dead.map_or(true, |stream| Client::new(stream).closes_within(PATIENCE));
    assert!(ended && started.elapsed() < AT_ONCE, "{:?}", started.elapsed());
}

#[test]
fn registry_only_refuses_what_no_service_knows() {
    let options = need_agent!().flag("outbound-traffic-policy", "registryOnly");
    let shop = Shop::start("registry", options).unwrap();
    let service = shop.http("known", "http", 1).unwrap();
    let (_server, seen) = echo_server(shop.outside.listen(8080).unwrap(), "outside");
    let before = shop.reason("unknown_destination");
    let error = shop.web.connect(shop.outside.at(8080)).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(ECONNREFUSED), "{error}");
    shop.reason_grows("unknown_destination", before, 1.0).unwrap();
    assert_eq!(seen.count(), 0);
    assert_eq!(shop.get(&service, "/").unwrap().status(), 200, "a service");
    let pod = &service.backends[0].host;
    let answer = Client::new(shop.web.connect(pod.at(service.target)).unwrap()).get("k", "/").unwrap();
    assert_eq!(answer.status(), 200, "a pod's address");
    // An endpoint that no Pod object stands behind, such as a data base outside: known by address and port.
    let headless = ServiceObject::new(NAMESPACE, "database").headless().port("http", 80);
    let slice = SliceObject::new(NAMESPACE, "database", "database-4").port("http", 8080);
    let slice = slice.endpoint(EndpointObject::address(shop.outside.v4()));
    shop.topology.mesh().write("database.yaml", [headless.into(), slice.into()]).unwrap();
    shop.wait_known("database").unwrap();
    let answer = Client::new(shop.web.connect(shop.outside.at(8080)).unwrap()).get("d", "/base").unwrap();
    assert_eq!(answer.text(), "outside");
    shop.metrics_show(|metrics| {
        let labels = [("destination_service_name", "database"), ("response_code", "200")];
        ensure!(metrics.sum("istio_requests_total", &labels) >= 1.0, "not counted as the service's");
        Ok(())
    })
    .unwrap();
    // The kernel knows its address; that nothing is known of another port is found out in user space. A client that is slow to
    // wake finds the connection reset before connect(2) has returned.
    match shop.web.connect(shop.outside.at(8081)) {
        Ok(stream) => assert!(Client::new(stream).closes_within(SOON)),
        Err(error) => assert_eq!(error.raw_os_error(), Some(ECONNRESET), "{error}"),
    }
    shop.metrics_show(|metrics| {
        let labels = [("destination_service_name", "BlackHoleCluster"), ("source_workload", "web")];
        let of = |name| metrics.sum("istio_tcp_connections_closed_total", &[labels[0], labels[1], name]);
        ensure!(of(("response_flags", "NC")) >= 1.0, "not counted as Istio does");
        ensure!(
            metrics
                .find(
                    "istio_tcp_connections_closed_total",
                    &[("destination_service_name", "PassthroughCluster")]
                )
                .count()
                == 0
        );
        Ok(())
    })
    .unwrap();
}

#[test]
fn an_unused_upstream_connection_is_shown_and_ends_after_its_idle_time() {
    let shop = need_shop!();
    let kept = shop.http("kept", "http", 1).unwrap();
    assert_eq!(shop.get(&kept, "/").unwrap().status(), 200);
    let rule = "connectionPool: {http: {idleTimeout: 1s}}";
    let service = shop.http_under_rule("resting", "http", 1, rule).unwrap();
    let mut client = shop.client(&service).unwrap();
    assert_eq!(client.get("r", "/").unwrap().status(), 200);
    // Each worker looks every 10 s; without the rule it would be kept for 55 s.
    let server = &service.backends[0].server;
    eventually(SOON, || {
        ensure!(server.open() == 0, "{} connections", server.open());
        Ok(())
    })
    .unwrap();
    assert_eq!(client.get("r", "/").unwrap().status(), 200);
    assert_eq!(server.accepted(), 2, "the next request had a new one");
    shop.metrics_show(|metrics| {
        ensure!(metrics.sum("mesh_agent_upstream_pool_idle", &[]) >= 1.0);
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_slice_that_comes_before_its_service_is_used_once_the_service_is_there() {
    let shop = need_shop!();
    let port = shop.port();
    let host = &shop.carts[0];
    let (_server, _) = echo_server(host.listen(port).unwrap(), "orphan");
    let slice =
        SliceObject::new(NAMESPACE, "orphan", "orphan-4").port("http", port).pods(NAMESPACE, [&**host]);
    shop.topology.mesh().write("orphan-slice.yaml", [slice.into()]).unwrap();
    eventually(SOON, || {
        let log = shop.agent.log();
        ensure!(log.contains("orphan"), "no warning of the orphan in the log");
        Ok(())
    })
    .unwrap();
    let (v4, _) = shop.vips();
    let service = ServiceObject::new(NAMESPACE, "orphan").vip(v4).port("http", 80);
    shop.topology.mesh().write("orphan-service.yaml", [service.into()]).unwrap();
    shop.wait_known("orphan").unwrap();
    eventually(SOON, || {
        let text = Client::new(shop.web.connect(SocketAddr::new(v4.into(), 80))?).get("o", "/")?.text();
        ensure!(text == "orphan", "{text}");
        Ok(())
    })
    .unwrap();
}

#[test]
fn an_endpoint_that_hangs_at_connect_does_not_take_its_requests_with_it() {
    let shop = need_shop!();
    let service = shop.http("blackhole", "http", 2).unwrap();
    // An address on the bridge that nobody has: connects to it fail after the neighbour is not found, or time out.
    let slice = SliceObject::new(NAMESPACE, "blackhole", "blackhole-4").port("http", service.target);
    let slice = slice.pods(NAMESPACE, [&*shop.carts[0] as &mesh_tests::lab::Pod, &*shop.carts[1]]);
    let gone: std::net::Ipv4Addr = [10, 77, 250, 250].into();
    shop.rewrite_endpoints(&service, slice.endpoint(EndpointObject::address(gone))).unwrap();
    let mut client = shop.client(&service).unwrap();
    client.stream().set_read_timeout(Some(PATIENCE * 3)).unwrap();
    let started = Instant::now();
    for i in 0..60 {
        assert_eq!(client.get("b", "/").unwrap().status(), 200, "request {i}");
    }
    // A connect there takes about three seconds to fail; after that the balancer keeps away for a while. With its share of
    // a third of the requests it would cost a minute.
    assert!(started.elapsed() < PATIENCE, "{:?}", started.elapsed());
}
