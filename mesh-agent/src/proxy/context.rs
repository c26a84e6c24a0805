//! What a connection is handled with: its worker, its pod, itself. All of it belongs to one thread.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashMap;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::watch;

use super::access::Refused;
use super::backend::{Backends, Picked};
use super::ceiling::{self, Ceiling, PodShare};
use super::drain::Drain;
use super::error::Hostile;
use super::limits::Limits;
use super::upstream::{Edges, SocketStock, Upstream};
use crate::addr::{ClientAddr, OrigDst};
use crate::authz::WorkloadPolicies;
use crate::ext_authz::Providers;
use crate::jwt;
use crate::kernel::Flows;
use crate::model::{
    AppProtocol, Endpoint, ObjectName, ServiceMeta, ServicePort, Snapshot, SnapshotHandle, Target, Workload,
    WorkloadTokens,
};
use crate::objects::traffic_policy::Redis as RedisSpec;
use crate::policy::traffic::TrafficPolicy;
use crate::redis::{Redis, RedisOptions};
use crate::route::Routes;
use crate::telemetry::{ConnectionGuard, ConnectionInfo, L7, Peers, Reporter, Telemetry};

/// A pod, and what holds for it.
pub(super) type KnownPolicies = (Arc<Workload>, Option<Arc<WorkloadPolicies>>, Option<Arc<WorkloadTokens>>);

/// One data-path thread's state.
pub struct Worker {
    /// Number of the worker, from 0.
    pub id: usize,
    /// The newest configuration.
    pub snapshot: SnapshotHandle,
    /// Tells of a newer one, for what waits for a change.
    pub changed: watch::Sender<u64>,
    /// Asks every worker to close idle connections whose places others wait for.
    pub crowded: watch::Sender<u64>,
    /// Metrics, access log, live connections.
    pub telemetry: Arc<Telemetry>,
    /// Original destinations, and the marks of the agent's own sockets.
    pub flows: Flows,
    /// Bounds and deadlines.
    pub limits: Limits,
    /// How many connections there may be, over all workers.
    pub ceiling: Arc<Ceiling>,
    /// `outboundTrafficPolicy: registryOnly`.
    pub registry_only: bool,
    /// Begins when the agent is told to stop.
    pub drain: Drain,
    /// Idle upstream connections as last told to the gauge.
    pub idle_shown: Cell<usize>,
    /// Connections to Redis by address, for limits that agents share.
    pub redis: RefCell<HashMap<String, Redis>>,
    /// Copies of requests on their way to mirrors.
    pub mirrors: Cell<usize>,
    /// Pods by name, as far as they are captured.
    pub(super) served: RefCell<HashMap<ObjectName, Weak<Pod>>>,
    /// Tokens that held.
    pub tokens: RefCell<jwt::Cache>,
    /// Whom CUSTOM policies may ask.
    pub providers: Providers,
    /// For bytes that are on their way from one socket to another within one poll.
    pub scratch: RefCell<Box<[u8]>>,
}

/// One enrolled pod on one worker.
pub struct Pod {
    /// The thread.
    pub worker: Rc<Worker>,
    /// The pod; replaced when its object changes.
    pub workload: RefCell<Arc<Workload>>,
    /// SO_NETNS_COOKIE of its network namespace.
    pub cookie: u64,
    /// Its network namespace.
    pub netns: Arc<OwnedFd>,
    /// Sockets made in its network namespace, waiting to be connected.
    pub sockets: SocketStock,
    /// Upstreams by the identity of their endpoint (the address of its load state, which lives as long as the entry).
    pub upstreams: RefCell<HashMap<usize, Rc<Upstream>>>,
    /// Connections on all workers.
    pub share: Arc<PodShare>,
    /// Connections under way on this one.
    pub connections: Cell<usize>,
}

/// Seen from the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The pod opened the connection.
    Outbound,
    /// The connection was opened to the pod.
    Inbound,
}

impl Direction {
    /// Istio's word for it.
    pub fn reporter(self) -> Reporter {
        match self {
            Self::Outbound => Reporter::Source,
            Self::Inbound => Reporter::Destination,
        }
    }
}

