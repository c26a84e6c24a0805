//! What is reported of requests: Istio's metrics and the access log.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use anyhow::ensure;
use mesh_tests::http1::Client;
use mesh_tests::lab::eventually;
use mesh_tests::shop::Shop;
use mesh_tests::{SOON, need_shop, shared_shop};

shared_shop!("telemetry");

#[test]
fn a_request_is_counted_with_istios_full_label_set_by_both_reporters() {
    let shop = need_shop!();
    let service = shop.http("counted", "http", 1).unwrap();
    assert_eq!(shop.get(&service, "/bytes/100").unwrap().status(), 200);
    assert_eq!(shop.get(&service, "/status/404").unwrap().status(), 404);
    let common = [
        ("source_workload", "web"),
        ("source_workload_namespace", "shop"),
        ("source_principal", "unknown"),
        ("source_app", "web"),
        ("source_version", "v1"),
        ("source_cluster", "Kubernetes"),
        ("source_canonical_service", "web"),
        ("source_canonical_revision", "v1"),
        ("destination_workload", "cart"),
        ("destination_workload_namespace", "shop"),
        ("destination_principal", "unknown"),
        ("destination_app", "cart"),
        ("destination_version", "v1"),
        ("destination_service", "counted.shop.svc.cluster.local"),
        ("destination_service_name", "counted"),
        ("destination_service_namespace", "shop"),
        ("destination_cluster", "Kubernetes"),
        ("destination_canonical_service", "cart"),
        ("destination_canonical_revision", "v1"),
        ("request_protocol", "http"),
        ("response_flags", "-"),
    ];
    shop.metrics_show(|metrics| {
        for (reporter, security) in [("source", "unknown"), ("destination", "none")] {
            for code in ["200", "404"] {
                let mut labels = common.to_vec();
                labels.extend([
                    ("reporter", reporter),
                    ("response_code", code),
                    ("connection_security_policy", security),
                ]);
                let found: Vec<_> = metrics.find("istio_requests_total", &labels).collect();
                let all: Vec<_> = metrics
                    .find("istio_requests_total", &[("destination_service_name", "counted")])
                    .collect();
                ensure!(found.len() == 1 && found[0].value == 1.0, "{reporter} {code}: {all:#?}");
            }
        }
        let of = [("destination_service_name", "counted"), ("reporter", "source")];
        ensure!(metrics.sum("istio_response_bytes_sum", &of) >= 106.0);
        ensure!(metrics.sum("istio_request_duration_milliseconds_count", &of) == 2.0);
        ensure!(metrics.sum("istio_request_bytes_count", &of) == 2.0);
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_request_is_one_line_of_the_access_log() {
    let shop = need_shop!();
    let service = shop.http("logged", "http", 1).unwrap();
    let mut client = shop.client(&service).unwrap();
    client.ask("POST /echo/logged HTTP/1.1\r\nHost: logged.shop\r\nUser-Agent: me\r\nContent-Length: 5\r\n\r\n12345").unwrap();
    let of = |line: &serde_json::Value| line["path"] == "/echo/logged" && line["reporter"] == "source";
    let line = shop.log_shows("/echo/logged", of).unwrap();
    let cart = &service.backends[0].host;
    for (field, expected) in [
        ("source_workload", "shop/web"),
        ("destination_workload", "shop/cart-1"),
        ("destination_service", "logged.shop.svc.cluster.local"),
        ("destination_address", &service.at().to_string()),
        ("upstream_host", &cart.at(service.target).to_string()),
        ("method", "POST"),
        ("protocol", "HTTP/1.1"),
        ("response_flags", "-"),
        ("user_agent", "me"),
        ("authority", "logged.shop"),
    ] {
        assert_eq!(line[field], expected, "{field} of {line}");
    }
    assert!(line["source_address"].as_str().unwrap().starts_with(&format!("{}:", shop.web.v4())), "{line}");
    assert_eq!(
        (&line["response_code"], &line["bytes_received"], &line["bytes_sent"]),
        (&200.into(), &5.into(), &5.into())
    );
    assert_eq!(shop.agent.access_log().iter().filter(|line| of(line)).count(), 1);
}

#[test]
fn the_text_log_is_one_line_a_request_and_a_connection() {
    let file = std::env::temp_dir().join(format!("mesh-access-{}", std::process::id()));
    let options = mesh_tests::need_agent!().flag("access-log", format!("text:{}", file.display()));
    let shop = Shop::start("textlog", options).unwrap();
    let service = shop.http("text", "http", 1).unwrap();
    let opaque = shop.http("opaque", "tcp", 1).unwrap();
    assert_eq!(shop.get(&service, "/status/418").unwrap().status(), 418);
    assert_eq!(shop.get(&opaque, "/").unwrap().status(), 200);
    let lines = eventually(SOON, || {
        let text = std::fs::read_to_string(&file)?;
        let of = |what: &str| text.lines().filter(|line| line.contains(what)).count();
        ensure!(of("/status/418") >= 1 && of(&opaque.at().to_string()) >= 1, "{text}");
        Ok(text)
    });
    let _ = std::fs::remove_file(&file);
    let lines = lines.unwrap();
    let request = lines.lines().find(|line| line.contains("/status/418")).unwrap();
    for part in ["GET", "418", "HTTP/1.1", "shop/web", &service.at().to_string()] {
        assert!(request.contains(part), "{part} is not in {request}");
    }
}

#[test]
fn without_an_access_log_nothing_is_written_and_requests_are_counted() {
    let options = mesh_tests::need_agent!().flag("access-log", "off");
    let shop = Shop::start("nolog", options).unwrap();
    let service = shop.http("nolog", "http", 1).unwrap();
    assert_eq!(shop.get(&service, "/").unwrap().status(), 200);
    shop.metrics_show(|metrics| {
        let of = [("destination_service_name", "nolog"), ("reporter", "source")];
        ensure!(metrics.sum("istio_requests_total", &of) == 1.0);
        Ok(())
    })
    .unwrap();
    assert!(shop.agent.access_log().is_empty());
}

#[test]
fn a_client_outside_the_mesh_is_unknown_and_the_destination_reports_alone() {
    let shop = need_shop!();
    let service = shop.http("fromoutside", "http", 1).unwrap();
    let cart = &service.backends[0].host;
    let mut client = Client::new(shop.outside.connect(cart.at(service.target)).unwrap());
    assert_eq!(client.get("o", "/from-outside").unwrap().status(), 200);
    shop.metrics_show(|metrics| {
        let of = [("destination_service_name", "fromoutside"), ("source_workload", "unknown")];
        let by =
            |reporter| metrics.sum("istio_requests_total", &[&of[..], &[("reporter", reporter)]].concat());
        ensure!(
            (by("destination"), by("source")) == (1.0, 0.0),
            "{} and {}",
            by("destination"),
            by("source")
        );
        Ok(())
    })
    .unwrap();
    let line = shop.log_shows("/from-outside", |line| line["path"] == "/from-outside").unwrap();
    assert_eq!(
        (&line["reporter"], &line["destination_workload"]),
        (&"destination".into(), &"shop/cart-1".into())
    );
}
