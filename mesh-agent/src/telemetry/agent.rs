//! The agent's own metrics, `mesh_agent_*`: what it did to connections, what it knows, how it is.
//!
//! Names follow Prometheus's rules (base units, `_total`). Fields are handles: clone one where it is used often.

use std::time::{SystemTime, UNIX_EPOCH};

use mesh_common::Reason;
use prometheus::{
    CounterVec, Encoder, Gauge, GaugeVec, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};

use super::Reporter;
use super::process::ProcessCollector;

macro_rules! agent_metrics {
    ($( $(#[$doc:meta])* $field:ident: $kind:ident = $name:literal $([$($label:literal),+])?, $help:literal; )+) => {
        /// Handles of the agent's own metrics.
        #[derive(Clone, Debug)]
        pub struct AgentMetrics {
            registry: Registry,
            $( $(#[$doc])* pub $field: $kind, )+
        }

        /// Name, type, labels and help of each, for the documentation.
        #[cfg(test)]
        pub(super) const TABLE: &[(&str, &str, &[&str], &str)] =
            &[$( ($name, stringify!($kind), &[$($($label),+)?], $help), )+];

        impl AgentMetrics {
            pub(super) fn new() -> Self {
                let registry = Registry::new();
                $( let $field: $kind = register(&registry, Make::make($name, $help, &[$($($label),+)?])); )+
                let metrics = Self { registry, $($field),+ };
                metrics.start();
                metrics
            }
        }
    };
}

agent_metrics! {
    /// Always 1.
    build_info: IntGaugeVec = "mesh_agent_build_info" ["version"], "Always 1; the label says which build runs.";
    /// Always 1; what Istio's mesh dashboard lists as a component.
    istio_build: IntGaugeVec = "istio_build" ["component", "tag"], "Always 1; Istio's name for the build.";
    /// Set once.
    start_time: Gauge = "mesh_agent_start_time_seconds", "When this process began, in Unix time.";
    /// [`crate::model::Snapshot::generation`] in force.
    config_generation: IntGauge = "mesh_agent_config_generation", "Generation of the configuration in force.";
    /// When the configuration in force was published.
    config_changed: Gauge = "mesh_agent_config_changed_timestamp_seconds",
        "When the configuration in force was published, in Unix time.";
    /// Objects left out or read only in part.
    config_warnings: IntGaugeVec = "mesh_agent_config_warnings" ["code"], "Configuration warnings, by code.";
    /// Set with the generation.
    config_rollback: IntGauge = "mesh_agent_config_rollback",
        "Generation that an operator put back in force; 0 while the source decides.";
    /// `annotation` or `event`; `ok`, `dropped` or [`crate::kube::Failure::label`].
    pod_reports: IntCounterVec = "mesh_agent_pod_reports_total" ["what", "result"],
        "What was written to the API server about this node's pods, and Events dropped because there were too many.";
    /// From a new pod's first cgroup to its capture.
    pod_capture: Histogram = "mesh_agent_pod_capture_seconds",
        "From a new pod's first cgroup being made to the pod being captured.";
    /// From a change noticed to a snapshot in force.
    config_apply: Histogram = "mesh_agent_config_apply_seconds", "From a change noticed to it being in force.";
    /// See [`AgentMetrics::set_source`].
    source_connected: IntGaugeVec = "mesh_agent_source_connected" ["resource"],
        "1 while the API server tells of changes of a resource, 0 while it can't be watched.";
    /// See [`AgentMetrics::set_source`].
    source_age: GaugeVec = "mesh_agent_source_age_seconds" ["resource"],
        "Since the API server last said anything about a resource; -1 where it never did.";
    /// See [`AgentMetrics::set_source`].
    source_objects: IntGaugeVec = "mesh_agent_source_objects" ["resource"], "Objects known from the API server.";
    /// See [`AgentMetrics::set_source`].
    source_relists: IntCounterVec = "mesh_agent_source_relists_total" ["resource"],
        "Times that all objects of a resource were read again from the API server.";
    /// [`crate::kube::Failure::label`].
    source_errors: IntCounterVec = "mesh_agent_source_errors_total" ["reason"],
        "Requests to the API server that failed, and watches that it broke off, by reason.";
    /// `captured`, `pending`, `refused`.
    enrolled_pods: IntGaugeVec = "mesh_agent_enrolled_pods" ["state"], "Pods of this node that ask to be captured.";
    /// See [`AgentMetrics::set_kernel_decisions`].
    kernel_decisions: IntCounterVec = "mesh_agent_kernel_decisions_total" ["reason"],
        "What the kernel programs decided, by reason.";
    /// Refreshed at every scrape by the control loop.
    bpf_map_entries: IntGaugeVec = "mesh_agent_bpf_map_entries" ["map"], "Entries in a kernel map.";
    /// Set at start.
    bpf_map_max_entries: IntGaugeVec = "mesh_agent_bpf_map_max_entries" ["map"], "Capacity of a kernel map.";
    /// Taken over at every scrape; only where the kernel counts (sysctl kernel.bpf_stats_enabled).
    bpf_program_runs: IntCounterVec = "mesh_agent_bpf_program_runs_total" ["program"],
        "Runs of a kernel program; only while the kernel counts them.";
    /// See [`AgentMetrics::set_program`].
    bpf_program_seconds: CounterVec = "mesh_agent_bpf_program_run_seconds_total" ["program"],
        "Time spent in a kernel program; only while the kernel counts it.";
    /// Kept by [`super::Connections`].
    connections_active: IntGaugeVec = "mesh_agent_connections_active" ["direction"], "Captured connections open.";
    /// Kept by [`super::Connections`].
    connections_total: IntCounterVec = "mesh_agent_connections_total" ["direction"], "Captured connections accepted.";
    /// Closed by the agent before a byte was carried.
    connections_refused: IntCounterVec = "mesh_agent_connections_refused_total" ["reason"],
        "Captured connections that the agent closed at once.";
    /// See [`AgentMetrics::set_pods`].
    pod_connections: IntGaugeVec = "mesh_agent_pod_connections_active" ["captured_pod"],
        "Places that a pod has of those that all pods share, one for each of its connections.";
    /// See [`AgentMetrics::set_pods`].
    pod_connections_refused: IntCounterVec = "mesh_agent_pod_connections_refused_total" ["captured_pod"],
        "Connections of a pod refused because it had as many as one pod may have.";
    /// Hostile or broken input, by what was wrong with it.
    protocol_errors: IntCounterVec = "mesh_agent_protocol_errors_total" ["reason"],
        "Messages refused for what they are, by what is wrong with them.";
    /// What detection or declaration came to.
    detect: IntCounterVec = "mesh_agent_detect_total" ["protocol"], "Connections, by the protocol found on them.";
    /// `ok`, `refused`, `timeout`, `unreachable`, `failed`.
    upstream_connects: IntCounterVec = "mesh_agent_upstream_connects_total" ["result"],
        "Connections that the agent opened to endpoints.";
    /// `full`, `resumed`, `tls_failed`, `certificate_refused`, `connect_timeout`.
    tls_handshakes: IntCounterVec = "mesh_agent_upstream_tls_handshakes_total" ["result"],
        "TLS handshakes with endpoints, by what came of them.";
    /// `ok`, or why not, as docs/mtls.md lists.
    mesh_handshakes: IntCounterVec = "mesh_agent_mesh_handshakes_total" ["direction", "transport", "result"],
        "Mutual TLS handshakes with other agents and by HBONE, by what came of them.";
    /// See [`AgentMetrics::set_name_lookups`].
    name_lookups: IntCounterVec = "mesh_agent_name_lookups_total" ["result"],
        "Questions for the names of ServiceEntries, by what came of them.";
    /// Kept by [`crate::identity`].
    certificate_expiry: GaugeVec = "mesh_agent_certificate_expiry_timestamp_seconds" ["identity"],
        "When the certificate of an identity expires, in Unix time.";
    /// Kept by [`crate::identity`].
    certificate_issued: GaugeVec = "mesh_agent_certificate_issued_timestamp_seconds" ["identity"],
        "Since when the certificate of an identity is valid, in Unix time.";
    /// `issued`, `unavailable`, `refused`, `invalid`.
    certificate_requests: IntCounterVec = "mesh_agent_certificate_requests_total" ["outcome"],
        "Requests for certificates, by what came of them.";
    /// Kept by [`crate::identity`].
    certificate_issuer_failing: IntGauge = "mesh_agent_certificate_issuer_failing",
        "1 while the issuer can't be used or the last request to it failed.";
    /// Kept by [`crate::identity`].
    certificate_roots: IntGauge = "mesh_agent_certificate_roots", "Roots in the trust bundle.";
    /// Idle connections kept for the next request.
    upstream_pool_idle: IntGauge = "mesh_agent_upstream_pool_idle", "Idle upstream connections kept for reuse.";
    /// Counted by those that wait.
    queue_waiting: IntGauge = "mesh_agent_upstream_queue_waiting_requests",
        "Requests that wait for a connection, their number being limited.";
    /// However the wait ended.
    queue_wait: Histogram = "mesh_agent_upstream_queue_wait_seconds",
        "How long requests waited for a connection, their number being limited.";
    /// Requests tried again on another connection or endpoint.
    upstream_retries: IntCounterVec = "mesh_agent_upstream_retries_total" ["reason"],
        "Requests or connections tried again on another connection or endpoint.";
    /// See [`crate::balance::outlier`].
    outlier_ejections: IntCounterVec = "mesh_agent_outlier_ejections_total" ["reason"],
        "Endpoints left alone for a while, by the threshold that they reached.";
    /// Refreshed at every look of the control loop.
    outlier_ejected: IntGauge = "mesh_agent_outlier_ejected_endpoints", "Endpoints that outlier detection leaves alone now.";
    /// `passed`, or [`crate::balance::health::Failure::label`].
    health_checks: IntCounterVec = "mesh_agent_health_checks_total" ["result"],
        "Active health checks of endpoints, by what came of them.";
    /// Refreshed at every look of the control loop.
    unhealthy: IntGauge = "mesh_agent_unhealthy_endpoints", "Endpoints that get no requests for what active health checks say.";
    /// See [`crate::sever`].
    balanced_connections_closed: IntCounter = "mesh_agent_balanced_connections_closed_total",
        "Connections that the kernel balanced, closed because their endpoint is gone.";
    /// See [`crate::balance::Avoid`].
    panic_choices: IntCounter = "mesh_agent_panic_choices_total",
        "Endpoints chosen among all, too few being healthy.";
    /// Refreshed at every look of the control loop.
    panicking: IntGauge = "mesh_agent_panicking_service_ports", "Service ports that use all endpoints, too few being healthy.";
    /// [`crate::trace::RESULTS`].
    trace_spans: IntCounterVec = "mesh_agent_trace_spans_total" ["result"],
        "Spans of requests and connections that are recorded, by what became of them.";
    /// [`crate::trace::EXPORTS`].
    trace_exports: IntCounterVec = "mesh_agent_trace_exports_total" ["result"],
        "Requests to the collector of traces, by what came of them.";
    /// [`crate::trace::RESULTS`].
    log_records: IntCounterVec = "mesh_agent_log_records_total" ["result"],
        "Records of the access log for a collector, by what became of them.";
    /// [`crate::trace::EXPORTS`].
    log_exports: IntCounterVec = "mesh_agent_log_exports_total" ["result"],
        "Requests to the collector of the access log, by what came of them.";
    /// See docs/trafficpolicy.md.
    traffic_policy: IntCounterVec = "mesh_agent_traffic_policy_decisions_total" ["decision"],
        "Requests that a TrafficPolicy had something to say to, by what it was.";
    /// See [`crate::proxy::access`].
    authorization_denied: IntCounterVec = "mesh_agent_authorization_denied_total" ["policy", "rule", "kind"],
        "Requests and connections that an AuthorizationPolicy denied; policy `none` where no ALLOW rule matched.";
    /// See [`crate::proxy::access`].
    authorization_audited: IntCounterVec = "mesh_agent_authorization_audited_total" ["policy", "rule"],
        "Requests and connections that an AuthorizationPolicy with action AUDIT matched.";
    /// `allowed`, `denied`.
    authorization_dry_run: IntCounterVec = "mesh_agent_authorization_dry_run_total" ["policy", "rule", "verdict"],
        "What would become of requests and connections if AuthorizationPolicies in dry run were enforced.";
    /// `none`, `accepted`, or [`crate::jwt::Refusal::label`].
    jwt_authentications: IntCounterVec = "mesh_agent_jwt_authentications_total" ["outcome"],
        "Requests to pods with RequestAuthentications, by what came of their tokens.";
    /// See [`AgentMetrics::set_jwks`].
    jwks_fetches: IntCounterVec = "mesh_agent_jwks_fetches_total" ["outcome"],
        "Fetches of keys for tokens, by what came of them.";
    /// See [`AgentMetrics::set_jwks`].
    jwks_age: IntGaugeVec = "mesh_agent_jwks_age_seconds" ["source"],
        "Age of the keys fetched from a source; -1 where none were fetched so far.";
    /// `allowed`, `denied`, `error`, `failed_open`.
    ext_authz: IntCounterVec = "mesh_agent_ext_authz_total" ["provider", "outcome"],
        "Requests and connections that an authorization provider was asked about, by what came of it.";
    /// `sent`, `too_large`, `no_endpoint`, `denied`, `overflow`, `failed`.
    mirrored_requests: IntCounterVec = "mesh_agent_mirrored_requests_total" ["outcome"],
        "Copies of requests for mirrors, by what became of them.";
    /// Retries that a policy asked for.
    retry_budget_exhausted: IntCounter = "mesh_agent_retry_budget_exhausted_total",
        "Retries that weren't made because the service's retry budget, or its DestinationRule's number of retries, was used up.";
    /// `sent`, `won`, `budget`, `overflow`, `no_endpoint`, `denied`, `too_late`.
    hedges: IntCounterVec = "mesh_agent_hedges_total" ["outcome"],
        "Requests sent to another endpoint as well for being slow: sent, won, or why they weren't.";
    /// By the service's host name; counted by those that wait.
    activation_waiting: IntGaugeVec = "mesh_agent_activation_waiting_requests" ["service"],
        "Requests and connections that wait for a first endpoint of a service.";
    /// `activated`, `timeout`, `too_many`, `gone`.
    activation_requests: IntCounterVec = "mesh_agent_activation_requests_total" ["service", "result"],
        "Requests and connections to a service without an endpoint, by what came of waiting for one.";
    /// `ok`, `failed`.
    activation_hooks: IntCounterVec = "mesh_agent_activation_hooks_total" ["service", "result"],
        "Times that an activation hook was told of waiting requests.";
    /// Requests under way.
    requests_active: IntGauge = "mesh_agent_requests_active", "Requests under way.";
    /// See [`AgentMetrics::worker_busy_so_far`].
    worker_busy: CounterVec = "mesh_agent_worker_busy_seconds_total" ["worker"],
        "CPU time of a data path thread; its rate is the share of one core that it uses.";
    /// Lines that the log's reader was too slow for.
    access_log_dropped: IntCounter = "mesh_agent_access_log_dropped_total", "Access-log lines dropped, the writer being behind.";
    /// Of `observe`, `tap` and whoever else asks for flows to come.
    flow_observers: IntGauge = "mesh_agent_flow_observers", "Readers of flows that are connected.";
    /// Their readers were too slow for them.
    flows_lost: IntCounter = "mesh_agent_flows_lost_total", "Flows that didn't reach a reader, it being behind.";
    /// There were too many within a second.
    flow_failures_left_out: IntCounter = "mesh_agent_flow_failures_left_out_total",
        "Failures and denials that aren't kept for later, there being too many.";
    /// Edges known.
    edges: IntGauge = "mesh_agent_metrics_edges", "Edges (source, destination, reporter) with metrics.";
    /// Request series of all edges.
    series: IntGauge = "mesh_agent_metrics_request_series", "Request series of all edges.";
    /// Look-ups that hit the cap.
    series_overflowed: IntCounter = "mesh_agent_metrics_overflow_total",
        "Times that figures went to an overflow series, the cap being reached.";
}

impl AgentMetrics {
    /// The agent closed a captured connection before a byte was carried.
    pub fn connection_refused(&self, reason: &str) {
        self.connections_refused.with_label_values(&[reason]).inc();
    }

    /// A message was refused for what it is.
    pub fn protocol_error(&self, reason: &str) {
        self.protocol_errors.with_label_values(&[reason]).inc();
    }

    /// A connection turned out to carry this.
    pub fn detected(&self, protocol: &str) {
        self.detect.with_label_values(&[protocol]).inc();
    }

    /// A connection to an endpoint was tried.
    pub fn upstream_connect(&self, result: &str) {
        self.upstream_connects.with_label_values(&[result]).inc();
    }

    /// A request or connection is tried again on another connection or endpoint.
    pub fn upstream_retry(&self, reason: &str) {
        self.upstream_retries.with_label_values(&[reason]).inc();
    }

    /// CPU time that worker `worker` has used up so far; told by itself, from time to time.
    pub fn worker_busy_so_far(&self, worker: &str, cpu: std::time::Duration) {
        let counter = self.worker_busy.with_label_values(&[worker]);
        counter.inc_by((cpu.as_secs_f64() - counter.get()).max(0.0));
    }

    /// Takes over the kernel's counters, which count on while agents come and go.
    pub fn set_kernel_decisions(&self, counts: impl IntoIterator<Item = (Reason, u64)>) {
        for (reason, count) in counts {
            let counter = self.kernel_decisions.with_label_values(&[reason.label()]);
            counter.inc_by(count.saturating_sub(counter.get()));
        }
    }

    /// Takes over what the kernel has counted of a program. Does nothing where it doesn't count.
    pub fn set_program(&self, program: &str, runs: u64, time: std::time::Duration) {
        if runs > 0 {
            let counter = self.bpf_program_runs.with_label_values(&[program]);
            counter.inc_by(runs.saturating_sub(counter.get()));
            let seconds = self.bpf_program_seconds.with_label_values(&[program]);
            seconds.inc_by((time.as_secs_f64() - seconds.get()).max(0.0));
        }
    }

    /// Takes over how many connections each captured pod has, and how many it was refused; pods that are gone go.
    pub fn set_pods(&self, pods: impl IntoIterator<Item = (String, usize, u64)>) {
        self.pod_connections.reset();
        self.pod_connections_refused.reset();
        for (pod, connections, refused) in pods {
            let connections = i64::try_from(connections).unwrap_or(i64::MAX);
            self.pod_connections.with_label_values(&[&pod]).set(connections);
            self.pod_connections_refused.with_label_values(&[&pod]).inc_by(refused);
        }
    }

    /// Takes over what the thread of names has counted: `resolved`, `no_address`, `failed`.
    pub fn set_name_lookups(&self, counts: impl IntoIterator<Item = (&'static str, u64)>) {
        for (result, count) in counts {
            let counter = self.name_lookups.with_label_values(&[result]);
            counter.inc_by(count.saturating_sub(counter.get()));
        }
    }

    /// Takes over how the watches of an API server are. Does nothing where there is none.
    pub fn set_source(&self, health: &crate::source::Health) {
        for watch in health.resources() {
            let label = [watch.name];
            self.source_connected.with_label_values(&label).set(i64::from(watch.connected));
            self.source_age.with_label_values(&label).set(watch.age.map_or(-1.0, |age| age.as_secs_f64()));
            self.source_objects
                .with_label_values(&label)
                .set(i64::try_from(watch.objects).unwrap_or(i64::MAX));
            let counter = self.source_relists.with_label_values(&label);
            counter.inc_by(watch.relists.saturating_sub(counter.get()));
        }
        if health.server().is_some() {
            for (reason, count) in health.errors() {
                let counter = self.source_errors.with_label_values(&[reason]);
                counter.inc_by(count.saturating_sub(counter.get()));
            }
        }
    }

    /// Takes over what the thread that fetches keys has done, and how old the copies are.
    pub fn set_jwks(&self, stats: &crate::jwt::Stats) {
        for (outcome, count) in stats.fetches() {
            let counter = self.jwks_fetches.with_label_values(&[outcome]);
            counter.inc_by(count.saturating_sub(counter.get()));
        }
        self.jwks_age.reset();
        for (source, age) in stats.ages() {
            let seconds = age.map_or(-1, |age| i64::try_from(age.as_secs()).unwrap_or(i64::MAX));
            self.jwks_age.with_label_values(&[&source]).set(seconds);
        }
    }

    /// A configuration came into force now.
    pub fn config_published(&self, generation: u64) {
        self.config_generation.set(i64::try_from(generation).unwrap_or(i64::MAX));
        self.config_changed.set(unix_now());
    }

    /// Takes over what is in force and what is wrong with it. Does nothing for a generation that it knows but count
    /// warnings anew, so that it may be called at every scrape as well as at every change.
    pub fn set_config<'w>(&self, generation: u64, warning_codes: impl IntoIterator<Item = &'w str>) {
        if u64::try_from(self.config_generation.get()).ok() != Some(generation) {
            self.config_published(generation);
        }
        self.config_warnings.reset();
        for code in warning_codes {
            self.config_warnings.with_label_values(&[code]).inc();
        }
    }

    /// Shows a rollback: the generation and since when, or none.
    pub fn set_rollback(&self, rollback: Option<(u64, SystemTime)>) {
        let generation = rollback.map_or(0, |(generation, _)| generation);
        self.config_rollback.set(i64::try_from(generation).unwrap_or(i64::MAX));
    }

    /// The text of these metrics.
    pub(super) fn encode(&self) -> String {
        let mut text = Vec::with_capacity(16 * 1024);
        // Writing to memory can't fail; a family that can't be encoded is left out.
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            tracing::warn!(%error, "metrics are incomplete");
        }
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Figures that never change, and series that shall be there from the start so that rates over them work.
    fn start(&self) {
        let version = env!("CARGO_PKG_VERSION");
        self.build_info.with_label_values(&[version]).set(1);
        self.istio_build.with_label_values(&["mesh-agent", version]).set(1);
        self.start_time.set(unix_now());
        self.set_kernel_decisions(Reason::ALL.iter().map(|reason| (*reason, 0)));
        for reporter in [Reporter::Source, Reporter::Destination] {
            self.connections_active.with_label_values(&[reporter.direction()]).set(0);
            self.connections_total.with_label_values(&[reporter.direction()]).reset();
        }
        for outcome in ["issued", "unavailable", "refused", "invalid"] {
            self.certificate_requests.with_label_values(&[outcome]).reset();
        }
        for state in ["captured", "pending", "refused"] {
            self.enrolled_pods.with_label_values(&[state]).set(0);
        }
        register(&self.registry, Ok(ProcessCollector::new()));
    }
}

fn unix_now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

/// Registers what was made. Names and labels are constants, checked by a test, so that this can't fail in the field.
#[expect(clippy::expect_used, reason = "constant names; the test `metrics_text` runs through every one")]
fn register<C: prometheus::core::Collector + Clone + 'static>(
    registry: &Registry,
    made: prometheus::Result<C>,
) -> C {
    let collector = made.expect("a metric's constant name is valid");
    registry.register(Box::new(collector.clone())).expect("a metric's constant name is unique");
    collector
}

/// Metrics with and without labels, made alike.
trait Make: Sized {
    fn make(name: &str, help: &str, labels: &[&str]) -> prometheus::Result<Self>;
}

macro_rules! make {
    ($($plain:ident)+; $($labelled:ident)+) => {
        $(impl Make for $plain {
            fn make(name: &str, help: &str, _labels: &[&str]) -> prometheus::Result<Self> {
                $plain::new(name, help)
            }
        })+
        $(impl Make for $labelled {
            fn make(name: &str, help: &str, labels: &[&str]) -> prometheus::Result<Self> {
                $labelled::new(Opts::new(name, help), labels)
            }
        })+
    };
}
make!(Gauge IntCounter IntGauge; CounterVec GaugeVec IntCounterVec IntGaugeVec);

impl Make for Histogram {
    fn make(name: &str, help: &str, _labels: &[&str]) -> prometheus::Result<Self> {
        // A change takes a millisecond or so; what takes longer than ten seconds is broken.
        let bounds =
            vec![0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
        Histogram::with_opts(HistogramOpts::new(name, help).buckets(bounds))
    }
}

#[cfg(test)]
mod tests;
