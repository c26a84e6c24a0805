//! BackendTLSPolicy: endpoints that speak TLS behind applications that don't, and what becomes of those that don't prove who
//! they are.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::fs;

use anyhow::{Result, ensure};
use mesh_tests::lab::{Object, Running, eventually};
use mesh_tests::peers::nginx;
use mesh_tests::pki::{Authority, Signed};
use mesh_tests::shop::{NAMESPACE, Service, Shop};
use mesh_tests::sockets::Host;
use mesh_tests::{SOON, need_shop, shared_shop};
use serde_json::{Value, json};

shared_shop!("backendtls");

fn policy(name: &str, section: Option<&str>, validation: Value) -> Object {
    let mut target = json!({"group": "", "kind": "Service", "name": name});
    if let Some(section) = section {
        target["sectionName"] = section.into();
    }
    Object(json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "BackendTLSPolicy",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"targetRefs": [target], "validation": validation},
    }))
}

fn by_map(hostname: &str, map: &str) -> Value {
    json!({"hostname": hostname, "caCertificateRefs": [{"group": "", "kind": "ConfigMap", "name": map}]})
}

fn config_map(name: &str, authority: &Authority) -> Object {
    let pem = fs::read_to_string(authority.file()).unwrap();
    let metadata = json!({"name": name, "namespace": NAMESPACE});
    Object(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"ca.crt": pem}}))
}

/// nginx over TLS on a pod that isn't captured, which tells what it was asked for.
fn server(shop: &Shop, host: &Host, signed: &Signed) -> (Running, u16) {
    let port = shop.port();
    let conf = format!(
        "server {{ listen {port} ssl http2; ssl_certificate {}; ssl_certificate_key {}; \
         location / {{ return 200 \"sni=$ssl_server_name alpn=$ssl_alpn_protocol\"; }} }}",
        signed.certificate.display(),
        signed.key.display(),
    );
    (nginx(&shop.topology, host, port, &conf).unwrap(), port)
}

fn text(shop: &Shop, service: &Service) -> Result<String> {
    let answer = shop.get(service, "/")?;
    ensure!(answer.status() == 200, "{}", answer.head);
    Ok(answer.text())
}

/// Until a request is answered with a status.
fn answers(shop: &Shop, service: &Service, status: u16) {
    eventually(SOON, || {
        let answer = shop.get(service, "/until")?;
        ensure!(answer.status() == status, "{}", answer.head);
        Ok(())
    })
    .unwrap();
}

fn write(shop: &Shop, name: &str, objects: impl IntoIterator<Item = Object>) {
    shop.topology.mesh().write(&format!("tls-{name}.yaml"), objects).unwrap();
}

#[test]
fn endpoints_are_spoken_to_over_tls_as_long_as_they_prove_who_they_are() {
    let shop = need_shop!();
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new(dir.path(), "ca").unwrap();
    let signed = authority.issue("tills", &["tills.test"]).unwrap();
    let (_nginx, port) = server(shop, &shop.outside, &signed);
    let service = shop.expose("tills", "http", port, &[&shop.outside]).unwrap();
    // Policy and ConfigMap, in this order: until both are there nothing is sent.
    write(shop, "tills", [policy("tills", None, by_map("tills.test", "tills-ca"))]);
    answers(shop, &service, 503);
    let line =
        shop.log_shows("/until", |line| line["response_code_details"] == "tls_not_originated").unwrap();
    assert_eq!(line["response_flags"], "UF", "{line}");
    let right =
        || [policy("tills", None, by_map("tills.test", "tills-ca")), config_map("tills-ca", &authority)];
    write(shop, "tills", right());
    answers(shop, &service, 200);
    assert_eq!(text(shop, &service).unwrap(), "sni=tills.test alpn=http/1.1");
    let told = shop.agent.cli(&["get", "policies"]).unwrap().success().unwrap().stdout;
    let row = told.lines().find(|line| line.contains("BackendTLSPolicy") && line.contains("tills"));
    assert!(row.is_some_and(|row| row.contains("attached")), "{told}");
    let told = shop.agent.cli(&["describe", "service", "shop/tills"]).unwrap().success().unwrap().stdout;
    assert!(
        told.contains("originated, for tills.test") && told.contains("BackendTLSPolicy shop/tills"),
        "{told}"
    );
    // Another authority, then another name.
    let stranger = Authority::new(dir.path(), "stranger").unwrap();
    let wrong = [policy("tills", None, by_map("tills.test", "tills-ca")), config_map("tills-ca", &stranger)];
    write(shop, "tills", wrong);
    answers(shop, &service, 503);
    write(shop, "tills", right());
    answers(shop, &service, 200);
    let renamed =
        [policy("tills", None, by_map("other.test", "tills-ca")), config_map("tills-ca", &authority)];
    write(shop, "tills", renamed);
    answers(shop, &service, 503);
    let named =
        |line: &str| line.contains("as the rule asks for it") && line.contains("BackendTLSPolicy shop/tills");
    assert!(shop.agent.log().lines().any(named), "{}", shop.log_tail());
    // By one of several names, the host name being for SNI alone.
    let mut names = by_map("other.test", "tills-ca");
    names["subjectAltNames"] =
        json!([{"type": "URI", "uri": "spiffe://x/y"}, {"type": "Hostname", "hostname": "tills.test"}]);
    write(shop, "tills", [policy("tills", None, names), config_map("tills-ca", &authority)]);
    answers(shop, &service, 200);
    assert!(text(shop, &service).unwrap().starts_with("sni=other.test "));
    // Without the policy an HTTPS port is asked in plain text, which nginx answers with 400.
    write(shop, "tills", []);
    answers(shop, &service, 400);
}

#[test]
fn one_of_a_port_is_for_that_port_and_bytes_are_wrapped_too() {
    let shop = need_shop!();
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new(dir.path(), "ca").unwrap();
    let signed = authority.issue("safes", &["safes.test"]).unwrap();
    let (_nginx, port) = server(shop, &shop.outside, &signed);
    let service = shop.expose("safes", "tcp", port, &[&shop.outside]).unwrap();
    write(
        shop,
        "safes",
        [policy("safes", Some("tcp"), by_map("safes.test", "safes-ca")), config_map("safes-ca", &authority)],
    );
    eventually(SOON, || {
        let got = text(shop, &service)?;
        ensure!(got == "sni=safes.test alpn=", "{got}");
        Ok(())
    })
    .unwrap();
    write(
        shop,
        "safes",
        [policy("safes", Some("none"), by_map("safes.test", "safes-ca")), config_map("safes-ca", &authority)],
    );
    answers(shop, &service, 400);
    let told = shop.agent.cli(&["analyze"]).unwrap().stdout;
    assert!(told.contains("MESH0133") && told.contains("BackendTLSPolicy shop/safes"), "{told}");
}
