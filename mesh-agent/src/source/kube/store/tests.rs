//! Lists that are differences, the two parts of the pods in any order, and objects that aren't valid.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use serde_json::json;

use super::*;
use crate::source::kube::item::Head;
use crate::source::kube::resource::feeds;

struct World {
    feeds: Vec<Feed>,
    store: Store,
}

impl World {
    fn new() -> Self {
        let feeds = feeds("node-a");
        let store = Store::new(&feeds);
        Self { feeds, store }
    }

    /// Every watch has read what is there: nothing.
    fn read() -> Self {
        let mut world = Self::new();
        (0..world.feeds.len()).for_each(|at| world.store.replace(at, Vec::new()));
        world
    }

    fn at(&self, name: &str) -> usize {
        self.feeds.iter().position(|feed| feed.name == name).unwrap()
    }

    fn item(&self, feed: &str, json: &serde_json::Value) -> Item {
        let raw = serde_json::value::to_raw_value(json).unwrap();
        Item::read(&self.feeds[self.at(feed)], "v1", &Head::read(&raw).unwrap(), &raw)
    }

    fn put(&mut self, feed: &str, json: serde_json::Value) {
        let item = self.item(feed, &json);
        self.store.put(self.at(feed), item);
    }

    fn replace(&mut self, feed: &str, objects: &[serde_json::Value]) {
        let items = objects.iter().map(|json| self.item(feed, json)).collect();
        self.store.replace(self.at(feed), items);
    }

    fn remove(&mut self, feed: &str, name: &str, uid: &str) {
        self.store.remove(self.at(feed), &ObjectName::new("shop", name), uid);
    }

    /// `+NAME` and `-NAME` for what changed, sorted; of pods with their uid.
    fn changes(&mut self) -> String {
        let changes = self.store.take_changes();
        let shown = |object: &Arc<Object>| match &**object {
            Object::Pod(pod) => format!("+{}:{}", pod.metadata.name, pod.uid().unwrap_or_default()),
            other => format!("+{}", other.key().name.name),
        };
        let mut all: Vec<String> = changes.upserts.iter().map(shown).collect();
        all.extend(changes.deletes.iter().map(|key| format!("-{}", key.name.name)));
        all.sort();
        all.join(" ")
    }

    fn warnings(&self) -> String {
        self.store.warnings().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    }
}

fn pod(name: &str, uid: &str, created: u32, node: &str) -> serde_json::Value {
    json!({
        "metadata": {
            "name": name, "namespace": "shop", "uid": uid, "resourceVersion": "5",
            "creationTimestamp": format!("2026-01-01T00:00:{created:02}Z"),
        },
        "spec": {"nodeName": node},
    })
}

fn service(name: &str, uid: &str, port: u32) -> serde_json::Value {
    json!({
        "metadata": {"name": name, "namespace": "shop", "uid": uid, "resourceVersion": "5"},
        "spec": {"ports": [{"port": port}]},
    })
}

#[test]
fn a_list_is_a_difference_to_what_was_known() {
    let mut world = World::read();
    world.replace("services", &[service("a", "1", 80), service("b", "2", 80), service("c", "3", 80)]);
    assert_eq!(world.changes(), "+a +b +c");
    world.replace("services", &[service("a", "1", 80), service("c", "3", 81), service("d", "4", 80)]);
    assert_eq!(world.changes(), "+c +d -b");
    world.replace("services", &[service("a", "1", 80), service("c", "3", 81), service("d", "4", 80)]);
    assert_eq!(world.changes(), "");
}

#[test]
fn an_object_that_came_and_went_between_two_looks_is_no_change() {
    let mut world = World::read();
    world.put("services", service("a", "1", 80));
    world.remove("services", "a", "1");
    assert_eq!(world.changes(), "");
    world.put("services", service("a", "1", 80));
    assert_eq!(world.changes(), "+a");
    world.put("services", service("a", "1", 81));
    world.put("services", service("a", "1", 80));
    assert_eq!(world.changes(), "");
}

