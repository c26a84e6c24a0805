//! A token held against one rule and its issuer's keys. Pure: the time comes with the question.
//!
//! What is cheap comes first (issuer, time, audience), then the signature; nothing of a token counts before all of it held.
//! Comes after `token`, before `cache`, which remembers what held. Order and skew are those of Envoy's jwt_authn filter.

use std::sync::Arc;

use http::{HeaderName, HeaderValue};
use serde_json::{Map, Value};

use super::claims::Claims;
use super::keys::KeySet;
use super::output::Outputs;
use super::refusal::Refusal;
use super::token::Token;

/// Seconds that clocks may be apart (Envoy, `JwtProvider.clock_skew_seconds`).
const SKEW: u64 = 60;

/// What a rule wants of a token, and what it makes of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expected {
    /// `iss`; None where any issuer's token will do that the rule's keys signed.
    pub issuer: Option<String>,
    /// One of these in `aud`; empty for any.
    pub audiences: Vec<String>,
    /// Claims that are lists delimited by spaces.
    pub space_delimited: Vec<String>,
    /// Headers for the application.
    pub outputs: Outputs,
}

/// A token that held.
#[derive(Clone, Debug)]
pub struct Verified {
    /// What it says.
    pub claims: Arc<Claims>,
    /// Headers that the rule makes of it.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    life: Life,
}

/// When a token is good, in seconds of Unix time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Life {
    not_before: Option<u64>,
    expires: Option<u64>,
}

impl Expected {
    /// True if the token's issuer is the rule's.
    pub(super) fn is_for(&self, token: &Token<'_>) -> Result<bool, Refusal> {
        let issuer = text(&token.claims, "iss")?;
        Ok(self.issuer.as_deref().is_none_or(|wanted| issuer == Some(wanted)))
    }
}

impl Verified {
    #[cfg(test)]
    pub(super) fn for_tests() -> Self {
        Self { claims: Arc::default(), headers: Vec::new(), life: Life::default() }
    }

    /// True if its time has come and not passed.
    ///
    /// # Errors
    /// [`Refusal::NotYetValid`] or [`Refusal::Expired`].
    pub fn is_alive(&self, now: u64) -> Result<(), Refusal> {
        self.life.check(now)
    }
}

impl Life {
    fn of(claims: &Map<String, Value>) -> Result<Self, Refusal> {
        // Checked though nothing hangs on it: a token with a broken time is broken.
        time(claims, "iat")?;
        Ok(Self { not_before: time(claims, "nbf")?, expires: time(claims, "exp")? })
    }

    fn check(self, now: u64) -> Result<(), Refusal> {
        if self.not_before.is_some_and(|time| time > now.saturating_add(SKEW)) {
            return Err(Refusal::NotYetValid);
        }
        if self.expires.is_some_and(|time| now > time.saturating_add(SKEW)) {
            return Err(Refusal::Expired);
        }
        Ok(())
    }
}

/// Holds a token against a rule; `now` in seconds of Unix time.
///
/// # Errors
/// The first thing that doesn't hold.
pub fn verify(text: &str, expected: &Expected, keys: &KeySet, now: u64) -> Result<Verified, Refusal> {
    check(&Token::parse(text)?, expected, keys, now)
}

/// [`verify`] for a token that was taken apart before.
pub(super) fn check(
    token: &Token<'_>,
    expected: &Expected,
    keys: &KeySet,
    now: u64,
) -> Result<Verified, Refusal> {
    let claims = &token.claims;
    let issuer = text(claims, "iss")?;
    if !expected.is_for(token)? {
        return Err(Refusal::UnknownIssuer);
    }
    let (subject, presenter) = (text(claims, "sub")?, text(claims, "azp")?);
    let life = Life::of(claims)?;
    life.check(now)?;
    let audiences = audiences(claims)?;
    let wanted = &expected.audiences;
    if !wanted.is_empty()
        && !audiences.iter().any(|own| wanted.iter().any(|wanted| bare(wanted) == bare(own)))
    {
        return Err(Refusal::Audience);
    }
    keys.verify(token.algorithm, token.kid.as_deref(), token.signed.as_bytes(), &token.signature)?;
    let principal = match (issuer, subject) {
        (Some(issuer), Some(subject)) if !issuer.is_empty() && !subject.is_empty() => {
            format!("{issuer}/{subject}")
        }
        _ => String::new(),
    };
    let headers = expected.outputs.headers(claims, token.payload);
    let claims = Claims {
        principal,
        audiences,
        presenter: presenter.unwrap_or_default().to_owned(),
        all: split(claims.clone(), &expected.space_delimited),
    };
    Ok(Verified { claims: Arc::new(claims), headers, life })
}

fn text<'c>(claims: &'c Map<String, Value>, name: &str) -> Result<Option<&'c str>, Refusal> {
    match claims.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(Refusal::BadClaims),
    }
}

/// A NumericDate (RFC 7519, 2); parts of a second are cut off.
fn time(claims: &Map<String, Value>, name: &str) -> Result<Option<u64>, Refusal> {
    let Some(value) = claims.get(name) else { return Ok(None) };
    if let Some(whole) = value.as_u64() {
        return Ok(Some(whole));
    }
    match value.as_f64() {
        // Every number below is exact enough for seconds; later than that is a mistake.
        Some(time) if (0.0..9e15).contains(&time) => Ok(Some(time as u64)),
        _ => Err(Refusal::BadClaims),
    }
}

fn audiences(claims: &Map<String, Value>) -> Result<Vec<String>, Refusal> {
    match claims.get("aud") {
        None => Ok(Vec::new()),
        Some(Value::String(one)) => Ok(vec![one.clone()]),
        Some(Value::Array(list)) => {
            let all = list.iter().map(|one| one.as_str().map(str::to_owned));
            all.collect::<Option<_>>().ok_or(Refusal::BadClaims)
        }
        Some(_) => Err(Refusal::BadClaims),
    }
}

/// An audience without scheme and last slash, which Envoy doesn't compare either.
fn bare(audience: &str) -> &str {
    let rest = audience.strip_prefix("https://").or_else(|| audience.strip_prefix("http://"));
    let rest = rest.unwrap_or(audience);
    rest.strip_suffix('/').unwrap_or(rest)
}

/// With the claims in `names` that are text made lists (Envoy, `normalize_payload_in_metadata`).
fn split(mut claims: Map<String, Value>, names: &[String]) -> Map<String, Value> {
    for name in names {
        if let Some(value) = claims.get_mut(name)
            && let Value::String(text) = value
        {
            let words = text.split(' ').filter(|word| !word.is_empty());
            *value = words.map(|word| Value::String(word.to_owned())).collect();
        }
    }
    claims
}

#[cfg(test)]
mod tests;