/// One connection that was handed to the agent.
pub struct Connection {
    /// Whose it is.
    pub pod: Rc<Pod>,
    /// Which way.
    pub direction: Direction,
    /// Who opened it. For outbound connections the pod's own address, not the loopback one that capture leaves.
    pub client: ClientAddr,
    /// Where the client meant to go.
    pub dst: OrigDst,
    /// Nothing knows the destination: bytes pass as they are, whatever they say.
    pub untouched: bool,
    /// What is declared to be spoken.
    pub protocol: AppProtocol,
    /// The client, if it is a known pod.
    pub source: Option<Arc<Workload>>,
    /// The service that was dialled, if any.
    pub service: Option<Arc<ServiceMeta>>,
    /// When it was accepted.
    pub started: SystemTime,
    /// Server name of a TLS connection that is passed through.
    pub sni: RefCell<Option<String>>,
    /// Its line in `get connections`, with its byte counts.
    pub live: ConnectionGuard,
    pub(super) backends: RefCell<Backends>,
    /// Routes of the service port that was dialled, as they hold for this client.
    pub(super) routes: RefCell<Option<Arc<Routes>>>,
    /// On the inbound side: the service port whose endpoint was dialled.
    pub(super) behind: RefCell<Option<Arc<ServicePort>>>,
    /// TrafficPolicies by the address of the rule or service port that they hold for, as far as they were asked for.
    pub(super) traffic: RefCell<HashMap<usize, Option<Arc<TrafficPolicy>>>>,
    /// What guards a pod by the address of the pod that they hold for, as far as they were asked for.
    pub(super) policies: RefCell<HashMap<usize, KnownPolicies>>,
    /// It was refused, which isn't told yet.
    pub(super) refused: RefCell<Option<Refused>>,
    /// See `identity`.
    pub(super) identity: OnceCell<Option<Box<str>>>,
    pub(super) first: Cell<Option<Picked>>,
    /// The way to where the client meant to go, for the service under whose policy that was asked for.
    pub(super) original: RefCell<Option<(Arc<ServiceMeta>, Rc<Upstream>)>>,
    /// For the log line of a connection that no endpoint took.
    pub(super) last_dialled: Cell<Option<Arc<Endpoint>>>,
    pub(super) generation: Cell<u64>,
}

impl Pod {
    /// The pod's object as of now.
    pub fn workload(&self) -> Arc<Workload> {
        self.workload.borrow().clone()
    }

    /// The pod's address of the family of `like`.
    pub fn address(&self, like: IpAddr) -> Option<IpAddr> {
        self.workload.borrow().addresses.iter().copied().find(|ip| ip.is_ipv4() == like.is_ipv4())
    }

    /// Takes a place for one more connection, or says that there is none.
    pub fn admit(self: &Rc<Self>) -> Option<Admitted> {
        let place = self.worker.ceiling.admit(&self.share, self.worker.limits.max_connections_per_pod)?;
        self.connections.set(self.connections.get() + 1);
        Some(Admitted { pod: self.clone(), _place: place })
    }

    /// Forgets what hasn't been used for a while: idle connections, and upstreams of endpoints that are gone.
    pub fn sweep(&self) {
        self.sockets.clear();
        self.upstreams.borrow_mut().retain(|_, upstream| {
            upstream.sweep_idle(self.worker.limits.upstream_idle) || Rc::strong_count(upstream) > 1
        });
    }
}

/// A place among a pod's connections, given back on drop.
pub struct Admitted {
    pod: Rc<Pod>,
    _place: ceiling::Admitted,
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.pod.connections.set(self.pod.connections.get() - 1);
    }
}

impl Worker {
    /// Takes note of a pod.
    pub(super) fn serves(&self, pod: &Rc<Pod>) {
        self.served.borrow_mut().insert(pod.workload().name.clone(), Rc::downgrade(pod));
    }

    /// This pod, if it is captured.
    pub(super) fn pod_of(&self, workload: &Workload) -> Option<Rc<Pod>> {
        self.served.borrow().get(&workload.name)?.upgrade()
    }

    /// The connection to this Redis; made at the first call.
    pub(super) fn redis(&self, at: &RedisSpec) -> Redis {
        let mut all = self.redis.borrow_mut();
        if let Some(redis) = all.get(&at.address) {
            return redis.clone();
        }
        let options =
            RedisOptions { address: at.address.clone(), username: at.username.clone(), password: None };
        let redis = Redis::start(options);
        all.insert(at.address.clone(), redis.clone());
        redis
    }

    /// Counts a connection that is closed before a byte was carried.
    pub fn count_refused(&self, reason: &'static str) {
        self.telemetry.metrics.agent().connections_refused.with_label_values(&[reason]).inc();
    }

