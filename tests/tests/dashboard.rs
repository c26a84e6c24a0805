//! `mesh-agent dashboard` in a real browser: what the page shows is what the metrics say, and nobody else gets to see it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_tests::http1::{Client, echo_server};
use mesh_tests::lab::{Agent, AgentOptions, MetricsText, Object, PodObject, Running, eventually};
use mesh_tests::nodes::Nodes;
use mesh_tests::server::Server;
use mesh_tests::shop::NAMESPACE;
use mesh_tests::sockets::Host;
use mesh_tests::{PATIENCE, SOON, need_agent, need_shop, shared_shop};
use nix::sys::signal::Signal;
use serde_json::json;

shared_shop!("dashboard");

/// Who both versions are.
const CART: &str = "spiffe://cluster.local/ns/shop/sa/cart";
/// All that the browser does, with its start, on a busy machine.
const BROWSING: Duration = Duration::from_secs(240);

#[test]
fn the_page_shows_what_the_metrics_say() {
    let options = need_agent!();
    let mut scene = Scene::start("dashboard-page", &options).unwrap();
    scene.traffic().unwrap();
    let (dashboard, url) = open(&scene.nodes.near, options.binary()).unwrap();
    let expected = scene.expected().unwrap();
    let pictures = page().join("../target/dashboard");
    std::fs::create_dir_all(&pictures).unwrap();
    let mut node = Command::new("node");
    node.arg(page().join("test/drive.js")).arg(&url).arg(&pictures).arg(expected.to_string());
    let mut browser = Running::start(node).unwrap();
    wait_for(&mut browser, "kill");
    scene.nodes.near.kill();
    browser.write(b"\n").unwrap();
    wait_for(&mut browser, "start");
    scene.nodes.near.restart().unwrap();
    browser.write(b"\n").unwrap();
    let said = browser.finish(BROWSING).unwrap().success().unwrap().stdout;
    each_command_is_one(&scene.nodes.near, &said);
    // Ctrl-C is how it ends.
    dashboard.signal(Signal::SIGINT);
    let ended = dashboard.finish(SOON).unwrap();
    assert_eq!(ended.code, 0, "{}", ended.stderr);
}

