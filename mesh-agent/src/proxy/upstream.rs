//! The way to one endpoint from one pod: connecting in the right network namespace, and connections kept for reuse.
//!
//! Comes after `backend`; hands connections to `tcp`, `crate::http1` and `crate::http2`. Those to another agent are made in
//! `mesh`.

mod mesh;

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use socket2::SockRef;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, timeout_at};

use super::ceiling::Kept;
use super::context::{Pod, Worker};
use super::edges::Edges;
use super::error::{ErrorKind, ProxyError};
use super::reach::{Reach, Way};
use super::sockets::{probes, with_scope};
use super::stream::Stream;
use crate::addr::{ClientAddr, EndpointAddr};
use crate::balance::queue::{Passed, Place};
use crate::clock;
use crate::http1;
use crate::http2;
use crate::model::{Endpoint, LoadState, ServiceMeta, Snapshot, Workload};
use crate::policy::{ClusterPolicy, PoolLimits};
use crate::tls::{Alpn, Origination, TlsError};

/// One endpoint as reached from one pod.
pub struct Upstream {
    /// Where to.
    pub endpoint: Arc<Endpoint>,
    /// What is counted.
    pub edges: Edges,
    /// Open HTTP/2 connections.
    pub http2: RefCell<http2::Pool>,
    http1: RefCell<Vec<Idle>>,
    /// Connections that were passed on to a request that waits, by its ticket.
    handed: RefCell<Vec<(u64, http1::Conn)>>,
    stashed: RefCell<Option<(Stream, Option<Place>)>>,
    pooled: bool,
    used_at: Cell<u64>,
    /// What a DestinationRule says of how long connections are kept.
    limits: Cell<PoolLimits>,
    /// How it is reached. An upstream never changes that: connections in plain text and such that aren't are never kept
    /// together.
    reach: Reach,
    /// Whose endpoint it is.
    pub(crate) service: Option<Arc<ServiceMeta>>,
    /// Generation of the configuration by which that was decided or last confirmed, and whether its PeerAuthentication
    /// takes no mutual TLS.
    judged: Cell<(u64, bool)>,
    /// When the log was last told of a failed handshake, on the process's clock.
    told_at: Cell<u64>,
}

struct Idle {
    conn: http1::Conn,
    since_ns: u64,
    _kept: Kept,
}

impl Upstream {
    /// Shared by all connections of a pod on this worker; its connections are kept for reuse.
    pub fn pooled(endpoint: Arc<Endpoint>, edges: Edges, reach: Reach) -> Self {
        Self { reach, ..Self::new(endpoint, edges, true) }
    }

    /// Belongs to one downstream connection: the upstream side sees that one's client.
    pub fn paired(addr: EndpointAddr, workload: Option<Arc<Workload>>, edges: Edges) -> Self {
        Self::new(Self::endpoint_at(addr, workload), edges, false)
    }

    /// An endpoint that was named by its address.
    pub fn endpoint_at(addr: EndpointAddr, workload: Option<Arc<Workload>>) -> Arc<Endpoint> {
        Arc::new(Endpoint {
            addr,
            workload,
            node: None,
            zone: None,
            ready: true,
            serving: true,
            terminating: false,
            load: Arc::new(LoadState::default()),
        })
    }

    fn new(endpoint: Arc<Endpoint>, edges: Edges, pooled: bool) -> Self {
        Self {
            endpoint,
            edges,
            http2: RefCell::default(),
            http1: RefCell::default(),
            handed: RefCell::default(),
            stashed: RefCell::default(),
            pooled,
            used_at: Cell::new(clock::now_ns()),
            limits: Cell::default(),
            reach: Reach::Plain,
            service: None,
            judged: Cell::default(),
            told_at: Cell::new(0),
        }
    }

    /// The same, reached in this way.
    pub fn over(self, reach: Reach) -> Self {
        Self { reach, ..self }
    }

    /// The same, counted for this service.
    pub(crate) fn of_service(self, service: Option<&Arc<ServiceMeta>>) -> Self {
        Self { service: service.cloned(), ..self }
    }

    /// How it is reached.
    pub fn reach(&self) -> &Reach {
        &self.reach
    }

    /// True if another agent of ours is at the other end: requests go as HTTP/2 streams, all else as CONNECT streams. With
    /// HBONE everything is a CONNECT stream, in which connections are as they would be on the wire.
    pub fn is_mesh(&self) -> bool {
        self.reach.is_mesh()
    }

