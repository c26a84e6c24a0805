//! HBONE to a captured pod: the peer is the client.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use anyhow::{Context, ensure};
use http::Request;
use mesh_tests::hbone::{self, PORT, Peer};
use mesh_tests::http1::{Client, Seen, echo_server};
use mesh_tests::lab::{Object, eventually};
use mesh_tests::pki::MeshAuthority;
use mesh_tests::server::Server;
use mesh_tests::shop::NAMESPACE;
use mesh_tests::sockets::Host;
use mesh_tests::{SOON, agent_options};
use serde_json::{Value, json};

use super::{Mesh, SECRET, bulk, echo, echo_then_bye, ends_with_bye, id, mesh, need_mesh, says};

fn authorization(name: &str, spec: Value) -> Object {
    let metadata = json!({"name": name, "namespace": NAMESPACE});
    let api = "security.istio.io/v1";
    Object(json!({"apiVersion": api, "kind": "AuthorizationPolicy", "metadata": metadata, "spec": spec}))
}

fn port_mode(port: u16, mode: &str) -> Object {
    let metadata = json!({"name": format!("port-{port}"), "namespace": NAMESPACE});
    // One policy alone holds for a workload, so that each names all that tests need.
    let spec = json!({
        "selector": {"matchLabels": {"app": "cart"}},
        "mtls": {"mode": "PERMISSIVE"},
        "portLevelMtls": {port.to_string(): {"mode": mode}},
    });
    let api = "security.istio.io/v1";
    Object(json!({"apiVersion": api, "kind": "PeerAuthentication", "metadata": metadata, "spec": spec}))
}

#[test]
fn requests_come_in_with_their_clients_identity_and_address() {
    let mesh = need_mesh!();
    let port = mesh.port();
    let (server, seen) = echo_server(mesh.cart.listen(port).unwrap(), "cart");
    mesh.expose("in-http", "http", port, &[&mesh.cart]);
    let to = mesh.cart.at(port);
    let peer = mesh.peer();
    let client = SocketAddr::new(mesh.far.v4().into(), 45678);
    let forwarded = format!("for=\"{client}\";host=in-http.shop.svc.cluster.local");
    let answer = peer.open(to, &[("forwarded", &forwarded), ("baggage", "k8s.namespace.name=bank")]).unwrap();
    let mut client_side = Client::new(answer.tunnel.unwrap());
    for path in ["/one", "/two"] {
        assert_eq!(client_side.get("in-http", path).unwrap().status(), 200);
    }
    assert_eq!(seen.of("/one").len(), 1);
    assert!(server.peers().iter().all(|from| *from == client), "{:?}", server.peers());
    let line = mesh.log("/two", |line| line["path"] == "/two" && line["reporter"] == "destination");
    let expected = [
        ("connection_security_policy", "mutual_tls"),
        ("connection_transport", "hbone"),
        ("source_principal", &id("far")),
        ("destination_principal", &id("cart")),
        ("source_workload", "shop/far"),
        ("response_flags", "-"),
    ];
    for (key, value) in expected {
        assert_eq!(line[key], value, "{key} of {line}");
    }
    let labels = [
        ("reporter", "destination"),
        ("destination_service_name", "in-http"),
        ("connection_security_policy", "mutual_tls"),
        ("source_principal", &id("far")),
        ("source_workload_namespace", NAMESPACE),
    ];
    mesh.grows("istio_requests_total", &labels, 1.0);
    let handshakes = [("direction", "inbound"), ("transport", "hbone"), ("result", "ok")];
    assert!(mesh.sum("mesh_agent_mesh_handshakes_total", &handshakes) >= 1.0);
}

