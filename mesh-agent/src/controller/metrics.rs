//! The controller's metrics and probes: `/metrics`, `/livez`, `/readyz`.

use std::cell::{OnceCell, RefCell};
use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{Method, StatusCode};
use prometheus::{Encoder, Gauge, IntCounterVec, IntGauge, Opts, Registry, TextEncoder};
use tokio::net::TcpListener;
use tokio::task::spawn_local;

use super::serve::Controller;
use crate::admin::http as answers;

/// Name, type, labels and help.
type Row = (&'static str, &'static str, &'static [&'static str], &'static str);

const REQUESTS: Row = (
    "mesh_agent_controller_requests_total",
    "IntCounterVec",
    &["outcome"],
    "Requests for certificates that the controller answered, by what came of them.",
);
const EXPIRY: Row = (
    "mesh_agent_controller_authority_expiry_timestamp_seconds",
    "Gauge",
    &[],
    "When the certificate expires that the controller signs with, in Unix time.",
);

const ROOTS: Row = (
    "mesh_agent_controller_roots",
    "IntGauge",
    &[],
    "Roots that the controller publishes: more than one while one takes another's place.",
);
const LEADER: Row = (
    "mesh_agent_controller_leader",
    "IntGauge",
    &[],
    "1 while this controller is the one that writes status and trust bundles.",
);
const STATUS_WRITES: Row = (
    "mesh_agent_controller_status_writes_total",
    "IntCounterVec",
    &["outcome"],
    "Objects whose status was looked at, by what came of it: written, unchanged, gone, no_status (its CRD has none), conflict or failed.",
);
const BUNDLE_WRITES: Row = (
    "mesh_agent_controller_trust_bundle_writes_total",
    "IntCounterVec",
    &["outcome"],
    "Writes of the trust bundle's ConfigMap, by what came of it: written, conflict or failed.",
);

/// Every one, for the documentation.
#[cfg(test)]
pub(crate) const TABLE: &[Row] = &[REQUESTS, EXPIRY, ROOTS, LEADER, STATUS_WRITES, BUNDLE_WRITES];

/// What requests come to, in `outcome`.
const OUTCOMES: &[&str] = &[
    "signed",
    "unauthenticated",
    "token_review",
    "bad_request",
    "bad_signature",
    "bad_key",
    "trust_domain",
    "not_on_node",
    "not_ready",
    "authority",
    "method",
];

/// Counts of one controller.
pub struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    expiry: Gauge,
    roots: IntGauge,
    leader: IntGauge,
    status_writes: IntCounterVec,
    bundle_writes: IntCounterVec,
    /// What was wrong when it was last said.
    said: RefCell<String>,
}

impl Metrics {
    /// Nothing happened yet.
    #[expect(clippy::expect_used, reason = "constant names; every test of the controller runs through them")]
    pub fn new() -> Self {
        let counters = |(name, _, labels, help): Row| {
            IntCounterVec::new(Opts::new(name, help), labels).expect("a valid name")
        };
        let (requests, status_writes, bundle_writes) =
            (counters(REQUESTS), counters(STATUS_WRITES), counters(BUNDLE_WRITES));
        let roots = IntGauge::new(ROOTS.0, ROOTS.3).expect("a valid name");
        let leader = IntGauge::new(LEADER.0, LEADER.3).expect("a valid name");
        let expiry = Gauge::new(EXPIRY.0, EXPIRY.3).expect("a valid name");
        let registry = Registry::new();
        for counters in [&requests, &status_writes, &bundle_writes] {
            registry.register(Box::new(counters.clone())).expect("a unique name");
        }
        registry.register(Box::new(expiry.clone())).expect("a unique name");
        registry.register(Box::new(roots.clone())).expect("a unique name");
        registry.register(Box::new(leader.clone())).expect("a unique name");
        for outcome in OUTCOMES {
            requests.with_label_values(&[*outcome]).reset();
        }
        Self {
            registry,
            requests,
            expiry,
            roots,
            leader,
            status_writes,
            bundle_writes,
            said: RefCell::default(),
        }
    }

    /// One request was answered.
    pub fn request(&self, outcome: &str) {
        self.requests.with_label_values(&[outcome]).inc();
    }

    /// How many were answered so.
    #[cfg(test)]
    pub fn count(&self, outcome: &str) -> u64 {
        self.requests.with_label_values(&[outcome]).get()
    }

    /// Whether this controller writes.
    pub fn leads(&self, leads: bool) {
        self.leader.set(leads.into());
    }

    /// An object's status was looked at.
    pub fn status_write(&self, outcome: &str) {
        self.status_writes.with_label_values(&[outcome]).inc();
    }

    /// A trust bundle was written, or not.
    pub fn bundle_write(&self, outcome: &str) {
        self.bundle_writes.with_label_values(&[outcome]).inc();
    }

    /// The authority's certificate ends then.
    pub fn authority_expires(&self, at: SystemTime) {
        self.expiry.set(at.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64()));
    }

    /// So many roots are published.
    pub fn trusts(&self, roots: usize) {
        self.roots.set(i64::try_from(roots).unwrap_or(i64::MAX));
    }

    /// True if this wasn't the last thing that was said to be wrong.
    pub fn problem(&self, problem: &str) -> bool {
        self.said.replace(problem.to_owned()) != problem
    }

    fn text(&self) -> String {
        let mut text = Vec::new();
        // Writing to memory can't fail.
        let _ = TextEncoder::new().encode(&self.registry.gather(), &mut text);
        String::from_utf8_lossy(&text).into_owned()
    }
}

/// The controller once there is one, and what there is to wait for until then.
#[derive(Default)]
pub struct Progress {
    controller: OnceCell<Rc<Controller>>,
    waits_for: RefCell<String>,
}

impl Progress {
    /// This has to come first.
    pub fn waits(&self, what: String) {
        self.waits_for.replace(what);
    }

    /// It serves.
    pub fn begins(&self, controller: Rc<Controller>) {
        // Called once.
        let _ = self.controller.set(controller);
    }

    /// What isn't there yet; none if all is.
    fn missing(&self) -> Option<String> {
        match self.controller.get() {
            Some(controller) if controller.is_ready() => None,
            Some(_) => Some("waiting for the pods, which aren't known yet".to_owned()),
            None => Some(format!("waiting for {}", self.waits_for.borrow())),
        }
    }
}

/// Serves for as long as it is polled: metrics and `/livez` from the start.
pub async fn serve(listener: TcpListener, metrics: Rc<Metrics>, progress: Rc<Progress>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let both = (metrics.clone(), progress.clone());
                spawn_local(answers::serve(stream, move |request| {
                    let (metrics, progress) = both.clone();
                    async move {
                        if request.method() != Method::GET {
                            return answers::text(StatusCode::METHOD_NOT_ALLOWED, "only GET");
                        }
                        match request.uri().path() {
                            "/metrics" => answers::text(StatusCode::OK, metrics.text()),
                            "/livez" => answers::text(StatusCode::OK, "ok"),
                            "/readyz" => match progress.missing() {
                                None => answers::text(StatusCode::OK, "ok"),
                                Some(why) => answers::text(StatusCode::SERVICE_UNAVAILABLE, why),
                            },
                            _ => answers::text(StatusCode::NOT_FOUND, "try /metrics, /livez or /readyz"),
                        }
                    }
                }));
            }
            Err(error) => {
                tracing::warn!(%error, "the metrics address can't be accepted from");
                // Out of descriptors, most likely: time for others to close some.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}
