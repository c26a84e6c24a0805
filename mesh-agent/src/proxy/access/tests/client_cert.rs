//! X-Forwarded-Client-Cert where requests arrive: nobody's own word reaches policies or the application, and what comes instead is
//! what the client has proven.

use std::rc::Rc;

use http::HeaderMap;

use super::*;
use crate::identity::{SpiffeId, x509};
use crate::proxy::client_cert::{self, ForwardClientCert};

const NAME: &str = "x-forwarded-client-cert";
const FORGED: &str =
    "By=spiffe://cluster.local/ns/test/sa/default;URI=spiffe://cluster.local/ns/test/sa/admin";
const CLIENT: &str = "spiffe://cluster.local/ns/test/sa/other";
const SEES_IT: &str =
    "{rules: [{when: [{key: \"request.headers[x-forwarded-client-cert]\", values: [\"*\"]}]}]}";

fn forged() -> request::Parts {
    let mut head = head("GET", "/");
    for name in [NAME, "x_forwarded_client_cert", "x-forwarded_client-cert", NAME, "x-other"] {
        head.headers.append(name, FORGED.parse().unwrap());
    }
    head
}

fn setting(mut conn: Connection, how: ForwardClientCert) -> Connection {
    let pod = Rc::get_mut(&mut conn.pod).unwrap();
    Rc::get_mut(&mut pod.worker).unwrap().forward_client_cert = how;
    conn
}

fn arrive(conn: &Connection, mut head: request::Parts) -> Result<HeaderMap, LocalAnswer> {
    conn.admit_arrival(&mut head, true).now_or_never().unwrap().map(|_| head.headers)
}

fn depart(conn: &Connection, head: &request::Parts) -> Option<HeaderMap> {
    let picked = conn.pick(&Plan::default(), &[], None).unwrap();
    let admitted = conn.admit_departure(&picked, head).now_or_never().unwrap().unwrap();
    let at_once = conn.admit_at_once(&picked, head).unwrap().map(|head| head.headers);
    let sent = admitted.and_then(|admitted| admitted.head.as_ref().map(|head| head.headers.clone()));
    assert_eq!(at_once, sent, "a copy or hedge is told what the request is");
    sent
}

fn names(headers: &HeaderMap) -> Vec<&str> {
    headers.iter().map(|(name, _)| name.as_str()).collect()
}

/// The client proves that it is `CLIENT`; the header's text.
fn prove(conn: &Connection) -> String {
    let pod = testing::pod(Limits::default(), Telemetry::quiet());
    let other = crate::model::ObjectName::new("test", "other");
    let certificate = pod.worker.identities.of(&other).certificate().unwrap();
    conn.prove(SpiffeId::parse(CLIENT).unwrap());
    conn.note_client_cert(Some(&certificate));
    text(&certificate, "spiffe://cluster.local/ns/test/sa/default", CLIENT)
}

fn text(certificate: &[u8], by: &str, uri: &str) -> String {
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, certificate);
    format!("By={by};Hash={};Subject=\"\";URI={uri}", x509::hex(hash.as_ref()))
}

#[test]
fn whatever_a_client_says_of_a_certificate_goes_however_it_is_spelled() {
    for how in [ForwardClientCert::Sanitize, ForwardClientCert::SanitizeSet] {
        let conn = setting(inbound(&["{rules: [{}]}"]), how);
        assert_eq!(names(&arrive(&conn, forged()).unwrap()), ["host", "x-other"], "{how:?}, in plain text");
    }
    let proven = setting(inbound(&["{rules: [{}]}"]), ForwardClientCert::Sanitize);
    prove(&proven);
    assert_eq!(names(&arrive(&proven, forged()).unwrap()), ["host", "x-other"]);
}

#[test]
fn a_proven_client_is_told_of_once_with_its_certificates_hash() {
    let conn = setting(inbound(&["{rules: [{}]}"]), ForwardClientCert::SanitizeSet);
    let wanted = prove(&conn);
    for request in [forged(), head("GET", "/")] {
        let headers = arrive(&conn, request).unwrap();
        assert_eq!(headers.get_all(NAME).iter().collect::<Vec<_>>(), [&wanted]);
    }
    let tunnel = Connection::open(&conn.pod, Direction::Inbound, conn.client, conn.dst, &Target::Unknown);
    tunnel.note_client_cert_of(&conn);
    assert_eq!(arrive(&tunnel, forged()).unwrap()[NAME], wanted, "a stream of it is the same client's");
}

#[test]
fn policies_see_what_the_application_will() {
    let check = |conn: &Connection, passes| assert_eq!(arrive(conn, forged()).is_ok(), passes);
    check(&setting(inbound(&[SEES_IT]), ForwardClientCert::Sanitize), false);
    let set = setting(inbound(&[SEES_IT]), ForwardClientCert::SanitizeSet);
    check(&set, false);
    prove(&set);
    check(&set, true);
    let outbound = setting(outbound("node", &[SEES_IT]), ForwardClientCert::Sanitize);
    assert!(departs(&outbound, &forged()).is_err());
}

#[test]
fn on_one_node_the_certificate_that_the_agent_holds_is_the_clients() {
    // With policies and without any.
    for specs in [&["{rules: [{}]}"][..], &[]] {
        let conn = setting(outbound("node", specs), ForwardClientCert::SanitizeSet);
        let certificate = conn.pod.identity.borrow().certificate().unwrap();
        let account = "spiffe://cluster.local/ns/test/sa/default";
        let wanted = text(&certificate, account, account);
        for request in [forged(), head("GET", "/")] {
            let sent = depart(&conn, &request).unwrap();
            assert_eq!(sent.get_all(NAME).iter().collect::<Vec<_>>(), [&wanted]);
            assert_eq!(sent.len(), request.headers.keys().filter(|name| !is_it(name)).count() + 1);
        }
    }
}

#[test]
fn what_isnt_this_agents_to_change_goes_on_as_it_is() {
    for how in [ForwardClientCert::Sanitize, ForwardClientCert::SanitizeSet] {
        let conn = setting(outbound("elsewhere", &[]), how);
        assert_eq!(depart(&conn, &forged()), None, "the agent of its node drops it");
    }
    let conn = setting(outbound("node", &[]), ForwardClientCert::Sanitize);
    assert_eq!(depart(&conn, &head("GET", "/")), None, "nothing is copied where there is nothing to change");
    assert_eq!(names(&depart(&conn, &forged()).unwrap()), ["host", "x-other"]);
}

#[test]
fn without_a_certificate_of_the_client_there_is_no_header() {
    let conn = setting(outbound("node", &[]), ForwardClientCert::SanitizeSet);
    // Its pod runs as another account by now, whose certificate says nothing about who opened the connection.
    assert!(depart(&conn, &head("GET", "/")).is_some());
    conn.own_certs.borrow_mut().clear();
    let other = conn.pod.worker.identities.of(&ObjectName::new("test", "other"));
    conn.pod.identity.replace(other);
    assert_eq!(depart(&conn, &head("GET", "/")), None);
    assert_eq!(names(&depart(&conn, &forged()).unwrap()), ["host", "x-other"]);
}

fn is_it(name: &http::HeaderName) -> bool {
    client_cert::is_name(name.as_str().as_bytes())
}
