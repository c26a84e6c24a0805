//! Rollbacks, releases and restarts, one step at a time, against the objects that the builder would hold.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::UNIX_EPOCH;

use super::*;
use crate::history::Entry;
use crate::objects::Kind;

/// A source whose files are lists of objects, its history, and what a builder would have in force.
#[derive(Default)]
struct World {
    force: Force,
    history: History,
    in_force: BTreeMap<ObjectKey, Arc<Object>>,
    source: BTreeMap<ObjectKey, (Arc<Object>, Text)>,
    generation: u64,
}

fn service(name: &str, port: u16) -> String {
    format!("apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{ports: [{{port: {port}}}]}}")
}

fn slice(name: &str, address: &str) -> String {
    format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: {name}, labels: {{kubernetes.io/service-name: a}}}}\naddressType: IPv4\nports: [{{port: 80}}]\nendpoints: [{{addresses: [{address}]}}]"
    )
}

impl World {
    /// The source says exactly `texts` now; returns what the history was told.
    fn says(&mut self, texts: &[String]) -> String {
        let mut now = BTreeMap::new();
        for text in texts {
            let parsed = parse::parse(text, Format::Yaml);
            let (object, _) = parsed.objects.into_iter().next().expect("valid");
            now.insert(object.key(), (object, Text::from(text.as_str())));
        }
        let mut changes = Changes::default();
        for (key, (object, _)) in &now {
            if self.source.get(key).is_none_or(|(old, _)| old != object) {
                changes.upserts.push(object.clone());
            }
        }
        changes.deletes = self.source.keys().filter(|key| !now.contains_key(*key)).cloned().collect();
        self.source = now;
        let source = &self.source;
        let step = self.force.follow(&changes, true, &self.history, |key| Some(source.get(key)?.1.clone()));
        self.take(step)
    }

    fn take(&mut self, step: Step) -> String {
        for key in &step.changes.deletes {
            assert!(self.in_force.remove(key).is_some(), "{key} isn't there");
        }
        for object in step.changes.upserts {
            self.in_force.insert(object.key(), object);
        }
        let Some(draft) = step.draft else { return String::new() };
        self.generation += 1;
        let told = draft.changes.iter().map(|c| format!("{} {}", c.operation.label(), c.object));
        let told = told.collect::<Vec<_>>().join(", ");
        let (cause, changes) = (draft.cause, draft.changes);
        let (generation, time) = (self.generation, UNIX_EPOCH);
        self.history.record(Entry { generation, time, cause, changes, warnings: 0, discovery: 0 });
        format!("{cause:?}: {told}")
    }

    fn back_to(&mut self, generation: u64) -> Result<String, Refusal> {
        let step = self.force.roll_back(generation, &self.history)?;
        Ok(self.take(step))
    }

    /// Another agent with the same history, and a source that hasn't been read.
    fn restart(&mut self) {
        self.force = Force::default();
        self.in_force.clear();
        self.source.clear();
    }

    /// Ports of the services in force, then addresses of slices.
    fn shown(&self) -> String {
        let one = |object: &Arc<Object>| match &**object {
            Object::Service(service) => format!("{}:{}", service.metadata.name, service.spec.ports[0].port.0),
            Object::EndpointSlice(slice) => {
                format!("{}@{}", slice.metadata.name, slice.endpoints[0].ip().unwrap())
            }
            other => other.key().to_string(),
        };
        self.in_force.values().map(one).collect::<Vec<_>>().join(" ")
    }
}

#[test]
fn a_generation_is_recorded_for_configuration_and_not_for_churn() {
    let mut world = World::default();
    assert_eq!(world.says(&[service("a", 80), slice("s", "10.0.0.1")]), "Source: added Service default/a");
    assert_eq!(world.says(&[service("a", 80), slice("s", "10.0.0.2")]), "");
    assert_eq!(world.shown(), "a:80 s@10.0.0.2");
    let told = world.says(&[service("a", 81), service("b", 80), slice("s", "10.0.0.2")]);
    assert_eq!(told, "Source: changed Service default/a, added Service default/b");
    assert_eq!(world.says(&[service("b", 80)]), "Source: removed Service default/a");
    assert_eq!(world.shown(), "b:80");
}

