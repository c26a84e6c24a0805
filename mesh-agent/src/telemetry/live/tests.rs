//! What the ring says of the last while: buckets, windows, counters that come and go, and what all that may take.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Instant;

use proptest::prelude::*;

use super::figures::{pull, push};
use super::*;
use crate::flags::Flag;
use crate::model::ObjectName;
use crate::telemetry::histogram::BUCKETS as DURATIONS;
use crate::telemetry::{
    EdgeKey, Limits, Metrics, Options, Protocol, Reporter, RequestReport, RuleCounters, Security,
};

/// Some time; a bucket begins there.
const T0: u64 = 1_800_000_000_000;

fn at(seconds: f64) -> SystemTime {
    time(T0 + (seconds * 1000.0) as u64)
}

fn ring(keep: usize, most_bytes: usize) -> Ring {
    Ring::new(BUCKET, keep, most_bytes, T0)
}

fn requests(n: u64) -> Figures {
    let mut figures = Figures::default();
    figures.durations[3] = n;
    figures
}

fn total(ring: &Ring, window: u64, now: u64) -> u64 {
    let (mut sum, span) = (0, ring.span(Duration::from_secs(window), now));
    ring.read(span.from, |_, _, figures| sum += figures.requests());
    sum
}

#[test]
fn a_window_is_its_full_buckets_and_the_newest() {
    let mut ring = ring(180, MOST_BYTES);
    for second in 0..100 {
        let now = T0 + second * 1000;
        ring.advance(now);
        ring.add(1, &requests(1));
    }
    let now = T0 + 99_000;
    // The newest bucket began at 90.
    assert_eq!((total(&ring, 10, now), total(&ring, 60, now), total(&ring, 3600, now)), (20, 70, 100));
    assert_eq!(total(&ring, 11, now), 30, "rounded up");
    assert_eq!(total(&ring, 0, now), 20, "never less than a bucket");
    let span = ring.span(Duration::from_secs(55), now);
    assert_eq!((span.wanted, span.covered), (Duration::from_secs(60), Duration::from_secs(69)));
    // No more than there is.
    assert_eq!(ring.span(Duration::from_secs(600), now).covered, Duration::from_secs(99));
}

#[test]
fn the_oldest_bucket_makes_room() {
    let mut ring = ring(3, MOST_BYTES);
    for bucket in 0..10 {
        ring.advance(T0 + bucket * 10_000);
        ring.add(1, &requests(bucket));
    }
    let mut seen = Vec::new();
    ring.read(0, |start, _, figures| seen.push(((start - T0) / 10_000, figures.requests())));
    assert_eq!(seen, [(6, 6), (7, 7), (8, 8), (9, 9)]);
    let span = ring.span(Duration::from_secs(600), T0 + 95_000);
    assert_eq!((span.wanted, span.covered), (Duration::from_secs(30), Duration::from_secs(35)));
    // Long silence leaves nothing.
    ring.advance(T0 + 1_000_000);
    assert_eq!((total(&ring, 600, T0 + 1_000_000), ring.bytes()), (0, 0));
}

#[test]
fn a_clock_that_is_set_back_neither_stops_the_ring_nor_counts_twice() {
    let mut ring = ring(3, MOST_BYTES);
    ring.advance(T0 + 30_000);
    ring.add(1, &requests(5));
    // A little: the newest bucket lasts until the clock has caught up.
    assert!(!ring.is_due(T0 + 25_000));
    ring.advance(T0 + 25_000);
    assert_eq!(total(&ring, 10, T0 + 25_000), 5);
    // By hours: nothing of then can be said in terms of now.
    let earlier = T0 - 7_200_000;
    assert!(ring.is_due(earlier));
    ring.advance(earlier);
    ring.add(1, &requests(1));
    assert_eq!(total(&ring, 60, earlier), 1);
    assert!(ring.is_due(earlier + 10_000));
}

#[test]
fn edges_by_the_thousand_stay_within_the_bound() {
    // Typical: requests of three latencies, bodies both ways.
    let mut figures = requests(180);
    (figures.durations[2], figures.durations[4], figures.sent, figures.received) =
        (700, 9, 1_200_000, 90_000);
    let filled = |figures: &Figures| {
        let mut ring = ring(BUCKETS, MOST_BYTES);
        for bucket in 0..=BUCKETS as u64 {
            ring.advance(T0 + bucket * 10_000);
            (0..4096).for_each(|row| ring.add(row, figures));
        }
        ring.advance(T0 + (BUCKETS as u64 + 1) * 10_000);
        ring
    };
    let typical = filled(&figures);
    assert!(typical.bytes() <= MOST_BYTES, "{}", typical.bytes());
    let whole = (BUCKETS as u64) * 10;
    assert!(typical.span(Duration::from_secs(whole), T0 + 1_810_000).covered >= Duration::from_secs(whole));
    // Everything that can be, large: fewer minutes, but no more memory.
    figures.durations = [1 << 40; DURATIONS];
    figures.flags = Flag::ALL.iter().map(|flag| (*flag, 1 << 40)).collect();
    let worst = filled(&figures);
    assert!(worst.bytes() <= MOST_BYTES, "{}", worst.bytes());
    let covered = worst.span(Duration::from_secs(whole), T0 + 1_810_000).covered;
    assert!((60..600).contains(&covered.as_secs()), "{covered:?}");
}

