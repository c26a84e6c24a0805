//! A connection to handle in unit tests of the protocol modules: no kernel, one endpoint on loopback.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::watch;

use super::backend::Backends;
use super::ceiling::Ceiling;
use super::client_cert::ForwardClientCert;
use super::context::{Connection, Direction, Pod, Worker};
use super::drain::Drain;
use super::edges::Edges;
use super::limits::Limits;
use super::node::NodeAddresses;
use super::reach::Reach;
use super::sockets::SocketStock;
use super::upstream::Upstream;
use crate::addr::{ClientAddr, EndpointAddr, OrigDst};
use crate::ext_authz::Providers;
use crate::identity;
use crate::kernel::{Flows, Ports};
use crate::model::{
    Endpoint, EndpointSet, Enrolment, FailMode, ObjectName, Service, ServiceMeta, ServicePort, Snapshot,
    Target, Workload,
};
use crate::policy::traffic::TrafficPolicy;
use crate::policy::{ClusterPolicy, PoolLimits};
use crate::route::{
    Backend, BackendName, BackendPort, BackendTarget, Filters, RouteEntry, RouteTable, Routes, Rule,
    RuleName, Timeouts,
};
use crate::telemetry::{RuleCounters, Telemetry};

/// An outbound connection whose only backend is `endpoint`.
pub fn connection(endpoint: SocketAddr) -> Connection {
    connection_with(endpoint, Limits::default())
}

/// As [`connection`], with limits that a test can reach.
pub fn connection_with(endpoint: SocketAddr, limits: Limits) -> Connection {
    let pod = pod(limits, Telemetry::quiet());
    let client = ClientAddr::from(SocketAddr::from(([127, 0, 0, 1], 40000)));
    let conn = Connection::open(&pod, Direction::Outbound, client, OrigDst::from(endpoint), &Target::Unknown);
    let edges = Edges::outbound(&conn.pod, None, None, &Reach::Plain);
    conn.set_backends(Backends::Single(Rc::new(Upstream::paired(EndpointAddr::from(endpoint), None, edges))));
    conn
}

/// Another connection of the same pod.
pub fn another(conn: &Connection) -> Connection {
    let other = Connection::open(&conn.pod, Direction::Outbound, conn.client, conn.dst, &Target::Unknown);
    other.set_backends(conn.backends.borrow().clone());
    other
}

/// A service port under these limits, with ready endpoints at these addresses.
pub fn limited_port(endpoints: &[SocketAddr], limits: PoolLimits) -> Arc<ServicePort> {
    let mut port = service_port("limited", endpoints);
    if let Some(port) = Arc::get_mut(&mut port) {
        port.policy = Arc::new(ClusterPolicy { limits, ..ClusterPolicy::default() });
    }
    port.endpoints.usage.connections.set_limits(limits.max_connections, limits.max_pending);
    port
}

/// A share of a rule's requests for the service port numbered `at`.
pub fn backend(at: usize, weight: u32) -> Backend {
    Backend { target: BackendTarget::Service(at), weight, filters: Filters::default() }
}

/// A rule that sends everything to the service ports numbered `backends`, to each alike.
pub fn rule(backends: &[usize]) -> Rule {
    Rule {
        name: RuleName::new("HTTPRoute", ObjectName::new("test", "route"), 0, None),
        filters: Filters::default(),
        backends: backends.iter().map(|at| backend(*at, 1)).collect::<Vec<_>>().into(),
        timeouts: Timeouts::default(),
        retry: None,
        session: None,
        counters: RuleCounters::default(),
    }
}

/// Makes every request of a connection go by `rule`, among whose backends and mirrors `ports` are numbered.
pub fn route(conn: &Connection, rule: Rule, ports: &[Arc<ServicePort>]) {
    let (route, rule) = (rule.name.route.clone(), Arc::new(rule));
    let entry =
        RouteEntry { matches: Vec::new(), preflights: Vec::new(), rule, created: None, route, rule_index: 0 };
    let target = |port: &Arc<ServicePort>| BackendPort { v4: Some(port.clone()), v6: Some(port.clone()) };
    conn.routes.replace(Some(Arc::new(Routes {
        requests: Some(Arc::new(RouteTable::new(vec![entry]))),
        streams: None,
        targets: ports.iter().map(target).collect(),
        names: ports.iter().map(|port| name_of(port)).collect(),
    })));
}

fn name_of(port: &ServicePort) -> BackendName {
    BackendName { service: port.service.name.clone(), port: port.port, subset: None }
}

/// Makes every request of a connection go to `port` under a TrafficPolicy with these groups. Other services that the policy
/// names have to be in the snapshot.
#[expect(clippy::unwrap_used, reason = "test support")]
pub fn police(conn: &Connection, port: Arc<ServicePort>, groups: &str) {
    let name = port.service.name.clone();
    let spec = format!("{{targetRefs: [{{kind: Service, name: any}}], {groups}}}");
    let policy = TrafficPolicy::compile(&name, &serde_yaml_ng::from_str(&spec).unwrap(), None);
    let mut snapshot = Snapshot::clone(&conn.snapshot());
    snapshot.traffic.insert_mut((name, port.port), Arc::new(policy));
    snapshot.generation += 1;
    conn.pod.worker.snapshot.store(Arc::new(snapshot));
    conn.generation.set(conn.snapshot().generation);
    conn.traffic.borrow_mut().clear();
    conn.set_backends(Backends::Service(port));
}

