//! Node: its labels, and the addresses that its kubelet may speak from.

use std::net::IpAddr;

use serde::Deserialize;

use super::field::nullable;
use super::{Metadata, usable_address};

/// A node, known by name; its zone is its label `topology.kubernetes.io/zone`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Node {
    /// Metadata.
    pub metadata: Metadata,
    #[serde(default, deserialize_with = "nullable")]
    status: NodeStatus,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
struct NodeStatus {
    #[serde(default, deserialize_with = "nullable")]
    addresses: Vec<NodeAddress>,
}

/// Host names stand among addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
struct NodeAddress {
    #[serde(default, deserialize_with = "nullable")]
    address: String,
}

impl Node {
    /// `status.addresses`, as far as they are addresses.
    pub fn addresses(&self) -> Vec<IpAddr> {
        let parsed = self.status.addresses.iter().filter_map(|it| it.address.parse().ok());
        let mut addresses: Vec<_> = parsed.filter_map(usable_address).collect();
        addresses.sort();
        addresses.dedup();
        addresses
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn addresses_are_those_that_are_some() {
        let text = "{metadata: {name: a}, status: {addresses: [{type: Hostname, address: a}, {type: InternalIP, address: 10.0.0.1}, \
                    {type: InternalIP, address: 'fd00::1'}, {type: ExternalIP, address: 127.0.0.1}, {}]}}";
        let node: Node = serde_yaml_ng::from_str(text).unwrap();
        let wanted: Vec<IpAddr> = ["10.0.0.1", "fd00::1"].map(|ip| ip.parse().unwrap()).into();
        assert_eq!(node.addresses(), wanted);
        let bare: Node = serde_yaml_ng::from_str("{metadata: {name: a}}").unwrap();
        assert!(bare.addresses().is_empty());
    }
}
