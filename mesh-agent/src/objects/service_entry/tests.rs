//! What a ServiceEntry may say by itself, as Istio's validation has it.
#![allow(clippy::unwrap_used, clippy::panic)]

use super::*;

fn parse(spec: &str) -> Result<ServiceEntry, String> {
    let text = format!("metadata: {{name: a}}\nspec: {{{spec}}}");
    let entry: ServiceEntry = serde_yaml_ng::from_str(&text).map_err(|error| error.to_string())?;
    entry.validate().map_err(|error| format!("{}: {}", error.field, error.message))?;
    Ok(entry)
}

const PORT: &str = "ports: [{number: 80, name: http}]";

#[test]
fn a_valid_one_is_read() {
    let entry = parse(&format!(
        "hosts: [a.example.com, '*.example.org'], addresses: [192.0.2.0/24], {PORT}, location: MESH_INTERNAL, exportTo: ['.']"
    ))
    .unwrap();
    assert_eq!((entry.spec.resolution, entry.spec.location), (Resolution::None, Location::Internal));
    assert_eq!(entry.spec.hosts.len(), 2);
    let named = parse(&format!(
        "hosts: ['*.example.com'], addresses: [192.0.2.1], resolution: DNS, {PORT}, endpoints: [{{address: A.example.net}}]"
    ))
    .unwrap();
    assert_eq!(named.names("*.example.com"), BTreeSet::from(["a.example.net".to_owned()]));
}

#[test]
fn what_is_not_valid_is_refused_at_its_field() {
    fn check(spec: &str, want: &str) {
        let error = parse(spec).unwrap_err();
        assert!(error.contains(want), "{spec}: {error}");
    }
    check(&format!("hosts: [], {PORT}"), "spec.hosts");
    check(&format!("hosts: ['*'], {PORT}"), "spec.hosts[0]");
    check(&format!("hosts: ['a b'], {PORT}"), "spec.hosts[0]");
    check(&format!("hosts: [a.example.com, A.example.com], {PORT}"), "spec.hosts[1]");
    check(&format!("hosts: ['*.example.com'], resolution: DNS, {PORT}"), "a wildcard can't be resolved");
    check("hosts: [a.example.com]", "spec.ports");
    check(
        "hosts: [a.example.com], ports: [{number: 80, name: a}, {number: 80, name: b}]",
        "spec.ports[1].number",
    );
    check(
        "hosts: [a.example.com], ports: [{number: 80, name: a}, {number: 81, name: a}]",
        "spec.ports[1].name",
    );
    check("hosts: [a.example.com], ports: [{number: 0, name: a}]", "isn't a port");
    check(&format!("hosts: [a.example.com], addresses: [localhost], {PORT}"), "isn't an address");
    check(&format!("hosts: [a.example.com], addresses: [127.0.0.1], {PORT}"), "isn't an address");
    check(
        &format!("hosts: [a.example.com], addresses: [192.0.2.0/24], resolution: DNS, {PORT}"),
        "spec.addresses",
    );
    check(&format!("hosts: [a.example.com], {PORT}, endpoints: [{{address: 192.0.2.1}}]"), "spec.endpoints");
    let fixed = format!("hosts: [a.example.com], resolution: STATIC, {PORT}, endpoints");
    check(&format!("{fixed}: [{{address: b.example.com}}]"), "spec.endpoints[0].address");
    check(&format!("{fixed}: [{{address: 'unix:///run/a'}}]"), "Unix socket");
    check(&format!("{fixed}: [{{address: 192.0.2.1, ports: {{https: 1}}}}]"), "spec.endpoints[0].ports");
    let two = "endpoints: [{address: a.example.net}, {address: b.example.net}]";
    check(
        &format!("hosts: [a.example.com], resolution: DNS_ROUND_ROBIN, {PORT}, {two}"),
        "one endpoint at most",
    );
    check(&format!("hosts: [a.example.com], resolution: SOMEHOW, {PORT}"), "SOMEHOW");
}
