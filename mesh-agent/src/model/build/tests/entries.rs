//! What ServiceEntries make: services of outside hosts, found by address, whose names' addresses come and go.

use super::*;
use crate::names::{Addresses, Answer};
use crate::tls::Trust;

fn entry(name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{{spec}}}\n"
    )
}

const PORT: &str = "ports: [{number: 80, name: http, protocol: HTTP}]";

fn answer(name: &str, newest: &[&str], known: &[&str]) -> Answer {
    let ips = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
    Answer { name: name.to_owned(), result: Ok(Addresses { newest: ips(newest), known: ips(known) }) }
}

fn target(snapshot: &Snapshot, addr: &str, namespace: &str) -> Target {
    snapshot.resolve_for(OrigDst::from(addr.parse::<std::net::SocketAddr>().unwrap()), namespace)
}

fn is_unknown(snapshot: &Snapshot, addr: &str) -> bool {
    matches!(target(snapshot, addr, "shop"), Target::Unknown)
}

fn learn(world: &mut World, answer: Answer) -> Arc<Snapshot> {
    world.builder.learn(answer);
    world.builder.apply(&Changes::default())
}

#[test]
fn static_endpoints_are_behind_the_addresses_or_are_dialled_themselves() {
    let spec = "hosts: [api.example.com], addresses: [192.0.2.10, '2001:db8::10'], resolution: STATIC, ports: [{number: 80, name: http, \
         protocol: HTTP, targetPort: 8080}, {number: 443, name: tls, protocol: TLS}], endpoints: [{address: 198.51.100.1}, \
         {address: 198.51.100.2, ports: {http: 9090}, locality: eu/a}]";
    let (world, snapshot) = World::new(&entry("api", spec));
    assert_eq!(world.warnings(), Vec::<String>::new());
    let port = vip(&snapshot, "192.0.2.10:80");
    assert_eq!(addresses(&port.endpoints.available), ["198.51.100.1:8080", "198.51.100.2:9090"]);
    assert_eq!((port.protocol, &*port.service.host), (AppProtocol::Http, "api.example.com"));
    assert_eq!(port.service.name, ObjectName::new("shop", "api.example.com"));
    assert_eq!(port.endpoints.all[1].zone.as_deref(), Some("a"));
    let tls = vip(&snapshot, "192.0.2.10:443");
    assert_eq!((tls.protocol, addresses(&tls.endpoints.all).len()), (AppProtocol::Tls, 2));
    assert!(Arc::ptr_eq(&vip(&snapshot, "[2001:db8::10]:80").service, &port.service));
    assert!(is_unknown(&snapshot, "198.51.100.1:80"), "what isn't among the addresses isn't dialled");
    let own = format!(
        "hosts: [api.example.com], resolution: STATIC, {PORT}, endpoints: [{{address: 198.51.100.1}}]"
    );
    let (_world, snapshot) = World::new(&entry("api", &own));
    assert_eq!(addresses(&vip(&snapshot, "198.51.100.1:80").endpoints.all), ["198.51.100.1:80"]);
}

#[test]
fn weights_are_shares_of_the_choices() {
    let of = |first: u32, second: u32| {
        let spec = format!(
            "hosts: [api.example.com], addresses: [192.0.2.10], resolution: STATIC, {PORT}, endpoints: [{{address: 198.51.100.1, \
             weight: {first}}}, {{address: 198.51.100.2, weight: {second}}}, {{address: 198.51.100.3}}]"
        );
        let (world, snapshot) = World::new(&entry("api", &spec));
        assert_eq!(world.warnings(), Vec::<String>::new());
        let available = addresses(&vip(&snapshot, "192.0.2.10:80").endpoints.available);
        ["198.51.100.1:80", "198.51.100.2:80", "198.51.100.3:80"]
            .map(|addr| available.iter().filter(|a| *a == addr).count())
    };
    assert_eq!(of(0, 1), [1, 1, 1]);
    assert_eq!(of(3, 2), [3, 2, 1]);
    let [many, few, one] = of(4_000_000_000, 40_000_000);
    assert!(many > 900 && (5..20).contains(&few) && one == 1, "{many} {few} {one}");
}

