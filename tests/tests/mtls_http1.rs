//! HTTP/1 between two nodes: multiplexed as HTTP/2 in mutual TLS, and what either end sees is what the other one sent.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::OnceLock;

use anyhow::ensure;
use http::{HeaderMap, HeaderValue, Request};
use mesh_tests::http1::{Client, Seen, echo_server};
use mesh_tests::http2::{H2Server, answer, collect, whole, with_client};
use mesh_tests::lab::{Agent, Object, eventually};
use mesh_tests::nodes::{Nodes, Wire};
use mesh_tests::policy::traffic_policy;
use mesh_tests::server::Server;
use mesh_tests::shop::NAMESPACE;
use mesh_tests::sockets::Host;
use mesh_tests::{PATIENCE, SOON, agent_options, peers};
use serde_json::json;

fn nodes() -> Option<&'static Nodes> {
    static NODES: OnceLock<Option<Nodes>> = OnceLock::new();
    let options = || Some(agent_options()?.flag("workers", "1"));
    NODES.get_or_init(|| Some(Nodes::start("mtlshttp1", &options()?).expect("two nodes"))).as_ref()
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
const SECRET: &str = "4111-1111-secret-of-http1";

/// An echo server on the other node and a service over it.
fn serve(nodes: &Nodes, host: &Host, name: &str) -> (Server, Seen, SocketAddr, u16) {
    let port = nodes.port();
    let (server, seen) = echo_server(host.listen(port).unwrap(), name);
    let service = nodes.expose(name, "http", port, &[host]).unwrap();
    (server, seen, service, port)
}

fn client(nodes: &Nodes, service: SocketAddr) -> Client {
    Client::new(nodes.web.connect(service).unwrap())
}

/// A head without the id that agents add.
fn without_id(head: &str) -> String {
    head.split_inclusive("\r\n").filter(|line| !line.starts_with("x-request-id: ")).collect()
}

#[test]
fn requests_and_responses_arrive_as_they_were_sent() {
    let nodes = need_nodes!();
    let (_server, seen, service, _) = serve(nodes, &nodes.cart, "spelled");
    let wire = Wire::listen(&nodes.topology).unwrap();
    for request in [
        format!("GET /head?{SECRET} HTTP/1.1\r\nhOST: a:80\r\nX-b: 1\r\nCOOKIE: c\r\nX-B: 2\r\n\r\n"),
        "POST http://a/echo HTTP/1.1\r\nHost: A:80\r\nContent-LENGTH: 5\r\n\r\nhello".to_owned(),
        "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        "GET /old HTTP/1.0\r\nX-A: 1\r\n\r\n".to_owned(),
    ] {
        let answer = client(nodes, service).ask(&request).unwrap();
        assert_eq!((answer.start_line(), answer.status()), ("HTTP/1.1 200 Reason", 200), "{request}");
        assert!(answer.head.contains("\r\nX-Kept: As-Is\r\n"), "{}", answer.head);
        let got = seen.all().pop().unwrap();
        let head = &request[..request.find("\r\n\r\n").unwrap() + 4];
        assert_eq!(without_id(&got.head), head);
    }
    let chunked = "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-SUM: 3\r\n\r\n";
    let answer = client(nodes, service).ask(chunked).unwrap();
    assert_eq!((answer.text().as_str(), &answer.trailers[..]), ("abc", &["X-SUM: 3".to_owned()][..]));
    assert_eq!(seen.of("/echo").pop().unwrap().trailers, ["X-SUM: 3"]);
    eventually(SOON, || {
        ensure!(wire.frames() > 10, "nothing was heard");
        Ok(())
    })
    .unwrap();
    assert_eq!(wire.count(SECRET.as_bytes()), 0);
}

