//! Between two nodes: what goes over the wire, who is believed, and what both applications see.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "mtls/changes.rs"]
mod changes;
#[path = "mtls/impostors.rs"]
mod impostors;
#[path = "mtls/network.rs"]
mod network;
#[path = "mtls/refusals.rs"]
mod refusals;
#[path = "mtls/rotation.rs"]
mod rotation;
#[path = "mtls/same_node.rs"]
mod same_node;
#[path = "mtls/scene.rs"]
mod scene;
#[path = "mtls/tricks.rs"]
mod tricks;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::OnceLock;
use std::time::Instant;

use anyhow::ensure;
use mesh_tests::http1::{Client, echo_server};
use mesh_tests::http2::{H2Server, answer, collect, get, with_client};
use mesh_tests::lab::{Agent, Object, PodObject, eventually};
use mesh_tests::nodes::{Nodes, Wire};
use mesh_tests::pki::Authority;
use mesh_tests::policy::destination_rule;
use mesh_tests::server::Server;
use mesh_tests::shop::NAMESPACE;
use mesh_tests::{AT_ONCE, PATIENCE, SOON, agent_options, peers};

fn nodes() -> Option<&'static Nodes> {
    static NODES: OnceLock<Option<Nodes>> = OnceLock::new();
    NODES.get_or_init(|| Some(Nodes::start("mtls", &agent_options()?).expect("two nodes"))).as_ref()
}

macro_rules! need_nodes {
    () => {
        match nodes() {
            Some(nodes) => nodes,
            None => return,
        }
    };
}

/// Goes in plain text wherever it goes at all.
const SECRET: &[u8] = b"4111-1111-secret-marker";

/// The same for tests that send it in plain text beside the others.
const SHOWN: &[u8] = b"5500-0000-marker-for-all";

fn echo(mut stream: TcpStream) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(n @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..n]).is_err() {
            return;
        }
    }
}

fn ask(stream: &mut TcpStream, bytes: &[u8]) -> Vec<u8> {
    stream.write_all(bytes).unwrap();
    let mut answer = vec![0; bytes.len()];
    stream.read_exact(&mut answer).unwrap();
    answer
}

fn secret() -> String {
    String::from_utf8_lossy(SECRET).into_owned()
}

/// True of a line that both ends' identities are on.
fn is_proven(line: &serde_json::Value, server: &str) {
    assert_eq!(line["connection_security_policy"], "mutual_tls", "{line}");
    assert_eq!(line["source_principal"], "spiffe://cluster.local/ns/shop/sa/web", "{line}");
    assert_eq!(
        line["destination_principal"],
        format!("spiffe://cluster.local/ns/shop/sa/{server}"),
        "{line}"
    );
}