#[test]
fn bytes_come_in_with_their_ends_and_in_bulk() {
    let mesh = need_mesh!();
    for (name, port_name) in [("in-tcp", "tcp"), ("in-undeclared", ""), ("in-tls", "tls")] {
        let port = mesh.port();
        let server = echo_then_bye(&mesh.cart, port);
        mesh.expose(name, port_name, port, &[&mesh.cart]);
        let peer = mesh.peer();
        let mut tunnel = peer.tunnel(mesh.cart.at(port)).unwrap();
        says(&mut tunnel, SECRET);
        ends_with_bye(tunnel);
        bulk(peer.tunnel(mesh.cart.at(port)).unwrap());
        assert!(server.peers().iter().all(|from| from.ip() == mesh.far.v4()), "{:?}", server.peers());
    }
    // By the pod's other address.
    let port = mesh.port();
    let _server = echo_then_bye(&mesh.cart, port);
    mesh.expose("in-six", "tcp", port, &[&mesh.cart]);
    let peer = mesh.peer();
    let mut tunnel = peer.tunnel(mesh.cart.at6(port)).unwrap();
    says(&mut tunnel, SECRET);
}

#[test]
fn a_server_that_speaks_first_is_heard() {
    let mesh = need_mesh!();
    let port = mesh.port();
    let _server = Server::new(mesh.cart.listen(port).unwrap(), |mut stream, _| {
        stream.write_all(b"220 hello\r\n").unwrap();
        echo(stream);
    });
    mesh.expose("in-greets", "", port, &[&mesh.cart]);
    let peer = mesh.peer();
    let mut tunnel = peer.tunnel(mesh.cart.at(port)).unwrap();
    let mut greeting = [0; 11];
    tunnel.read_exact(&mut greeting).unwrap();
    assert_eq!(&greeting, b"220 hello\r\n");
}

#[test]
fn streams_share_a_connection_and_dont_wait_for_each_other() {
    let mesh = need_mesh!();
    let port = mesh.port();
    let server = echo_then_bye(&mesh.cart, port);
    mesh.expose("in-many", "tcp", port, &[&mesh.cart]);
    let peer = mesh.peer();
    let mut tunnels: Vec<_> = (0..20).map(|_| peer.tunnel(mesh.cart.at(port)).unwrap()).collect();
    // One that nobody reads from: its window is full, the others' aren't.
    let mut stuck = tunnels.pop().unwrap();
    stuck.set_nonblocking(true).unwrap();
    let (chunk, labels) = ([0; 64 * 1024], [("destination_service_name", "in-many")]);
    let mut before = 0.0;
    eventually(SOON, || {
        while stuck.write(&chunk).is_ok() {}
        let now = mesh.sum("istio_tcp_received_bytes_total", &labels);
        let moved = std::mem::replace(&mut before, now) != now;
        ensure!(!moved && now > 200_000.0, "it still moves: {now}");
        Ok(())
    })
    .unwrap();
    for (n, tunnel) in tunnels.iter_mut().enumerate() {
        says(tunnel, format!("stream {n}").as_bytes());
    }
    let open = mesh.agent.cli_json(&["get", "connections"]).unwrap();
    let at = mesh.cart.at(PORT).to_string();
    let carriers: Vec<_> =
        open.as_array().unwrap().iter().filter(|line| line["destination"] == *at).collect();
    assert!(carriers.iter().any(|line| line["protocol"] == "hbone" && line["peer"] == *id("far")), "{open}");
    tunnels.into_iter().rev().for_each(ends_with_bye);
    assert_eq!(server.accepted(), 20);
}