#[test]
fn a_rollback_holds_while_pods_come_and_go_and_ends_when_the_source_changes() {
    let mut world = World::default();
    world.says(&[service("a", 80), slice("s", "10.0.0.1")]);
    world.says(&[service("a", 81), service("b", 80), slice("s", "10.0.0.1")]);
    let told = world.back_to(1).unwrap();
    assert_eq!(told, "Rollback(1): changed Service default/a, removed Service default/b");
    assert_eq!(world.shown(), "a:80 s@10.0.0.1");
    assert_eq!(world.says(&[service("a", 81), service("b", 80), slice("s", "10.0.0.9")]), "");
    assert_eq!(world.shown(), "a:80 s@10.0.0.9", "endpoints stay true under a rollback");
    let told = world.says(&[service("a", 81), service("b", 82), slice("s", "10.0.0.9")]);
    assert_eq!(told, "Source: changed Service default/a, added Service default/b");
    assert_eq!(world.shown(), "a:81 b:82 s@10.0.0.9");
    assert_eq!(world.force.put_back(), None);
}

#[test]
fn a_release_brings_back_what_the_source_says() {
    let mut world = World::default();
    world.says(&[service("a", 80)]);
    world.says(&[service("a", 81)]);
    world.back_to(1).unwrap();
    let step = world.force.release().unwrap();
    assert_eq!(world.take(step), "Release: changed Service default/a");
    assert_eq!(world.shown(), "a:81");
    assert_eq!(world.force.release().unwrap_err(), Refusal::NotRolledBack);
}

#[test]
fn a_rollback_may_follow_another_and_going_to_the_sources_own_state_is_a_release() {
    let mut world = World::default();
    for port in [80, 81, 82] {
        world.says(&[service("a", port)]);
    }
    world.back_to(1).unwrap();
    assert_eq!(world.back_to(2).unwrap(), "Rollback(2): changed Service default/a");
    assert_eq!((world.shown().as_str(), world.force.put_back()), ("a:81", Some(2)));
    assert_eq!(world.back_to(3).unwrap(), "Release: changed Service default/a");
    assert_eq!((world.shown().as_str(), world.force.put_back()), ("a:82", None));
}

#[test]
fn what_can_not_be_put_back_is_refused_and_changes_nothing() {
    let mut world = World::default();
    assert_eq!(world.back_to(1).unwrap_err(), Refusal::NotYet);
    world.says(&[service("a", 80)]);
    assert_eq!(world.back_to(1).unwrap_err(), Refusal::InForce(1));
    assert_eq!(world.back_to(7).unwrap_err(), Refusal::NotKept(7));
    let unreadable = Change {
        operation: Operation::Added,
        object: "Service default/odd".into(),
        text: Some("kind: [".into()),
    };
    let step =
        Step { draft: Some(Draft { cause: Cause::Source, changes: vec![unreadable] }), ..Step::default() };
    world.take(step);
    assert_eq!(world.back_to(2).unwrap_err(), Refusal::Unreadable(2, "Service default/odd".into()));
    assert_eq!((world.shown().as_str(), world.force.put_back()), ("a:80", None));
}

#[test]
fn a_restart_with_the_same_source_is_no_new_generation_and_keeps_a_rollback() {
    let mut world = World::default();
    world.says(&[service("a", 80)]);
    let last = [service("a", 81), slice("s", "10.0.0.1")];
    world.says(&last);
    world.restart();
    assert_eq!(world.says(&last), "");
    assert_eq!(world.shown(), "a:81 s@10.0.0.1");
    world.back_to(1).unwrap();
    world.restart();
    assert_eq!(world.says(&last), "");
    assert_eq!((world.shown().as_str(), world.force.put_back()), ("a:80 s@10.0.0.1", Some(1)));
}

#[test]
fn a_source_that_changed_while_the_agent_was_away_ends_a_rollback() {
    let mut world = World::default();
    world.says(&[service("a", 80)]);
    world.says(&[service("a", 81)]);
    world.back_to(1).unwrap();
    world.restart();
    assert_eq!(world.says(&[service("a", 82)]), "Source: changed Service default/a");
    assert_eq!((world.shown().as_str(), world.force.put_back()), ("a:82", None));
}

#[test]
fn a_source_that_is_not_there_yet_ends_nothing() {
    let mut world = World::default();
    world.says(&[service("a", 80)]);
    world.says(&[service("a", 81)]);
    world.back_to(1).unwrap();
    world.restart();
    let step = world.force.follow(&Changes::default(), false, &world.history, |_| None);
    assert!(step.draft.is_none() && step.changes.is_empty());
    assert_eq!(world.says(&[service("a", 81)]), "");
    assert_eq!((world.shown().as_str(), world.force.put_back()), ("a:80", Some(1)));
}

#[test]
fn kinds_that_say_what_is_there_are_not_kept() {
    for (kind, kept) in
        [(Kind::Service, true), (Kind::Namespace, true), (Kind::Pod, false), (Kind::Node, false)]
    {
        assert_eq!(is_kept(kind), kept, "{kind:?}");
    }
}
