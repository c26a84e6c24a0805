//! What happens to requests on their way, as events of their spans.

use mesh_tests::SOON;
use mesh_tests::collector::Collector;
use mesh_tests::http1::echo_server;
use mesh_tests::lab::{Object, eventually};
use mesh_tests::shop::HttpService;
use serde_json::Value;

use super::{Scene, check, scene, text};

#[test]
fn retries_ejections_limits_and_faults_are_events() {
    let Scene { shop, collector } = need_scene!();
    let policy = "retry: {attempts: 1, on: [5xx], backoff: {base: 1ms}, budget: {percent: 100, minRetriesPerSecond: 1000}}";
    let retried = shop.http_under_policy("retried", 2, policy).unwrap();
    for backend in &retried.backends {
        backend.seen.answer_with(503);
    }
    let ask = |service: &HttpService, id: &str| {
        let head = format!("GET / HTTP/1.1\r\nHost: a\r\nX-Request-Id: {id}\r\n\r\n");
        shop.client(service).unwrap().ask(head).unwrap().status()
    };
    assert_eq!(ask(&retried, "retried"), 503);
    let spans = collector.wait("retried", 2).unwrap();
    let events = spans[0]["events"].as_array().unwrap();
    assert_eq!(events.len(), 1, "{:#}", spans[0]);
    assert_eq!((&events[0]["name"], &events[0]["mesh_agent.attempt"]), (&"retry".into(), &2.into()));
    assert_eq!(events[0]["mesh_agent.reason"], "status");
    assert!(
        retried
            .backends
            .iter()
            .any(|b| events[0]["mesh_agent.endpoint"] == b.host.at(retried.target).to_string())
    );
    check(&spans[0], &[("http.request.resend_count", 1.into()), ("mesh_agent.response_flags", "URX".into())]);
    assert!(spans[1]["events"].as_array().unwrap().is_empty(), "{:#}", spans[1]);

    let limit =
        "{rateLimit: {local: [{requests: 1, per: 1h, burst: 1}]}, faultInjection: {delay: {fixed: 1ms}}}";
    let limited = shop.http_under_policy("limited", 1, limit).unwrap();
    assert_eq!((ask(&limited, "first"), ask(&limited, "second")), (200, 429));
    let names = |span: &Value| -> Vec<String> {
        let events = span["events"].as_array().unwrap();
        events
            .iter()
            .map(|event| format!("{} {}", text(event, "name"), text(event, "mesh_agent.reason")))
            .collect()
    };
    let first = collector.wait("first", 2).unwrap();
    assert_eq!(names(&first[0]), ["fault fault_delay"]);
    let refused = eventually_spans(collector, "second");
    assert_eq!(names(&refused), ["fault fault_delay", "limit rate_limited"]);

    let rule = "outlierDetection: {consecutive5xxErrors: 1, interval: 1s, baseEjectionTime: 60s, maxEjectionPercent: 100}";
    let ejected = shop.http_under_rule("ejected", "http", 1, rule).unwrap();
    ejected.seen().answer_with(500);
    assert_eq!(ask(&ejected, "ejected"), 500);
    let spans = collector.wait("ejected", 2).unwrap();
    let endpoint = ejected.backends[0].host.at(ejected.target).to_string();
    assert_eq!(spans[0]["events"][0]["name"], "ejection", "{:#}", spans[0]);
    assert_eq!(spans[0]["events"][0]["mesh_agent.endpoint"], endpoint);
}

/// The client span of a request that may have been refused before or after an endpoint was chosen.
fn eventually_spans(collector: &Collector, id: &str) -> Value {
    eventually(SOON, || {
        let spans = collector.spans(id)?;
        let client = spans.into_iter().find(|span| span["kind"] == 3);
        client.ok_or_else(|| anyhow::anyhow!("no client span of {id}"))
    })
    .unwrap()
}

#[test]
fn a_policys_denial_is_an_event_that_names_it() {
    let Scene { shop, collector } = need_scene!();
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
    let service = shop.expose("denied", "http", port, &[host]).unwrap();
    let ask = |id: &str| {
        let head = format!("GET /closed HTTP/1.1\r\nHost: a\r\nX-Request-Id: {id}\r\n\r\n");
        shop.client(&service).unwrap().ask(head).unwrap().status()
    };
    // The file was written before the service's, which was waited for.
    assert_eq!((ask("closed"), seen.count()), (403, 0));
    let client = eventually_spans(collector, "closed");
    let event = &client["events"][0];
    assert_eq!(event["name"], "policy", "{client:#}");
    assert!(text(event, "mesh_agent.details").contains("closed"), "{client:#}");
}
