//! From a status as it is to one that says what it should: others' entries untouched, ours replaced. Pure.

use ::kube::api::DynamicObject;
use serde_json::{Map, Value, json};

use super::conditions::{Entry, Reference, Wanted, is_route};
use super::{ACCEPTED, CONTROLLER};
use crate::model::{Condition, ObjectName};
use crate::objects::ObjectKey;

/// The API allows no longer message.
const LONGEST_MESSAGE: usize = 32_768;
/// Nor more entries: of routes (RouteStatus) and of policies (PolicyStatus).
const MOST: [usize; 2] = [32, 16];

/// Names of the list, of an entry's reference, and of the references in the object's spec.
struct Fields {
    list: &'static str,
    reference: &'static str,
    spec: &'static str,
    most: usize,
}

const ROUTE: Fields = Fields { list: "parents", reference: "parentRef", spec: "parentRefs", most: MOST[0] };
const POLICY: Fields =
    Fields { list: "ancestors", reference: "ancestorRef", spec: "targetRefs", most: MOST[1] };

/// The status to write; none if it is as it should be. `now` is RFC 3339.
pub fn status(key: &ObjectKey, object: &DynamicObject, wanted: &Wanted, now: &str) -> Option<Value> {
    let newest = object.metadata.generation.unwrap_or_default();
    if let Wanted::Whole { generation, accepted } = wanted {
        return whole(object, accepted, generation.unwrap_or(newest), now);
    }
    let fields = if is_route(key.kind) { &ROUTE } else { &POLICY };
    let in_spec = references(object, fields, &key.name.namespace);
    let (generation, entries) = match wanted {
        Wanted::Known { generation, entries } => (*generation, entries.clone()),
        Wanted::Invalid { message } => (newest, invalid(&in_spec, is_route(key.kind), message)),
        Wanted::Whole { .. } => return None,
    };
    let old = object.data["status"][fields.list].as_array().cloned().unwrap_or_default();
    let mut pending: Vec<&Entry> = entries.iter().collect();
    let mut new = Vec::new();
    for entry in &old {
        if entry["controllerName"] != CONTROLLER {
            new.push(entry.clone());
            continue;
        }
        let reference = Reference::read(&entry[fields.reference], &key.name.namespace);
        let place = pending.iter().position(|wanted| Some(&wanted.reference) == reference.as_ref());
        if let Some(place) = place {
            let conditions = conditions(pending.remove(place), &entry["conditions"], generation, now);
            // Its reference as it is: only what we say of it may have changed.
            new.push(json!({fields.reference: entry[fields.reference], "controllerName": CONTROLLER, "conditions": conditions}));
        }
    }
    for entry in pending {
        let raw = in_spec.iter().find(|(reference, _)| *reference == entry.reference);
        let reference = match raw {
            Some((_, raw)) if is_route(key.kind) => raw.clone(),
            _ => entry.reference.write(),
        };
        let conditions = conditions(entry, &Value::Null, generation, now);
        new.push(
            json!({fields.reference: reference, "controllerName": CONTROLLER, "conditions": conditions}),
        );
    }
    new.truncate(fields.most);
    if new == old {
        return None;
    }
    let mut status = object.data["status"].as_object().cloned().unwrap_or_default();
    status.insert(fields.list.to_owned(), new.into());
    Some(status.into())
}

fn conditions(entry: &Entry, old: &Value, generation: i64, now: &str) -> Vec<Value> {
    let before = |kind: &str| old.as_array().into_iter().flatten().find(|old| old["type"] == kind);
    let one = |(kind, wanted): &(&'static str, Condition)| {
        condition(kind, wanted, before(kind).unwrap_or(&Value::Null), generation, now)
    };
    entry.conditions.iter().map(one).collect()
}

