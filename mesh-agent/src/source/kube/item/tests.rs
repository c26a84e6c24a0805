//! Objects as an API server sends them: what is kept, what goes, what is said of those that aren't valid.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::*;
use crate::source::kube::resource::feeds;

fn feed(name: &str) -> Feed {
    feeds("node-a").into_iter().find(|feed| feed.name == name).unwrap()
}

fn read(name: &str, version: &str, json: serde_json::Value) -> Item {
    let raw = serde_json::value::to_raw_value(&json).unwrap();
    Item::read(&feed(name), version, &Head::read(&raw).unwrap(), &raw)
}

fn pod(annotations: serde_json::Value) -> serde_json::Value {
    serde_json::json!({
        "metadata": {
            "name": "web", "namespace": "shop", "uid": "u-1", "resourceVersion": "7",
            "creationTimestamp": "2026-01-01T00:00:00Z", "labels": {"app": "web"},
            "annotations": annotations, "managedFields": [{"manager": "kubectl"}],
        },
        "spec": {
            "nodeName": "node-a", "serviceAccountName": "web",
            "containers": [{
                "name": "web", "image": "web:1", "env": [{"name": "A", "value": "b"}],
                "ports": [{"name": "http", "containerPort": 8080}],
                "readinessProbe": {"httpGet": {"path": "/ready", "port": "http"}},
            }],
            "volumes": [{"name": "v", "emptyDir": {}}],
        },
        "status": {"phase": "Running", "podIP": "10.1.0.1", "podIPs": [{"ip": "10.1.0.1"}]},
    })
}

fn as_pod(item: &Item) -> &crate::objects::Pod {
    match item.object.as_deref() {
        Some(Object::Pod(pod)) => pod,
        other => panic!("{other:?} {:?}", item.problems),
    }
}

#[test]
fn a_pod_keeps_what_is_read_of_it_and_its_uid() {
    let item = read("pods", "v1", pod(serde_json::json!({})));
    let pod = as_pod(&item);
    assert_eq!((pod.uid(), &*item.uid), (Some("u-1"), "u-1"));
    assert_eq!(pod.addresses(), ["10.1.0.1".parse::<std::net::IpAddr>().unwrap()]);
    assert_eq!(pod.tcp_ports(), [("http".to_owned(), 8080)]);
    assert_eq!(pod.probes().len(), 1);
    assert!(item.text.is_none() && item.problems.is_empty());
}

#[test]
fn of_a_pod_elsewhere_nobody_asks_for_probes() {
    let item = read("pods_elsewhere", "v1", pod(serde_json::json!({})));
    let pod = as_pod(&item);
    assert_eq!(pod.tcp_ports().len(), 1);
    assert!(pod.probes().is_empty());
}

/// Whoever may create a pod could otherwise have any network namespace of the node captured as that pod's.
#[test]
fn no_pod_of_an_api_server_names_a_network_namespace() {
    let annotations = serde_json::json!({
        "mesh-agent.dev/netns": "/proc/1/ns/net", "mesh-agent.dev/fail-mode": "open", "example.com/x": "y",
        "ambient.istio.io/redirection": "enabled",
    });
    for feed in ["pods", "pods_elsewhere"] {
        let item = read(feed, "v1", pod(annotations.clone()));
        let kept: Vec<_> = as_pod(&item).metadata.annotations.keys().map(String::as_str).collect();
        assert_eq!(kept, ["ambient.istio.io/redirection", "mesh-agent.dev/fail-mode"]);
    }
}

#[test]
fn the_words_of_an_object_are_those_of_its_author() {
    let item = read(
        "httproutes",
        "v1beta1",
        serde_json::json!({
            "metadata": {
                "name": "cart", "namespace": "shop", "uid": "u-1", "resourceVersion": "7", "generation": 3,
                "annotations": {LAST_APPLIED: "{}"}, "managedFields": [],
            },
            "spec": {"parentRefs": [{"kind": "Service", "group": "", "name": "cart"}]},
            "status": {"parents": [{"controllerName": "example.com/x"}]},
        }),
    );
    assert_eq!(item.problems, []);
    let want = "apiVersion: gateway.networking.k8s.io/v1beta1\nkind: HTTPRoute\nmetadata:\n  name: cart\n  namespace: shop\n\
                spec:\n  parentRefs:\n  - group: ''\n    kind: Service\n    name: cart\n";
    assert_eq!(item.text.as_deref(), Some(want));
    assert_eq!(item.object.unwrap().metadata().uid, None);
}

