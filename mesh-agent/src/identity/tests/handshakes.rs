//! Each thing that can be wrong with a certificate is refused, by name, by whichever side sees it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::crypto::aws_lc_rs;
use rustls::version::{TLS12, TLS13};
use rustls::{AlertDescription, ClientConfig, Error, NamedGroup};

use super::super::authority::Life;
use super::super::testing::{Root, today, trust};
use super::super::verify::Clients;
use super::super::{Refusal, SpiffeId, Svid, Trust};
use super::{Side, meet};
use crate::model::ObjectName;

const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";
const CART: &str = "spiffe://cluster.local/ns/shop/sa/cart";

fn id(text: &str) -> SpiffeId {
    SpiffeId::parse(text).unwrap()
}

fn ago(from: u64, to: i64) -> Life {
    let now = SystemTime::now();
    let to = Duration::from_secs(to.unsigned_abs());
    Life { not_before: now - Duration::from_secs(from), not_after: now - to }
}

fn in_an_hour() -> Life {
    let now = SystemTime::now();
    Life { not_before: now + Duration::from_secs(3600), not_after: now + Duration::from_secs(7200) }
}

#[test]
fn two_workloads_meet_and_each_knows_the_other() {
    let root = Root::new();
    let identities = root.identities();
    let (web, cart) =
        (identities.of(&ObjectName::new("shop", "web")), identities.of(&ObjectName::new("shop", "cart")));
    let met = meet(web.client(cart.id()).unwrap(), cart.server().unwrap()).unwrap();
    assert_eq!((met.client.as_str(), met.server.as_str()), (WEB, CART));
    assert_eq!(met.group, Some(NamedGroup::X25519MLKEM768));
    assert_eq!(met.alpn.as_deref(), Some(&b"mesh-h2"[..]));
    assert_eq!(met.tickets, 0, "nothing can be resumed");
    assert!(!web.client(cart.id()).unwrap().enable_early_data);
    assert_eq!(cart.server().unwrap().max_early_data_size, 0);
}

/// What a bad certificate looks like, and what it is refused as.
struct Case {
    what: &'static str,
    uris: Vec<&'static str>,
    life: Life,
    other_root: bool,
    refusal: Refusal,
}

fn cases() -> Vec<Case> {
    let case = |what, uris: &[&'static str], refusal| Case {
        what,
        uris: uris.to_vec(),
        life: today(),
        other_root: false,
        refusal,
    };
    vec![
        Case { other_root: true, ..case("wrong root", &[CART], Refusal::UnknownRoot) },
        Case { life: ago(7200, 3600), ..case("expired", &[CART], Refusal::Expired) },
        Case { life: in_an_hour(), ..case("not yet valid", &[CART], Refusal::NotYetValid) },
        case("wrong trust domain", &["spiffe://other.org/ns/shop/sa/cart"], Refusal::TrustDomain),
        case("no URI", &[], Refusal::NoIdentity),
        case("two URIs", &[CART, WEB], Refusal::NoIdentity),
        case("the right URI twice", &[CART, CART], Refusal::NoIdentity),
        case("another kind of URI", &["https://cluster.local/ns/shop/sa/cart"], Refusal::NoIdentity),
        case(
            "a URI that only looks like it",
            &["spiffe://cluster.local/ns/shop/sa/cart/"],
            Refusal::NoIdentity,
        ),
    ]
}

#[test]
fn a_server_with_a_bad_certificate_is_refused() {
    let (root, stranger) = (Root::new(), Root::new());
    let trust = trust("cluster.local", &[], &[&root]);
    let client = root.svid(&[WEB], today(), &trust);
    for case in cases() {
        let from = if case.other_root { &stranger } else { &root };
        let server = from.svid(&case.uris, case.life, &trust);
        refused_by_client(&client, &server, case.what, case.refusal);
    }
    // Another pod's certificate, of the same node or not.
    let other = root.svid(&["spiffe://cluster.local/ns/shop/sa/db"], today(), &trust);
    refused_by_client(&client, &other, "wrong URI", Refusal::OtherIdentity);
}

fn refused_by_client(client: &Svid, server: &Svid, what: &str, refusal: Refusal) {
    match meet(client.client(&id(CART)), server.server()) {
        Err(Side::Client(error)) => assert_eq!(Refusal::of(&error), refusal, "{what}: {error}"),
        other => panic!("{what}: {other:?}"),
    }
}

#[test]
fn a_client_with_a_bad_certificate_is_refused() {
    let (root, stranger) = (Root::new(), Root::new());
    let trust = trust("cluster.local", &[], &[&root]);
    let server = root.svid(&[CART], today(), &trust);
    for case in cases() {
        let from = if case.other_root { &stranger } else { &root };
        let client = from.svid(&case.uris, case.life, &trust);
        match meet(client.client(&id(CART)), server.server()) {
            Err(Side::Server(error)) => {
                assert_eq!(Refusal::of(&error), case.refusal, "{}: {error}", case.what)
            }
            other => panic!("{}: {other:?}", case.what),
        }
    }
}

