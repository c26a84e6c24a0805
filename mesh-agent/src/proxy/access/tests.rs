//! Who asks which policies, what a refused client is told, and what becomes of open connections.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod client_cert;
mod guards;

use std::net::SocketAddr;
use std::rc::Rc;

use futures_util::FutureExt;
use http::StatusCode;

use super::*;
use crate::addr::{ClientAddr, OrigDst};
use crate::authz::{Policy, WorkloadPolicies};
use crate::model::{ObjectName, Snapshot, Target};
use crate::objects::AuthorizationPolicy;
use crate::proxy::{Limits, Plan, Pod, testing};
use crate::telemetry::Telemetry;

const SERVER: &str = "127.0.0.1:8080";

/// The pod `test/server` on this node, at this address.
fn server(node: &str) -> Arc<Workload> {
    let addresses = vec!["127.0.0.1".parse().unwrap()];
    Arc::new(Workload {
        name: ObjectName::new("test", "server"),
        node: node.into(),
        addresses,
        ..testing::workload()
    })
}

fn compiled(specs: &[&str]) -> Arc<Compiled> {
    let policy = |spec: &&str| {
        let text = format!("{{metadata: {{name: p, namespace: test}}, spec: {spec}}}");
        let object: AuthorizationPolicy = serde_yaml_ng::from_str(&text).unwrap();
        Arc::new(Policy::new(&object, &Options::default()))
    };
    Arc::new(Compiled::new(specs.iter().map(policy).collect()))
}

/// Puts a configuration in force in which these policies hold for the server.
fn publish(conn: &Connection, node: &str, specs: &[&str]) {
    let mut snapshot = Snapshot::clone(&conn.snapshot());
    let server = server(node);
    snapshot.generation += 1;
    snapshot.node = "node".into();
    snapshot.by_address.insert_mut(server.addresses[0], server.clone());
    let policies = WorkloadPolicies { all: compiled(specs), ports: Vec::new() };
    snapshot.authorization.workloads.insert_mut(server.name.clone(), Arc::new(policies));
    conn.pod.worker.snapshot.store(Arc::new(snapshot));
    conn.pod.worker.changed.send_modify(|generation| *generation += 1);
}

/// A connection of the pod `test/client` to the server.
fn outbound(node: &str, specs: &[&str]) -> Connection {
    let conn = testing::connection(SERVER.parse().unwrap());
    publish(&conn, node, specs);
    conn
}

/// A connection that came to the server from elsewhere.
fn inbound(specs: &[&str]) -> Connection {
    let pod = testing::pod(Limits::default(), Telemetry::quiet());
    pod.workload.replace(server("node"));
    let client = ClientAddr::from("10.9.9.9:1234".parse::<SocketAddr>().unwrap());
    let dst = OrigDst::from(SERVER.parse::<SocketAddr>().unwrap());
    let target = Target::Workload(pod.workload(), None);
    let conn = Connection::open(&pod, Direction::Inbound, client, dst, &target);
    publish(&conn, "node", specs);
    conn
}

fn head(method: &str, path: &str) -> request::Parts {
    http::Request::builder()
        .method(method)
        .uri(path)
        .header("host", "server")
        .body(())
        .unwrap()
        .into_parts()
        .0
}

fn departs(conn: &Connection, head: &request::Parts) -> Result<(), LocalAnswer> {
    let picked = conn.pick(&Plan::default(), &[], None).unwrap();
    conn.admit_departure(&picked, head).now_or_never().unwrap().map(|_| ())
}

fn denials(conn: &Connection) -> u64 {
    let agent = conn.pod.worker.telemetry.metrics.agent();
    let kinds = ["request", "connection"];
    let of = |policy, rule| {
        kinds.map(|kind| agent.authorization_denied.with_label_values(&[policy, rule, kind]).get())
    };
    [of("test/p", "0"), of("none", "none")].concat().iter().sum()
}

const GET_BY_CLIENT: &str =
    "{rules: [{from: [{source: {serviceAccounts: [test/default]}}], to: [{operation: {methods: [GET]}}]}]}";
