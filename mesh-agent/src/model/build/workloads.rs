//! Pods to workloads: identity for metrics, addresses, and which services must learn of a change.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use super::enrolment::{NETNS, REDIRECTION, enrolment, fail_mode, wants_capture};
use super::index::Claimant;
use super::{Builder, Dirty, pod_key};
use crate::model::{Netns, ObjectName, Snapshot, Warning, Workload};
use crate::objects::{Kind, Metadata, Namespace, Object, ObjectKey, Pod};

impl Claimant for Workload {
    fn same(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

fn by_name(a: &Workload, b: &Workload) -> Ordering {
    a.name.cmp(&b.name)
}

impl Builder {
    /// Builds the workload `name` again; true if it changed. Services with an endpoint at one of its addresses are added
    /// to `services`.
    pub(super) fn build_workload(
        &mut self,
        name: &ObjectName,
        next: &mut Snapshot,
        services: &mut BTreeSet<ObjectName>,
    ) -> bool {
        let mut warnings = Vec::new();
        let old = next.workloads.get(name).cloned();
        let new =
            self.pod(name).filter(|pod| pod.is_live()).map(|pod| self.workload(name, pod, &mut warnings));
        self.note(pod_key(name), warnings);
        if old.as_deref() == new.as_ref() {
            return false;
        }
        let new = new.map(Arc::new);
        let (had, has) = (own_addresses(old.as_deref()), own_addresses(new.as_deref()));
        if let Some(old) = &old {
            for ip in had.iter().filter(|ip| !has.contains(ip)) {
                self.by_address.remove(ip, old, by_name);
            }
        }
        match &new {
            Some(new) => {
                has.iter().for_each(|ip| self.by_address.put(*ip, new, by_name));
                next.workloads.insert_mut(name.clone(), new.clone());
            }
            None => {
                next.workloads.remove_mut(name);
            }
        }
        let shown =
            |workload: Option<&Arc<Workload>>| workload.map(|w| w.addresses.clone()).unwrap_or_default();
        for ip in shown(old.as_ref()).into_iter().chain(shown(new.as_ref())) {
            services.extend(self.services_at.get(&ip).into_iter().flatten().map(|meta| meta.name.clone()));
        }
        true
    }

    /// Pods that share a network namespace depend on each other.
    pub(super) fn touch_netns(&mut self, key: &ObjectKey, object: Option<&Object>, dirty: &mut Dirty) {
        let old = self.pod(&key.name).and_then(|pod| self.local_netns(pod));
        let new = match object {
            Some(Object::Pod(pod)) => self.local_netns(pod),
            _ => None,
        };
        if old == new {
            return;
        }
        if let Some(path) = old
            && let Some(pods) = self.netns.get_mut(&path)
        {
            pods.remove(&key.name);
            dirty.pods.extend(pods.iter().cloned());
            if pods.is_empty() {
                self.netns.remove(&path);
            }
        }
        if let Some(path) = new {
            let pods = self.netns.entry(path).or_default();
            dirty.pods.extend(pods.iter().cloned());
            pods.insert(key.name.clone());
        }
    }

    fn local_netns(&self, pod: &Pod) -> Option<PathBuf> {
        let here = self.options.netns_annotation && self.is_here(pod) && pod.is_live();
        pod.metadata.annotation(NETNS).filter(|_| here).map(PathBuf::from)
    }

    fn is_here(&self, pod: &Pod) -> bool {
        !self.options.node.is_empty() && pod.spec.node_name == self.options.node
    }

    fn pod(&self, name: &ObjectName) -> Option<&Pod> {
        match self.objects.get(&pod_key(name)).map(|object| &**object) {
            Some(Object::Pod(pod)) => Some(pod),
            _ => None,
        }
    }

    fn namespace(&self, name: &str) -> Option<&Namespace> {
        match self.objects.get(&ObjectKey::new(Kind::Namespace, None, name)).map(|object| &**object) {
            Some(Object::Namespace(namespace)) => Some(namespace),
            _ => None,
        }
    }

    fn workload(&self, name: &ObjectName, pod: &Pod, warnings: &mut Vec<Warning>) -> Workload {
        let namespace = self.namespace(&name.namespace).map(|namespace| &namespace.metadata);
        let meta = &pod.metadata;
        let path = meta.annotation(NETNS).filter(|_| self.options.netns_annotation).map(PathBuf::from);
        let here = self.is_here(pod);
        let first = path.as_ref().and_then(|path| self.netns.get(path)).and_then(|pods| {
            // Only those that ask for capture compete for it.
            pods.iter().find(|other| {
                self.pod(other).is_some_and(|pod| {
                    wants_capture(
                        &pod.metadata,
                        self.namespace(&other.namespace).map(|n| &n.metadata),
                        &mut Vec::new(),
                    )
                })
            })
        });
        let enrolment =
            enrolment(pod, namespace, path.as_deref(), here, self.options.netns_annotation, first, warnings);
        let netns = match path {
            Some(path) => Some(Netns::Path(path)),
            None => {
                pod.uid().filter(|_| here && !self.options.netns_annotation).map(|uid| Netns::Uid(uid.into()))
            }
        };
        let workload_name = workload_name(meta);
        Workload {
            name: name.clone(),
            uid: pod.uid().map(str::to_owned),
            node: pod.spec.node_name.clone(),
            service_account: or(&pod.spec.service_account_name, "default"),
            app: first_label(meta, &["app", "app.kubernetes.io/name"]).unwrap_or("unknown").into(),
            version: first_label(meta, &["version", "app.kubernetes.io/version"]).unwrap_or("unknown").into(),
            canonical_name: first_label(
                meta,
                &["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"],
            )
            .unwrap_or(&workload_name)
            .into(),
            canonical_revision: first_label(
                meta,
                &["service.istio.io/canonical-revision", "app.kubernetes.io/version", "version"],
            )
            .unwrap_or("latest")
            .into(),
            workload_name,
            labels: meta.labels.clone(),
            addresses: pod.addresses(),
            netns,
            enrolment,
            fail_mode: fail_mode(meta, namespace, self.options.fail_mode, warnings),
            hbone: says_hbone(meta),
            redirected: is_redirected(meta),
            host_network: pod.spec.host_network,
            ports: pod.tcp_ports(),
            probes: pod.probes(),
        }
    }
}

/// Istio's label, a list of tunnels that are spoken (istio.io, reference/config/labels), and the annotation that its CNI plug-in
/// leaves on pods behind ztunnel.
fn says_hbone(meta: &Metadata) -> bool {
    let tunnels = meta.label("networking.istio.io/tunnel").unwrap_or_default();
    tunnels.split(',').any(|tunnel| tunnel.trim() == "http") || is_redirected(meta)
}

fn is_redirected(meta: &Metadata) -> bool {
    meta.annotation(REDIRECTION) == Some("enabled")
}

/// Addresses that are the pod's alone: one on the host's network has the node's, like many others.
fn own_addresses(workload: Option<&Workload>) -> &[IpAddr] {
    match workload {
        Some(workload) if !workload.host_network => &workload.addresses,
        _ => &[],
    }
}

/// The controller's name, a ReplicaSet's without its hash (so: the Deployment's), else the label `app`, else the pod's.
fn workload_name(meta: &Metadata) -> String {
    if let Some(owner) = meta.owner_references.iter().find(|owner| owner.controller) {
        return match owner.name.rsplit_once('-') {
            Some((deployment, _)) if owner.kind == "ReplicaSet" => deployment.to_owned(),
            _ => owner.name.clone(),
        };
    }
    meta.label("app").filter(|app| !app.is_empty()).unwrap_or(&meta.name).to_owned()
}

fn first_label<'a>(meta: &'a Metadata, keys: &[&str]) -> Option<&'a str> {
    keys.iter().filter_map(|key| meta.label(key)).find(|value| !value.is_empty())
}

fn or(value: &str, default: &str) -> String {
    if value.is_empty() { default } else { value }.to_owned()
}
