//! Whose request it is: every token in it held against the rules that hold for its destination.
//!
//! Pure, the time and the memory of tokens come with the question. Semantics are those that Istio gives Envoy's jwt_authn
//! filter: without a token a request passes as nobody's; with one, some rule that looks there has to accept it, or the request
//! is refused. A token that no rule accepts is refused even beside one that holds, since the application might read the
//! wrong one. Comes before authorization, on the way into a pod.

use std::sync::Arc;

use http::header::{HeaderName, ORIGIN};
use http::{Method, request};

use super::cache::{Cache, Digest, Under};
use super::claims::Claims;
use super::edits::Edits;
use super::location::Location;
use super::refusal::Refusal;
use super::rule::{Keys, Rule};
use super::token::{LONGEST, Token};
use super::verify::{self, Verified};

/// Tokens of one request that are looked at.
const MOST_TOKENS: usize = 4;

/// The rules of all RequestAuthentications that hold for a workload, the oldest policy's first.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Authentication {
    rules: Vec<Arc<Rule>>,
    /// Headers that a rule may set.
    outputs: Vec<HeaderName>,
}

/// What is known of a request that passed.
#[derive(Clone, Debug, Default)]
pub struct Authenticated {
    /// Of its token; None: it has none.
    pub claims: Option<Arc<Claims>>,
    /// What changes in it; None: nothing.
    pub edits: Option<Box<Edits>>,
}

/// A request that is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused<'a> {
    /// Why.
    pub why: Refusal,
    /// Places of rules in [`Authentication::rules`] to name in the log: the one that said so.
    pub rule: Option<&'a Arc<Rule>>,
}

impl PartialEq for Rule {
    fn eq(&self, other: &Self) -> bool {
        self.id() == other.id()
    }
}

impl Eq for Rule {}

/// A token in a request, and the rules that look where it is.
struct Found<'h, 'r> {
    text: &'h str,
    seen_by: Vec<(&'r Arc<Rule>, &'r Location)>,
}

impl Authentication {
    /// Of these rules, in this order.
    pub fn new(rules: Vec<Arc<Rule>>) -> Self {
        let mut outputs: Vec<HeaderName> = Vec::new();
        for name in rules.iter().flat_map(|rule| rule.expected.outputs.names()) {
            if !outputs.contains(name) {
                outputs.push(name.clone());
            }
        }
        Self { rules, outputs }
    }

    /// Its rules.
    pub fn rules(&self) -> &[Arc<Rule>] {
        &self.rules
    }

    /// Judges a request at `now`, in seconds of Unix time.
    ///
    /// # Errors
    /// With why it is refused.
    pub fn check(
        &self,
        head: &request::Parts,
        cache: &mut Cache,
        now: u64,
    ) -> Result<Authenticated, Refused<'_>> {
        let mut edits = Edits::default();
        edits.strip(head, &self.outputs);
        // A browser asks without credentials whether it may send any; Istio lets such requests pass.
        if is_preflight(head) {
            return Ok(Authenticated::new(None, edits));
        }
        let tokens = self.find(head)?;
        let mut accepted: Option<(usize, Verified)> = None;
        let mut places = Vec::new();
        for found in &tokens {
            let (rule, verified) = accept(found, cache, now)?;
            let takes_out = found.seen_by.iter().filter(|(other, _)| Arc::ptr_eq(other, rule));
            if !rule.forward {
                places.extend(takes_out.map(|(_, place)| *place));
            }
            let order = self.rules.iter().position(|other| Arc::ptr_eq(other, rule)).unwrap_or(usize::MAX);
            if accepted.as_ref().is_none_or(|(before, _)| order < *before) {
                accepted = Some((order, verified));
            }
        }
        let broken = Refused { why: Refusal::Malformed, rule: None };
        edits.take_out(head, &places).ok_or(broken)?;
        let claims = accepted.map(|(_, verified)| {
            edits.add(&verified.headers);
            verified.claims
        });
        Ok(Authenticated::new(claims, edits))
    }

    /// Judges one token as if it stood where the rules look for theirs: for questions, not for the data path.
    ///
    /// # Errors
    /// With why it doesn't hold.
    pub fn check_token(&self, token: &str, now: u64) -> Result<(Arc<Claims>, &Arc<Rule>), Refused<'_>> {
        let places = self.rules.iter().filter_map(|rule| Some((rule, rule.locations.first()?)));
        let found = Found { text: token, seen_by: places.collect() };
        let (rule, verified) = accept(&found, &mut Cache::default(), now)?;
        Ok((verified.claims, rule))
    }

    /// The tokens in a request. Rules that look at one place find the same.
    fn find<'h>(&self, head: &'h request::Parts) -> Result<Vec<Found<'h, '_>>, Refused<'_>> {
        let mut tokens: Vec<Found<'h, '_>> = Vec::new();
        for rule in &self.rules {
            for location in &rule.locations {
                location.tokens(head, |text| {
                    match tokens.iter().position(|found| std::ptr::eq(found.text, text)) {
                        Some(at) => tokens[at].seen_by.push((rule, location)),
                        // One more says that there are too many.
                        None if tokens.len() <= MOST_TOKENS => {
                            tokens.push(Found { text, seen_by: vec![(rule, location)] });
                        }
                        None => {}
                    }
                });
            }
        }
        if tokens.len() > MOST_TOKENS {
            return Err(Refused { why: Refusal::TooLarge, rule: None });
        }
        Ok(tokens)
    }
}

