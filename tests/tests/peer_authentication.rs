//! PeerAuthentication where connections arrive: plain text refused, let in, and the probes of kubelet.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

use anyhow::ensure;
use mesh_tests::http1::{Client, Seen, echo_server};
use mesh_tests::lab::{NodeObject, Object, PodObject, eventually};
use mesh_tests::server::Server;
use mesh_tests::shop::{NAMESPACE, Shop};
use mesh_tests::sockets::Host;
use mesh_tests::{PATIENCE, SOON, need_shop, shared_shop};
use serde_json::{Value, json};

shared_shop!("peerauth", "workers" = "1");

/// A pod of its own, so that no other test's policy selects it, with an echo server.
struct Target {
    host: Host,
    name: String,
    port: u16,
    seen: Seen,
    _server: Server,
}

impl Target {
    fn new(shop: &Shop, name: &str, container: impl Fn(u16) -> Value) -> Self {
        let host = Host::new(&shop.topology, shop.node.pod(name).unwrap()).unwrap();
        let port = shop.port();
        let mut object = PodObject::of(&host, NAMESPACE);
        for (field, value) in container(port).as_object().unwrap() {
            object = object.container(field, value.clone());
        }
        // Whose addresses are the node's: the bridge's, where kubelet would be.
        let node = NodeObject::new("node-a").address([10, 77, 0, 1]);
        let mesh = shop.topology.mesh();
        mesh.write("01-node.yaml", [Object::from(node)]).unwrap();
        mesh.write(&format!("pod-{name}.yaml"), [Object::from(object)]).unwrap();
        let (server, seen) = echo_server(host.listen(port).unwrap(), name);
        eventually(SOON, || {
            let pod = describe(shop, name)?;
            ensure!(pod["pod"]["capture"] == "captured", "{pod}");
            Ok(())
        })
        .unwrap();
        Self { host, name: name.to_owned(), port, seen, _server: server }
    }

    fn at(&self) -> SocketAddr {
        self.host.at(self.port)
    }

    /// Puts it under a policy and waits until the agent goes by it.
    fn under(&self, shop: &Shop, mode: &str, ports: Value) {
        let spec = json!({
            "selector": {"matchLabels": {"app": self.name}}, "mtls": {"mode": mode}, "portLevelMtls": ports,
        });
        write_policy(shop, &self.name, spec);
        eventually(SOON, || {
            let pod = describe(shop, &self.name)?;
            ensure!(pod["pod"]["mtls"][0]["mode"] == mode, "{pod}");
            Ok(())
        })
        .unwrap();
    }
}

fn write_policy(shop: &Shop, name: &str, spec: Value) {
    let metadata = json!({"name": name, "namespace": NAMESPACE});
    let api = "security.istio.io/v1";
    let object = json!({"apiVersion": api, "kind": "PeerAuthentication", "metadata": metadata, "spec": spec});
    shop.topology.mesh().write(&format!("peer-{name}.yaml"), [Object(object)]).unwrap();
}

fn describe(shop: &Shop, pod: &str) -> anyhow::Result<Value> {
    shop.agent.cli_json(&["describe", "pod", &format!("{NAMESPACE}/{pod}")])
}

/// A connection from the node's own address.
fn from_node(shop: &Shop, to: SocketAddr) -> TcpStream {
    let stream = shop.topology.fabric().run(|| TcpStream::connect(to)).unwrap().unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(stream.local_addr().unwrap().ip().to_string(), "10.77.0.1");
    stream
}

/// True if the connection ends in a reset without an answer.
fn is_reset(mut stream: TcpStream, request: &[u8]) -> bool {
    let _ = stream.write_all(request);
    let mut got = Vec::new();
    let ended = stream.read_to_end(&mut got);
    assert!(got.is_empty(), "{}", String::from_utf8_lossy(&got));
    ended.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset)
}

fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").into_bytes()
}

fn refused(shop: &Shop) -> f64 {
    let reason = [("reason", "plain_text_refused")];
    shop.agent.metrics().unwrap().sum("mesh_agent_connections_refused_total", &reason)
}

