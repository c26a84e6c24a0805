//! What passed in the last minutes, as the live API shows it.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::admin::{AdminState, api};
use crate::model::Snapshot;
use crate::telemetry::{
    Carried, ConnectionView, EdgeAbout, Figures, L7, LIVE_BUCKET, Reporter, Subject, utc,
};

/// Without `window`.
const WINDOW: u64 = 60;

/// The window that a query asks for.
pub(in crate::admin) fn window(query: Option<&str>) -> Result<Duration, String> {
    let mut seconds = WINDOW;
    for (name, value) in query.unwrap_or_default().split('&').filter_map(|part| part.split_once('=')) {
        if name == "window" {
            seconds = value.parse().map_err(|_| format!("window={value} isn't a number of seconds"))?;
        }
    }
    Ok(Duration::from_secs(seconds))
}

pub(in crate::admin) fn edges(state: &AdminState, window: Duration) -> api::LiveEdges {
    let seen = state.telemetry.metrics.window(window, SystemTime::now());
    let rows = seen.rows.into_iter().filter_map(|(subject, figures)| match subject {
        Subject::Edge(about, carried) => Some((about, carried, figures)),
        Subject::Rule(_) => None,
    });
    let mut rows: Vec<_> = rows.collect();
    rows.sort_by(|(a, b, _), (c, d, _)| order(a, *b).cmp(&order(c, *d)));
    let open = open_connections(&rows, state.telemetry.connections.list(), &state.snapshot.load());
    let seconds = seen.covered.as_secs_f64();
    let edges = rows.iter().zip(open).map(|((about, carried, figures), open)| api::LiveEdge {
        key: key(about, *carried),
        figures: of(figures, open, seconds),
    });
    api::LiveEdges {
        window_seconds: seen.wanted.as_secs(),
        covered_seconds: seconds,
        bucket_seconds: LIVE_BUCKET.as_secs(),
        at: utc(seen.at),
        node: state.about.node.clone(),
        edges: edges.collect(),
    }
}

pub(in crate::admin) fn history(state: &AdminState, window: Duration) -> api::LiveHistory {
    let course = state.telemetry.metrics.course(window, SystemTime::now());
    let rows = course.rows.into_iter().filter_map(|(subject, buckets)| match subject {
        Subject::Edge(about, carried) => Some((about, carried, buckets)),
        Subject::Rule(_) => None,
    });
    let mut rows: Vec<_> = rows.collect();
    rows.sort_by(|(a, b, _), (c, d, _)| order(a, *b).cmp(&order(c, *d)));
    let edges = rows.iter().map(|(about, carried, buckets)| api::LiveEdgeHistory {
        key: key(about, *carried),
        buckets: buckets.iter().map(|(start, figures)| bucket(*start, figures)).collect(),
    });
    api::LiveHistory {
        window_seconds: course.wanted.as_secs(),
        bucket_seconds: LIVE_BUCKET.as_secs(),
        from: utc(course.from),
        at: utc(course.at),
        node: state.about.node.clone(),
        edges: edges.collect(),
    }
}

pub(in crate::admin) fn routes(state: &AdminState, window: Duration) -> api::LiveRoutes {
    let seen = state.telemetry.metrics.window(window, SystemTime::now());
    let seconds = seen.covered.as_secs_f64();
    let rows = seen.rows.iter().filter_map(|(subject, figures)| match subject {
        Subject::Rule(about) => Some(api::LiveRoute {
            kind: about.kind.to_owned(),
            route: about.route.to_string(),
            rule: about.rule.clone(),
            service_namespace: about.service.namespace.clone(),
            service: about.service.name.clone(),
            requests: figures.requests(),
            failures: figures.failures,
            rps: figures.requests() as f64 / seconds,
            success: figures.success(),
            p50_ms: figures.quantile_ms(0.5),
            p95_ms: figures.quantile_ms(0.95),
            p99_ms: figures.quantile_ms(0.99),
            latency: figures.latency(),
        }),
        Subject::Edge(..) => None,
    });
    let mut routes: Vec<_> = rows.collect();
    routes.sort_by(|a, b| {
        let order = |r: &api::LiveRoute| (r.route.clone(), r.rule.clone(), r.service.clone());
        order(a).cmp(&order(b))
    });
    api::LiveRoutes {
        window_seconds: seen.wanted.as_secs(),
        covered_seconds: seconds,
        bucket_seconds: LIVE_BUCKET.as_secs(),
        at: utc(seen.at),
        node: state.about.node.clone(),
        routes,
    }
}

