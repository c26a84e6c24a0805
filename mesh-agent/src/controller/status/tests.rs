//! Conditions from snapshots, and how they go into a status that others write too.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::sync::Arc;

use ::kube::api::{ApiResource, DynamicObject};
use serde_json::{Value, json};

use super::conditions::{self, Wanted};
use super::{ACCEPTED, CONTROLLER, merge};
use crate::model::build::{BuildOptions, Builder};
use crate::model::{Condition, Snapshot, Warning, WarningCode};
use crate::objects::{Kind, ObjectKey};
use crate::source::{Directory, Touched};

const SERVICES: &str = r"
{apiVersion: v1, kind: Service, metadata: {name: cart, namespace: shop}, spec: {clusterIP: 10.0.0.1, ports: [{port: 80, name: http}]}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: cart, namespace: shop, generation: 3}, spec: {parentRefs: [{group: '', kind: Service, name: cart, port: 80}, {group: '', kind: Service, name: none}, {name: gateway}], rules: [{backendRefs: [{name: nowhere, port: 80}]}]}}
---
{apiVersion: mesh-agent.dev/v1alpha1, kind: TrafficPolicy, metadata: {name: a, namespace: shop, generation: 2, creationTimestamp: '2026-01-01T00:00:00Z'}, spec: {targetRefs: [{kind: Service, name: cart}, {kind: Service, name: none}], timeout: 1s}}
---
{apiVersion: mesh-agent.dev/v1alpha1, kind: TrafficPolicy, metadata: {name: b, namespace: shop, generation: 2, creationTimestamp: '2026-01-02T00:00:00Z'}, spec: {targetRefs: [{kind: Service, name: cart}], timeout: 2s}}
";

fn snapshot() -> Arc<Snapshot> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("a.yaml"), SERVICES).unwrap();
    let changes = Directory::new(dir.path()).scan(&Touched::All, &BTreeSet::new());
    Builder::new(BuildOptions::default()).apply(&changes)
}

fn key(kind: Kind, name: &str) -> ObjectKey {
    ObjectKey::new(kind, Some("shop"), name)
}

fn object(kind: &str, value: &Value) -> DynamicObject {
    let resource = ApiResource::erase::<k8s_openapi::api::core::v1::Pod>(&());
    let mut object = DynamicObject::new(kind, &resource).within("shop").data(value.clone());
    object.metadata.generation = Some(7);
    object
}

fn route(status: &Value) -> DynamicObject {
    let parents = json!([{"group": "", "kind": "Service", "name": "cart", "port": 80}, {"group": "", "kind": "Service", "name": "none"},
        {"name": "gateway"}]);
    object("cart", &json!({"spec": {"parentRefs": parents}, "status": status}))
}

fn brief(status: &Value, list: &str) -> Vec<String> {
    let conditions = |entry: &Value| {
        let all = entry["conditions"].as_array().unwrap().iter();
        all.map(|it| {
            let text = |field: &str| it[field].as_str().unwrap_or_default().to_owned();
            format!("{}={}:{}@{}", text("type"), text("status"), text("reason"), it["observedGeneration"])
        })
        .collect::<Vec<_>>()
        .join(" ")
    };
    status[list].as_array().unwrap().iter().map(conditions).collect()
}

