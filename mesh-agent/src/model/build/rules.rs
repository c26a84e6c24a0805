//! DestinationRules by the host that they are for, and which of them a client of a service is under.
//!
//! Look-up order as Istio's: rules of the client's namespace, then of the service's, then of the root namespace; in each
//! the most specific host. Several rules of one host count as one, whose traffic policy is the oldest one's.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Builder, Dirty, service_key};
use crate::model::{ObjectName, Warning, WarningCode};
use crate::objects::{DestinationRule, Kind, Object, ObjectKey, Subset};
use crate::policy;
use crate::tls::By;

/// Rules by host, as `DestinationRule::host` has it.
pub(super) type Hosts = BTreeMap<String, BTreeSet<ObjectName>>;

/// The rules of one namespace for one host, which count as one.
#[derive(Clone, Debug)]
pub(super) struct InForce<'a> {
    /// The one whose traffic policy is used.
    pub(super) policy: &'a DestinationRule,
    /// All of them, the oldest first.
    all: Vec<&'a DestinationRule>,
}

impl<'a> InForce<'a> {
    /// The subset with this name. The oldest rule that has one goes first (Istio, `mergeDestinationRule`).
    pub(super) fn subset(&self, name: &str) -> Option<&'a Subset> {
        self.subsets().find(|subset| subset.name == name)
    }

    pub(super) fn subsets(&self) -> impl Iterator<Item = &'a Subset> {
        self.all.iter().flat_map(|rule| &rule.spec.subsets)
    }

    fn same(&self, other: &Self) -> bool {
        let same = |(a, b): (&&DestinationRule, &&DestinationRule)| std::ptr::eq(*a, *b);
        std::ptr::eq(self.policy, other.policy)
            && self.all.len() == other.all.len()
            && self.all.iter().zip(&other.all).all(same)
    }
}

/// Clients that are under a rule of their own.
pub(super) struct Audience<'a> {
    pub(super) namespace: &'a str,
    /// Of the rule's `workloadSelector`.
    pub(super) labels: Option<&'a BTreeMap<String, String>>,
    pub(super) rule: Option<InForce<'a>>,
}

impl Builder {
    /// Notes which host a rule was and is for.
    pub(super) fn touch_rule(&mut self, key: &ObjectKey, object: Option<&Object>, dirty: &mut Dirty) {
        let domain = &self.options.cluster_domain;
        let host_of = |object: Option<&Object>| match object {
            Some(Object::DestinationRule(rule)) => Some(rule.host(domain)),
            _ => None,
        };
        let old = host_of(self.objects.get(key).map(|object| &**object));
        let new = host_of(object);
        for host in old.iter().chain(new.iter().filter(|new| old.as_ref() != Some(*new))) {
            dirty.services.extend(self.services_of(host));
        }
        if old != new
            && let Some(old) = old
            && let Some(rules) = self.hosts.get_mut(&old)
        {
            rules.remove(&key.name);
            if rules.is_empty() {
                self.hosts.remove(&old);
            }
        }
        if let Some(new) = new {
            self.hosts.entry(new).or_default().insert(key.name.clone());
        }
        if let Some(Object::DestinationRule(rule)) = object {
            self.note(key.clone(), policy::warnings(rule));
        }
    }

