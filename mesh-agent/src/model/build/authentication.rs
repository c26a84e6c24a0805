//! RequestAuthentications: compiled each by itself, then put together for every pod of this node that they select.
//!
//! A rule that didn't change stays the one that it was, with the tokens that are remembered under it and the keys that were
//! fetched for it. What is odd about a policy is said here too; what is wrong about it by itself `objects` has refused.

mod advice;

use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;

use super::{Builder, Dirty};
use crate::authz::Selection;
use crate::jwt::{self, Expected, KeySet, Keys, Location, Outputs, Rule, Source, Spec, Store};
use crate::model::{ObjectName, Snapshot, TokenPolicy, Warning, Workload};
use crate::objects::{JwtRule, Kind, Object, ObjectKey, RequestAuthentication};

/// Istio, JWTRule, `timeout`.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Claims that are lists delimited by spaces in every token (Istio, JWTRule, `spaceDelimitedClaims`).
const SPACE_DELIMITED: [&str; 2] = ["scope", "permission"];

impl Builder {
    /// Notes that a policy comes, changes or goes.
    pub(super) fn touch_authentication(
        &mut self,
        key: &ObjectKey,
        object: Option<&Object>,
        dirty: &mut Dirty,
    ) {
        if let Some(Object::RequestAuthentication(policy)) = object {
            self.note(key.clone(), advice::of(key, policy));
        }
        dirty.authentication.push(key.name.clone());
    }

    /// Builds what a batch touched; true if anything changed. `others`: pods or services did.
    pub(super) fn build_authentication(
        &mut self,
        dirty: Vec<ObjectName>,
        others: bool,
        next: &mut Snapshot,
    ) -> bool {
        if dirty.is_empty() && (!others || next.authentication.policies.is_empty()) {
            return false;
        }
        let mut changed = !dirty.is_empty();
        for name in dirty {
            let key = ObjectKey { kind: Kind::RequestAuthentication, name: name.clone() };
            match self.objects.get(&key).map(|object| &**object) {
                Some(Object::RequestAuthentication(object)) => {
                    let policy = Arc::new(self.compile_authentication(object));
                    next.authentication.policies.insert_mut(name, policy);
                }
                _ => drop(next.authentication.policies.remove_mut(&name)),
            }
        }
        let pods: Vec<Arc<Workload>> = next.enrolled().cloned().collect();
        for pod in &pods {
            changed |= authenticate(pod, next);
        }
        let is_here = |name: &ObjectName| pods.iter().any(|pod| pod.name == *name);
        let gone = next.authentication.workloads.keys().filter(|name| !is_here(name));
        for name in gone.cloned().collect::<Vec<_>>() {
            changed |= next.authentication.workloads.remove_mut(&name);
        }
        changed
    }

    fn compile_authentication(&self, object: &RequestAuthentication) -> TokenPolicy {
        let name = ObjectName::new(object.namespace(), &object.metadata.name);
        let rules = object.spec.jwt_rules.iter().enumerate();
        let rules = rules.map(|(at, written)| {
            let keys = keys(written, object.is_understood(at), &self.key_sources);
            let (locations, expected) = (locations(written), expected(written));
            Arc::new(Rule::new(name.clone(), at, locations, expected, written.forward_original_token, keys))
        });
        TokenPolicy {
            is_of_root: name.namespace == self.options.root_namespace,
            created: object.metadata.creation_timestamp.clone(),
            selection: selection(object),
            rules: rules.collect(),
            name,
        }
    }

    /// Where keys are fetched from: made here, followed by whoever publishes the snapshots.
    pub fn key_sources(&self) -> &Arc<Store> {
        &self.key_sources
    }

    /// About policies that select nothing, and rules whose tokens can't hold at the moment.
    pub(super) fn authentication_warnings(&self, add: impl FnMut(&ObjectKey, Warning)) {
        advice::of_all(&self.snapshot, add);
    }
}

fn authenticate(pod: &Workload, next: &mut Snapshot) -> bool {
    match next.tokens_for(pod) {
        None => next.authentication.workloads.remove_mut(&pod.name),
        Some(tokens) if next.authentication_of(pod).is_some_and(|before| **before == tokens) => false,
        Some(tokens) => {
            next.authentication.workloads.insert_mut(pod.name.clone(), Arc::new(tokens));
            true
        }
    }
}

fn selection(object: &RequestAuthentication) -> Selection {
    let mut targets = object.targets().peekable();
    if targets.peek().is_none() {
        return Selection::Pods(object.labels().cloned().unwrap_or_default());
    }
    Selection::Services(
        targets.filter(|target| target.is_service()).map(|target| target.name.clone()).collect(),
    )
}

fn keys(rule: &JwtRule, understood: bool, sources: &Store) -> Keys {
    if !understood {
        return Keys::None;
    }
    if !rule.jwks.is_empty() {
        return KeySet::parse(rule.jwks.as_bytes()).map_or(Keys::None, |keys| Keys::Inline(Arc::new(keys)));
    }
    let timeout = rule.timeout.map_or(TIMEOUT, |timeout| timeout.0);
    source(rule).map_or(Keys::None, |source| Keys::Remote(sources.get(Spec { source, timeout })))
}

/// Where a rule without keys of its own gets them; None where nothing says it.
fn source(rule: &JwtRule) -> Option<Source> {
    let uri = |text: &str| jwt::url(text);
    match &*rule.jwks_uri {
        "" => uri(&rule.issuer).map(Source::Issuer),
        written => uri(written).map(Source::Keys),
    }
}

fn locations(rule: &JwtRule) -> Vec<Location> {
    let headers = rule.from_headers.iter().filter_map(|header| {
        Some(Location::Header {
            name: HeaderName::try_from(&header.name).ok()?,
            prefix: header.prefix.clone(),
        })
    });
    let params = rule.from_params.iter().cloned().map(Location::Param);
    let cookies = rule.from_cookies.iter().cloned().map(Location::Cookie);
    let named: Vec<_> = headers.chain(params).chain(cookies).collect();
    if named.is_empty() { Location::defaults() } else { named }
}

fn expected(rule: &JwtRule) -> Expected {
    let custom = rule.space_delimited_claims.iter().cloned();
    let claims = rule.output_claim_to_headers.iter();
    Expected {
        issuer: Some(rule.issuer.clone()).filter(|issuer| !issuer.is_empty()),
        audiences: rule.audiences.clone(),
        space_delimited: SPACE_DELIMITED.iter().map(|claim| (*claim).to_owned()).chain(custom).collect(),
        outputs: Outputs {
            payload: HeaderName::try_from(&rule.output_payload_to_header).ok(),
            claims: claims
                .filter_map(|out| Some((HeaderName::try_from(&out.header).ok()?, out.claim.clone())))
                .collect(),
        },
    }
}
