//! Agents that are replaced and pods that become somebody else, while other nodes speak to them.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::scope;

use anyhow::{Context, Result, ensure};
use mesh_tests::http1::{Client, echo_server};
use mesh_tests::http2::{H2Server, answer, get, with_client};
use mesh_tests::lab::{Object, PodObject, Running, eventually};
use mesh_tests::nodes::Nodes;
use mesh_tests::server::Server;
use mesh_tests::shop::NAMESPACE;
use mesh_tests::sockets::Host;
use mesh_tests::{PATIENCE, SOON, agent_options};

use crate::scene::{id, need_scene};
use crate::{ask, echo};

/// Asks in one of several ways until told to stop.
struct Clients<'n> {
    web: &'n Host,
    /// Access logs of both agents, for what they say of a failure.
    logs: [PathBuf; 2],
    stop: AtomicBool,
    counts: [AtomicU64; 4],
}

impl Clients<'_> {
    fn go_on(&self, way: usize) -> bool {
        self.counts[way].fetch_add(1, Ordering::Relaxed);
        !self.stop.load(Ordering::Relaxed)
    }

    /// HTTP/1: `requests` on a connection, one after the other.
    fn http1(&self, way: usize, to: SocketAddr, requests: usize) -> Result<()> {
        while !self.stop.load(Ordering::Relaxed) {
            let mut client = Client::new(self.web.connect(to).context("connecting")?);
            for _ in 0..requests {
                let answer = client.get("h", "/")?;
                ensure!(answer.status() == 200, "{}", answer.head);
                if !self.go_on(way) || answer.header("connection") == Some("close") {
                    break;
                }
            }
        }
        Ok(())
    }

    /// HTTP/2: `requests` on a connection, one after the other.
    fn http2(&self, to: SocketAddr, requests: usize) -> Result<()> {
        while !self.stop.load(Ordering::Relaxed) {
            with_client(self.web.connect(to)?, |client| async move {
                for _ in 0..requests {
                    let answer = get(&client, "h", "/").await?;
                    ensure!(answer.head.status == 200, "{:?}", answer.head);
                    if !self.go_on(2) {
                        break;
                    }
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Bytes, a connection for each exchange.
    fn bytes(&self, to: SocketAddr) -> Result<()> {
        while self.go_on(3) {
            ensure!(ask(&mut self.web.connect(to)?, b"hello") == b"hello");
        }
        Ok(())
    }

    /// Tells of a failure, which ends all others.
    fn end(&self, what: &str, result: Result<()>) {
        self.stop.store(true, Ordering::Relaxed);
        if let Err(error) = result {
            panic!("{what}: {error:#}\n{}", self.failures());
        }
    }

    /// Lines of both agents that have a flag.
    fn failures(&self) -> String {
        let texts = self.logs.each_ref().map(|log| std::fs::read_to_string(log).unwrap_or_default());
        let lines = texts.iter().flat_map(|text| text.lines());
        let failed = lines.filter(|line| !line.contains("\"response_flags\":\"-\""));
        failed.collect::<Vec<_>>().join("\n")
    }

    fn grow(&self) {
        let before = self.counts.each_ref().map(|count| count.load(Ordering::Relaxed));
        eventually(PATIENCE, || {
            let now = self.counts.each_ref().map(|count| count.load(Ordering::Relaxed));
            if self.stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            ensure!(
                now.iter().zip(&before).all(|(now, before)| *now >= before + 20),
                "{before:?}, now {now:?}"
            );
            Ok(())
        })
        .inspect_err(|_| self.stop.store(true, Ordering::Relaxed))
        .unwrap();
    }
}

fn ends(former: &mut Running) {
    let code = eventually(PATIENCE, || former.try_wait().context("the former agent goes on"));
    assert_eq!(code.unwrap(), 0, "{}", former.stderr());
}

#[test]
fn no_request_between_nodes_fails_while_either_agent_is_replaced() {
    let Some(options) = agent_options() else { return };
    let mut nodes = Nodes::start("mtlsupgrade", &options.flag("drain-time", "60s")).unwrap();
    let (h1, h2, tcp) = (nodes.port(), nodes.port(), nodes.port());
    let _h1 = echo_server(nodes.cart.listen(h1).unwrap(), "cart");
    let _h2 = H2Server::new(nodes.cart.listen(h2).unwrap(), None, |_, mut respond| async move {
        answer(&mut respond, &b"inside"[..], None);
    });
    let _tcp = Server::new(nodes.cart.listen(tcp).unwrap(), |stream, _| echo(stream));
    let one = nodes.expose("one", "http", h1, &[&nodes.cart]).unwrap();
    let two = nodes.expose("two", "http2", h2, &[&nodes.cart]).unwrap();
    let bytes = nodes.expose("bytes", "tcp", tcp, &[&nodes.cart]).unwrap();
    let web = nodes.web.clone();
    // The far agent's clients are agents, and the applications notice nothing. The near one's are the applications themselves,
    // whose idle connections end with the agent that has them: each is for one request there.
    for (far, requests) in [(true, usize::MAX), (false, 1)] {
        let logs = [&nodes.near, &nodes.far].map(|agent| agent.state_dir().join("access.log"));
        let clients = Clients { web: &web, logs, stop: AtomicBool::new(false), counts: Default::default() };
        scope(|scope| {
            scope.spawn(|| clients.end("a connection for each request", clients.http1(0, one, 1)));
            scope.spawn(|| clients.end("a connection that is kept", clients.http1(1, one, requests)));
            scope.spawn(|| clients.end("HTTP/2", clients.http2(two, requests)));
            scope.spawn(|| clients.end("bytes", clients.bytes(bytes)));
            clients.grow();
            for _ in 0..2 {
                let mut former = if far { nodes.far.upgrade() } else { nodes.near.upgrade() }.unwrap();
                clients.grow();
                ends(&mut former);
            }
            clients.stop.store(true, Ordering::Relaxed);
        });
        let agent = if far { &nodes.far } else { &nodes.near };
        let direction = if far { "inbound" } else { "outbound" };
        assert!(Nodes::handshakes(agent, direction, "ok") > 0.0, "the new agent carries nothing");
    }
}

#[test]
fn a_pod_that_becomes_another_account_is_another_identity_at_once() {
    let scene = need_scene!();
    let nodes = &scene.nodes;
    let pod = scene.pod(1, "shifty");
    let port = nodes.port();
    let (_server, _) = echo_server(pod.listen(port).unwrap(), "shifty");
    let bytes = nodes.port();
    let _echo = Server::new(pod.listen(bytes).unwrap(), |stream, _| echo(stream));
    let asked_of = |path: &str| {
        let answer = Client::new(nodes.web.connect(pod.at(port))?).get("s", path)?;
        ensure!(answer.status() == 200, "{}", answer.head);
        for agent in [&nodes.near, &nodes.far] {
            let line = Nodes::log_shows(agent, path, |line| line["path"] == path)?;
            ensure!(line["source_principal"] == id("web").as_str(), "{line}");
        }
        let line = Nodes::log_shows(&nodes.near, path, |line| line["path"] == path)?;
        Ok(line["destination_principal"].as_str().unwrap_or_default().to_owned())
    };
    assert_eq!(asked_of("/before").unwrap(), id("shifty"));
    assert_eq!(ask(&mut nodes.web.connect(pod.at(bytes)).unwrap(), b"before"), b"before");
    let object = PodObject::of(&pod, NAMESPACE).service_account("honest");
    nodes.topology.mesh().write("pod-shifty.yaml", [Object::from(object)]).unwrap();
    let mut asked = 0;
    eventually(SOON, || {
        asked += 1;
        let now = asked_of(&format!("/after-{asked}"))?;
        ensure!(now == id("honest"), "still {now}");
        Ok(())
    })
    .unwrap();
    // And never again as who it was, whatever connections were open.
    for round in 0..10 {
        assert_eq!(asked_of(&format!("/later-{round}")).unwrap(), id("honest"));
        assert_eq!(ask(&mut nodes.web.connect(pod.at(bytes)).unwrap(), b"after"), b"after");
    }
    let certificates = nodes.far.cli_json(&["get", "certs"]).unwrap();
    let names: Vec<_> = certificates.as_array().unwrap().iter().map(|row| row["name"].clone()).collect();
    assert!(names.contains(&"honest".into()) && !names.contains(&"shifty".into()), "{names:?}");
}
