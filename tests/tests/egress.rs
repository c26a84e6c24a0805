//! Services outside the mesh: found by address and by name, reached in plain text and over TLS that the agent makes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::{Context, Result, ensure};
use http::Request;
use mesh_tests::dns::Dns;
use mesh_tests::http1::{Client, Message, Seen, echo_server};
use mesh_tests::http2::{whole, with_client};
use mesh_tests::lab::{Object, Running, eventually};
use mesh_tests::peers::{nginx, python_server};
use mesh_tests::pki::{Authority, Signed};
use mesh_tests::server::Server;
use mesh_tests::shop::{NAMESPACE, Shop};
use mesh_tests::sockets::Host;
use mesh_tests::{PATIENCE, SOON, agent_options};
use serde_json::{Value, json};

/// The shop, two hosts outside of it, and what they are known by.
struct World {
    shop: Shop,
    other: Host,
    dns: Dns,
    authority: Authority,
    dir: PathBuf,
}

impl World {
    fn start(
        name: &str,
        with: impl Fn(mesh_tests::lab::AgentOptions) -> mesh_tests::lab::AgentOptions,
    ) -> Option<Self> {
        let options = agent_options()?;
        let dns = Dns::start().expect("a DNS server");
        // The agent reads certificates from here, whichever test is over by then.
        let dir = tempfile::tempdir().unwrap().keep();
        let conf = dns.conf(&dir).unwrap();
        let options = with(options.flag("resolv-conf", conf.display().to_string()));
        let shop = Shop::start(name, options).expect("the topology");
        let other = Host::new(&shop.topology, shop.topology.outsider("elsewhere").unwrap()).unwrap();
        let authority = Authority::new(&dir, "ca").unwrap();
        Some(Self { shop, other, dns, authority, dir })
    }

    fn write(&self, name: &str, objects: impl IntoIterator<Item = Object>) {
        self.shop.topology.mesh().write(&format!("{name}.yaml"), objects).unwrap();
    }

    /// Writes a ServiceEntry and, with `tls`, its DestinationRule; waits until the service is known.
    fn expose(&self, host: &str, spec: Value, tls: Option<Value>) {
        let name = host.split('.').next().unwrap();
        self.write(name, [entry(name, host, spec)].into_iter().chain(tls.map(|tls| rule(name, host, tls))));
        self.shop.wait_known(host).unwrap();
    }

    fn get(&self, at: SocketAddr, host: &str, path: &str) -> Result<Message> {
        Ok(Client::new(self.shop.web.connect(at)?).get(host, path)?)
    }

    /// An address for a service, and port 80.
    fn vip(&self) -> SocketAddr {
        SocketAddr::new(self.shop.vips().0.into(), 80)
    }

    /// nginx over TLS on `host`, which tells what it saw of the connection.
    fn nginx(&self, host: &Host, signed: &Signed, mutual: bool) -> (Running, u16) {
        let port = self.shop.port();
        let verify = match mutual {
            true => {
                format!("ssl_verify_client on; ssl_client_certificate {};", self.authority.file().display())
            }
            false => String::new(),
        };
        let conf = format!(
            "server {{ listen {port} ssl http2; ssl_certificate {crt}; ssl_certificate_key {key}; ssl_session_cache shared:s:1m; \
             {verify} location / {{ return 200 \"sni=$ssl_server_name alpn=$ssl_alpn_protocol reused=$ssl_session_reused \
             dn=$ssl_client_s_dn on={name}\"; }} }}",
            crt = signed.certificate.display(),
            key = signed.key.display(),
            name = host.name(),
        );
        (nginx(&self.shop.topology, host, port, &conf).unwrap(), port)
    }

    fn handshakes(&self, result: &str) -> f64 {
        let metrics = self.shop.agent.metrics().unwrap();
        metrics.sum("mesh_agent_upstream_tls_handshakes_total", &[("result", result)])
    }
}

fn world() -> Option<&'static World> {
    static WORLD: OnceLock<Option<World>> = OnceLock::new();
    WORLD.get_or_init(|| World::start("egress", |options| options)).as_ref()
}

macro_rules! need_world {
    () => {
        match world() {
            Some(world) => world,
            None => return,
        }
    };
}

fn object(kind: &str, name: &str, spec: Value) -> Object {
    let metadata = json!({"name": name, "namespace": NAMESPACE});
    Object(json!({"apiVersion": "networking.istio.io/v1", "kind": kind, "metadata": metadata, "spec": spec}))
}

