//! From the agent's state to what the API shows. Reads, never changes.

pub(super) mod in_force;
pub(super) mod live;
pub(super) mod policies;
pub(super) mod rules;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::AdminState;
use super::api::{self, Capture};
use crate::balance::Avoid;
use crate::balance::health::Verdict;
use crate::clock;
use crate::enrol::PodState;
use crate::history::{self, Cause, History};
use crate::kernel::KernelServices;
use crate::model::{self, Enrolment, FailMode, LoadBalancer, ObjectName, ProtocolFrom, Snapshot};
use crate::objects::Kind;
use crate::policy::chance::Chance;
use crate::policy::traffic::HealthCheck;
use crate::source::Health;
use crate::telemetry::{ConnectionView, Connections, Reporter};

type Pods = BTreeMap<ObjectName, PodState>;

pub(super) fn status(state: &AdminState, kernel: Option<api::Kernel>) -> api::Status {
    let snapshot = state.snapshot.load();
    let pods = state.pods.load();
    api::Status {
        agent: agent(state),
        config: config(state, &snapshot),
        pods: pods.iter().map(|(name, state)| pod(name, state)).collect(),
        kernel,
        identity: Some(state.identities.status()),
        traffic: traffic(state),
    }
}

fn agent(state: &AdminState) -> api::Agent {
    let about = &state.about;
    api::Agent {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        node: about.node.clone(),
        pid: std::process::id(),
        started: about.started,
        workers: about.workers,
        ready: state.readiness.is_ready(),
        waiting_for: state.readiness.waiting_for().into_iter().map(str::to_owned).collect(),
        trouble: (state.alive)().err(),
        state_dir: about.state_dir.display().to_string(),
        bpffs_dir: about.bpffs_dir.display().to_string(),
    }
}

pub(super) fn config(state: &AdminState, snapshot: &Snapshot) -> api::Config {
    let ports = snapshot.services.values().flat_map(|s| &s.ports);
    api::Config {
        source: state.about.source.clone(),
        generation: snapshot.generation,
        workloads: snapshot.workloads.size(),
        services: snapshot.services.size(),
        endpoints: ports.map(|p| p.endpoints.all.len()).sum(),
        warnings: state.all_warnings().len(),
        rollback: state.history.with(rollback),
        api_server: api_server(&state.health),
    }
}

fn api_server(health: &Health) -> Option<api::ApiServer> {
    let (server, watches) = (health.server()?.to_owned(), health.resources());
    let youngest = watches.iter().filter_map(|watch| watch.age).min();
    let silent = watches.iter().filter(|watch| !watch.connected);
    Some(api::ApiServer {
        server,
        heard_ms: youngest.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
        unwatched: silent.map(|watch| watch.name.to_owned()).collect(),
    })
}

fn rollback(history: &History) -> Option<api::Rollback> {
    history.rolled_back().map(|(generation, since)| api::Rollback { generation, since })
}

/// Newest first.
pub(super) fn history(history: &History) -> Vec<api::HistoryEntry> {
    let newest = history.newest().map(|entry| entry.generation);
    history.entries().rev().map(|entry| history_entry(entry, newest)).collect()
}

fn history_entry(entry: &history::Entry, newest: Option<u64>) -> api::HistoryEntry {
    let (cause, rolled_back_to) = match entry.cause {
        Cause::Source => ("source", None),
        Cause::Rollback(to) => ("rollback", Some(to)),
        Cause::Release => ("release", None),
    };
    let change = |change: &history::Change| api::HistoryChange {
        change: change.operation,
        object: change.object.to_string(),
    };
    api::HistoryEntry {
        generation: entry.generation,
        time: entry.time,
        cause: cause.to_owned(),
        rolled_back_to,
        in_force: newest == Some(entry.generation),
        changes: entry.changes.iter().map(change).collect(),
        warnings: entry.warnings,
        discovery: entry.discovery,
    }
}

/// None if it isn't kept.
pub(super) fn generation(history: &History, generation: u64) -> Option<api::Generation> {
    let entry = history.entries().find(|entry| entry.generation == generation)?;
    Some(api::Generation { generation, time: entry.time, objects: history.objects_at(generation)? })
}

