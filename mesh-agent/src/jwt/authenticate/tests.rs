//! Requests against the rules of a pod: whose tokens hold, and what changes.
#![allow(clippy::unwrap_used)]
use http::Request;
use serde_json::{Value, json};

use super::*;
use crate::jwt::keys::KeySet;
use crate::jwt::output::Outputs;
use crate::jwt::remote::{Source, Spec, Store};
use crate::jwt::testing::Signer;
use crate::jwt::verify::Expected;
use crate::model::ObjectName;

const NOW: u64 = 1_800_000_000;

/// An issuer, and the rule about it.
struct Issuer {
    name: &'static str,
    signer: Signer,
}

impl Issuer {
    fn new(name: &'static str) -> Self {
        Self { name, signer: Signer::new("ES256") }
    }

    fn token(&self, sub: &str) -> String {
        self.token_of(json!({"iss": self.name, "sub": sub, "exp": NOW + 300}))
    }

    fn token_of(&self, claims: Value) -> String {
        self.signer.token(&claims)
    }

    fn rule(&self) -> Parts {
        Parts {
            issuer: self.name,
            keys: Keys::Inline(Arc::new(self.signer.keys())),
            locations: Location::defaults(),
            forward: false,
            outputs: Outputs::default(),
        }
    }
}

struct Parts {
    issuer: &'static str,
    keys: Keys,
    locations: Vec<Location>,
    forward: bool,
    outputs: Outputs,
}

impl Parts {
    fn at(mut self, locations: &[Location]) -> Self {
        self.locations = locations.to_vec();
        self
    }

    fn make(self, index: usize) -> Arc<Rule> {
        let expected =
            Expected { issuer: Some(self.issuer.to_owned()), outputs: self.outputs, ..Expected::default() };
        let object = ObjectName::new("shop", "tokens");
        Arc::new(Rule::new(object, index, self.locations, expected, self.forward, self.keys))
    }
}

fn of(rules: Vec<Parts>) -> Authentication {
    Authentication::new(rules.into_iter().enumerate().map(|(index, rule)| rule.make(index)).collect())
}

