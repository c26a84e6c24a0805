//! HBONE to a pod that says it speaks it: the peer is the server.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::OnceLock;

use anyhow::ensure;
use http::StatusCode;
use mesh_tests::hbone::Ztunnel;
use mesh_tests::http1::{Client, echo_server};
use mesh_tests::http2::{H2Server, answer, collect, get, with_client};
use mesh_tests::lab::eventually;
use mesh_tests::nodes::Wire;
use mesh_tests::pki::MeshAuthority;
use mesh_tests::policy::{destination_rule, traffic_policy};
use mesh_tests::shop::NAMESPACE;
use mesh_tests::{PATIENCE, SOON};

use super::{Mesh, SECRET, bulk, echo_then_bye, ends_with_bye, id, mesh, mesh_of_one, need_mesh, says};

/// The one ztunnel before `far`, which believes the mesh and shows `far`'s certificate.
fn ztunnel(mesh: &'static Mesh) -> &'static Ztunnel {
    static ZTUNNEL: OnceLock<Ztunnel> = OnceLock::new();
    ZTUNNEL.get_or_init(|| Ztunnel::new(&mesh.far, &mesh.authority.root(), &mesh.svid("far")).unwrap())
}

/// True of a connection that no endpoint took; the reset may come before connect(2) has returned.
fn is_reset(connected: io::Result<TcpStream>) -> bool {
    let asked = connected.and_then(|mut stream| {
        let _ = stream.write_all(SECRET);
        stream.read(&mut [0])
    });
    asked.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset)
}

#[test]
fn requests_go_out_as_connections_in_connects_that_say_who_and_where_to() {
    let mesh = need_mesh!();
    let ztunnel = ztunnel(mesh);
    let port = mesh.port();
    let (server, seen) = echo_server(mesh.far.listen(port).unwrap(), "far");
    let service = mesh.expose("out-http", "http", port, &[&mesh.far]);
    let wire = Wire::listen(&mesh.topology).unwrap();
    let secret = String::from_utf8_lossy(SECRET).into_owned();
    let mut client = Client::new(mesh.web.connect(service).unwrap());
    for _ in 0..3 {
        assert_eq!(client.get("out-http", &format!("/{secret}")).unwrap().status(), 200);
    }
    assert_eq!(seen.of(&format!("/{secret}")).len(), 3);
    assert!(wire.frames() > 5, "nothing went over the wire");
    // The ztunnel's own hop to its application stays in the pod.
    assert_eq!(wire.count(SECRET), 0);
    let asked = ztunnel.asked_for(mesh.far.at(port));
    assert_eq!((asked.len(), server.accepted()), (1, 1), "the connection is used again");
    let connect = &asked[0];
    assert!(connect.is_from(&id("web")) && !connect.is_from(&id("cart")));
    assert_eq!(
        (connect.method.as_str(), connect.from.ip().to_canonical()),
        ("CONNECT", mesh.web.v4().into())
    );
    assert_eq!(connect.header("forwarded"), "host=out-http.shop.svc.cluster.local");
    let baggage = "k8s.cluster.name=Kubernetes,k8s.namespace.name=shop,k8s.pod.name=web,service.name=web,\
                   service.version=latest,cloud.region=r1,cloud.availability_zone=r1-a";
    assert_eq!(connect.header("baggage"), baggage);
    let trace: Vec<_> = connect.header("traceparent").split('-').map(str::len).collect();
    assert_eq!(trace, [2, 32, 16, 2]);
    let line = mesh.log(&secret, |line| line["path"] == *format!("/{secret}"));
    let expected = [
        ("connection_security_policy", "mutual_tls"),
        ("connection_transport", "hbone"),
        ("source_principal", &id("web")),
        ("destination_principal", &id("far")),
        ("reporter", "source"),
        ("upstream_host", &mesh.far.at(port).to_string()),
    ];
    for (key, value) in expected {
        assert_eq!(line[key], value, "{key} of {line}");
    }
    let labels = [("destination_service_name", "out-http"), ("destination_principal", &id("far"))];
    mesh.grows("istio_requests_total", &labels, 2.0);
}

#[test]
fn requests_of_http2_go_out_as_they_are() {
    let mesh = need_mesh!();
    let ztunnel = ztunnel(mesh);
    let port = mesh.port();
    let server = H2Server::new(mesh.far.listen(port).unwrap(), None, |request, mut respond| async move {
        let trailers = http::HeaderMap::from_iter([(
            http::HeaderName::from_static("x-path"),
            http::HeaderValue::from_str(request.uri().path()).unwrap(),
        )]);
        let (body, _) = collect(request.into_body()).await.unwrap();
        answer(&mut respond, body, Some(trailers));
    });
    for (name, port_name) in [("out-h2", "http2"), ("out-h2-undeclared", "")] {
        let service = mesh.expose(name, port_name, port, &[&mesh.far]);
        with_client(mesh.web.connect(service).unwrap(), |client| async move {
            for _ in 0..20 {
                let answer = get(&client, name, "/grpc").await?;
                ensure!(answer.head.status == 200 && answer.trailers.is_some_and(|t| t["x-path"] == "/grpc"));
            }
            Ok(())
        })
        .unwrap();
    }
    let asked = ztunnel.asked_for(mesh.far.at(port));
    assert_eq!((asked.len(), server.accepted()), (2, 2), "requests share their connection");
}

