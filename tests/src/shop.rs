//! The topology that most suites share: one node with its agent, client pods, three endpoints, one host outside.
//!
//! Each test adds services of its own, with addresses of their own, so that figures never mix.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_agent::lab::{
    Agent, AgentOptions, MetricsText, NamespaceObject, Node, Object, PodObject, ServiceObject, SliceObject,
    Topology, eventually,
};

use crate::SOON;
use crate::http1::{Client, Message, Seen, echo_server};
use crate::server::Server;
use crate::sockets::Host;

/// Namespace of everything in it.
pub const NAMESPACE: &str = "shop";

/// A node, its agent and its pods.
pub struct Shop {
    /// The agent.
    pub agent: Agent,
    /// Client, enrolled.
    pub web: Host,
    /// Another client, enrolled.
    pub batch: Host,
    /// Endpoints, enrolled.
    pub carts: [Host; 3],
    /// In no mesh and under no hook.
    pub outside: Host,
    /// The node.
    pub node: Node,
    /// Everything stands on it.
    pub topology: Topology,
    next_vip: AtomicU16,
    next_port: AtomicU16,
}

impl Shop {
    /// Builds it and starts the agent.
    pub fn start(name: &str, options: AgentOptions) -> Result<Self> {
        Self::start_with(name, options, |pod| pod)
    }

    /// Builds it with every Pod object changed by `with`.
    pub fn start_with(
        name: &str,
        options: AgentOptions,
        with: impl Fn(PodObject) -> PodObject,
    ) -> Result<Self> {
        let topology = Topology::new(name)?;
        let node = topology.node("node-a")?;
        let host = |name: &str| Host::new(&topology, node.pod(name)?);
        let (web, batch) = (host("web")?, host("batch")?);
        let carts = [host("cart-1")?, host("cart-2")?, host("cart-3")?];
        let outside = Host::new(&topology, topology.outsider("outside")?)?;
        let mut objects = vec![Object::from(NamespaceObject::new(NAMESPACE).enabled())];
        for pod in [&web, &batch] {
            objects.push(
                with(PodObject::of(pod, NAMESPACE).label("version", "v1").service_account(pod.name())).into(),
            );
        }
        for (i, pod) in carts.iter().enumerate() {
            let version = if i == 2 { "v2" } else { "v1" };
            let object = PodObject::of(pod, NAMESPACE).label("app", "cart").label("version", version);
            objects.push(with(object.service_account("cart")).into());
        }
        topology.mesh().write("00-shop.yaml", objects)?;
        let agent = node.agent(options)?;
        let (next_vip, next_port) = (AtomicU16::new(10), AtomicU16::new(20000));
        Ok(Self { agent, web, batch, carts, outside, node, topology, next_vip, next_port })
    }

    /// A pair of service addresses that nothing uses.
    pub fn vips(&self) -> (Ipv4Addr, Ipv6Addr) {
        let n = self.next_vip.fetch_add(1, Ordering::Relaxed);
        let [high, low] = n.to_be_bytes();
        (Ipv4Addr::new(10, 96, high, low), Ipv6Addr::new(0xfd96, 0, 0, 0, 0, 0, 0, n))
    }

    /// A port that no server of this shop uses.
    pub fn port(&self) -> u16 {
        self.next_port.fetch_add(1, Ordering::Relaxed)
    }

    /// Adds a service with one port, 80, over `endpoints`, and waits until the agent knows it. `port_name` declares
    /// the protocol; empty for none.
    pub fn expose(&self, name: &str, port_name: &str, target: u16, endpoints: &[&Host]) -> Result<Service> {
        self.expose_with(name, port_name, target, endpoints, |service| service)
    }

    /// The same with the Service object changed by `with`.
    pub fn expose_with(
        &self,
        name: &str,
        port_name: &str,
        target: u16,
        endpoints: &[&Host],
        with: impl Fn(ServiceObject) -> ServiceObject,
    ) -> Result<Service> {
        let (v4, v6) = self.vips();
        let object = with(ServiceObject::new(NAMESPACE, name).vip(v4).vip(v6).port(port_name, 80));
        let slice = slice(name, port_name, target, endpoints);
        self.topology.mesh().write(&format!("svc-{name}.yaml"), [object.into(), slice])?;
        let service = Service { name: name.to_owned(), port_name: port_name.to_owned(), target, v4, v6 };
        self.wait_known(&service.name)?;
        Ok(service)
    }

