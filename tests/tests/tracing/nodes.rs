//! Two nodes: one trace through both agents and an application between, over mutual TLS.

use std::io::{BufReader, Read, Write};
use std::net::Shutdown;

use mesh_tests::collector::Collector;
use mesh_tests::http1::{Client, echo_server, read_message};
use mesh_tests::nodes::Nodes;
use mesh_tests::server::Server;
use serde_json::Value;

use super::text;

#[test]
fn a_trace_runs_through_both_agents_and_the_application_between() {
    let options = mesh_tests::need_agent!().flag("trace-sampling", "1");
    let collector = Collector::start().unwrap();
    let nodes = Nodes::start("tracenodes", &collector.flags(options, "http")).unwrap();
    requests(&nodes, &collector);
    connections(&nodes, &collector);
}

/// web asks cart, on another node, which asks shelf, on web's, with the context that it was given.
fn requests(nodes: &Nodes, collector: &Collector) {
    let (port, last) = (nodes.port(), nodes.port());
    let (_shelf, seen) = echo_server(nodes.shelf.listen(last).unwrap(), "shelf");
    let onward = nodes.expose("shelf", "http", last, &[&nodes.shelf]).unwrap();
    let cart = nodes.cart.clone();
    let _cart = Server::new(nodes.cart.listen(port).unwrap(), move |stream, _| {
        let mut out = stream.try_clone().unwrap();
        while let Ok(Some(request)) = read_message(&mut BufReader::new(&stream), false) {
            let context = request.header("traceparent").unwrap();
            let head = format!(
                "GET /on HTTP/1.1\r\nHost: shelf.shop\r\nX-Request-Id: through\r\ntraceparent: {context}\r\n\r\n"
            );
            let status = Client::new(cart.connect(onward).unwrap()).ask(head).unwrap().status();
            out.write_all(format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n").as_bytes()).unwrap();
        }
    });
    let service = nodes.expose("cart", "http", port, &[&nodes.cart]).unwrap();
    let mut client = Client::new(nodes.web.connect(service).unwrap());
    let head = "GET /in HTTP/1.1\r\nHost: cart.shop\r\nX-Request-Id: through\r\n\r\n";
    assert_eq!(client.ask(head).unwrap().status(), 200);
    let spans = collector.wait("through", 4).unwrap();
    let chain: Vec<_> = spans.iter().map(|span| (text(span, "parent"), text(span, "id"))).collect();
    assert_eq!(chain[0].0, "");
    for pair in chain.windows(2) {
        assert_eq!(pair[1].0, pair[0].1, "{spans:#?}");
    }
    assert!(spans.iter().all(|span| span["trace"] == spans[0]["trace"]), "{spans:#?}");
    let told: Vec<_> = spans
        .iter()
        .map(|span| {
            (
                span["kind"].as_u64().unwrap(),
                text(&span["resource"], "k8s.pod.name"),
                text(&span["resource"], "k8s.node.name"),
            )
        })
        .collect();
    let want = [(3, "web", "node-a"), (2, "cart", "node-b"), (3, "cart", "node-b"), (2, "shelf", "node-a")];
    assert_eq!(told, want);
    let principals = ["mesh_agent.source.principal", "mesh_agent.destination.principal"];
    for (span, ends) in
        spans.iter().zip([["web", "cart"], ["web", "cart"], ["cart", "shelf"], ["cart", "shelf"]])
    {
        let of = ends.map(|account| format!("spiffe://cluster.local/ns/shop/sa/{account}"));
        assert_eq!(principals.map(|key| text(&span["attributes"], key)), of, "{span:#}");
    }
    let got = seen.of("/on");
    let last = &spans[3];
    let context = format!("00-{}-{}-01", text(last, "trace"), text(last, "id"));
    assert_eq!(got[0].header("traceparent"), Some(&*context));
}

/// The context of an opaque connection passes on with its CONNECT.
fn connections(nodes: &Nodes, collector: &Collector) {
    let port = nodes.port();
    let _server = Server::new(nodes.till.listen(port).unwrap(), |mut stream, _| {
        let mut all = Vec::new();
        let _ = stream.read_to_end(&mut all);
        let _ = stream.write_all(&all);
    });
    let service = nodes.expose("opaque", "tcp", port, &[&nodes.till]).unwrap();
    let mut stream = nodes.web.connect(service).unwrap();
    stream.write_all(b"hello").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    assert_eq!(all, b"hello");
    let of = |span: &Value| span["name"] == "tcp opaque.shop.svc.cluster.local";
    let [client, server] = &collector.wait_with("opaque", 2, of).unwrap()[..] else { panic!() };
    assert_eq!(
        (text(server, "parent"), server["trace"].clone()),
        (text(client, "id"), client["trace"].clone())
    );
    assert_eq!(text(&server["resource"], "k8s.pod.name"), "till");
}
