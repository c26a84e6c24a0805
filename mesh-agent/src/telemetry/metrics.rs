//! The registry of edges: one per combination of labels, shared, bounded, and let go when idle.
//!
//! Looked up once per connection or upstream, never per request. Expired series are removed, never reset: a counter
//! that comes back starts at nought, which Prometheus takes for a restart.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use super::capped::Capped;
use super::edge::Budget;
use super::labels::LabelContext;
use super::live::{Course, Live, Reading, Window};
use super::rules::Rules;
use super::{AgentMetrics, Edge, EdgeKey, Exposition, Options, Reporter};
use crate::model::Workload;

/// Rules of AuthorizationPolicies with series of their own.
const MOST_RULES: usize = 1000;

/// Bounds of what is kept.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Edges (source, destination, reporter); beyond that one overflow edge per reporter takes all.
    pub edges: usize,
    /// Request series of all edges together; beyond that statuses are counted by class.
    pub series: usize,
    /// An edge that nothing holds and nobody used for this long goes.
    pub idle: Duration,
}

impl Default for Limits {
    /// About 10 MB when all used; ten minutes as Linkerd's proxy keeps idle metrics.
    fn default() -> Self {
        Self { edges: 4096, series: 16_384, idle: Duration::from_secs(600) }
    }
}

/// Istio's standard metrics and the agent's own.
#[derive(Debug)]
pub struct Metrics {
    edges: Mutex<HashMap<Box<str>, Entry>>,
    overflow: [Arc<Edge>; 2],
    budget: Arc<Budget>,
    labels: LabelContext,
    limits: Limits,
    agent: AgentMetrics,
    authorization: Capped,
    rules: Rules,
    live: Live,
}

#[derive(Debug)]
struct Entry {
    edge: Arc<Edge>,
    /// [`Edge::activity`] at the last sweep, and since when it is that.
    seen: u64,
    since: Instant,
}

impl Metrics {
    pub(super) fn new(options: &Options) -> Self {
        let agent = AgentMetrics::new();
        let budget = Arc::new(Budget {
            open: AtomicUsize::new(0),
            limit: options.limits.series,
            overflowed: agent.series_overflowed.clone(),
        });
        let labels = LabelContext {
            trust_domain: options.trust_domain.clone(),
            cluster: options.cluster.clone(),
            profile: options.labels,
        };
        let overflow = [Reporter::Source, Reporter::Destination].map(|reporter| {
            let about = LabelContext::about_overflow(reporter);
            Arc::new(Edge::new(labels.overflow(reporter).into(), about, budget.clone()))
        });
        let authorization = Capped::new(MOST_RULES);
        Self {
            edges: Mutex::default(),
            overflow,
            budget,
            labels,
            limits: options.limits,
            agent,
            authorization,
            rules: Rules::default(),
            live: Live::new(SystemTime::now()),
        }
    }

    /// The edge with these labels. Not for the request path: renders the labels and takes a lock.
    ///
    /// Two keys whose labels agree (two pods of one workload) share an edge.
    pub fn edge(&self, key: &EdgeKey) -> Arc<Edge> {
        let labels = self.labels.render(key);
        let mut edges = self.lock();
        if let Some(entry) = edges.get(labels.as_str()) {
            return entry.edge.clone();
        }
        if edges.len() >= self.limits.edges {
            self.agent.series_overflowed.inc();
            let [source, destination] = &self.overflow;
            return match key.reporter {
                Reporter::Source => source.clone(),
                Reporter::Destination => destination.clone(),
            };
        }
        let labels: Box<str> = labels.into();
        let edge = Arc::new(Edge::new(labels.clone(), self.labels.about(key), self.budget.clone()));
        edges.insert(labels, Entry { edge: edge.clone(), seen: 0, since: Instant::now() });
        edge
    }

    /// Name of a workload's identity, as in the `*_principal` labels. Not for the request path: it is made anew.
    pub fn principal(&self, workload: &Workload) -> String {
        workload.spiffe_id(&self.labels.trust_domain)
    }

    /// Name of the cluster, as in the `*_cluster` labels.
    pub fn cluster(&self) -> &str {
        &self.labels.cluster
    }

    /// Bounds the series of AuthorizationPolicies' rules.
    pub fn authorization(&self) -> &Capped {
        &self.authorization
    }

    /// Counters of rules of routes.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Notes what passed since the last time, if the newest bucket of the live figures is full. To be called every second
    /// or so.
    pub fn sample(&self, now: SystemTime) {
        if self.live.is_due(now) {
            self.live.sample(&self.reading(), now);
        }
    }

    /// What passed within `window`, up to now.
    pub fn window(&self, window: Duration, now: SystemTime) -> Window {
        self.live.sample(&self.reading(), now);
        self.live.window(window, now)
    }

    /// The same bucket by bucket.
    pub fn course(&self, window: Duration, now: SystemTime) -> Course {
        self.live.sample(&self.reading(), now);
        self.live.course(window, now)
    }

    #[cfg(test)]
    pub(super) fn live(&self) -> &Live {
        &self.live
    }

    fn reading(&self) -> Reading {
        let edges = self.lock().values().map(|entry| entry.edge.clone()).collect::<Vec<_>>();
        Reading {
            edges: edges.into_iter().chain(self.overflow.iter().cloned()).collect(),
            rules: self.rules.list(),
        }
    }

    /// The agent's own metrics.
    pub fn agent(&self) -> &AgentMetrics {
        &self.agent
    }

    /// Lets go of edges that nothing holds and nobody used for [`Limits::idle`]. To be called every minute or so;
    /// returns how many went.
    pub fn expire(&self, now: Instant) -> usize {
        self.rules.expire(now, self.limits.idle);
        let mut edges = self.lock();
        let before = edges.len();
        edges.retain(|_, entry| !entry.is_idle(now, self.limits.idle));
        before - edges.len()
    }

    /// The text of `/metrics`, piece by piece.
    pub fn exposition(&self) -> Exposition {
        let mut edges: Vec<_> = self.lock().values().map(|entry| entry.edge.clone()).collect();
        edges.extend(self.overflow.iter().cloned());
        edges.sort_unstable_by(|a, b| a.labels.cmp(&b.labels));
        self.agent.edges.set(i64::try_from(edges.len() - self.overflow.len()).unwrap_or(i64::MAX));
        self.agent.series.set(i64::try_from(self.budget.open.load(Relaxed)).unwrap_or(i64::MAX));
        Exposition::new(self.agent.encode(), edges, self.labels.profile)
    }

    /// All of [`Metrics::exposition`] in one string.
    pub fn text(&self) -> String {
        self.exposition().collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Box<str>, Entry>> {
        // Every change to the map is one call: a panic elsewhere can't leave it half done.
        self.edges.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    fn is_idle(&mut self, now: Instant, idle: Duration) -> bool {
        let activity = self.edge.activity();
        let held = Arc::strong_count(&self.edge) > 1
            || self.edge.tcp_series().is_some_and(|tcp| Arc::strong_count(tcp) > 1);
        if held || activity != self.seen {
            self.seen = activity;
            self.since = now;
        }
        now.duration_since(self.since) >= idle
    }
}