/// Makes a service known that has one port.
pub fn serve(conn: &Connection, port: &Arc<ServicePort>) {
    let ports = vec![port.clone()];
    let service = Service {
        udp: Vec::new(),
        meta: port.service.clone(),
        vips: Vec::new(),
        headless: true,
        ports: ports.clone(),
        ports_v4: ports,
        ports_v6: Vec::new(),
        ranges: Vec::new(),
    };
    let mut snapshot = Snapshot::clone(&conn.snapshot());
    snapshot.services.insert_mut(port.service.name.clone(), Arc::new(service));
    conn.pod.worker.snapshot.store(Arc::new(snapshot));
}

/// A service port with ready endpoints at these addresses, in whatever order.
pub fn service_port(name: &str, endpoints: &[SocketAddr]) -> Arc<ServicePort> {
    let endpoint = |addr: &SocketAddr| {
        Arc::new(Endpoint {
            addr: EndpointAddr::from(*addr),
            workload: None,
            node: None,
            zone: None,
            ready: true,
            serving: true,
            terminating: false,
            load: Arc::default(),
        })
    };
    let mut all: Vec<_> = endpoints.iter().map(endpoint).collect();
    all.sort_by_key(|endpoint| endpoint.addr);
    let host = format!("{name}.test.svc.cluster.local");
    Arc::new(ServicePort {
        service: Arc::new(ServiceMeta { name: ObjectName::new("test", name), host, trace_sampling: None }),
        name: String::new(),
        port: 80,
        protocol: Default::default(),
        protocol_from: Default::default(),
        policy: Arc::default(),
        variants: Vec::new(),
        subset_name: None,
        subsets: Vec::new(),
        retries: Default::default(),
        session: None,
        external: None,
        backend_policy: None,
        endpoints: EndpointSet { available: all.clone(), all, ..EndpointSet::default() },
    })
}

/// A pod in this process's network namespace, on a worker of its own.
pub fn pod(limits: Limits, telemetry: Arc<Telemetry>) -> Rc<Pod> {
    let worker = worker(limits, telemetry, Ceiling::for_descriptors(1 << 20));
    pod_on(worker, workload(), 0)
}

/// Another pod of the same worker.
pub fn neighbour(conn: &Connection, workload: Workload) -> Rc<Pod> {
    let pod = pod_on(conn.pod.worker.clone(), workload, 1);
    conn.pod.worker.serves(&pod);
    pod
}

#[expect(clippy::unwrap_used, reason = "test support")]
fn pod_on(worker: Rc<Worker>, workload: Workload, cookie: u64) -> Rc<Pod> {
    Rc::new(Pod {
        identity: RefCell::new(worker.identities.of_pod(&workload)),
        worker,
        workload: RefCell::new(Arc::new(workload)),
        cookie,
        netns: Arc::new(File::open("/proc/self/ns/net").unwrap().into()),
        sockets: SocketStock::default(),
        share: Arc::default(),
        upstreams: RefCell::default(),
        direct: RefCell::default(),
        arrivals: RefCell::default(),
        told_at: RefCell::default(),
        connections: Cell::new(0),
    })
}

/// A worker that isn't a thread.
pub fn worker(limits: Limits, telemetry: Arc<Telemetry>, ceiling: Arc<Ceiling>) -> Rc<Worker> {
    Rc::new(Worker {
        id: 0,
        snapshot: Arc::new(ArcSwap::from_pointee(Snapshot::default())),
        changed: watch::Sender::new(0),
        crowded: watch::Sender::new(0),
        telemetry,
        flows: Flows::detached(),
        identities: identity::testing::Root::shared().identities(),
        limits,
        ceiling,
        node: NodeAddresses::default(),
        registry_only: false,
        same_node_mtls: false,
        ports: Ports::default(),
        forward_client_cert: ForwardClientCert::default(),
        drain: Drain::default(),
        idle_shown: Cell::new(0),
        redis: RefCell::default(),
        secrets_dir: Path::new("/nowhere").into(),
        mirrors: Cell::new(0),
        served: RefCell::default(),
        tokens: RefCell::default(),
        providers: Providers::default(),
        scratch: RefCell::new(vec![0; 64 * 1024].into_boxed_slice()),
    })
}

/// Any pod, for what refers to one.
pub fn some_workload() -> &'static Arc<Workload> {
    static POD: std::sync::LazyLock<Arc<Workload>> = std::sync::LazyLock::new(|| Arc::new(workload()));
    &POD
}

/// Any pod.
pub fn workload() -> Workload {
    Workload {
        name: ObjectName::new("test", "client"),
        uid: None,
        node: "node".into(),
        service_account: "default".into(),
        workload_name: "client".into(),
        app: "client".into(),
        version: "v1".into(),
        canonical_name: "client".into(),
        canonical_revision: "v1".into(),
        labels: Default::default(),
        addresses: Vec::new(),
        netns: None,
        enrolment: Enrolment::Enrolled,
        hbone: false,
        redirected: false,
        host_network: false,
        fail_mode: FailMode::Closed,
        ports: Vec::new(),
        probes: Vec::new(),
    }
}