const DENY_ADMIN: &str =
    "{action: DENY, rules: [{to: [{operation: {paths: [\"/admin*\"], ports: [\"8080\"]}}]}]}";

#[test]
fn a_refused_client_is_told_envoys_words_and_the_log_the_rule() {
    let conn = outbound("node", &[DENY_ADMIN]);
    let answer = departs(&conn, &head("GET", "/admin")).unwrap_err();
    assert_eq!((answer.status, answer.grpc_status), (StatusCode::FORBIDDEN, 7));
    assert_eq!((&*answer.body, answer.why), ("RBAC: access denied", Some(ErrorKind::Denied)));
    let details = "rbac_access_denied_matched_policy[ns[test]-policy[p]-rule[0]]";
    assert_eq!(answer.details.as_deref(), Some(details));
    assert_eq!(denials(&conn), 1);
    assert!(departs(&conn, &head("GET", "/")).is_ok());
    assert_eq!(denials(&conn), 1);
}

#[test]
fn the_clients_agent_asks_for_pods_of_its_own_node_alone() {
    assert!(departs(&outbound("node", &["{}"]), &head("GET", "/")).is_err());
    assert!(departs(&outbound("elsewhere", &["{}"]), &head("GET", "/")).is_ok());
    let conn = outbound("node", &[GET_BY_CLIENT]);
    assert!(departs(&conn, &head("GET", "/")).is_ok(), "its namespace proves who it is");
    assert!(departs(&conn, &head("POST", "/")).is_err());
}

#[test]
fn whoever_comes_from_elsewhere_is_nobody_whatever_it_says() {
    let conn = inbound(&[GET_BY_CLIENT]);
    let mut head = head("GET", "/");
    let claims = "By=spiffe://cluster.local/ns/test/sa/server;URI=spiffe://cluster.local/ns/test/sa/default";
    head.headers.insert("x-forwarded-client-cert", claims.parse().unwrap());
    head.headers.insert("x-forwarded-for", "127.0.0.1".parse().unwrap());
    assert!(conn.admit_arrival(&mut head, true).now_or_never().unwrap().is_err());
    let anybody = inbound(&["{rules: [{to: [{operation: {methods: [GET]}}]}]}"]);
    assert!(anybody.admit_arrival(&mut head, true).now_or_never().unwrap().is_ok());
}

#[test]
fn a_header_says_who_the_client_is_only_behind_trusted_proxies() {
    let spec = "{rules: [{from: [{source: {remoteIpBlocks: [1.2.3.4]}}]}]}";
    let conn = inbound(&[spec]);
    let mut head = head("GET", "/");
    head.headers.insert("x-forwarded-for", "1.2.3.4".parse().unwrap());
    assert!(conn.admit_arrival(&mut head, true).now_or_never().unwrap().is_err());
    let mut snapshot = Snapshot::clone(&conn.snapshot());
    snapshot.authorization.options = Arc::new(Options { trusted_hops: 1, ..Options::default() });
    conn.pod.worker.snapshot.store(Arc::new(snapshot));
    assert!(conn.admit_arrival(&mut head, true).now_or_never().unwrap().is_ok());
}

#[test]
fn a_path_with_a_nul_is_no_request() {
    let conn = inbound(&[DENY_ADMIN]);
    let answer = conn.admit_arrival(&mut head("GET", "/x%00"), true).now_or_never().unwrap().unwrap_err();
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
}

#[test]
fn whoever_would_have_to_be_asked_and_cannot_be_denies() {
    let custom = "{action: CUSTOM, provider: {name: opa}, rules: [{to: [{operation: {paths: [/asked]}}]}]}";
    let conn = outbound("node", &[custom]);
    assert!(departs(&conn, &head("GET", "/asked")).is_err());
    assert!(departs(&conn, &head("GET", "/")).is_ok());
    let picked = conn.pick(&Plan::default(), &[], None).unwrap();
    assert!(
        conn.admit_at_once(&picked, &head("GET", "/asked")).is_err(),
        "copies and hedges wait for nobody"
    );
    assert!(conn.admit_at_once(&picked, &head("GET", "/")).is_ok());
}