#[test]
fn an_authority_is_nobody() {
    let root = Root::new();
    let trust = trust("cluster.local", &[], &[&root]);
    let error = super::super::peer_of(std::slice::from_ref(&root.certificate)).unwrap_err();
    assert_eq!(error, super::super::PeerError::Authority);
    drop(trust);
}

/// A client that trusts every server: what it lacks is for the server to find.
fn bare_client(root: &Root, versions: &[&'static rustls::SupportedProtocolVersion]) -> Arc<ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(root.certificate.clone()).unwrap();
    let provider = Arc::new(aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(config)
}

#[test]
fn a_client_without_a_certificate_or_with_tls_1_2_is_refused() {
    let root = Root::new();
    let trust = trust("cluster.local", &[], &[&root]);
    let server = root.svid(&[CART], today(), &trust);
    let mut without = ClientConfig::clone(&root.svid(&[WEB], today(), &trust).client(&id(CART)));
    without.client_auth_cert_resolver = bare_client(&root, &[&TLS13]).client_auth_cert_resolver.clone();
    match meet(Arc::new(without), server.server()) {
        Err(Side::Server(error)) => assert_eq!(Refusal::of(&error), Refusal::NoCertificate),
        other => panic!("{other:?}"),
    }
    match meet(bare_client(&root, &[&TLS12]), server.server()) {
        Err(Side::Server(error)) => assert_eq!(Refusal::of(&error), Refusal::Incompatible, "{error}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn old_and_new_root_are_trusted_together_and_the_old_one_no_longer_than_it_is_there() {
    let (old, new) = (Root::new(), Root::new());
    let trust = trust("cluster.local", &[], &[&old]);
    let (client, server) = (old.svid(&[WEB], today(), &trust), old.svid(&[CART], today(), &trust));
    let (new_client, new_server) = (new.svid(&[WEB], today(), &trust), new.svid(&[CART], today(), &trust));
    let all = |trust: &Trust| {
        let roots = trust.bundle().certificates.len();
        let mut met = Vec::new();
        for client in [&client, &new_client] {
            for server in [&server, &new_server] {
                met.push(meet(client.client(&id(CART)), server.server()).is_ok());
            }
        }
        (roots, met)
    };
    assert_eq!(all(&trust), (1, vec![true, false, false, false]));
    assert!(trust.set_roots(&[old.certificate.clone(), new.certificate.clone()]).unwrap());
    assert_eq!(all(&trust), (2, vec![true; 4]));
    assert!(trust.set_roots(std::slice::from_ref(&new.certificate)).unwrap());
    assert_eq!(all(&trust), (1, vec![false, false, false, true]));
    assert!(trust.set_roots(&["nonsense".as_bytes().to_vec().into()]).is_err());
    assert_eq!(all(&trust), (1, vec![false, false, false, true]));
}

#[test]
fn aliases_are_the_own_trust_domain() {
    let root = Root::new();
    let trust = trust("cluster.local", &["old.example"], &[&root]);
    let cart = "spiffe://old.example/ns/shop/sa/cart";
    let web = "spiffe://old.example/ns/shop/sa/web";
    for (client, server, expected, meets) in [
        (web, CART, CART, true),
        (WEB, cart, CART, true),
        (WEB, CART, cart, true),
        (web, cart, cart, true),
        (WEB, cart, "spiffe://old.example/ns/shop/sa/db", false),
        (WEB, CART, "spiffe://third.example/ns/shop/sa/cart", false),
    ] {
        let (client, server) = (root.svid(&[client], today(), &trust), root.svid(&[server], today(), &trust));
        let met = meet(client.client(&id(expected)), server.server());
        assert_eq!(met.is_ok(), meets, "{expected}: {met:?}");
    }
}

#[test]
fn without_roots_nobody_is_believed() {
    let root = Root::new();
    let believes = trust("cluster.local", &[], &[&root]);
    let nobody = trust("cluster.local", &[], &[]);
    let (client, server) = (root.svid(&[WEB], today(), &believes), root.svid(&[CART], today(), &nobody));
    assert!(matches!(meet(client.client(&id(CART)), server.server()), Err(Side::Server(_))));
    let (client, server) = (root.svid(&[WEB], today(), &nobody), root.svid(&[CART], today(), &believes));
    assert!(matches!(meet(client.client(&id(CART)), server.server()), Err(Side::Client(_))));
}

#[test]
fn the_peer_is_told_that_it_is_refused_and_nothing_more() {
    let root = Root::new();
    let trust = trust("cluster.local", &[], &[&root]);
    let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms;
    let verifier = Clients { trust, algorithms };
    let (chain, _) = root.chain(&["spiffe://other.org/ns/a/sa/b"], today());
    let now = rustls::pki_types::UnixTime::now();
    let error =
        rustls::server::danger::ClientCertVerifier::verify_client_cert(&verifier, &chain[0], &[], now);
    let Error::InvalidCertificate(error) = error.unwrap_err() else { panic!("another error") };
    assert_eq!(AlertDescription::from(error), AlertDescription::CertificateUnknown);
}