#[test]
fn every_end_of_a_response_is_what_it_is() {
    let nodes = need_nodes!();
    let (_server, _, service, _) = serve(nodes, &nodes.cart, "ends");
    let ask = |path: &str| client(nodes, service).get("a", path);
    let chunked = ask("/chunked").unwrap();
    assert_eq!(
        (chunked.text().as_str(), &chunked.trailers[..]),
        ("onetwothree", &["X-Sum: 11".to_owned()][..])
    );
    let close = ask("/close").unwrap();
    assert_eq!((close.text().as_str(), close.header("connection")), ("until the end", Some("close")));
    assert_eq!(ask("/status/204").unwrap().status(), 204);
    let mut early = client(nodes, service);
    assert_eq!(early.get("a", "/early").unwrap().status(), 103);
    assert_eq!(early.read().unwrap().unwrap().status(), 200);
    assert_eq!(ask("/reset").unwrap().status(), 503);
    let mut head = client(nodes, service);
    head.send("HEAD /bytes/1234 HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    assert_eq!(head.read_bodiless().unwrap().unwrap().header("content-length"), Some("1234"));
    assert_eq!(head.get("a", "/").unwrap().status(), 200);
}

#[test]
fn an_application_that_ends_within_its_response_is_seen_to_end_just_so() {
    let nodes = need_nodes!();
    let (_server, _, service, _) = serve(nodes, &nodes.cart, "unfinished");
    // At once, so that the end is known before the head has left for the client's agent; often, as it is a matter of luck.
    for _ in 0..20 {
        for (path, body) in [("/cut", "only this"), ("/cutchunk", "4\r\npart\r\n")] {
            let mut client = client(nodes, service);
            client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")).unwrap();
            let all =
                client.read_all().unwrap_or_else(|error| panic!("{path} isn't ended in order: {error}"));
            let all = String::from_utf8(all).unwrap();
            let (head, rest) = all.split_once("\r\n\r\n").unwrap();
            assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{path}: {head}");
            assert_eq!(rest, body, "{path}");
        }
        let reset = client(nodes, service).get("a", "/cutreset").unwrap_err();
        assert_eq!(reset.kind(), ErrorKind::ConnectionReset);
    }
}

#[test]
fn clients_share_a_connection_between_nodes() {
    let nodes = need_nodes!();
    let (server, _, service, _) = serve(nodes, &nodes.till, "shared");
    let before = Nodes::handshakes(&nodes.near, "outbound", "ok");
    let mut clients: Vec<_> = (0..8).map(|_| client(nodes, service)).collect();
    for _ in 0..3 {
        for client in &mut clients {
            assert_eq!(client.get("a", "/").unwrap().status(), 200);
        }
    }
    let made = Nodes::handshakes(&nodes.near, "outbound", "ok") - before;
    assert!(made >= 1.0, "nothing went over mutual TLS");
    // Others of this file make theirs meanwhile, to another pod.
    assert!(made < 8.0, "{made} handshakes for eight clients");
    // The application's connections are kept for the next request.
    assert!(server.peers().len() < 24, "{:?}", server.peers());
}

#[test]
fn curl_uploads_and_downloads() {
    let nodes = need_nodes!();
    let (_server, _, service, _) = serve(nodes, &nodes.cart, "curled");
    let file = nodes.topology.scratch().join("upload");
    std::fs::write(&file, vec![b'n'; 300_000]).unwrap();
    let upload = format!("@{}", file.display());
    let url = |path: &str| format!("http://{service}{path}");
    assert_eq!(nodes.web.curl(&["--data-binary", &upload, &url("/echo")]).unwrap().len(), 300_000);
    let chunked =
        nodes.web.curl(&["-H", "Transfer-Encoding: chunked", "--data-binary", &upload, &url("/echo")]);
    assert_eq!(chunked.unwrap().len(), 300_000);
    let waits = nodes.web.curl(&["-H", "Expect: 100-continue", "--data-binary", &upload, &url("/echo")]);
    assert_eq!(waits.unwrap().len(), 300_000);
    assert_eq!(nodes.web.curl(&[&url("/bytes/2000000")]).unwrap().len(), 2_000_000);
    assert_eq!(nodes.web.curl(&["--http1.0", &url("/close")]).unwrap(), "until the end");
}

#[test]
fn a_switch_of_protocols_goes_through_as_it_is() {
    let nodes = need_nodes!();
    let (_server, seen, service, _) = serve(nodes, &nodes.cart, "switched");
    let mut client = client(nodes, service);
    let request = "GET /upgrade HTTP/1.1\r\nHost: u\r\nUPGRADE: websocket\r\nConnection: Upgrade\r\n\r\n";
    let answer = client.ask(request).unwrap();
    assert_eq!((answer.status(), answer.header("upgrade")), (101, Some("websocket")));
    assert_eq!(without_id(&seen.all().pop().unwrap().head).matches("UPGRADE: websocket\r\n").count(), 1);
    client.send("\x00raw bytes\r\n\r\n").unwrap();
    assert_eq!(client.read_bytes(13).unwrap(), b"\x00raw bytes\r\n\r"[..].to_vec());
    client.stream().shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.read_all().unwrap(), b"\n");
}

