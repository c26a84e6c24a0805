//! The access log by OTLP: what a collector reads of it, and that one in trouble costs no request anything.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::OnceLock;

use anyhow::{Result, ensure};
use mesh_tests::agent_options;
use mesh_tests::collector::Collector;
use mesh_tests::http1::echo_server;
use mesh_tests::lab::{MetricsText, Object};
use mesh_tests::server::Server;
use mesh_tests::shop::Shop;
use serde_json::Value;

use super::{Scene, check, text};

const INFO: u64 = 9;
const ERROR: u64 = 17;

/// A shop whose access log goes to a collector.
fn logging(name: &str, protocol: &str, collector: Collector, flags: &[(&str, &str)]) -> Option<Scene> {
    let options = collector.flags(agent_options()?, protocol).flag("access-log", "otlp");
    let options = flags.iter().fold(options, |options, (name, value)| options.flag(name, *value));
    Some(Scene { shop: Shop::start(name, options).expect("a shop"), collector })
}

/// One for those that look at records; every request is traced, too.
fn recorded() -> Option<&'static Scene> {
    static SCENE: OnceLock<Option<Scene>> = OnceLock::new();
    let flags = [("trace-sampling", "1"), ("trace-limit", "0")];
    SCENE
        .get_or_init(|| logging("otlplogs", "grpc", Collector::start().expect("a collector"), &flags))
        .as_ref()
}

fn severity(record: &Value) -> (u64, &str) {
    (record["severity"].as_u64().unwrap(), text(record, "level"))
}

/// Asks for a path and returns the status.
fn get(shop: &Shop, service: &mesh_tests::shop::HttpService, path: &str, id: &str) -> u16 {
    let head = format!("GET {path} HTTP/1.1\r\nHost: a\r\nX-Request-Id: {id}\r\n\r\n");
    shop.client(service).unwrap().ask(head).unwrap().status()
}

fn records(metrics: &MetricsText, result: &str) -> f64 {
    metrics.sum("mesh_agent_log_records_total", &[("result", result)])
}

fn shows(shop: &Shop, result: &str, least: f64) {
    let check = |metrics: &MetricsText| -> Result<()> {
        let now = records(metrics, result);
        ensure!(now >= least, "{now} are {result}, not {least}");
        Ok(())
    };
    shop.metrics_show(check).unwrap();
}

#[test]
fn a_request_is_one_record_that_names_its_span() {
    let Some(Scene { shop, collector }) = recorded() else { return };
    let service = shop.http("logged", "http", 1).unwrap();
    assert_eq!(get(shop, &service, "/head?a=b", "logged"), 200);
    let record = collector.wait_record("logged").unwrap();
    check(
        &record,
        &[
            ("http.request.method", "GET".into()),
            ("url.path", "/head".into()),
            ("url.query", "a=b".into()),
            ("http.response.status_code", 200.into()),
            ("network.protocol.version", "1.1".into()),
            ("response_flags", "-".into()),
            ("reporter", "source".into()),
            ("source_workload", format!("shop/{}", shop.web.name()).into()),
            ("destination_service", "logged.shop.svc.cluster.local".into()),
            ("client.address", shop.web.v4().to_string().into()),
            ("upstream_host", shop.carts[0].at(service.target).to_string().into()),
        ],
    );
    assert_eq!(severity(&record), (INFO, "INFO"));
    assert_eq!(record["resource"]["k8s.pod.name"], shop.web.name());
    assert_eq!((text(&record, "scope"), record["flags"].as_u64()), ("mesh-agent", Some(1)));
    assert!(record["nanos"].as_u64().unwrap() > 0 && record["age"].as_f64().unwrap() < 300.0, "{record:#}");
    let body = text(&record, "body");
    assert!(
        body.contains("\"GET /head?a=b HTTP/1.1\" 200 - ") && body.contains(" outbound src=shop/"),
        "{body}"
    );
    let [client, _] = &collector.wait("logged", 2).unwrap()[..] else { panic!() };
    assert_eq!((text(&record, "trace"), text(&record, "span")), (text(client, "trace"), text(client, "id")));
    shows(shop, "exported", 1.0);
}

#[test]
fn an_opaque_connection_is_one_record() {
    let Some(Scene { shop, collector }) = recorded() else { return };
    let port = shop.port();
    let _server = Server::new(shop.carts[0].listen(port).unwrap(), |mut stream, _| {
        let mut all = Vec::new();
        let _ = stream.read_to_end(&mut all);
        let _ = stream.write_all(&all);
    });
    let service = shop.expose("logtcp", "tcp", port, &[&shop.carts[0]]).unwrap();
    let mut stream = shop.web.connect(service.at()).unwrap();
    stream.write_all(b"hello").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    assert_eq!(all, b"hello");
    let host = "logtcp.shop.svc.cluster.local";
    let of = |record: &Value| record["attributes"]["destination_service"] == host;
    let record = collector.wait_record_with("the connection", of).unwrap();
    check(
        &record,
        &[
            ("network.transport", "tcp".into()),
            ("bytes_received", 5.into()),
            ("bytes_sent", 5.into()),
            ("server.address", host.into()),
            ("response_flags", "-".into()),
        ],
    );
    assert_eq!(severity(&record), (INFO, "INFO"));
    assert!(text(&record, "body").contains("\"- - tcp\" 0 - 5 5 "), "{record:#}");
    let span = |span: &Value| span["id"] == record["span"] && span["trace"] == record["trace"];
    collector.wait_with("the record's span", 1, span).unwrap();
}