    /// The way to it from `pod`, under `policy` if it is a service's endpoint, as of `snapshot`.
    pub(super) fn way<'p>(
        &self,
        pod: &Pod,
        policy: Option<&'p ClusterPolicy>,
        snapshot: &Snapshot,
    ) -> Way<'p> {
        let workload = self.endpoint.workload.as_deref();
        let disabled = match (self.judged.get(), workload) {
            (_, None) => false,
            // Looked up once for each configuration.
            ((generation, disabled), _) if generation == snapshot.generation => disabled,
            (_, Some(workload)) => {
                let disabled = snapshot.takes_no_mutual_tls(workload, self.endpoint.addr.port());
                self.judged.set((snapshot.generation, disabled));
                disabled
            }
        };
        Way::of(pod, policy, workload, disabled)
    }

    /// Opens a connection from the pod's network namespace to the endpoint's own address and port.
    ///
    /// The socket is marked as the agent's own before it connects, so that no hook captures it. Where one client
    /// connection stands behind it (`client`), the application is shown that client's address. Where connections are to
    /// be wrapped in TLS, `alpn` is what is offered; its handshake counts towards the connect timeout. To another agent
    /// `Http2` is a connection for requests, and anything else a CONNECT stream on one that others use too.
    pub async fn connect(
        &self,
        pod: &Pod,
        client: Option<ClientAddr>,
        limits: &PoolLimits,
        alpn: Alpn,
    ) -> Result<Stream, ProxyError> {
        self.used_at.set(clock::now_ns());
        self.limits.set(*limits);
        let result = match &self.reach {
            Reach::Plain => {
                self.try_connect(pod, self.endpoint.addr, Mark::Own(client), limits).await.map(Stream::Plain)
            }
            // Boxed: what goes in plain text makes no room for it.
            Reach::Tls(tls) => Box::pin(self.try_connect_tls(tls, pod, client, limits, alpn)).await,
            Reach::Mesh(_) if alpn == Alpn::Http2 => return Box::pin(self.connect_mesh(pod, limits)).await,
            Reach::Mesh(_) | Reach::Hbone(_) => {
                return Box::pin(self.tunnel(pod, client, limits, None)).await;
            }
            Reach::Nowhere => Err(ErrorKind::TlsNotOriginated.into()),
        };
        count_connect(pod, result.as_ref().err());
        result
    }

    /// As [`Self::connect`], for bytes of one client. `trace` goes to the agent of the endpoint, where there is one.
    pub async fn connect_for_bytes(
        &self,
        pod: &Pod,
        client: ClientAddr,
        limits: &PoolLimits,
        trace: Option<HeaderValue>,
    ) -> Result<Stream, ProxyError> {
        match &self.reach {
            Reach::Mesh(_) | Reach::Hbone(_) => Box::pin(self.tunnel(pod, Some(client), limits, trace)).await,
            _ => self.connect(pod, Some(client), limits, Alpn::None).await,
        }
    }

    /// As [`Self::connect`], for requests: connections that several clients share show none of them.
    pub async fn connect_for_requests(
        &self,
        pod: &Pod,
        client: ClientAddr,
        limits: &PoolLimits,
        alpn: Alpn,
    ) -> Result<Stream, ProxyError> {
        // Detection couldn't offer what it didn't know yet, and servers speak HTTP/2 over TLS only where it was offered.
        if let Some((stream, _)) = self.take_stashed()
            && (matches!(stream, Stream::Plain(_)) || self.reach.is_hbone() || alpn != Alpn::Http2)
        {
            return Ok(stream);
        }
        self.connect(pod, (!self.pooled).then_some(client), limits, alpn).await
    }

    /// Keeps a connection that detection made for the request that follows, with its place.
    pub fn stash(&self, stream: impl Into<Stream>, place: Option<Place>) {
        self.stashed.replace(Some((stream.into(), place)));
    }

    /// The connection that detection made, if there is one. It goes before those kept from earlier requests: a server
    /// with few threads may hold one for it.
    pub fn take_stashed(&self) -> Option<(Stream, Option<Place>)> {
        self.stashed.take()
    }

    async fn try_connect(
        &self,
        pod: &Pod,
        addr: EndpointAddr,
        mark: Mark,
        limits: &PoolLimits,
    ) -> Result<TcpStream, ProxyError> {
        let internal = |error: io::Error| ProxyError::new(ErrorKind::Internal, error);
        let socket = pod.sockets.take(addr.ip(), pod.netns.as_fd()).map_err(internal)?;
        if let Some(keepalive) = &limits.keepalive {
            socket.set_tcp_keepalive(&probes(keepalive)).map_err(internal)?;
        }
        let at = with_scope(addr.socket_addr(), pod.netns.as_fd())
            .map_err(|error| ProxyError::new(ErrorKind::ConnectFailed, error))?;
        // Without the mark the connection would be captured again: refuse rather than loop.
        let flows = &pod.worker.flows;
        let marked = match mark {
            Mark::Own(client) => flows.mark_own(socket.as_fd(), client),
            Mark::Agents => flows.mark_own_unpublished(socket.as_fd()),
        };
        marked.map_err(internal)?;
        let connecting = TcpSocket::from_std_stream(socket.into()).connect(at);
        match tokio::time::timeout(connect_timeout(pod, limits), connecting).await {
            Ok(Ok(stream)) => {
                self.endpoint.load.health.reached(pod.cookie);
                Ok(stream)
            }
            Ok(Err(error)) => Err(ProxyError::new(ErrorKind::ConnectFailed, error)),
            Err(elapsed) => Err(ProxyError::new(ErrorKind::ConnectTimeout, elapsed)),
        }
    }

    /// Connects and shakes hands, both within the connect timeout.
    async fn try_connect_tls(
        &self,
        tls: &Arc<Origination>,
        pod: &Pod,
        client: Option<ClientAddr>,
        limits: &PoolLimits,
        alpn: Alpn,
    ) -> Result<Stream, ProxyError> {
        let deadline = Instant::now() + connect_timeout(pod, limits);
        let stream = self.try_connect(pod, self.endpoint.addr, Mark::Own(client), limits).await?;
        let handshakes = &pod.worker.telemetry.metrics.agent().tls_handshakes;
        let failed = |kind: ErrorKind, error| {
            tls.tell(self.endpoint.addr, &error);
            handshakes.with_label_values(&[kind.label()]).inc();
            ProxyError::new(kind, error)
        };
        match timeout_at(deadline, tls.shake_hands(stream, alpn)).await {
            Ok(Ok(stream)) => {
                let kind = if stream.is_resumed() { "resumed" } else { "full" };
                handshakes.with_label_values(&[kind]).inc();
                Ok(stream.into())
            }
            Ok(Err(error @ TlsError::Certificate(_))) => Err(failed(ErrorKind::CertificateRefused, error)),
            Ok(Err(error)) => Err(failed(ErrorKind::TlsFailed, error)),
            Err(_) => {
                let error = io::Error::new(io::ErrorKind::TimedOut, "no end of the handshake in time");
                Err(failed(ErrorKind::ConnectTimeout, TlsError::Io(error)))
            }
        }
    }

    /// A connection kept from an earlier request, newest first. One that the endpoint has closed, or that is too old, isn't
    /// handed out.
    pub fn take_http1(&self, limits: &PoolLimits) -> Option<http1::Conn> {
        self.used_at.set(clock::now_ns());
        let mut idle = self.http1.borrow_mut();
        while let Some(Idle { mut conn, .. }) = idle.pop() {
            if !conn.idle_is_closed() && !conn.is_worn(limits) {
                conn.rest(false);
                return Some(conn);
            }
        }
        None
    }

    /// Keeps a connection that has carried a request for the next one: that which waits for its place, else any. It is
    /// closed if somebody else waits for its place, if it is worn, or if enough are kept already, here or
    /// altogether.
    pub fn keep_http1(&self, mut conn: http1::Conn, limits: &PoolLimits, worker: &Worker) {
        conn.carried();
        if conn.is_worn(limits) {
            return conn.farewell();
        }
        if let Some(place) = conn.take_place() {
            match place.pass_on(self.id()) {
                Passed::Within(ticket) => return self.handed.borrow_mut().push((ticket, conn)),
                Passed::Elsewhere => return conn.farewell(),
                Passed::Back(place) => conn = conn.hold(Some(place)),
            }
        }
        let mut idle = self.http1.borrow_mut();
        if idle.len() < worker.limits.max_idle_per_upstream
            && let Some(kept) = worker.ceiling.keep()
        {
            conn.rest(true);
            idle.push(Idle { conn, since_ns: clock::now_ns(), _kept: kept });
        } else {
            conn.farewell();
        }
    }

    /// The connection that was passed on with the place that has this ticket.
    pub(super) fn take_handed(&self, ticket: u64) -> Option<http1::Conn> {
        let mut handed = self.handed.borrow_mut();
        let at = handed.iter().position(|(other, _)| *other == ticket)?;
        Some(handed.swap_remove(at).1)
    }

    /// Closes idle connections for those that wait for their places.
    pub(super) fn give_way(&self) {
        self.http1.borrow_mut().retain(|kept| {
            let is_wanted = kept.conn.is_wanted();
            if is_wanted {
                kept.conn.farewell();
            }
            !is_wanted
        });
    }

    /// Tells it from every other upstream of the process.
    pub(super) fn id(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    /// Closes what is idle for too long; false once nothing is left and nobody came for a while.
    pub(super) fn sweep_idle(&self, idle_limit: Duration) -> bool {
        let limits = self.limits.get();
        let idle_limit = limits.http_idle.unwrap_or(idle_limit);
        let oldest = clock::now_ns().saturating_sub(idle_limit.as_nanos() as u64);
        let mut idle = self.http1.borrow_mut();
        idle.retain(|kept| {
            let is_young = kept.since_ns >= oldest && !kept.conn.is_worn(&limits);
            let stays = is_young && !kept.conn.idle_is_closed();
            if !stays {
                kept.conn.farewell();
            }
            stays
        });
        let http2 = self.http2.borrow_mut().sweep(oldest, &limits);
        self.stashed.take();
        !idle.is_empty() || http2 || self.used_at.get() >= oldest
    }

    /// Connections that no request is on, for the metric.
    pub fn idle_count(&self) -> usize {
        self.http1.borrow().len() + self.http2.borrow().idle_count()
    }
}