#[test]
fn nothing_but_a_connect_to_this_pod_is_answered() {
    let mesh = need_mesh!();
    let port = mesh.port();
    let (server, _) = echo_server(mesh.cart.listen(port).unwrap(), "cart");
    let web = echo_server(mesh.web.listen(port).unwrap(), "web").0;
    mesh.expose("in-judged", "http", port, &[&mesh.cart]);
    let peer = mesh.peer();
    let of = |reason| mesh.sum("mesh_agent_protocol_errors_total", &[("reason", reason)]);
    let before = (of("wrong_authority"), of("not_connect"));
    let wrong = [
        mesh.web.at(port).to_string(),
        mesh.far.at(port).to_string(),
        format!("127.0.0.1:{port}"),
        format!("[::1]:{port}"),
        format!("in-judged.shop.svc.cluster.local:{port}"),
        mesh.cart.at(15001).to_string(),
        mesh.cart.at(15006).to_string(),
        mesh.cart.at(15008).to_string(),
        mesh.cart.at6(15008).to_string(),
    ];
    for authority in &wrong {
        let answer = peer.open(authority, &[]).unwrap();
        assert_eq!(answer.status, 400, "{authority}");
    }
    for method in ["GET", "POST", "OPTIONS"] {
        let uri = format!("http://{}/", mesh.cart.at(port));
        let request = Request::builder().method(method).uri(uri).body(()).unwrap();
        assert_eq!(peer.ask(request).unwrap().status, 400, "{method}");
    }
    assert_eq!((server.accepted(), web.accepted()), (0, 0));
    assert_eq!((of("wrong_authority"), of("not_connect")), (before.0 + wrong.len() as f64, before.1 + 3.0));
    // The connection itself is none the worse for it.
    assert_eq!(peer.open(mesh.cart.at(port), &[]).unwrap().status, 200);
}

#[test]
fn whoever_doesnt_prove_to_be_of_the_mesh_is_refused() {
    let mesh = need_mesh!();
    let stranger = MeshAuthority::new(&mesh.topology.scratch().join("stranger"), "stranger").unwrap();
    let foreign = mesh.authority.svid("spiffe://other.domain/ns/shop/sa/far").unwrap();
    let nobody = mesh.authority.svid("https://example.com/far").unwrap();
    let unsigned = stranger.svid(&id("far")).unwrap();
    let root = mesh.authority.root();
    let cases = [
        ("no_certificate", None),
        ("unknown_root", Some(&unsigned)),
        ("trust_domain", Some(&foreign)),
        ("no_identity", Some(&nobody)),
    ];
    for (result, svid) in cases {
        let labels = [("direction", "inbound"), ("transport", "hbone"), ("result", result)];
        let before = mesh.sum("mesh_agent_mesh_handshakes_total", &labels);
        let refused = Peer::connect(&mesh.far, mesh.cart.at(PORT), &root, svid);
        assert!(refused.is_err(), "{result}");
        mesh.grows("mesh_agent_mesh_handshakes_total", &labels, before);
    }
    mesh.log("refused", |line| {
        line["response_code_details"] == "peer_certificate_refused"
            && line["destination_address"] == *mesh.cart.at(PORT).to_string()
            && line["response_flags"] == "DPE"
    });
    assert!(mesh.agent.log().contains("a client that comes by HBONE is refused"), "{}", mesh.agent.log());
    // What our agents speak between each other isn't spoken here, nor is plain text.
    let config = hbone::client_config(&root, Some(&mesh.svid("far")), b"mesh-h2").unwrap();
    assert!(Peer::over(mesh.far.connect(mesh.cart.at(PORT)).unwrap(), config).is_err());
    let mut plain = mesh.far.connect(mesh.cart.at(PORT)).unwrap();
    plain.write_all(format!("CONNECT {} HTTP/1.1\r\nHost: x\r\n\r\n", mesh.cart.at(80)).as_bytes()).unwrap();
    let mut said = Vec::new();
    let _ = plain.read_to_end(&mut said);
    assert!(!said.starts_with(b"HTTP"), "{}", String::from_utf8_lossy(&said));
}

