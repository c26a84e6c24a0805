//! Certificates and roots that change under load: nobody loses a request for it, and no connection is dropped.

use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::scope;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mesh_tests::lab::{Agent, Object, eventually};
use mesh_tests::nodes::{Nodes, ca_dir};
use mesh_tests::pki::MeshAuthority;
use mesh_tests::policy::destination_rule;
use mesh_tests::server::Server;
use mesh_tests::shop::NAMESPACE;
use mesh_tests::{PATIENCE, agent_options, peers};

use crate::{ask, echo};

/// One kind of requests, and opaque connections beside them, until `stop`.
struct Load<'n> {
    nodes: &'n Nodes,
    bytes: SocketAddr,
    stop: AtomicBool,
    exchanges: AtomicU64,
}

impl Load<'_> {
    /// One connection for all of the time.
    fn stream(&self) {
        let mut stream = self.nodes.web.connect(self.bytes).unwrap();
        while !self.stop.load(Ordering::Relaxed) {
            self.exchange(&mut stream);
        }
    }

    /// One connection after the other.
    fn connections(&self) {
        while !self.stop.load(Ordering::Relaxed) {
            self.exchange(&mut self.nodes.web.connect(self.bytes).unwrap());
        }
    }

    fn exchange(&self, stream: &mut TcpStream) {
        assert_eq!(ask(stream, b"0123456789"), b"0123456789");
        self.exchanges.fetch_add(1, Ordering::Relaxed);
        // The pace of it: the requests are what is to fill the machine.
        std::thread::sleep(Duration::from_millis(10));
    }

    /// h2load at a fixed rate: how many requests were answered with 200.
    fn requests(&self, to: SocketAddr, args: &[&str], rate: u32, seconds: u64) -> Result<u64> {
        let each = (rate / 4).to_string();
        let (seconds, url) = (seconds.to_string(), format!("http://{to}/"));
        let command =
            self.nodes.web.command("h2load").args(["-c", "4", "-t", "1", "--rps", &each, "-D", &seconds]);
        let limit = Duration::from_secs(seconds.parse::<u64>()? + 60);
        let said = command.args(args).arg(&url).run(limit)?.success()?.stdout;
        let line = |begin: &str| {
            let line = said.lines().find(|line| line.starts_with(begin));
            line.with_context(|| format!("no {begin} in:\n{said}"))
        };
        let requests = line("requests: ")?;
        ensure!(requests.contains(" 0 failed, 0 errored, 0 timeout"), "{said}");
        let codes = line("status codes: ")?;
        ensure!(codes.contains(" 0 3xx, 0 4xx, 0 5xx"), "{said}");
        println!("{requests}\n{codes}");
        let done = codes["status codes: ".len()..].split(' ').next().unwrap_or_default();
        Ok(done.parse()?)
    }
}

/// Ends the load, also where something else fails: the scope waits for it.
struct Ends<'l>(&'l AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn certificate(agent: &Agent, account: &str) -> Result<(String, String)> {
    let rows = agent.cli_json(&["get", "certs"])?;
    let row = rows.as_array().into_iter().flatten().find(|row| row["name"] == account);
    let row = row.with_context(|| format!("no {account} in {rows}"))?;
    ensure!(row["state"] == "valid", "{row}");
    let text = |field: &str| row[field].as_str().unwrap_or_default().to_owned();
    Ok((text("serial"), text("root")))
}

fn roots_are(nodes: &Nodes, count: f64) {
    for agent in [&nodes.near, &nodes.far] {
        agent
            .wait_metrics(PATIENCE, |metrics| {
                let roots = metrics.sum("mesh_agent_certificate_roots", &[]);
                ensure!(roots == count, "{roots} roots");
                Ok(())
            })
            .unwrap();
    }
}

/// Has another root take the place of the one, step by step as docs/identity.md says.
fn replace_root(nodes: &Nodes, former: &MeshAuthority, next: &MeshAuthority) {
    let dir = ca_dir(&nodes.topology);
    former.install(&dir, &[next]).unwrap();
    roots_are(nodes, 2.0);
    next.install(&dir, &[former]).unwrap();
    for (agent, account) in [(&nodes.near, "web"), (&nodes.far, "cart")] {
        eventually(PATIENCE, || {
            let (_, root) = certificate(agent, account)?;
            ensure!(root == "CN=next", "{account} is still under {root}");
            Ok(())
        })
        .unwrap();
    }
    next.install(&dir, &[]).unwrap();
    roots_are(nodes, 1.0);
}

