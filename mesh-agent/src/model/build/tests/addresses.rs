//! Addresses of Services as a cluster has them: several ports, named target ports, headless, names in DNS, hints by zone.

use super::*;

/// A slice whose endpoints are for clients of these zones.
fn hinted(endpoints: &[(&str, &[&str])]) -> String {
    let endpoint = |(ip, zones): &(&str, &[&str])| {
        let zones: Vec<_> = zones.iter().map(|zone| format!("{{name: {zone}}}")).collect();
        format!("{{addresses: [{ip}], hints: {{forZones: [{}]}}}}", zones.join(", "))
    };
    let listed: Vec<_> = endpoints.iter().map(endpoint).collect();
    slice("cart-1", "cart", &[]).replace("endpoints: []", &format!("endpoints: [{}]", listed.join(", ")))
}

fn node(zone: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Node\nmetadata: {{name: node-a, labels: {{topology.kubernetes.io/zone: {zone}}}}}\n"
    )
}

fn available(snapshot: &Snapshot) -> Vec<String> {
    addresses(&vip(snapshot, "10.96.0.10:80").endpoints.available)
}

#[test]
fn hints_are_followed_where_every_endpoint_has_one_and_one_is_for_the_zone() {
    fn check(endpoints: &[(&str, &[&str])], zone: &str, want: &[&str]) {
        let text = [service("cart", "10.96.0.10", HTTP), hinted(endpoints), node(zone)].concat();
        let (world, snapshot) = World::new(&text);
        assert_eq!(available(&snapshot), want, "{endpoints:?} in {zone:?}");
        assert_eq!(world.warnings(), Vec::<String>::new());
        // What a hint is for says nothing of what an address belongs to.
        assert_eq!(vip(&snapshot, "10.96.0.10:80").endpoints.all.len(), endpoints.len());
    }
    let (a, b) = (("10.1.0.1", &["a"][..]), ("10.1.0.2", &["b"][..]));
    let both: [&str; 2] = ["10.1.0.1:8080", "10.1.0.2:8080"];
    check(&[a, b], "a", &both[..1]);
    check(&[a, b], "b", &both[1..]);
    check(&[a, b], "c", &both);
    check(&[a, b], "''", &both);
    check(&[a, ("10.1.0.2", &[])], "a", &both);
    check(&[a, ("10.1.0.2", &["b", "a"])], "a", &both);
}

#[test]
fn a_node_that_moves_and_hints_that_change_are_followed() {
    let text = |zone: &str, second: &str| {
        let slice = hinted(&[("10.1.0.1", &["a"]), ("10.1.0.2", &[second])]);
        [service("cart", "10.96.0.10", HTTP), slice, node(zone)].concat()
    };
    let (mut world, snapshot) = World::new(&text("a", "b"));
    assert_eq!(available(&snapshot), ["10.1.0.1:8080"]);
    assert_eq!(available(&world.write(&text("b", "b"))), ["10.1.0.2:8080"]);
    assert_eq!(available(&world.write(&text("b", "a"))), ["10.1.0.1:8080", "10.1.0.2:8080"]);
}

/// Both go by nearness with a second choice, which hints haven't.
#[test]
fn what_goes_by_nearness_itself_asks_no_hints_and_a_node_alone_neither() {
    let slice = hinted(&[("10.1.0.1", &["a"]), ("10.1.0.2", &["b"])])
        .replace("{addresses: [10.1.0.1]", "{addresses: [10.1.0.1], zone: a, nodeName: node-b")
        .replace("{addresses: [10.1.0.2]", "{addresses: [10.1.0.2], zone: b, nodeName: node-a");
    let with = |field: &str| {
        let service = service("cart", "10.96.0.10", HTTP).replace("spec: {", &format!("spec: {{{field}, "));
        World::new(&[service, slice.clone(), node("a")].concat()).1
    };
    assert_eq!(available(&with("trafficDistribution: PreferClose")), ["10.1.0.1:8080", "10.1.0.2:8080"]);
    assert_eq!(available(&with("internalTrafficPolicy: Local")), ["10.1.0.2:8080"]);
}

#[test]
fn terminating_endpoints_stand_in_whatever_their_hints_are() {
    let gone = "conditions: {ready: false, serving: true, terminating: true}, hints";
    let slice = hinted(&[("10.1.0.1", &["a"]), ("10.1.0.2", &["b"])]).replace("hints", gone);
    let (_world, snapshot) = World::new(&[service("cart", "10.96.0.10", HTTP), slice, node("a")].concat());
    assert_eq!(available(&snapshot), ["10.1.0.1:8080", "10.1.0.2:8080"]);
}

/// A target port that is a name may be another number in each pod; whoever writes slices makes one for each number.
#[test]
fn every_port_has_its_own_endpoints_and_a_named_target_port_its_own_number_in_each_slice() {
    let two = "{name: http, port: 80, targetPort: web}, {name: admin, port: 81, targetPort: 9090}";
    let ports = |slice: String, http: u16| {
        slice.replace(
            "{name: http, port: 8080}",
            &format!("{{name: http, port: {http}}}, {{name: admin, port: 9090}}"),
        )
    };
    let text = [
        service("cart", "10.96.0.10", two),
        ports(slice("cart-1", "cart", &[("10.1.0.1", "")]), 8080),
        ports(slice("cart-2", "cart", &[("10.1.0.2", "")]), 8081),
    ];
    let (world, snapshot) = World::new(&text.concat());
    assert_eq!(available(&snapshot), ["10.1.0.1:8080", "10.1.0.2:8081"]);
    let admin = addresses(&vip(&snapshot, "10.96.0.10:81").endpoints.available);
    assert_eq!(admin, ["10.1.0.1:9090", "10.1.0.2:9090"]);
    assert_eq!(world.warnings(), Vec::<String>::new());
}

#[test]
fn a_headless_services_endpoints_lead_to_it() {
    let text = [service("cart", "None", HTTP), slice("cart-1", "cart", &[("10.1.0.1", "")])].concat();
    let (_world, snapshot) = World::new(&text);
    let service = &snapshot.services[&ObjectName::new("shop", "cart")];
    assert!(service.headless && service.vips.is_empty());
    let to: std::net::SocketAddr = "10.1.0.1:8080".parse().unwrap();
    let Target::Endpoint(port) = snapshot.resolve(OrigDst::from(to)) else { panic!("{to} is unknown") };
    assert_eq!(port.service.name.name, "cart");
}

#[test]
fn an_external_name_is_a_name_in_dns_and_no_more() {
    let external = service("files", "", HTTP)
        .replace("spec: {", "spec: {type: ExternalName, externalName: files.example.com, ");
    let (world, snapshot) = World::new(&external);
    assert!(snapshot.services.is_empty());
    assert_eq!(world.warnings(), Vec::<String>::new());
}
