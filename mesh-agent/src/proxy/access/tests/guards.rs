//! Tokens and providers beside policies: in which order they are asked, and what reaches the application.

use std::sync::Arc;

use http::HeaderName;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::{LocalSet, spawn_local};

use super::*;
use crate::ext_authz::{ExtensionProvider, Providers};
use crate::jwt::testing::Signer;
use crate::jwt::{Expected, Keys, Location, Outputs, Rule};
use crate::model::WorkloadTokens;

const BY_PRINCIPAL: &str = "{rules: [{from: [{source: {requestPrincipals: [\"idp/*\"]}}]}]}";
const ASK: &str = "{action: CUSTOM, provider: {name: ask}, rules: [{to: [{operation: {paths: [/asked*]}}]}]}";

/// Tokens of `idp` count at the server; the application gets `x-user`.
fn with_tokens(conn: &Connection, signer: &Signer) {
    let outputs =
        Outputs { payload: None, claims: vec![(HeaderName::from_static("x-user"), "sub".to_owned())] };
    let expected = Expected { issuer: Some("idp".into()), outputs, ..Expected::default() };
    let keys = Keys::Inline(Arc::new(signer.keys()));
    let object = ObjectName::new("test", "tokens");
    let rule = Rule::new(object, 0, Location::defaults(), expected, false, keys);
    let tokens =
        WorkloadTokens { all: Arc::new(Authentication::new(vec![Arc::new(rule)])), ports: Vec::new() };
    let mut snapshot = Snapshot::clone(&conn.snapshot());
    snapshot.generation += 1;
    snapshot.authentication.workloads.insert_mut(ObjectName::new("test", "server"), Arc::new(tokens));
    conn.pod.worker.snapshot.store(Arc::new(snapshot));
    conn.follow_configuration();
}

fn bearer(head: &mut request::Parts, token: &str) {
    head.headers.insert("authorization", format!("Bearer {token}").parse().unwrap());
}

fn token(signer: &Signer, sub: &str) -> String {
    signer.token(&json!({"iss": "idp", "sub": sub}))
}

#[test]
fn policies_are_asked_about_a_token_that_held_on_both_ways_in() {
    let signer = Signer::new("ES256");
    let (outbound, inbound) = (outbound("node", &[BY_PRINCIPAL]), inbound(&[BY_PRINCIPAL]));
    with_tokens(&outbound, &signer);
    with_tokens(&inbound, &signer);
    let picked = outbound.pick(&Plan::default(), &[], None).unwrap();
    let both = |head: &request::Parts| {
        let mut own = head.clone();
        let departs = outbound.admit_departure(&picked, head).now_or_never().unwrap();
        let arrives = inbound.admit_arrival(&mut own, true).now_or_never().unwrap();
        let status = |result: &Result<Option<Rc<Admitted>>, LocalAnswer>| {
            result.as_ref().map_or_else(|answer| answer.status.as_u16(), |_| 200)
        };
        assert_eq!(status(&departs), status(&arrives));
        (status(&departs), departs.ok().flatten(), own)
    };
    let mut request = head("GET", "/");
    request.headers.insert("x-user", "root".parse().unwrap());
    assert_eq!(both(&request).0, 403, "nobody's");
    bearer(&mut request, "broken");
    assert_eq!(both(&request).0, 401);
    bearer(&mut request, &token(&Signer::new("ES256"), "alice"));
    assert_eq!(both(&request).0, 401, "of another key");
    bearer(&mut request, &token(&signer, "alice"));
    let (status, admitted, own) = both(&request);
    assert_eq!(status, 200);
    let admitted = admitted.unwrap();
    assert_eq!(admitted.claims.as_ref().unwrap().principal, "idp/alice");
    for sent in [&**admitted.head.as_ref().unwrap(), &own] {
        assert_eq!(sent.headers["x-user"], "alice");
        assert!(!sent.headers.contains_key("authorization"));
    }
    assert!(request.headers.contains_key("authorization"), "another endpoint may be tried with it");
}

#[test]
fn nobody_forges_a_claim_without_a_token_and_copies_that_would_are_not_sent() {
    let conn = outbound("node", &["{rules: [{}]}"]);
    with_tokens(&conn, &Signer::new("ES256"));
    let picked = conn.pick(&Plan::default(), &[], None).unwrap();
    let mut request = head("GET", "/");
    assert!(conn.admit_at_once(&picked, &request).is_ok());
    assert!(conn.admit_departure(&picked, &request).now_or_never().unwrap().unwrap().is_none());
    request.headers.insert("x-user", "root".parse().unwrap());
    let admitted = conn.admit_departure(&picked, &request).now_or_never().unwrap().unwrap().unwrap();
    assert!(!admitted.head.as_ref().unwrap().headers.contains_key("x-user"));
    assert!(conn.admit_at_once(&picked, &request).is_err());
}

/// Makes the provider's service known: `ask.test`, at this address. The server is captured as long as the pod is kept.
fn with_provider(conn: &mut Connection, address: SocketAddr, provider: Value) -> Rc<Pod> {
    let list: Vec<ExtensionProvider> = serde_json::from_value(json!([provider])).unwrap();
    Rc::get_mut(&mut Rc::get_mut(&mut conn.pod).unwrap().worker).unwrap().providers =
        Providers::new(&list).unwrap();
    testing::serve(conn, &testing::service_port("ask", &[address]));
    conn.follow_configuration();
    testing::neighbour(conn, Workload::clone(&server("node")))
}

