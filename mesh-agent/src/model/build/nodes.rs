//! Where nodes are, and which services a node that moved concerns.

use std::sync::Arc;

use super::{Builder, Dirty};
use crate::model::{Endpoint, Service, ServicePort, Snapshot};
use crate::objects::{Kind, Object, ObjectKey};
use crate::policy::Locality;

impl Builder {
    /// Notes the services that a change of a node's place concerns.
    pub(super) fn touch_node(&self, key: &ObjectKey, object: Option<&Object>, dirty: &mut Dirty) {
        if self.objects.get(key).map(|old| locality(old)) == object.map(locality) {
            return;
        }
        let ours = key.name.name == self.options.node;
        // Where nobody knew where the agent is, no policy could go by it.
        let concerned = |service: &Service| ours || service.ports.iter().any(|port| by_locality(port));
        let services = self.snapshot.services.values().filter(|service| concerned(service));
        dirty.services.extend(services.map(|service| service.meta.name.clone()));
    }

    /// Where connections of this node's own come from, and where it is; true if that changed.
    pub(super) fn build_own_node(&self, next: &mut Snapshot) -> bool {
        let node = self.objects.get(&ObjectKey::new(Kind::Node, None, &self.options.node));
        let addresses = match node.map(|object| &**object) {
            Some(Object::Node(node)) => node.addresses(),
            _ => Vec::new(),
        };
        let locality = self.locality_of_node(&self.options.node);
        let changed = *next.node_addresses != *addresses || *next.locality != locality;
        if changed {
            next.node_addresses = addresses.into();
            next.locality = Arc::new(locality);
        }
        changed
    }

    /// Where the node `name` is.
    pub(super) fn locality_of_node(&self, name: &str) -> Locality {
        let node = self.objects.get(&ObjectKey::new(Kind::Node, None, name));
        node.map(|node| locality(node)).unwrap_or_default()
    }

    /// Where an endpoint is: its slice knows its zone best.
    pub(super) fn locality_of(&self, endpoint: &Endpoint) -> Locality {
        let mut locality =
            endpoint.node.as_deref().map(|node| self.locality_of_node(node)).unwrap_or_default();
        if let Some(zone) = &endpoint.zone {
            locality.zone.clone_from(zone);
        }
        locality
    }
}

fn by_locality(port: &ServicePort) -> bool {
    port.forms().any(|port| port.policy.localities.is_some())
}

fn locality(node: &Object) -> Locality {
    let label =
        |keys: &[&str]| keys.iter().find_map(|key| node.metadata().label(key)).unwrap_or_default().to_owned();
    Locality {
        region: label(&["topology.kubernetes.io/region", "failure-domain.beta.kubernetes.io/region"]),
        zone: label(&["topology.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/zone"]),
        subzone: label(&["topology.istio.io/subzone"]),
    }
}