/// What the kernel is told of a socket before it connects.
#[derive(Clone, Copy)]
enum Mark {
    /// The application in the destination takes it, and is told of this client.
    Own(Option<ClientAddr>),
    /// The agent in the destination's pod takes it, as what comes from outside.
    Agents,
}

fn connect_timeout(pod: &Pod, limits: &PoolLimits) -> Duration {
    limits.connect_timeout.unwrap_or(pod.worker.limits.connect_timeout)
}

fn count_connect(pod: &Pod, failed: Option<&ProxyError>) {
    let outcome = failed.map_or("ok", |error| error.kind.label());
    pod.worker.telemetry.metrics.agent().upstream_connects.with_label_values(&[outcome]).inc();
}

/// Makes the peer see a reset rather than an orderly end.
pub fn reset(stream: impl Into<Stream>) {
    match stream.into() {
        Stream::Tunnel(tunnel) => tunnel.reset(),
        stream => {
            // Failing to set it means the peer is gone already; closing is all that is left.
            let _ = stream.tcp().map(|tcp| SockRef::from(tcp).set_linger(Some(Duration::ZERO)));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use bytes::BytesMut;
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    use super::*;
    use crate::proxy::ceiling::Ceiling;
    use crate::proxy::{Limits, testing};
    use crate::telemetry::Telemetry;

    /// An upstream and as many connections to it, each with its server's end.
    async fn connected(count: usize) -> (Upstream, Vec<(http1::Conn, TcpStream)>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let mut all = Vec::new();
        for _ in 0..count {
            let near = TcpStream::connect(addr).await.unwrap();
            all.push((http1::Conn::new(near, BytesMut::new()), listener.accept().await.unwrap().0));
        }
        let endpoint = testing::service_port("kept", &[addr]).endpoints.all[0].clone();
        (Upstream::pooled(endpoint, Edges { source: None, destination: None }, Reach::Plain), all)
    }

    async fn kept(worker: &Worker) -> usize {
        let (upstream, all) = connected(4).await;
        let mut far = Vec::new();
        for (conn, end) in all {
            upstream.keep_http1(conn, PoolLimits::NONE, worker);
            far.push(end);
        }
        let kept = upstream.idle_count();
        for end in &mut far[kept..] {
            assert_eq!(end.read(&mut [0]).await.unwrap(), 0, "what isn't kept is closed");
        }
        kept
    }

    #[tokio::test]
    async fn unused_connections_are_kept_up_to_the_endpoints_limit_and_to_that_of_all() {
        let limits = Limits { max_idle_per_upstream: 3, ..Limits::default() };
        let pod = testing::pod(limits, Telemetry::quiet());
        assert_eq!(kept(&pod.worker).await, 3);
        assert_eq!(kept(&pod.worker).await, 3, "what was dropped has given its place back");
        let worker = testing::worker(Limits::default(), Telemetry::quiet(), Ceiling::for_descriptors(8));
        assert_eq!(kept(&worker).await, 2);
    }

    #[tokio::test]
    async fn an_unused_connection_is_closed_after_its_idle_time() {
        let (upstream, mut all) = connected(1).await;
        let pod = testing::pod(Limits::default(), Telemetry::quiet());
        let (conn, mut far) = all.remove(0);
        upstream.keep_http1(conn, PoolLimits::NONE, &pod.worker);
        assert!(upstream.sweep_idle(Duration::from_secs(55)));
        assert_eq!(upstream.idle_count(), 1);
        // A DestinationRule's goes before the agent's own.
        upstream.limits.set(PoolLimits { http_idle: Some(Duration::ZERO), ..PoolLimits::default() });
        upstream.sweep_idle(Duration::from_secs(55));
        assert_eq!((upstream.idle_count(), far.read(&mut [0]).await.unwrap()), (0, 0));
    }
}
