//! Requests as they may come from anybody: what is wrong is found, and what is signed has the key and nothing else of them.

use std::time::Duration;

use rcgen::string::Ia5String;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, SanType};

use super::super::judge::{Refusal, read};
use crate::identity::proto::CertificateRequest;

const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";
const DB: &str = "spiffe://cluster.local/ns/shop/sa/db";
const HOUR: Duration = Duration::from_secs(3600);

fn uri(text: &str) -> SanType {
    SanType::URI(Ia5String::try_from(text).unwrap())
}

fn csr_with(key: &KeyPair, names: Vec<SanType>) -> String {
    let mut params = CertificateParams::default();
    params.subject_alt_names = names;
    params.distinguished_name.push(DnType::CommonName, "admin");
    params.serialize_request(key).unwrap().pem().unwrap()
}

fn csr(names: Vec<SanType>) -> String {
    csr_with(&KeyPair::generate().unwrap(), names)
}

fn label(request: &CertificateRequest) -> &'static str {
    match read(request, HOUR) {
        Ok(_) => "fine",
        Err(refusal) => refusal.label(),
    }
}

#[test]
fn who_is_meant_is_said_once_or_twice_alike() {
    let dns = SanType::DnsName(Ia5String::try_from("web").unwrap());
    for (identity, names, wanted) in [
        (WEB, vec![uri(WEB)], "fine"),
        (WEB, vec![], "fine"),
        (WEB, vec![uri(DB)], "bad_request"),
        (WEB, vec![uri(WEB), uri(DB)], "bad_request"),
        (WEB, vec![uri(WEB), uri(WEB)], "bad_request"),
        (WEB, vec![uri(WEB), dns.clone()], "bad_request"),
        (WEB, vec![dns], "bad_request"),
        ("https://x", vec![], "bad_request"),
        ("", vec![], "bad_request"),
    ] {
        assert_eq!(
            label(&CertificateRequest::new(csr(names.clone()), 60, identity)),
            wanted,
            "{identity} {names:?}"
        );
    }
    let alone = |names| CertificateRequest { csr: csr(names), validity_duration: 60, metadata: None };
    assert_eq!(label(&alone(vec![uri(WEB)])), "fine");
    assert_eq!(read(&alone(vec![]), HOUR).unwrap_err(), Refusal::NoIdentity);
    assert_eq!(label(&alone(vec![uri(WEB), uri(DB)])), "bad_request");
}

#[test]
fn only_p256_keys_are_signed_for() {
    for (algorithm, wanted) in [
        (&rcgen::PKCS_ECDSA_P256_SHA256, "fine"),
        (&rcgen::PKCS_ECDSA_P384_SHA384, "bad_key"),
        (&rcgen::PKCS_ED25519, "bad_key"),
    ] {
        let key = KeyPair::generate_for(algorithm).unwrap();
        assert_eq!(
            label(&CertificateRequest::new(csr_with(&key, vec![uri(WEB)]), 60, WEB)),
            wanted,
            "{algorithm:?}"
        );
    }
}

#[test]
fn whoever_lacks_the_key_is_found_out() {
    use x509_cert::der::pem::{LineEnding, decode_vec, encode_string};
    let (_, der) = decode_vec(csr(vec![uri(WEB)]).as_bytes()).unwrap();
    let request = |der: &[u8]| {
        let text = encode_string("CERTIFICATE REQUEST", LineEnding::LF, der).unwrap();
        CertificateRequest::new(text, 60, WEB)
    };
    assert_eq!(label(&request(&der)), "fine");
    let mut forged = der.clone();
    let last = forged.len() - 1;
    forged[last] ^= 1;
    assert_eq!(label(&request(&forged)), "bad_signature");
    // Another's key under one's own signature.
    let (_, other) = decode_vec(csr(vec![uri(WEB)]).as_bytes()).unwrap();
    let point = other.windows(2).position(|pair| pair == [0x00, 0x04]).unwrap() + 2;
    let mut stolen = der.clone();
    let at = der.windows(2).position(|pair| pair == [0x00, 0x04]).unwrap() + 2;
    stolen[at..at + 64].copy_from_slice(&other[point..point + 64]);
    assert_eq!(label(&request(&stolen)), "bad_signature");
}

#[test]
fn what_is_no_request_is_none() {
    let certificate = CertificateParams::default().self_signed(&KeyPair::generate().unwrap()).unwrap().pem();
    let good = csr(vec![uri(WEB)]);
    for text in ["", "hello", "-----BEGIN CERTIFICATE REQUEST-----\n", &certificate, &good[..good.len() / 2]]
    {
        assert_eq!(label(&CertificateRequest::new(text.to_owned(), 60, WEB)), "bad_request", "{text}");
    }
}

#[test]
fn an_authority_that_is_asked_for_is_not_made() {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.subject_alt_names = vec![uri(WEB)];
    // Not every library lets one ask; one that does gets a certificate without it, since only the key is taken over.
    if let Ok(text) = params.serialize_request(&KeyPair::generate().unwrap()).and_then(|csr| csr.pem()) {
        assert_eq!(label(&CertificateRequest::new(text, 60, WEB)), "fine");
    }
}

#[test]
fn lives_are_within_bounds() {
    for (asked, wanted) in [(0, 3600), (-5, 3600), (1, 10), (60, 60), (3600, 3600), (i64::MAX, 3600)] {
        let wanted = Duration::from_secs(wanted);
        let request = CertificateRequest::new(csr(vec![]), asked, WEB);
        assert_eq!(read(&request, HOUR).unwrap().lifetime, wanted, "{asked}");
    }
}