fn entry(name: &str, host: &str, mut spec: Value) -> Object {
    spec["hosts"] = json!([host]);
    object("ServiceEntry", name, spec)
}

fn rule(name: &str, host: &str, tls: Value) -> Object {
    object("DestinationRule", name, json!({"host": host, "trafficPolicy": {"tls": tls}}))
}

/// A ServiceEntry with one port 80 that leads to `endpoints`.
fn fixed(vip: SocketAddr, protocol: &str, target: u16, endpoints: &[Ipv4Addr]) -> Value {
    let endpoints: Vec<_> = endpoints.iter().map(|ip| json!({"address": ip})).collect();
    let ports = json!([{"number": 80, "name": "p", "protocol": protocol, "targetPort": target}]);
    json!({"addresses": [vip.ip()], "resolution": "STATIC", "ports": ports, "endpoints": endpoints})
}

fn echo(host: &Host, port: u16) -> (Server, Seen) {
    echo_server(host.listen(port).unwrap(), host.name())
}

#[test]
fn requests_of_both_versions_go_over_tls_and_sessions_are_resumed() {
    let world = need_world!();
    let host = "simple.example.com";
    let signed = world.authority.issue("simple", &[host]).unwrap();
    let (_nginx, port) = world.nginx(&world.shop.outside, &signed, false);
    let vip = world.vip();
    let tls = json!({"mode": "SIMPLE", "caCertificates": world.authority.file()});
    world.expose(host, fixed(vip, "HTTP", port, &[world.shop.outside.v4()]), Some(tls));
    let first = world.get(vip, host, "/tls1").unwrap();
    assert_eq!(first.status(), 200, "{}", world.shop.log_tail());
    assert!(first.text().contains("sni=simple.example.com alpn=http/1.1 reused=."), "{}", first.text());
    let body = with_client(world.shop.web.connect(vip).unwrap(), async |client| {
        let request = Request::get("http://simple.example.com/tls2").body(())?;
        let (response, _) = client.clone().ready().await?.send_request(request, true)?;
        Ok(whole(response.await?).await?.body)
    })
    .unwrap();
    let body = String::from_utf8_lossy(&body).into_owned();
    assert!(body.contains("alpn=h2 reused=r"), "another connection resumes the session: {body}");
    assert!(world.handshakes("resumed") >= 1.0 && world.handshakes("full") >= 1.0);
    let line = world.shop.log_shows("/tls1", |line| line["path"] == "/tls1").unwrap();
    assert_eq!(line["response_flags"], "-", "{line}");
    world
        .shop
        .metrics_show(|metrics| {
            let labels = [("destination_service", host), ("destination_service_namespace", NAMESPACE)];
            let count = metrics.sum("istio_requests_total", &labels);
            ensure!(count >= 2.0, "{count} requests with the host's labels");
            Ok(())
        })
        .unwrap();
    let services = world.shop.agent.cli(&["get", "services"]).unwrap().success().unwrap().stdout;
    assert!(
        services.lines().any(|l| l.contains(host) && l.contains("80/http") && l.contains("1/1")),
        "{services}"
    );
}

#[test]
fn a_certificate_that_does_not_verify_is_refused_and_the_rule_is_named() {
    let world = need_world!();
    let stranger = Authority::new(&world.dir, "stranger").unwrap();
    let other = world.authority.issue("other", &["other.example.com"]).unwrap();
    let host = "untrusted.example.com";
    let strange = stranger.issue("untrusted", &[host]).unwrap();
    for (place, signed) in [strange, other].into_iter().enumerate() {
        let (_nginx, port) = world.nginx(&world.other, &signed, false);
        let vip = world.vip();
        let name = format!("untrusted{place}.example.com");
        let tls = json!({"mode": "SIMPLE", "caCertificates": world.authority.file(), "sni": host});
        world.expose(&name, fixed(vip, "HTTP", port, &[world.other.v4()]), Some(tls));
        let path = format!("/untrusted{place}");
        assert_eq!(world.get(vip, &name, &path).unwrap().status(), 503);
        let line = world.shop.log_shows(&path, |line| line["path"] == *path).unwrap();
        assert_eq!(
            (&line["response_flags"], &line["response_code_details"]),
            (&"UF".into(), &"certificate_refused".into()),
            "{line}"
        );
        let rule = format!("DestinationRule shop/untrusted{place}");
        let named = |line: &str| line.contains("as the rule asks for it") && line.contains(&rule);
        assert!(world.shop.agent.log().lines().any(named), "{}", world.shop.log_tail());
    }
    assert!(world.handshakes("certificate_refused") >= 2.0);
}