#[test]
fn policies_decide_before_the_application_hears_of_it() {
    let mesh = need_mesh!();
    let (bytes, requests) = (mesh.port(), mesh.port());
    let echo = echo_then_bye(&mesh.cart, bytes);
    let (server, seen): (Server, Seen) = echo_server(mesh.cart.listen(requests).unwrap(), "cart");
    mesh.expose("in-guarded", "tcp", bytes, &[&mesh.cart]);
    mesh.expose("in-guarded-http", "http", requests, &[&mesh.cart]);
    let rule = |account: &str, to: Value| {
        let source = json!({"principals": [format!("cluster.local/ns/{NAMESPACE}/sa/{account}")]});
        json!({"from": [{"source": source}], "to": [{"operation": to}]})
    };
    let ports = json!([bytes.to_string(), requests.to_string()]);
    let selector = json!({"matchLabels": {"app": "cart"}});
    // Denies at these ports alone: other tests' are in the same pod.
    let policy = |rules: Value| {
        authorization("guarded", json!({"selector": selector, "action": "DENY", "rules": rules}))
    };
    mesh.apply("authz.yaml", [policy(json!([rule("far", json!({"ports": ports}))]))]);
    let far = mesh.peer();
    let root = mesh.authority.root();
    let other = Peer::connect(&mesh.other, mesh.cart.at(PORT), &root, Some(&mesh.svid("other"))).unwrap();
    for port in [bytes, requests] {
        assert_eq!(far.open(mesh.cart.at(port), &[]).unwrap().status, 401, "{port}");
    }
    assert_eq!((echo.accepted(), server.accepted()), (0, 0), "nobody was connected");
    let line = mesh.log("denied", |line| {
        line["response_flags"] == "DENY" && line["destination_address"] == *mesh.cart.at(bytes).to_string()
    });
    assert_eq!(line["source_principal"], *id("far"), "{line}");
    let mut open = other.tunnel(mesh.cart.at(bytes)).unwrap();
    says(&mut open, SECRET);
    // Requests are judged one by one.
    let post = json!({"ports": [requests.to_string()], "methods": ["POST"]});
    mesh.apply(
        "authz.yaml",
        [policy(json!([rule("far", post), rule("other", json!({"ports": [bytes.to_string()]}))]))],
    );
    let mut client = Client::new(far.tunnel(mesh.cart.at(requests)).unwrap());
    assert_eq!(client.get("h", "/read").unwrap().status(), 200);
    let denied = client.ask("POST /write HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n").unwrap();
    assert_eq!((denied.status(), seen.of("/write").len()), (403, 0));
    // What is no longer allowed is closed.
    let mut rest = Vec::new();
    assert!(open.read_to_end(&mut rest).is_err(), "{}", String::from_utf8_lossy(&rest));
    mesh.apply("authz.yaml", []);
}

#[test]
fn it_counts_as_mutual_tls_and_is_refused_where_that_is_disabled() {
    let mesh = need_mesh!();
    let port = mesh.port();
    let server = echo_then_bye(&mesh.cart, port);
    mesh.expose("in-strict", "tcp", port, &[&mesh.cart]);
    mesh.apply("peers.yaml", [port_mode(port, "STRICT")]);
    let peer = mesh.peer();
    ends_with_bye(peer.tunnel(mesh.cart.at(port)).unwrap());
    assert_eq!(server.accepted(), 1);
    mesh.apply("peers.yaml", [port_mode(port, "DISABLE")]);
    assert_eq!(peer.open(mesh.cart.at(port), &[]).unwrap().status, 401);
    assert_eq!(server.accepted(), 1);
    let refused = [("reason", "mutual_tls_refused")];
    assert!(mesh.sum("mesh_agent_connections_refused_total", &refused) >= 1.0);
    mesh.apply("peers.yaml", []);
}

#[test]
fn an_application_that_is_down_is_told_as_such() {
    let mesh = need_mesh!();
    for (name, port_name) in [("in-down", "tcp"), ("in-down-http", "http"), ("in-down-undeclared", "")] {
        let port = mesh.port();
        mesh.expose(name, port_name, port, &[&mesh.cart]);
        let answer = mesh.peer().open(mesh.cart.at(port), &[]).unwrap();
        assert_eq!(answer.status, 503, "{port_name}");
        mesh.log("down", |line| {
            line["destination_address"] == *mesh.cart.at(port).to_string() && line["response_flags"] == "UF"
        });
    }
}

