//! What a TrafficPolicy accepts and refuses, and that the CRD's schema says the same as the types.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_yaml_ng::{Mapping, Value};

use super::*;
use crate::objects::fields;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn parse(spec: &str) -> Result<TrafficPolicy, String> {
    let text = format!("metadata: {{name: a, namespace: shop}}\nspec: {spec}\n");
    let policy: TrafficPolicy = serde_yaml_ng::from_str(&text).map_err(|error| error.to_string())?;
    policy.validate().map_err(|error| format!("{}: {}", error.field, error.message))?;
    Ok(policy)
}

const SERVICE: &str = "targetRefs: [{kind: Service, name: cart}]";
const ROUTE: &str =
    "targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: cart, sectionName: slow}]";

#[test]
fn what_makes_sense_is_accepted() {
    for groups in [
        "rateLimit: {local: [{requests: 10}]}",
        "rateLimit: {local: [{requests: 10, per: 1m, burst: 1, key: [{type: sourceIdentity}, {type: header, name: x-user}], scope: endpoint, response: {status: 503}}]}",
        "rateLimit: {local: [{requests: 10, key: [{type: sourceAddress}], fairShare: true}]}",
        "rateLimit: {global: [{requests: 10, redis: {address: \"redis.infra:6379\", passwordSecret: {name: redis}, onUnavailable: deny}}]}",
        "rateLimit: {global: [{requests: 10, redis: {address: \"redis.infra:6379\", username: mesh, passwordFile: redis.password}}]}",
        "faultInjection: {delay: {fixed: 2s, percent: 0.5}, match: {headers: [{name: x-test, type: present}]}}",
        "faultInjection: {abort: {grpcStatus: 14}, maxActive: 5}",
        "circuitBreaker: {errorRate: {percent: 50}, latency: {threshold: 1s, percent: 80}}",
        "concurrency: {adaptive: {}}",
        "fallback: {answer: {status: 200, body: later, headers: [{name: content-type, value: text/plain}]}, on: [noEndpoint, error5xx]}",
        "fallback: {service: {name: other, namespace: shop, port: 80}}",
        "activation: {}",
        "healthCheck: {http: {expectedStatuses: [200, 204-299]}}",
        "healthCheck: {tcp: {}}",
        "panicThreshold: {percent: 30}",
        "retry: {}",
        "retry: {on: [5xx, retriable-status-codes, deadline-exceeded], statusCodes: [409], grpcCodes: [10]}",
        "hedge: {after: 200ms}",
        "timeout: 5s",
    ] {
        if let Err(error) = parse(&format!("{{{SERVICE}, {groups}}}")) {
            panic!("{groups}: {error}");
        }
    }
    parse(&format!("{{{ROUTE}, retry: {{}}}}")).unwrap();
}

