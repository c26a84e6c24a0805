//! Namespace: metadata only.

use serde::Deserialize;

use super::Metadata;

/// Labels and annotations that pods inherit.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Namespace {
    /// Metadata.
    pub metadata: Metadata,
}
