//! DestinationRule: who is ejected and comes back, who stays where by hash, how much goes at a time, and for whom.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use http::Request;
use mesh_tests::http1::Client;
use mesh_tests::http2::{H2Server, answer, whole, with_client};
use mesh_tests::lab::{NamespaceObject, Object, PodObject, eventually};
use mesh_tests::policy::destination_rule;
use mesh_tests::shop::{HttpService, NAMESPACE, Service, Shop, slice};
use mesh_tests::sockets::Host;
use mesh_tests::{AT_ONCE, PATIENCE, SOON, need_shop, shared_shop};

shared_shop!("destinationrule");

fn flag_of(shop: &Shop, path: &str) -> String {
    let line = shop.log_shows(path, |line| line["path"] == path).unwrap();
    line["response_flags"].as_str().unwrap().to_owned()
}

fn ejections(shop: &Shop, reason: &str) -> f64 {
    shop.agent.metrics().unwrap().sum("mesh_agent_outlier_ejections_total", &[("reason", reason)])
}

/// Sends requests until `index` has refused three times, then 20 more, none of which it gets.
fn is_ejected(client: &mut Client, service: &HttpService, index: usize) {
    service.backends[index].seen.answer_with(503);
    let before = service.counts()[index];
    let mut failed = 0;
    for _ in 0..200 {
        failed += usize::from(client.get("e", "/").unwrap().status() == 503);
        if failed == 3 {
            break;
        }
    }
    assert_eq!((failed, service.counts()[index] - before), (3, 3));
    for i in 0..20 {
        assert_eq!(client.get("e", "/").unwrap().status(), 200, "request {i} after the ejection");
    }
    assert_eq!(service.counts()[index] - before, 3);
}

#[test]
fn an_endpoint_that_answers_503_is_ejected_and_comes_back() {
    let shop = need_shop!();
    for (name, count) in [("eject3", 3), ("eject2", 2)] {
        let before = ejections(shop, "consecutive_5xx");
        let rule = "{loadBalancer: {simple: ROUND_ROBIN}, outlierDetection: {consecutive5xxErrors: 3, baseEjectionTime: 8s}}";
        let service = shop.http_under_rule(name, "http", count, rule).unwrap();
        let mut client = shop.client(&service).unwrap();
        is_ejected(&mut client, &service, 1);
        assert!(ejections(shop, "consecutive_5xx") > before);
        shop.metrics_show(|metrics| {
            ensure!(metrics.sum("mesh_agent_outlier_ejected_endpoints", &[]) >= 1.0);
            Ok(())
        })
        .unwrap();
        let host = format!("{name}.shop.svc.cluster.local");
        assert!(
            shop.agent.log().lines().any(|line| line.contains("endpoint ejected") && line.contains(&host)),
            "{}",
            shop.log_tail()
        );
        service.backends[1].seen.answer_with(0);
        let gone = service.counts()[1];
        eventually(PATIENCE * 2, || {
            assert_eq!(client.get("e", "/").unwrap().status(), 200);
            ensure!(service.counts()[1] > gone, "still ejected");
            Ok(())
        })
        .unwrap();
    }
}

