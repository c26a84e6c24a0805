//! One edge of the service graph: who calls whom, as one reporter sees it, with its request and connection figures.
//!
//! `metrics` hands edges out; the proxy keeps them per connection or upstream. Series within an edge (one for each
//! protocol, status and flag) hang in a list that only grows: a report walks a few nodes and adds, without lock.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::histogram::Histogram;
use super::live::{Carried, Figures};
use super::{Reporter, Security, TcpSeries};
use crate::balance::outlier;
use crate::flags::Flag;
use crate::identity::SpiffeId;
use crate::model::{ServiceMeta, Workload};

/// Statuses, gRPC statuses and flags that one edge tells apart before it falls back to classes of status (500 for
/// any 5xx): a peer that makes up status codes can't fill the memory of Prometheus.
const SERIES_PER_EDGE: usize = 48;

/// What the labels of an edge are made from.
#[derive(Clone, Debug)]
pub struct EdgeKey {
    /// Whose view.
    pub reporter: Reporter,
    /// The client, if it is a known pod.
    pub source: Option<Arc<Workload>>,
    /// The server, if it is a known pod.
    pub destination: Option<Arc<Workload>>,
    /// The service that was called.
    pub service: Option<Arc<ServiceMeta>>,
    /// `destination_service_name` where no service is known: `unknown`, `PassthroughCluster`, `BlackHoleCluster` or
    /// `InboundPassthroughCluster`.
    pub fallback_service: &'static str,
    /// Between the two pods.
    pub security: Security,
    /// Who the client has proven to be; None: who its workload says that it runs as.
    pub proven: Option<SpiffeId>,
}

/// What a request was carried as: Istio's `request_protocol`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// Any version of HTTP.
    Http,
    /// HTTP/2 with content-type `application/grpc`.
    Grpc,
}

impl Protocol {
    /// The label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Grpc => "grpc",
        }
    }
}

/// One request, when it is over.
#[derive(Clone, Copy, Debug)]
pub struct RequestReport {
    /// As what it was carried.
    pub protocol: Protocol,
    /// Status that the client saw; 0 where it went away before there was one.
    pub status: u16,
    /// `grpc-status`, for gRPC.
    pub grpc_status: Option<u16>,
    /// How it ended.
    pub flag: Flag,
    /// From its first byte to the last of the response.
    pub duration: Duration,
    /// Body bytes of the request.
    pub request_bytes: u64,
    /// Body bytes of the response.
    pub response_bytes: u64,
    /// gRPC messages of the client.
    pub request_messages: u64,
    /// gRPC messages of the server.
    pub response_messages: u64,
    /// Tries after the first.
    pub retries: u32,
}

impl RequestReport {
    /// It failed: [`Figures::failures`].
    pub fn is_failure(&self) -> bool {
        SeriesKey::new(self).is_failure()
    }
}

/// Who calls whom, as one reporter sees it, in the words of the labels: `unknown` where something isn't known.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EdgeAbout {
    /// Whose view.
    pub reporter: Reporter,
    /// `mutual_tls`, `none` or `unknown`, as the reporter knows it itself; the label says `unknown` for every source.
    pub security: &'static str,
    /// `source_workload_namespace`.
    pub source_namespace: String,
    /// `source_workload`.
    pub source_workload: String,
    /// `source_canonical_service`.
    pub source_service: String,
    /// `source_principal`.
    pub source_principal: String,
    /// `destination_workload_namespace`.
    pub destination_namespace: String,
    /// `destination_workload`.
    pub destination_workload: String,
    /// `destination_principal`.
    pub destination_principal: String,
    /// `destination_service_name`.
    pub service: String,
    /// `destination_service_namespace`.
    pub service_namespace: String,
}

/// One source, one destination, one reporter.
#[derive(Debug)]
pub struct Edge {
    /// Common labels in exposition form, without braces.
    pub(super) labels: Box<str>,
    /// The same for people.
    pub(super) about: Arc<EdgeAbout>,
    /// Of this edge alone, also where another one with its labels follows it.
    pub(super) id: u64,
    first: OnceLock<Box<RequestSeries>>,
    series: AtomicUsize,
    tcp: OnceLock<Arc<TcpSeries>>,
    /// All edges together.
    budget: Arc<Budget>,
}

/// Series that all edges together may still open.
#[derive(Debug)]
pub(super) struct Budget {
    pub(super) open: AtomicUsize,
    pub(super) limit: usize,
    pub(super) overflowed: prometheus::IntCounter,
}

/// Figures of the requests of one edge that ended alike.
#[derive(Debug)]
pub(super) struct RequestSeries {
    pub(super) key: SeriesKey,
    /// In milliseconds; its count is also the number of requests.
    pub(super) duration: Histogram,
    pub(super) request_bytes: Histogram,
    pub(super) response_bytes: Histogram,
    pub(super) request_messages: AtomicU64,
    pub(super) response_messages: AtomicU64,
    pub(super) retries: AtomicU64,
    next: OnceLock<Box<RequestSeries>>,
}

/// What tells the series of one edge apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SeriesKey {
    pub(super) protocol: Protocol,
    pub(super) status: u16,
    pub(super) grpc_status: Option<u16>,
    pub(super) flag: Flag,
}

impl Edge {
    pub(super) fn new(labels: Box<str>, about: EdgeAbout, budget: Arc<Budget>) -> Self {
        Self {
            labels,
            about: Arc::new(about),
            id: next_id(),
            first: OnceLock::new(),
            series: AtomicUsize::new(0),
            tcp: OnceLock::new(),
            budget,
        }
    }