#[test]
fn a_connection_of_unknown_protocol_is_refused_at_once_only_if_no_request_could_pass() {
    let admits = |spec: &str| {
        let conn = outbound("node", &[spec]);
        let picked = conn.pick(&Plan::default(), &[], None).unwrap();
        let admitted = conn.admit_connection(&picked, true).now_or_never().unwrap();
        (admitted.is_ok(), conn.may_carry_requests())
    };
    assert_eq!(admits("{rules: [{}]}"), (true, false));
    assert_eq!(admits("{}"), (false, false));
    assert_eq!(admits(GET_BY_CLIENT), (false, true));
    assert_eq!(admits(DENY_ADMIN), (false, true));
    assert_eq!(admits("{action: DENY, rules: [{from: [{source: {namespaces: [test]}}]}]}"), (false, false));
}

#[tokio::test]
async fn an_open_connection_ends_with_the_policy_that_let_it_in() {
    let conn = Rc::new(outbound("node", &["{rules: [{from: [{source: {namespaces: [test]}}]}]}"]));
    let picked = conn.pick(&Plan::default(), &[], None).unwrap();
    conn.admit_connection(&picked, false).await.unwrap();
    let mut ends = Box::pin(conn.until_denied(&picked));
    assert!(ends.as_mut().now_or_never().is_none(), "as long as it holds");
    publish(&conn, "node", &["{rules: [{from: [{source: {namespaces: [test, other]}}]}]}"]);
    assert!(ends.as_mut().now_or_never().is_none(), "another one holds that lets it in too");
    publish(&conn, "node", &["{}"]);
    assert_eq!(ends.await, ErrorKind::Denied);
    assert_eq!(denials(&conn), 0, "it isn't told yet");
    assert_eq!(&*conn.tell_refusal(), crate::authz::NONE_MATCHED);
    assert_eq!(denials(&conn), 1);
}

#[tokio::test]
async fn what_a_request_has_switched_to_ends_with_the_policy_that_let_it_in() {
    let conn = Rc::new(outbound("node", &[GET_BY_CLIENT]));
    let picked = conn.pick(&Plan::default(), &[], None).unwrap();
    let head = head("GET", "/socket");
    let mut ends = Box::pin(conn.until_request_denied(&picked, &head, None));
    assert!(ends.as_mut().now_or_never().is_none());
    publish(
        &conn,
        "node",
        &[GET_BY_CLIENT, "{action: DENY, rules: [{to: [{operation: {paths: [/socket]}}]}]}"],
    );
    assert_eq!(ends.await, ErrorKind::Denied);
}

#[test]
fn audits_and_dry_runs_are_counted_by_rule() {
    let conn = outbound("node", &["{action: AUDIT, rules: [{}]}"]);
    assert!(departs(&conn, &head("GET", "/")).is_ok());
    let agent = conn.pod.worker.telemetry.metrics.agent();
    assert_eq!(agent.authorization_audited.with_label_values(&["test/p", "0"]).get(), 1);
    let text = "{metadata: {name: p, namespace: test, annotations: {istio.io/dry-run: \"true\"}}, spec: {action: DENY, rules: [{}]}}";
    let object: AuthorizationPolicy = serde_yaml_ng::from_str(text).unwrap();
    let policies = vec![Arc::new(Policy::new(&object, &Options::default()))];
    let policies = WorkloadPolicies { all: Arc::new(Compiled::new(policies)), ports: Vec::new() };
    let mut snapshot = Snapshot::clone(&conn.snapshot());
    snapshot.generation += 1;
    snapshot.authorization.workloads.insert_mut(ObjectName::new("test", "server"), Arc::new(policies));
    conn.pod.worker.snapshot.store(Arc::new(snapshot));
    conn.follow_configuration();
    assert!(departs(&conn, &head("GET", "/")).is_ok(), "nothing is enforced");
    assert_eq!(agent.authorization_dry_run.with_label_values(&["test/p", "0", "denied"]).get(), 1);
}
