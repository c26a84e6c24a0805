//! Writes what the ledger says: one request or two for each deed, each with a deadline.
//!
//! The annotation by server-side apply, which keeps whose it is: another mesh's, that stands on the pod too, stays when this
//! agent takes its own away; and the pod's uid in it lets no later pod of the name have it. An Event's name comes from what it
//! says, so that an agent that starts again finds it there.

use aws_lc_rs::digest::{SHA256, digest};
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use k8s_openapi::api::events::v1::Event as KubeEvent;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, Error};
use serde_json::json;

use super::ledger::{Deed, Event};
use crate::kube::{DEADLINE, Failure};
use crate::model::ObjectName;
use crate::model::build::REDIRECTION;

/// Who writes, in `managedFields`.
const MANAGER: &str = "mesh-agent";
/// Who reports, in Events.
const CONTROLLER: &str = "mesh-agent.dev/agent";
/// The API's bounds of a name and of `note`, in bytes.
const LONGEST_NAME: usize = 253;
const LONGEST_NOTE: usize = 1024;

/// Asks the API server.
pub(super) struct Requests {
    client: Client,
    node: String,
}

impl Requests {
    pub fn new(client: Client, node: &str) -> Self {
        Self { client, node: node.to_owned() }
    }

    pub async fn does(&self, deed: &Deed) -> Result<(), Failure> {
        let work = async {
            match deed {
                Deed::Annotate { pod, uid, on } => self.annotate(pod, uid, *on).await,
                Deed::Tell { pod, uid, event } => self.tell(pod, uid, event).await,
            }
        };
        match tokio::time::timeout(DEADLINE, work).await {
            Ok(done) => done.map_err(|error| Failure::of(&error)),
            Err(_elapsed) => Err(Failure::Timeout),
        }
    }

    async fn annotate(&self, pod: &ObjectName, uid: &str, on: bool) -> Result<(), Error> {
        let annotations = if on { json!({ REDIRECTION: "enabled" }) } else { json!({}) };
        let metadata =
            json!({ "name": pod.name, "namespace": pod.namespace, "uid": uid, "annotations": annotations });
        let body = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": metadata });
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &pod.namespace);
        let params = PatchParams::apply(MANAGER).force();
        // Through the status, whose right gives no power over what runs in a pod.
        pods.patch_subresource("status", &pod.name, &params, &Patch::Apply(&body)).await.map(drop)
    }

    async fn tell(&self, pod: &ObjectName, uid: &str, event: &Event) -> Result<(), Error> {
        let events: Api<KubeEvent> = Api::namespaced(self.client.clone(), &pod.namespace);
        let name = name_of(&pod.name, uid, event);
        let now = MicroTime(Timestamp::now());
        let created =
            events.create(&PostParams::default(), &self.event(pod, uid, event, &name, now.clone())).await;
        match created {
            Ok(_) => Ok(()),
            // That a pod still can't be captured after the agent's restart is no news.
            Err(Error::Api(status)) if status.code == 409 && event.warning && event.times == 1 => Ok(()),
            Err(Error::Api(status)) if status.code == 409 => {
                let series = json!({ "count": event.times.max(2), "lastObservedTime": now });
                let patch = Patch::Merge(json!({ "series": series }));
                events.patch(&name, &PatchParams::default(), &patch).await.map(drop)
            }
            Err(error) => Err(error),
        }
    }

    fn event(&self, pod: &ObjectName, uid: &str, event: &Event, name: &str, now: MicroTime) -> KubeEvent {
        KubeEvent {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                namespace: Some(pod.namespace.clone()),
                ..ObjectMeta::default()
            },
            event_time: Some(now),
            action: Some("Enrol".to_owned()),
            reason: Some(event.reason.to_owned()),
            note: Some(shortened(&event.note, LONGEST_NOTE).to_owned()),
            type_: Some(if event.warning { "Warning" } else { "Normal" }.to_owned()),
            regarding: Some(ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Pod".to_owned()),
                name: Some(pod.name.clone()),
                namespace: Some(pod.namespace.clone()),
                uid: Some(uid.to_owned()),
                ..ObjectReference::default()
            }),
            reporting_controller: Some(CONTROLLER.to_owned()),
            reporting_instance: Some(shortened(&self.node, 128).to_owned()),
            ..KubeEvent::default()
        }
    }
}

/// The same for the same pod, reason and text.
fn name_of(pod: &str, uid: &str, event: &Event) -> String {
    let text = [uid, event.reason, &event.note].join("\n");
    let hash: String =
        digest(&SHA256, text.as_bytes()).as_ref().iter().take(8).map(|b| format!("{b:02x}")).collect();
    let pod = shortened(pod, LONGEST_NAME - hash.len() - 1).trim_end_matches(['.', '-']);
    format!("{pod}.{hash}")
}

fn shortened(text: &str, longest: usize) -> &str {
    &text[..text.floor_char_boundary(longest)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(note: &str, times: u32) -> Event {
        Event { reason: "MeshEnrolFailed", warning: true, note: note.to_owned(), times }
    }

    #[test]
    fn an_event_has_the_same_name_as_long_as_it_says_the_same() {
        let name = name_of("web-1", "u-1", &event("the port is taken", 1));
        assert_eq!(name, name_of("web-1", "u-1", &event("the port is taken", 7)));
        for other in [
            name_of("web-1", "u-2", &event("the port is taken", 1)),
            name_of("web-1", "u-1", &event("another", 1)),
        ] {
            assert_ne!(name, other);
        }
        let longest = name_of(&"a.".repeat(126), "u-1", &event("", 1));
        assert!(longest.len() <= LONGEST_NAME && !longest.contains(".."), "{longest}");
    }

    #[test]
    fn a_note_is_cut_between_characters() {
        assert_eq!(shortened("grün", 3), "gr");
        assert_eq!(shortened("grün", 4), "grü");
        assert_eq!(shortened("grün", 99), "grün");
    }
}
