//! What the admin API says of the traffic of the last minutes: edges of the service graph, their history, rules of routes.
//!
//! Fields are spelled with underscores, unlike the rest of the API: they are for scripts and pages as much as for the command line.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::telemetry::Reporter;

macro_rules! figures {
    ($( $(#[$doc:meta])* $name:ident { $( $(#[$field_meta:meta])* $field:ident: $kind:ty, )* } )+) => { $(
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        pub struct $name { $( $(#[$field_meta])* pub $field: $kind, )* }
    )+ };
}

figures! {
    /// `GET /v1/live/edges?window=SECONDS`.
    LiveEdges {
        /// The window that was asked for, rounded up to whole buckets.
        window_seconds: u64,
        /// What the figures are of: the window and the newest bucket, which isn't full; less where the agent isn't that old.
        /// Rates are by this.
        covered_seconds: f64,
        /// How long a bucket is.
        bucket_seconds: u64,
        /// Until when, in RFC 3339.
        at: String,
        /// The agent's node.
        node: String,
        /// Edges with traffic in the window, or with opaque connections that are open.
        edges: Vec<LiveEdge>,
    }
    /// `GET /v1/live/history?window=SECONDS`.
    LiveHistory {
        /// The window that was asked for, rounded up to whole buckets.
        window_seconds: u64,
        /// How long a bucket is.
        bucket_seconds: u64,
        /// Where the window begins, in RFC 3339: the start of its first bucket.
        from: String,
        /// Until when, in RFC 3339.
        at: String,
        /// The agent's node.
        node: String,
        /// Edges with traffic in the window.
        edges: Vec<LiveEdgeHistory>,
    }
    /// `GET /v1/live/routes?window=SECONDS`.
    LiveRoutes {
        /// The window that was asked for, rounded up to whole buckets.
        window_seconds: u64,
        /// As [`LiveEdges::covered_seconds`].
        covered_seconds: f64,
        /// How long a bucket is.
        bucket_seconds: u64,
        /// Until when, in RFC 3339.
        at: String,
        /// The agent's node.
        node: String,
        /// Rules of routes with requests in the window.
        routes: Vec<LiveRoute>,
    }
    /// Which edge: who calls whom, as one reporter sees it, over which protocol. `unknown` where something isn't known.
    LiveEdgeKey {
        /// Whose view.
        reporter: Reporter,
        /// Who calls.
        source: LiveSource,
        /// Who is called.
        destination: LiveDestination,
        /// `mutual_tls`, `none` or `unknown`: as this reporter knows it itself.
        security: String,
        /// `http`, `grpc` or `tcp`.
        protocol: String,
    }
    /// The client's side of an edge.
    LiveSource {
        /// Namespace of its pods.
        namespace: String,
        /// What owns them.
        workload: String,
        /// Its canonical service.
        service: String,
        /// SPIFFE id, where mutual TLS has proven it.
        principal: String,
    }
    /// The server's side of an edge.
    LiveDestination {
        /// Namespace of its pods.
        namespace: String,
        /// What owns them.
        workload: String,
        /// The Service that was called, or `PassthroughCluster` and the like.
        service: String,
        /// Its namespace.
        service_namespace: String,
        /// SPIFFE id, where mutual TLS has proven it.
        principal: String,
    }
    /// One edge's figures over a window.
    LiveEdge {
        /// Which.
        #[serde(flatten)]
        key: LiveEdgeKey,
        /// What passed.
        #[serde(flatten)]
        figures: LiveFigures,
    }
    /// Requests and connections over a window.
    LiveFigures {
        /// Requests that ended.
        requests: u64,
        /// Of these: status 5xx, no status at all, or a gRPC status that is 5xx in HTTP's words.
        failures: u64,
        /// Requests a second.
        rps: f64,
        /// Share of requests that didn't fail, 0 to 1; none without requests.
        success: Option<f64>,
        /// Median, as Prometheus' `histogram_quantile` has it; none without requests.
        p50_ms: Option<f64>,
        /// The same of 95 %.
        p95_ms: Option<f64>,
        /// The same of 99 %.
        p99_ms: Option<f64>,
        /// Requests by how long they took, in the buckets of `istio_request_duration_milliseconds`, not added up, without noughts
        /// at the end: what quantiles of several edges together are made from.
        #[serde(default)]
        latency: Vec<u64>,
        /// Requests and connections by the flag that they ended with, without those that ended well.
        flags: BTreeMap<String, u64>,
        /// Tries after a request's first.
        retries: u64,
        /// Requests that the upstream answered too late.
        timeouts: u64,
        /// Open now.
        connections_open: u64,
        /// Opaque connections opened.
        connections_opened: u64,
        /// Bytes from server to client: bodies of responses, or of opaque connections.
        sent_bytes: u64,
        /// Bytes from client to server.
        received_bytes: u64,
    }
    /// One edge's course.
    LiveEdgeHistory {
        /// Which.
        #[serde(flatten)]
        key: LiveEdgeKey,
        /// Oldest first; those without traffic are left out.
        buckets: Vec<LiveBucket>,
    }
    /// What passed in one bucket.
    LiveBucket {
        /// Its start, in RFC 3339.
        at: String,
        /// Requests that ended.
        requests: u64,
        /// Of these, failed ones.
        failures: u64,
        /// Median; none without requests.
        p50_ms: Option<f64>,
        /// 99th percentile.
        p99_ms: Option<f64>,
        /// Bytes from server to client.
        sent_bytes: u64,
        /// Bytes from client to server.
        received_bytes: u64,
    }
    /// One rule of a route, for the requests to one Service.
    LiveRoute {
        /// `HTTPRoute` or `GRPCRoute`.
        kind: String,
        /// `NAMESPACE/NAME` of the route.
        route: String,
        /// Its name, or else its place from 0.
        rule: String,
        /// Namespace of the Service that was called.
        service_namespace: String,
        /// The Service.
        service: String,
        /// Requests that ended.
        requests: u64,
        /// Of these, failed ones.
        failures: u64,
        /// Requests a second.
        rps: f64,
        /// Share of requests that didn't fail.
        success: Option<f64>,
        /// Median.
        p50_ms: Option<f64>,
        /// 95th percentile.
        p95_ms: Option<f64>,
        /// 99th percentile.
        p99_ms: Option<f64>,
        /// As [`LiveFigures::latency`].
        #[serde(default)]
        latency: Vec<u64>,
    }
}