/// Whichever of the two watches tells first.
#[test]
fn a_pod_made_again_on_another_node_is_the_later_one_in_any_order() {
    fn check(events: &[&dyn Fn(&mut World)], want: &str, end: &str) {
        let mut world = World::read();
        world.put("pods", pod("web", "old", 1, "node-a"));
        assert_eq!(world.changes(), "+web:old");
        events.iter().for_each(|event| event(&mut world));
        assert_eq!(world.changes(), want);
        assert_eq!(world.store.has(&ObjectKey::new(Kind::Pod, Some("shop"), "web")), end != "gone");
    }
    let gone_here: &dyn Fn(&mut World) = &|world| world.remove("pods", "web", "old");
    let new_there: &dyn Fn(&mut World) = &|world| world.put("pods_elsewhere", pod("web", "new", 2, "node-b"));
    let old_again: &dyn Fn(&mut World) = &|world| world.put("pods", pod("web", "old", 1, "node-a"));
    let gone_there: &dyn Fn(&mut World) = &|world| world.remove("pods_elsewhere", "web", "new");
    check(&[gone_here, new_there], "+web:new", "there");
    check(&[new_there, gone_here], "+web:new", "there");
    check(&[new_there], "+web:new", "there");
    check(&[new_there, old_again], "+web:new", "there");
    check(&[new_there, old_again, gone_here], "+web:new", "there");
    check(&[new_there, gone_there], "", "here");
    check(&[new_there, gone_here, gone_there], "-web", "gone");
    check(&[gone_here], "-web", "gone");
}

/// A pod that was made here later than the one that is told of elsewhere stays, whatever the other watch says late.
#[test]
fn a_captured_pod_is_never_let_go_for_what_an_earlier_one_of_its_name_did() {
    let mut world = World::read();
    world.put("pods_elsewhere", pod("web", "old", 1, "node-b"));
    world.put("pods", pod("web", "new", 2, "node-a"));
    assert_eq!(world.changes(), "+web:new");
    world.put("pods_elsewhere", pod("web", "old", 1, "node-b"));
    world.remove("pods_elsewhere", "web", "old");
    world.remove("pods", "web", "old");
    world.replace("pods_elsewhere", &[]);
    assert_eq!(world.changes(), "");
    assert!(world.store.has(&ObjectKey::new(Kind::Pod, Some("shop"), "web")));
}

#[test]
fn a_pod_deleted_and_made_again_in_between_is_another() {
    let mut world = World::read();
    world.replace("pods", &[pod("web", "old", 1, "node-a")]);
    world.changes();
    world.replace("pods", &[pod("web", "new", 2, "node-a")]);
    assert_eq!(world.changes(), "+web:new");
}

#[test]
fn an_invalid_version_leaves_the_last_valid_one_of_the_same_object() {
    let mut world = World::read();
    world.put("services", service("a", "1", 80));
    world.changes();
    world.put("services", service("a", "1", 70_000));
    assert_eq!(world.changes(), "");
    assert!(world.warnings().contains("spec.ports[0].port"), "{}", world.warnings());
    assert_eq!(world.store.coverage(), Coverage::Whole);
    world.put("services", service("a", "1", 81));
    assert_eq!((world.changes().as_str(), world.warnings().as_str()), ("+a", ""));
    world.put("services", service("a", "2", 70_000));
    assert_eq!(world.changes(), "-a");
    assert_eq!(world.store.coverage(), Coverage::Part);
    world.remove("services", "a", "2");
    assert_eq!((world.warnings().as_str(), world.store.coverage()), ("", Coverage::Whole));
}

#[test]
fn a_policy_that_is_not_valid_stands_in_until_a_version_is() {
    let policy = |action: &str| {
        json!({
            "metadata": {"name": "p", "namespace": "shop", "uid": "1", "resourceVersion": "5"},
            "spec": {"action": action},
        })
    };
    let mut world = World::read();
    world.put("authorizationpolicies", policy("PERMIT"));
    assert_eq!(world.changes(), "+p");
    world.put("authorizationpolicies", policy("ALLOW"));
    assert_eq!(world.changes(), "+p");
    world.put("authorizationpolicies", policy("PERMIT"));
    assert_eq!(world.changes(), "");
    world.remove("authorizationpolicies", "p", "1");
    assert_eq!(world.changes(), "-p");
}

#[test]
fn nothing_is_whole_before_every_watch_has_read() {
    let mut world = World::new();
    let last = world.feeds.len() - 1;
    for at in 0..last {
        world.store.replace(at, Vec::new());
        assert_eq!((world.store.is_read(), world.store.coverage()), (false, Coverage::Awaited));
    }
    world.store.replace(last, Vec::new());
    assert_eq!((world.store.is_read(), world.store.coverage()), (true, Coverage::Whole));
}

#[test]
fn kinds_without_effect_are_told_of_while_they_are_there() {
    let mut world = World::read();
    let object = json!({"metadata": {"name": "u", "namespace": "shop", "uid": "1"}, "spec": {}});
    world.put("udproutes", object);
    assert_eq!(world.changes(), "");
    assert!(world.warnings().contains("MESH0108"), "{}", world.warnings());
    world.remove("udproutes", "u", "1");
    assert_eq!(world.warnings(), "");
}
