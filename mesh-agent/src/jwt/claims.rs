//! What a verified token says of its bearer, in the form that authorization asks for.
//!
//! Asked by the judge of AuthorizationPolicies.

use serde_json::{Map, Value};

/// Claims of a verified token (RFC 7519, 4).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Claims {
    /// `request.auth.principal`: `iss/sub`. Empty for a token that lacks one of the two, which proves nobody.
    pub principal: String,
    /// `request.auth.audiences`: the claim `aud`, whether it is one or a list.
    pub audiences: Vec<String>,
    /// `request.auth.presenter`: the claim `azp`; empty where the token has none.
    pub presenter: String,
    /// All claims. Those that are lists delimited by spaces are lists here.
    pub all: Map<String, Value>,
}