#[test]
fn a_websocket_of_a_real_library_works_both_ways() {
    let nodes = need_nodes!();
    let port = nodes.port();
    let args = ["server", &port.to_string()];
    let _server = peers::python_server(&nodes.topology, &nodes.cart, "websocket.py", &args).unwrap();
    let service = nodes.expose("websocket", "http", port, &[&nodes.cart]).unwrap();
    let script = peers::python_script(&nodes.topology, &nodes.web, "websocket.py").unwrap();
    let url = format!("ws://{service}/chat");
    let output = script.args(["client", &url]).run(PATIENCE * 2).unwrap().success().unwrap();
    assert_eq!(output.stdout.trim(), "echoed 4 messages, closed 1000");
}

#[test]
fn strict_takes_agents_alone_and_a_disabled_port_is_spoken_to_in_plain_text() {
    let nodes = need_nodes!();
    let (_strict, _, service, port) = serve(nodes, &nodes.till, "strict");
    let (_plain, _, disabled, disabled_port) = serve(nodes, &nodes.till, "disabled");
    let spec = json!({
        "selector": {"matchLabels": {"app": "till"}},
        "mtls": {"mode": "STRICT"},
        "portLevelMtls": {disabled_port.to_string(): {"mode": "DISABLE"}},
    });
    let metadata = json!({"name": "till", "namespace": NAMESPACE});
    let api = "security.istio.io/v1";
    let object = json!({"apiVersion": api, "kind": "PeerAuthentication", "metadata": metadata, "spec": spec});
    nodes.topology.mesh().write("peer-till.yaml", [Object(object)]).unwrap();
    for agent in [&nodes.near, &nodes.far] {
        eventually(SOON, || {
            let pod = agent.cli_json(&["describe", "pod", &format!("{NAMESPACE}/till")])?;
            ensure!(pod["pod"]["mtls"][1]["mode"] == "DISABLE", "{pod}");
            Ok(())
        })
        .unwrap();
    }
    assert_eq!(client(nodes, service).get("a", "/").unwrap().status(), 200);
    let mut stranger = nodes.outside.connect(nodes.till.at(port)).unwrap();
    stranger.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let ended = stranger.read(&mut [0]).unwrap_err();
    assert_eq!(ended.kind(), ErrorKind::ConnectionReset);
    let wire = Wire::listen(&nodes.topology).unwrap();
    // Not the marker that other tests look for meanwhile.
    let shown = "/5500-0000-shown-to-all";
    assert_eq!(client(nodes, disabled).get("a", shown).unwrap().status(), 200);
    eventually(SOON, || {
        ensure!(wire.count(shown.as_bytes()) > 0, "it was to go in plain text");
        Ok(())
    })
    .unwrap();
    let answer =
        Client::new(nodes.outside.connect(nodes.till.at(disabled_port)).unwrap()).get("a", "/").unwrap();
    assert_eq!(answer.status(), 200);
}

const CERT: &str = "x-forwarded-client-cert";
const FORGED: &str = "X-Forwarded-Client-Cert: By=a;URI=spiffe://cluster.local/ns/shop/sa/admin";

/// As [`nodes`], where applications are told of their clients' certificates.
fn telling_nodes() -> Option<&'static Nodes> {
    static NODES: OnceLock<Option<Nodes>> = OnceLock::new();
    let options = || {
        let told = ("forward-client-cert-details", "SANITIZE_SET");
        Some(agent_options()?.flag("workers", "1").flag(told.0, told.1))
    };
    NODES.get_or_init(|| Some(Nodes::start("clientcert", &options()?).expect("two nodes"))).as_ref()
}

/// What the application got under that name when a client on `stream` forged it, spelled in more than one way.
fn told_of_forgery(stream: TcpStream, path: &str) -> Vec<String> {
    let underscored = FORGED.replacen('-', "_", 3);
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: a\r\n{FORGED}\r\nX-B: 1\r\n{underscored}\r\n{}\r\n\r\n",
        FORGED.to_lowercase()
    );
    let answer = Client::new(stream).ask(request).unwrap();
    assert_eq!(answer.status(), 200);
    let got = mesh_tests::http1::Message { head: answer.text(), ..Default::default() };
    assert_eq!((got.headers("x-b"), got.headers(&CERT.replace('-', "_"))), (vec!["1"], vec![]));
    got.headers(CERT).into_iter().map(str::to_owned).collect()
}