    /// What clients in no particular namespace are under, and what clients with something else are.
    pub(super) fn rules_for(
        &self,
        service: &ObjectName,
        host: &str,
    ) -> (Option<InForce<'_>>, Vec<Audience<'_>>) {
        let rules = self.rules_of(host);
        if rules.is_empty() {
            return (None, Vec::new());
        }
        let root = self.options.root_namespace.as_str();
        let everybody = base(&rules, None, service, root);
        let mut namespaces = BTreeSet::new();
        for rule in &rules {
            namespaces.insert(rule.namespace());
            namespaces
                .extend(rule.spec.export_to.iter().map(String::as_str).filter(|to| !["*", "."].contains(to)));
        }
        let mut others = Vec::new();
        for namespace in namespaces {
            for rule in most_specific(&rules, namespace, |rule| rule.spec.workload_selector.is_some()) {
                if rule.is_exported_to(Some(namespace)) {
                    let labels = rule.spec.workload_selector.as_ref().map(|selector| &selector.match_labels);
                    let rule = InForce { policy: rule, all: vec![rule] };
                    others.push(Audience { namespace, labels, rule: Some(rule) });
                }
            }
            let own = base(&rules, Some(namespace), service, root);
            let same = match (&own, &everybody) {
                (Some(own), Some(everybody)) => own.same(everybody),
                (None, None) => true,
                _ => false,
            };
            if !same {
                others.push(Audience { namespace, labels: None, rule: own });
            }
        }
        (everybody, others)
    }

    /// About rules without a service, and rules that are at odds.
    pub(super) fn rule_warnings(&self, mut add: impl FnMut(&ObjectKey, Warning)) {
        for problem in self.originations.problems() {
            let By::Object(key) = problem.spec.by.clone() else { continue };
            // What connections hold on to may be of a rule that says something else by now.
            let asked = self.rule(&key.name).filter(|_| key.kind == Kind::DestinationRule);
            let field = match asked.and_then(|rule| policy::asked_at(rule, &problem.spec)) {
                Some(path) => format!("{path}.tls.{}", problem.field),
                None if key.kind == Kind::BackendTlsPolicy && self.objects.contains_key(&key) => {
                    "spec.validation".to_owned()
                }
                None => continue,
            };
            let consequence = match problem.former {
                true => "what was read before stays in force",
                false => "connections to the host are REFUSED until it can be used",
            };
            let message =
                format!("{}: {consequence}; it is looked at again every few seconds", problem.message);
            add(&key, Warning::new(WarningCode::TlsFileUnusable, &key, field, message));
        }
        for (host, names) in &self.hosts {
            let found = self
                .services_of(host)
                .iter()
                .any(|name| self.objects.contains_key(&service_key(name)) || self.is_outside(name));
            let mut rules: Vec<_> = names.iter().filter_map(|name| self.rule(name)).collect();
            rules.sort_by_key(|rule| age(rule));
            let mut first: BTreeMap<&str, &DestinationRule> = BTreeMap::new();
            for rule in rules {
                let key = ObjectKey::new(Kind::DestinationRule, Some(rule.namespace()), &rule.metadata.name);
                if !found {
                    let message = format!(
                        "no Service or ServiceEntry has the host {host}: the rule has no effect; a name without dots is one of the rule's \
                         own namespace, any other must be written out as NAME.NAMESPACE.svc.{}",
                        self.options.cluster_domain
                    );
                    add(&key, Warning::new(WarningCode::HostNotFound, &key, "spec.host", message));
                }
                for (at, subset) in rule.spec.subsets.iter().enumerate().filter(|_| found) {
                    if !self.names_subset(host, &subset.name) {
                        let message = format!(
                            "no route names it, so nothing goes by it: name it at a backendRef, by a filter of type ExtensionRef \
                             with group: mesh-agent.dev, kind: Subset, name: {}",
                            subset.name
                        );
                        let field = format!("spec.subsets[{at}]");
                        add(&key, Warning::new(WarningCode::UnsupportedFeature, &key, field, message));
                    }
                }
                if rule.spec.workload_selector.is_some() || rule.spec.traffic_policy.is_none() {
                    continue;
                }
                if let Some(winner) = first.get(rule.namespace()) {
                    let message = format!(
                        "{host} already has the traffic policy of DestinationRule {}/{}, which is used: put both into one",
                        winner.namespace(),
                        winner.metadata.name
                    );
                    add(&key, Warning::new(WarningCode::RuleConflict, &key, "spec.trafficPolicy", message));
                } else {
                    first.insert(rule.namespace(), rule);
                }
            }
        }
    }