#[test]
fn routes_and_policies_are_told_what_became_of_them() {
    let wanted = conditions::all(&snapshot(), &[]);
    let status = |kind, name: &str, object: &DynamicObject| {
        merge::status(&key(kind, name), object, &wanted[&key(kind, name)], "2026-02-01T00:00:00Z").unwrap()
    };
    let found = status(Kind::HttpRoute, "cart", &route(&Value::Null));
    assert_eq!(
        brief(&found, "parents"),
        [
            "Accepted=True:Accepted@3 ResolvedRefs=False:BackendNotFound@3",
            "Accepted=False:NoMatchingParent@3 ResolvedRefs=False:BackendNotFound@3",
        ],
        "and nothing for the Gateway, which is another's"
    );
    assert_eq!(
        found["parents"][0]["parentRef"],
        json!({"group": "", "kind": "Service", "name": "cart", "port": 80})
    );
    assert_eq!(found["parents"][0]["controllerName"], CONTROLLER);
    let policy = |name: &str| status(Kind::TrafficPolicy, name, &object(name, &json!({"spec": {}})));
    let a = policy("a");
    assert_eq!(brief(&a, "ancestors"), ["Accepted=True:Accepted@2", "Accepted=False:TargetNotFound@2"]);
    let reference = json!({"group": "", "kind": "Service", "namespace": "shop", "name": "cart"});
    assert_eq!(a["ancestors"][0]["ancestorRef"], reference);
    let b = policy("b");
    assert_eq!(brief(&b, "ancestors"), ["Accepted=False:Conflicted@2"]);
    assert!(b["ancestors"][0]["conditions"][0]["message"].as_str().unwrap().contains("TrafficPolicy shop/a"));
}

#[test]
fn nothing_is_written_twice_and_others_entries_stay() {
    let wanted = &conditions::all(&snapshot(), &[])[&key(Kind::HttpRoute, "cart")];
    let cart = key(Kind::HttpRoute, "cart");
    let other = json!({"parentRef": {"name": "gateway"}, "controllerName": "other/controller", "conditions": [{"type": "Accepted", "status": "True", "x": 1}]});
    let before = json!({"parents": [other], "more": true});
    let first = merge::status(&cart, &route(&before), wanted, "2026-02-01T00:00:00Z").unwrap();
    assert_eq!((&first["parents"][0], &first["more"]), (&other, &json!(true)));
    assert_eq!(first["parents"].as_array().unwrap().len(), 3);
    assert_eq!(
        merge::status(&cart, &route(&first), wanted, "2027-01-01T00:00:00Z"),
        None,
        "whatever the time"
    );
    // A condition that turns has a new time, the others keep theirs.
    let Wanted::Known { generation, mut entries } = wanted.clone() else { unreachable!() };
    entries[0].conditions[1].1.status = true;
    let turned = Wanted::Known { generation, entries };
    let second = merge::status(&cart, &route(&first), &turned, "2027-01-01T00:00:00Z").unwrap();
    let times = |at: usize| second["parents"][1]["conditions"][at]["lastTransitionTime"].as_str().unwrap();
    assert_eq!((times(0), times(1)), ("2026-02-01T00:00:00Z", "2027-01-01T00:00:00Z"));
    // A parent that is gone takes its entry along, and nobody else's.
    let none = Wanted::Known { generation, entries: Vec::new() };
    let third = merge::status(&cart, &route(&second), &none, "2027-01-01T00:00:00Z").unwrap();
    assert_eq!(third["parents"], json!([other]));
    assert_eq!(merge::status(&cart, &route(&third), &none, "2027-01-01T00:00:00Z"), None);
}

