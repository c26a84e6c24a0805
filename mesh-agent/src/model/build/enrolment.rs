//! Whether a pod is captured, and what becomes of its connections while no agent serves.

use std::path::Path;

use crate::model::{Enrolment, FailMode, ObjectName, Warning, WarningCode};
use crate::objects::{Kind, MIRROR, Metadata, ObjectKey, Pod};

/// Label on Namespace or Pod.
pub const DATAPLANE_MODE: &str = "mesh-agent.dev/dataplane-mode";
/// Annotation on Namespace or Pod.
pub const FAIL_MODE: &str = "mesh-agent.dev/fail-mode";
/// Annotation of Pods whose traffic a mesh takes, by Istio's CNI plug-in or this agent (istio.io, reference/config/annotations).
pub const REDIRECTION: &str = "ambient.istio.io/redirection";
/// Annotation of a directory's Pods.
pub const NETNS: &str = "mesh-agent.dev/netns";

/// True if the pod asks for capture by its own label, or else by its namespace's.
pub fn wants_capture(pod: &Metadata, namespace: Option<&Metadata>, warnings: &mut Vec<Warning>) -> bool {
    let own = pod.label(DATAPLANE_MODE).and_then(|value| mode(value, pod, warnings));
    let inherited =
        || namespace.and_then(|ns| ns.label(DATAPLANE_MODE)).and_then(|value| mode(value, pod, warnings));
    own.or_else(inherited).unwrap_or(false)
}

fn mode(value: &str, pod: &Metadata, warnings: &mut Vec<Warning>) -> Option<bool> {
    match value {
        "enabled" => Some(true),
        "none" => Some(false),
        _ => {
            let message =
                format!("{value:?} means nothing: expected enabled or none; it is taken as not given");
            let field = format!("metadata.labels[{DATAPLANE_MODE}]");
            warnings.push(Warning::new(WarningCode::UnknownValue, key(pod), field, message));
            None
        }
    }
}

/// Whether the pod is captured. `first` is the pod that comes first of those that name the same network namespace.
pub fn enrolment(
    pod: &Pod,
    namespace: Option<&Metadata>,
    netns: Option<&Path>,
    here: bool,
    netns_annotation: bool,
    first: Option<&ObjectName>,
    warnings: &mut Vec<Warning>,
) -> Enrolment {
    if !wants_capture(&pod.metadata, namespace, warnings) {
        return Enrolment::NotRequested;
    }
    let mut refuse = |code, field: &str, reason: &str, advice: &str| {
        let message = format!("{reason}, so its traffic is not captured: {advice}");
        warnings.push(Warning::new(code, key(&pod.metadata), field, message));
        Enrolment::Refused(reason.to_owned())
    };
    if pod.spec.host_network {
        let advice = format!("label it {DATAPLANE_MODE}: none, or take it off the host's network");
        let reason = "the pod is on the host's network";
        return refuse(WarningCode::HostNetwork, "spec.hostNetwork", reason, &advice);
    }
    if !netns_annotation && pod.metadata.annotation(MIRROR).is_some() {
        // Kubelet names its cgroup by a hash that only the annotation tells, and that may be anybody's.
        let advice = format!("label it {DATAPLANE_MODE}: none, or deploy it in another way");
        let reason = "the pod is a static pod, which can't be known by its uid";
        let field = format!("metadata.annotations[{MIRROR}]");
        return refuse(WarningCode::NetnsMissing, &field, reason, &advice);
    }
    if !here || !netns_annotation {
        return Enrolment::Enrolled;
    }
    let field = format!("metadata.annotations[{NETNS}]");
    match netns {
        None => {
            let advice = "name the path, such as /run/netns/NAME";
            refuse(WarningCode::NetnsMissing, &field, "the pod names no network namespace", advice)
        }
        Some(path) if !path.is_absolute() => {
            let advice = "write an absolute path, such as /run/netns/NAME";
            refuse(WarningCode::NetnsMissing, &field, "the network namespace isn't an absolute path", advice)
        }
        Some(path) => match first {
            Some(other) if !is(other, &pod.metadata) => {
                let reason = format!("{} is the network namespace of Pod {other} too", path.display());
                refuse(WarningCode::DuplicateNetns, &field, &reason, "give each pod its own")
            }
            _ => Enrolment::Enrolled,
        },
    }
}

/// The pod's own annotation, else its namespace's, else the agent's setting.
pub fn fail_mode(
    pod: &Metadata,
    namespace: Option<&Metadata>,
    default: FailMode,
    warnings: &mut Vec<Warning>,
) -> FailMode {
    let annotation = pod.annotation(FAIL_MODE).or_else(|| namespace.and_then(|ns| ns.annotation(FAIL_MODE)));
    match annotation {
        None => default,
        Some("open") => FailMode::Open,
        Some("closed") => FailMode::Closed,
        Some(value) => {
            let message = format!("{value:?} means nothing: expected closed or open; it is taken as closed");
            let field = format!("metadata.annotations[{FAIL_MODE}]");
            warnings.push(Warning::new(WarningCode::UnknownValue, key(pod), field, message));
            FailMode::Closed
        }
    }
}

fn key(pod: &Metadata) -> ObjectKey {
    ObjectKey::new(Kind::Pod, pod.namespace.as_deref(), &pod.name)
}

fn is(name: &ObjectName, pod: &Metadata) -> bool {
    key(pod).name == *name
}