fn head(uri: &str, headers: &[(&str, &str)]) -> request::Parts {
    let mut request = Request::builder().uri(uri);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

fn bearer(token: &str) -> request::Parts {
    head("/", &[("authorization", &format!("Bearer {token}"))])
}

/// The principal, or why it is refused.
fn judge(authentication: &Authentication, head: &request::Parts) -> Result<Option<String>, Refusal> {
    let checked = authentication.check(head, &mut Cache::default(), NOW);
    checked.map(|passed| passed.claims.map(|claims| claims.principal.clone())).map_err(|refused| refused.why)
}

#[test]
fn a_request_without_a_token_passes_as_nobodys() {
    let a = Issuer::new("a");
    let all = of(vec![a.rule()]);
    assert_eq!(judge(&all, &head("/", &[])), Ok(None));
    assert_eq!(judge(&all, &head("/?x=1", &[("authorization", "Basic YTpi")])), Ok(None));
    assert_eq!(judge(&Authentication::default(), &bearer("x")), Ok(None));
}

#[test]
fn a_token_is_held_against_the_rule_of_its_issuer() {
    let (a, b, stranger) = (Issuer::new("a"), Issuer::new("b"), Issuer::new("c"));
    let all = of(vec![a.rule(), b.rule()]);
    assert_eq!(judge(&all, &bearer(&a.token("x"))), Ok(Some("a/x".into())));
    assert_eq!(judge(&all, &bearer(&b.token("y"))), Ok(Some("b/y".into())));
    assert_eq!(judge(&all, &bearer(&stranger.token("z"))), Err(Refusal::UnknownIssuer));
    // B's key under A's name.
    let forged = b.token_of(json!({"iss": "a", "sub": "x"}));
    assert_eq!(judge(&all, &bearer(&forged)), Err(Refusal::Signature));
    assert_eq!(judge(&all, &bearer("")), Err(Refusal::Malformed));
    let expired = a.token_of(json!({"iss": "a", "exp": NOW - 1000}));
    assert_eq!(judge(&all, &bearer(&expired)), Err(Refusal::Expired));
    let refused = all.check(&bearer(&expired), &mut Cache::default(), NOW).unwrap_err();
    assert_eq!(refused.rule.map(|rule| rule.index), Some(0));
}

#[test]
fn of_two_rules_for_one_issuer_either_may_accept() {
    let (a, new) = (Issuer::new("a"), Issuer::new("a"));
    let all = of(vec![a.rule(), new.rule()]);
    assert_eq!(judge(&all, &bearer(&a.token("x"))), Ok(Some("a/x".into())));
    assert_eq!(judge(&all, &bearer(&new.token("x"))), Ok(Some("a/x".into())));
}

#[test]
fn every_token_of_a_request_has_to_hold() {
    let (a, b) = (Issuer::new("a"), Issuer::new("b"));
    let header = Location::Header { name: HeaderName::from_static("x-b"), prefix: String::new() };
    let all = of(vec![a.rule(), b.rule().at(&[header])]);
    let two = |first: &str, second: &str| {
        head("/", &[("authorization", &format!("Bearer {first}")), ("x-b", second)])
    };
    // The first rule's says who it is.
    assert_eq!(judge(&all, &two(&a.token("x"), &b.token("y"))), Ok(Some("a/x".into())));
    assert_eq!(judge(&all, &two(&a.token("x"), "broken")), Err(Refusal::Malformed));
    assert_eq!(judge(&all, &two("broken", &b.token("y"))), Err(Refusal::Malformed));
    // A token is good only where its rule looks for it.
    assert_eq!(judge(&all, &bearer(&b.token("y"))), Err(Refusal::UnknownIssuer));
    // A second one at the same place isn't overlooked.
    let uri = format!("/?access_token={}&access_token=broken", a.token("x"));
    assert_eq!(judge(&all, &head(&uri, &[])), Err(Refusal::Malformed));
    let twice = [("authorization", "Bearer x"); 6];
    assert_eq!(judge(&all, &head("/", &twice)), Err(Refusal::TooLarge));
}

#[test]
fn a_rule_without_keys_accepts_no_token_and_only_of_its_issuer_says_so() {
    let (a, b) = (Issuer::new("a"), Issuer::new("b"));
    let all = of(vec![Parts { keys: Keys::None, ..a.rule() }, b.rule()]);
    assert_eq!(judge(&all, &bearer(&a.token("x"))), Err(Refusal::KeysUnavailable));
    assert_eq!(judge(&all, &bearer(&b.token("x"))), Ok(Some("b/x".into())));
    assert_eq!(judge(&all, &head("/", &[])), Ok(None));
}

#[test]
fn tokens_are_refused_until_keys_were_fetched_and_follow_them_afterwards() {
    let (a, rotated) = (Issuer::new("a"), Issuer::new("a"));
    let source = Source::Keys("https://a/keys".parse().unwrap());
    let remote = Store::default().get(Spec { source, timeout: std::time::Duration::from_secs(1) });
    let all = of(vec![Parts { keys: Keys::Remote(remote.clone()), ..a.rule() }]);
    let mut cache = Cache::default();
    let mut judge = |token: &str| {
        all.check(&bearer(token), &mut cache, NOW)
            .map(|passed| passed.claims.is_some())
            .map_err(|refused| refused.why)
    };
    let token = a.token("x");
    assert_eq!(judge(&token), Err(Refusal::KeysUnavailable));
    remote.learn(a.signer.keys());
    assert_eq!((judge(&token), judge(&token)), (Ok(true), Ok(true)));
    // The key is withdrawn: what held under it doesn't any more, remembered or not.
    remote.learn(rotated.signer.keys());
    assert_eq!(judge(&token), Err(Refusal::Signature));
    assert_eq!(judge(&rotated.token("x")), Ok(true));
}

#[test]
fn a_remembered_token_expires_all_the_same() {
    let a = Issuer::new("a");
    let all = of(vec![a.rule()]);
    let request = bearer(&a.token("x"));
    let mut cache = Cache::default();
    assert!(all.check(&request, &mut cache, NOW).is_ok());
    assert!(all.check(&request, &mut cache, NOW + 360).is_ok());
    assert_eq!(
        all.check(&request, &mut cache, NOW + 361).map_err(|refused| refused.why).err(),
        Some(Refusal::Expired)
    );
    // The same token under a rule that was changed.
    let stricter = of(vec![Parts { issuer: "b", ..a.rule() }]);
    assert_eq!(
        stricter.check(&request, &mut cache, NOW).map_err(|refused| refused.why).err(),
        Some(Refusal::UnknownIssuer)
    );
}

#[test]
fn a_preflight_is_not_judged() {
    let a = Issuer::new("a");
    let all = of(vec![a.rule()]);
    let mut request = head(
        "/",
        &[("origin", "http://x"), ("access-control-request-method", "PUT"), ("authorization", "Bearer x")],
    );
    assert_eq!(judge(&all, &request), Err(Refusal::Malformed));
    request.method = Method::OPTIONS;
    assert_eq!(judge(&all, &request), Ok(None));
    request.headers.remove("access-control-request-method");
    assert_eq!(judge(&all, &request), Err(Refusal::Malformed));
}

/// What the application gets.
fn sent(authentication: &Authentication, mut head: request::Parts) -> request::Parts {
    let passed = authentication.check(&head, &mut Cache::default(), NOW).unwrap();
    if let Some(edits) = passed.edits {
        edits.apply(&mut head);
    }
    head
}

fn lines(head: &request::Parts) -> Vec<(&str, &str)> {
    let mut lines: Vec<_> =
        head.headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
    lines.sort_unstable();
    lines
}

#[test]
fn the_token_stays_behind_unless_the_application_is_to_have_it() {
    let a = Issuer::new("a");
    let places = [
        Location::Bearer,
        Location::Header { name: HeaderName::from_static("x-jwt"), prefix: String::new() },
        Location::Param("t".to_owned()),
        Location::Cookie("c".to_owned()),
    ];
    let token = a.token("x");
    let requests = || {
        let cookie = format!("k=1; c={token}; l=2");
        [
            head("/p?q=1", &[("authorization", &format!("Bearer {token}")), ("x", "1")]),
            head("/p?q=1", &[("x-jwt", &token), ("x", "1")]),
            head(&format!("/p?t={token}&q=1"), &[("x", "1")]),
            head("/p?q=1", &[("cookie", &cookie), ("x", "1")]),
        ]
    };
    let taken = of(vec![a.rule().at(&places)]);
    let kept = of(vec![Parts { forward: true, ..a.rule() }.at(&places)]);
    for (at, (request, same)) in requests().into_iter().zip(requests()).enumerate() {
        let got = sent(&taken, request);
        assert_eq!(got.uri, "/p?q=1", "{at}");
        let want: &[_] = if at == 3 { &[("cookie", "k=1; l=2"), ("x", "1")] } else { &[("x", "1")] };
        assert_eq!(lines(&got), want, "{at}");
        let got = sent(&kept, same);
        assert!(format!("{got:?}").contains(&token), "{at}");
    }
}

#[test]
fn claims_become_headers_and_nobody_else_can_send_them() {
    let a = Issuer::new("a");
    let outputs = Outputs {
        payload: Some(HeaderName::from_static("x-payload")),
        claims: vec![
            (HeaderName::from_static("x-user"), "sub".into()),
            (HeaderName::from_static("x-none"), "none".into()),
        ],
    };
    let all = of(vec![Parts { outputs, ..a.rule() }]);
    let forged =
        [("x-user", "root"), ("X-User", "admin"), ("x-none", "1"), ("x-payload", "e30"), ("other", "1")];
    // Without a token.
    assert_eq!(lines(&sent(&all, head("/", &forged))), [("other", "1")]);
    // With one.
    let token = a.token("alice");
    let line = format!("Bearer {token}");
    let mut headers = forged.to_vec();
    headers.push(("authorization", &line));
    let got = sent(&all, head("/", &headers));
    let payload = token.split('.').nth(1).unwrap();
    assert_eq!(lines(&got), [("other", "1"), ("x-payload", payload), ("x-user", "alice")]);
    // Of a preflight.
    let mut preflight =
        head("/", &[("origin", "o"), ("access-control-request-method", "PUT"), ("x-user", "root")]);
    preflight.method = Method::OPTIONS;
    assert_eq!(lines(&sent(&all, preflight)), [("access-control-request-method", "PUT"), ("origin", "o")]);
}

#[test]
fn what_needs_no_change_has_none() {
    let a = Issuer::new("a");
    let all = of(vec![Parts { forward: true, ..a.rule() }]);
    let check = |head: request::Parts| all.check(&head, &mut Cache::default(), NOW).unwrap().edits;
    assert!(check(head("/", &[("x", "1")])).is_none());
    assert!(check(bearer(&a.token("x"))).is_none());
}

#[test]
fn a_new_key_is_asked_for_when_a_token_names_one_that_is_not_there() {
    let a = Issuer::new("a");
    let source = Source::Keys("https://a/keys".parse().unwrap());
    let remote = Store::default().get(Spec { source, timeout: std::time::Duration::from_secs(1) });
    let known =
        KeySet::parse(json!({"keys": [a.signer.jwk_with(json!({"kid": "old"}))]}).to_string().as_bytes())
            .unwrap();
    remote.learn(known);
    let all = of(vec![Parts { keys: Keys::Remote(remote.clone()), ..a.rule() }]);
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let hurried = || {
        runtime.block_on(async {
            tokio::time::timeout(std::time::Duration::from_secs(1), remote.hurried()).await.is_ok()
        })
    };
    assert!(!hurried());
    let token = a.signer.token_with(&json!({"alg": "ES256", "kid": "new"}), &json!({"iss": "a"}));
    assert_eq!(judge(&all, &bearer(&token)), Err(Refusal::NoKey));
    assert!(hurried());
    assert_eq!(judge(&all, &bearer("x.y.z")), Err(Refusal::Malformed));
    assert!(!hurried());
}
