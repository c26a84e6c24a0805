//! Who gets which flows, and what becomes of those that nobody takes in time.

#![allow(clippy::unwrap_used)]

use std::task::{Context, Poll, Waker};
use std::time::{Duration, UNIX_EPOCH};

use super::*;
use crate::addr::{ClientAddr, OrigDst};
use crate::flags::Flag;
use crate::proxy::testing;
use crate::telemetry::{Peers, Reporter, Telemetry};

fn entry(status: u16, flag: Flag) -> RequestEntry<'static> {
    let at = |text: &str| text.parse::<std::net::SocketAddr>().unwrap();
    RequestEntry {
        start: UNIX_EPOCH + Duration::from_secs(u64::from(status)),
        peers: Peers {
            pod: testing::some_workload(),
            reporter: Reporter::Source,
            source: None,
            client: ClientAddr::from(at("10.0.0.1:4242")),
            destination: OrigDst::from(at("10.96.0.10:80")),
            service: None,
            endpoint: None,
            destination_workload: None,
            principals: None,
            hbone: false,
        },
        method: b"GET",
        path: b"/",
        protocol: "HTTP/1.1",
        status,
        grpc_status: None,
        flag,
        details: "rbac_access_denied_matched_policy[ns[shop]-policy[deny]-rule[0]]",
        bytes_received: 0,
        bytes_sent: 0,
        duration: Duration::ZERO,
        upstream_time: None,
        attempts: 1,
        request_id: b"",
        trace_id: b"",
        user_agent: b"",
        authority: b"",
        route: "",
        span: None,
        grpc: false,
        kept: None,
    }
}

fn take(observer: &Observer) -> Batch {
    match observer.poll_take(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(batch) => batch,
        Poll::Pending => Batch::default(),
    }
}

fn statuses(flows: impl IntoIterator<Item = Arc<Flow>>) -> Vec<u16> {
    flows.into_iter().map(|flow| flow.l7.as_ref().unwrap().status).collect()
}

fn wanting(terms: &[(&str, &str)]) -> Filter {
    Filter::parse(terms.iter().copied()).unwrap()
}

#[test]
fn an_observer_gets_what_it_asked_for_while_it_is_there() {
    let telemetry = Telemetry::quiet();
    let (ok, failed) = (entry(200, Flag::None), entry(503, Flag::NoHealthyUpstream));
    assert!(!telemetry.wants_record(ok.flag, ok.status, None));
    assert!(telemetry.wants_record(failed.flag, failed.status, None), "failures are kept");
    let all = telemetry.flows.observe(Filter::default(), false).unwrap();
    let some = telemetry.flows.observe(wanting(&[("http-status", "5+")]), true).unwrap();
    assert!(telemetry.wants_record(ok.flag, ok.status, None) && telemetry.flows.is_tapped());
    telemetry.request(&ok);
    telemetry.request(&failed);
    assert_eq!(statuses(take(&all).flows), [200, 503]);
    assert_eq!(statuses(take(&some).flows), [503]);
    drop(some);
    assert!(!telemetry.flows.is_tapped());
    telemetry.request(&ok);
    assert_eq!(statuses(take(&all).flows), [200]);
    drop(all);
    assert!(!telemetry.wants_record(ok.flag, ok.status, None));
    assert_eq!(telemetry.metrics.agent().flow_observers.get(), 0);
}

#[test]
fn who_does_not_read_loses_flows_is_told_how_many_and_holds_nobody_up() {
    let telemetry = Telemetry::quiet();
    let slow = telemetry.flows.observe(Filter::default(), false).unwrap();
    let brisk = telemetry.flows.observe(Filter::default(), false).unwrap();
    let mut got = 0;
    for _ in 0..10_000 {
        telemetry.request(&entry(200, Flag::None));
        got += take(&brisk).flows.len();
    }
    assert_eq!(got, 10_000);
    let first = take(&slow);
    assert_eq!((first.flows.len(), first.lost), (observer::MOST_FLOWS, 10_000 - observer::MOST_FLOWS as u64));
    assert_eq!(telemetry.metrics.agent().flows_lost.get(), first.lost);
    telemetry.request(&entry(204, Flag::None));
    let next = take(&slow);
    assert_eq!((statuses(next.flows), next.lost), (vec![204], 0));
}

#[test]
fn what_waits_is_bounded_in_memory_too() {
    static PATH: [u8; 4096] = [b'a'; 4096];
    let telemetry = Telemetry::quiet();
    let slow = telemetry.flows.observe(Filter::default(), false).unwrap();
    (0..4096).for_each(|_| telemetry.request(&RequestEntry { path: &PATH, ..entry(200, Flag::None) }));
    let batch = take(&slow);
    assert!(batch.lost > 0 && batch.flows.len() as u64 + batch.lost == 4096, "{} lost", batch.lost);
    assert_eq!(batch.flows[0].l7.as_ref().unwrap().path.len(), 2048, "a path is cut");
}

#[test]
fn only_so_many_observe() {
    let telemetry = Telemetry::quiet();
    let mut all: Vec<_> =
        (0..MOST_OBSERVERS).map(|_| telemetry.flows.observe(Filter::default(), false).unwrap()).collect();
    assert!(telemetry.flows.observe(Filter::default(), false).is_err());
    all.pop();
    assert!(telemetry.flows.observe(Filter::default(), false).is_ok());
}

#[test]
fn the_last_failures_stay_and_say_by_which_policy() {
    let telemetry = Telemetry::quiet();
    for (status, flag) in [
        (200, Flag::None),
        (404, Flag::None),
        (200, Flag::DelayInjected),
        (403, Flag::Denied),
        (500, Flag::None),
        (503, Flag::NoHealthyUpstream),
    ] {
        telemetry.request(&entry(status, flag));
    }
    let list = |terms: &[(&str, &str)], since, last| {
        let since = UNIX_EPOCH + Duration::from_secs(since);
        statuses(telemetry.flows.failures(&wanting(terms), Some(since), last))
    };
    assert_eq!(list(&[], 0, 10), [403, 500, 503]);
    assert_eq!(list(&[], 0, 2), [500, 503]);
    assert_eq!(list(&[], 500, 10), [500, 503]);
    assert_eq!(list(&[("verdict", "DENIED")], 0, 10), [403]);
    assert_eq!(list(&[("verdict", "FORWARDED")], 0, 10), [500], "the endpoint said so itself");
    let denied = telemetry.flows.failures(&wanting(&[("verdict", "DENIED")]), None, 1);
    assert_eq!(denied[0].policy, "shop/deny");
}

#[test]
fn a_flood_of_failures_is_cut_short_and_counted() {
    let telemetry = Telemetry::quiet();
    for _ in 0..5000 {
        telemetry.request(&entry(503, Flag::NoHealthyUpstream));
    }
    let kept = telemetry.flows.failures(&Filter::default(), None, usize::MAX).len();
    let left_out = telemetry.metrics.agent().flow_failures_left_out.get();
    // A slow machine gets further into other seconds.
    assert!((200..=ring::SIZE).contains(&kept) && left_out > 0, "{kept} kept, {left_out} left out");
}