#[test]
fn names_are_followed_and_only_their_services_are_made_again() {
    let text = [
        entry("api", &format!("hosts: [API.example.com], resolution: DNS, {PORT}")),
        entry("other", &format!("hosts: [other.example.com], resolution: DNS, {PORT}")),
        entry("first", &format!("hosts: [rr.example.com], resolution: DNS_ROUND_ROBIN, {PORT}")),
    ];
    let (mut world, snapshot) = World::new(&text.concat());
    let names: Vec<_> = world.builder.wanted_names().into_iter().collect();
    assert_eq!(names, ["api.example.com", "other.example.com", "rr.example.com"]);
    assert!(is_unknown(&snapshot, "198.51.100.1:80"));
    learn(&mut world, answer("other.example.com", &["203.0.113.1"], &["203.0.113.1"]));
    let before = learn(&mut world, answer("api.example.com", &["198.51.100.1"], &["198.51.100.1"]));
    assert_eq!(addresses(&vip(&before, "198.51.100.1:80").endpoints.available), ["198.51.100.1:80"]);
    let known = ["198.51.100.1", "198.51.100.2"];
    let after = learn(&mut world, answer("api.example.com", &["198.51.100.2"], &known));
    assert!(after.generation > before.generation);
    for dialled in ["198.51.100.1:80", "198.51.100.2:80"] {
        // Who got the former answer still means this host, and is led to where it is now.
        assert_eq!(addresses(&vip(&after, dialled).endpoints.available), ["198.51.100.2:80"], "{dialled}");
    }
    assert!(Arc::ptr_eq(&vip(&after, "203.0.113.1:80"), &vip(&before, "203.0.113.1:80")));
    let same = learn(&mut world, answer("api.example.com", &["198.51.100.2"], &known));
    assert_eq!(same.generation, after.generation);
    let first =
        learn(&mut world, answer("rr.example.com", &["192.0.2.2", "192.0.2.1"], &["192.0.2.1", "192.0.2.2"]));
    assert_eq!(addresses(&vip(&first, "192.0.2.1:80").endpoints.available), ["192.0.2.2:80"]);
}

#[test]
fn a_name_that_fails_keeps_its_last_answer_and_is_told() {
    let spec = format!("hosts: [api.example.com], resolution: DNS, {PORT}");
    let (mut world, _) = World::new(&entry("api", &spec));
    let failed = || Answer { name: "api.example.com".into(), result: Err("no server answers".into()) };
    learn(&mut world, failed());
    let told = world.warnings();
    assert!(
        told.len() == 1 && told[0].contains("MESH0142") && told[0].contains("no endpoint until"),
        "{told:?}"
    );
    learn(&mut world, answer("api.example.com", &["198.51.100.1"], &["198.51.100.1"]));
    assert_eq!(world.warnings(), Vec::<String>::new());
    let snapshot = learn(&mut world, failed());
    assert_eq!(addresses(&vip(&snapshot, "198.51.100.1:80").endpoints.available), ["198.51.100.1:80"]);
    let told = world.warnings();
    assert!(told.len() == 1 && told[0].contains("last good answer stays"), "{told:?}");
    let snapshot = world.write("");
    assert!(is_unknown(&snapshot, "198.51.100.1:80") && world.builder.wanted_names().is_empty());
}