fn pod(name: &ObjectName, state: &PodState) -> api::Pod {
    api::Pod { namespace: name.namespace.clone(), name: name.name.clone(), state: pod_state(state) }
}

fn pod_state(state: &PodState) -> api::PodState {
    match state {
        PodState::Enrolled => api::PodState::Captured,
        PodState::Pending(why) => api::PodState::Pending(why.clone()),
        PodState::Refused(why) => api::PodState::Refused(why.clone()),
    }
}

fn traffic(state: &AdminState) -> api::Traffic {
    let metrics = state.telemetry.metrics.agent();
    let open = |reporter: Reporter| {
        let gauge = metrics.connections_active.with_label_values(&[reporter.direction()]);
        usize::try_from(gauge.get()).unwrap_or(0)
    };
    api::Traffic {
        outbound: open(Reporter::Source),
        inbound: open(Reporter::Destination),
        requests: metrics.requests_active.get(),
        access_log_dropped: metrics.access_log_dropped.get(),
    }
}

pub(super) fn dump(state: &AdminState) -> api::Dump {
    let snapshot = state.snapshot.load();
    api::Dump {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        node: snapshot.node.to_string(),
        generation: snapshot.generation,
        settings: (*state.settings).clone(),
        workloads: workloads(&snapshot, &state.pods.load()),
        services: services(&snapshot, state.about.kernel_services),
        endpoints: endpoints(&snapshot),
        routes: routes(&snapshot),
        route_rules: rules::list(&snapshot),
        policies: policies::list(&snapshot, &state.warnings.load()),
        port_policies: in_force::list(&snapshot),
        warnings: state.all_warnings(),
    }
}

pub(super) fn workloads(snapshot: &Snapshot, pods: &Pods) -> Vec<api::Workload> {
    let mut views: Vec<_> = snapshot.workloads.values().map(|w| workload(w, snapshot, pods)).collect();
    views.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    views
}

fn workload(w: &model::Workload, snapshot: &Snapshot, pods: &Pods) -> api::Workload {
    let (capture, reason) = capture(w, &snapshot.node, pods.get(&w.name));
    api::Workload {
        namespace: w.name.namespace.clone(),
        name: w.name.name.clone(),
        node: w.node.clone(),
        addresses: w.addresses.clone(),
        service_account: w.service_account.clone(),
        workload: w.workload_name.clone(),
        app: w.app.clone(),
        version: w.version.clone(),
        capture,
        reason,
        fail_mode: match w.fail_mode {
            FailMode::Closed => "closed".to_owned(),
            FailMode::Open => "open".to_owned(),
        },
        reached: reached(w).to_owned(),
        netns: w.netns.as_ref().map(ToString::to_string),
        mtls: snapshot.security.get(&w.name).map(|security| mtls(&security.peers)).unwrap_or_default(),
        probes: w.probes.iter().map(ToString::to_string).collect(),
        policies: selecting(w, snapshot),
    }
}

/// Of pods of this node alone: it is as many times as many looks.
fn selecting(w: &model::Workload, snapshot: &Snapshot) -> Vec<String> {
    if w.node != *snapshot.node {
        return Vec::new();
    }
    let policies = snapshot.policies.iter();
    let selects = policies.filter(|(_, policy)| policy.targets.iter().any(|target| target.selects(w)));
    let mut names: Vec<String> = selects.map(|(key, _)| key.to_string()).collect();
    names.sort();
    names
}

/// From other nodes, where no rule or policy says otherwise.
fn reached(w: &model::Workload) -> &'static str {
    match (w.is_enrolled(), w.speaks_hbone()) {
        (true, _) => "mesh",
        (false, true) => "hbone",
        (false, false) => "plain",
    }
}

fn mtls(modes: &model::Modes) -> Vec<api::PortMode> {
    let view = |port: Option<u16>, decided: &model::Decided| api::PortMode {
        port,
        mode: decided.mode.label().to_owned(),
        from: decided
            .by
            .as_ref()
            .map(|by| format!("{} {by}", Kind::PeerAuthentication.name()))
            .unwrap_or_default(),
    };
    let ports = modes.ports.iter().map(|(port, decided)| view(Some(*port), decided));
    std::iter::once(view(None, &modes.all)).chain(ports).collect()
}

