//! Two nodes and what goes on between their pods: HTTP, gRPC and bytes, with and without mutual TLS, well and badly.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use h2::client::SendRequest;
use http::{HeaderMap, Request, Response};
use mesh_tests::http1::{Client, Seen, echo_server};
use mesh_tests::http2::{H2Server, collect, with_client};
use mesh_tests::lab::{
    Agent, AgentOptions, HttpRouteObject, NamespaceObject, Object, PodObject, ServiceObject, SliceObject,
    Topology, eventually,
};
use mesh_tests::server::Server;
use mesh_tests::sockets::Host;
use mesh_tests::{PATIENCE, SOON};
use serde_json::json;

/// Bytes of a request's body, and of what goes over an opaque connection.
pub const BODY: usize = 1000;
/// How long the slow service takes at least.
pub const SLOW_MS: u64 = 60;

/// Where an administrator has the kernel count what programs take.
const STATS: &str = "/proc/sys/kernel/bpf_stats_enabled";
const PAUSE: Duration = Duration::from_millis(150);

/// What the client has sent so far, by what came of it. One client, so one number for each.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sent {
    /// To `cart` on the other node, answered 200.
    pub cart: u64,
    /// To `cart`, answered 503 by the application.
    pub cart_fails: u64,
    /// To `shelf` on the client's own node, answered 200.
    pub shelf: u64,
    /// To `slow`, and the longest that one took, in milliseconds.
    pub slow: u64,
    /// See [`Self::slow`].
    pub slowest_ms: f64,
    /// To `lost`, which no route of leads anywhere.
    pub lost: u64,
    /// To `closed`, whose endpoint doesn't listen.
    pub closed: u64,
    /// gRPC calls to `rpc` that succeeded.
    pub rpc: u64,
    /// gRPC calls to `rpc` that ended with UNAVAILABLE.
    pub rpc_fails: u64,
    /// Opaque connections to `till` on the other node.
    pub till: u64,
    /// Opaque connections to `drawer` on the client's own node.
    pub drawer: u64,
}

/// Both nodes, with everybody at work.
pub struct Scene {
    /// Of the client's node.
    pub near: Agent,
    /// Of the other one.
    pub far: Agent,
    /// Everything stands on it.
    pub topology: Topology,
    client: Host,
    _counting: Counting,
    _hosts: [Host; 3],
    _servers: (Vec<(Server, Seen)>, Vec<Server>, H2Server),
}

const NAMES: [&str; 8] = ["cart", "shelf", "slow", "lost", "closed", "rpc", "till", "drawer"];

fn vip(service: &str) -> SocketAddr {
    let at = NAMES.iter().position(|name| *name == service).unwrap_or_default();
    (Ipv4Addr::new(10, 96, 8, 10 + u8::try_from(at).unwrap_or_default()), 80).into()
}

