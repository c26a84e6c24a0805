//! What documents come to, and what is said about those that come to nothing.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::*;

/// Parses one YAML document; the shape is `code line object field: message`.
fn warnings(text: &str) -> Vec<String> {
    parse(text, Format::Yaml).problems.iter().map(|(warning, line)| format!("{line} {warning}")).collect()
}

fn refused(text: &str, want: &[&str]) {
    let parsed = parse(text, Format::Yaml);
    assert!(parsed.objects.is_empty(), "{text}");
    let warnings = warnings(text);
    assert_eq!(warnings.len(), 1, "{text}: {warnings:?}");
    for part in want {
        assert!(warnings[0].contains(part), "{:?} lacks {part:?}", warnings[0]);
    }
}

const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: cart, namespace: shop}\n";

#[test]
fn the_shared_example_parses_without_a_word_but_for_kinds_of_later() {
    let text = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: cart-1\n  namespace: shop\n  creationTimestamp: null\nspec:\n  nodeName: node-a\n  containers: [{name: cart, image: none, ports: [{name: web, containerPort: 8080}]}]\nstatus:\n  phase: Running\n  podIP: 10.245.0.3\n  podIPs: [{ip: 10.245.0.3}, {ip: \"fd45::3\"}]\n";
    let parsed = parse(text, Format::Yaml);
    assert_eq!(warnings(text), Vec::<String>::new());
    let Object::Pod(pod) = &*parsed.objects[0].0 else { panic!() };
    assert_eq!(pod.addresses().len(), 2);
    assert_eq!(pod.tcp_ports(), [("web".to_owned(), 8080)]);
}

#[test]
fn a_port_that_is_none_is_named_with_field_and_line() {
    for bad in ["0", "70000", "-1", "http", "\"80\"", "1.5", "null"] {
        let text =
            format!("{SERVICE}spec:\n  ports:\n  - port: 80\n    name: a\n  - name: b\n    port: {bad}\n");
        refused(
            &text,
            &["9 MESH0110", "Service shop/cart", "spec.ports[1].port", "isn't a port", "last valid version"],
        );
    }
    refused(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{ports: [{containerPort: 99999}]}]}",
        &["4 MESH0110", "Pod default/a", "spec.containers[0].ports[0].containerPort", "99999"],
    );
    refused(
        &format!("{SERVICE}spec: {{ports: [{{port: 80, targetPort: 0x1ffff}}]}}"),
        &["MESH0110", "targetPort"],
    );
}

#[test]
fn an_address_that_is_none_is_named() {
    refused(&format!("{SERVICE}spec: {{clusterIP: 10.96.0}}"), &["MESH0111", "spec.clusterIP", "10.96.0"]);
    refused(
        &format!("{SERVICE}spec: {{clusterIPs: [10.96.0.1, 127.0.0.1]}}"),
        &["MESH0111", "spec.clusterIPs[1]"],
    );
    let slice = |family: &str, address: &str| {
        format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: a}}\naddressType: {family}\nendpoints: [{{addresses: [\"{address}\"]}}]"
        )
    };
    refused(
        &slice("IPv4", "10.0.0.x"),
        &["MESH0111", "EndpointSlice default/a", "endpoints[0].addresses[0]", "10.0.0.x"],
    );
    refused(&slice("IPv4", "fd00::1"), &["MESH0111", "addressType IPv4"]);
    refused(&slice("IPv6", "10.0.0.1"), &["MESH0111", "addressType IPv6"]);
    refused(&slice("IPv4", "127.0.0.1"), &["MESH0111", "loopback"]);
    refused(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nstatus: {podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.2}]}",
        &["status.podIPs[0].ip", "expected the same address"],
    );
}

#[test]
fn wrong_types_and_values_name_the_field_and_what_was_expected() {
    refused(
        &format!("{SERVICE}spec: {{sessionAffinity: ClientIp}}"),
        &["MESH0109", "spec.sessionAffinity", "ClientIP"],
    );
    refused(
        &format!("{SERVICE}spec: {{ports: [{{port: 1, protocol: tcp}}]}}"),
        &["MESH0109", "spec.ports[0].protocol", "`TCP`"],
    );
    refused(&format!("{SERVICE}spec: {{type: Other}}"), &["MESH0109", "spec.type", "`ExternalName`"]);
    refused(
        "apiVersion: v1
kind: Pod
metadata: {name: a, labels: {version: [1]}}",
        &["MESH0109", "metadata.labels", "put the value in quotes"],
    );
    refused(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: A_b}",
        &["MESH0109", "metadata.name", "isn't a name"],
    );
    refused(
        &format!("{SERVICE}spec: {{ports: [{{port: 80, name: a}}, {{port: 80, name: b}}]}}"),
        &["spec.ports[1].port", "twice"],
    );
    refused(
        &format!("{SERVICE}spec: {{ports: [{{port: 80}}, {{port: 81}}]}}"),
        &["spec.ports[0].name", "several ports"],
    );
    refused(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: a}",
        &["MESH0109", "addressType"],
    );
}

