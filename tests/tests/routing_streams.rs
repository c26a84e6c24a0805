//! Routes for connections that aren't carried as requests: TCPRoute by weight, TLSRoute by server name.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::io::{Read, Write};
use std::net::TcpStream;

use mesh_tests::server::Server;
use mesh_tests::shop::{NAMESPACE, Service, Shop};
use mesh_tests::{need_shop, shared_shop};

shared_shop!("streams");

/// A service and its two versions. Each server reads `count` bytes, then says its name and them.
fn versions(shop: &Shop, name: &str, port_name: &str, count: usize) -> (Service, Vec<Server>) {
    let mut servers = Vec::new();
    let mut one = |name: &str, version: &'static str, cart: usize| {
        let port = shop.port();
        servers.push(Server::new(shop.carts[cart].listen(port).unwrap(), move |mut stream, _| {
            let mut bytes = vec![0; count];
            if stream.read_exact(&mut bytes).is_ok() {
                let _ = stream.write_all(&[version.as_bytes(), &bytes].concat());
            }
        }));
        shop.expose(name, port_name, port, &[&shop.carts[cart]]).unwrap()
    };
    one(&format!("{name}-v1"), "v1", 1);
    one(&format!("{name}-v2"), "v2", 2);
    (one(name, "v0", 0), servers)
}

/// Sends `bytes` on a connection of its own: who answered, `reset` for nobody. What came back is what was sent.
fn ask(shop: &Shop, service: &Service, bytes: &[u8]) -> String {
    let exchange = |mut stream: TcpStream| {
        stream.write_all(bytes)?;
        let mut back = Vec::new();
        stream.read_to_end(&mut back).map(|_| back)
    };
    match shop.web.connect(service.at()).and_then(exchange) {
        Ok(back) if back.is_empty() => "closed".into(),
        Ok(back) => {
            assert_eq!(&back[2..], bytes);
            String::from_utf8_lossy(&back[..2]).into_owned()
        }
        Err(_) => "reset".into(),
    }
}

/// True if the connection of this line went by the first rule of a route that was attached as `file`.
fn is_of(line: &serde_json::Value, file: &str) -> bool {
    let name = line["route_name"].as_str().unwrap_or_default();
    name.starts_with(&format!("shop/{file}-r")) && name.ends_with("/0")
}

fn spec(name: &str, more: &str, backends: &str) -> String {
    format!(
        "parentRefs: [{{group: \"\", kind: Service, name: {name}}}], {more} rules: [{{backendRefs: [{backends}]}}]"
    )
}

#[test]
fn tcp_route_gives_each_backend_its_share_of_the_connections() {
    let shop = need_shop!();
    let (service, _servers) = versions(shop, "tcpshare", "tcp", 4);
    assert_eq!(ask(shop, &service, b"ping"), "v0");
    let share = |v1: u32, v2: u32, count: usize| {
        let backends = format!(
            "{{name: tcpshare-v1, port: 80, weight: {v1}}}, {{name: tcpshare-v2, port: 80, weight: {v2}}}"
        );
        shop.attach("tcpshare", "TCPRoute", NAMESPACE, &spec("tcpshare", "", &backends)).unwrap();
        let all: Vec<String> = (0..count).map(|_| ask(shop, &service, b"ping")).collect();
        assert!(all.iter().all(|who| who == "v1" || who == "v2"), "{all:?}");
        all.iter().filter(|who| *who == "v1").count()
    };
    assert!(share(4, 1, 1000).abs_diff(800) <= 60);
    assert_eq!((share(1, 0, 20), share(0, 1, 20)), (20, 0));
    let of = |line: &serde_json::Value| is_of(line, "tcpshare") && line["reporter"] == "source";
    let line = shop.log_shows("tcpshare", of).unwrap();
    assert_eq!((&line["protocol"], &line["response_flags"]), (&"tcp".into(), &"-".into()), "{line}");
    shop.detach("tcpshare").unwrap();
    assert_eq!(ask(shop, &service, b"ping"), "v0");
}

#[test]
fn a_service_without_endpoints_of_its_own_only_routes_connections() {
    let shop = need_shop!();
    const SIZE: usize = 200;
    for (port_name, kind, hosts) in
        [("tcp", "TCPRoute", ""), ("", "TCPRoute", ""), ("tls", "TLSRoute", "hostnames: [db.test],")]
    {
        let name = format!("bare{port_name}");
        let (_, _servers) = versions(shop, &format!("{name}-to"), port_name, SIZE);
        let service = shop.bare(&name, port_name).unwrap();
        shop.is_unreachable(&service).unwrap();
        let backend = format!("{{name: {name}-to-v1, port: 80}}");
        shop.attach(&name, kind, NAMESPACE, &spec(&name, hosts, &backend)).unwrap();
        let mut bytes = hello("db.test");
        bytes.resize(SIZE, 9);
        assert_eq!(ask(shop, &service, &bytes), "v1", "{kind} on {port_name:?}");
        shop.detach(&name).unwrap();
        shop.is_unreachable(&service).unwrap();
    }
}

