//! What a connection is handled with: its worker, its pod, itself. All of it belongs to one thread.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashMap;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::SystemTime;

use http::HeaderValue;
use tokio::sync::watch;

use super::access::Refused;
use super::backend::{Backends, Picked};
use super::ceiling::{self, Ceiling, PodShare};
use super::client_cert::ForwardClientCert;
use super::drain::Drain;
use super::edges::Edges;
use super::error::Hostile;
use super::limits::Limits;
use super::node::NodeAddresses;
use super::probe::PlainText;
use super::reach::Reach;
use super::sockets::SocketStock;
use super::upstream::Upstream;
use crate::addr::{ClientAddr, EndpointAddr, OrigDst};
use crate::authz::WorkloadPolicies;
use crate::ext_authz::Providers;
use crate::identity::{Identities, Identity, SpiffeId};
use crate::jwt;
use crate::kernel::{Flows, Ports};
use crate::model::{
    AppProtocol, Endpoint, ObjectName, ServiceMeta, ServicePort, Snapshot, SnapshotHandle, Target, Workload,
    WorkloadTokens,
};
use crate::policy::traffic::TrafficPolicy;
use crate::redis::{Redis, RedisOptions};
use crate::route::{Routes, StreamRule};
use crate::telemetry::{ConnectionGuard, ConnectionInfo, L7, Peers, Reporter, Telemetry};
use crate::trace::Traced;

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
    /// Certificates of the pods' service accounts.
    pub identities: Identities,
    /// Bounds and deadlines.
    pub limits: Limits,
    /// How many connections there may be, over all workers.
    pub ceiling: Arc<Ceiling>,
    /// The node's own.
    pub node: NodeAddresses,
    /// `outboundTrafficPolicy: registryOnly`.
    pub registry_only: bool,
    /// `sameNode: mtls`.
    pub same_node_mtls: bool,
    /// The agent's ports in pods; HBONE is spoken on the same one everywhere.
    pub ports: Ports,
    /// `forwardClientCertDetails`.
    pub forward_client_cert: ForwardClientCert,
    /// Begins when the agent is told to stop.
    pub drain: Drain,
    /// Idle upstream connections as last told to the gauge.
    pub idle_shown: Cell<usize>,
    /// Connections to Redis, for limits that agents share.
    pub redis: RefCell<HashMap<Arc<RedisOptions>, Redis>>,
    /// Where passwords for it are.
    pub secrets_dir: Arc<Path>,
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
    /// Its certificate; replaced when its service account changes.
    pub identity: RefCell<Identity>,
    /// SO_NETNS_COOKIE of its network namespace.
    pub cookie: u64,
    /// Its network namespace.
    pub netns: Arc<OwnedFd>,
    /// Sockets made in its network namespace, waiting to be connected.
    pub sockets: SocketStock,
    /// Upstreams by the identity of their endpoint (the address of its load state, which lives as long as the entry).
    pub upstreams: RefCell<HashMap<usize, Rc<Upstream>>>,
    /// Those to pods behind other agents that are called by their own addresses.
    pub direct: RefCell<HashMap<EndpointAddr, Rc<Upstream>>>,
    /// Those of connections that other agents opened, for as long as these live.
    pub arrivals: RefCell<Vec<Weak<Upstream>>>,
    /// When the log was last told of an agent that was refused, by the reason, on the process's clock.
    pub told_at: RefCell<HashMap<&'static str, u64>>,
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
    /// What of plain text is let in, and in which version of the configuration. See `probe`.
    pub(super) admits: Cell<Option<(u64, PlainText)>>,
    /// Inbound, over mutual TLS: who the client has proven to be, and as whom the pod was reached.
    pub(super) peer: OnceCell<SpiffeId>,
    pub(super) reached_as: OnceCell<SpiffeId>,
    /// It came by HBONE.
    pub(super) hbone: Cell<bool>,
    /// What the client says that it is, where nothing else is known of it: for metrics and logs, never for a decision.
    pub(super) told: OnceCell<Arc<Workload>>,
    /// What the application is told of the client's certificate, inbound.
    pub(super) client_cert: OnceCell<HeaderValue>,
    /// The same of the pod's own certificate, by the address of the pod of this node that is told. See `client_cert`.
    pub(super) own_certs: RefCell<HashMap<usize, (Arc<Workload>, HeaderValue)>>,
    pub(super) first: Cell<Option<Picked>>,
    /// The way to where the client meant to go, for the service under whose policy that was asked for.
    pub(super) original: RefCell<Option<(Arc<ServiceMeta>, Rc<Upstream>)>>,
    /// For the log line of a connection that no endpoint took.
    pub(super) last_dialled: Cell<Option<Arc<Endpoint>>>,
    /// The rule that a connection goes by that isn't carried as requests.
    pub(super) stream_rule: RefCell<Option<Arc<StreamRule>>>,
    pub(super) generation: Cell<u64>,
    /// Its part in a trace, once it is known to carry bytes. See `spans`.
    pub(super) trace: OnceCell<Box<Traced>>,
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
        let idle = self.worker.limits.upstream_idle;
        let stays = |upstream: &Rc<Upstream>| upstream.sweep_idle(idle) || Rc::strong_count(upstream) > 1;
        self.upstreams.borrow_mut().retain(|_, upstream| stays(upstream));
        self.direct.borrow_mut().retain(|_, upstream| stays(upstream));
        self.arrivals.borrow_mut().retain(|upstream| match upstream.upgrade() {
            Some(upstream) => {
                upstream.sweep_idle(idle);
                true
            }
            None => false,
        });
    }

    /// Makes nothing of what is known of endpoints any more, for what has changed about the pod itself.
    pub fn forget_upstreams(&self) {
        self.upstreams.borrow_mut().clear();
        self.direct.borrow_mut().clear();
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
    pub(super) fn redis(&self, at: &Arc<RedisOptions>) -> Redis {
        let mut all = self.redis.borrow_mut();
        if let Some(redis) = all.get(at) {
            return redis.clone();
        }
        let redis = Redis::start(RedisOptions::clone(at), &self.secrets_dir);
        all.insert(at.clone(), redis.clone());
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
            admits: Cell::new(None),
            peer: OnceCell::new(),
            reached_as: OnceCell::new(),
            hbone: Cell::new(false),
            told: OnceCell::new(),
            client_cert: OnceCell::new(),
            own_certs: RefCell::default(),
            first: Cell::new(None),
            original: RefCell::default(),
            last_dialled: Cell::new(None),
            stream_rule: RefCell::default(),
            generation: Cell::new(snapshot.generation),
            trace: OnceCell::new(),
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

    /// Notes where it, or its newest request, goes.
    pub fn goes_to(&self, upstream: &Upstream) {
        self.live.set_endpoint(upstream.endpoint.addr);
        if let Some(expected) = upstream.reach().expected() {
            self.live.set_peer(expected.as_str());
        }
    }

    /// Notes what the connection turned out to speak.
    pub fn detected(&self, protocol: L7) {
        self.live.set_protocol(protocol);
        self.pod.worker.telemetry.metrics.agent().detect.with_label_values(&[protocol.label()]).inc();
    }

    /// Who talks to whom, for the access log. `reach` is how the endpoint was reached, if something was sent there.
    pub fn peers<'a>(&'a self, endpoint: Option<&'a Endpoint>, reach: Option<&'a Reach>) -> Peers<'a> {
        let principals = match self.direction {
            Direction::Outbound => {
                reach.and_then(Reach::expected).and_then(|to| Some([self.proven_identity()?, to.as_str()]))
            }
            Direction::Inbound => {
                self.peer.get().zip(self.reached_as.get()).map(|(a, b)| [a.as_str(), b.as_str()])
            }
        };
        Peers {
            pod: &self.live.info().workload,
            reporter: self.direction.reporter(),
            source: self.source.as_deref().or_else(|| self.told.get().map(|told| &**told)),
            client: self.client,
            destination: self.dst,
            service: self.service.as_deref(),
            endpoint: endpoint.map(|e| e.addr),
            destination_workload: endpoint.and_then(|e| e.workload.as_deref()).or_else(|| self.arrived_at()),
            principals,
            hbone: self.hbone.get() || reach.is_some_and(Reach::is_hbone),
        }
    }

    /// The pod that was dialled, of a connection that came in.
    fn arrived_at(&self) -> Option<&Workload> {
        (self.direction == Direction::Inbound).then(|| &*self.live.info().workload)
    }

    /// The series of a failure before an endpoint was chosen. Looked up anew; not for a fast path.
    pub fn edges_without_endpoint(&self) -> Edges {
        match self.direction {
            Direction::Outbound => Edges::outbound(&self.pod, self.service.as_ref(), None, &Reach::Plain),
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
