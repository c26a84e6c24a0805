//! What Istio's validation refuses (`ValidateRequestAuthentication`, `pkg/config/validation`), and what can't be carried out:
//! such an object never comes into force, its last valid version stays.

use std::time::Duration;

use http::HeaderName;

use super::{JwtRule, RequestAuthenticationSpec};
use crate::jwt::{KeySet, url};
use crate::objects::{FieldError, target_ref};

type Checked = Result<(), FieldError>;

/// Headers that say what a request is or where it ends: no token is in them, and no claim can replace them.
const NOT_OURS: [&str; 10] = [
    "connection",
    "content-length",
    "expect",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// A fetch that takes longer is none.
const LONGEST: Duration = Duration::from_secs(60);

pub(super) fn policy(spec: &RequestAuthenticationSpec) -> Checked {
    target_ref::check(spec.selector.as_ref(), spec.target_ref.as_ref(), &spec.target_refs)?;
    for (at, rule) in spec.jwt_rules.iter().enumerate() {
        self::rule(rule).map_err(|error| error.within(&format!("spec.jwtRules[{at}]")))?;
    }
    Ok(())
}

fn rule(rule: &JwtRule) -> Checked {
    keys(rule)?;
    for (at, audience) in rule.audiences.iter().enumerate() {
        not_empty(&format!("audiences[{at}]"), audience)?;
    }
    for (at, header) in rule.from_headers.iter().enumerate() {
        self::header(&format!("fromHeaders[{at}].name"), &header.name)?;
    }
    for (at, param) in rule.from_params.iter().enumerate() {
        not_empty(&format!("fromParams[{at}]"), param)?;
    }
    for (at, cookie) in rule.from_cookies.iter().enumerate() {
        not_empty(&format!("fromCookies[{at}]"), cookie)?;
    }
    if !rule.output_payload_to_header.is_empty() {
        header("outputPayloadToHeader", &rule.output_payload_to_header)?;
    }
    for (at, output) in rule.output_claim_to_headers.iter().enumerate() {
        header(&format!("outputClaimToHeaders[{at}].header"), &output.header)?;
        not_empty(&format!("outputClaimToHeaders[{at}].claim"), &output.claim)?;
    }
    match rule.timeout {
        Some(timeout) if timeout.0.is_zero() || timeout.0 > LONGEST => {
            refuse("timeout", &format!("{:?}: expected more than 0s and at most {LONGEST:?}", timeout.0))
        }
        _ => Ok(()),
    }
}

fn keys(rule: &JwtRule) -> Checked {
    if !rule.jwks.is_empty() && !rule.jwks_uri.is_empty() {
        return refuse("jwks", "can't be given beside jwksUri: keep one");
    }
    if rule.issuer.is_empty() && rule.jwks_uri.is_empty() {
        return refuse("issuer", "is empty: only a rule with jwksUri is for tokens of any issuer");
    }
    if !rule.jwks_uri.is_empty() && url(&rule.jwks_uri).is_none() {
        let message =
            format!("{:?} isn't a URL that keys can be fetched at: expected https or http", rule.jwks_uri);
        return refuse("jwksUri", &message);
    }
    if !rule.jwks.is_empty() {
        KeySet::parse(rule.jwks.as_bytes()).map_err(|error| FieldError::new("jwks", error.to_string()))?;
    }
    Ok(())
}

fn header(field: &str, name: &str) -> Checked {
    match HeaderName::try_from(name) {
        Ok(name) if NOT_OURS.contains(&name.as_str()) => {
            refuse(field, &format!("{name} says what the request is: expected a header of your own"))
        }
        Ok(_) => Ok(()),
        Err(_) => refuse(field, &format!("{name:?} isn't the name of a header")),
    }
}

fn not_empty(field: &str, value: &str) -> Checked {
    if value.is_empty() { refuse(field, "is empty") } else { Ok(()) }
}

fn refuse(field: &str, message: &str) -> Checked {
    Err(FieldError::new(field, message))
}
