//! From an object's JSON, as the API server sends it, to what is kept of it.
//!
//! The same parser as for files judges it, so that validation and warnings are the same. What nobody reads goes before
//! anything is kept: other clients' annotations, managed fields, status, what the API server counts. Comes before `store`.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_yaml_ng::{Mapping, Value};

use super::resource::Feed;
use crate::history::{Text, is_kept};
use crate::model::{ObjectName, Warning};
use crate::objects::{Kind, Metadata, Object, ObjectKey};
use crate::source::document::Parsed;
use crate::source::parse;

/// Names a pod's network namespace in a directory. Whoever may create pods could name any other here.
const NETNS: &str = "mesh-agent.dev/netns";
/// A copy of the object by `kubectl apply`.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// What the API server writes into `metadata` for itself and its clients.
const COUNTED: [&str; 7] =
    ["managedFields", "resourceVersion", "uid", "generation", "selfLink", "finalizers", "generateName"];

/// One object.
#[derive(Debug)]
pub struct Item {
    /// Namespace (empty for cluster-wide kinds) and name.
    pub name: ObjectName,
    /// `metadata.uid`.
    pub uid: Box<str>,
    /// Tells the later of two objects of one name.
    pub age: Age,
    /// What it says; none if it isn't valid.
    pub object: Option<Arc<Object>>,
    /// What is in force in its place if it isn't, and no earlier version of it is.
    pub stand_in: Option<Arc<Object>>,
    /// Its words, of kinds that the history keeps.
    pub text: Option<Text>,
    /// What is wrong with it.
    pub problems: Vec<Warning>,
}

/// When an object was made, then which write of the whole cluster it is of: names are used again only once they are free, so
/// that whatever is of a later write is the later object. Creation comes first since it outlives a restored backup.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Age {
    created: Option<Box<str>>,
    write: u64,
}

/// What tells whose an object is.
#[derive(Debug, Deserialize)]
pub struct Head {
    metadata: HeadMetadata,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct HeadMetadata {
    #[serde(default)]
    name: String,
    #[serde(default)]
    namespace: Option<String>,
    #[serde(default)]
    uid: Option<Box<str>>,
    #[serde(default)]
    resource_version: Option<String>,
    #[serde(default)]
    creation_timestamp: Option<Box<str>>,
    #[serde(default)]
    generation: i64,
}

impl Head {
    /// Of an object's JSON. A bookmark's has no name.
    ///
    /// # Errors
    /// It isn't an object of the API.
    pub fn read(json: &RawValue) -> Result<Self, serde_json::Error> {
        serde_json::from_str(json.get())
    }

    /// Namespace and name.
    pub fn name(&self) -> ObjectName {
        ObjectName::new(self.metadata.namespace.as_deref().unwrap_or_default(), &*self.metadata.name)
    }

    /// `metadata.uid`.
    pub fn uid(&self) -> &str {
        self.metadata.uid.as_deref().unwrap_or_default()
    }

    /// Where a watch goes on after it.
    pub fn version(&self) -> Option<&str> {
        self.metadata.resource_version.as_deref().filter(|version| !version.is_empty())
    }

