//! Pages in sentences: what is captured by whom, which way its traffic goes, which policies hold, and what passed.

use super::live::busy;
use super::{cli, cli_in, good};
use crate::cli::Exit;

/// Without words that depend on when it is asked.
fn steady(text: &str) -> String {
    let dated = regex::Regex::new(r"until \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ").unwrap();
    let rate = regex::Regex::new(r"\d+\.\d+rps").unwrap();
    let text = dated.replace_all(text, "until TIME");
    rate.replace_all(&text, "N.Nrps").into_owned()
}

#[test]
fn a_pod_in_sentences() {
    let fixture = busy();
    insta::assert_snapshot!(steady(&good(&fixture, "describe pod shop/web-1")), @r"");
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
    insta::assert_snapshot!(traffic.trim_end(), @r"");
    // Off line nothing is known of it.
    let file = fixture.dir.path().join("dump.json");
    std::fs::write(&file, good(&fixture, "config dump")).unwrap();
    let off_line =
        cli_in(fixture.dir.path(), "describe svc shop/cart --state-dir /nonexistent -f DIR/dump.json");
    assert!(off_line.exit == Exit::Ok && !off_line.stdout.contains("Traffic"), "{}", off_line.stdout);
}

#[test]
fn a_route_on_one_page() {
    let fixture = busy();
    insta::assert_snapshot!(steady(&good(&fixture, "describe route shop/cart")), @r"");
    let missing = cli(&fixture, "describe route shop/none --color never");
    assert_eq!(missing.exit, Exit::Failed);
    assert!(missing.stderr.starts_with("error: there is no route shop/none\n"), "{}", missing.stderr);
}

#[test]
fn a_policy_on_one_page() {
    let fixture = busy();
    insta::assert_snapshot!(good(&fixture, "describe policy shop/limits"), @r"");
    insta::assert_snapshot!(good(&fixture, "describe policy shop/slow"), @r"");
    let missing = cli(&fixture, "describe policy none --color never");
    assert!(
        missing.exit == Exit::Failed && missing.stderr.contains("mesh-agent analyze"),
        "{}",
        missing.stderr
    );
}