/// True of a header that says `web` was the client of `server`.
fn tells_of_web(told: &[String], server: &str) {
    let account = |name| format!("spiffe://cluster.local/ns/{NAMESPACE}/sa/{name}");
    let [told] = told else { panic!("{told:?}") };
    let rest =
        told.strip_prefix(&format!("By={};Hash=", account(server))).unwrap_or_else(|| panic!("{told}"));
    let (hash, rest) = rest.split_at(64);
    assert!(hash.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')), "{told}");
    assert_eq!(rest, format!(";Subject=\"\";URI={}", account("web")));
}

/// An HTTP/2 server that answers with what it got under that name: in the head, and in the trailers.
fn telling_h2(host: &Host, port: u16) -> H2Server {
    H2Server::new(host.listen(port).unwrap(), None, |request, mut respond| async move {
        let said = |headers: &HeaderMap| {
            let values = headers.iter().filter(|(name, _)| name.as_str().replace('_', "-") == CERT);
            values.map(|(_, value)| format!("{}\n", value.to_str().unwrap())).collect::<String>()
        };
        let (head, body) = request.into_parts();
        let (_, trailers) = collect(body).await.unwrap();
        let trailers = trailers.unwrap();
        assert!(trailers.contains_key("x-sum"));
        answer(&mut respond, said(&head.headers) + &said(&trailers), None);
    })
}

fn told_over_h2(stream: TcpStream) -> Vec<String> {
    with_client(stream, |client| async move {
        let value = HeaderValue::from_static("URI=spiffe://cluster.local/ns/shop/sa/admin");
        let mut request = Request::post("http://a/").body(())?;
        request.headers_mut().append(CERT, value.clone());
        request.headers_mut().append("x_forwarded_client_cert", value.clone());
        let (response, mut body) = client.ready().await?.send_request(request, false)?;
        body.send_data("body".into(), false)?;
        let trailers = [(CERT, value), ("x-sum", HeaderValue::from_static("4"))];
        body.send_trailers(
            trailers.map(|(name, value)| (name.parse().unwrap(), value)).into_iter().collect(),
        )?;
        let told = whole(response.await?).await?;
        Ok(String::from_utf8(told.body)?.lines().map(str::to_owned).collect())
    })
    .unwrap()
}

#[test]
fn no_client_says_of_itself_what_a_certificate_would() {
    let nodes = need_nodes!();
    for (host, name) in [(&nodes.cart, "forged"), (&nodes.shelf, "forged-near")] {
        let (_server, _, service, port) = serve(nodes, host, name);
        assert_eq!(told_of_forgery(nodes.web.connect(service).unwrap(), "/head"), [""; 0]);
        assert_eq!(told_of_forgery(nodes.web.connect(host.at(port)).unwrap(), "/head"), [""; 0]);
        assert_eq!(told_of_forgery(nodes.outside.connect(host.at(port)).unwrap(), "/head"), [""; 0]);
        let trailing = format!(
            "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n{FORGED}\r\n\r\n"
        );
        let answer = client(nodes, service).ask(trailing).map(|answer| answer.status());
        assert!(!matches!(answer, Ok(200)), "{answer:?}");
        let port = nodes.port();
        let _server = telling_h2(host, port);
        let service = nodes.expose(&format!("{name}-h2"), "http2", port, &[host]).unwrap();
        assert_eq!(told_over_h2(nodes.web.connect(service).unwrap()), [""; 0]);
        assert_eq!(told_over_h2(nodes.outside.connect(host.at(port)).unwrap()), [""; 0]);
    }
}

#[test]
fn applications_are_told_of_the_certificate_that_their_client_has_proven_itself_with() {
    let Some(nodes) = telling_nodes() else { return };
    let mut hashes = Vec::new();
    for (host, account) in [(&nodes.cart, "cart"), (&nodes.shelf, "shelf")] {
        let (_server, seen, service, port) = serve(nodes, host, account);
        for address in [service, host.at(port)] {
            let told = told_of_forgery(nodes.web.connect(address).unwrap(), "/head");
            tells_of_web(&told, account);
            hashes.extend(told[0].split(';').nth(1).map(str::to_owned));
        }
        // A stranger has proven nothing.
        assert_eq!(told_of_forgery(nodes.outside.connect(host.at(port)).unwrap(), "/head"), [""; 0]);
        // What leaves HTTP behind goes another way between nodes.
        let upgrade = format!(
            "GET /upgrade HTTP/1.1\r\nHost: u\r\nUpgrade: websocket\r\nConnection: Upgrade, {CERT}\r\n{FORGED}\r\n\r\n"
        );
        assert_eq!(client(nodes, service).ask(upgrade).unwrap().status(), 101);
        let got = seen.of("/upgrade").pop().unwrap();
        tells_of_web(&got.headers(CERT).into_iter().map(str::to_owned).collect::<Vec<_>>(), account);
        let port = nodes.port();
        let _server = telling_h2(host, port);
        let service = nodes.expose(&format!("{account}-h2"), "http2", port, &[host]).unwrap();
        tells_of_web(&told_over_h2(nodes.web.connect(service).unwrap()), account);
        assert_eq!(told_over_h2(nodes.outside.connect(host.at(port)).unwrap()), [""; 0]);
    }
    hashes.dedup();
    assert_eq!(hashes.len(), 1, "one certificate has one hash, on the same node too: {hashes:?}");
}

/// What an agent says of the only endpoint of a service.
fn state(agent: &Agent, service: &str) -> anyhow::Result<(String, String)> {
    let listed = agent.cli_json(&["get", "endpoints", "--service", service])?;
    let text = |field: &str| listed[0][field].as_str().unwrap_or_default().to_owned();
    Ok((text("state"), text("unhealthy")))
}

fn becomes(agent: &Agent, service: &str, wanted: (&str, &str)) {
    eventually(PATIENCE, || {
        let found = state(agent, service)?;
        ensure!((found.0.as_str(), found.1.as_str()) == wanted, "{found:?}");
        Ok(())
    })
    .unwrap();
}

#[test]
fn health_checks_reach_a_strict_port_of_another_node_as_requests_do() {
    let Some(nodes) = telling_nodes() else { return };
    let (port, bytes_port) = (nodes.port(), nodes.port());
    let spec = json!({
        "selector": {"matchLabels": {"app": "till"}},
        "portLevelMtls": {port.to_string(): {"mode": "STRICT"}, bytes_port.to_string(): {"mode": "STRICT"}},
    });
    let metadata = json!({"name": "till", "namespace": NAMESPACE});
    let api = "security.istio.io/v1";
    let object = json!({"apiVersion": api, "kind": "PeerAuthentication", "metadata": metadata, "spec": spec});
    let mesh = nodes.topology.mesh();
    mesh.write("peer-till.yaml", [Object(object)]).unwrap();
    for (name, how) in [("checked", "http: {path: /healthz}"), ("checked-bytes", "tcp: {}")] {
        let how = format!("healthCheck: {{{how}, interval: 50ms, timeout: 10s, unhealthyThreshold: 2}}");
        mesh.write(&format!("policy-{name}.yaml"), [traffic_policy(name, &how).unwrap()]).unwrap();
    }
    let (_server, seen) = echo_server(nodes.till.listen(port).unwrap(), "till");
    let (bytes, _) = echo_server(nodes.till.listen(bytes_port).unwrap(), "till");
    nodes.expose("checked", "http", port, &[&nodes.till]).unwrap();
    nodes.expose("checked-bytes", "tcp", bytes_port, &[&nodes.till]).unwrap();
    let proven = || {
        let told = seen.of("/healthz").into_iter().find_map(|asked| asked.header(CERT).map(str::to_owned));
        told.ok_or_else(|| anyhow::anyhow!("no check came from another node"))
    };
    let told = eventually(PATIENCE, proven).unwrap();
    assert!(told.ends_with("/sa/web") || told.ends_with("/sa/shelf"), "{told}");
    for service in ["checked", "checked-bytes"] {
        becomes(&nodes.near, service, ("ready", ""));
    }
    seen.answer_with(503);
    becomes(&nodes.near, "checked", ("unhealthy", "status 503"));
    seen.answer_with(0);
    becomes(&nodes.near, "checked", ("ready", ""));
    drop(bytes);
    becomes(&nodes.near, "checked-bytes", ("unhealthy", "no connection"));
    becomes(&nodes.far, "checked-bytes", ("unhealthy", "no connection"));
}