fn capture(w: &model::Workload, node: &str, state: Option<&PodState>) -> (Capture, String) {
    match (&w.enrolment, state) {
        (Enrolment::NotRequested, _) => (Capture::None, String::new()),
        (Enrolment::Refused(why), _) => (Capture::Refused, why.clone()),
        (Enrolment::Enrolled, _) if w.node != node => (Capture::OtherNode, String::new()),
        (Enrolment::Enrolled, Some(PodState::Enrolled)) => (Capture::Captured, String::new()),
        (Enrolment::Enrolled, Some(PodState::Pending(why))) => (Capture::Pending, why.clone()),
        (Enrolment::Enrolled, Some(PodState::Refused(why))) => (Capture::Refused, why.clone()),
        (Enrolment::Enrolled, None) => (Capture::Pending, String::new()),
    }
}

pub(super) fn services(snapshot: &Snapshot, kernel: KernelServices) -> Vec<api::Service> {
    let mut views: Vec<_> = snapshot.services.values().map(|s| service(s, snapshot, kernel)).collect();
    views.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    views
}

pub(super) fn routes(snapshot: &Snapshot) -> Vec<api::Route> {
    let mut views: Vec<_> = snapshot.route_status.values().flat_map(|status| route(status)).collect();
    views.sort_by(|a, b| {
        (&a.namespace, &a.name, &a.kind, &a.parent).cmp(&(&b.namespace, &b.name, &b.kind, &b.parent))
    });
    views
}

fn route(status: &model::RouteStatus) -> Vec<api::Route> {
    let view = |parent: Option<&model::ParentStatus>| api::Route {
        namespace: status.name.namespace.clone(),
        name: status.name.name.clone(),
        kind: status.kind.to_owned(),
        parent: match parent {
            Some(model::ParentStatus { service, port: Some(port), .. }) => format!("{service}:{port}"),
            Some(model::ParentStatus { service, section: Some(name), .. }) => format!("{service}:{name}"),
            Some(parent) => parent.service.to_string(),
            None => String::new(),
        },
        role: parent
            .map(|parent| if parent.producer { "producer" } else { "consumer" })
            .unwrap_or_default()
            .to_owned(),
        rules: status.rules,
        accepted: parent.map(|parent| parent.accepted.clone()),
        partially_invalid: parent.and_then(|parent| parent.partially_invalid.clone()),
        resolved_refs: parent.map(|parent| parent.resolved_refs.clone()),
    };
    if status.parents.is_empty() {
        return vec![view(None)];
    }
    status.parents.iter().map(|parent| view(Some(parent))).collect()
}

fn service(s: &model::Service, snapshot: &Snapshot, kernel: KernelServices) -> api::Service {
    let path = |p: &model::ServicePort| match (kernel, snapshot.need_of(p)) {
        (KernelServices::Off, None) => "agent".to_owned(),
        (_, None) => "kernel".to_owned(),
        (_, Some(need)) => format!("agent: {}", need.label()),
    };
    let tcp = s.ports.iter().map(|p| api::Port { path: path(p), ..port(p, snapshot) });
    let udp_path = if kernel == KernelServices::Off { "none" } else { "kernel" };
    let udp = s.udp.iter().map(|p| api::Port {
        protocol: "udp".to_owned(),
        load_balancer: load_balancer(LoadBalancer::Random).to_owned(),
        path: udp_path.to_owned(),
        ..port(p, snapshot)
    });

    api::Service {
        namespace: s.meta.name.namespace.clone(),
        name: s.meta.name.name.clone(),
        host: s.meta.host.clone(),
        addresses: s.vips.clone(),
        headless: s.headless,
        ports: tcp.chain(udp).collect(),
    }
}

fn port(p: &model::ServicePort, snapshot: &Snapshot) -> api::Port {
    let avoid = Avoid::of(&p.endpoints, &p.policy, clock::now_ns());
    let policy = snapshot.traffic_of(p);
    let available = p.endpoints.available.chunk_by(Arc::ptr_eq);
    api::Port {
        name: p.name.clone(),
        port: p.port,
        protocol: p.protocol.label().to_owned(),
        protocol_from: match p.protocol_from {
            ProtocolFrom::AppProtocol => "app-protocol",
            ProtocolFrom::PortName => "port-name",
            ProtocolFrom::Detection => "detection",
        }
        .to_owned(),
        path: String::new(),
        load_balancer: load_balancer(p.policy.load_balancer).to_owned(),
        client_ip_affinity: p.policy.client_ip_affinity.is_some(),
        // One with a weight stands there several times.
        available: available.filter(|same| !avoid.is_unhealthy(&same[0])).count(),
        total: p.endpoints.all.len(),
        health_check: policy
            .and_then(|policy| policy.health_check.as_ref())
            .map(|check| health_check(check, p.endpoints.health.is_checked())),
        panic_threshold: p.endpoints.health.panic_threshold().map(Chance::as_percent),
    }
}