    /// Adds a service that has no endpoints, nor a slice, and waits until the agent knows it.
    pub fn bare(&self, name: &str, port_name: &str) -> Result<Service> {
        let (v4, v6) = self.vips();
        let object = ServiceObject::new(NAMESPACE, name).vip(v4).vip(v6).port(port_name, 80);
        self.topology.mesh().write(&format!("svc-{name}.yaml"), [Object::from(object)])?;
        self.wait_known(name)?;
        Ok(Service { name: name.to_owned(), port_name: port_name.to_owned(), target: 0, v4, v6 })
    }

    /// Waits until connect(2) to the service fails for want of an endpoint.
    pub fn is_unreachable(&self, service: &Service) -> Result<()> {
        eventually(SOON, || {
            let refused = self.web.connect(service.at()).err().and_then(|error| error.raw_os_error());
            ensure!(refused == Some(nix::libc::EHOSTUNREACH), "{refused:?}");
            Ok(())
        })
    }

    /// Writes the service's slice anew, in a file of its own.
    pub fn rewrite_endpoints(&self, service: &Service, slice: impl Into<Object>) -> Result<()> {
        let Service { name, port_name, v4, v6, .. } = service;
        let object = ServiceObject::new(NAMESPACE, name).vip(*v4).vip(*v6).port(port_name, 80);
        self.topology.mesh().write(&format!("svc-{name}.yaml"), [object.into(), slice.into()])
    }

    /// Echo servers of HTTP/1 on the first `count` carts and a service over them.
    pub fn http(&self, name: &str, port_name: &str, count: usize) -> Result<HttpService> {
        self.http_with(name, port_name, count, |service| service)
    }

    /// The same with the Service object changed by `with`.
    pub fn http_with(
        &self,
        name: &str,
        port_name: &str,
        count: usize,
        with: impl Fn(ServiceObject) -> ServiceObject,
    ) -> Result<HttpService> {
        let target = self.port();
        let hosts: Vec<&Host> = self.carts.iter().take(count).collect();
        let mut backends = Vec::new();
        for host in &hosts {
            let (server, seen) = echo_server(host.listen(target)?, host.name());
            backends.push(Backend { server, seen, host: (*host).clone() });
        }
        let service = self.expose_with(name, port_name, target, &hosts, with)?;
        Ok(HttpService { service, backends })
    }

    /// Waits until the agent lists the service.
    pub fn wait_known(&self, name: &str) -> Result<()> {
        eventually(SOON, || {
            let listed = self.agent.cli(&["get", "services", "-o", "name"])?.success()?.stdout;
            ensure!(
                listed.lines().any(|line| line.trim().ends_with(&format!("/{name}"))),
                "{name} is not in:\n{listed}"
            );
            Ok(())
        })
    }

    /// True once `from` is captured: a request of it to a service address is answered. Before that such an address
    /// leads nowhere, so the wait for it is short.
    pub fn reaches(&self, from: &Host, service: &Service) -> Result<()> {
        let stream = from.connect_within(service.at(), Duration::from_millis(300))?;
        ensure!(Client::new(stream).get(&service.name, "/")?.status() == 200);
        Ok(())
    }

    /// A client connection from `web`.
    pub fn client(&self, service: &Service) -> Result<Client> {
        let address = service.at();
        Ok(Client::new(self.web.connect(address).with_context(|| format!("connecting to {address}"))?))
    }

    /// One GET from `web` on a connection of its own.
    pub fn get(&self, service: &Service, path: &str) -> Result<Message> {
        Ok(self.client(service)?.get(&service.name, path)?)
    }

    /// Waits until /metrics satisfies `check`.
    pub fn metrics_show(&self, check: impl Fn(&MetricsText) -> Result<()>) -> Result<()> {
        self.agent.wait_metrics(SOON, check)
    }

    /// A counter of kernel decisions now.
    pub fn reason(&self, reason: &str) -> f64 {
        self.agent.metrics().map_or(f64::NAN, |metrics| metrics.reason(reason))
    }