#[test]
fn plain_text_to_a_strict_port_is_reset_and_counted() {
    let shop = need_shop!();
    let target = Target::new(shop, "strict", |_| json!({}));
    assert_eq!(Client::new(shop.outside.connect(target.at()).unwrap()).ask(get("/")).unwrap().status(), 200);
    target.under(shop, "STRICT", json!({}));
    let (before, asked) = (refused(shop), target.seen.count());
    let stream = shop.outside.connect(target.at()).unwrap();
    let client = stream.local_addr().unwrap().to_string();
    assert!(is_reset(stream, &get("/")));
    // Bytes of no protocol, and a client that waits for the server's, fare no better.
    assert!(is_reset(shop.outside.connect(target.at()).unwrap(), b"hello"));
    assert!(is_reset(shop.outside.connect(target.at()).unwrap(), b""));
    assert_eq!(target.seen.count(), asked, "the application heard of it");
    assert!(refused(shop) >= before + 3.0);
    eventually(SOON, || {
        let lines = shop.agent.access_log();
        let line = lines.iter().find(|line| line["source_address"] == client.as_str());
        let line = line.ok_or_else(|| anyhow::anyhow!("no line yet"))?;
        ensure!(
            line["response_flags"] == "DENY" && line["response_code_details"] == "plain_text_refused",
            "{line}"
        );
        Ok(())
    })
    .unwrap();
}

/// Bytes that come back, over a connection that is open.
fn comes_back(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.write_all(b"ping")?;
    stream.read_exact(&mut [0; 4])
}

#[test]
fn open_connections_in_plain_text_end_when_strict_comes_into_force() {
    let shop = need_shop!();
    let target = Target::new(
        shop,
        "tightened",
        |port| json!({"livenessProbe": {"httpGet": {"path": "/", "port": port + 1000, "scheme": "HTTPS"}}}),
    );
    let bytes = shop.port();
    let server = Server::new(target.host.listen(bytes).unwrap(), |mut stream, _| {
        let _ = std::io::copy(&mut stream.try_clone().unwrap(), &mut stream);
    });
    let mut stranger = shop.outside.connect(target.host.at(bytes)).unwrap();
    let mut node = from_node(shop, target.host.at(bytes));
    let mut neighbour = shop.web.connect(target.host.at(bytes)).unwrap();
    for stream in [&mut stranger, &mut node, &mut neighbour] {
        comes_back(stream).unwrap();
    }
    // What was HTTP and isn't any more.
    let mut switched = Client::new(shop.outside.connect(target.at()).unwrap());
    let upgrade = "GET /upgrade HTTP/1.1\r\nHost: u\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
    assert_eq!(switched.ask(upgrade).unwrap().status(), 101);
    let (before, client) = (refused(shop), stranger.local_addr().unwrap().to_string());
    target.under(shop, "STRICT", json!({}));
    for stream in [&mut stranger, &mut node] {
        let ended = stream.read(&mut [0]).unwrap_err();
        assert_eq!(ended.kind(), ErrorKind::ConnectionReset);
    }
    assert!(switched.closes_within(PATIENCE));
    // A captured pod of the node is proven, and goes on.
    comes_back(&mut neighbour).unwrap();
    eventually(SOON, || {
        ensure!(server.open() == 1, "{} are open at the application", server.open());
        ensure!(refused(shop) >= before + 3.0, "{} refused", refused(shop) - before);
        Ok(())
    })
    .unwrap();
    let line = shop.log_shows("the stranger", |line| line["source_address"] == client.as_str()).unwrap();
    assert_eq!(
        (&line["response_flags"], &line["response_code_details"]),
        (&"DENY".into(), &"plain_text_refused".into()),
        "{line}"
    );
}

#[test]
fn permissive_and_disabled_ports_take_plain_text() {
    let shop = need_shop!();
    let target = Target::new(shop, "open", |_| json!({}));
    for mode in ["PERMISSIVE", "DISABLE"] {
        target.under(shop, mode, json!({}));
        let answer = Client::new(shop.outside.connect(target.at()).unwrap()).ask(get("/")).unwrap();
        assert_eq!(answer.status(), 200, "{mode}");
    }
}

#[test]
fn a_port_may_differ_from_its_pod() {
    let shop = need_shop!();
    let target = Target::new(shop, "ports", |_| json!({}));
    let other = shop.port();
    let (_server, _) = echo_server(target.host.listen(other).unwrap(), "other");
    target.under(shop, "STRICT", json!({other.to_string(): {"mode": "PERMISSIVE"}}));
    assert!(is_reset(shop.outside.connect(target.at()).unwrap(), &get("/")));
    let answer = Client::new(shop.outside.connect(target.host.at(other)).unwrap()).ask(get("/")).unwrap();
    assert_eq!(answer.status(), 200);
}

