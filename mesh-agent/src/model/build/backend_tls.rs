//! BackendTLSPolicies by the Service that they are attached to, with the authorities of their ConfigMaps.
//!
//! A policy belongs to Services of its own namespace. One for a port goes before one for the whole Service; of several for the
//! same, the oldest holds (GEP-1897). A DestinationRule that says something of TLS goes before any of them, as in Istio. Used by
//! `variants`. What can't be had is refused, never sent as it is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rustls::pki_types::ServerName;

use super::{Builder, Dirty, service_key};
use crate::model::{ObjectName, Warning, WarningCode};
use crate::objects::{BackendTlsPolicy, Kind, Object, ObjectKey, TlsTarget};
use crate::policy::Unusable;
use crate::tls::{self, By, Spec, Trust};

/// Policies by what they name.
#[derive(Debug, Default)]
pub(super) struct BackendTls {
    services: BTreeMap<ObjectName, BTreeSet<ObjectKey>>,
    config_maps: BTreeMap<ObjectName, BTreeSet<ObjectKey>>,
}

impl Builder {
    /// Notes that a policy comes, changes or goes.
    pub(super) fn touch_backend_tls(&mut self, key: &ObjectKey, new: Option<&Object>, dirty: &mut Dirty) {
        let old = self.objects.get(key).cloned();
        let old = old.as_deref().and_then(policy);
        let new = new.and_then(policy);
        let index = &mut self.backend_tls;
        for (names, of) in [
            (&mut index.services, targets as fn(&BackendTlsPolicy) -> BTreeSet<ObjectName>),
            (&mut index.config_maps, authorities),
        ] {
            for name in old.map(of).into_iter().flatten() {
                let left = names.get_mut(&name).is_some_and(|keys| keys.remove(key) && !keys.is_empty());
                if !left {
                    names.remove(&name);
                }
            }
            for name in new.map(of).into_iter().flatten() {
                names.entry(name).or_default().insert(key.clone());
            }
        }
        dirty.services.extend(old.map(targets).into_iter().chain(new.map(targets)).flatten());
        self.note(key.clone(), new.map(|policy| unusable(key, policy)).unwrap_or_default());
    }

    /// Notes that a ConfigMap comes, changes or goes.
    pub(super) fn touch_config_map(&mut self, name: &ObjectName, dirty: &mut Dirty) {
        let keys = self.backend_tls.config_maps.get(name).into_iter().flatten();
        dirty.services.extend(keys.filter_map(|key| self.backend_tls_policy(key)).flat_map(targets));
    }

    /// What connections to a port of a Service are wrapped in by the policy that holds there, with its name; if there is one.
    pub(super) fn backend_tls(
        &self,
        service: &ObjectName,
        port: &str,
    ) -> Option<(ObjectName, Result<Spec, Unusable>)> {
        let policy = self.backend_tls_of(service, port).into_iter().next()?;
        let name = ObjectName::new(policy.namespace(), &policy.metadata.name);
        Some((name, self.backend_tls_spec(policy).ok_or(Unusable::TlsNotOriginated)))
    }

    fn backend_tls_spec(&self, policy: &BackendTlsPolicy) -> Option<Spec> {
        let validation = &policy.spec.validation;
        let trust = match validation.well_known {
            Some(_) => Trust::System,
            None => Trust::Given(self.authorities_of(policy).0?.into()),
        };
        let key = ObjectKey::new(Kind::BackendTlsPolicy, Some(policy.namespace()), &policy.metadata.name);
        (!policy.closed).then_some(Spec {
            by: By::Object(key),
            server_name: ServerName::try_from(validation.hostname.to_string()).ok()?,
            names: validation.subject_alt_names.iter().map(|it| it.name().to_owned()).collect(),
            trust,
            identity: None,
        })
    }

    /// All authorities in PEM, if there is one; and what is wrong with the references, each by its place. One of several that is
    /// of no use leaves the others in force.
    fn authorities_of(&self, policy: &BackendTlsPolicy) -> (Option<String>, Vec<(usize, String)>) {
        let (mut found, mut wrong) = (String::new(), Vec::new());
        for (at, named) in policy.spec.validation.ca_certificate_refs.iter().enumerate() {
            let name = ObjectName::new(policy.namespace(), &*named.name);
            let pem = match self.objects.get(&ObjectKey { kind: Kind::ConfigMap, name: name.clone() }) {
                _ if !named.group.is_empty() || &*named.kind != "ConfigMap" => {
                    Err(format!("{} can't be had: name a ConfigMap, with group: \"\"", &*named.kind))
                }
                None => Err(format!("there is no ConfigMap {name}")),
                Some(object) => match &**object {
                    Object::ConfigMap(map) => {
                        map.authorities().ok_or_else(|| format!("ConfigMap {name} has no ca.crt"))
                    }
                    _ => continue,
                },
            };
            let checked = pem.and_then(|pem| match tls::check_authorities(pem) {
                Ok(()) => Ok(pem),
                Err(why) => Err(format!("ca.crt of ConfigMap {name}: {why}")),
            });
            match checked {
                Ok(pem) => {
                    found.push_str(pem);
                    found.push('\n');
                }
                Err(why) => wrong.push((at, why)),
            }
        }
        ((!found.is_empty()).then_some(found), wrong)
    }