#[test]
fn a_client_that_nothing_is_known_of_is_named_by_its_baggage_as_far_as_its_identity_goes() {
    let mesh = need_mesh!();
    let port = mesh.port();
    let _server = echo_then_bye(&mesh.cart, port);
    mesh.expose("in-told", "tcp", port, &[&mesh.cart]);
    let outside = Host::new(&mesh.topology, mesh.topology.outsider("nameless").unwrap()).unwrap();
    let root = mesh.authority.root();
    let peer = Peer::connect(&outside, mesh.cart.at(PORT), &root, Some(&mesh.svid("nameless"))).unwrap();
    for baggage in [
        "k8s.namespace.name=shop,k8s.deployment.name=teller,service.name=till,service.version=v7",
        "k8s.namespace.name=bank,k8s.deployment.name=vault",
    ] {
        ends_with_bye(peer.open(mesh.cart.at(port), &[("baggage", baggage)]).unwrap().tunnel.unwrap());
    }
    let opened = |workload: &str, version: &str| {
        let labels = [
            ("destination_service_name", "in-told"),
            ("source_workload", workload),
            ("source_version", version),
            ("source_principal", &id("nameless")),
        ];
        mesh.sum("istio_tcp_connections_opened_total", &labels)
    };
    assert_eq!(
        (opened("teller", "v7"), opened("unknown", "unknown"), opened("vault", "latest")),
        (1.0, 1.0, 0.0)
    );
}

#[test]
fn an_agent_that_is_replaced_says_goaway_and_its_successor_listens() {
    let Some(options) = agent_options() else { return };
    let mut mesh = Mesh::start("hbone-drain", options);
    let port = mesh.port();
    let _server = echo_then_bye(&mesh.cart, port);
    mesh.expose("drained", "tcp", port, &[&mesh.cart]);
    let peer = mesh.peer();
    let mut tunnel = peer.tunnel(mesh.cart.at(port)).unwrap();
    says(&mut tunnel, SECRET);
    let (stop, asked) = (AtomicBool::new(false), AtomicU64::new(0));
    let (far, to, at) = (mesh.far.clone(), mesh.cart.at(PORT), mesh.cart.at(port));
    let (root, svid) = (mesh.authority.root(), mesh.svid("far"));
    // A connection of its own each time, as when a ztunnel begins: none fails.
    let begins = || {
        while !stop.load(Ordering::Relaxed) {
            let peer = Peer::connect(&far, to, &root, Some(&svid)).unwrap();
            says(&mut peer.tunnel(at).unwrap(), SECRET);
            asked.fetch_add(1, Ordering::Relaxed);
        }
    };
    let agent = &mut mesh.agent;
    let mut former = thread::scope(|scope| {
        let beginning = scope.spawn(begins);
        let grows = |more: u64| {
            let before = asked.load(Ordering::Relaxed);
            eventually(SOON, || {
                ensure!(beginning.is_finished() || asked.load(Ordering::Relaxed) > before + more, "no more");
                Ok(())
            })
            .unwrap();
        };
        grows(5);
        let former = agent.upgrade().unwrap();
        grows(20);
        stop.store(true, Ordering::Relaxed);
        beginning.join().unwrap();
        former
    });
    eventually(SOON, || {
        // The connection takes no more streams, and those on it go on.
        ensure!(peer.tunnel(mesh.cart.at(port)).is_err(), "no GOAWAY yet");
        Ok(())
    })
    .unwrap();
    says(&mut tunnel, b"still here");
    // The former may take a last connection; one that is the successor's is in its list.
    let (_successor, mut again) = eventually(SOON, || {
        let successor = mesh.peer();
        let tunnel = successor.tunnel(mesh.cart.at(port))?;
        let open = mesh.agent.cli_json(&["get", "connections"])?;
        ensure!(open.as_array().context("a list")?.iter().any(|line| line["protocol"] == "hbone"), "{open}");
        Ok((successor, tunnel))
    })
    .unwrap();
    says(&mut again, b"and again");
    ends_with_bye(tunnel);
    eventually(SOON, || peer.ended().map(drop).context("the connection is open still")).unwrap();
    eventually(SOON, || former.try_wait().map(drop).context("the former agent runs still")).unwrap();
    says(&mut again, b"to the end");
}