impl Scene {
    /// Builds it; nothing is sent yet.
    pub fn start(options: &AgentOptions) -> Result<Self> {
        let counting = Counting::begin()?;
        let topology = Topology::new("prometheus")?;
        let (near, far) = (topology.node("node-a")?, topology.node("node-b")?);
        let host = |node: &mesh_tests::lab::Node, name: &str| Host::new(&topology, node.pod(name)?);
        let (web, shelf) = (host(&near, "web")?, host(&near, "shelf")?);
        let (cart, till) = (host(&far, "cart")?, host(&far, "till")?);
        let pod = |pod: &Host, namespace: &str, version: &str| -> Object {
            PodObject::of(pod, namespace).service_account(pod.name()).label("version", version).into()
        };
        topology.mesh().write(
            "pods.yaml",
            [
                NamespaceObject::new("front").enabled().into(),
                NamespaceObject::new("shop").enabled().into(),
                pod(&web, "front", "v1"),
                pod(&shelf, "shop", "v1"),
                pod(&cart, "shop", "v2"),
                pod(&till, "shop", "v1"),
            ],
        )?;
        let service = |name: &str, protocol: &str, port: u16, of: &Host| -> [Object; 2] {
            let slice = SliceObject::new("shop", name, &format!("{name}-4")).port(protocol, port);
            let service = ServiceObject::new("shop", name).vip(vip(name).ip()).port(protocol, 80);
            [service.into(), slice.pods("shop", [&**of]).into()]
        };
        let never = json!({
            "matches": [{"path": {"value": "/never"}}], "backendRefs": [{"name": "lost", "port": 80}],
        });
        let services = [
            service("cart", "http", 8080, &cart),
            service("shelf", "http", 8080, &shelf),
            service("slow", "http", 8083, &till),
            service("lost", "http", 8098, &till),
            service("closed", "http", 8099, &till),
            service("rpc", "grpc", 8081, &till),
            service("till", "tcp", 8082, &till),
            service("drawer", "tcp", 8082, &shelf),
        ];
        topology.mesh().write("services.yaml", services.into_iter().flatten())?;
        topology
            .mesh()
            .write("routes.yaml", [HttpRouteObject::new("shop", "lost", "lost").rule(never).into()])?;
        // A port for each: a server's agent knows a service by it.
        let echo = [(&cart, 8080), (&shelf, 8080), (&till, 8083)]
            .map(|(host, port)| Ok(echo_server(host.listen(port)?, host.name())));
        let bytes = [&shelf, &till]
            .map(|host| Ok(Server::new(host.listen(8082)?, |stream, _| drop(echo_bytes(stream)))));
        let servers = (
            echo.into_iter().collect::<Result<_>>()?,
            bytes.into_iter().collect::<Result<_>>()?,
            H2Server::new(till.listen(8081)?, None, call),
        );
        let (near, far) = (near.agent(options.clone())?, far.agent(options.clone())?);
        // From then on nobody waits for a certificate.
        for agent in [&near, &far] {
            agent.wait_metrics(SOON, |metrics| {
                let known = metrics.find("mesh_agent_certificate_expiry_timestamp_seconds", &[]).count();
                ensure!(known == 2, "{known} certificates");
                Ok(())
            })?;
        }
        Ok(Self {
            near,
            far,
            topology,
            client: web,
            _counting: counting,
            _hosts: [shelf, cart, till],
            _servers: servers,
        })
    }

    /// Every kind of request once, or a few times. What isn't as it should be is an error.
    pub fn round(&self, sent: &mut Sent) -> Result<()> {
        let mut cart = self.client("cart")?;
        for _ in 0..4 {
            expect(&mut cart, "GET /bytes/100 HTTP/1.1\r\nHost: cart\r\n\r\n", 200)?;
        }
        let post = format!(
            "POST /echo HTTP/1.1\r\nHost: cart\r\nContent-Length: {BODY}\r\n\r\n{}",
            "x".repeat(BODY)
        );
        expect(&mut cart, &post, 200)?;
        sent.cart += 5;
        expect(&mut cart, "GET /status/503 HTTP/1.1\r\nHost: cart\r\n\r\n", 503)?;
        sent.cart_fails += 1;
        for (service, status, count) in [
            ("shelf", 200, &mut sent.shelf),
            ("lost", 404, &mut sent.lost),
            ("closed", 503, &mut sent.closed),
        ] {
            let get = format!("GET /bytes/10 HTTP/1.1\r\nHost: {service}\r\n\r\n");
            expect(&mut self.client(service)?, &get, status)?;
            *count += 1;
        }
        let begun = Instant::now();
        expect(
            &mut self.client("slow")?,
            &format!("GET /slow/{SLOW_MS} HTTP/1.1\r\nHost: slow\r\n\r\n"),
            200,
        )?;
        sent.slow += 1;
        sent.slowest_ms = sent.slowest_ms.max(begun.elapsed().as_secs_f64() * 1000.0);
        with_client(self.client.connect(vip("rpc"))?, |client| async move {
            ensure!(ask(&client, "/echo.Echo/Unary").await? == "0");
            ensure!(ask(&client, "/echo.Echo/Fail").await? == "14");
            Ok(())
        })?;
        (sent.rpc, sent.rpc_fails) = (sent.rpc + 1, sent.rpc_fails + 1);
        for (service, count) in [("till", &mut sent.till), ("drawer", &mut sent.drawer)] {
            let mut stream = self.client.connect(vip(service))?;
            stream.write_all(&[b'x'; BODY])?;
            stream.shutdown(Shutdown::Write)?;
            let mut back = Vec::new();
            stream.read_to_end(&mut back)?;
            ensure!(back.len() == BODY, "{service}: {} bytes came back", back.len());
            *count += 1;
        }
        Ok(())
    }