#[test]
fn probes_of_the_node_work_under_strict_and_nothing_else_of_it_does() {
    let shop = need_shop!();
    let target = Target::new(shop, "probed", |port| {
        json!({
            "ports": [{"name": "web", "containerPort": port}],
            "livenessProbe": {"httpGet": {"path": "/status/204?live", "port": "web"}},
            "readinessProbe": {"tcpSocket": {"port": port}},
        })
    });
    target.under(shop, "STRICT", json!({}));
    let answer = Client::new(from_node(shop, target.at())).ask(get("/status/204?live")).unwrap();
    assert_eq!(answer.status(), 204);
    // A connection is all that a probe of the port is.
    let mut silent = from_node(shop, target.at());
    silent.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(silent.read(&mut [0]).unwrap(), 0);
    let before = refused(shop);
    for request in [
        get("/status/204"),
        get("/"),
        b"POST /status/204?live HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n".to_vec(),
    ] {
        let mut client = Client::new(from_node(shop, target.at()));
        assert_eq!(client.ask(&request).unwrap().status(), 403, "{}", String::from_utf8_lossy(&request));
        assert!(client.closes_within(PATIENCE));
    }
    assert!(is_reset(from_node(shop, target.at()), b"hello\n"));
    assert!(refused(shop) >= before + 4.0);
    // The same request from anywhere else isn't a probe.
    assert!(is_reset(shop.outside.connect(target.at()).unwrap(), &get("/status/204?live")));
    assert_eq!(target.seen.count(), 1);
}

#[test]
fn a_pod_without_probes_has_no_exemption() {
    let shop = need_shop!();
    let target = Target::new(shop, "unprobed", |_| json!({}));
    target.under(shop, "STRICT", json!({}));
    assert!(is_reset(from_node(shop, target.at()), &get("/")));
    assert_eq!(target.seen.count(), 0);
}

#[test]
fn pods_of_one_node_count_as_mutual_tls_and_strangers_on_it_do_not() {
    let shop = need_shop!();
    let target = Target::new(shop, "neighbour", |_| json!({}));
    target.under(shop, "STRICT", json!({}));
    let answer = Client::new(shop.web.connect(target.at()).unwrap()).ask(get("/")).unwrap();
    assert_eq!(answer.status(), 200);
    let stranger = Host::new(&shop.topology, shop.node.pod("stranger").unwrap()).unwrap();
    assert!(is_reset(stranger.connect(target.at()).unwrap(), &get("/")));
    assert_eq!(target.seen.count(), 1);
}

#[test]
fn policies_are_shown_and_a_broken_version_changes_nothing() {
    let shop = need_shop!();
    let target = Target::new(
        shop,
        "shown",
        |port| json!({"livenessProbe": {"httpGet": {"path": "/live", "port": port}}}),
    );
    target.under(shop, "STRICT", json!({"9": {"mode": "DISABLE"}}));
    let page = shop
        .agent
        .cli(&["describe", "pod", &format!("{NAMESPACE}/shown")])
        .unwrap()
        .success()
        .unwrap()
        .stdout;
    for part in ["STRICT", "DISABLE", "PeerAuthentication shop/shown", "GET /live"] {
        assert!(page.contains(part), "{part} in:\n{page}");
    }
    let listed = || shop.agent.cli(&["get", "policies", "-n", NAMESPACE]).unwrap().success().unwrap().stdout;
    let line = |listed: &str| {
        listed.lines().find(|line| line.contains("pods of shop with app=shown")).map(str::to_owned)
    };
    let shown = line(&listed()).unwrap();
    assert!(shown.contains("attached") && shown.contains("mtls,portLevelMtls"), "{shown}");
    write_policy(shop, "shown", json!({"mtls": {"mode": "OFF"}}));
    eventually(SOON, || {
        let said = shop.agent.cli(&["analyze"])?.stdout;
        ensure!(said.contains("MESH0109") && said.contains("PeerAuthentication shop/shown"), "{said}");
        Ok(())
    })
    .unwrap();
    assert!(line(&listed()).unwrap().contains("last-valid"));
    assert!(is_reset(shop.outside.connect(target.at()).unwrap(), &get("/")));
    // Others of this file expect no warning of their own to be in the way.
    target.under(shop, "STRICT", json!({}));
}