    /// Counts a message that is refused for what it is.
    pub fn count_hostile(&self, hostile: Hostile) {
        self.count_protocol_error(hostile.label());
    }

    /// The same by its label: limits that were exceeded count as well.
    pub fn count_protocol_error(&self, label: &'static str) {
        self.telemetry.metrics.agent().protocol_errors.with_label_values(&[label]).inc();
    }
}

impl Connection {
    /// Takes it up: its line among the live connections, and what it is declared to speak.
    pub fn open(
        pod: &Rc<Pod>,
        direction: Direction,
        client: ClientAddr,
        dst: OrigDst,
        target: &Target,
    ) -> Self {
        let snapshot = pod.worker.snapshot.load();
        let workload = pod.workload();
        let source = match direction {
            Direction::Outbound => Some(workload.clone()),
            Direction::Inbound => snapshot.workload_at(client.ip()).cloned(),
        };
        let service = target.service_port().map(|port| port.service.clone());
        // Direct calls to a pod's own address aren't routed (GEP-1426), and what came in was routed at its source.
        let routes = match (direction, target) {
            (Direction::Outbound, Target::Service(port)) => {
                snapshot.routes_for(port, &workload.name.namespace)
            }
            _ => None,
        };
        let behind = match direction {
            Direction::Inbound => target.service_port().cloned(),
            Direction::Outbound => None,
        };
        let reporter = direction.reporter();
        let info = ConnectionInfo { reporter, workload, client, destination: dst, service: service.clone() };
        Self {
            pod: pod.clone(),
            direction,
            client,
            dst,
            untouched: direction == Direction::Outbound && matches!(target, Target::Unknown),
            protocol: routes.as_ref().map_or(target.protocol(), |routes| routes.spoken(target.protocol())),
            source,
            service,
            started: SystemTime::now(),
            sni: RefCell::default(),
            live: pod.worker.telemetry.connections.open(info),
            backends: RefCell::new(Backends::None),
            routes: RefCell::new(routes),
            behind: RefCell::new(behind),
            traffic: RefCell::default(),
            policies: RefCell::default(),
            refused: RefCell::default(),
            identity: OnceCell::new(),
            first: Cell::new(None),
            original: RefCell::default(),
            last_dialled: Cell::new(None),
            generation: Cell::new(snapshot.generation),
        }
    }

    /// False for most: then no request has to ask.
    pub(super) fn has_traffic_policies(&self) -> bool {
        let snapshot = self.snapshot();
        !snapshot.traffic.is_empty() || !snapshot.route_traffic.is_empty()
    }

    /// Namespace of the client, which decides about consumer routes.
    pub(super) fn namespace(&self) -> &str {
        self.source.as_ref().map_or("", |source| &source.name.namespace)
    }

    /// Notes what the connection turned out to speak.
    pub fn detected(&self, protocol: L7) {
        self.live.set_protocol(protocol);
        self.pod.worker.telemetry.metrics.agent().detect.with_label_values(&[protocol.label()]).inc();
    }

    /// Who talks to whom, for the access log.
    pub fn peers<'a>(&'a self, endpoint: Option<&'a Endpoint>) -> Peers<'a> {
        Peers {
            reporter: self.direction.reporter(),
            source: self.source.as_deref(),
            client: self.client,
            destination: self.dst,
            service: self.service.as_deref(),
            endpoint: endpoint.map(|e| e.addr),
            destination_workload: endpoint.and_then(|e| e.workload.as_deref()),
        }
    }

    /// The series of a failure before an endpoint was chosen. Looked up anew; not for a fast path.
    pub fn edges_without_endpoint(&self) -> Edges {
        match self.direction {
            Direction::Outbound => Edges::outbound(&self.pod, self.service.as_ref(), None),
            Direction::Inbound => Edges::inbound(self, self.service.as_ref()),
        }
    }

    /// The newest snapshot.
    pub fn snapshot(&self) -> arc_swap::Guard<Arc<Snapshot>> {
        self.pod.worker.snapshot.load()
    }

    /// Counts a request, or a connection of this client, that is tried again on another upstream connection.
    pub fn count_retry(&self, why: &'static str) {
        self.pod.worker.telemetry.metrics.agent().upstream_retry(why);
    }

    /// Limits of the worker.
    pub fn limits(&self) -> &Limits {
        &self.pod.worker.limits
    }
}
