//! ReferenceGrant: who may refer to objects of its namespace from another one.

use serde::Deserialize;

use super::Metadata;
use super::gateway::{GroupName, KindName, List, NamespaceName, RefName};

/// What is read of a ReferenceGrant.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ReferenceGrant {
    /// Metadata.
    pub metadata: Metadata,
    /// `spec`.
    pub spec: ReferenceGrantSpec,
}

/// What is read of `spec`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ReferenceGrantSpec {
    /// Who.
    pub from: List<GrantFrom, 1, 16>,
    /// To what.
    pub to: List<GrantTo, 1, 16>,
}

/// One of `from`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct GrantFrom {
    /// API group of what refers.
    pub group: GroupName,
    /// Its kind.
    pub kind: KindName,
    /// Its namespace.
    pub namespace: NamespaceName,
}

/// One of `to`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct GrantTo {
    /// API group of what is referred to.
    pub group: GroupName,
    /// Its kind.
    pub kind: KindName,
    /// Its name; any where absent.
    #[serde(default)]
    pub name: Option<RefName>,
}

impl ReferenceGrant {
    /// True if a route of `kind` in `namespace` may refer to the Service `name` of the grant's own namespace.
    pub fn permits(&self, kind: &str, namespace: &str, name: &str) -> bool {
        let from = |from: &GrantFrom| {
            &*from.group == "gateway.networking.k8s.io"
                && &*from.kind == kind
                && &*from.namespace == namespace
        };
        let to = |to: &GrantTo| {
            to.group.is_empty() && &*to.kind == "Service" && to.name.as_deref().is_none_or(|to| to == name)
        };
        self.spec.from.iter().any(from) && self.spec.to.iter().any(to)
    }
}