#[test]
fn an_endpoint_that_cannot_be_reached_is_ejected() {
    let shop = need_shop!();
    let before = ejections(shop, "consecutive_5xx");
    let rule = "{loadBalancer: {simple: ROUND_ROBIN}, outlierDetection: {consecutive5xxErrors: 3, baseEjectionTime: 1h}}";
    let mut service = shop.http_under_rule("unreached", "http", 2, rule).unwrap();
    service.backends[0].server.die();
    let mut client = shop.client(&service).unwrap();
    for i in 0..20 {
        assert_eq!(client.get("u", "/").unwrap().status(), 200, "request {i}");
    }
    assert!(ejections(shop, "consecutive_5xx") > before);
    let opaque = "{loadBalancer: {simple: ROUND_ROBIN}, outlierDetection: {consecutive5xxErrors: 0, splitExternalLocalOriginErrors: true, \
                  consecutiveLocalOriginFailures: 2, baseEjectionTime: 1h}}";
    let mut service = shop.http_under_rule("unreachedtcp", "tcp", 2, opaque).unwrap();
    service.backends[0].server.die();
    for i in 0..20 {
        assert_eq!(shop.get(&service, "/").unwrap().status(), 200, "connection {i}");
    }
    shop.metrics_show(|metrics| {
        let label = [("reason", "consecutive_local_origin_failures")];
        ensure!(metrics.sum("mesh_agent_outlier_ejections_total", &label) >= 1.0);
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_grpc_endpoint_that_is_unavailable_is_ejected() {
    let shop = need_shop!();
    let port = shop.port();
    let asked = [Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0))];
    let _servers: Vec<H2Server> = asked
        .iter()
        .zip(&shop.carts)
        .zip(["14", "0"])
        .map(|((asked, host), status)| {
            let asked = asked.clone();
            H2Server::new(host.listen(port).unwrap(), None, move |_request, mut respond| {
                asked.fetch_add(1, Ordering::Relaxed);
                async move {
                    let status = ("grpc-status".parse().unwrap(), status.parse().unwrap());
                    answer(&mut respond, "", Some([status].into_iter().collect()));
                }
            })
        })
        .collect();
    let rule = "{loadBalancer: {simple: ROUND_ROBIN}, outlierDetection: {consecutive5xxErrors: 3, baseEjectionTime: 1h}}";
    let rule = destination_rule(NAMESPACE, "grpceject", rule).unwrap();
    shop.topology.mesh().write("policy-grpceject.yaml", [rule]).unwrap();
    let service = shop.expose("grpceject", "grpc", port, &[&shop.carts[0], &shop.carts[1]]).unwrap();
    let failed = with_client(shop.web.connect(service.at()).unwrap(), async |client| {
        let mut failed = 0;
        for _ in 0..20 {
            let request =
                Request::post("http://g/a.B/C").header("content-type", "application/grpc").body(())?;
            let (response, _) = client.clone().ready().await?.send_request(request, true)?;
            let answer = whole(response.await?).await?;
            failed += usize::from(answer.trailers.is_some_and(|trailers| trailers["grpc-status"] == "14"));
        }
        Ok(failed)
    })
    .unwrap();
    assert_eq!((failed, asked[0].load(Ordering::Relaxed), asked[1].load(Ordering::Relaxed)), (3, 3, 17));
}

/// Which endpoint each of these users comes to, by their header; each asks three times.
fn homes(client: &mut Client, users: std::ops::Range<usize>) -> Result<BTreeMap<usize, String>> {
    users
        .map(|user| {
            let mut ask = || Ok(client.get_with("h", "/", &format!("X-User: {user}"))?.text());
            let mut all = (0..3).map(|_| ask()).collect::<Result<BTreeSet<String>>>()?;
            ensure!(all.len() == 1, "user {user} is at {all:?}");
            Ok((user, all.pop_first().unwrap_or_default()))
        })
        .collect()
}

#[test]
fn a_hashed_header_keeps_its_endpoint_and_moves_only_when_that_goes() {
    let shop = need_shop!();
    for (name, table) in [("ring", ""), ("maglev", ", maglev: {}")] {
        let rule = format!("loadBalancer: {{consistentHash: {{httpHeaderName: x-user{table}}}}}");
        let service = shop.http_under_rule(name, "http", 3, &rule).unwrap();
        let mut client = shop.client(&service).unwrap();
        let before = homes(&mut client, 0..60).unwrap();
        let used: BTreeSet<&String> = before.values().collect();
        assert_eq!(used.len(), 3, "{name}: {used:?}");
        assert_eq!(
            homes(&mut shop.client(&service).unwrap(), 0..60).unwrap(),
            before,
            "{name}: another connection"
        );
        let [a, b, gone] = &shop.carts;
        shop.rewrite_endpoints(&service, slice(name, "http", service.target, &[a, b])).unwrap();
        let after = eventually(SOON, || {
            let after = homes(&mut client, 0..60)?;
            ensure!(after.values().all(|home| home != gone.name()), "{after:?}");
            Ok(after)
        })
        .unwrap();
        let moved =
            before.iter().filter(|(user, home)| *home != gone.name() && after[user] != **home).count();
        // Maglev moves a few of the others as well (its paper, section 5.3); a ring moves none.
        let most = if name == "ring" { 0 } else { 12 };
        assert!(moved <= most, "{name}: {moved} moved whose endpoint was still there");
    }
}

#[test]
fn a_hashed_source_address_keeps_a_client_at_its_endpoint() {
    let shop = need_shop!();
    let rule = "loadBalancer: {consistentHash: {useSourceIp: true}}";
    for (name, port_name) in [("source", "http"), ("sourcetcp", "tcp")] {
        let service = shop.http_under_rule(name, port_name, 3, rule).unwrap();
        for pod in [&shop.web, &shop.batch] {
            let ask = || Client::new(pod.connect(service.at()).unwrap()).get("s", "/").unwrap().text();
            let homes: BTreeSet<String> = (0..15).map(|_| ask()).collect();
            assert_eq!(homes.len(), 1, "{name} of {}: {homes:?}", pod.name());
        }
    }
}

#[test]
fn round_robin_is_even_and_a_change_of_the_rule_takes_effect_on_a_kept_connection() {
    let shop = need_shop!();
    let service = shop.http_under_rule("even", "http", 3, "loadBalancer: {simple: ROUND_ROBIN}").unwrap();
    let mut client = shop.client(&service).unwrap();
    (0..30).for_each(|_| drop(client.get("e", "/").unwrap()));
    assert_eq!(service.counts(), [10, 10, 10]);
    let hashed =
        destination_rule(NAMESPACE, "even", "loadBalancer: {consistentHash: {useSourceIp: true}}").unwrap();
    shop.change_policies("even", [hashed]).unwrap();
    (0..30).for_each(|_| drop(client.get("e", "/").unwrap()));
    let mut counts = service.counts();
    counts.sort_unstable();
    assert_eq!(counts, [10, 10, 40]);
}

fn begin(shop: &Shop, service: &Service, path: &str) -> Client {
    let mut client = shop.client(service).unwrap();
    client.send(format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n")).unwrap();
    client
}

#[test]
fn requests_and_connections_beyond_the_pool_overflow_at_once() {
    let shop = need_shop!();
    let pools = [
        ("manyrequests", "{http: {http2MaxRequests: 2}}"),
        ("anyconnections", "{tcp: {maxConnections: 9}, http: {http2MaxRequests: 2}}"),
    ];
    for (name, pool) in pools {
        let service = shop.http_under_rule(name, "http", 1, &format!("connectionPool: {pool}")).unwrap();
        let under_way = [begin(shop, &service, "/hang"), begin(shop, &service, "/hang")];
        eventually(SOON, || {
            ensure!(service.counts() == [2]);
            Ok(())
        })
        .unwrap();
        let (started, path) = (Instant::now(), format!("/{name}"));
        assert_eq!(shop.get(&service, &path).unwrap().status(), 503);
        assert!(started.elapsed() < AT_ONCE, "{:?}", started.elapsed());
        assert_eq!(flag_of(shop, &path), "UO");
        drop(under_way);
        eventually(SOON, || {
            let status = shop.get(&service, "/")?.status();
            ensure!(status == 200, "{name}: {status}");
            Ok(())
        })
        .unwrap();
    }
    let service =
        shop.http_under_rule("manytcp", "tcp", 1, "connectionPool: {tcp: {maxConnections: 1}}").unwrap();
    let mut first = shop.client(&service).unwrap();
    assert_eq!(first.get("t", "/").unwrap().status(), 200);
    assert!(shop.get(&service, "/").is_err(), "a second connection is reset");
    assert_eq!(first.get("t", "/").unwrap().status(), 200);
}

#[test]
fn a_connect_timeout_is_the_rules_own() {
    let shop = need_shop!();
    let silent = Host::new(&shop.topology, shop.node.pod("silent").unwrap()).unwrap();
    // Nothing answers at its address any more, not even a refusal.
    silent.netns().ip("link set eth0 down\n").unwrap();
    let rule =
        destination_rule(NAMESPACE, "silence", "connectionPool: {tcp: {connectTimeout: 300ms}}").unwrap();
    shop.topology.mesh().write("policy-silence.yaml", [rule]).unwrap();
    let service = shop.expose("silence", "http", 80, &[&silent]).unwrap();
    let started = Instant::now();
    assert_eq!(shop.get(&service, "/silence").unwrap().status(), 503);
    // Below the kernel's own three seconds for an address without an answer to ARP.
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    let line = shop.log_shows("/silence", |line| line["path"] == "/silence").unwrap();
    assert_eq!(
        (&line["response_flags"], &line["response_code_details"]),
        (&"UF".into(), &"connect_timeout".into()),
        "{line}"
    );
}

#[test]
fn an_idle_opaque_connection_is_ended() {
    let shop = need_shop!();
    let service = shop.http_under_rule("idle", "tcp", 1, "connectionPool: {tcp: {idleTimeout: 1s}}").unwrap();
    let mut stream = shop.web.connect(service.at()).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: i\r\n\r\n").unwrap();
    let started = Instant::now();
    // Once the answer is read there is nothing more until the end, or a reset.
    while let Ok(1..) = stream.read(&mut [0; 1000]) {}
    assert!((Duration::from_millis(900)..SOON).contains(&started.elapsed()), "{:?}", started.elapsed());
}

#[test]
fn a_rule_of_the_clients_namespace_goes_before_the_services() {
    let shop = need_shop!();
    let guest = Host::new(&shop.topology, shop.node.pod("guest").unwrap()).unwrap();
    let objects: [Object; 3] = [
        NamespaceObject::new("guests").enabled().into(),
        PodObject::of(&guest, "guests").into(),
        destination_rule("guests", "hosted", "loadBalancer: {consistentHash: {useSourceIp: true}}").unwrap(),
    ];
    shop.topology.mesh().write("guests.yaml", objects).unwrap();
    let service = shop.http_under_rule("hosted", "http", 3, "loadBalancer: {simple: ROUND_ROBIN}").unwrap();
    eventually(SOON, || shop.reaches(&guest, &service)).unwrap();
    let spread = |from: &Host| {
        let before = service.counts();
        let mut client = Client::new(from.connect(service.at()).unwrap());
        (0..30).for_each(|_| drop(client.get("h", "/").unwrap()));
        let mut counts: Vec<_> = service.counts().iter().zip(before).map(|(now, then)| now - then).collect();
        counts.sort_unstable();
        counts
    };
    assert_eq!((spread(&shop.web), spread(&guest)), (vec![10, 10, 10], vec![0, 0, 30]));
}

#[test]
fn what_asks_for_tls_is_refused_and_never_sent_in_plain_text() {
    let shop = need_shop!();
    // The servers speak plain text, and TLS isn't made with a secret of the cluster's.
    for (name, tls, details, reached) in [
        ("tlsplease", "insecureSkipVerify: true", "tls_failed", true),
        ("tlssecret", "credentialName: secret", "tls_not_originated", false),
    ] {
        let rule = format!("{{tls: {{mode: SIMPLE, {tls}}}}}");
        let service = shop.http_under_rule(name, "http", 1, &rule).unwrap();
        let path = format!("/{name}");
        assert_eq!(shop.get(&service, &path).unwrap().status(), 503);
        let line = shop.log_shows(&path, |line| line["path"] == *path).unwrap();
        assert_eq!(
            (&line["response_flags"], &line["response_code_details"]),
            (&"UF".into(), &details.into()),
            "{line}"
        );
        let opaque = shop.http_under_rule(&format!("{name}tcp"), "tcp", 1, &rule).unwrap();
        assert!(shop.get(&opaque, "/tcp").is_err(), "an answer where TLS was asked for");
        for service in [service, opaque] {
            assert_eq!(service.counts(), [0]);
            assert_eq!(service.backends[0].server.accepted() > 0, reached, "{name}");
        }
    }
}