    /// Services that a host is about, whether they are there or not.
    pub(super) fn services_of(&self, host: &str) -> Vec<ObjectName> {
        let suffix = format!(".svc.{}", self.options.cluster_domain);
        let Some(end) = host.strip_prefix('*') else {
            let name = host.strip_suffix(&suffix).and_then(|host| host.split_once('.'));
            let inside = name.map(|(name, namespace)| ObjectName::new(namespace, name));
            return inside.into_iter().chain(self.outside_services(|other| other == host).cloned()).collect();
        };
        let services = self.objects.keys().filter(|key| key.kind == Kind::Service);
        let names = services.map(|key| &key.name);
        names
            .filter(|name| format!("{}.{}{suffix}", name.name, name.namespace).ends_with(end))
            .chain(self.outside_services(|host| host.ends_with(end)))
            .cloned()
            .collect()
    }

    /// Every rule that is about `host`.
    fn rules_of(&self, host: &str) -> Vec<&DestinationRule> {
        // The host of a ServiceEntry may be a wildcard itself, and is then found among those.
        let exact = self.hosts.get(host).filter(|_| !host.starts_with('*'));
        // Wildcards sort together.
        let wild = self.hosts.range("*".to_owned()..).take_while(|(wild, _)| wild.starts_with('*'));
        let wild = wild.filter(|(wild, _)| host.ends_with(&wild[1..])).map(|(_, names)| names);
        exact.into_iter().chain(wild).flatten().filter_map(|name| self.rule(name)).collect()
    }

    fn rule(&self, name: &ObjectName) -> Option<&DestinationRule> {
        let key = ObjectKey { kind: Kind::DestinationRule, name: name.clone() };
        match self.objects.get(&key).map(|object: &Arc<Object>| &**object) {
            Some(Object::DestinationRule(rule)) => Some(rule),
            _ => None,
        }
    }
}

/// The rule without a selector that clients in `namespace` are under.
fn base<'a>(
    rules: &[&'a DestinationRule],
    namespace: Option<&str>,
    service: &ObjectName,
    root: &str,
) -> Option<InForce<'a>> {
    let scopes = namespace.into_iter().chain([service.namespace.as_str(), root]);
    scopes
        .filter_map(|scope| {
            let visible = |rule: &DestinationRule| {
                rule.spec.workload_selector.is_none() && rule.is_exported_to(namespace)
            };
            let all = most_specific(rules, scope, visible);
            let with_policy = all.iter().find(|rule| rule.spec.traffic_policy.is_some());
            let policy = with_policy.or(all.first()).copied()?;
            Some(InForce { policy, all })
        })
        .next()
}

/// The `wanted` rules of a namespace that have its most specific host, oldest first.
fn most_specific<'a>(
    rules: &[&'a DestinationRule],
    namespace: &str,
    wanted: impl Fn(&DestinationRule) -> bool,
) -> Vec<&'a DestinationRule> {
    let precision = |rule: &DestinationRule| (!rule.spec.host.starts_with('*'), rule.spec.host.len());
    let same = |a: &DestinationRule, b: &DestinationRule| match (precision(a), precision(b)) {
        // A short name and the long one are the same host.
        ((true, _), (true, _)) => true,
        (a, b) => a == b,
    };
    let mut found: Vec<_> =
        rules.iter().copied().filter(|rule| rule.namespace() == namespace && wanted(rule)).collect();
    found.sort_by_key(|rule| (Reverse(precision(rule).0), Reverse(precision(rule).1), ()));
    let Some(first) = found.first().copied() else { return found };
    found.retain(|rule| same(rule, first));
    found.sort_by_key(|rule| age(rule));
    found
}

/// Without a time stamp a rule counts as young.
fn age(rule: &DestinationRule) -> (bool, Option<&str>, &str) {
    let created = rule.metadata.creation_timestamp.as_deref();
    (created.is_none(), created, &rule.metadata.name)
}
