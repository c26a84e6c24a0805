//! Requests of OTLP made of what was queued of a signal, none too large for a collector. Pure.
//!
//! Collectors take messages of 4 MiB at most unless they are told otherwise (gRPC's default). After `queue`, before `export`.

use std::sync::Arc;

use bytes::Bytes;

use super::message::{KeyValue, OfResource, OfScope, Request, Resource, Scope, attribute};
use super::queue::{Block, PLENTY};
use crate::model::Workload;

const MOST_BYTES: usize = 1024 * 1024;
/// Of the attributes' names (opentelemetry.io/schemas).
const SCHEMA: &str = "https://opentelemetry.io/schemas/1.40.0";
const UNKNOWN: &str = "unknown";

/// What a block has, a request at a time.
#[derive(Debug)]
pub struct Batches {
    bytes: Bytes,
    items: std::iter::Peekable<std::vec::IntoIter<(Arc<Workload>, usize)>>,
    at: usize,
    cluster: String,
}

/// One request.
#[derive(Clone, Debug)]
pub struct Batch {
    /// How many are in it.
    pub items: u64,
    /// As it is sent.
    pub request: Request,
}

impl Batches {
    /// `cluster` is what the pods' cluster is called.
    pub fn of(block: Block, cluster: &str) -> Self {
        let Block { bytes, items, .. } = block;
        Self { bytes: bytes.into(), items: items.into_iter().peekable(), at: 0, cluster: cluster.to_owned() }
    }
}

impl Iterator for Batches {
    type Item = Batch;

    fn next(&mut self) -> Option<Batch> {
        let (from, mut count) = (self.at, 0);
        let mut pods: Vec<(Arc<Workload>, Vec<Bytes>)> = Vec::new();
        let fits = |count: usize, end: usize| count == 0 || count < PLENTY && end - from <= MOST_BYTES;
        while let Some((pod, end)) = self.items.next_if(|(_, end)| fits(count, *end)) {
            let item = self.bytes.slice(self.at..end);
            (self.at, count) = (end, count + 1);
            match pods.iter_mut().find(|(known, _)| Arc::ptr_eq(known, &pod)) {
                Some((_, items)) => items.push(item),
                None => pods.push((pod, vec![item])),
            }
        }
        let resources: Vec<_> =
            pods.into_iter().map(|(pod, items)| of_resource(&pod, items, &self.cluster)).collect();
        (count > 0).then_some(Batch { items: count as u64, request: Request { resources } })
    }
}

fn of_resource(pod: &Workload, items: Vec<Bytes>, cluster: &str) -> OfResource {
    let version = env!("CARGO_PKG_VERSION").to_owned();
    let scope = Some(Scope { name: "mesh-agent".to_owned(), version });
    let resource = Some(Resource { attributes: resource(pod, cluster) });
    let scopes = vec![OfScope { scope, items }];
    OfResource { resource, scopes, schema_url: SCHEMA.to_owned() }
}

/// What a pod is, by OpenTelemetry's conventions for services and Kubernetes.
fn resource(pod: &Workload, cluster: &str) -> Vec<KeyValue> {
    let name = &pod.name;
    let mut attributes = vec![
        attribute("service.name", &*pod.canonical_name),
        attribute("service.namespace", &*name.namespace),
        attribute("service.instance.id", format!("{}.{}", name.namespace, name.name)),
        attribute("k8s.cluster.name", cluster),
        attribute("k8s.namespace.name", &*name.namespace),
        attribute("k8s.pod.name", &*name.name),
        attribute("k8s.node.name", &*pod.node),
        attribute("telemetry.sdk.name", "mesh-agent"),
        attribute("telemetry.sdk.language", "rust"),
        attribute("telemetry.sdk.version", env!("CARGO_PKG_VERSION")),
    ];
    if pod.version != UNKNOWN {
        attributes.push(attribute("service.version", &*pod.version));
    }
    attributes.extend(pod.uid.as_deref().map(|uid| attribute("k8s.pod.uid", uid)));
    attributes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ObjectName;
    use crate::proxy::testing;

    fn pod(name: &str) -> Arc<Workload> {
        Arc::new(Workload { name: ObjectName::new("shop", name), ..testing::workload() })
    }

    fn block(spans: impl IntoIterator<Item = (Arc<Workload>, usize)>) -> Block {
        let mut block = Block::default();
        for (pod, size) in spans {
            block.bytes.extend(std::iter::repeat_n(size as u8, size));
            block.items.push((pod, block.bytes.len()));
        }
        block
    }

    fn spans_of(batch: &Batch) -> Vec<(String, Vec<usize>)> {
        let text = |one: &KeyValue| one.value.as_ref().and_then(|value| value.text.clone());
        let of = |of: &OfResource| {
            let attributes = &of.resource.as_ref().map(|r| &r.attributes[..]).unwrap_or_default();
            let name = attributes.iter().find(|one| one.key == "k8s.pod.name").and_then(text);
            let spans = of.scopes.iter().flat_map(|scope| scope.items.iter().map(Bytes::len));
            (name.unwrap_or_default(), spans.collect())
        };
        batch.request.resources.iter().map(of).collect()
    }

    #[test]
    fn spans_are_put_together_by_pod_and_stay_whole() {
        let (a, b) = (pod("a"), pod("b"));
        let batches: Vec<_> =
            Batches::of(block([(a.clone(), 3), (b.clone(), 4), (a.clone(), 5)]), "east").collect();
        assert_eq!(batches.len(), 1);
        assert_eq!(batches[0].items, 3);
        assert_eq!(spans_of(&batches[0]), [("a".into(), vec![3, 5]), ("b".into(), vec![4])]);
        let bytes = &batches[0].request.resources[0].scopes[0].items[1];
        assert_eq!(&bytes[..], [5; 5]);
    }

    #[test]
    fn no_request_is_larger_than_collectors_take() {
        let a = pod("a");
        let sizes = |size: usize, count: usize| {
            let batches = Batches::of(block(std::iter::repeat_n((a.clone(), size), count)), "east");
            batches.map(|batch| batch.items).collect::<Vec<_>>()
        };
        assert_eq!(sizes(10, 2 * PLENTY + 1), [PLENTY as u64, PLENTY as u64, 1]);
        assert_eq!(sizes(MOST_BYTES / 2, 3), [2, 1]);
        // One that is too large by itself is sent by itself.
        assert_eq!(sizes(MOST_BYTES * 2, 2), [1, 1]);
        assert_eq!(sizes(10, 0), [0; 0]);
    }

    #[test]
    fn a_pod_is_described_by_opentelemetrys_names() {
        let own = Workload { uid: Some("u-1".into()), version: "v2".into(), ..testing::workload() };
        let attributes = resource(&own, "east");
        let text = |key: &str| {
            let found = attributes.iter().find(|one| one.key == key)?;
            found.value.as_ref()?.text.clone()
        };
        for (key, want) in [
            ("service.name", &*own.canonical_name),
            ("service.namespace", "test"),
            ("service.version", "v2"),
            ("k8s.cluster.name", "east"),
            ("k8s.namespace.name", "test"),
            ("k8s.pod.name", "client"),
            ("k8s.pod.uid", "u-1"),
            ("k8s.node.name", &*own.node),
        ] {
            assert_eq!(text(key).as_deref(), Some(want), "{key}");
        }
        let bare = resource(&Workload { uid: None, version: UNKNOWN.into(), ..own.clone() }, "east");
        assert!(bare.iter().all(|one| one.key != "k8s.pod.uid" && one.key != "service.version"));
    }
}