    /// Waits until a counter of kernel decisions has grown by `by` since `before`.
    pub fn reason_grows(&self, reason: &str, before: f64, by: f64) -> Result<()> {
        self.metrics_show(|metrics| {
            let now = metrics.reason(reason);
            ensure!(now >= before + by, "{reason}: {before}, then {now}, expected {by} more");
            Ok(())
        })
    }

    /// Waits for a line of the access log that satisfies `check`.
    pub fn log_shows(
        &self,
        what: &str,
        check: impl Fn(&serde_json::Value) -> bool,
    ) -> Result<serde_json::Value> {
        eventually(SOON, || {
            let lines = self.agent.access_log();
            let found = lines.iter().find(|line| check(line)).cloned();
            found.with_context(|| format!("no access log line with {what} among {} lines", lines.len()))
        })
    }

    /// The agent's log, its last lines; for failures.
    pub fn log_tail(&self) -> String {
        let log = self.agent.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}

/// A slice with these pods ready.
pub fn slice(service: &str, port_name: &str, target: u16, endpoints: &[&Host]) -> Object {
    let slice = SliceObject::new(NAMESPACE, service, &format!("{service}-4")).port(port_name, target);
    slice.pods(NAMESPACE, endpoints.iter().map(|host| &***host)).into()
}

/// A service of a test.
#[derive(Clone, Debug)]
pub struct Service {
    /// Name.
    pub name: String,
    /// Name of its one port.
    pub port_name: String,
    /// The endpoints' port.
    pub target: u16,
    /// Address.
    pub v4: Ipv4Addr,
    /// Address.
    pub v6: Ipv6Addr,
}

impl Service {
    /// Its IPv4 address and port.
    pub fn at(&self) -> SocketAddr {
        SocketAddr::new(self.v4.into(), 80)
    }

    /// Its IPv6 address and port.
    pub fn at6(&self) -> SocketAddr {
        SocketAddr::new(IpAddr::V6(self.v6), 80)
    }

    /// URL with a path.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.at())
    }
}

/// A service with its HTTP/1 servers.
pub struct HttpService {
    /// The service.
    pub service: Service,
    /// Its endpoints.
    pub backends: Vec<Backend>,
}

impl std::ops::Deref for HttpService {
    type Target = Service;
    fn deref(&self) -> &Service {
        &self.service
    }
}

impl HttpService {
    /// What its only endpoint received, or the first's.
    pub fn seen(&self) -> &Seen {
        &self.backends[0].seen
    }

    /// The request with this target, by whichever endpoint.
    pub fn request(&self, target: &str) -> Option<Message> {
        self.backends.iter().find_map(|backend| backend.seen.of(target).into_iter().next())
    }

    /// How many requests each endpoint received.
    pub fn counts(&self) -> Vec<usize> {
        self.backends.iter().map(|backend| backend.seen.count()).collect()
    }
}

/// One endpoint of it.
pub struct Backend {
    /// The server.
    pub server: Server,
    /// What it received.
    pub seen: Seen,
    /// Where it runs.
    pub host: Host,
}

/// One [`Shop`] for a whole file: `shop()` gives it, or `None` where agents can't run. Panics print the agent's log.
#[macro_export]
macro_rules! shared_shop {
    ($name:literal $(, $flag:literal = $value:expr)*) => {
        fn shop() -> Option<&'static $crate::shop::Shop> {
            static SHOP: std::sync::OnceLock<Option<$crate::shop::Shop>> = std::sync::OnceLock::new();
            SHOP.get_or_init(|| {
                let options = $crate::agent_options()?$(.flag($flag, $value))*;
                let shop = $crate::shop::Shop::start($name, options).expect("the shared topology");
                let print = std::panic::take_hook();
                std::panic::set_hook(Box::new(move |info| {
                    print(info);
                    if let Some(Some(shop)) = SHOP.get() {
                        eprintln!("the agent's log ends:\n{}", shop.log_tail());
                    }
                }));
                Some(shop)
            })
            .as_ref()
        }
    };
}

/// The file's shared shop, or out of the test.
#[macro_export]
macro_rules! need_shop {
    () => {
        match shop() {
            Some(shop) => shop,
            None => return,
        }
    };
}
