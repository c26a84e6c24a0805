//! Pages in sentences: what is captured by whom, which way its traffic goes, which policies hold, and what passed.

use super::live::busy;
use super::{cli, cli_in, good};
use crate::cli::Exit;

/// Without words that depend on when it is asked.
fn steady(text: &str) -> String {
    let dated = regex::Regex::new(r"until \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ").unwrap();
    let rate = regex::Regex::new(r"\d+\.\d+rps +").unwrap();
    let text = dated.replace_all(text, "until TIME");
    let text = rate.replace_all(&text, "N.Nrps   ");
    // As wide as the widest rate.
    regex::Regex::new("RPS +").unwrap().replace_all(&text, "RPS   ").into_owned()
}

#[test]
fn a_pod_in_sentences() {
    let fixture = busy();
    insta::assert_snapshot!(steady(&good(&fixture, "describe pod shop/web-1")), @r"
    Pod:        shop/web-1
    Node:       node-a
    Addresses:  10.1.0.1
    Account:    web
    Capture:    captured
    Fail mode:  closed
    Reached by: mutual TLS with its agent

    In short:
      Captured: its connections go through the agent of node-a; while that is away new ones are refused.
      It proves itself as spiffe://cluster.local/ns/shop/sa/web, until TIME and renewed before.
      It accepts mutual TLS and plain text, which is the default.
      No policy selects it: whoever may connect may ask anything.

    Mutual TLS:
      PORT   MODE         FROM
      all    PERMISSIVE   default

    Traffic of the last minute:
      FROM       TO          SECURED   SUCCESS   RPS   LATENCY_P50   LATENCY_P99   FLAGS
      shop/web   shop/cart   yes       90.00%    N.Nrps   7.5ms         10ms          UF=1
    ");
    let elsewhere = good(&fixture, "describe pod shop/cart-2");
    assert!(elsewhere.contains("In the mesh: the agent of its node node-b captures it."), "{elsewhere}");
    let pending = good(&fixture, "describe pod shop/cart-1");
    assert!(pending.contains("Not captured yet: /run/netns/cart-1: not found; tried again."), "{pending}");
}

#[test]
fn a_busy_service_has_its_traffic_on_its_page() {
    let fixture = busy();
    let page = steady(&good(&fixture, "describe svc shop/cart"));
    let traffic = page.split("Traffic of the last minute:\n").nth(1).unwrap_or_default();
    insta::assert_snapshot!(traffic.trim_end(), @r"
    FROM       TO          SECURED   SUCCESS   RPS   LATENCY_P50   LATENCY_P99   FLAGS
    shop/web   shop/cart   yes       90.00%    N.Nrps   7.5ms         10ms          UF=1
    ");
    // Off line nothing is known of it.
    let file = fixture.dir.path().join("dump.json");
    std::fs::write(&file, good(&fixture, "config dump")).unwrap();
    let off_line =
        cli_in(fixture.dir.path(), "describe svc shop/cart --state-dir /nonexistent -f DIR/dump.json");
    assert!(
        off_line.exit == Exit::Ok && !off_line.stdout.contains("Traffic of the last minute"),
        "{}",
        off_line.stdout
    );
}

#[test]
fn a_route_on_one_page() {
    let fixture = busy();
    insta::assert_snapshot!(steady(&good(&fixture, "describe route shop/cart")), @r"
    Route:      shop/cart
    Kind:       HTTPRoute

    In short:
      Service shop/cart:80 takes its 1 rule, for clients of every namespace that has no routes of its own for it.

    Rules:
      SERVICE        CLIENTS   RULE   MATCHES        BACKENDS         FILTERS   SUCCESS   RPS   LATENCY_P50   LATENCY_P99
      shop/cart:80   all       0      PathPrefix /   shop/cart:80 1   -         90.00%    N.Nrps   7.5ms         10ms

    Policies:
      POLICY                    TARGET                GROUPS    STATE
      TrafficPolicy shop/slow   HTTPRoute shop/cart   timeout   attached
    ");
    let missing = cli(&fixture, "describe route shop/none --color never");
    assert_eq!(missing.exit, Exit::Failed);
    assert!(missing.stderr.starts_with("error: there is no route shop/none\n"), "{}", missing.stderr);
}

#[test]
fn a_policy_on_one_page() {
    let fixture = busy();
    insta::assert_snapshot!(good(&fixture, "describe policy shop/limits"), @r"
    Policy:     shop/limits
    Kind:       TrafficPolicy

    In short:
      It holds for Service shop/cart (rateLimit, retry).

    In force:
      SERVICE        CLIENTS   RULE   WHAT           HOW
      shop/cart:80   all       -      rate limit     100 in 1s, burst 100 for each header x-user, else 429
      shop/cart:80   all       -      retry          1 on 503; back-off 25ms to 250ms
      shop/cart:80   all       -      retry budget   20 % of the requests of 10s, or 10 in 1s if that is more
    ");
    insta::assert_snapshot!(good(&fixture, "describe policy shop/slow"), @r"
    Policy:     shop/slow
    Kind:       TrafficPolicy

    In short:
      It holds for HTTPRoute shop/cart (timeout).

    In force:
      SERVICE        CLIENTS   RULE                          WHAT      HOW
      shop/cart:80   all       HTTPRoute shop/cart, rule 0   timeout   3s for the request, tries included
    ");
    let missing = cli(&fixture, "describe policy none --color never");
    assert!(
        missing.exit == Exit::Failed && missing.stderr.contains("mesh-agent analyze"),
        "{}",
        missing.stderr
    );
}
