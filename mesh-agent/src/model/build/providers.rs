//! Whom AuthorizationPolicies with action CUSTOM ask: what people are told of providers that aren't there, or are too many.
//!
//! The providers themselves are the configuration file's; where that isn't known, as for `config validate`, nothing is said.

use std::collections::BTreeMap;

use super::Builder;
use crate::authz::Policy;
use crate::model::{ObjectName, Warning, WarningCode};
use crate::objects::{Action, Kind, ObjectKey};

impl Builder {
    /// About policies whose providers can't be asked.
    pub(super) fn provider_warnings(&self, mut add: impl FnMut(&ObjectKey, Warning)) {
        let Some(known) = &self.options.providers else { return };
        let mut warn = |policy: &ObjectName, code, message: String| {
            let key = ObjectKey { kind: Kind::AuthorizationPolicy, name: policy.clone() };
            add(&key, Warning::new(code, &key, "spec.provider.name", message));
        };
        for policy in self.snapshot.authorization.policies.values() {
            let Some(name) = provider(policy).filter(|name| !known.iter().any(|known| known == name)) else {
                continue;
            };
            let has = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            let message = format!(
                "{name:?} isn't among extensionProviders of the agent's configuration file, which has {has}: everything that its \
                 rules match is refused"
            );
            warn(&policy.name, WarningCode::ProviderUnknown, message);
        }
        for (pod, policies) in self.snapshot.authorization.workloads.iter() {
            let mut asked: BTreeMap<&str, &ObjectName> = BTreeMap::new();
            for policy in policies.all.policies() {
                if let Some(name) = provider(policy) {
                    asked.entry(name).or_insert(&policy.name);
                }
            }
            for (name, policy) in asked.iter().skip(1) {
                let message = format!(
                    "{name:?} is another provider than what other policies for Pod {pod} ask, and a pod has one: everything \
                     that their rules match there is refused, as in Istio; name one provider in all of them"
                );
                warn(policy, WarningCode::ProvidersConflict, message);
            }
        }
    }
}

fn provider(policy: &Policy) -> Option<&str> {
    let custom = policy.action == Action::Custom && !policy.dry_run;
    policy.rules.first().filter(|_| custom)?.name.provider.as_deref()
}