#[test]
fn a_tcp_route_whose_backend_cannot_be_used_refuses_connections() {
    let shop = need_shop!();
    let (service, _servers) = versions(shop, "tcpnone", "tcp", 4);
    for backends in [
        "{name: nowhere, port: 80}",
        "{name: tcpnone-v1, port: 81}",
        "{name: tcpnone-v1, port: 80, weight: 0}",
    ] {
        shop.attach("tcpnone", "TCPRoute", NAMESPACE, &spec("tcpnone", "", backends)).unwrap();
        assert_eq!(ask(shop, &service, b"ping"), "reset", "{backends}");
    }
    let of = |line: &serde_json::Value| line["destination_service"] == "tcpnone.shop.svc.cluster.local";
    let line = shop.log_shows("tcpnone", |line| of(line) && line["response_flags"] == "NC").unwrap();
    assert!(is_of(&line, "tcpnone"), "{line}");
}

#[test]
fn a_tcp_route_holds_where_no_protocol_is_declared_and_nothing_is_dialled_besides() {
    let shop = need_shop!();
    let (service, servers) = versions(shop, "tcpguess", "", 4);
    shop.attach("tcpguess", "TCPRoute", NAMESPACE, &spec("tcpguess", "", "{name: tcpguess-v2, port: 80}"))
        .unwrap();
    for bytes in [b"ping", b"GET "] {
        assert_eq!(ask(shop, &service, bytes), "v2");
    }
    let accepted: Vec<usize> = servers.iter().map(Server::accepted).collect();
    assert_eq!(accepted, [0, 2, 0], "v1, v2, own");
}

/// A ClientHello of TLS 1.2 with this server name.
fn hello(name: &str) -> Vec<u8> {
    let framed = |bytes: &[u8]| [&(bytes.len() as u16).to_be_bytes(), bytes].concat();
    let extension = |kind: u16, bytes: &[u8]| [&kind.to_be_bytes()[..], &framed(bytes)].concat();
    let names = framed(&[&[0][..], &framed(name.as_bytes())].concat());
    let mut extensions =
        [extension(10, &[0, 2, 0, 0x1d]), extension(13, &[0, 2, 4, 3]), extension(11, &[1, 0])].concat();
    if !name.is_empty() {
        extensions.extend(extension(0, &names));
    }
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0xc0, 0x2b, 1, 0]);
    body.extend(framed(&extensions));
    let length = (body.len() as u32).to_be_bytes();
    let handshake = [&[1], &length[1..], &body].concat();
    [&[0x16, 3, 1][..], &framed(&handshake)].concat()
}

#[test]
fn tls_route_gives_each_backend_its_share_of_a_names_connections() {
    let shop = need_shop!();
    const SIZE: usize = 200;
    let (service, _servers) = versions(shop, "tlsshare", "tls", SIZE);
    let mut bytes = hello("db.test");
    bytes.resize(SIZE, 9);
    let share = |v1: u32, v2: u32, count: usize| {
        let backends = format!(
            "{{name: tlsshare-v1, port: 80, weight: {v1}}}, {{name: tlsshare-v2, port: 80, weight: {v2}}}"
        );
        let spec = spec("tlsshare", "hostnames: [db.test],", &backends);
        shop.attach("tlsshare", "TLSRoute", NAMESPACE, &spec).unwrap();
        let all: Vec<String> = (0..count).map(|_| ask(shop, &service, &bytes)).collect();
        assert!(all.iter().all(|who| who == "v1" || who == "v2"), "{all:?}");
        all.iter().filter(|who| *who == "v1").count()
    };
    assert!(share(4, 1, 1000).abs_diff(800) <= 65);
    assert_eq!((share(1, 0, 20), share(0, 1, 20)), (20, 0));
}

#[test]
fn tls_route_goes_by_server_name() {
    let shop = need_shop!();
    for port_name in ["tls", ""] {
        let name = format!("tlsroute{port_name}");
        // Enough for every row: what is sent is filled up to it.
        const SIZE: usize = 200;
        let (service, servers) = versions(shop, &name, port_name, SIZE);
        let backend = |version: &str| format!("{{name: {name}-{version}, port: 80}}");
        let attach = |file: &str, hosts: &str, version: &str| {
            let spec = spec(&name, &format!("hostnames: [{hosts}],"), &backend(version));
            shop.attach(&format!("{name}{file}"), "TLSRoute", NAMESPACE, &spec).unwrap();
        };
        attach("-exact", "db.test, a.sub.db.test", "v1");
        attach("-wild", "'*.db.test'", "v2");
        for (server_name, expected) in [
            ("db.test", "v1"),
            ("DB.test", "v1"),
            ("a.sub.db.test", "v1"),
            ("x.db.test", "v2"),
            ("b.sub.db.test", "v2"),
            ("db.test.org", "reset"),
            ("other.test", "reset"),
            ("", "reset"),
        ] {
            let mut bytes = hello(server_name);
            bytes.resize(SIZE, 9);
            assert_eq!(ask(shop, &service, &bytes), expected, "{server_name:?} of {name}");
        }
        assert_eq!(ask(shop, &service, &[b'x'; SIZE]), "reset", "no TLS");
        assert_eq!(servers[2].accepted(), 0, "nothing goes to the service itself");
    }
    let line = shop.log_shows("other.test", |line| line["requested_server_name"] == "other.test").unwrap();
    assert_eq!(
        (&line["response_flags"], &line["route_name"]),
        (&"NR".into(), &serde_json::Value::Null),
        "{line}"
    );
    let line = shop.log_shows("x.db.test", |line| line["requested_server_name"] == "x.db.test").unwrap();
    assert!(is_of(&line, "tlsroutetls-wild"), "{line}");
}