#[test]
fn bytes_go_out_with_their_ends_and_in_bulk() {
    let mesh = need_mesh!();
    let ztunnel = ztunnel(mesh);
    for (name, port_name) in [("out-tcp", "tcp"), ("out-undeclared", "")] {
        let port = mesh.port();
        let _server = echo_then_bye(&mesh.far, port);
        let service = mesh.expose(name, port_name, port, &[&mesh.far]);
        // By the service, and by the pod's own address.
        for to in [service, mesh.far.at(port)] {
            let mut stream = mesh.web.connect(to).unwrap();
            let local = stream.local_addr().unwrap();
            says(&mut stream, SECRET);
            ends_with_bye(stream);
            bulk(mesh.web.connect(to).unwrap());
            let asked = ztunnel.asked_for(mesh.far.at(port));
            let forwarded = format!("for=\"{local}\";host={name}.shop.svc.cluster.local");
            assert!(asked.iter().any(|connect| connect.header("forwarded") == forwarded), "{asked:#?}");
        }
        let streams: Vec<_> = (0..8).map(|_| mesh.web.connect(service).unwrap()).collect();
        for (n, mut stream) in streams.into_iter().enumerate() {
            says(&mut stream, format!("stream {n}").as_bytes());
        }
        let mut connections: Vec<_> =
            ztunnel.asked_for(mesh.far.at(port)).iter().map(|connect| connect.connection).collect();
        let all = connections.len();
        connections.sort_unstable();
        connections.dedup();
        assert!(all >= 12 && connections.len() < all / 2, "{all} streams on {}", connections.len());
    }
}

#[test]
fn what_the_peer_answers_is_what_the_client_and_the_log_are_told() {
    let Some(mesh) = mesh_of_one("hbone-answers") else { return };
    let ztunnel = Ztunnel::new(&mesh.far, &mesh.authority.root(), &mesh.svid("far")).unwrap();
    let (bytes, requests) = (mesh.port(), mesh.port());
    let (server, _) = echo_server(mesh.far.listen(requests).unwrap(), "far");
    let _echo = echo_then_bye(&mesh.far, bytes);
    let tcp = mesh.expose("answers-tcp", "tcp", bytes, &[&mesh.far]);
    let http = mesh.expose("answers-http", "http", requests, &[&mesh.far]);
    for (status, details) in [
        (StatusCode::UNAUTHORIZED, "tunnel_denied"),
        (StatusCode::BAD_REQUEST, "tunnel_refused"),
        (StatusCode::SERVICE_UNAVAILABLE, "connect_failed"),
    ] {
        ztunnel.answer(&[status]);
        assert!(is_reset(mesh.web.connect(tcp)), "{status}");
        let line = mesh.log(details, |line| {
            line["destination_service"] == "answers-tcp.shop.svc.cluster.local"
                && line["response_code_details"] == details
        });
        assert_eq!(line["response_flags"], "UF", "{line}");
        ztunnel.answer(&[status]);
        let answer = Client::new(mesh.web.connect(http).unwrap()).get("answers-http", "/").unwrap();
        assert_eq!(answer.status(), 503, "{status}");
        let line = mesh.log(details, |line| {
            line["destination_service"] == "answers-http.shop.svc.cluster.local"
                && line["response_code_details"] == details
        });
        assert_eq!(line["response_flags"], "UF", "{line}");
    }
    assert_eq!(server.accepted(), 0);
    // GOAWAY: what comes next has another connection, and nobody notices.
    let mut client = Client::new(mesh.web.connect(http).unwrap());
    assert_eq!(client.get("answers-http", "/before").unwrap().status(), 200);
    let before = ztunnel.accepted();
    ztunnel.go_away();
    eventually(SOON, || {
        let answer = Client::new(mesh.web.connect(http).unwrap())
            .ask("GET /after HTTP/1.1\r\nHost: answers-http\r\nConnection: close\r\n\r\n")?;
        assert_eq!(answer.status(), 200);
        says(&mut mesh.web.connect(tcp).unwrap(), SECRET);
        ensure!(ztunnel.accepted() > before, "no new connection");
        Ok(())
    })
    .unwrap();
    // The ztunnel is gone: refused at once, and never in plain text.
    drop(ztunnel);
    let answer = Client::new(mesh.web.connect(http).unwrap()).get("answers-http", "/gone").unwrap();
    assert_eq!(answer.status(), 503);
    assert!(is_reset(mesh.web.connect(tcp)));
    assert!(server.peers().iter().all(|from| from.ip() == mesh.far.v4()), "{:?}", server.peers());
}

