//! What needs the agent, and the UDP ports that never do.

use super::*;
use crate::model::Need;

const PLAIN: &str = "{name: tcp-db, port: 5432}";

fn database(endpoint: &str) -> String {
    let slice = slice("db-1", "db", &[(endpoint, "ready: true")]);
    slice.replace("{name: http, port: 8080}", "{name: tcp-db, port: 5432}")
}

fn need(text: &str) -> Option<Need> {
    let (world, snapshot) = World::new(text);
    let port = vip(&snapshot, "10.96.0.10:5432");
    let need = snapshot.need_of(&port);
    // No object of the case is left out, which would need nothing either.
    assert_eq!(world.warnings(), Vec::<String>::new());
    need
}

#[test]
fn opaque_bytes_to_endpoints_outside_the_mesh_need_nothing() {
    let plain = [service("db", "10.96.0.10", PLAIN), database("10.2.0.1")].concat();
    assert_eq!(need(&plain), None);
    // A pod is no reason; one in the mesh is.
    let pods = [namespace("shop", "none"), pod("db", "10.2.0.1", ""), plain.clone()].concat();
    assert_eq!(need(&pods), None);
    assert_eq!(need(&pods.replace("dataplane-mode: none", "dataplane-mode: enabled")), Some(Need::Mesh));
    // What the kernel can do as well.
    let affine = plain.replace("clusterIP: 10.96.0.10", "sessionAffinity: ClientIP, clusterIP: 10.96.0.10");
    assert_eq!(need(&affine), None);
    let near =
        plain.replace("clusterIP: 10.96.0.10", "trafficDistribution: PreferClose, clusterIP: 10.96.0.10");
    assert_eq!(need(&near), None);
}

#[test]
fn whatever_looks_into_a_connection_or_chooses_for_it_needs_the_agent() {
    let with_port = |port: &str| {
        let database = database("10.2.0.1").replace("tcp-db", port);
        [service("db", "10.96.0.10", &format!("{{name: {port}, port: 5432}}")), database].concat()
    };
    for (port, expected) in [
        ("db", Some(Need::Protocol)),
        ("http-db", Some(Need::Protocol)),
        ("grpc-db", Some(Need::Protocol)),
        ("tls-db", Some(Need::Protocol)),
        ("tcp-db", None),
    ] {
        assert_eq!(need(&with_port(port)), expected, "{port}");
    }
    let plain = with_port("tcp-db");
    let attached = |object: &str| need(&[plain.as_str(), object].concat());
    let route = "---\napiVersion: gateway.networking.k8s.io/v1alpha2\nkind: TCPRoute\nmetadata: {name: db, namespace: shop}\n\
        spec: {parentRefs: [{group: '', kind: Service, name: db}], rules: [{backendRefs: [{name: db, port: 5432}]}]}\n";
    assert_eq!(attached(route), Some(Need::Route));
    let rule = "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: db, namespace: shop}\n\
        spec: {host: db.shop.svc.cluster.local, trafficPolicy: {connectionPool: {tcp: {maxConnections: 7}}}}\n";
    assert_eq!(attached(rule), Some(Need::DestinationRule));
    let some = rule.replace("spec: {host", "spec: {workloadSelector: {matchLabels: {app: web}}, host");
    assert_eq!(attached(&some), Some(Need::DestinationRule), "for some clients only");
    let policy = "---\napiVersion: mesh-agent.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {name: db, namespace: shop}\n\
        spec: {targetRefs: [{kind: Service, name: db}], fallback: {service: {name: db, port: 5432}}}\n";
    assert_eq!(attached(policy), Some(Need::TrafficPolicy));
    let annotated = plain.replace(
        "metadata: {name: db, namespace: shop}",
        "metadata: {name: db, namespace: shop, annotations: {mesh-agent.dev/load-balancer: LEAST_REQUEST}}",
    );
    assert_eq!(need(&annotated), Some(Need::LoadBalancer));
}

#[test]
fn udp_ports_are_known_beside_tcp_ports_of_the_same_number() {
    let both = "{name: dns-tcp, port: 53}, {name: dns, port: 53, protocol: UDP}";
    let slice = slice("dns-1", "dns", &[("10.2.0.1", "ready: true"), ("10.2.0.2", "ready: false")]);
    let slice = slice.replace(
        "{name: http, port: 8080}",
        "{name: dns-tcp, port: 8053}, {name: dns, port: 5353, protocol: UDP}",
    );
    let (mut world, snapshot) = World::new(&[service("dns", "10.96.0.10", both), slice.clone()].concat());
    let key = ("10.96.0.10".parse().unwrap(), 53);
    let of = |port: &Arc<ServicePort>| addresses(&port.endpoints.available);
    assert_eq!(of(&snapshot.vips[&key]), ["10.2.0.1:8053"]);
    assert_eq!(of(&snapshot.udp_vips[&key]), ["10.2.0.1:5353"]);
    // A change of something else leaves it alone, one of its own makes another.
    let more = [service("dns", "10.96.0.10", both), slice.clone(), namespace("shop", "enabled")].concat();
    let after = world.write(&more);
    assert!(Arc::ptr_eq(&snapshot.udp_vips[&key], &after.udp_vips[&key]));
    let ready = [service("dns", "10.96.0.10", both), slice.replace("ready: false", "ready: true")].concat();
    assert_eq!(of(&world.write(&ready).udp_vips[&key]).len(), 2);
    assert_eq!(world.write(&service("dns", "10.96.0.10", "{name: dns-tcp, port: 53}")).udp_vips.size(), 0);
}
