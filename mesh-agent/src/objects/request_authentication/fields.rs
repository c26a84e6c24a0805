//! The fields of a RequestAuthentication, as `security/v1beta1/request_authentication.proto` of istio/api has them.
//!
//! All are read; what stands elsewhere makes its rule fail closed.

use super::super::shape::Shape::{self, Fields, List, Read};

const TARGET: Shape = Fields(&[("group", Read), ("kind", Read), ("name", Read), ("namespace", Read)]);

/// `spec`.
pub(super) const SPEC: Shape = Fields(&[
    ("selector", Fields(&[("matchLabels", Read)])),
    ("targetRef", TARGET),
    ("targetRefs", List(&TARGET)),
    (
        "jwtRules",
        List(&Fields(&[
            ("issuer", Read),
            ("audiences", Read),
            ("jwksUri", Read),
            // The field's name in protobuf, which Istio's CRD has beside the other.
            ("jwks_uri", Read),
            ("jwks", Read),
            ("fromHeaders", List(&Fields(&[("name", Read), ("prefix", Read)]))),
            ("fromParams", Read),
            ("fromCookies", Read),
            ("outputPayloadToHeader", Read),
            ("outputClaimToHeaders", List(&Fields(&[("header", Read), ("claim", Read)]))),
            ("forwardOriginalToken", Read),
            ("timeout", Read),
            ("spaceDelimitedClaims", Read),
        ])),
    ),
]);