    fn age(&self) -> Age {
        let write = self.version().and_then(|version| version.parse().ok()).unwrap_or_default();
        Age { created: self.metadata.creation_timestamp.clone(), write }
    }
}

impl Item {
    /// What `json`, an object of `feed` in this version of the API, says.
    pub fn read(feed: &Feed, version: &str, head: &Head, json: &RawValue) -> Self {
        let mut parsed = match feed.resource.reads {
            Some(kind) if !is_kept(kind) => {
                let namespace = head.metadata.namespace.as_deref();
                parse::parse_known(ObjectKey::new(kind, namespace, &head.metadata.name), json.get())
            }
            _ => parse::parse_value(&trimmed(feed, version, json)),
        };
        let object = parsed.objects.pop().map(|(mut object, _)| {
            if let Some(object) = Arc::get_mut(&mut object) {
                trim(object, feed.here);
                count(object, head.metadata.generation);
            }
            object
        });
        let text = parsed.texts.pop().flatten();
        let Parsed { mut stand_ins, problems, .. } = parsed;
        Self {
            name: head.name(),
            uid: head.uid().into(),
            age: head.age(),
            object,
            stand_in: stand_ins.pop().map(|(object, _)| object),
            text,
            problems: problems.into_iter().map(|(warning, _)| warning).collect(),
        }
    }
}

/// The object as a person would have written it, with `apiVersion` and `kind`, which items of lists may lack.
fn trimmed(feed: &Feed, version: &str, json: &RawValue) -> Value {
    let mut object = Mapping::new();
    object.insert("apiVersion".into(), feed.resource.api_version(version).into());
    object.insert("kind".into(), feed.resource.kind.into());
    // It was read as an object for its head, so that this can't fail but by depth; what isn't one then, is told of.
    let Ok(Value::Mapping(read)) = serde_json::from_str(json.get()) else { return Value::Mapping(object) };
    for (key, value) in read {
        if !matches!(key.as_str(), Some("apiVersion" | "kind" | "status")) {
            object.insert(key, value);
        }
    }
    if let Some(Value::Mapping(metadata)) = object.get_mut("metadata") {
        metadata.retain(|key, _| !key.as_str().is_some_and(|key| COUNTED.contains(&key)));
        if let Some(Value::Mapping(annotations)) = metadata.get_mut("annotations") {
            annotations.retain(|key, _| key.as_str() != Some(LAST_APPLIED));
        }
        let empty = |value: &Value| matches!(value, Value::Mapping(mapping) if mapping.is_empty());
        metadata.retain(|_, value| !empty(value));
    }
    Value::Mapping(object)
}

/// Lets go of what nobody asks of an object. A pod alone keeps its uid: of others a later one that says the same is the same.
fn trim(object: &mut Object, here: bool) {
    match object {
        Object::Pod(pod) => {
            pod.metadata.annotations.remove(NETNS);
            pod.metadata.labels.share();
            pod.trim(here);
        }
        Object::EndpointSlice(slice) => {
            let Metadata { annotations, owner_references, labels, uid, .. } = &mut slice.metadata;
            // Controllers count in its annotations.
            annotations.clear();
            *owner_references = Vec::new();
            labels.retain(|key| key == "kubernetes.io/service-name");
            *uid = None;
        }
        Object::Node(node) => {
            node.metadata.annotations.clear();
            node.metadata.uid = None;
        }
        Object::ConfigMap(map) => {
            let Metadata { annotations, labels, uid, .. } = &mut map.metadata;
            annotations.clear();
            labels.retain(|_| false);
            *uid = None;
        }
        _ => {}
    }
}

/// A status names the generation that it is about.
fn count(object: &mut Object, generation: i64) {
    let metadata = match object {
        Object::HttpRoute(route) => &mut route.metadata,
        Object::GrpcRoute(route) => &mut route.metadata,
        Object::TlsRoute(route) => &mut route.metadata,
        Object::TcpRoute(route) => &mut route.metadata,
        Object::TrafficPolicy(policy) => &mut policy.metadata,
        Object::BackendTrafficPolicy(policy) => &mut policy.metadata,
        Object::BackendTlsPolicy(policy) => &mut policy.metadata,
        Object::DestinationRule(rule) => &mut rule.metadata,
        Object::ServiceEntry(entry) => &mut entry.metadata,
        Object::AuthorizationPolicy(policy) => &mut policy.metadata,
        Object::PeerAuthentication(policy) => &mut policy.metadata,
        Object::RequestAuthentication(policy) => &mut policy.metadata,
        _ => return,
    };
    metadata.generation = generation;
}

/// True for kinds whose objects can hide a pod or a service if they can't be read.
pub const fn may_hide(kind: Kind) -> bool {
    matches!(kind, Kind::Namespace | Kind::Pod | Kind::Service | Kind::EndpointSlice)
}

#[cfg(test)]
mod tests;