#[test]
fn what_makes_no_sense_is_refused_by_field() {
    let check = |spec: &str, field: &str| {
        let error = parse(spec).expect_err(spec);
        assert!(error.contains(field), "{spec}: {error:?} lacks {field:?}");
    };
    check("{}", "spec.targetRefs");
    check("{targetRefs: [{kind: Gateway, name: a}]}", "spec.targetRefs[0].kind");
    check("{targetRefs: [{kind: HTTPRoute, name: a}]}", "spec.targetRefs[0].group");
    check("{targetRefs: [{kind: Service, group: apps, name: a}]}", "spec.targetRefs[0].group");
    check("{targetRefs: [{kind: Service, name: a}, {kind: Service, name: a}]}", "spec.targetRefs[1]");
    check("{targetRefs: [{kind: Service, name: a, sectionName: \"\"}]}", "spec.targetRefs[0].sectionName");
    check(&format!("{{{ROUTE}, healthCheck: {{tcp: {{}}}}}}"), "spec.healthCheck");
    check(&format!("{{{ROUTE}, activation: {{}}}}"), "spec.activation");
    for (group, field) in [
        ("rateLimit: {}", "spec.rateLimit"),
        ("rateLimit: {local: [{requests: 0}]}", "spec.rateLimit.local[0].requests"),
        ("rateLimit: {local: [{requests: 1, per: 0s}]}", "spec.rateLimit.local[0].per"),
        ("rateLimit: {local: [{requests: 1, per: 1d}]}", "spec.rateLimit.local[0].per"),
        ("rateLimit: {local: [{requests: 1, fairShare: true}]}", "spec.rateLimit.local[0].key"),
        (
            "rateLimit: {local: [{requests: 1, key: [{type: path}], fairShare: true, scope: endpoint}]}",
            "spec.rateLimit.local[0].scope",
        ),
        ("rateLimit: {local: [{requests: 1, key: [{type: header}]}]}", "spec.rateLimit.local[0].key[0].name"),
        (
            "rateLimit: {local: [{requests: 1, key: [{type: path, name: a}]}]}",
            "spec.rateLimit.local[0].key[0].name",
        ),
        (
            "rateLimit: {local: [{requests: 1, key: [{type: total}, {type: path}]}]}",
            "spec.rateLimit.local[0].key[0]",
        ),
        ("rateLimit: {local: [{requests: 1, name: 'a\"b'}]}", "spec.rateLimit.local[0].name"),
        (
            "rateLimit: {global: [{requests: 1, redis: {address: redis}}]}",
            "spec.rateLimit.global[0].redis.address",
        ),
        (
            "rateLimit: {global: [{requests: 1, redis: {address: \"redis:1\", passwordFile: a, passwordSecret: {name: a}}}]}",
            "spec.rateLimit.global[0].redis.passwordFile",
        ),
        ("faultInjection: {}", "spec.faultInjection"),
        ("faultInjection: {delay: {fixed: 1s, percent: 101}}", "spec.faultInjection.delay.percent"),
        ("faultInjection: {abort: {}}", "spec.faultInjection.abort"),
        ("faultInjection: {abort: {httpStatus: 503, grpcStatus: 14}}", "spec.faultInjection.abort"),
        ("faultInjection: {abort: {httpStatus: 100}}", "spec.faultInjection.abort.httpStatus"),
        ("circuitBreaker: {}", "spec.circuitBreaker"),
        ("circuitBreaker: {errorRate: {percent: 0}}", "spec.circuitBreaker.errorRate.percent"),
        ("concurrency: {}", "spec.concurrency"),
        ("concurrency: {adaptive: {minLimit: 2000}}", "spec.concurrency.adaptive.minLimit"),
        ("fallback: {on: [timeout]}", "spec.fallback"),
        ("fallback: {service: {name: a, namespace: other, port: 80}}", "spec.fallback.service.namespace"),
        (
            "fallback: {answer: {headers: [{name: content-length, value: \"1\"}]}}",
            "spec.fallback.answer.headers[0].name",
        ),
        ("activation: {hook: {url: 'https://scaler/wake'}}", "spec.activation.hook.url"),
        ("activation: {hook: {url: /wake}}", "spec.activation.hook.url"),
        ("healthCheck: {}", "spec.healthCheck"),
        ("healthCheck: {tcp: {}, grpc: {}}", "spec.healthCheck"),
        ("healthCheck: {http: {expectedStatuses: [299-200]}}", "spec.healthCheck.http.expectedStatuses"),
        ("retry: {on: [sometimes]}", "spec.retry.on"),
        ("retry: {on: [retriable-status-codes]}", "spec.retry.statusCodes"),
        ("retry: {statusCodes: [200]}", "spec.retry.statusCodes[0]"),
        ("retry: {backoff: {base: 1s, max: 10ms}}", "spec.retry.backoff.base"),
        ("hedge: {after: 1s, max: 0}", "spec.hedge.max"),
        ("timeout: 0s", "spec.timeout"),
    ] {
        check(&format!("{{{SERVICE}, {group}}}"), field);
    }
}

#[test]
fn a_password_file_is_a_name_and_never_a_way_out_of_its_directory() {
    let parsed = |file: &str| {
        let redis = format!("{{address: \"redis:1\", passwordFile: {file:?}}}");
        parse(&format!("{{{SERVICE}, rateLimit: {{global: [{{requests: 1, redis: {redis}}}]}}}}"))
    };
    for name in ["redis", "redis.password", "REDIS_PASSWORD", "a..b"] {
        assert!(parsed(name).is_ok(), "{name}");
    }
    for name in ["", ".", "..", "../redis", "/etc/shadow", "a/b", ".hidden", "..data", "a\\0", "a b"] {
        let error = parsed(name).expect_err(name);
        assert!(error.contains("spec.rateLimit.global[0].redis.passwordFile"), "{name:?}: {error}");
    }
}