proptest! {
    #[test]
    fn what_is_packed_comes_back(
        durations in prop::collection::vec(prop_oneof![Just(0), 0..300u64, any::<u64>()], DURATIONS),
        plain in prop::collection::vec(any::<u64>(), 6),
        flags in prop::collection::btree_map(0..Flag::ALL.len(), 1..u64::MAX, 0..4),
    ) {
        let figures = Figures {
            durations: std::array::from_fn(|i| durations[i]),
            failures: plain[0], retries: plain[1], opened: plain[2], closed: plain[3], sent: plain[4], received: plain[5],
            flags: flags.into_iter().map(|(flag, n)| (Flag::ALL[flag], n)).collect(),
            still_open: 0,
        };
        let mut bytes = Vec::new();
        figures.pack(&mut bytes);
        let mut rest = &*bytes;
        prop_assert_eq!(Figures::unpack(&mut rest), Some(figures));
        prop_assert!(rest.is_empty());
    }

    #[test]
    fn numbers_come_back(n in any::<u64>()) {
        let mut bytes = Vec::new();
        push(&mut bytes, n);
        prop_assert_eq!(pull(&mut &*bytes), Some(n));
    }

    #[test]
    fn nonsense_is_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        let _ = Figures::unpack(&mut &*bytes);
    }
}

fn metrics(idle: Duration) -> Metrics {
    let limits = Limits { idle, ..Limits::default() };
    Metrics::new(&Options { limits, ..Options::default() })
}

fn key(reporter: Reporter, service: &'static str) -> EdgeKey {
    EdgeKey {
        reporter,
        source: None,
        destination: None,
        service: None,
        fallback_service: service,
        security: Security::None,
        proven: None,
    }
}

fn report(status: u16) -> RequestReport {
    RequestReport {
        protocol: Protocol::Http,
        status,
        grpc_status: None,
        flag: Flag::None,
        duration: Duration::from_millis(7),
        request_bytes: 10,
        response_bytes: 100,
        request_messages: 0,
        response_messages: 0,
        retries: 0,
    }
}

/// The only row of a window.
fn row(window: Window) -> Figures {
    assert_eq!(window.rows.len(), 1, "{:?}", window.rows);
    window.rows.into_iter().next().unwrap().1
}

#[test]
fn figures_are_there_at_once_and_are_of_the_window() {
    let metrics = metrics(Duration::from_secs(600));
    let start = SystemTime::now();
    let edge = metrics.edge(&key(Reporter::Source, "a"));
    for status in [200, 404, 503, 0] {
        edge.request(&RequestReport { retries: u32::from(status == 503), ..report(status) });
    }
    edge.request(&RequestReport { flag: Flag::UpstreamTimeout, ..report(504) });
    let figures = row(metrics.window(Duration::from_secs(60), start));
    assert_eq!((figures.requests(), figures.failures, figures.retries, figures.timeouts()), (5, 3, 1, 1));
    assert_eq!((figures.sent, figures.received, figures.success()), (500, 50, Some(0.4)));
    assert_eq!(figures.quantile_ms(0.5), Some(7.5));
    // Asked twice, told the same.
    assert_eq!(row(metrics.window(Duration::from_secs(60), start)), figures);
    // Later it is over.
    metrics.sample(start + Duration::from_secs(11));
    let later = metrics.window(Duration::from_secs(60), start + Duration::from_secs(300));
    assert!(later.rows.is_empty(), "{:?}", later.rows);
    let course = metrics.course(Duration::from_secs(600), start + Duration::from_secs(300));
    assert_eq!(course.rows.len(), 1);
    assert_eq!(course.rows[0].1.iter().map(|(_, figures)| figures.requests()).collect::<Vec<_>>(), [5]);
}

