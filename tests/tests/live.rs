//! `stat`, `edges`, `routes`, `top` and `bugreport` of two agents whose pods call each other: what they say is what clients
//! sent and what the metrics say.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "live/report.rs"]
mod report;
#[path = "live/terminal.rs"]
mod terminal;

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::sync::OnceLock;

use anyhow::{Result, ensure};
use mesh_tests::http1::{Client, Seen, echo_server};
use mesh_tests::lab::{Agent, eventually};
use mesh_tests::nodes::Nodes;
use mesh_tests::server::Server;
use mesh_tests::shop::NAMESPACE;
use mesh_tests::sockets::Host;
use mesh_tests::{SOON, agent_options};
use serde_json::Value;

pub fn nodes() -> Option<&'static Nodes> {
    static NODES: OnceLock<Option<Nodes>> = OnceLock::new();
    NODES.get_or_init(|| Some(Nodes::start("live", &agent_options()?).expect("two nodes"))).as_ref()
}

#[macro_export]
macro_rules! need_nodes {
    () => {
        match $crate::nodes() {
            Some(nodes) => nodes,
            None => return,
        }
    };
}

/// An echo server and a service over it.
pub fn serve(nodes: &Nodes, host: &Host, name: &str) -> (Server, Seen, SocketAddr) {
    let port = nodes.port();
    let (server, seen) = echo_server(host.listen(port).unwrap(), name);
    let service = nodes.expose(name, "http", port, &[host]).unwrap();
    (server, seen, service)
}

/// Requests on one connection of `web`, each to be answered with `status`.
pub fn send(nodes: &Nodes, service: SocketAddr, path: &str, count: usize, status: u16) {
    let mut client = Client::new(nodes.web.connect(service).unwrap());
    for _ in 0..count {
        assert_eq!(client.get("a", path).unwrap().status(), status, "{path}");
    }
}

/// The rows of a command's list that have this in this field.
fn rows(agent: &Agent, command: &[&str], field: &str, value: &str) -> Result<Vec<Value>> {
    let all = agent.cli_json(command)?;
    let all = all.as_array().cloned().unwrap_or_default();
    Ok(all.into_iter().filter(|row| row[field] == value).collect())
}

/// What an agent's metrics say of a service: requests, and those answered with 5xx.
fn counted(agent: &Agent, reporter: &str, service: &str) -> Result<(f64, f64)> {
    let metrics = agent.metrics()?;
    let of = [("reporter", reporter), ("destination_service_name", service)];
    let all: Vec<_> = metrics.find("istio_requests_total", &of).collect();
    let failed = all.iter().filter(|sample| sample.labels["response_code"].starts_with('5'));
    Ok((all.iter().map(|sample| sample.value).sum(), failed.map(|sample| sample.value).sum()))
}

#[test]
fn stat_says_what_clients_sent_and_what_both_sides_metrics_say() {
    let nodes = need_nodes!();
    let (_server, seen, service) = serve(nodes, &nodes.cart, "tallied");
    send(nodes, service, "/bytes/1000", 17, 200);
    send(nodes, service, "/status/404", 2, 404);
    seen.answer_with(500);
    send(nodes, service, "/", 6, 500);
    seen.answer_with(0);
    for (agent, reporter) in [(&nodes.near, "source"), (&nodes.far, "destination")] {
        eventually(SOON, || {
            let rows = rows(agent, &["stat", "svc", "tallied", "-t", "10m"], "name", "tallied")?;
            ensure!(rows.len() == 1, "{rows:?}");
            let row = &rows[0];
            let (all, failed) = counted(agent, reporter, "tallied")?;
            ensure!((all, failed) == (25.0, 6.0), "{reporter}: {all} {failed}");
            ensure!(
                (row["requests"].as_f64(), row["failures"].as_f64()) == (Some(all), Some(failed)),
                "{row}"
            );
            ensure!(row["success"].as_f64().is_some_and(|share| (share - 0.76).abs() < 1e-9), "{row}");
            ensure!(
                row["rps"].as_f64() > Some(0.0) && row["p50_ms"].as_f64() <= row["p99_ms"].as_f64(),
                "{row}"
            );
            ensure!(row["sent_bytes"].as_f64() >= Some(17_000.0), "{row}");
            ensure!(row["meshed"] == serde_json::json!([1, 1]), "{row}");
            Ok(())
        })
        .unwrap();
    }
    let table = nodes.near.cli(&["stat", "svc", "tallied", "-t", "10m"]).unwrap().success().unwrap().stdout;
    let words: Vec<&str> = table.lines().nth(1).unwrap_or_default().split_whitespace().collect();
    assert_eq!(words[..4], [NAMESPACE, "tallied", "1/1", "76.00%"], "{table}");
    // Seen from the client: the workload that sends.
    let from = nodes.near.cli_json(&["stat", "workload", "--to", "tallied", "-t", "10m"]).unwrap();
    assert_eq!((&from[0]["name"], &from[0]["requests"]), (&"web".into(), &25.into()), "{from}");
}