/// The schema of `spec` in the CRD.
fn schema() -> Value {
    let text = std::fs::read_to_string(root().join("deploy/charts/mesh-crds/templates/trafficpolicies.yaml"))
        .unwrap();
    let crd: Value = serde_yaml_ng::from_str(&text).unwrap();
    crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"].clone()
}

/// A value that `schema` allows, with every field; an enum's value by its place.
fn example(schema: &Value, choice: usize) -> Value {
    if let Some(values) = schema.get("enum").and_then(Value::as_sequence) {
        return values[choice % values.len()].clone();
    }
    if let Some(example) = schema.get("example") {
        return example.clone();
    }
    match schema["type"].as_str() {
        Some("object") => {
            let fields = schema.get("properties").and_then(Value::as_mapping).cloned().unwrap_or_default();
            fields
                .into_iter()
                .map(|(name, field)| (name, example(&field, choice)))
                .collect::<Mapping>()
                .into()
        }
        Some("array") => vec![example(&schema["items"], choice)].into(),
        Some("integer") => schema.get("minimum").and_then(Value::as_u64).unwrap_or(1).max(1).into(),
        Some("number") => 50.into(),
        Some("boolean") => true.into(),
        Some("string") if schema.get("format").is_some() || schema.get("pattern").is_some() => "10s".into(),
        Some("string") => "text".into(),
        _ if schema.get("x-kubernetes-int-or-string").is_some() => 200.into(),
        other => panic!("{other:?} in {schema:?}"),
    }
}

fn paths(schema: &Value, at: &str, into: &mut BTreeSet<String>) {
    if let Some(items) = schema.get("items") {
        paths(items, &format!("{at}[]"), into);
    }
    for (name, field) in schema.get("properties").and_then(Value::as_mapping).into_iter().flatten() {
        let path = format!("{at}.{}", name.as_str().unwrap());
        paths(field, &path, into);
        assert!(field.get("description").is_some(), "{path} has no description");
        into.insert(path);
    }
}

#[test]
fn the_schema_and_the_types_have_the_same_fields() {
    let schema = schema();
    let mut in_schema = BTreeSet::new();
    paths(&schema, "spec", &mut in_schema);
    let found = fields::<TrafficPolicySpec>(&example(&schema, 0), "spec");
    assert_eq!(found.unknown, Vec::<String>::new(), "only in the schema");
    assert_eq!(
        found.known.difference(&in_schema).collect::<Vec<_>>(),
        Vec::<&String>::new(),
        "only in the types"
    );
    assert_eq!(
        in_schema.difference(&found.known).collect::<Vec<_>>(),
        Vec::<&String>::new(),
        "never reached"
    );
}

#[test]
fn every_value_of_an_enum_in_the_schema_is_read() {
    for choice in 0..12 {
        let value = example(&schema(), choice);
        if let Err(error) = serde_yaml_ng::from_value::<TrafficPolicySpec>(value) {
            panic!("choice {choice}: {error}");
        }
    }
}

#[test]
fn examples_are_valid_and_have_no_unknown_field() {
    let mut seen = 0;
    for entry in std::fs::read_dir(root().join("docs/examples")).unwrap() {
        let path = entry.unwrap().path();
        if !path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("trafficpolicy")) {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        for document in text.split("\n---\n") {
            let value: Value = serde_yaml_ng::from_str(document).unwrap();
            let policy: TrafficPolicy = serde_yaml_ng::from_value(value.clone()).unwrap();
            policy.validate().unwrap_or_else(|error| panic!("{path:?}: {}: {}", error.field, error.message));
            assert_eq!(
                fields::<TrafficPolicySpec>(&value["spec"], "spec").unknown,
                Vec::<String>::new(),
                "{path:?}"
            );
            seen += 1;
        }
    }
    assert!(seen > 5, "{seen} examples");
}