impl Authenticated {
    fn new(claims: Option<Arc<Claims>>, edits: Edits) -> Self {
        Self { claims, edits: (!edits.is_empty()).then(|| Box::new(edits)) }
    }
}

fn is_preflight(head: &request::Parts) -> bool {
    head.method == Method::OPTIONS
        && head.headers.contains_key(ORIGIN)
        && head.headers.contains_key("access-control-request-method")
}

/// The first rule that accepts the token.
fn accept<'r>(
    found: &Found<'_, 'r>,
    cache: &mut Cache,
    now: u64,
) -> Result<(&'r Arc<Rule>, Verified), Refused<'r>> {
    if found.text.len() > LONGEST {
        return Err(Refused { why: Refusal::TooLarge, rule: None });
    }
    let digest = Digest::of(found.text);
    let mut parsed: Option<Result<Token<'_>, Refusal>> = None;
    let mut refused = Refused { why: Refusal::UnknownIssuer, rule: None };
    for (rule, _) in &found.seen_by {
        let judged = judge(rule, found.text, digest, &mut parsed, cache, now);
        match judged {
            Ok(verified) => return Ok((rule, verified)),
            Err(why) if refused.why == Refusal::UnknownIssuer => {
                refused = Refused { why: refused.why.or(why), rule: Some(rule) };
            }
            Err(_) => {}
        }
    }
    Err(refused)
}

fn judge<'h>(
    rule: &Rule,
    text: &'h str,
    digest: Digest,
    parsed: &mut Option<Result<Token<'h>, Refusal>>,
    cache: &mut Cache,
    now: u64,
) -> Result<Verified, Refusal> {
    let keys = rule.keys();
    let under = keys.as_ref().map(|keys| Under { rule: rule.id(), keys: keys.id() });
    if let Some(known) = under.and_then(|under| cache.get(digest, under)) {
        known.is_alive(now)?;
        return Ok(known);
    }
    let token = parsed.get_or_insert_with(|| Token::parse(text)).as_ref().map_err(|why| *why)?;
    let (Some(keys), Some(under)) = (keys, under) else {
        return Err(match rule.expected.is_for(token)? {
            true => Refusal::KeysUnavailable,
            false => Refusal::UnknownIssuer,
        });
    };
    let verified = verify::check(token, &rule.expected, &keys, now).inspect_err(|why| {
        // The issuer may have a new key since the last look.
        if let (Refusal::NoKey, Keys::Remote(remote)) = (why, &rule.keys) {
            remote.hurry();
        }
    })?;
    cache.put(digest, under, text, verified.clone());
    Ok(verified)
}

#[cfg(test)]
mod tests;