/// An HTTP provider that passes what has `x-pass`, and answers nothing to what has `x-hang`.
async fn provider() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    spawn_local(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            spawn_local(async move {
                let mut bytes = Vec::new();
                while stream.read_buf(&mut bytes).await.unwrap_or(0) > 0 {
                    if !bytes.ends_with(b"\r\n\r\n") {
                        continue;
                    }
                    let text = String::from_utf8(std::mem::take(&mut bytes)).unwrap();
                    if text.contains("x-hang") {
                        continue;
                    }
                    let status = if text.contains("x-pass") { "200 OK" } else { "403 no" };
                    let answer = format!("HTTP/1.1 {status}\r\nx-team: admins\r\ncontent-length: 0\r\n\r\n");
                    stream.write_all(answer.as_bytes()).await.unwrap();
                }
            });
        }
    });
    address
}

fn http_provider(more: Value) -> Value {
    let mut fields = json!({
        "service": "ask.test", "port": 80, "timeout": "300ms",
        "includeRequestHeadersInCheck": ["x-pass", "x-hang"], "headersToUpstreamOnAllow": ["x-team"],
    });
    for (name, value) in more.as_object().unwrap() {
        fields[name] = value.clone();
    }
    json!({"name": "ask", "envoyExtAuthzHttp": fields})
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, test);
}

#[test]
fn a_provider_is_asked_about_what_its_rule_matches_and_refuses_without_an_answer() {
    run(async {
        let address = provider().await;
        let mut conn = outbound("node", &[ASK]);
        let there = with_provider(&mut conn, address, http_provider(json!({"statusOnError": "503"})));
        let picked = conn.pick(&Plan::default(), &[], None).unwrap();
        let ask = async |path: &str, header: Option<&'static str>| {
            let mut request = head("GET", path);
            if let Some(header) = header {
                request.headers.insert(header, "1".parse().unwrap());
            }
            conn.admit_departure(&picked, &request).await
        };
        assert!(ask("/other", None).await.unwrap().is_none());
        let denied = ask("/asked", None).await.unwrap_err();
        assert_eq!((denied.status.as_u16(), denied.why), (403, Some(ErrorKind::ExternallyDenied)));
        let admitted = ask("/asked", Some("x-pass")).await.unwrap().unwrap();
        assert_eq!(admitted.head.as_ref().unwrap().headers["x-team"], "admins");
        assert_eq!(
            (there.upstreams.borrow().len(), conn.pod.upstreams.borrow().len()),
            (1, 0),
            "as the pod called"
        );
        let late = ask("/asked", Some("x-hang")).await.unwrap_err();
        assert_eq!((late.status.as_u16(), late.why), (503, Some(ErrorKind::AuthorizationUnavailable)));
        drop(there);
        assert!(ask("/asked", Some("x-pass")).await.is_err(), "nobody can ask as a pod that isn't captured");
    });
}

#[test]
fn a_provider_that_is_away_refuses_unless_it_fails_open() {
    run(async {
        let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        for (fail_open, passes) in [(false, false), (true, true)] {
            let mut conn = outbound("node", &[ASK]);
            let _there = with_provider(&mut conn, nobody, http_provider(json!({"failOpen": fail_open})));
            let picked = conn.pick(&Plan::default(), &[], None).unwrap();
            assert_eq!(conn.admit_departure(&picked, &head("GET", "/asked")).await.is_ok(), passes);
        }
    });
}

#[test]
fn a_provider_that_nobody_has_and_a_second_one_refuse() {
    run(async {
        let address = provider().await;
        let mut request = head("GET", "/asked");
        request.headers.insert("x-pass", "1".parse().unwrap());
        let other =
            "{action: CUSTOM, provider: {name: other}, rules: [{to: [{operation: {paths: [/else]}}]}]}";
        for (policies, passes) in
            [(&[ASK][..], true), (&[ASK, other], false), (&[&ASK.replace("ask}", "none}")], false)]
        {
            let mut conn = outbound("node", policies);
            let _there = with_provider(&mut conn, address, http_provider(json!({})));
            let picked = conn.pick(&Plan::default(), &[], None).unwrap();
            assert_eq!(conn.admit_departure(&picked, &request).await.is_ok(), passes, "{policies:?}");
        }
    });
}

#[test]
fn a_provider_that_agrees_overrules_no_policy_and_what_it_changed_is_judged_again() {
    run(async {
        let address = provider().await;
        let deny = "{action: DENY, rules: [{when: [{key: \"request.headers[x-team]\", values: [admins]}]}]}";
        let mut request = head("GET", "/asked");
        request.headers.insert("x-pass", "1".parse().unwrap());
        for (policies, passes) in [(&[ASK][..], true), (&[ASK, deny], false), (&[ASK, "{}"], false)] {
            let mut conn = outbound("node", policies);
            let _there = with_provider(&mut conn, address, http_provider(json!({})));
            let picked = conn.pick(&Plan::default(), &[], None).unwrap();
            assert_eq!(conn.admit_departure(&picked, &request).await.is_ok(), passes, "{policies:?}");
        }
    });
}