#[test]
fn endpoints_by_name_are_behind_the_hosts_own_address() {
    let spec = format!(
        "hosts: [api.example.com], resolution: DNS, {PORT}, endpoints: [{{address: a.example.net}}, {{address: 192.0.2.9}}]"
    );
    let (mut world, _) = World::new(&entry("api", &spec));
    assert_eq!(world.builder.wanted_names().len(), 2);
    learn(&mut world, answer("a.example.net", &["192.0.2.1"], &["192.0.2.1"]));
    let snapshot = learn(&mut world, answer("api.example.com", &["198.51.100.1"], &["198.51.100.1"]));
    let port = vip(&snapshot, "198.51.100.1:80");
    assert_eq!(addresses(&port.endpoints.available), ["192.0.2.1:80", "192.0.2.9:80"]);
    let snapshot = world.write(&entry("api", &format!("{spec}, addresses: [240.240.0.1]")));
    assert_eq!(
        world.builder.wanted_names().into_iter().collect::<Vec<_>>(),
        ["a.example.net"],
        "{:?}",
        world.warnings()
    );
    assert_eq!(
        addresses(&vip(&snapshot, "240.240.0.1:80").endpoints.available),
        ["192.0.2.1:80", "192.0.2.9:80"]
    );
}

#[test]
fn ranges_go_where_they_were_dialled_and_the_narrowest_counts() {
    let spec = |host: &str, range: &str| format!("hosts: ['{host}'], addresses: [{range}], {PORT}");
    let text = [
        entry("wide", &spec("*.example.com", "198.51.100.0/24, '2001:db8::/32'")),
        entry("narrow", &spec("narrow.example.com", "198.51.100.128/25")),
        pod("web", "198.51.100.200", ""),
    ];
    let (mut world, snapshot) = World::new(&text.concat());
    assert_eq!(world.warnings(), Vec::<String>::new());
    let host = |addr: &str| vip(&snapshot, addr).service.host.clone();
    assert_eq!(host("198.51.100.7:80"), "*.example.com");
    assert_eq!(host("198.51.100.130:80"), "narrow.example.com");
    assert_eq!(host("[2001:db8::7]:80"), "*.example.com");
    assert!(vip(&snapshot, "198.51.100.7:80").is_original());
    assert!(is_unknown(&snapshot, "198.51.101.7:80") && is_unknown(&snapshot, "198.51.100.7:81"));
    assert!(matches!(target(&snapshot, "198.51.100.200:80", "shop"), Target::Workload(..)), "a pod is a pod");
    let snapshot = world.write(&entry("wide", &spec("*.example.com", "203.0.113.1")));
    assert!(is_unknown(&snapshot, "198.51.100.7:80") && snapshot.range_lengths.is_empty());
    assert!(vip(&snapshot, "203.0.113.1:80").is_original());
}

#[test]
fn only_clients_of_the_audience_know_a_host() {
    for (export, own, other) in [
        ("", true, true),
        ("'*'", true, true),
        (".", true, false),
        ("., web", true, true),
        ("web", false, true),
    ] {
        let spec = format!(
            "hosts: [api.example.com], addresses: [192.0.2.10], resolution: STATIC, {PORT}, exportTo: [{export}], \
             endpoints: [{{address: 198.51.100.1}}]"
        );
        let (_world, snapshot) = World::new(&entry("api", &spec));
        let knows = |namespace| matches!(target(&snapshot, "192.0.2.10:80", namespace), Target::Service(_));
        assert_eq!((knows("shop"), knows("web")), (own, other), "{export}");
    }
}