#[test]
fn requests_of_http1_are_secret_and_answered_as_before() {
    let nodes = need_nodes!();
    for (name, port_name) in [("h1", "http"), ("h1-undeclared", "")] {
        let port = nodes.port();
        let (server, seen) = echo_server(nodes.cart.listen(port).unwrap(), "cart");
        let service = nodes.expose(name, port_name, port, &[&nodes.cart]).unwrap();
        let wire = Wire::listen(&nodes.topology).unwrap();
        let mut client = Client::new(nodes.web.connect(service).unwrap());
        for _ in 0..3 {
            let answer =
                client.get_with(name, &format!("/{}", secret()), &format!("X-Card: {}", secret())).unwrap();
            assert_eq!(answer.status(), 200);
        }
        let body = format!("{}{}", secret(), "x".repeat(100_000));
        let request =
            format!("POST /{name} HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        assert_eq!(client.ask(request).unwrap().status(), 200);
        assert_eq!(seen.of(&format!("/{name}"))[0].body.len(), body.len());
        assert!(
            wire.frames() > 10 && wire.count(SECRET) == 0,
            "{} frames of {}",
            wire.count(SECRET),
            wire.frames()
        );
        assert!(server.peers().iter().all(|peer| peer.ip() == nodes.web.v4()), "{:?}", server.peers());
        for agent in [&nodes.near, &nodes.far] {
            let line =
                Nodes::log_shows(agent, name, |line| line["path"] == format!("/{name}").as_str()).unwrap();
            is_proven(&line, "cart");
            assert_eq!(
                (&line["response_code"], &line["response_flags"]),
                (&200.into(), &"-".into()),
                "{line}"
            );
        }
    }
}

#[test]
fn requests_of_http2_share_one_connection_and_are_secret() {
    let nodes = need_nodes!();
    let port = nodes.port();
    let server = H2Server::new(nodes.cart.listen(port).unwrap(), None, |request, mut respond| async move {
        let trailers = http::HeaderMap::from_iter([(
            http::HeaderName::from_static("x-path"),
            http::HeaderValue::from_str(request.uri().path()).unwrap(),
        )]);
        let (body, _) = collect(request.into_body()).await.unwrap();
        answer(&mut respond, body, Some(trailers));
    });
    let service = nodes.expose("h2", "http2", port, &[&nodes.cart]).unwrap();
    let wire = Wire::listen(&nodes.topology).unwrap();
    let path = format!("/{}", secret());
    with_client(nodes.web.connect(service).unwrap(), |client| async move {
        for _ in 0..20 {
            let answer = get(&client, "h2", &path).await?;
            ensure!(
                answer.head.status == 200 && answer.trailers.is_some_and(|t| t["x-path"] == path),
                "{:?}",
                answer.head
            );
        }
        Ok(())
    })
    .unwrap();
    assert!(wire.frames() > 10 && wire.count(SECRET) == 0);
    assert_eq!(server.accepted(), 1);
    let open = nodes.far.cli_json(&["get", "connections"]).unwrap();
    let of_it = |line: &&serde_json::Value| line["destination"] == nodes.cart.at(port).to_string();
    let lines: Vec<_> = open.as_array().unwrap().iter().filter(of_it).collect();
    assert_eq!(lines.len(), 1, "{open}");
    assert_eq!((&lines[0]["protocol"], &lines[0]["requests"]), (&"mesh".into(), &20.into()), "{open}");
    assert_eq!(lines[0]["peer"], "spiffe://cluster.local/ns/shop/sa/web", "{open}");
    nodes
        .far
        .wait_metrics(SOON, |metrics| {
            let labels = [
                ("destination_service_name", "h2"),
                ("reporter", "destination"),
                ("connection_security_policy", "mutual_tls"),
                ("source_principal", "spiffe://cluster.local/ns/shop/sa/web"),
                ("destination_principal", "spiffe://cluster.local/ns/shop/sa/cart"),
            ];
            let count = metrics.sum("istio_requests_total", &labels);
            ensure!(count == 20.0, "{count}");
            Ok(())
        })
        .unwrap();
}

#[test]
fn grpc_in_every_form_passes_between_nodes() {
    let nodes = need_nodes!();
    let port = nodes.port();
    let args = ["server", &port.to_string()];
    let _server = peers::python_server(&nodes.topology, &nodes.cart, "grpc_echo.py", &args).unwrap();
    let service = nodes.expose("grpc", "grpc", port, &[&nodes.cart]).unwrap();
    let client = peers::python_script(&nodes.topology, &nodes.web, "grpc_echo.py").unwrap();
    client.args(["client", &service.to_string()]).run(PATIENCE * 2).unwrap().success().unwrap();
    nodes
        .far
        .wait_metrics(SOON, |metrics| {
            let labels = [
                ("destination_service_name", "grpc"),
                ("request_protocol", "grpc"),
                ("connection_security_policy", "mutual_tls"),
            ];
            ensure!(metrics.sum("istio_requests_total", &labels) > 0.0, "none");
            Ok(())
        })
        .unwrap();
}

#[test]
fn opaque_bytes_are_secret_and_every_end_is_carried() {
    let nodes = need_nodes!();
    let port = nodes.port();
    let server = Server::new(nodes.cart.listen(port).unwrap(), |stream, _| echo(stream));
    let service = nodes.expose("opaque", "tcp", port, &[&nodes.cart]).unwrap();
    let wire = Wire::listen(&nodes.topology).unwrap();
    let mut stream = nodes.web.connect(service).unwrap();
    let from = stream.local_addr().unwrap();
    assert_eq!(ask(&mut stream, SECRET), SECRET);
    let megabyte = SECRET.repeat(64 * 1024);
    let mut writer = stream.try_clone().unwrap();
    let sent = megabyte.clone();
    let sending = std::thread::spawn(move || {
        writer.write_all(&sent).and_then(|()| writer.shutdown(Shutdown::Write)).unwrap()
    });
    let mut got = Vec::new();
    stream.read_to_end(&mut got).unwrap();
    sending.join().unwrap();
    assert!(got == megabyte, "{} of {} bytes", got.len(), megabyte.len());
    assert!(wire.frames() > 100 && wire.count(SECRET) == 0);
    // accept(2) said who it is, with the port that the application's own socket has.
    assert_eq!(server.peers(), [SocketAddr::new(nodes.web.v4().into(), from.port())]);
    for agent in [&nodes.near, &nodes.far] {
        let line = Nodes::log_shows(agent, "opaque", |line| {
            line["destination_service"] == "opaque.shop.svc.cluster.local"
                && line["bytes_received"] == megabyte.len() + SECRET.len()
        })
        .unwrap();
        is_proven(&line, "cart");
        assert_eq!(line["response_flags"], "-", "{line}");
    }
    // A reset of the client reaches the server as one.
    let stream = nodes.web.connect(service).unwrap();
    eventually(SOON, || {
        ensure!(server.open() == 1, "{}", server.open());
        Ok(())
    })
    .unwrap();
    mesh_tests::server::reset(stream);
    eventually(SOON, || {
        ensure!(server.open() == 0, "{}", server.open());
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_server_that_speaks_first_waits_for_no_timer() {
    let nodes = need_nodes!();
    for (name, port_name) in [("smtp", "tcp"), ("smtp-undeclared", "")] {
        let port = nodes.port();
        let _server = Server::new(nodes.cart.listen(port).unwrap(), |mut stream, _| {
            stream.write_all(b"220 hello ").unwrap();
            stream.write_all(SECRET).unwrap();
            echo(stream);
        });
        let service = nodes.expose(name, port_name, port, &[&nodes.cart]).unwrap();
        let wire = Wire::listen(&nodes.topology).unwrap();
        // The first connection shakes hands.
        for _ in 0..2 {
            let begun = Instant::now();
            let mut stream = nodes.web.connect(service).unwrap();
            let mut greeting = vec![0; 10 + SECRET.len()];
            stream.read_exact(&mut greeting).unwrap();
            assert!(begun.elapsed() < AT_ONCE / 8, "{:?}", begun.elapsed());
            assert_eq!(ask(&mut stream, SECRET), SECRET);
        }
        assert_eq!(wire.count(SECRET), 0, "{name}");
    }
}

#[test]
fn tls_of_the_applications_own_is_passed_through_unopened() {
    let nodes = need_nodes!();
    let authority = Authority::new(nodes.topology.scratch(), "own").unwrap();
    let signed = authority.issue("pay.example", &["pay.example"]).unwrap();
    let port = nodes.port();
    let _server = nodes
        .cart
        .command("openssl")
        .args(["s_server", "-quiet", "-rev", "-accept", &port.to_string(), "-cert"])
        .arg(&signed.certificate)
        .arg("-key")
        .arg(&signed.key)
        .start()
        .unwrap();
    eventually(SOON, || Ok(nodes.cart.connect(([127, 0, 0, 1], port).into()).map(drop)?)).unwrap();
    let service = nodes.expose("pay", "https", port, &[&nodes.cart]).unwrap();
    let wire = Wire::listen(&nodes.topology).unwrap();
    let client = nodes.web.command("sh").args(["-c", &format!(
        "(echo abc; sleep 1) | timeout 5 openssl s_client -quiet -connect {service} -servername pay.example -verify_return_error -CAfile {}",
        authority.file().display()
    )]);
    let out = client.run(PATIENCE).unwrap();
    assert!(out.stdout.contains("cba"), "{out:?}");
    // Not even the server's name is there to be read.
    assert_eq!(wire.count(b"pay.example"), 0);
    for agent in [&nodes.near, &nodes.far] {
        let line =
            Nodes::log_shows(agent, "pay.example", |line| line["requested_server_name"] == "pay.example")
                .unwrap();
        is_proven(&line, "cart");
    }
}

#[test]
fn a_pod_that_is_called_by_its_own_address_is_reached_in_secret_too() {
    let nodes = need_nodes!();
    let port = nodes.port();
    let server = Server::new(nodes.cart.listen(port).unwrap(), |stream, _| echo(stream));
    let web = nodes.port();
    let (_http, seen) = echo_server(nodes.cart.listen(web).unwrap(), "cart");
    let wire = Wire::listen(&nodes.topology).unwrap();
    for to in [nodes.cart.at(port), nodes.cart.at6(port)] {
        let mut stream = nodes.web.connect(to).unwrap();
        assert_eq!(ask(&mut stream, SECRET), SECRET);
        assert_eq!(stream.peer_addr().unwrap(), to);
    }
    assert_eq!(server.accepted(), 2);
    let mut client = Client::new(nodes.web.connect(nodes.cart.at(web)).unwrap());
    assert_eq!(client.get("direct", &format!("/{}", secret())).unwrap().status(), 200);
    assert_eq!((seen.count(), wire.count(SECRET)), (1, 0));
}

#[test]
fn on_one_node_nothing_is_encrypted_and_strangers_are_served_in_plain_text() {
    let nodes = need_nodes!();
    let port = nodes.port();
    let _near = Server::new(nodes.shelf.listen(port).unwrap(), |stream, _| echo(stream));
    let _far = Server::new(nodes.cart.listen(port).unwrap(), |stream, _| echo(stream));
    let service = nodes.expose("shelf", "tcp", port, &[&nodes.shelf]).unwrap();
    let wire = Wire::listen(&nodes.topology).unwrap();
    assert_eq!(ask(&mut nodes.web.connect(service).unwrap(), SHOWN), SHOWN);
    eventually(SOON, || {
        ensure!(wire.count(SHOWN) > 0, "the wire shows what is in plain text");
        Ok(())
    })
    .unwrap();
    assert_eq!(ask(&mut nodes.outside.connect(nodes.cart.at(port)).unwrap(), SHOWN), SHOWN);
}

#[test]
fn a_rule_turns_it_off_and_insists_on_it() {
    let nodes = need_nodes!();
    let port = nodes.port();
    let _server = Server::new(nodes.cart.listen(port).unwrap(), |stream, _| echo(stream));
    let _plain = Server::new(nodes.outside.listen(port).unwrap(), |stream, _| echo(stream));
    let service = nodes.expose("ruled", "tcp", port, &[&nodes.cart]).unwrap();
    let rule = |mode: &str| {
        let rule = destination_rule(NAMESPACE, "ruled", &format!("{{tls: {{mode: {mode}}}}}")).unwrap();
        nodes.topology.mesh().write("rule-ruled.yaml", [rule]).unwrap();
    };
    rule("DISABLE");
    eventually(SOON, || {
        let wire = Wire::listen(&nodes.topology)?;
        ensure!(ask(&mut nodes.web.connect(service)?, SHOWN) == SHOWN);
        ensure!(wire.count(SHOWN) > 0, "still encrypted");
        Ok(())
    })
    .unwrap();
    rule("ISTIO_MUTUAL");
    eventually(SOON, || {
        let wire = Wire::listen(&nodes.topology)?;
        ensure!(ask(&mut nodes.web.connect(service)?, SHOWN) == SHOWN);
        ensure!(wire.count(SHOWN) == 0, "still in plain text");
        Ok(())
    })
    .unwrap();
}

/// A pod of a third node, on which no agent is, that the configuration says is enrolled.
fn impostor(nodes: &Nodes, name: &str, account: &str) -> mesh_tests::sockets::Host {
    let node = nodes.topology.node(&format!("node-{name}")).unwrap();
    let pod = mesh_tests::sockets::Host::new(&nodes.topology, node.pod(name).unwrap()).unwrap();
    let object = PodObject::of(&pod, NAMESPACE).service_account(account);
    nodes.topology.mesh().write(&format!("pod-{name}.yaml"), [Object::from(object)]).unwrap();
    pod
}

fn log_has(agent: &Agent, texts: &[&str]) {
    eventually(SOON, || {
        let log = agent.log();
        ensure!(
            log.lines().any(|line| texts.iter().all(|text| line.contains(text))),
            "{texts:?} in no line of:\n{log}"
        );
        Ok(())
    })
    .unwrap();
}

#[test]
fn what_says_it_is_enrolled_and_is_not_is_never_spoken_to_in_plain_text() {
    let nodes = need_nodes!();
    let port = nodes.port();
    let bare = impostor(nodes, "bare", "bare");
    let heard = Server::new(bare.listen(port).unwrap(), |mut stream, _| {
        let mut all = Vec::new();
        let _ = stream.read_to_end(&mut all);
        assert!(!all.windows(SECRET.len()).any(|window| window == SECRET));
    });
    let service = nodes.expose("bare", "http", port, &[&bare]).unwrap();
    let begun = Instant::now();
    let wire = Wire::listen(&nodes.topology).unwrap();
    let answer =
        Client::new(nodes.web.connect(service).unwrap()).get("bare", &format!("/{}", secret())).unwrap();
    assert_eq!(answer.status(), 503);
    assert!(begun.elapsed() < PATIENCE);
    assert_eq!(wire.count(SECRET), 0);
    assert!(heard.accepted() > 0, "it was tried");
    let line = Nodes::log_shows(&nodes.near, "bare", |line| {
        line["destination_service"] == "bare.shop.svc.cluster.local"
    })
    .unwrap();
    assert_eq!(line["response_flags"], "UF", "{line}");
    log_has(&nodes.near, &["no mutual TLS", "shop/web", "shop/bare"]);
}

#[test]
fn a_server_with_a_certificate_of_somebody_elses_is_refused() {
    let nodes = need_nodes!();
    let authority = Authority::new(nodes.topology.scratch(), "foreign").unwrap();
    let signed = authority.issue("impostor", &["impostor.example"]).unwrap();
    let port = nodes.port();
    let fake = impostor(nodes, "fake", "cart");
    let _server = fake
        .command("openssl")
        .args(["s_server", "-quiet", "-alpn", "mesh-h2", "-accept", &port.to_string(), "-cert"])
        .arg(&signed.certificate)
        .arg("-key")
        .arg(&signed.key)
        .start()
        .unwrap();
    eventually(SOON, || Ok(fake.connect(([127, 0, 0, 1], port).into()).map(drop)?)).unwrap();
    let service = nodes.expose("fake", "tcp", port, &[&fake]).unwrap();
    let before = Nodes::handshakes(&nodes.near, "outbound", "unknown_root");
    // The reset may come before connect(2) has returned.
    if let Ok(mut stream) = nodes.web.connect(service) {
        let _ = stream.write_all(SECRET);
        assert!(stream.read(&mut [0]).is_err());
    }
    scene::counted(&nodes.near, "outbound", "unknown_root", before);
    let line = Nodes::log_shows(&nodes.near, "fake", |line| {
        line["destination_service"] == "fake.shop.svc.cluster.local"
    })
    .unwrap();
    assert_eq!(
        (&line["response_flags"], &line["response_code_details"]),
        (&"UF".into(), &"certificate_refused".into()),
        "{line}"
    );
    log_has(&nodes.near, &["no mutual TLS", "shop/web", "shop/fake", "unknown_root"]);
}

#[test]
fn a_client_that_cannot_prove_itself_is_refused_counted_and_told() {
    let nodes = need_nodes!();
    let authority = Authority::new(nodes.topology.scratch(), "stranger").unwrap();
    let signed = authority.issue("stranger", &["stranger.example"]).unwrap();
    let port = nodes.port();
    let server = Server::new(nodes.till.listen(port).unwrap(), |stream, _| echo(stream));
    let (certificate, key) = (signed.certificate.to_str().unwrap(), signed.key.to_str().unwrap());
    let attempts: [(&str, &[&str]); 3] = [
        ("no_certificate", &[]),
        ("unknown_root", &["-cert", certificate, "-key", key]),
        ("incompatible", &["-tls1_2", "-cert", certificate, "-key", key]),
    ];
    for (result, args) in attempts {
        let before = Nodes::handshakes(&nodes.far, "inbound", result);
        let to = nodes.till.at(port).to_string();
        let command = nodes
            .outside
            .command("openssl")
            .args(["s_client", "-quiet", "-alpn", "mesh-h2", "-connect", &to]);
        let _ = command.args(args).run(PATIENCE).unwrap();
        nodes
            .far
            .wait_metrics(SOON, |metrics| {
                let labels = [("direction", "inbound"), ("result", result)];
                let now = metrics.sum("mesh_agent_mesh_handshakes_total", &labels);
                ensure!(now >= before + 1.0, "{result}: {now}");
                Ok(())
            })
            .unwrap();
    }
    let line = Nodes::log_shows(&nodes.far, "refused", |line| {
        line["response_code_details"] == "peer_certificate_refused"
    })
    .unwrap();
    assert_eq!(line["response_flags"], "DPE", "{line}");
    log_has(&nodes.far, &["a client that speaks as an agent is refused", "shop/till"]);
    // At most the undeclared port's own connection, on which nothing was said.
    assert!(server.peers().iter().all(|peer| peer.ip() == nodes.outside.v4()));
    // Without the agents' ALPN it is TLS of the application's own.
    assert_eq!(ask(&mut nodes.outside.connect(nodes.till.at(port)).unwrap(), SHOWN), SHOWN);
}

#[test]
fn the_in_pod_ports_lead_nowhere_from_another_host() {
    let nodes = need_nodes!();
    for port in [15001, 15006, 15008] {
        // Only that for HBONE takes connections, of those who prove who they are.
        let outside = nodes.outside.connect(nodes.cart.at(port));
        assert_eq!(outside.is_ok(), port == 15008, "{port}");
        // From an enrolled pod its own agent dials, as what it is, and comes no further.
        for mut stream in outside.into_iter().chain(nodes.web.connect(nodes.cart.at(port))) {
            let _ = stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer);
            // At most its own agent's answer, that nothing is there.
            assert!(!answer.starts_with(b"HTTP/1.1 200"), "{port}: {}", String::from_utf8_lossy(&answer));
        }
    }
}