#[test]
fn a_server_that_isnt_who_the_pod_runs_as_is_sent_nothing() {
    let Some(mesh) = mesh_of_one("hbone-impostor") else { return };
    let root = mesh.authority.root();
    let port = mesh.port();
    let server = echo_then_bye(&mesh.far, port);
    let service = mesh.expose("impostor", "tcp", port, &[&mesh.far]);
    let stranger = MeshAuthority::new(&mesh.topology.scratch().join("stranger"), "stranger").unwrap();
    let cases = [
        ("other_identity", mesh.svid("other")),
        ("trust_domain", mesh.authority.svid("spiffe://other.domain/ns/shop/sa/far").unwrap()),
        ("unknown_root", stranger.svid(&id("far")).unwrap()),
    ];
    for (result, svid) in cases {
        let ztunnel = Ztunnel::new(&mesh.far, &root, &svid).unwrap();
        assert!(is_reset(mesh.web.connect(service)), "{result}");
        let labels = [("direction", "outbound"), ("transport", "hbone"), ("result", result)];
        mesh.grows("mesh_agent_mesh_handshakes_total", &labels, 0.0);
        assert!(ztunnel.asked().is_empty(), "{result}");
    }
    assert_eq!(server.accepted(), 0);
    mesh.log("refused", |line| line["response_code_details"] == "certificate_refused");
    assert!(mesh.agent.log().contains("no mutual TLS with the HBONE proxy of the destination"));
}

#[test]
fn rules_and_objects_decide_who_is_reached_so() {
    let mesh = need_mesh!();
    let ztunnel = ztunnel(mesh);
    let port = mesh.port();
    let _server = echo_then_bye(&mesh.far, port);
    let service = mesh.expose("out-ruled", "tcp", port, &[&mesh.far]);
    let rule =
        |mode: &str| destination_rule(NAMESPACE, "out-ruled", &format!("tls: {{mode: {mode}}}")).unwrap();
    for (mode, expected) in [("DISABLE", 0), ("ISTIO_MUTUAL", 1)] {
        mesh.apply("rule.yaml", [rule(mode)]);
        says(&mut mesh.web.connect(service).unwrap(), SECRET);
        assert_eq!(ztunnel.asked_for(mesh.far.at(port)).len(), expected, "{mode}");
    }
    mesh.apply("rule.yaml", []);
    // By the annotation of ztunnel's own plug-in, and with the account of that pod.
    let other = Ztunnel::new(&mesh.other, &mesh.authority.root(), &mesh.svid("other")).unwrap();
    let port = mesh.port();
    let _server = echo_then_bye(&mesh.other, port);
    let service = mesh.expose("out-other", "tcp", port, &[&mesh.other]);
    says(&mut mesh.web.connect(service).unwrap(), SECRET);
    assert_eq!(other.asked_for(mesh.other.at(port)).len(), 1);
    for (pod, reached) in [("other", "hbone"), ("far", "hbone"), ("cart", "mesh")] {
        let page = mesh.agent.cli_json(&["describe", "pod", &format!("{NAMESPACE}/{pod}")]).unwrap();
        assert_eq!(page["pod"]["reached"], reached, "{page}");
    }
}

#[test]
fn health_checks_go_out_as_requests_do() {
    let mesh = need_mesh!();
    let ztunnel = ztunnel(mesh);
    let port = mesh.port();
    let (_server, seen) = echo_server(mesh.far.listen(port).unwrap(), "far");
    let how = "healthCheck: {http: {path: /healthz}, interval: 50ms, timeout: 10s, unhealthyThreshold: 2}";
    mesh.topology.mesh().write("policy-checked.yaml", [traffic_policy("out-checked", how).unwrap()]).unwrap();
    mesh.expose("out-checked", "http", port, &[&mesh.far]);
    let becomes = |wanted: &str| {
        eventually(PATIENCE, || {
            let listed = mesh.agent.cli_json(&["get", "endpoints", "--service", "out-checked"])?;
            ensure!(listed[0]["state"] == wanted && seen.of("/healthz").len() > 1, "{listed}");
            Ok(())
        })
        .unwrap();
    };
    becomes("ready");
    let asked = ztunnel.asked_for(mesh.far.at(port));
    assert!(asked.len() > 1, "each check is a connection of its own");
    assert!(asked.iter().all(|connect| connect.is_from(&id("web")) || connect.is_from(&id("cart"))));
    seen.answer_with(503);
    becomes("unhealthy");
}