#[test]
fn mutual_tls_shows_the_certificate_and_follows_its_files() {
    let world = need_world!();
    let host = "mutual.example.com";
    let server = world.authority.issue("mutual", &[host]).unwrap();
    let (first, second) = (
        world.authority.issue("client-one", &[]).unwrap(),
        world.authority.issue("client-two", &[]).unwrap(),
    );
    let (_nginx, port) = world.nginx(&world.shop.outside, &server, true);
    let vip = world.vip();
    let tls = json!({
        "mode": "MUTUAL", "caCertificates": world.authority.file(),
        "clientCertificate": first.certificate, "privateKey": first.key,
    });
    world.expose(host, fixed(vip, "HTTP", port, &[world.shop.outside.v4()]), Some(tls));
    let who = || -> Result<String> {
        // A connection of its own upstream, too: version 1.0 keeps none.
        let request = format!("GET / HTTP/1.0\r\nHost: {host}\r\n\r\n");
        Ok(Client::new(world.shop.web.connect(vip)?).ask(request)?.text())
    };
    assert!(who().unwrap().contains("CN=client-one"), "{}", who().unwrap());
    fs::copy(&second.certificate, &first.certificate).unwrap();
    fs::copy(&second.key, &first.key).unwrap();
    eventually(SOON, || {
        let text = who()?;
        ensure!(text.contains("CN=client-two"), "{text}");
        Ok(())
    })
    .unwrap();
    fs::write(&first.key, "no key").unwrap();
    eventually(SOON, || {
        let told = world.shop.agent.cli(&["analyze"])?.stdout;
        ensure!(told.contains("MESH0140") && told.contains("privateKey"), "{told}");
        Ok(())
    })
    .unwrap();
    assert!(who().unwrap().contains("CN=client-two"), "the former pair stays in force");
    fs::copy(&second.key, &first.key).unwrap();
}

/// A python server that ends its connections in this way, behind an opaque port.
fn opaque(world: &World, mode: &str) -> (Running, SocketAddr) {
    let host = format!("{mode}.example.com");
    let signed = world.authority.issue(mode, &[&host]).unwrap();
    let (port, vip) = (world.shop.port(), world.vip());
    let args = [&port.to_string(), signed.certificate.to_str().unwrap(), signed.key.to_str().unwrap(), mode];
    let running = python_server(&world.shop.topology, &world.shop.outside, "tls_peer.py", &args).unwrap();
    let tls = json!({"mode": "SIMPLE", "caCertificates": world.authority.file()});
    world.expose(&host, fixed(vip, "TCP", port, &[world.shop.outside.v4()]), Some(tls));
    (running, vip)
}

fn rest(stream: &mut TcpStream) -> (Vec<u8>, bool) {
    let mut bytes = Vec::new();
    let clean = stream.read_to_end(&mut bytes).is_ok();
    (bytes, clean)
}

#[test]
fn opaque_bytes_go_over_tls_and_every_end_is_carried_as_what_it_is() {
    let world = need_world!();
    let (_echo, vip) = opaque(world, "echo");
    let mut stream = world.shop.web.connect(vip).unwrap();
    let sent: Vec<u8> = (0..300_000_u32).map(|n| (n % 251) as u8).collect();
    stream.write_all(&sent).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let (got, clean) = rest(&mut stream);
    assert!(got == sent && clean, "{} bytes, clean: {clean}; {}", got.len(), world.shop.log_tail());
    for mode in ["cut", "reset"] {
        let (_server, vip) = opaque(world, mode);
        let mut stream = world.shop.web.connect(vip).unwrap();
        stream.write_all(b"go").unwrap();
        let (got, clean) = rest(&mut stream);
        assert!(!clean, "{mode}: {got:?} is passed on as all there is");
        let destination = format!("{mode}.example.com");
        world
            .shop
            .metrics_show(|metrics| {
                let labels = [("destination_service", destination.as_str()), ("response_flags", "UC")];
                ensure!(metrics.sum("istio_tcp_connections_closed_total", &labels) >= 1.0, "no UC");
                Ok(())
            })
            .unwrap();
    }
}

