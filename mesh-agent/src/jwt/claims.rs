//! What a verified token says of its bearer, in the form that authorization asks for.
//!
//! Made by `verify` of a token whose signature holds; never of one that wasn't verified. Asked by the judge of
//! AuthorizationPolicies.

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
    /// All claims. Those that are lists delimited by spaces are lists here, as Istio makes them (`scope`, `permission`,
    /// `spaceDelimitedClaims`).
    pub all: Map<String, Value>,
}

impl Claims {
    /// The claim at a path. A claim whose name has dots of its own comes before one that is nested, as in Envoy
    /// (`JwtClaimToHeader.claim_name`).
    pub fn get(&self, path: &str) -> Option<&Value> {
        find(&self.all, path)
    }
}

/// As [`Claims::get`].
pub(super) fn find<'c>(claims: &'c Map<String, Value>, path: &str) -> Option<&'c Value> {
    if let Some(value) = claims.get(path) {
        return Some(value);
    }
    let mut names = path.split('.');
    let first = claims.get(names.next()?)?;
    names.try_fold(first, |value, name| value.as_object()?.get(name))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    #[test]
    fn claims_are_found_by_name_and_by_path() {
        let all = json!({"a": {"b": {"c": 1}, "d": [2]}, "a.d": 3});
        let claims = Claims { all: all.as_object().unwrap().clone(), ..Claims::default() };
        fn check(claims: &Claims, path: &str, want: Option<Value>) {
            assert_eq!(claims.get(path).cloned(), want, "{path}");
        }
        check(&claims, "a.b.c", Some(json!(1)));
        check(&claims, "a.d", Some(json!(3)));
        check(&claims, "a.b", Some(json!({"c": 1})));
        for absent in ["", "b", "a.b.c.d", "a.x", ".a", "a."] {
            check(&claims, absent, None);
        }
    }
}