#[test]
fn what_is_not_valid_is_named_with_its_field() {
    fn check(feed: &str, json: serde_json::Value, want: &[&str], stands_in: bool) {
        let item = read(feed, "v1", json);
        assert!(item.object.is_none());
        assert_eq!(item.stand_in.is_some(), stands_in);
        let text = item.problems[0].to_string();
        for part in want {
            assert!(text.contains(part), "{text:?} lacks {part:?}");
        }
    }
    let meta = serde_json::json!({"name": "cart", "namespace": "shop"});
    check(
        "services",
        serde_json::json!({"metadata": meta, "spec": {"ports": [{"port": 70000}]}}),
        &["MESH0110", "Service shop/cart", "spec.ports[0].port"],
        false,
    );
    check(
        "endpointslices",
        serde_json::json!({"metadata": meta, "addressType": "IPv4", "ports": [{"port": 0}]}),
        &["MESH0110", "EndpointSlice shop/cart", "ports[0].port"],
        false,
    );
    check(
        "authorizationpolicies",
        serde_json::json!({"metadata": meta, "spec": {"action": "PERMIT"}}),
        &["AuthorizationPolicy shop/cart", "spec.action"],
        true,
    );
}

#[test]
fn a_field_that_the_kind_does_not_have_is_told_of() {
    let json = serde_json::json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"name": "cart", "namespace": "shop"}, "spec": {"parentRef": []},
    });
    let item = read("httproutes", "v1", json);
    assert!(item.object.is_some());
    assert_eq!(item.problems.len(), 1);
    assert!(item.problems[0].to_string().contains("spec.parentRef"), "{:?}", item.problems);
}

#[test]
fn an_object_without_effect_is_told_of() {
    let item = read(
        "udproutes",
        "v1",
        serde_json::json!({"metadata": {"name": "dns", "namespace": "shop"}, "spec": {}}),
    );
    assert!(item.object.is_none() && item.stand_in.is_none());
    let text = item.problems[0].to_string();
    assert!(text.contains("MESH0108") && text.contains("shop/dns"), "{text}");
}

#[test]
fn a_policy_of_tls_that_cannot_be_read_closes_what_it_names() {
    let target = serde_json::json!({"group": "", "kind": "Service", "name": "cart"});
    let item = read(
        "backendtlspolicies",
        "v1",
        serde_json::json!({"metadata": {"name": "tls", "namespace": "shop"}, "spec": {"targetRefs": [target]}}),
    );
    assert!(item.object.is_none() && item.stand_in.is_some());
    assert!(item.problems[0].to_string().contains("MESH0109"), "{:?}", item.problems);
}

#[test]
fn of_a_config_map_only_its_authorities_are_kept() {
    let data = serde_json::json!({"ca.crt": "PEM", "other": "x"});
    let item = read(
        "configmaps",
        "v1",
        serde_json::json!({"metadata": {"name": "ca", "namespace": "shop"}, "data": data}),
    );
    let Some(Object::ConfigMap(map)) = item.object.as_deref() else { panic!("{item:?}") };
    assert_eq!((map.authorities(), item.text), (Some("PEM"), None));
}

#[test]
fn the_later_of_two_is_of_the_later_creation_then_of_the_later_write() {
    let age = |created: Option<&str>, write| Age { created: created.map(Into::into), write };
    let (first, second) = ("2026-01-01T00:00:00Z", "2026-01-01T00:00:01Z");
    assert!(age(Some(first), 9) < age(Some(second), 3));
    assert!(age(Some(first), 3) < age(Some(first), 9));
    assert!(age(None, 9) < age(Some(first), 3));
}

#[test]
fn churn_in_a_slice_that_says_the_same_is_no_difference() {
    let slice = |time: &str| {
        read(
            "endpointslices",
            "v1",
            serde_json::json!({
                "metadata": {
                    "name": "cart-1", "namespace": "shop", "uid": time,
                    "labels": {"kubernetes.io/service-name": "cart", "app": "x"},
                    "annotations": {"endpoints.kubernetes.io/last-change-trigger-time": time},
                },
                "addressType": "IPv4", "endpoints": null,
            }),
        )
    };
    assert_eq!(slice("1").object, slice("2").object);
}