/// `rate` requests a second for `seconds` over certificates of that life, which are renewed, and whose root is replaced
/// meanwhile. None where agents can't run.
fn rotate(name: &str, life: u64, rate: u32, seconds: u64) -> Option<()> {
    let former = MeshAuthority::named("former").unwrap();
    let options = agent_options()?.flag("certificate-lifetime", format!("{life}s"));
    let nodes = Nodes::under(name, &options, &former).unwrap();
    let (h1, h2, tcp) = (nodes.port(), nodes.port(), nodes.port());
    let location = "location / { return 200 ok; } keepalive_requests 1000000;";
    let http = format!("server {{ listen {h1}; {location} }} server {{ listen {h2} http2; {location} }}");
    let _nginx = peers::nginx(&nodes.topology, &nodes.cart, h1, &http).unwrap();
    let _echo = Server::new(nodes.cart.listen(tcp).unwrap(), |stream, _| echo(stream));
    // Agents' connections end after so many requests: handshakes all the time, not only in the first second.
    let rules = ["one", "two"].map(|service| {
        let policy = "{connectionPool: {http: {maxRequestsPerConnection: 20}}}";
        destination_rule(NAMESPACE, service, policy).unwrap()
    });
    nodes.topology.mesh().write("rules.yaml", rules.map(Object::from)).unwrap();
    let one = nodes.expose("one", "http", h1, &[&nodes.cart]).unwrap();
    let two = nodes.expose("two", "http2", h2, &[&nodes.cart]).unwrap();
    let bytes = nodes.expose("bytes", "tcp", tcp, &[&nodes.cart]).unwrap();
    let load = Load { nodes: &nodes, bytes, stop: AtomicBool::new(false), exchanges: AtomicU64::new(0) };
    let serials = || [(&nodes.near, "web"), (&nodes.far, "cart")].map(|(a, b)| certificate(a, b).unwrap().0);
    let (before, begun) = (serials(), Instant::now());
    let all = scope(|scope| {
        let _end = Ends(&load.stop);
        let stream = scope.spawn(|| load.stream());
        let connections = scope.spawn(|| load.connections());
        let requests = [
            scope.spawn(|| load.requests(one, &["--h1"], rate / 2, seconds)),
            scope.spawn(|| load.requests(two, &[], rate / 2, seconds)),
        ];
        // Not before every certificate has been renewed by itself.
        eventually(Duration::from_secs(life), || {
            let now = serials();
            ensure!(now.iter().zip(&before).all(|(now, before)| now != before), "still {now:?}");
            Ok(())
        })
        .unwrap();
        let renewed = begun.elapsed();
        replace_root(&nodes, &former, &MeshAuthority::named("next").unwrap());
        println!("renewed after {renewed:?}, the root replaced after {:?}", begun.elapsed());
        assert!(begun.elapsed() < Duration::from_secs(seconds), "the load was over before");
        let all = requests.map(|requests| requests.join().unwrap().unwrap());
        load.stop.store(true, Ordering::Relaxed);
        stream.join().unwrap();
        connections.join().unwrap();
        all
    });
    let least = u64::from(rate) / 2 * seconds * 9 / 10;
    assert!(all.iter().all(|answered| *answered >= least), "{all:?} answered, {least} expected");
    // In the end nothing was dropped on the way either.
    for (agent, direction) in [(&nodes.near, "outbound"), (&nodes.far, "inbound")] {
        let metrics = agent.metrics().unwrap();
        let count = |labels: &[(&str, &str)]| metrics.sum("mesh_agent_mesh_handshakes_total", labels);
        let (handshakes, done) = (count(&[]), count(&[("direction", direction), ("result", "ok")]));
        assert_eq!(handshakes, done, "a handshake failed");
        assert!(done > seconds as f64, "{done} handshakes");
        println!("{direction}: {done} handshakes");
    }
    println!("{all:?} requests, {} exchanges, {:?}", load.exchanges.load(Ordering::Relaxed), begun.elapsed());
    Some(())
}

#[test]
fn certificates_and_roots_change_under_load_without_a_failed_request() {
    rotate("rotation", 10, 200, 18);
}

/// The long one: certificates of 60 s life, ten minutes, 500 requests a second.
///
/// `cargo xtask build && cargo test -p mesh-tests --test mtls -- --ignored --nocapture ten_minutes`
#[test]
#[ignore = "takes ten minutes"]
fn ten_minutes_of_certificates_of_a_minutes_life_without_a_failed_request() {
    rotate("rotationlong", 60, 500, 600);
}
