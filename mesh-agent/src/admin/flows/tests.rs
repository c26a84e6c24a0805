//! The stream of flows: what is asked, and what lines come.

#![allow(clippy::unwrap_used)]

use std::future::poll_fn;
use std::time::UNIX_EPOCH;

use http_body_util::BodyExt;

use super::*;
use crate::addr::{ClientAddr, OrigDst};
use crate::flags::Flag;
use crate::proxy::testing;
use crate::telemetry::{ConnectionEntry, Peers, Reporter, Telemetry};

fn entry(flag: Flag) -> ConnectionEntry<'static> {
    let at = |text: &str| text.parse::<std::net::SocketAddr>().unwrap();
    ConnectionEntry {
        start: UNIX_EPOCH,
        peers: Peers {
            pod: testing::some_workload(),
            reporter: Reporter::Source,
            source: None,
            client: ClientAddr::from(at("10.0.0.1:4242")),
            destination: OrigDst::from(at("10.96.0.10:5432")),
            service: None,
            endpoint: None,
            destination_workload: None,
            principals: None,
            hbone: false,
        },
        protocol: "tcp",
        server_name: b"",
        flag,
        details: "",
        bytes_received: 1,
        bytes_sent: 2,
        duration: Duration::from_millis(5),
        route: "",
        span: None,
    }
}

async fn whole(telemetry: &Telemetry, query: &str) -> (StatusCode, String) {
    let response = answer(&telemetry.flows, Some(query));
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn without_follow_the_kept_failures_are_the_answer() {
    let telemetry = Telemetry::quiet();
    telemetry.connection(&entry(Flag::None));
    telemetry.connection(&entry(Flag::UpstreamConnectionFailure));
    telemetry.connection(&entry(Flag::Denied));
    let (status, body) = whole(&telemetry, "").await;
    assert_eq!((status, body.lines().count()), (StatusCode::OK, 2), "{body}");
    let (_, body) = whole(&telemetry, "last=5&verdict=DENIED&to-ip=10.96.0.0%2F16").await;
    let flow: Flow = serde_json::from_str(body.trim()).unwrap();
    assert_eq!((flow.flag.as_str(), flow.duration_ms, flow.bytes_sent), ("DENY", 5.0, 2));
    assert_eq!(whole(&telemetry, "since=60").await.1, "", "they began long ago");
}

#[tokio::test]
async fn a_question_that_makes_no_sense_is_refused() {
    let telemetry = Telemetry::quiet();
    for query in ["colour=red", "last=x", "follow=maybe", "since=-1", "http-path=(", "pod=%zz", "pod=%ff"] {
        assert_eq!(whole(&telemetry, query).await.0, StatusCode::BAD_REQUEST, "{query}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_follows_hears_of_flows_losses_and_at_least_silence() {
    let telemetry = Telemetry::quiet();
    telemetry.connection(&entry(Flag::Denied));
    let Answer::Flows(mut stream) = answer(&telemetry.flows, Some("follow=true&last=1")).into_body() else {
        unreachable!("a stream")
    };
    let mut next = async || {
        let piece = poll_fn(|cx| stream.poll_lines(cx)).await.unwrap();
        String::from_utf8(piece.to_vec()).unwrap()
    };
    assert!(next().await.contains("\"flag\":\"DENY\""), "what was kept comes first");
    assert_eq!(next().await, "\n", "nothing happened for a while");
    for _ in 0..5000 {
        telemetry.connection(&entry(Flag::None));
    }
    let mut lines = Vec::new();
    while lines.last().is_none_or(|line: &String| !line.contains("lost")) {
        lines.extend(next().await.lines().map(str::to_owned));
    }
    let FlowLine::Lost { lost } = serde_json::from_str(lines.last().unwrap()).unwrap() else {
        unreachable!("a loss")
    };
    assert_eq!(lines.len() as u64 - 1 + lost, 5000);
    telemetry.connection(&entry(Flag::None));
    assert!(next().await.contains("\"flag\":\"-\""), "it goes on");
}