#[test]
fn a_name_is_followed_by_its_ttl_and_outlives_its_servers_failures() {
    let world = need_world!();
    let (host, port) = ("named.example.com", world.shop.port());
    let (here, there) = (&world.shop.outside, &world.other);
    let (_one, _seen_one) = echo(here, port);
    let (_two, _seen_two) = echo(there, port);
    world.dns.set(host, &[here.v4()]);
    let vip = world.vip();
    let spec = json!({
        "addresses": [vip.ip()], "resolution": "DNS",
        "ports": [{"number": 80, "name": "http", "protocol": "HTTP", "targetPort": port}],
    });
    world.expose(host, spec, None);
    let server = || -> Result<String> {
        let answer = world.get(vip, host, "/named")?;
        ensure!(answer.status() == 200, "{}", answer.status());
        Ok(answer.text())
    };
    let is_at = |at: &Host| {
        eventually(SOON, || {
            let text = server()?;
            ensure!(text.contains(at.name()), "{text}");
            Ok(())
        })
    };
    is_at(here).unwrap();
    world.dns.set(host, &[there.v4()]);
    is_at(there).unwrap();
    let failed = |metrics: &mesh_tests::lab::MetricsText| {
        metrics.sum("mesh_agent_name_lookups_total", &[("result", "failed")])
    };
    let before = failed(&world.shop.agent.metrics().unwrap());
    world.dns.fail(true);
    world
        .shop
        .metrics_show(|metrics| {
            ensure!(failed(metrics) > before, "no failure was counted");
            Ok(())
        })
        .unwrap();
    eventually(SOON, || {
        let log = world.shop.agent.log();
        let told = |line: &str| {
            line.contains("MESH0142") && line.contains(host) && line.contains("last good answer")
        };
        ensure!(log.lines().any(told), "{}", world.shop.log_tail());
        Ok(())
    })
    .unwrap();
    for _ in 0..5 {
        assert!(server().unwrap().contains(there.name()), "the last good answer stays");
    }
    world.dns.fail(false);
    world.dns.set(host, &[here.v4()]);
    eventually(PATIENCE * 2, || {
        let text = server()?;
        ensure!(text.contains(here.name()), "{text}");
        Ok(())
    })
    .unwrap();
    assert!(world.dns.asked() > 0);
}

#[test]
fn without_addresses_those_of_the_name_are_the_hosts() {
    let world = need_world!();
    let (host, port) = ("bare.example.com", world.shop.port());
    let (_server, seen) = echo(&world.other, port);
    world.dns.set(host, &[world.other.v4()]);
    let spec = json!({"resolution": "DNS", "ports": [{"number": port, "name": "http", "protocol": "HTTP"}]});
    world.expose(host, spec, None);
    let own = SocketAddr::new(world.other.v4().into(), port);
    eventually(SOON, || {
        ensure!(world.get(own, host, "/bare")?.status() == 200);
        let metrics = world.shop.agent.metrics()?;
        ensure!(
            metrics.sum("istio_requests_total", &[("destination_service", host)]) >= 1.0,
            "not yet its own"
        );
        Ok(())
    })
    .unwrap();
    assert!(seen.count() >= 1);
}

/// An example of the documentation with this test's own addresses, ports and files in place of those that it has.
fn example(world: &World, file: &str, own: &[(&str, String)]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/examples").join(file);
    let mut text = fs::read_to_string(path).unwrap();
    for (theirs, ours) in own {
        assert!(text.contains(theirs), "{file} has no {theirs}");
        text = text.replace(theirs, ours);
    }
    let objects = text.split("---\n").map(|part| Object(serde_yaml_ng::from_str(part).unwrap()));
    world.write(&file.replace(".yaml", ""), objects.collect::<Vec<_>>());
}

#[test]
fn the_documented_examples_work() {
    let world = need_world!();
    let (authority, outside) = (&world.authority, &world.shop.outside);
    let own = |text: &dyn std::fmt::Display| text.to_string();
    let get = |at: SocketAddr, host: &str| {
        eventually(SOON, || {
            let answer = world.get(at, host, "/example")?;
            ensure!(answer.status() == 200, "{}: {}", answer.status(), world.shop.log_tail());
            Ok(answer.text())
        })
        .unwrap()
    };
    let plain = world.shop.port();
    let (_echo, _) = echo(&world.other, plain);
    world.dns.set("api.example.com", &[world.other.v4()]);
    example(world, "egress-plain.yaml", &[("number: 80", format!("number: {plain}"))]);
    assert!(
        get(SocketAddr::new(world.other.v4().into(), plain), "api.example.com").contains(world.other.name())
    );
    world.shop.topology.mesh().remove("egress-plain.yaml").unwrap();

    let simple = world.vip();
    let signed = authority.issue("api", &["api.example.com"]).unwrap();
    let (_nginx, port) = world.nginx(outside, &signed, false);
    world.dns.set("api.example.com", &[outside.v4()]);
    example(
        world,
        "egress-tls-simple.yaml",
        &[
            ("192.0.2.80", own(&simple.ip())),
            ("targetPort: 443", format!("targetPort: {port}")),
            ("/etc/mesh-agent/tls/api-ca.pem", own(&authority.file().display())),
        ],
    );
    assert!(get(simple, "api.example.com").contains("sni=api.example.com"));

    let mutual = world.vip();
    let server = authority.issue("partner", &["partner.example.com"]).unwrap();
    let client = authority.issue("partner-client", &[]).unwrap();
    let (_mutual, port) = world.nginx(outside, &server, true);
    example(
        world,
        "egress-tls-mutual.yaml",
        &[
            ("192.0.2.81", own(&mutual.ip())),
            ("  - {address: 198.51.100.11}\n", String::new()),
            ("198.51.100.10", own(&outside.v4())),
            ("targetPort: 8443", format!("targetPort: {port}")),
            ("/etc/mesh-agent/tls/partner-client.crt", own(&client.certificate.display())),
            ("/etc/mesh-agent/tls/partner-client.key", own(&client.key.display())),
            ("/etc/mesh-agent/tls/partner-ca.pem", own(&authority.file().display())),
        ],
    );
    assert!(get(mutual, "partner.example.com").contains("CN=partner-client"));
}