#[test]
fn what_is_not_an_object_is_told_apart_from_broken_yaml() {
    refused(
        &format!("{SERVICE}spec: {{ports: [\n"),
        &["MESH0105", "Service shop/cart", "rest of the file is used"],
    );
    refused(&format!("{SERVICE}spec:\n\tports: []\n"), &["5 MESH0105", "never tabs"]);
    refused(
        &format!("{SERVICE}spec: {{}}\nspec: {{}}\n"),
        &["MESH0109", "Service shop/cart", "duplicate field"],
    );
    refused("- a\n- b\n", &["MESH0106", "expected a mapping"]);
    refused("just text", &["MESH0106"]);
    refused("kind: Pod\nmetadata: {name: a}\n", &["MESH0106", "apiVersion and kind"]);
    refused("apiVersion: v1\nkind: Pod\n", &["MESH0106", "metadata.name"]);
}

#[test]
fn unknown_kinds_and_kinds_of_later_say_what_follows() {
    refused("apiVersion: v1\nkind: Pdo\nmetadata: {name: a}", &["MESH0107", "Pdo a", "unknown to the agent"]);
    refused("apiVersion: v2\nkind: Pod\nmetadata: {name: a}", &["MESH0107", "write apiVersion v1"]);
    refused(
        "\n# route\napiVersion: gateway.networking.k8s.io/v1alpha2\nkind: UDPRoute\nmetadata: {name: dns, namespace: shop}",
        &["3 MESH0108", "UDPRoute shop/dns", "as if it didn't exist"],
    );
}

#[test]
fn flow_style_json_and_lists_are_read_too() {
    let check = |text: &str, format: Format, want: usize| {
        let parsed = parse(text, format);
        assert_eq!((parsed.objects.len(), parsed.problems.len()), (want, 0), "{text}: {:?}", parsed.problems);
    };
    check("{apiVersion: v1, kind: Namespace, metadata: {name: a}}", Format::Yaml, 1);
    check("apiVersion: \"v1\"\nkind: 'Namespace' # ours\nmetadata:\n  name: a\n", Format::Yaml, 1);
    check(
        "{\n\t\"apiVersion\": \"v1\", \"kind\": \"Namespace\", \"metadata\": {\"name\": \"a\"}}",
        Format::Json,
        1,
    );
    let item = |name: &str| format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: {name}}}}}");
    check(
        &format!("apiVersion: v1\nkind: List\nitems:\n- {}\n- {}\n", item("a"), item("b")),
        Format::Yaml,
        2,
    );
}

#[test]
fn one_bad_item_of_a_list_leaves_the_others() {
    let text = "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Namespace, metadata: {name: a}}\n- {apiVersion: v1, kind: Service, metadata: {name: b}, spec: {ports: [{port: 0}]}}\n";
    let parsed = parse(text, Format::Yaml);
    assert_eq!(parsed.objects.len(), 1);
    assert_eq!(parsed.problems[0].0.object, "Service default/b");
    assert_eq!(parsed.problems[0].0.field, "spec.ports[0].port");
}

#[test]
fn a_document_full_of_aliases_is_refused_in_bounded_time() {
    let mut text =
        String::from("apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec:\n  a: &a [x,x,x,x,x,x,x,x,x]\n");
    for (this, last) in ('b'..='j').zip('a'..) {
        text.push_str(&format!(
            "  {this}: &{this} [*{last},*{last},*{last},*{last},*{last},*{last},*{last},*{last},*{last}]\n"
        ));
    }
    let started = std::time::Instant::now();
    let _ = parse(&text, Format::Yaml);
    // Followed, the aliases stand for four hundred million nodes.
    assert!(started.elapsed() < std::time::Duration::from_secs(20), "{:?}", started.elapsed());
}

proptest::proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "(apiVersion: v1\n|kind: (Pod|Service|List)\n|metadata: |\\{|\\}|name: a|\\[|\\PC|\n|  |- ){0,30}") {
        let yaml = parse(&text, Format::Yaml);
        let _ = parse(&text, Format::Json);
        proptest::prop_assert!(yaml.objects.len() + yaml.problems.len() <= 20);
    }
}

mod routes;
mod upstream;