type Order<'a> = ([&'a str; 6], Reporter, Carried);

fn order(about: &EdgeAbout, carried: Carried) -> Order<'_> {
    let names = [
        &about.source_namespace,
        &about.source_workload,
        &about.service_namespace,
        &about.service,
        &about.destination_namespace,
        &about.destination_workload,
    ];
    (names.map(String::as_str), about.reporter, carried)
}

fn key(about: &EdgeAbout, carried: Carried) -> api::LiveEdgeKey {
    api::LiveEdgeKey {
        reporter: about.reporter,
        source: api::LiveSource {
            namespace: about.source_namespace.clone(),
            workload: about.source_workload.clone(),
            service: about.source_service.clone(),
            principal: about.source_principal.clone(),
        },
        destination: api::LiveDestination {
            namespace: about.destination_namespace.clone(),
            workload: about.destination_workload.clone(),
            service: about.service.clone(),
            service_namespace: about.service_namespace.clone(),
            principal: about.destination_principal.clone(),
        },
        security: about.security.to_owned(),
        protocol: carried.label().to_owned(),
    }
}

fn of(figures: &Figures, open: u64, seconds: f64) -> api::LiveFigures {
    let requests = figures.requests();
    api::LiveFigures {
        requests,
        failures: figures.failures,
        rps: requests as f64 / seconds,
        success: figures.success(),
        p50_ms: figures.quantile_ms(0.5),
        p95_ms: figures.quantile_ms(0.95),
        p99_ms: figures.quantile_ms(0.99),
        latency: figures.latency(),
        flags: figures.flags.iter().map(|(flag, n)| (flag.label().to_owned(), *n)).collect(),
        retries: figures.retries,
        timeouts: figures.timeouts(),
        connections_open: open + figures.still_open,
        connections_opened: figures.opened,
        sent_bytes: figures.sent,
        received_bytes: figures.received,
    }
}

fn bucket(start: SystemTime, figures: &Figures) -> api::LiveBucket {
    api::LiveBucket {
        at: utc(start),
        requests: figures.requests(),
        failures: figures.failures,
        p50_ms: figures.quantile_ms(0.5),
        p99_ms: figures.quantile_ms(0.99),
        sent_bytes: figures.sent,
        received_bytes: figures.received,
    }
}

/// How many connections with requests each row has. What is opaque the row counts itself.
fn open_connections(
    rows: &[(Arc<EdgeAbout>, Carried, Figures)],
    open: Vec<ConnectionView>,
    snapshot: &Snapshot,
) -> Vec<u64> {
    let mut by_pair: HashMap<_, Vec<usize>> = HashMap::new();
    for (at, (about, carried, _)) in rows.iter().enumerate() {
        if *carried != Carried::Tcp {
            let source = (about.source_namespace.as_str(), about.source_workload.as_str());
            let destination = (about.destination_namespace.as_str(), about.destination_workload.as_str());
            by_pair.entry((about.reporter, source, destination)).or_default().push(at);
        }
    }
    let mut counts = vec![0; rows.len()];
    for view in open.iter().filter(|view| !matches!(view.protocol, L7::Tcp | L7::Tls | L7::Detecting)) {
        let named = |ip: IpAddr| {
            let found = snapshot.workload_at(ip);
            found.map_or(("unknown", "unknown"), |w| (w.name.namespace.as_str(), w.workload_name.as_str()))
        };
        let own = (view.info.workload.name.namespace.as_str(), view.info.workload.workload_name.as_str());
        let (source, destination) = match (view.info.reporter, view.endpoint) {
            (Reporter::Source, Some(endpoint)) => (own, named(endpoint.ip())),
            // It has sent nothing yet.
            (Reporter::Source, None) => continue,
            (Reporter::Destination, _) => (named(view.info.client.ip()), own),
        };
        let Some(places) = by_pair.get(&(view.info.reporter, source, destination)) else { continue };
        // A connection of another agent's tells no service: it counts where any does.
        let fits = |at: &&usize| {
            let Some((about, carried, _)) = rows.get(**at) else { return (false, false) };
            let service = view.info.service.as_ref();
            let same = service
                .is_none_or(|s| s.name.name == about.service && s.name.namespace == about.service_namespace);
            (same, (*carried == Carried::Grpc) == (view.protocol == L7::Http2))
        };
        if let Some(count) =
            places.iter().min_by_key(|at| Reverse(fits(at))).and_then(|at| counts.get_mut(*at))
        {
            *count += 1;
        }
    }
    counts
}
