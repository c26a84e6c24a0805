//! What a cgroup's path says of the pod that it is of; pure. Comes before `find`, which reads the paths.
//!
//! Known are the names that kubelet and the container runtimes give: cgroup v1, v2 and both; drivers cgroupfs and systemd;
//! containerd, CRI-O and cri-dockerd; below any `--cgroup-root`, and seen from another cgroup namespace, where a path begins
//! with `/..`. The outermost pod of a path counts: what a container makes below its own cgroup names no other pod.

use std::borrow::Cow;

/// Where a process is, if it is in a container of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place<'a> {
    /// The pod's uid, as kubelet has it: `metadata.uid`, or a static pod's hash.
    pub uid: Cow<'a, str>,
    /// In a cgroup that the container itself made below its own (systemd or another runtime in a container): its network
    /// namespace needn't be the pod's.
    pub nested: bool,
}

/// Where the process with this `/proc/PID/cgroup` is; None if in no container of a pod. Every hierarchy is looked at: of v1's
/// some may be without kubelet's cgroups.
pub fn place(proc_cgroup: &str) -> Option<Place<'_>> {
    // HIERARCHY:CONTROLLERS:PATH (cgroups(7)); a path may have colons of its own.
    let mut paths = proc_cgroup.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    paths.find_map(place_of_path)
}

/// The pod that a cgroup directory of this name is of.
pub fn pod_of_name(name: &str) -> Option<Cow<'_, str>> {
    if let Some(slice) = name.strip_suffix(".slice") {
        // systemd has '-' for the parent's border, so kubelet writes a uid's as '_'.
        let (_, uid) = slice.rsplit_once("-pod")?;
        let uid = uid.replace('_', "-");
        return is_uid(&uid).then_some(Cow::Owned(uid));
    }
    name.strip_prefix("pod").filter(|uid| is_uid(uid)).map(Cow::Borrowed)
}

/// True for the directory in which kubelet keeps all pods, or those of one quality of service.
pub fn holds_pods(name: &str) -> bool {
    let name = name.strip_suffix(".slice").unwrap_or(name);
    let level = name.strip_suffix("-burstable").or_else(|| name.strip_suffix("-besteffort")).unwrap_or(name);
    level == "kubepods" || level.ends_with("-kubepods") || matches!(level, "burstable" | "besteffort")
}

/// True if a directory of this name below a pod's is a container's, and not what a runtime keeps for itself there.
pub fn is_container(name: &str) -> bool {
    !name.starts_with("crio-conmon-") && name != "conmon" && !name.starts_with("libpod-conmon-")
}

fn place_of_path(path: &str) -> Option<Place<'_>> {
    let mut parts = path.split('/').filter(|part| !part.is_empty());
    let uid = parts.find_map(|part| match part.split_once(':') {
        // A runtime that takes a path for systemd as one of cgroupfs: kubepods-podUID.slice:cri-containerd:CONTAINER.
        Some((slice, container)) => Some((pod_of_name(slice)?, Some(container))),
        None => Some((pod_of_name(part)?, None)),
    });
    let (uid, container) = uid?;
    let container = container.or_else(|| parts.next())?;
    if !is_container(container) || container.ends_with(DELETED) {
        return None;
    }
    // crun puts a container into a group of this name below its scope.
    let below = parts.find(|part| *part != "container");
    Some(Place { uid, nested: below.is_some() })
}

/// What the kernel adds to a path that is gone: whoever is there has ended.
const DELETED: &str = " (deleted)";

/// A UUID, or the hash that stands for one with static pods.
fn is_uid(text: &str) -> bool {
    let hex = |part: &str| part.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'a'..=b'f'));
    match text.len() {
        36 => text.split('-').map(str::len).eq([8, 4, 4, 4, 12]) && text.split('-').all(hex),
        32 => hex(text),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