#[test]
fn an_object_of_istio_s_has_one_condition_among_others_and_is_written_once() {
    let rule = key(Kind::DestinationRule, "cart");
    let accepted = Condition { status: true, reason: "Accepted".into(), message: String::new() };
    let wanted = Wanted::Whole { generation: Some(3), accepted };
    let other = json!({"type": "Reconciled", "status": "True", "x": 1});
    let before = json!({"conditions": [other], "validationMessages": [1]});
    let of = |status: &Value| object("cart", &json!({"spec": {}, "status": status}));
    let first = merge::status(&rule, &of(&before), &wanted, "2026-02-01T00:00:00Z").unwrap();
    let ours = json!({"type": ACCEPTED, "status": "True", "reason": "Accepted", "message": "",
        "lastTransitionTime": "2026-02-01T00:00:00Z", "observedGeneration": 3});
    assert_eq!(first, json!({"conditions": [other, ours], "validationMessages": [1]}));
    let mut stored = first.clone();
    assert_eq!(merge::status(&rule, &of(&stored), &wanted, "2027-01-01T00:00:00Z"), None);
    // A CRD that has no such field drops it.
    stored["conditions"][1].as_object_mut().unwrap().remove("observedGeneration");
    assert_eq!(merge::status(&rule, &of(&stored), &wanted, "2027-01-01T00:00:00Z"), None);
    let bad = Wanted::Whole { generation: None, accepted: Condition::bad("Invalid", "why") };
    let second = merge::status(&rule, &of(&first), &bad, "2027-01-01T00:00:00Z").unwrap();
    let ours = &second["conditions"][1];
    assert_eq!(
        (&ours["status"], &ours["observedGeneration"]),
        (&json!("False"), &json!(7)),
        "the newest version"
    );
    assert_eq!(ours["lastTransitionTime"], "2027-01-01T00:00:00Z");
}

#[test]
fn what_is_wrong_with_an_object_is_in_its_conditions_and_notes_are_not() {
    let warning = |code, key: ObjectKey, message| Warning::new(code, key, "spec.x", message);
    let policy = key(Kind::TrafficPolicy, "a");
    let rule = key(Kind::AuthorizationPolicy, "a");
    let warnings = [
        warning(WarningCode::UnknownField, policy.clone(), "odd"),
        warning(WarningCode::AllowsNothing, policy.clone(), "a note"),
        warning(WarningCode::InvalidField, rule.clone(), "broken"),
        warning(WarningCode::PolicyClosed, rule.clone(), "denies all"),
    ];
    let all = conditions::all(&snapshot(), &warnings);
    let Wanted::Known { entries, .. } = &all[&policy] else { unreachable!() };
    let messages: Vec<&str> = entries.iter().map(|entry| &*entry.conditions[0].1.message).collect();
    let told = |message: &&str| message.ends_with("spec.x: odd") && !message.contains("note");
    assert!(messages.len() == 2 && messages.iter().all(told), "{messages:?}");
    let Wanted::Whole { generation: None, accepted } = &all[&rule] else { unreachable!() };
    assert!(
        accepted.message.contains("broken; ") && accepted.message.ends_with("denies all"),
        "{accepted:?}"
    );
}

#[test]
fn an_object_that_is_refused_says_why() {
    let mut warnings = vec![Warning::new(
        WarningCode::InvalidField,
        key(Kind::HttpRoute, "cart"),
        "spec.rules[0]",
        "isn't one",
    )];
    warnings.push(Warning::new(
        WarningCode::InvalidField,
        key(Kind::TrafficPolicy, "c"),
        "spec.timeout",
        "is odd",
    ));
    warnings.push(Warning::new(WarningCode::InvalidField, key(Kind::Service, "cart"), "spec", "is odd"));
    let wanted = conditions::all(&snapshot(), &warnings);
    assert_eq!(wanted.len(), 4, "a Service has no status of ours");
    let cart = key(Kind::HttpRoute, "cart");
    let found = merge::status(&cart, &route(&Value::Null), &wanted[&cart], "2026-02-01T00:00:00Z").unwrap();
    assert_eq!(brief(&found, "parents"), vec!["Accepted=False:UnsupportedValue@7"; 2]);
    let message = found["parents"][0]["conditions"][0]["message"].as_str().unwrap();
    assert!(message.contains("spec.rules[0]: isn't one; its last valid version stays in force"), "{message}");
    let c = key(Kind::TrafficPolicy, "c");
    let policy = object("c", &json!({"spec": {"targetRefs": [{"kind": "Service", "name": "cart"}]}}));
    let found = merge::status(&c, &policy, &wanted[&c], "2026-02-01T00:00:00Z").unwrap();
    assert_eq!(brief(&found, "ancestors"), ["Accepted=False:Invalid@7"]);
}
