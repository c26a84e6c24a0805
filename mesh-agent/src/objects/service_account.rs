//! ServiceAccount: metadata only.

use serde::Deserialize;

use super::Metadata;

/// A service account, known by name.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ServiceAccount {
    /// Metadata.
    pub metadata: Metadata,
}