    /// Counts one request. No lock; allocates only when a protocol, status and flag come together for the first time.
    pub fn request(&self, report: &RequestReport) {
        let series = self.find(SeriesKey::new(report));
        let micros = u64::try_from(report.duration.as_micros()).unwrap_or(u64::MAX);
        series.duration.observe_milli(micros);
        series.request_bytes.observe(report.request_bytes);
        series.response_bytes.observe(report.response_bytes);
        if report.protocol == Protocol::Grpc {
            series.request_messages.fetch_add(report.request_messages, Relaxed);
            series.response_messages.fetch_add(report.response_messages, Relaxed);
        }
        if report.retries > 0 {
            series.retries.fetch_add(report.retries.into(), Relaxed);
        }
    }

    /// Counters of opaque connections.
    pub fn tcp(&self) -> Arc<TcpSeries> {
        self.tcp.get_or_init(Arc::default).clone()
    }

    fn find(&self, key: SeriesKey) -> &RequestSeries {
        let mut slot = &self.first;
        while let Some(series) = slot.get() {
            if series.key == key {
                return series;
            }
            slot = &series.next;
        }
        self.append(slot, key)
    }

    /// Adds a node at the end. Where another worker was faster, its node is looked at first.
    fn append<'e>(
        &'e self,
        mut slot: &'e OnceLock<Box<RequestSeries>>,
        wanted: SeriesKey,
    ) -> &'e RequestSeries {
        let key = if self.has_room() { wanted } else { wanted.of_class() };
        if key != wanted {
            self.budget.overflowed.inc();
            slot = &self.first;
        }
        loop {
            let series = slot.get_or_init(|| {
                self.series.fetch_add(1, Relaxed);
                self.budget.open.fetch_add(1, Relaxed);
                Box::new(RequestSeries::new(key))
            });
            if series.key == key {
                return series;
            }
            slot = &series.next;
        }
    }

    fn has_room(&self) -> bool {
        self.series.load(Relaxed) < SERIES_PER_EDGE && self.budget.open.load(Relaxed) < self.budget.limit
    }

    /// Every request series, oldest first.
    pub(super) fn request_series(&self) -> impl Iterator<Item = &RequestSeries> {
        let first = self.first.get().map(AsRef::as_ref);
        std::iter::successors(first, |series| series.next.get().map(AsRef::as_ref))
    }

    /// The connection series, if there was an opaque connection.
    pub(super) fn tcp_series(&self) -> Option<&Arc<TcpSeries>> {
        self.tcp.get()
    }

    /// Everything counted so far, by what it was carried as.
    pub(super) fn figures(&self) -> impl Iterator<Item = (Carried, Figures)> {
        let (mut http, mut grpc) = (None, None);
        for series in self.request_series() {
            let figures = match series.key.protocol {
                Protocol::Http => http.get_or_insert_with(Figures::default),
                Protocol::Grpc => grpc.get_or_insert_with(Figures::default),
            };
            series.add_to(figures);
        }
        let tcp = self.tcp_series().map(|tcp| tcp.figures());
        [(Carried::Http, http), (Carried::Grpc, grpc), (Carried::Tcp, tcp)]
            .into_iter()
            .filter_map(|(carried, figures)| Some((carried, figures?)))
    }

    /// Changes whenever any figure here does, so that idleness costs the hot path nothing.
    pub(super) fn activity(&self) -> u64 {
        let requests = self.request_series().map(|s| s.duration.count()).fold(0, u64::wrapping_add);
        requests.wrapping_add(self.tcp_series().map_or(0, |t| t.activity()))
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        self.budget.open.fetch_sub(self.series.load(Relaxed), Relaxed);
        // A long list must not be dropped by recursion.
        let mut next = self.first.take();
        while let Some(mut series) = next {
            next = series.next.take();
        }
    }
}

impl RequestSeries {
    fn new(key: SeriesKey) -> Self {
        Self {
            key,
            duration: Histogram::default(),
            request_bytes: Histogram::default(),
            response_bytes: Histogram::default(),
            request_messages: AtomicU64::new(0),
            response_messages: AtomicU64::new(0),
            retries: AtomicU64::new(0),
            next: OnceLock::new(),
        }
    }

    fn add_to(&self, sum: &mut Figures) {
        let durations = self.duration.buckets();
        let requests: u64 = durations.iter().sum();
        sum.durations.iter_mut().zip(durations).for_each(|(sum, n)| *sum += n);
        sum.failures += if self.key.is_failure() { requests } else { 0 };
        sum.retries += self.retries.load(Relaxed);
        sum.sent += self.response_bytes.sum_milli() / 1000;
        sum.received += self.request_bytes.sum_milli() / 1000;
        if self.key.flag != Flag::None && requests > 0 {
            *sum.flags.entry(self.key.flag).or_default() += requests;
        }
    }
}

impl SeriesKey {
    fn new(report: &RequestReport) -> Self {
        // Codes that gRPC doesn't know mean UNKNOWN (gRPC's statuscodes.md).
        let grpc_status = report.grpc_status.map(|code| if code > 16 { 2 } else { code });
        Self { protocol: report.protocol, status: report.status, grpc_status, flag: report.flag }
    }

    /// Status 5xx, none at all, or a gRPC status that is 5xx in HTTP's words: by what the metrics tell apart.
    fn is_failure(self) -> bool {
        let grpc = self.grpc_status.is_some_and(|code| outlier::status_of_grpc(code) >= 500);
        self.status == 0 || self.status >= 500 || grpc
    }

    /// The coarse form: at most a handful per flag.
    fn of_class(self) -> Self {
        Self { status: (self.status / 100).min(6) * 100, grpc_status: None, ..self }
    }
}

/// A number that nothing else that is counted has, or had.
pub(super) fn next_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Relaxed)
}