#[test]
fn secured_is_what_is_in_mutual_tls() {
    let nodes = need_nodes!();
    let (_far, _, apart) = serve(nodes, &nodes.till, "apart");
    let (_near, _, beside) = serve(nodes, &nodes.shelf, "beside");
    let (_open, _, _) = serve(nodes, &nodes.cart, "open");
    send(nodes, apart, "/", 3, 200);
    send(nodes, beside, "/", 3, 200);
    let policy = |agent: &Agent, service: &str| -> Result<Vec<String>> {
        let metrics = agent.metrics()?;
        let of = [("reporter", "destination"), ("destination_service_name", service)];
        let found = metrics.find("istio_requests_total", &of);
        Ok(found.map(|sample| sample.labels["connection_security_policy"].clone()).collect())
    };
    let id = |account: &str| Value::from(format!("spiffe://cluster.local/ns/{NAMESPACE}/sa/{account}"));
    eventually(SOON, || {
        for (agent, other) in [(&nodes.near, &nodes.far), (&nodes.far, &nodes.far)] {
            let edges = rows(agent, &["edges", "--to", "apart", "-t", "10m"], "destination", "till")?;
            ensure!(edges.len() == 1, "{edges:?}");
            let edge = &edges[0];
            ensure!(policy(other, "apart")? == ["mutual_tls"], "{edge}");
            ensure!(edge["source"] == "web" && edge["security"] == "mutual_tls", "{edge}");
            ensure!(edge["client_id"] == id("web") && edge["server_id"] == id("till"), "{edge}");
            ensure!(edge["requests"] == 3, "{edge}");
        }
        let edges = rows(&nodes.near, &["edges", "--to", "beside", "-t", "10m"], "destination", "shelf")?;
        ensure!(edges.len() == 1, "both reporters are here, and the edge is one: {edges:?}");
        ensure!(policy(&nodes.near, "beside")? == ["none"], "{edges:?}");
        ensure!(edges[0]["security"] == "none" && edges[0]["client_id"] == "unknown", "{edges:?}");
        ensure!(edges[0]["requests"] == 3, "{edges:?}");
        Ok(())
    })
    .unwrap();
    let dot = nodes.near.cli(&["edges", "-o", "dot", "-t", "10m"]).unwrap().success().unwrap().stdout;
    assert!(dot.starts_with("digraph") && dot.contains("\"till\"") && dot.contains("style=solid"), "{dot}");
    let mermaid = nodes.near.cli(&["edges", "-o", "mermaid", "-t", "10m"]).unwrap().success().unwrap().stdout;
    assert!(mermaid.starts_with("flowchart LR") && mermaid.contains("[\"till\"]"), "{mermaid}");
}