#[test]
fn a_rule_for_the_host_wraps_its_connections() {
    let rule = |tls: &str| {
        format!(
            "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: api, namespace: shop}}\nspec: {{host: \
             api.example.com, trafficPolicy: {{portLevelSettings: [{{port: {{number: 80}}, tls: {tls}}}]}}}}\n"
        )
    };
    let entry = entry(
        "api",
        "hosts: [api.example.com], addresses: [192.0.2.10], resolution: STATIC, endpoints: [{address: 198.51.100.1}], \
         subjectAltNames: [alt.example.com], ports: [{number: 80, name: http, protocol: HTTP, targetPort: 443}, {number: 443, name: \
         tls, protocol: TLS}]",
    );
    let (mut world, snapshot) = World::new(&[entry.clone(), rule("{mode: SIMPLE}")].concat());
    assert_eq!(world.warnings(), Vec::<String>::new());
    let port = vip(&snapshot, "192.0.2.10:80");
    let tls = port.policy.tls.clone().unwrap();
    assert_eq!(
        (tls.spec().server_name.to_str(), &tls.spec().trust),
        ("api.example.com".into(), &Trust::System)
    );
    assert_eq!(tls.spec().names, ["alt.example.com"]);
    assert!(port.policy.is_unusable(), "no file was read yet");
    assert!(port.wants_encryption() && vip(&snapshot, "192.0.2.10:443").policy.tls.is_none());
    let own =
        "{mode: SIMPLE, sni: sni.example.com, subjectAltNames: [a.example.com], caCertificates: /ca.pem}";
    let snapshot = world.write(&[entry.clone(), rule(own)].concat());
    let tls = vip(&snapshot, "192.0.2.10:80").policy.tls.clone().unwrap();
    assert_eq!((tls.spec().server_name.to_str(), tls.spec().names.len()), ("sni.example.com".into(), 1));
    world.builder.originations().refresh();
    let told = world.warnings();
    assert!(told.len() == 1 && told[0].contains("MESH0140") && told[0].contains("/ca.pem"), "{told:?}");
    for unsupported in ["credentialName: secret", "caCrl: /crl.pem"] {
        let snapshot =
            world.write(&[entry.clone(), rule(&format!("{{mode: SIMPLE, {unsupported}}}"))].concat());
        assert!(vip(&snapshot, "192.0.2.10:80").policy.is_unusable(), "{unsupported}");
        let told = world.warnings();
        assert!(told.len() == 1 && told[0].contains(unsupported.split(':').next().unwrap()), "{told:?}");
    }
}

#[test]
fn what_does_not_fit_is_said() {
    fn check(text: &[String], want: &[&str]) {
        let (world, _) = World::new(&text.concat());
        let told = world.warnings();
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(want.iter().all(|part| told[0].contains(part)), "{told:?}");
    }
    let of = |more: &str| format!("hosts: [api.example.com], addresses: [192.0.2.10], {PORT}{more}");
    check(
        &[entry("a", &of("")), entry("b", &of(""))],
        &["MESH0141", "ServiceEntry shop/b", "ServiceEntry shop/a"],
    );
    check(&[entry("a", &of(", workloadSelector: {labels: {app: a}}"))], &["MESH0119", "workloadSelector"]);
    check(&[entry("a", &of(", colour: red"))], &["MESH0122", "spec.colour"]);
    let none = format!("hosts: [api.example.com], {PORT}");
    check(&[entry("a", &none)], &["MESH0119", "spec.addresses", "never by a name"]);
    check(
        &[service("cart", "192.0.2.10", HTTP), slice("cart-1", "cart", &[]), entry("a", &of(""))],
        &["MESH0114", "ServiceEntry shop/a", "spec.addresses", "Service shop/cart"],
    );
}

#[test]
fn a_pod_stays_behind_its_service_whatever_an_entry_says() {
    let aaa = entry(
        "a",
        &format!(
            "hosts: [a.example.com], resolution: STATIC, {PORT}, endpoints: [{{address: 10.1.0.2, ports: {{http: 8080}}}}]"
        ),
    );
    let text = [
        pod("cart", "10.1.0.2", ""),
        service("cart", "10.96.0.10", HTTP),
        slice("cart-1", "cart", &[("10.1.0.2", "")]),
        aaa,
    ];
    let (_world, snapshot) = World::new(&text.concat());
    let behind = snapshot.by_endpoint.get(&EndpointAddr::new("10.1.0.2".parse().unwrap(), 8080)).unwrap();
    assert_eq!(behind.service.name.name, "cart");
}