#[test]
fn registry_only_lets_entries_pass_and_nothing_unencrypted_goes_while_the_agent_is_away() {
    let strict = |options: mesh_tests::lab::AgentOptions| {
        options.flag("outbound-traffic-policy", "registryOnly").flag("fail-mode", "open")
    };
    // The address of the DNS server is one for each process: the shared world's is up, or this one is first.
    let Some(shared) = world() else { return };
    let options = strict(agent_options().unwrap());
    let shop = Shop::start("egressonly", options).unwrap();
    let (port, ranged) = (shop.port(), shop.port());
    let (_server, seen) = echo(&shop.outside, port);
    let (_ranged, seen_ranged) = echo(&shop.outside, ranged);
    let direct = SocketAddr::new(shop.outside.v4().into(), port);
    let write = |name: &str, objects: Vec<Object>| {
        shop.topology.mesh().write(&format!("{name}.yaml"), objects).unwrap();
    };
    let get = |at: SocketAddr| -> Result<u16> {
        Ok(Client::new(shop.web.connect(at)?).get("a", "/only")?.status())
    };
    assert!(get(direct).is_err(), "unknown and yet reached");
    let none = |address: String, port: u16| json!({"addresses": [address], "resolution": "NONE", "ports": [{"number": port, "name": "http", "protocol": "HTTP"}]});
    write("one", vec![entry("one", "one.example.com", none(shop.outside.v4().to_string(), port))]);
    eventually(SOON, || {
        ensure!(get(direct)? == 200);
        Ok(())
    })
    .unwrap();
    let at_range = SocketAddr::new(shop.outside.v4().into(), ranged);
    assert!(get(at_range).is_err(), "a port that nothing names");
    write(
        "range",
        vec![entry("range", "range.example.com", none(format!("{}/28", shop.outside.v4()), ranged))],
    );
    eventually(SOON, || {
        ensure!(get(at_range)? == 200);
        Ok(())
    })
    .unwrap();
    assert!(seen.count() >= 1 && seen_ranged.count() >= 1);
    let other_port = shop.port();
    let (_unknown, seen_unknown) = echo(&shop.outside, other_port);
    assert!(
        get(SocketAddr::new(shop.outside.v4().into(), other_port)).is_err(),
        "still refused, by the agent"
    );
    assert_eq!(seen_unknown.count(), 0);

    let vip = SocketAddr::new(shop.vips().0.into(), 80);
    let tls = json!({"mode": "SIMPLE", "caCertificates": shared.authority.file()});
    let host = "secret.example.com";
    let objects =
        [entry("secret", host, fixed(vip, "HTTP", port, &[shop.outside.v4()])), rule("secret", host, tls)];
    write("secret", objects.to_vec());
    shop.wait_known(host).unwrap();
    assert_eq!(get(vip).unwrap(), 503, "the server speaks no TLS");
    let before = seen.count();
    let mut shop = shop;
    shop.agent.kill();
    let web = shop.web.clone();
    eventually(SOON, || {
        let stream = web.connect(direct).context("fail mode open")?;
        ensure!(Client::new(stream).get("a", "/open")?.status() == 200);
        Ok(())
    })
    .unwrap();
    assert!(web.connect(vip).is_err(), "plain text where TLS was asked for");
    assert_eq!(seen.count(), before + seen.of("/open").len());
}