    /// What holds for nothing, and what can't be had.
    pub(super) fn backend_tls_warnings(&self, mut add: impl FnMut(&ObjectKey, Warning)) {
        let keys: BTreeSet<_> = self.backend_tls.services.values().flatten().collect();
        for key in keys {
            let Some(policy) = self.backend_tls_policy(key) else { continue };
            for (at, why) in self.authorities_of(policy).1 {
                let message = format!(
                    "{why}: connections to what the policy names are REFUSED unless another of its references has an authority"
                );
                let field = format!("spec.validation.caCertificateRefs[{at}]");
                add(key, Warning::new(WarningCode::AuthorityUnusable, key, field, message));
            }
            for (at, target) in policy.spec.target_refs.iter().enumerate().filter(|(_, it)| it.is_service()) {
                if let Some((code, message)) = self.target_problem(key, policy, target) {
                    add(key, Warning::new(code, key, format!("spec.targetRefs[{at}]"), message));
                }
            }
        }
    }

    fn target_problem(
        &self,
        key: &ObjectKey,
        policy: &BackendTlsPolicy,
        target: &TlsTarget,
    ) -> Option<(WarningCode, String)> {
        let service = ObjectName::new(policy.namespace(), &*target.name);
        let Some(Object::Service(raw)) = self.objects.get(&service_key(&service)).map(|object| &**object)
        else {
            let message = format!("there is no Service {service}: the policy holds as soon as there is");
            return Some((WarningCode::TargetNotFound, message));
        };
        let section = target.section_name.as_deref();
        let mut ports =
            raw.spec.ports.iter().filter(|port| section.is_none_or(|section| port.name == section));
        let Some(first) = ports.next() else {
            let message = format!(
                "Service {service} has no port that is named {}: the policy holds as soon as it has",
                section.unwrap_or_default()
            );
            return Some((WarningCode::TargetNotFound, message));
        };
        let holds = self.backend_tls_of(&service, section.unwrap_or(&first.name));
        let winner = holds.into_iter().next()?;
        let same = winner.metadata.name == key.name.name;
        let as_precise = names(winner, &service, Some(section.unwrap_or(&first.name))) == section.is_some();
        (!same && as_precise).then(|| {
            let message = format!(
                "{service} has an older policy for the same, {}, which holds alone: merge the two",
                winner.metadata.name
            );
            (WarningCode::ConflictingPolicy, message)
        })
    }

    /// Policies of a port, the one that holds first.
    fn backend_tls_of(&self, service: &ObjectName, port: &str) -> Vec<&BackendTlsPolicy> {
        let keys = self.backend_tls.services.get(service).into_iter().flatten();
        let mut found: Vec<(bool, &BackendTlsPolicy)> = keys
            .filter_map(|key| self.backend_tls_policy(key))
            .filter_map(|policy| {
                let precise = !port.is_empty() && names(policy, service, Some(port));
                (precise || names(policy, service, None)).then_some((precise, policy))
            })
            .collect();
        found.sort_by_key(|(precise, policy)| {
            let created = policy.metadata.creation_timestamp.as_ref();
            (!precise, created.is_none(), created, &policy.metadata.name)
        });
        found.into_iter().map(|(_, policy)| policy).collect()
    }

    fn backend_tls_policy(&self, key: &ObjectKey) -> Option<&BackendTlsPolicy> {
        self.objects.get(key).and_then(|object: &Arc<Object>| policy(object))
    }
}

fn policy(object: &Object) -> Option<&BackendTlsPolicy> {
    if let Object::BackendTlsPolicy(policy) = object { Some(policy) } else { None }
}

/// True if the policy names this section of the Service, or the Service as a whole.
fn names(policy: &BackendTlsPolicy, service: &ObjectName, section: Option<&str>) -> bool {
    let mut targets = policy.spec.target_refs.iter();
    targets.any(|it| it.is_service() && *it.name == *service.name && it.section_name.as_deref() == section)
}

fn targets(policy: &BackendTlsPolicy) -> BTreeSet<ObjectName> {
    let services = policy.spec.target_refs.iter().filter(|target| target.is_service());
    services.map(|target| ObjectName::new(policy.namespace(), &*target.name)).collect()
}

/// ConfigMaps that the policy names.
pub fn authorities(policy: &BackendTlsPolicy) -> BTreeSet<ObjectName> {
    let maps = policy.spec.validation.ca_certificate_refs.iter();
    let maps = maps.filter(|it| it.group.is_empty() && &*it.kind == "ConfigMap");
    maps.map(|it| ObjectName::new(policy.namespace(), &*it.name)).collect()
}

/// What is wrong with it whatever else there is.
fn unusable(key: &ObjectKey, policy: &BackendTlsPolicy) -> Vec<Warning> {
    let mut warnings = Vec::new();
    for (index, target) in policy.spec.target_refs.iter().enumerate().filter(|(_, it)| !it.is_service()) {
        let field = format!("spec.targetRefs[{index}].kind");
        let message = format!(
            "{} of group {:?} can't have this policy: name a Service, with group: \"\"",
            &*target.kind, &*target.group
        );
        warnings.push(Warning::new(WarningCode::UnsupportedReference, key, field, message));
    }
    if policy.closed {
        let message =
            "it has no valid version: connections to what it names are REFUSED until it has; correct it";
        warnings.push(Warning::new(WarningCode::AuthorityUnusable, key, "spec", message));
    }
    for option in policy.spec.options.keys() {
        let field = format!("spec.options[{option}]");
        let message = "means nothing here: options are for other implementations; remove it";
        warnings.push(Warning::new(WarningCode::UnsupportedValue, key, field, message));
    }
    warnings
}