#[test]
fn routes_are_counted_by_the_rule_that_requests_went_by() {
    let nodes = need_nodes!();
    let (_server, _, service) = serve(nodes, &nodes.cart, "ruled");
    let route = format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: ruled, namespace: {NAMESPACE}}}\n\
         spec:\n  parentRefs: [{{group: \"\", kind: Service, name: ruled}}]\n  rules:\n  \
         - {{name: status, matches: [{{path: {{value: /status}}}}], backendRefs: [{{name: ruled, port: 80}}]}}\n  \
         - {{backendRefs: [{{name: ruled, port: 80}}]}}\n"
    );
    nodes.topology.mesh().write_text("route-ruled.yaml", &route).unwrap();
    eventually(SOON, || {
        let listed = nodes.near.cli(&["get", "routes", "-o", "name"])?.success()?.stdout;
        ensure!(listed.contains("/ruled"), "{listed}");
        Ok(())
    })
    .unwrap();
    send(nodes, service, "/", 5, 200);
    send(nodes, service, "/status/503", 3, 503);
    eventually(SOON, || {
        let rules = rows(&nodes.near, &["routes", "-t", "10m"], "route", &format!("{NAMESPACE}/ruled"))?;
        let found: Vec<_> = rules
            .iter()
            .map(|row| (row["rule"].as_str(), row["requests"].as_u64(), row["failures"].as_u64()))
            .collect();
        ensure!(found == [(Some("1"), Some(5), Some(0)), (Some("status"), Some(3), Some(3))], "{rules:?}");
        Ok(())
    })
    .unwrap();
}

#[test]
fn an_endpoint_that_fails_shows_in_success_and_flags() {
    let nodes = need_nodes!();
    // Nobody listens there. On the client's own node, so that one agent sees both sides: of another node it hears the 503.
    let service = nodes.expose("refused", "http", nodes.port(), &[&nodes.shelf]).unwrap();
    for _ in 0..3 {
        let mut client = Client::new(nodes.web.connect(service).unwrap());
        assert_eq!(client.get("a", "/").unwrap().status(), 503);
    }
    eventually(SOON, || {
        let rows = rows(&nodes.near, &["stat", "svc", "refused", "-t", "10m"], "name", "refused")?;
        ensure!(rows[0]["requests"] == 3 && rows[0]["success"] == 0.0, "{rows:?}");
        let flags = rows[0]["flags"].as_object().cloned().unwrap_or_default();
        ensure!(flags.values().filter_map(Value::as_u64).sum::<u64>() == 3, "{rows:?}");
        Ok(())
    })
    .unwrap();
}

#[test]
fn opaque_connections_are_counted_while_they_are_open() {
    let nodes = need_nodes!();
    let port = nodes.port();
    let _server = Server::new(nodes.cart.listen(port).unwrap(), |mut stream, _| {
        let mut piece = [0; 1024];
        while let Ok(read @ 1..) = stream.read(&mut piece) {
            if stream.write_all(&piece[..read]).is_err() {
                return;
            }
        }
    });
    let service = nodes.expose("opaque", "tcp", port, &[&nodes.cart]).unwrap();
    let mut stream = nodes.web.connect(service).unwrap();
    stream.write_all(b"12345").unwrap();
    stream.read_exact(&mut [0; 5]).unwrap();
    let ask = || -> Result<Value> {
        let rows = rows(&nodes.near, &["stat", "svc", "opaque", "-t", "10m"], "name", "opaque")?;
        Ok(rows.first().cloned().unwrap_or_default())
    };
    eventually(SOON, || {
        let row = ask()?;
        ensure!(row["connections_open"] == 1 && row["connections_opened"] == 1, "{row}");
        ensure!(row["sent_bytes"] == 5 && row["received_bytes"] == 5, "{row}");
        Ok(())
    })
    .unwrap();
    drop(stream);
    eventually(SOON, || {
        let row = ask()?;
        ensure!(row["connections_open"] == 0 && row["connections_opened"] == 1, "{row}");
        Ok(())
    })
    .unwrap();
}

/// GET on an agent's admin socket.
fn admin(agent: &Agent, path: &str) -> Result<Value> {
    let mut stream = UnixStream::connect(agent.state_dir().join("admin.sock"))?;
    stream.set_read_timeout(Some(SOON))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    ensure!(head.starts_with("HTTP/1.1 200"), "{answer}");
    Ok(serde_json::from_str(body)?)
}

#[test]
fn the_history_adds_up_to_the_window() {
    let nodes = need_nodes!();
    let (_server, _, service) = serve(nodes, &nodes.cart, "course");
    send(nodes, service, "/", 9, 200);
    eventually(SOON, || {
        let history = admin(&nodes.far, "/v1/live/history?window=600")?;
        let edges = history["edges"].as_array().cloned().unwrap_or_default();
        let edge = edges.iter().find(|edge| edge["destination"]["service"] == "course");
        let buckets = edge.and_then(|edge| edge["buckets"].as_array()).cloned().unwrap_or_default();
        let sum: u64 = buckets.iter().filter_map(|bucket| bucket["requests"].as_u64()).sum();
        ensure!(sum == 9 && history["bucket_seconds"] == 10 && history["window_seconds"] == 600, "{history}");
        Ok(())
    })
    .unwrap();
}