#[test]
fn what_is_denied_is_an_error_that_says_by_which_policy() {
    let Some(Scene { shop, collector }) = recorded() else { return };
    let policy = serde_json::json!({
        "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
        "metadata": {"name": "closed", "namespace": "shop"},
        "spec": {
            "selector": {"matchLabels": {"version": "v2"}}, "action": "DENY",
            "rules": [{"to": [{"operation": {"paths": ["/closed"]}}]}],
        },
    });
    shop.topology.mesh().write("closed.yaml", [Object(policy)]).unwrap();
    // The only pod of this version, which serves nothing else here.
    let (port, host) = (shop.port(), &shop.carts[2]);
    let (_server, seen) = echo_server(host.listen(port).unwrap(), host.name());
    let service = shop.expose("logdenied", "http", port, &[host]).unwrap();
    let head = "GET /closed HTTP/1.1\r\nHost: a\r\nX-Request-Id: closed\r\n\r\n";
    // The file was written before the service's, which was waited for.
    assert_eq!((shop.client(&service).unwrap().ask(head).unwrap().status(), seen.count()), (403, 0));
    let record = collector.wait_record("closed").unwrap();
    assert_eq!(severity(&record), (ERROR, "ERROR"));
    check(&record, &[("response_flags", "DENY".into()), ("http.response.status_code", 403.into())]);
    assert!(text(&record["attributes"], "response_code_details").contains("closed"), "{record:#}");
}

#[test]
fn no_secret_is_in_a_record() {
    let Some(Scene { shop, collector }) = recorded() else { return };
    let service = shop.http("logsecret", "http", 1).unwrap();
    let marker = "s3cr3t-marker";
    let head = format!(
        "POST /echo?token={marker}&page=2 HTTP/1.1\r\nHost: a\r\nX-Request-Id: secret\r\nAuthorization: Bearer {marker}\r\n\
         Cookie: id={marker}\r\nX-Api-Key: {marker}\r\nContent-Length: {}\r\n\r\n{marker}",
        marker.len()
    );
    assert_eq!(shop.client(&service).unwrap().ask(head).unwrap().status(), 200);
    let record = collector.wait_record("secret").unwrap();
    assert!(!record.to_string().contains(marker), "{record:#}");
    check(&record, &[("url.query", "token=[redacted]&page=2".into())]);
}

#[test]
fn over_http_the_filter_holds_and_a_collector_in_trouble_loses_nothing() {
    let flags = [
        ("access-log-filter", "status>=400"),
        ("trace-sampling", "0"),
        ("trace-keep", "off"),
        ("otlp-timeout", "5s"),
    ];
    let Some(Scene { shop, collector }) = logging("otlphttp", "http", Collector::start().unwrap(), &flags)
    else {
        return;
    };
    let service = shop.http("plain", "http", 1).unwrap();
    collector.answer("busy").unwrap();
    assert_eq!(get(&shop, &service, "/", "fine"), 200);
    assert_eq!(get(&shop, &service, "/status/404", "missing"), 404);
    let retried = |metrics: &MetricsText| -> Result<()> {
        let retries = metrics.sum("mesh_agent_log_exports_total", &[("result", "retry")]);
        ensure!(retries >= 1.0, "{retries} retries");
        Ok(())
    };
    shop.metrics_show(retried).unwrap();
    collector.answer("ok").unwrap();
    let record = collector.wait_record("missing").unwrap();
    assert_eq!(severity(&record), (INFO, "INFO"));
    // What comes later is sent later: the request before isn't on its way any more.
    assert_eq!(collector.records(|_| true).unwrap(), [record]);
    collector.answer("refuse").unwrap();
    assert_eq!(get(&shop, &service, "/status/500", "refused"), 500);
    shows(&shop, "rejected", 1.0);
}

#[test]
fn a_collector_that_is_away_is_found_again_and_what_it_missed_is_counted() {
    let flags = [("trace-sampling", "0"), ("trace-keep", "off"), ("otlp-timeout", "1s")];
    let Some(mut scene) = logging("otlpaway", "grpc", Collector::absent().unwrap(), &flags) else { return };
    let service = scene.shop.http("plain", "http", 1).unwrap();
    assert_eq!(get(&scene.shop, &service, "/", "nobody"), 200);
    shows(&scene.shop, "unavailable", 1.0);
    scene.collector.revive().unwrap();
    assert_eq!(get(&scene.shop, &service, "/", "there"), 200);
    scene.collector.wait_record("there").unwrap();
    let log = scene.shop.agent.log();
    assert!(log.contains("the access log's records can't be exported"), "{log}");
}

#[test]
fn behind_a_collector_that_stands_still_records_are_dropped_and_counted_and_requests_go_on() {
    let flags = [("trace-sampling", "0"), ("trace-keep", "off"), ("otlp-timeout", "60s")];
    let Some(Scene { shop, collector }) = logging("otlpfull", "grpc", Collector::start().unwrap(), &flags)
    else {
        return;
    };
    let service = shop.http("plain", "http", 1).unwrap();
    collector.answer("hang").unwrap();
    const AT_ONCE: usize = 128;
    let heads = "GET / HTTP/1.1\r\nHost: a\r\n\r\n".repeat(AT_ONCE);
    let mut client = shop.client(&service).unwrap();
    // Room is for 16384, and one that is being sent.
    let full = (0..2 * 16384 / AT_ONCE).position(|_| {
        client.send(&heads).unwrap();
        for _ in 0..AT_ONCE {
            assert_eq!(client.read().unwrap().unwrap().status(), 200);
        }
        records(&shop.agent.metrics().unwrap(), "queue_full") > 0.0
    });
    assert!(full.is_some(), "nothing was dropped: {}", shop.log_tail());
    assert_eq!(records(&shop.agent.metrics().unwrap(), "exported"), 0.0);
    assert_eq!(get(&shop, &service, "/", "still-served"), 200);
}