fn health_check(check: &HealthCheck, active: bool) -> api::HealthCheck {
    let at = check.port.map(|port| format!(" at port {port}")).unwrap_or_default();
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    api::HealthCheck {
        asks: format!("{}{at}", check.probe),
        interval_ms: millis(check.interval),
        timeout_ms: millis(check.timeout),
        healthy_threshold: check.healthy_threshold,
        unhealthy_threshold: check.unhealthy_threshold,
        active,
    }
}

fn load_balancer(policy: LoadBalancer) -> &'static str {
    match policy {
        LoadBalancer::PeakEwma => "peak-ewma",
        LoadBalancer::LeastRequest => "least-request",
        LoadBalancer::RoundRobin => "round-robin",
        LoadBalancer::Random => "random",
        LoadBalancer::RingHash => "ring-hash",
        LoadBalancer::Maglev => "maglev",
    }
}

pub(super) fn endpoints(snapshot: &Snapshot) -> Vec<api::Endpoint> {
    let ports = snapshot.services.values().flat_map(|s| &s.ports);
    let mut views: Vec<_> = ports.flat_map(|p| p.endpoints.all.iter().map(|e| endpoint(p, e))).collect();
    let key = |e: &api::Endpoint| (e.namespace.clone(), e.service.clone(), e.port, e.address);
    views.sort_by_cached_key(key);
    views
}

pub(super) fn endpoint(port: &model::ServicePort, e: &model::Endpoint) -> api::Endpoint {
    let ewma = f64::from_bits(e.load.ewma_ns.load(Relaxed));
    let checked = port.endpoints.health.is_checked();
    let verdict = if checked { e.load.health.verdict() } else { Verdict::Unchecked };
    let avoid = Avoid::of(&port.endpoints, &port.policy, clock::now_ns());
    let in_set = port.endpoints.available.iter().any(|other| other.addr == e.addr);
    api::Endpoint {
        namespace: port.service.name.namespace.clone(),
        service: port.service.name.name.clone(),
        port: port.port,
        address: e.addr.socket_addr(),
        workload: e.workload.as_ref().map(|w| w.name.to_string()),
        node: e.node.clone(),
        zone: e.zone.clone(),
        state: match (e.ready, e.terminating, verdict) {
            (true, _, Verdict::Unhealthy(_)) => "unhealthy",
            (true, _, Verdict::Pending) => "checking",
            (true, ..) => "ready",
            (false, true, _) => "terminating",
            (false, false, _) => "not-ready",
        }
        .to_owned(),
        unhealthy: match verdict {
            Verdict::Unhealthy(why) => Some(why.to_string()),
            Verdict::Unchecked | Verdict::Pending | Verdict::Healthy => None,
        },
        serving: e.serving,
        available: in_set && !avoid.is_unhealthy(e),
        in_flight: e.load.in_flight.load(Relaxed),
        latency_ms: (ewma > 0.0).then_some(ewma / 1e6),
    }
}

pub(super) fn connections(connections: &Connections) -> Vec<api::Connection> {
    connections.list().into_iter().map(connection).collect()
}

fn connection(view: ConnectionView) -> api::Connection {
    api::Connection {
        id: view.id,
        direction: view.info.reporter.direction().to_owned(),
        workload: view.info.workload.name.to_string(),
        client: view.info.client.socket_addr(),
        destination: view.info.destination.socket_addr(),
        service: view.info.service.map(|s| s.name.to_string()),
        endpoint: view.endpoint,
        protocol: view.protocol.label().to_owned(),
        server_name: view.server_name,
        peer: view.peer,
        since: view.since,
        requests: view.requests,
        sent_bytes: view.sent,
        received_bytes: view.received,
    }
}
