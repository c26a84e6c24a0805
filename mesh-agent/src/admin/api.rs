//! What the admin API answers, as types that server and CLI share. `config dump` prints [`Dump`] and
//! `get -f` reads it, so that fields are only ever added.

use std::net::{IpAddr, SocketAddr};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

macro_rules! views {
    ($( $(#[$doc:meta])* $name:ident { $( $(#[$field_meta:meta])* $field:ident: $kind:ty, )* } )+) => { $(
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(rename_all = "camelCase")]
        pub struct $name { $( $(#[$field_meta])* pub $field: $kind, )* }
    )+ };
}

views! {
    /// `GET /v1/status`.
    Status {
        /// The process.
        agent: Agent,
        /// The configuration.
        config: Config,
        /// Pods of this node that ask to be captured.
        pods: Vec<Pod>,
        /// `None` where the control loop didn't answer in time.
        kernel: Option<Kernel>,
        /// Certificates and who signs them. An older agent has none.
        #[serde(default)]
        identity: Option<Identity>,
        /// What is being carried.
        traffic: Traffic,
    }
    /// The agent's process.
    Agent {
        /// Of the binary.
        version: String,
        /// Its node.
        node: String,
        /// Process id.
        pid: u32,
        /// When it began.
        started: SystemTime,
        /// Data path threads.
        workers: usize,
        /// Start-up is over.
        ready: bool,
        /// What it still waits for.
        waiting_for: Vec<String>,
        /// What hangs, if anything does.
        trouble: Option<String>,
        /// Where its socket is.
        state_dir: String,
        /// Where its pins are.
        bpffs_dir: String,
    }
    /// The configuration in force.
    Config {
        /// `--source`.
        source: String,
        /// Raised with every change.
        generation: u64,
        /// Pods known, on any node.
        workloads: usize,
        /// Services.
        services: usize,
        /// Endpoints over all service ports.
        endpoints: usize,
        /// Warnings that stand.
        warnings: usize,
        /// The generation that an operator put back, if one is in force.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rollback: Option<Rollback>,
        /// How the API server is, where that is the source.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        api_server: Option<ApiServer>,
    }
    /// The API server that is followed.
    ApiServer {
        /// Its URL.
        server: String,
        /// Since it last said anything. None: it never did.
        heard_ms: Option<u64>,
        /// What it doesn't tell changes of now.
        unwatched: Vec<String>,
    }
    /// A generation that was put back.
    Rollback {
        /// Which.
        generation: u64,
        /// Since when it is in force.
        since: SystemTime,
    }
    /// One kept generation; newest first at `GET /v1/config/history`.
    HistoryEntry {
        /// Number.
        generation: u64,
        /// When it came into force.
        time: SystemTime,
        /// Why: `source`, `rollback` or `release`.
        cause: String,
        /// The generation whose objects a rollback put back.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rolled_back_to: Option<u64>,
        /// It is the newest.
        in_force: bool,
        /// What it changed, compared to the one before.
        changes: Vec<HistoryChange>,
        /// Warnings that stood when it was last looked at.
        warnings: usize,
        /// Changes of Pods, EndpointSlices and Nodes under it.
        discovery: u64,
    }
    /// One object's part in a generation.
    HistoryChange {
        /// `added`, `changed` or `removed`.
        change: crate::history::Operation,
        /// Kind, namespace and name.
        object: String,
    }
    /// The configuration objects of one generation: `GET /v1/config/history/GENERATION`.
    Generation {
        /// Number.
        generation: u64,
        /// When it came into force.
        time: SystemTime,
        /// Texts by kind, namespace and name.
        objects: crate::history::Objects,
    }
    /// `PUT /v1/config/rollback`.
    RollbackRequest {
        /// Which generation to put back; none lets the source decide again.
        generation: Option<u64>,
    }
    /// One pod's capture.
    Pod {
        /// Namespace.
        namespace: String,
        /// Name.
        name: String,
        /// How it stands.
        #[serde(flatten)]
        state: PodState,
    }
    /// Certificates and who signs them.
    Identity {
        /// Of the identities.
        trust_domain: String,
        /// Trust domains that count as the own one.
        aliases: Vec<String>,
        /// `--ca`.
        issuer: String,
        /// It is the development root.
        development: bool,
        /// What its configuration lacks.
        problem: Option<String>,
        /// When it last issued a certificate.
        last_issued: Option<SystemTime>,
        /// When the last request failed, if the last one did.
        last_failure: Option<SystemTime>,
        /// And why.
        last_error: Option<String>,
        /// Whose signatures count.
        roots: Vec<Root>,
        /// Identities in use.
        certificates: usize,
        /// Those with a certificate that is renewed in time.
        valid: usize,
        /// Service accounts that have none, or an expired one.
        without: Vec<String>,
    }
    /// One root of the trust bundle.
    Root {
        /// Its name.
        subject: String,
        /// Hexadecimal.
        serial: String,
        /// Its end.
        not_after: SystemTime,
    }
    /// One service account's certificate: `GET /v1/certificates`.
    Certificate {
        /// Of the service account.
        namespace: String,
        /// Of the service account.
        name: String,
        /// SPIFFE id.
        id: String,
        /// How it stands.
        state: CertificateState,
        /// Hexadecimal; empty without a certificate.
        serial: String,
        /// First moment of its life.
        not_before: Option<SystemTime>,
        /// Last moment of its life.
        not_after: Option<SystemTime>,
        /// When it is requested next; none while it is being requested.
        next_renewal: Option<SystemTime>,
        /// `--ca`.
        issuer: String,
        /// Name of the root that it is signed under.
        root: String,
        /// Why the last request failed, if it did.
        reason: String,
    }
    /// What is being carried.
    Traffic {
        /// Open connections that pods opened.
        outbound: usize,
        /// Open connections to pods.
        inbound: usize,
        /// Requests under way.
        requests: i64,
        /// Access-log lines dropped so far.
        access_log_dropped: u64,
    }
    /// One pod: `GET /v1/workloads`.
    Workload {
        /// Namespace.
        namespace: String,
        /// Name.
        name: String,
        /// Node it runs on.
        node: String,
        /// `status.podIPs`.
        addresses: Vec<IpAddr>,
        /// Service account.
        service_account: String,
        /// Owner, for metrics.
        workload: String,
        /// App, for metrics.
        app: String,
        /// Version, for metrics.
        version: String,
        /// Captured or not.
        capture: Capture,
        /// Why it isn't, where it was asked for.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        reason: String,
        /// `closed` or `open`.
        fail_mode: String,
        /// How clients in other pods reach it: `mesh` (mutual TLS with its agent), `hbone` or `plain`.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        reached: String,
        /// Its network namespace: a path, or `uid:` and the uid by which its processes are found.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        netns: Option<String>,
        /// Which connections its ports accept, by PeerAuthentications; empty where none says anything.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        mtls: Vec<PortMode>,
        /// `PORT PROBE`: what kubelet may send in plain text to any port.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        probes: Vec<String>,
        /// `KIND NAMESPACE/NAME` of policies that select it by its labels; of pods of the agent's own node.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        policies: Vec<String>,
    }
    /// One service: `GET /v1/services`.
    Service {
        /// Namespace.
        namespace: String,
        /// Name.
        name: String,
        /// Full DNS name.
        host: String,
        /// Virtual IPs.
        addresses: Vec<IpAddr>,
        /// `clusterIP: None`.
        headless: bool,
        /// Its TCP ports, then its UDP ports.
        ports: Vec<Port>,
    }
    /// One port of a service.
    Port {
        /// Empty for none.
        name: String,
        /// Number.
        port: u16,
        /// Declared protocol, `detect` for none; `udp`.
        protocol: String,
        /// What declared it: `app-protocol`, `port-name` or `detection`.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        protocol_from: String,
        /// How new connections of captured pods get there: `kernel`, balanced at connect(2); `agent`, with what it is needed
        /// for; `none`: they are left alone.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        path: String,
        /// How an endpoint is chosen.
        load_balancer: String,
        /// `sessionAffinity: ClientIP`.
        client_ip_affinity: bool,
        /// Endpoints that new connections go to.
        available: usize,
        /// Endpoints known.
        total: usize,
        /// How its endpoints are checked, where a TrafficPolicy says so.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        health_check: Option<HealthCheck>,
        /// Percent of healthy endpoints below which all are used, where a TrafficPolicy says so.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        panic_threshold: Option<f64>,
    }
    /// How endpoints are checked.
    HealthCheck {
        /// What is asked: `GET /healthz`, `gRPC shop.Cart`, `TCP`; and where, if not at the endpoint's own port.
        asks: String,
        /// Between two checks of an endpoint.
        interval_ms: u64,
        /// What takes longer has failed.
        timeout_ms: u64,
        /// Successes in a row.
        healthy_threshold: u32,
        /// Failures in a row.
        unhealthy_threshold: u32,
        /// Checks are made: there is a captured pod for them to come from.
        active: bool,
    }
    /// A route and one of the Services that it names as parent: `GET /v1/routes`. A route that names none stands once,
    /// without parent and conditions.
    Route {
        /// Namespace of the route.
        namespace: String,
        /// Route.
        name: String,
        /// `HTTPRoute`, `GRPCRoute`, `TLSRoute` or `TCPRoute`.
        kind: String,
        /// `NAMESPACE/SERVICE`, and `:PORT` where the route names one; empty for none.
        parent: String,
        /// `producer` for a route of the Service's own namespace, else `consumer`.
        role: String,
        /// Number of its rules.
        rules: usize,
        /// Whether the parent took it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        accepted: Option<Condition>,
        /// `PartiallyInvalid`, where some of its rules can't be served.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        partially_invalid: Option<Condition>,
        /// Whether all that it refers to can be used.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        resolved_refs: Option<Condition>,
    }
    /// One endpoint of one service port: `GET /v1/endpoints`.
    Endpoint {
        /// Namespace of the service.
        namespace: String,
        /// Service.
        service: String,
        /// Port of the service.
        port: u16,
        /// Own address and port.
        address: SocketAddr,
        /// `NAMESPACE/NAME` of the pod, if known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        workload: Option<String>,
        /// Node.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        node: Option<String>,
        /// Zone.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        zone: Option<String>,
        /// `ready`, `terminating` or `not-ready`; `unhealthy` or `checking` for one that is ready and gets no requests for
        /// what health checks say.
        state: String,
        /// Why it is unhealthy.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        unhealthy: Option<String>,
        /// It still answers, though maybe terminating.
        #[serde(default)]
        serving: bool,
        /// New connections go to it.
        available: bool,
        /// Requests or connections under way.
        in_flight: u32,
        /// Peak-EWMA latency; `None` for never measured.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        latency_ms: Option<f64>,
    }
    /// One open connection: `GET /v1/connections`.
    Connection {
        /// Unique in this process.
        id: u64,
        /// `outbound` or `inbound`.
        direction: String,
        /// `NAMESPACE/NAME` of the captured pod.
        workload: String,
        /// Who dialled.
        client: SocketAddr,
        /// What was dialled.
        destination: SocketAddr,
        /// The service that this is.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        service: Option<String>,
        /// Where it went last.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        endpoint: Option<SocketAddr>,
        /// What it carries.
        protocol: String,
        /// Name in the ClientHello.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        server_name: String,
        /// SPIFFE id of the pod at the other end, where mutual TLS proved it.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        peer: String,
        /// Since when.
        since: SystemTime,
        /// Requests so far.
        requests: u64,
        /// Bytes to the client.
        sent_bytes: u64,
        /// Bytes from the client.
        received_bytes: u64,
    }
    /// What runs in the kernel: `GET /v1/bpf`.
    Kernel {
        /// `uname -r`.
        release: String,
        /// Age of the last heartbeat; `None` for none yet.
        heartbeat_age_ms: Option<u64>,
        /// Loaded programs.
        programs: Vec<Program>,
        /// Maps.
        maps: Vec<Map>,
        /// Decisions so far.
        reasons: Vec<Reason>,
    }
    /// One kernel program.
    Program {
        /// Name in mesh-ebpf.
        name: String,
        /// Kernel's number of it.
        id: u32,
        /// Hook (`cgroup/connect4`).
        hook: String,
        /// Cgroup, or namespaces.
        attached_to: Vec<String>,
        /// Runs, where the kernel counts them (sysctl kernel.bpf_stats_enabled).
        run_count: u64,
        /// Nanoseconds in them.
        run_time_ns: u64,
    }
    /// One kernel map.
    Map {
        /// Name, layout version included.
        name: String,
        /// Type (`hash`).
        kind: String,
        /// Entries now, where they can be counted.
        entries: Option<u64>,
        /// Capacity.
        max_entries: u64,
        /// Where it is pinned; empty for nowhere.
        pin: String,
    }
    /// One numbered reason.
    Reason {
        /// Number.
        number: u32,
        /// Label.
        reason: String,
        /// Times.
        count: u64,
    }
    /// `GET /v1/config`: everything that decides about traffic.
    Dump {
        /// Version of the agent.
        version: String,
        /// Its node.
        node: String,
        /// Generation of the snapshot.
        generation: u64,
        /// The settings in force.
        settings: serde_json::Value,
        /// Pods.
        workloads: Vec<Workload>,
        /// Services.
        services: Vec<Service>,
        /// Endpoints.
        endpoints: Vec<Endpoint>,
        /// Routes.
        #[serde(default)]
        routes: Vec<Route>,
        /// Rules of routes in force.
        #[serde(default)]
        route_rules: Vec<RouteRule>,
        /// Policies, with whether they hold.
        #[serde(default)]
        policies: Vec<Policy>,
        /// What policies come to on service ports.
        #[serde(default)]
        port_policies: Vec<PortPolicy>,
        /// Warnings.
        warnings: Vec<Warning>,
    }
    /// `GET` and `PUT /v1/log`.
    LogFilter {
        /// tracing's filter syntax.
        filter: String,
    }
    /// Any answer but 2xx.
    Problem {
        /// What went wrong.
        error: String,
    }
}

mod authz;
mod live;
mod policies;
mod routes;

pub use authz::{AuthzAnswer, AuthzQuestion, AuthzRule, AuthzTarget};
pub use live::{
    LiveBucket, LiveDestination, LiveEdge, LiveEdgeHistory, LiveEdgeKey, LiveEdges, LiveFigures, LiveHistory,
    LiveRoute, LiveRoutes, LiveSource,
};
pub use policies::{InForce, Policy, PolicyState, PortMode, PortPolicy};
pub use routes::{
    ConsideredMatch, OwnAnswer, RequestHead, RouteAnswer, RouteBackend, RouteOutcome, RouteQuestion,
    RouteRule,
};

/// A condition of a route.
pub use crate::model::Condition;
/// One configuration warning: `GET /v1/warnings`.
/// How a certificate stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CertificateState {
    /// It serves, and will be renewed in time.
    Valid,
    /// It serves, but half of its remaining life is over and its renewal fails.
    Late,
    /// There is none yet.
    Pending,
    /// The issuer refuses one.
    Refused,
    /// It is over, and connections are refused.
    Expired,
}

impl CertificateState {
    /// The word for tables.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Valid => "valid",
            Self::Late => "late",
            Self::Pending => "pending",
            Self::Refused => "refused",
            Self::Expired => "expired",
        }
    }
}

pub use crate::model::Warning;

/// How a pod that asks to be captured stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "state", content = "reason")]
pub enum PodState {
    /// Captured.
    Captured,
    /// Not yet; tried again.
    Pending(String),
    /// It can't be.
    Refused(String),
}

/// Whether a pod's traffic is captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Capture {
    /// By this agent.
    Captured,
    /// By this agent, soon.
    Pending,
    /// Asked for, and impossible.
    Refused,
    /// Asked for; another node's agent does it.
    OtherNode,
    /// Not asked for.
    None,
}

impl Capture {
    /// For tables.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Captured => "captured",
            Self::Pending => "pending",
            Self::Refused => "refused",
            Self::OtherNode => "other-node",
            Self::None => "none",
        }
    }
}