/// `lastTransitionTime` is when the status became what it is, and stays while it does.
fn condition(kind: &str, wanted: &Condition, before: &Value, generation: i64, now: &str) -> Value {
    let status = if wanted.status { "True" } else { "False" };
    let since = Some(before).filter(|old| old["status"] == status).map(|old| &old["lastTransitionTime"]);
    let since = since.filter(|since| since.is_string()).cloned().unwrap_or_else(|| now.into());
    let message: String = wanted.message.chars().take(LONGEST_MESSAGE).collect();
    let mut all = json!({
        "type": kind,
        "status": status,
        "reason": wanted.reason,
        "message": message,
        "lastTransitionTime": since,
    });
    if generation > 0 {
        all["observedGeneration"] = generation.into();
    }
    all
}

/// The status of an object of Istio's kinds: our condition among those of others.
fn whole(object: &DynamicObject, accepted: &Condition, generation: i64, now: &str) -> Option<Value> {
    let old = object.data["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let place = old.iter().position(|condition| condition["type"] == ACCEPTED);
    let before = place.map_or(&Value::Null, |place| &old[place]);
    let ours = condition(ACCEPTED, accepted, before, generation, now);
    if is_said(before, &ours) {
        return None;
    }
    let mut conditions = old.clone();
    match place {
        Some(place) => conditions[place] = ours,
        None => conditions.push(ours),
    }
    let mut status = object.data["status"].as_object().cloned().unwrap_or_default();
    status.insert("conditions".to_owned(), conditions.into());
    Some(status.into())
}

/// True if the condition that is there says the same. Istio's older CRDs have no `observedGeneration` and drop it: to write it
/// again and again would help nobody.
fn is_said(there: &Value, wanted: &Value) -> bool {
    let fields = wanted.as_object().into_iter().flatten();
    there.is_object()
        && fields.into_iter().all(|(field, value)| {
            there[field] == *value || (field == "observedGeneration" && there[field].is_null())
        })
}

/// References of the object's spec that may be ours, each with how it is written there.
fn references(object: &DynamicObject, fields: &Fields, namespace: &str) -> Vec<(Reference, Value)> {
    let raw = object.data["spec"][fields.spec].as_array().into_iter().flatten();
    raw.filter_map(|raw| Some((Reference::read(raw, namespace)?, raw.clone()))).collect()
}

fn invalid(in_spec: &[(Reference, Value)], is_route: bool, message: &str) -> Vec<Entry> {
    let reason = if is_route { "UnsupportedValue" } else { "Invalid" };
    let ours = in_spec.iter().filter(|(reference, _)| !is_route || reference.kind == "Service");
    let entry = |(reference, _): &(Reference, Value)| Entry {
        reference: reference.clone(),
        conditions: vec![("Accepted", Condition::bad(reason, message))],
    };
    ours.map(entry).collect()
}

impl Reference {
    /// From a parentRef, targetRef or ancestorRef of an object in `namespace`. None where it is no Service and no route.
    fn read(raw: &Value, namespace: &str) -> Option<Self> {
        let text = |field: &str| raw[field].as_str().map(str::to_owned);
        let group = match raw["group"].as_str() {
            Some("" | "core") => "",
            Some("gateway.networking.k8s.io") => "gateway.networking.k8s.io",
            // A parentRef without one is a Gateway's; a targetRef without one a Service's.
            None if raw["kind"] == "Service" => "",
            _ => return None,
        };
        let kind = text("kind")?;
        let namespace = text("namespace").unwrap_or_else(|| namespace.to_owned());
        Some(Self {
            group,
            kind,
            name: ObjectName::new(namespace, text("name")?),
            port: raw["port"].as_u64().and_then(|port| u16::try_from(port).ok()),
            section: text("sectionName"),
        })
    }

    fn write(&self) -> Value {
        let mut all = Map::new();
        all.insert("group".to_owned(), self.group.into());
        all.insert("kind".to_owned(), self.kind.clone().into());
        all.insert("namespace".to_owned(), self.name.namespace.clone().into());
        all.insert("name".to_owned(), self.name.name.clone().into());
        if let Some(port) = self.port {
            all.insert("port".to_owned(), port.into());
        }
        if let Some(section) = &self.section {
            all.insert("sectionName".to_owned(), section.clone().into());
        }
        all.into()
    }
}
