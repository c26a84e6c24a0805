//! Tokens, SPIFFE ids, certificates, and the header that tells of certificates.

use std::sync::{Arc, LazyLock};

use http::{HeaderMap, HeaderName, HeaderValue, Request};
use rustls::pki_types::CertificateDer;

use super::{headers, parts};
use crate::identity::{SpiffeId, peer_of, x509};
use crate::jwt::{Authentication, Cache, Expected, KeySet, Keys, Location, Outputs, Rule};
use crate::model::ObjectName;
use crate::policy::Locality;
use crate::proxy::client_cert::element::{self, Element};
use crate::proxy::{baggage, client_cert};

/// RFC 7515, A.3: an issuer's key, and the one token that is known to be signed with it.
const KEYS: &[u8] = br#"{"keys":[{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}"#;
const TOKEN: &str = "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";
const NOW: u64 = 1_300_819_000;

static RULES: LazyLock<Authentication> = LazyLock::new(|| {
    let outputs =
        Outputs { payload: None, claims: vec![(HeaderName::from_static("x-user"), "sub".to_owned())] };
    let expected = Expected { issuer: Some("joe".to_owned()), outputs, ..Expected::default() };
    let keys = Keys::Inline(Arc::new(KeySet::parse(KEYS).expect("the RFC's key")));
    let rule = Rule::new(ObjectName::new("a", "b"), 0, Location::defaults(), expected, false, keys);
    Authentication::new(vec![Arc::new(rule)])
});

/// No token holds but the one that was signed, wherever in a request it is; key sets and claims are read without harm.
pub fn jwt(data: &[u8]) {
    let _ = KeySet::parse(data);
    if let Ok(token) = std::str::from_utf8(data) {
        let held = RULES.check_token(token, NOW).is_ok();
        assert_eq!(held, token == TOKEN, "{token}");
    }
    let [authorization, query] = parts(data, b'\n');
    let target = [b"/?".as_slice(), query].concat();
    let Ok(value) = HeaderValue::from_bytes(authorization) else { return };
    let Ok(request) = Request::get(target).header("authorization", value).header("x-user", "forged").body(())
    else {
        return;
    };
    let mut head = request.into_parts().0;
    let Ok(passed) = RULES.check(&head, &mut Cache::default(), NOW) else { return };
    if let Some(edits) = passed.edits {
        edits.apply(&mut head);
    }
    assert!(!head.headers.contains_key("x-user"), "the one token has no such claim");
    if passed.claims.is_some() {
        let said = String::from_utf8_lossy(data);
        assert!(said.contains(TOKEN), "{said}");
    }
}

/// An id has one spelling, and its parts are what it is put together from.
pub fn spiffe_id(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(id) = SpiffeId::parse(text) else { return };
    assert_eq!(id.as_str(), text);
    assert_eq!(format!("spiffe://{}/{}", id.trust_domain(), id.path()), text);
    assert_eq!(id.namespace().is_some(), id.service_account().is_some());
    if let (Some(namespace), Some(account)) = (id.namespace(), id.service_account()) {
        assert_eq!(SpiffeId::new(id.trust_domain(), namespace, account), id);
    }
    assert!(text.bytes().all(|byte| byte.is_ascii_graphic() && !b",;=\"\\%?#@".contains(&byte)), "{text}");
}

/// Whatever a certificate says, it is read or refused, and names one identity or none.
pub fn certificate(data: &[u8]) {
    let certificate = CertificateDer::from(data);
    let facts = x509::facts(&certificate);
    let peer = peer_of(std::slice::from_ref(&certificate));
    if let (Ok(facts), Ok(peer)) = (&facts, &peer) {
        assert_eq!(facts.uris, [peer.as_str()]);
        assert!(!facts.authority);
    }
    assert!(facts.is_ok() || peer.is_err());
    let by = SpiffeId::new("td", "a", "b");
    if let Ok(peer) = peer
        && let Some(value) = client_cert::value(&by, &peer, &certificate)
    {
        one_element(value.to_str().unwrap_or_default(), by.as_str(), None, peer.as_str());
    }
}

/// Whatever a peer says of itself, it is called nothing that its certificate doesn't allow, and what is told of that on is read
/// as it was meant. Lines of fields.
pub fn baggage(data: &[u8]) {
    let headers = headers(data);
    let said = baggage::read(&headers);
    let peer = SpiffeId::new("cluster.local", "shop", "web");
    let Some(told) = said.clone().workload(&peer) else { return };
    assert_eq!((&*told.name.namespace, &*told.service_account), ("shop", "web"));
    assert!(said.namespace.is_none_or(|said| said == "shop"));
    let value = baggage::value(&told, "cluster", &Locality::default()).expect("names");
    let again = baggage::read(&HeaderMap::from_iter([(baggage::BAGGAGE, value)]));
    assert_eq!(again.workload.as_deref(), Some(&*told.workload_name));
    assert_eq!(again.service.as_deref(), Some(&*told.canonical_name));
    assert_eq!(again.version.as_deref(), Some(&*told.canonical_revision));
    assert_eq!(again.workload(&peer).map(|again| again.name), Some(told.name));
}

/// Nothing that a client says under the header's name stays, and nothing else goes; and no subject makes more of an
/// element than its subject. A subject and, after a NUL, lines of fields.
pub fn xfcc(data: &[u8]) {
    let [subject, lines] = parts(data, 0);
    let mut headers = headers(lines);
    let is_it = |name: &HeaderName| name.as_str().replace('_', "-") == "x-forwarded-client-cert";
    let others = headers.iter().filter(|(name, _)| !is_it(name)).count();
    client_cert::remove(&mut headers);
    assert_eq!(headers.len(), others);
    assert!(headers.keys().all(|name| !client_cert::is_name(name.as_str().as_bytes())));

    let Ok(subject) = std::str::from_utf8(subject) else { return };
    let (by, uri) = ("spiffe://td/ns/a/sa/b", "spiffe://td/ns/c/sa/d");
    let text = Element { by, hash: "00", subject, uri }.to_string();
    one_element(&text, by, Some(subject), uri);
}

fn one_element(text: &str, by: &str, subject: Option<&str>, uri: &str) {
    let elements = element::parse(text).unwrap_or_else(|| panic!("{text} is no element"));
    let [element] = &elements[..] else { panic!("{text} is more than one element") };
    let keys: Vec<_> = element.iter().map(|(key, _)| key.as_str()).collect();
    assert_eq!(keys, ["by", "hash", "subject", "uri"], "{text}");
    assert_eq!((element[0].1.as_str(), element[3].1.as_str()), (by, uri));
    if let Some(subject) = subject.filter(|subject| !subject.contains('\\')) {
        assert_eq!(element[2].1, subject);
    }
}