#[test]
fn whoever_has_no_token_sees_nothing() {
    let shop = need_shop!();
    let options = need_agent!();
    let (_dashboard, url) = open(&shop.agent, options.binary()).unwrap();
    let page = Address::of(&url);
    let place = page.place.as_str();
    let host = page.at.to_string();
    let get =
        |path: &str, more: &str| page.ask(&format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{more}\r\n"));

    let (status, head) = get(&format!("{place}?token={}", page.token), "");
    assert_eq!(status, 303, "{head}");
    let cookie = head.lines().find_map(|line| line.strip_prefix("set-cookie: ")).unwrap().to_owned();
    assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"), "{cookie}");
    let key = format!("Cookie: {}\r\n", cookie.split(';').next().unwrap());
    let status_of = |path: &str, more: &str| get(path, more).0;
    let api = format!("{place}v1/status");
    assert_eq!(status_of(&api, &key), 200);

    for (path, more, expected) in [
        (format!("{place}?token=wrong"), "", 403),
        (api.clone(), "", 401),
        (api.clone(), "Cookie: mesh-agent=wrong\r\n", 401),
        ("/".to_owned(), "", 404),
        ("/v1/status".to_owned(), key.as_str(), 404),
        (format!("{place}v1/config"), &key, 404),
        (format!("{place}v1/drain"), &key, 404),
        (api.clone(), &format!("{key}Sec-Fetch-Site: cross-site\r\n"), 403),
    ] {
        assert_eq!(status_of(&path, more), expected, "{path} with {more:?}");
    }
    for host in ["evil.example", &format!("evil.example:{}", page.at.port()), "127.0.0.1"] {
        let asked = page.ask(&format!("GET {api} HTTP/1.1\r\nHost: {host}\r\n{key}\r\n"));
        assert_eq!(asked.0, 421, "{host}");
    }
    for method in ["POST", "PUT", "DELETE", "HEAD", "OPTIONS"] {
        let asked = page.ask(&format!("{method} {api} HTTP/1.1\r\nHost: {host}\r\n{key}\r\n"));
        assert_eq!(asked.0, 405, "{method}");
    }
    let (_, head) = get(place, "");
    for header in [
        "content-security-policy: default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'",
        "x-content-type-options: nosniff",
        "referrer-policy: no-referrer",
        "cache-control: no-store",
    ] {
        assert!(head.contains(header), "no {header} in {head}");
    }
    assert!(!head.contains("-inline'") && !head.contains("-eval'"), "{head}");
}

#[test]
fn it_is_for_those_who_may_ask_the_agent() {
    let shop = need_shop!();
    let away = shop.topology.scratch().join("nobody");
    let asked = shop.agent.cli(&["dashboard", "--no-open", "--state-dir", &away.display().to_string()]);
    let asked = asked.unwrap();
    assert_eq!((asked.code, asked.stdout.as_str()), (69, ""), "{}", asked.stderr);
    let all = shop.agent.cli(&["dashboard", "--all-nodes"]).unwrap();
    assert_eq!(all.code, 64, "{}", all.stderr);
}

#[test]
fn the_pages_pure_parts_hold() {
    let mut node = Command::new("node");
    node.args(["--test", "test/unit/"]).current_dir(page());
    Running::start(node).unwrap().finish(PATIENCE).unwrap().success().unwrap();
}

/// Two nodes: a service with two versions behind a route, over mutual TLS; one that fails; one on the own node, in plain text; an
/// opaque connection.
struct Scene {
    nodes: Nodes,
    at: [SocketAddr; 4],
    _servers: Vec<Server>,
    _versions: Vec<Host>,
    held: Option<TcpStream>,
}

impl Scene {
    fn start(name: &str, options: &AgentOptions) -> Result<Self> {
        let nodes = Nodes::start(name, options)?;
        let mut servers = Vec::new();
        let mut serve = |host: &Host, name: &str, port_name: &str| {
            let port = nodes.port();
            servers.push(echo_server(host.listen(port)?, name).0);
            nodes.expose(name, port_name, port, &[host])
        };
        let version = |name: &str| Host::new(&nodes.topology, nodes.nodes[1].pod(name)?);
        let versions = vec![version("cart-v1")?, version("cart-v2")?];
        let objects = versions.iter().map(|pod| PodObject::of(pod, NAMESPACE).service_account("cart").into());
        nodes.topology.mesh().write("versions.yaml", objects.collect::<Vec<Object>>())?;
        for pod in &versions {
            serve(pod, pod.name(), "http")?;
        }
        let cart = serve(&nodes.cart, "cart", "http")?;
        let till = serve(&nodes.till, "till", "http")?;
        let shelf = serve(&nodes.shelf, "shelf", "http")?;
        let store = serve(&nodes.shelf, "store", "tcp")?;
        nodes.topology.mesh().write_text(
            "canary.yaml",
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: canary, namespace: shop}\n\
             spec: {parentRefs: [{group: \"\", kind: Service, name: cart}], rules: [{backendRefs: [\
             {name: cart-v1, port: 80, weight: 90}, {name: cart-v2, port: 80, weight: 10}]}]}\n",
        )?;
        eventually(SOON, || {
            let listed = nodes.near.cli(&["get", "routes", "-o", "name"])?.success()?.stdout;
            ensure!(listed.contains("canary"), "{listed}");
            Ok(())
        })?;
        Ok(Self { nodes, at: [cart, till, shelf, store], _servers: servers, _versions: versions, held: None })
    }

    /// A run that is over, but for one connection that stays open.
    fn traffic(&mut self) -> Result<()> {
        let [cart, till, shelf, store] = self.at;
        let client = |at| anyhow::Ok(Client::new(self.nodes.web.connect(at)?));
        // Until both versions are captured on their node, and reached through its agent.
        eventually(SOON, || {
            ensure!(client(cart)?.get("cart", "/")?.status() == 200, "the other node isn't reached yet");
            let metrics = self.nodes.near.metrics()?;
            for name in ["cart-v1", "cart-v2"] {
                let proven = [("destination_service_name", name), ("destination_principal", CART)];
                ensure!(
                    metrics.sum("istio_requests_total", &proven) > 0.0,
                    "{name} isn't reached in mutual TLS"
                );
            }
            Ok(())
        })?;
        let (mut cart, mut till, mut shelf) = (client(cart)?, client(till)?, client(shelf)?);
        for _ in 0..300 {
            ensure!(cart.get("cart", "/")?.status() == 200);
        }
        for number in 0..30 {
            let path = if number % 3 == 0 { "/status/500" } else { "/" };
            till.get("till", path)?;
        }
        for _ in 0..40 {
            ensure!(shelf.get("shelf", "/")?.status() == 200);
        }
        let mut restock = Client::new(self.nodes.shelf.connect(self.at[1])?);
        for _ in 0..5 {
            ensure!(restock.get("till", "/")?.status() == 200);
        }
        let mut opaque = client(store)?;
        opaque.get("store", "/")?;
        self.held = Some(self.nodes.web.connect(store)?);
        Ok(())
    }

    /// What the page has to show, by the metrics.
    fn expected(&self) -> Result<serde_json::Value> {
        let agent = &self.nodes.near;
        let metrics = agent.metrics()?;
        let services = ["cart-v1", "cart-v2", "till", "shelf"].map(|name| {
            let failures = requests(&metrics, name, Some("500"));
            json!({ "namespace": "shop", "name": name, "requests": requests(&metrics, name, None), "failures": failures })
        });
        let all: u64 = services.iter().filter_map(|it| it["requests"].as_u64()).sum();
        ensure!(all > 370, "{services:?}");
        Ok(json!({
            "node": "node-a",
            "services": services,
            "links": [
                ["workload/shop/web>service/shop/cart-v1", "mutual_tls"],
                ["workload/shop/web>service/shop/cart-v2", "mutual_tls"],
                ["workload/shop/web>service/shop/till", "mutual_tls"],
                ["workload/shop/web>service/shop/shelf", "none"],
                ["service/shop/shelf>service/shop/till", "mutual_tls"],
            ],
            "health": [["service/shop/till", "failing"], ["service/shop/shelf", "healthy"]],
        }))
    }
}

fn requests(metrics: &MetricsText, service: &str, code: Option<&str>) -> u64 {
    let mut labels = vec![("reporter", "source"), ("destination_service_name", service)];
    labels.extend(code.map(|code| ("response_code", code)));
    metrics.sum("istio_requests_total", &labels) as u64
}

/// Every command that the page names is one that this command line understands.
fn each_command_is_one(agent: &Agent, said: &str) {
    let list = said.lines().find_map(|line| line.strip_prefix("commands ")).expect("the page's commands");
    let commands: Vec<String> = serde_json::from_str(list).unwrap();
    assert!(commands.len() >= 8, "{commands:?}");
    for command in commands {
        let words: Vec<&str> = command.split(' ').skip(1).filter(|word| *word != "-f").collect();
        let ended = agent.cli(&words).unwrap();
        assert_ne!(ended.code, 64, "{command}: {}", ended.stderr);
    }
}

/// Starts it for `agent`, and waits for the address.
fn open(agent: &Agent, binary: &Path) -> Result<(Running, String)> {
    let mut command = Command::new(binary);
    command.args(["dashboard", "--no-open"]).env("MESH_AGENT_STATE_DIR", agent.state_dir());
    let dashboard = Running::start(command)?;
    let url = eventually(SOON, || {
        let said = dashboard.stdout();
        let (line, _) =
            said.split_once('\n').with_context(|| format!("no address: {}", dashboard.stderr()))?;
        Ok(line.to_owned())
    })?;
    Ok((dashboard, url))
}

/// Waits for a line of the browser's; if it ends before, what it said is the failure.
fn wait_for(browser: &mut Running, line: &str) {
    browser.wait_for_line(line, BROWSING).unwrap();
}

fn page() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../page")
}

/// The parts of the printed address.
struct Address {
    at: SocketAddr,
    place: String,
    token: String,
}

impl Address {
    fn of(url: &str) -> Self {
        let rest = url.strip_prefix("http://").unwrap();
        let (at, path) = rest.split_once('/').unwrap();
        let (place, token) = path.split_once("?token=").unwrap();
        Self { at: at.parse().unwrap(), place: format!("/{place}"), token: token.to_owned() }
    }

    /// One request on a connection of its own: status and head.
    fn ask(&self, request: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.at).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let (mut head, mut byte) = (Vec::new(), [0]);
        while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() == 1 {
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), head)
    }
}
