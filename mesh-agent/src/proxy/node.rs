//! The node's own addresses: those that kubelet's connections to pods come from.
//!
//! Found on the interfaces of the agent's network namespace, which is the node's; `model::Snapshot::node_addresses` has
//! those that the Node object names. Kept by the control loop, asked by `probe`. Says nothing of who on the node
//! connected: kube-proxy gives a node's address to traffic of others too.

use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::kernel::netns;

/// Shared by the control loop and the workers.
#[derive(Clone, Debug, Default)]
pub struct NodeAddresses(Arc<ArcSwap<Vec<IpAddr>>>);

impl NodeAddresses {
    /// Looks at the interfaces again. Where that fails what was seen before stays.
    pub fn refresh(&self) {
        match netns::local_addresses() {
            Ok(addresses) if **self.0.load() != addresses => self.0.store(Arc::new(addresses)),
            Ok(_) => {}
            Err(error) => tracing::debug!(%error, "the node's own addresses can't be read"),
        }
    }

    /// True if an interface had this address at the last look.
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.0.load().binary_search(&ip).is_ok()
    }
}

#[cfg(test)]
impl NodeAddresses {
    /// These, in tests.
    pub fn of(addresses: &[IpAddr]) -> Self {
        let mut addresses = addresses.to_vec();
        addresses.sort();
        Self(Arc::new(ArcSwap::from_pointee(addresses)))
    }
}
