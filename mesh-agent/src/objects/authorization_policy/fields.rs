//! The fields of an AuthorizationPolicy, as `security/v1beta1/authorization_policy.proto` of istio/api has them.
//!
//! All are read; what stands elsewhere makes its rule fail closed (`crate::authz`).

use super::super::shape::Shape::{self, Fields, List, Read};

const TARGET: Shape = Fields(&[("group", Read), ("kind", Read), ("name", Read), ("namespace", Read)]);

const SOURCE: Shape = Fields(&[
    ("principals", Read),
    ("notPrincipals", Read),
    ("requestPrincipals", Read),
    ("notRequestPrincipals", Read),
    ("namespaces", Read),
    ("notNamespaces", Read),
    ("serviceAccounts", Read),
    ("notServiceAccounts", Read),
    ("ipBlocks", Read),
    ("notIpBlocks", Read),
    ("remoteIpBlocks", Read),
    ("notRemoteIpBlocks", Read),
]);

const OPERATION: Shape = Fields(&[
    ("hosts", Read),
    ("notHosts", Read),
    ("ports", Read),
    ("notPorts", Read),
    ("methods", Read),
    ("notMethods", Read),
    ("paths", Read),
    ("notPaths", Read),
]);

/// `spec`.
pub(super) const SPEC: Shape = Fields(&[
    ("selector", Fields(&[("matchLabels", Read)])),
    ("targetRef", TARGET),
    ("targetRefs", List(&TARGET)),
    (
        "rules",
        List(&Fields(&[
            ("from", List(&Fields(&[("source", SOURCE)]))),
            ("to", List(&Fields(&[("operation", OPERATION)]))),
            ("when", List(&Fields(&[("key", Read), ("values", Read), ("notValues", Read)]))),
        ])),
    ),
    ("action", Read),
    ("provider", Fields(&[("name", Read)])),
]);
