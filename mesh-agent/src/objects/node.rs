//! Node: metadata only.

use serde::Deserialize;

use super::Metadata;

/// A node, known by name; its zone is its label `topology.kubernetes.io/zone`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Node {
    /// Metadata.
    pub metadata: Metadata,
}