#[test]
fn a_rate_is_by_the_time_that_was_covered() {
    let metrics = metrics(Duration::from_secs(600));
    let start = SystemTime::now();
    metrics.edge(&key(Reporter::Source, "a")).request(&report(200));
    let young = metrics.window(Duration::from_secs(60), start + Duration::from_secs(4));
    assert!((3..=5).contains(&young.covered.as_secs()), "{:?}", young.covered);
    assert_eq!(metrics.window(Duration::from_secs(60), start).covered, Duration::from_secs(1));
}

#[test]
fn a_series_that_expires_and_comes_back_is_counted_once() {
    let metrics = metrics(Duration::ZERO);
    let start = SystemTime::now();
    let count = |after: u64| {
        let window = metrics.window(Duration::from_secs(600), start + Duration::from_secs(after));
        window.rows.iter().map(|(_, figures)| figures.requests()).sum::<u64>()
    };
    (0..3).for_each(|_| metrics.edge(&key(Reporter::Source, "a")).request(&report(200)));
    assert_eq!(count(0), 3);
    assert_eq!(metrics.expire(Instant::now()), 1, "it goes");
    assert_eq!(count(20), 3, "what it did stays");
    metrics.edge(&key(Reporter::Source, "a")).request(&report(200));
    assert_eq!(count(40), 4, "the new one begins at nought");
    assert_eq!(metrics.expire(Instant::now()), 1);
    // Nothing of either is kept for longer than the ring is.
    assert_eq!(count(4000), 0);
    assert!(metrics.live().state.lock().unwrap().known.keys().all(|(_, carried)| carried.is_none()));
}

#[test]
fn connections_are_open_until_they_are_closed() {
    let metrics = metrics(Duration::from_secs(600));
    let start = SystemTime::now();
    let tcp = metrics.edge(&key(Reporter::Destination, "a")).tcp();
    (0..3).for_each(|_| tcp.opened());
    tcp.carried(5, 7);
    tcp.closed(Flag::UpstreamReset);
    let ask = |after| metrics.window(Duration::from_secs(60), start + Duration::from_secs(after));
    let figures = row(ask(0));
    assert_eq!((figures.opened, figures.still_open, figures.received, figures.sent), (3, 2, 5, 7));
    assert_eq!(figures.flags.get(&Flag::UpstreamReset), Some(&1));
    // Open ones are told of though nothing moves.
    let quiet = row(ask(500));
    assert_eq!((quiet.opened, quiet.still_open), (0, 2));
    (0..2).for_each(|_| tcp.closed(Flag::None));
    assert_eq!(row(ask(501)).still_open, 0);
    assert!(ask(900).rows.is_empty());
}

#[test]
fn a_failure_is_what_the_metrics_can_tell_of() {
    let grpc = |code| RequestReport { protocol: Protocol::Grpc, grpc_status: Some(code), ..report(200) };
    for (report, failed) in [
        (report(200), false),
        (report(499), false),
        (report(500), true),
        (report(599), true),
        (report(0), true),
        (grpc(0), false),
        (grpc(5), false),
        (grpc(14), true),
        (grpc(13), true),
        (grpc(99), true),
    ] {
        assert_eq!(report.is_failure(), failed, "{report:?}");
    }
}

#[test]
fn a_rule_counts_by_service_and_goes_on_when_it_is_compiled_again() {
    let metrics = metrics(Duration::from_secs(600));
    let start = SystemTime::now();
    let [cart, till] = ["cart", "till"].map(|name| ObjectName::new("shop", name));
    let about = |service: &ObjectName| RuleAbout {
        kind: "HTTPRoute",
        route: ObjectName::new("shop", "split"),
        rule: "0".into(),
        service: service.clone(),
    };
    let count = |counters: &RuleCounters, service: &ObjectName, status| {
        counters.count(service, &report(status), &metrics, || about(service));
    };
    let first = RuleCounters::default();
    count(&first, &cart, 200);
    count(&first, &till, 200);
    count(&first, &cart, 500);
    drop(first);
    count(&RuleCounters::default(), &cart, 200);
    let window = metrics.window(Duration::from_secs(60), start);
    let mut rows: Vec<_> = window
        .rows
        .iter()
        .map(|(subject, figures)| match subject {
            Subject::Rule(about) => (about.service.name.as_str(), figures.requests(), figures.failures),
            Subject::Edge(..) => panic!("{subject:?}"),
        })
        .collect();
    rows.sort_unstable();
    assert_eq!(rows, [("cart", 3, 1), ("till", 1, 0)]);
}

#[test]
fn buckets_of_all_nodes_begin_together() {
    let ring = Ring::new(BUCKET, 3, MOST_BYTES, millis(at(3.7)));
    assert_eq!(ring.newest(), T0);
    let span = ring.span(Duration::from_secs(60), millis(at(9.0)));
    assert_eq!(span.covered, Duration::from_millis(5300));
}