    fn client(&self, service: &str) -> Result<Client> {
        Ok(Client::new(
            self.client.connect(vip(service)).with_context(|| format!("connecting to {service}"))?,
        ))
    }

    /// Sends rounds until told to stop, on a thread of its own. The scene is given back with what was sent.
    pub fn work(self: Arc<Self>) -> Work {
        let stop = Arc::<AtomicBool>::default();
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut sent = Sent::default();
            while !stopped.load(Ordering::Relaxed) {
                if let Err(error) = self.round(&mut sent) {
                    eprintln!("the client gives up: {error:#}");
                    return Err(error);
                }
                // A few rounds between two scrapes are enough, and leave the machine to others.
                std::thread::sleep(PAUSE);
            }
            Ok(sent)
        });
        Work { stop, thread }
    }
}

/// The kernel counts what programs take; as before on drop.
struct Counting(String);

impl Counting {
    fn begin() -> Result<Self> {
        let before = fs::read_to_string(STATS)?;
        fs::write(STATS, "1")?;
        Ok(Self(before))
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        let _ = fs::write(STATS, &self.0);
    }
}

/// Rounds under way.
pub struct Work {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Sent>>,
}

impl Work {
    /// Whether nothing has gone wrong so far.
    pub fn goes_on(&self) -> bool {
        !self.thread.is_finished()
    }

    /// Ends with the round that is under way.
    ///
    /// # Errors
    /// Something went otherwise than it should.
    pub fn stop(self) -> Result<Sent> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow::anyhow!("the client panicked"))?
    }
}

fn expect(client: &mut Client, request: &str, status: u16) -> Result<()> {
    let answer = client.ask(request)?;
    ensure!(
        answer.status() == status,
        "{} for {}: {}",
        answer.status(),
        request.lines().next().unwrap_or(""),
        answer.text()
    );
    Ok(())
}

fn echo_bytes(mut stream: std::net::TcpStream) -> std::io::Result<()> {
    let mut all = Vec::new();
    stream.read_to_end(&mut all)?;
    stream.write_all(&all)?;
    stream.shutdown(Shutdown::Write)
}

/// A message of gRPC: not compressed, its length, its bytes.
const MESSAGE: Bytes = Bytes::from_static(b"\0\0\0\0\x02hi");

fn grpc<T>(mut head: http::request::Parts, body: T) -> Request<T> {
    head.headers.insert("content-type", http::HeaderValue::from_static("application/grpc"));
    head.headers.insert("te", http::HeaderValue::from_static("trailers"));
    Request::from_parts(head, body)
}

/// One call with one message each way; its `grpc-status`.
async fn ask(client: &SendRequest<Bytes>, method: &str) -> Result<String> {
    let (head, ()) = Request::post(format!("http://rpc{method}")).body(())?.into_parts();
    let (answer, mut upload) = client.clone().ready().await?.send_request(grpc(head, ()), false)?;
    upload.send_data(MESSAGE, true)?;
    let (_, trailers) = collect(answer.await?.into_body()).await?;
    let status = trailers.context("no trailers")?.get("grpc-status").cloned().context("no grpc-status")?;
    Ok(status.to_str()?.to_owned())
}

async fn call(request: Request<h2::RecvStream>, mut respond: h2::server::SendResponse<Bytes>) {
    let status = if request.uri().path().ends_with("/Fail") { "14" } else { "0" };
    // Who is gone needs no answer.
    let _ = collect(request.into_body()).await;
    let mut head = Response::new(());
    head.headers_mut().insert("content-type", http::HeaderValue::from_static("application/grpc"));
    let Ok(mut stream) = respond.send_response(head, false) else { return };
    let _ = stream.send_data(MESSAGE, false);
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", http::HeaderValue::from_static(status));
    let _ = stream.send_trailers(trailers);
}

/// Waits until `check` holds; longer than for what happens at once, since scrapes are a second apart.
pub fn by_and_by<T>(check: impl FnMut() -> Result<T>) -> Result<T> {
    eventually(PATIENCE * 2, check)
}
