//! ServiceEntries to services: one for each host, named by its namespace and the host itself, which no Kubernetes Service's
//! name can be.
//!
//! Names are resolved by `crate::names`; what it says comes in here by [`Builder::learn`] and makes only those services again
//! that the name is for. Comes beside `services`, which has the rest of the way in common.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::ports::from_app_protocol;
use super::variants::{Source, Spec};
use super::{Builder, Dirty, ports_of, service_key};
use crate::addr::EndpointAddr;
use crate::model::{
    AppProtocol, External, ObjectName, ProtocolFrom, Service, ServiceMeta, Snapshot, Warning, WarningCode,
};
use crate::names::{Addresses, Answer};
use crate::objects::{EntryPort, Kind, Network, Object, ObjectKey, Resolution, ServiceEntry, SliceEndpoint};

/// Who is for what.
#[derive(Debug, Default)]
pub(super) struct Entries {
    /// ServiceEntries by the service that they make.
    of: BTreeMap<ObjectName, BTreeSet<ObjectKey>>,
    /// Services by their host.
    hosts: BTreeMap<String, BTreeSet<ObjectName>>,
    /// Services by the names that are resolved for them.
    users: BTreeMap<String, BTreeSet<ObjectName>>,
    answers: BTreeMap<String, Known>,
    /// Services of which a name has other addresses than when they were built.
    stale: BTreeSet<ObjectName>,
}

#[derive(Debug, Default)]
struct Known {
    addresses: Option<Addresses>,
    /// Why the newest question had no answer.
    failure: Option<String>,
}

impl Builder {
    /// Notes which services an entry made and makes.
    pub(super) fn touch_entry(&mut self, key: &ObjectKey, object: Option<&Object>, dirty: &mut Dirty) {
        let services = |object: Option<&Object>| match object {
            Some(Object::ServiceEntry(entry)) => services_of(entry),
            _ => BTreeMap::new(),
        };
        let had = services(self.objects.get(key).map(|object| &**object));
        let has = services(object);
        for (service, names) in &had {
            take_out(&mut self.entries.of, service, key);
            if !self.entries.of.contains_key(service) {
                take_out(&mut self.entries.hosts, &service.name, service);
            }
            for name in names {
                take_out(&mut self.entries.users, name, service);
            }
        }
        for (service, names) in &has {
            self.entries.of.entry(service.clone()).or_default().insert(key.clone());
            self.entries.hosts.entry(service.name.clone()).or_default().insert(service.clone());
            for name in names {
                self.entries.users.entry(name.clone()).or_default().insert(service.clone());
            }
        }
        // Another entry for the same service may need names that were just taken out.
        for service in had.keys() {
            for other in self.entries.of.get(service).into_iter().flatten().filter(|other| *other != key) {
                let Some(Object::ServiceEntry(entry)) = self.objects.get(other).map(|object| &**object)
                else {
                    continue;
                };
                for name in entry.names(&service.name) {
                    self.entries.users.entry(name).or_default().insert(service.clone());
                }
            }
        }
        // A name that is still wanted keeps its answer: nobody would say it again.
        let forgotten = had.values().flatten().filter(|name| !self.entries.users.contains_key(*name));
        forgotten.for_each(|name| drop(self.entries.answers.remove(name)));
        if let Some(Object::ServiceEntry(entry)) = object {
            self.note(key.clone(), entry_warnings(key, entry));
        }
        dirty.services.extend(had.into_keys());
        dirty.services.extend(has.into_keys());
    }

    /// Shows that an entry is in force, and which version; true if that changed.
    pub(super) fn count_entry(&self, key: &ObjectKey, next: &mut Snapshot) -> bool {
        let Some(entry) = self.objects.get(key) else { return next.entries.remove_mut(key) };
        let generation = entry.metadata().generation;
        if next.entries.get(key) == Some(&generation) {
            return false;
        }
        next.entries.insert_mut(key.clone(), generation);
        true
    }

    /// Names that have to be resolved.
    pub fn wanted_names(&self) -> BTreeSet<String> {
        self.entries.users.keys().cloned().collect()
    }

    /// How many of them nobody has said anything about yet.
    pub fn unanswered_names(&self) -> usize {
        self.entries.users.keys().filter(|name| !self.entries.answers.contains_key(*name)).count()
    }

    /// Takes note of what a name stands for; in force with the next [`Builder::apply`]. A failure leaves the last good answer.
    pub fn learn(&mut self, answer: Answer) {
        let Some(users) = self.entries.users.get(&answer.name) else { return };
        let known = self.entries.answers.entry(answer.name).or_default();
        match answer.result {
            Ok(addresses) => {
                if known.addresses.as_ref() != Some(&addresses) {
                    self.entries.stale.extend(users.iter().cloned());
                }
                *known = Known { addresses: Some(addresses), failure: None };
            }
            Err(failure) => known.failure = Some(failure),
        }
    }

    /// Services that have to be built again since a name's addresses changed.
    pub(super) fn take_stale(&mut self) -> BTreeSet<ObjectName> {
        std::mem::take(&mut self.entries.stale)
    }

    /// The services of hosts for which `wanted` holds.
    pub(super) fn outside_services(
        &self,
        wanted: impl Fn(&str) -> bool,
    ) -> impl Iterator<Item = &ObjectName> {
        self.entries.hosts.iter().filter(move |(host, _)| wanted(host)).flat_map(|(_, services)| services)
    }

    /// The object that makes a service, and where its addresses stand.
    pub(super) fn maker_of(&self, name: &ObjectName) -> (ObjectKey, &'static str) {
        match self.entry_of(name) {
            Some((key, _)) if !self.objects.contains_key(&service_key(name)) => {
                (key.clone(), "spec.addresses")
            }
            _ => (service_key(name), "spec.clusterIPs"),
        }
    }

    /// True if there is a ServiceEntry that makes this service.
    pub(super) fn is_outside(&self, name: &ObjectName) -> bool {
        self.entries.of.contains_key(name)
    }

    /// The entry that makes a service: the oldest, then the first by name.
    fn entry_of(&self, name: &ObjectName) -> Option<(&ObjectKey, &ServiceEntry)> {
        self.ranked_entries(name).into_iter().next()
    }

    fn ranked_entries(&self, name: &ObjectName) -> Vec<(&ObjectKey, &ServiceEntry)> {
        let keys = self.entries.of.get(name).into_iter().flatten();
        let mut entries: Vec<_> = keys
            .filter_map(|key| match &**self.objects.get(key)? {
                Object::ServiceEntry(entry) => Some((key, &**entry)),
                _ => None,
            })
            .collect();
        entries.sort_by_key(|(key, entry)| {
            let created = entry.metadata.creation_timestamp.as_deref();
            (created.is_none(), created, *key)
        });
        entries
    }

    /// The service of a ServiceEntry's host.
    pub(super) fn outside(
        &self,
        name: &ObjectName,
        old: Option<&Arc<Service>>,
        next: &Snapshot,
    ) -> Option<Arc<Service>> {
        let (_, entry) = self.entry_of(name)?;
        let meta = ServiceMeta { name: name.clone(), host: name.name.clone(), trace_sampling: None };
        let meta = old.filter(|old| *old.meta == meta).map_or_else(|| Arc::new(meta), |old| old.meta.clone());
        let external = Arc::new(External {
            original: entry.spec.resolution == Resolution::None,
            audience: audience(entry),
        });
        let source = Source::outside(self, &meta, next, external, &entry.spec.subject_alt_names);
        let port = |port: &EntryPort| {
            let endpoints = self.endpoints_of(entry, port, &name.name);
            let found = endpoints.iter().map(|(addr, (endpoint, _))| (*addr, endpoint)).collect();
            let weighted = endpoints.iter().filter(|(_, (_, weight))| *weight > 1);
            let weights = weighted.map(|(addr, (_, weight))| (*addr, *weight)).collect();
            let protocol = protocol(port);
            source.port(
                &Spec { name: &port.name, number: port.number.0, protocol, found, weights },
                ports_of(old),
            )
        };
        let ports = entry.spec.ports.iter().filter(|port| is_tcp(port)).map(port).collect();
        let (vips, ranges) = self.dialled(entry, &name.name);
        Some(self.put_together(meta, vips, ranges, false, (ports, Vec::new()), old))
    }

    /// What clients dial to come to `host`: what the entry says, else every address that it is known to have.
    fn dialled(&self, entry: &ServiceEntry, host: &str) -> (Vec<IpAddr>, Vec<Network>) {
        let spec = &entry.spec;
        if !spec.addresses.is_empty() {
            let (single, ranges): (Vec<_>, Vec<_>) =
                spec.addresses.iter().copied().partition(|network| network.single().is_some());
            return (distinct(single.iter().filter_map(Network::single)), ranges);
        }
        let vips = match spec.resolution {
            Resolution::None => Vec::new(),
            Resolution::Static => distinct(spec.endpoints.iter().filter_map(|endpoint| endpoint.ip())),
            Resolution::Dns | Resolution::DnsRoundRobin => {
                self.addresses_of(host).map_or_else(Vec::new, |a| a.known.clone())
            }
        };
        (vips, Vec::new())
    }

    fn endpoints_of(
        &self,
        entry: &ServiceEntry,
        port: &EntryPort,
        host: &str,
    ) -> BTreeMap<EndpointAddr, (SliceEndpoint, u32)> {
        let spec = &entry.spec;
        let newest = |name: &str| self.addresses_of(name).map_or(&[][..], |addresses| &addresses.newest);
        let usual = port.target_port.unwrap_or(port.number).0;
        let mut found: Vec<(IpAddr, u16, Option<&str>, u32)> = Vec::new();
        if spec.resolution.asks_dns() && spec.endpoints.is_empty() {
            found.extend(newest(host).iter().map(|ip| (*ip, usual, None, 1)));
        }
        for endpoint in &spec.endpoints {
            let number = endpoint.ports.get(&port.name).map_or(usual, |port| port.0);
            let own = endpoint.ip();
            let named = endpoint.name().map(str::to_ascii_lowercase);
            let resolved = named.as_deref().map_or(&[][..], newest);
            let all = own.into_iter().chain(resolved.iter().copied());
            found.extend(all.map(|ip| (ip, number, endpoint.zone(), endpoint.weight())));
        }
        if spec.resolution == Resolution::DnsRoundRobin {
            found.truncate(1);
        }
        let endpoint = |(ip, port, zone, weight): (IpAddr, u16, Option<&str>, u32)| {
            (EndpointAddr::new(ip, port), (SliceEndpoint::outside(ip, zone), weight))
        };
        found.into_iter().map(endpoint).collect()
    }

    fn addresses_of(&self, name: &str) -> Option<&Addresses> {
        self.entries.answers.get(name)?.addresses.as_ref()
    }

    /// Names without an answer, and entries that others leave without effect.
    pub(super) fn entry_warnings(&self, mut add: impl FnMut(&ObjectKey, Warning)) {
        for (service, keys) in &self.entries.of {
            let ranked = self.ranked_entries(service);
            let shadowed = self.objects.contains_key(&service_key(service));
            for (place, (key, entry)) in ranked.iter().enumerate() {
                if place > 0 || shadowed {
                    let winner = if shadowed { service_key(service) } else { ranked[0].0.clone() };
                    let message = format!(
                        "{} is already that of {winner}, which is used: put both into one",
                        service.name
                    );
                    add(key, Warning::new(WarningCode::HostConflict, key, "spec.hosts", message));
                    continue;
                }
                for name in entry.names(&service.name) {
                    if let Some(warning) = self.unresolved(key, &name) {
                        add(key, warning);
                    }
                }
            }
            debug_assert_eq!(keys.len(), ranked.len());
        }
    }

    fn unresolved(&self, key: &ObjectKey, name: &str) -> Option<Warning> {
        let known = self.entries.answers.get(name)?;
        let failure = known.failure.as_ref()?;
        let consequence = match known.addresses {
            Some(_) => "the last good answer stays in force",
            None => "it has no endpoint until it can be",
        };
        let message = format!("{name} can't be resolved ({failure}): {consequence}; it is asked for again");
        Some(Warning::new(WarningCode::NameUnresolved, key, "spec.hosts", message))
    }
}

/// The services that an entry makes, each with the names that are resolved for it.
fn services_of(entry: &ServiceEntry) -> BTreeMap<ObjectName, BTreeSet<String>> {
    let service = |host: &String| {
        let host = host.to_ascii_lowercase();
        let names = entry.names(&host);
        (ObjectName::new(entry.namespace(), host), names)
    };
    entry.spec.hosts.iter().map(service).collect()
}

fn take_out<K: Ord, V: Ord>(map: &mut BTreeMap<K, BTreeSet<V>>, key: &K, value: &V) {
    if let Some(values) = map.get_mut(key) {
        values.remove(value);
        if values.is_empty() {
            map.remove(key);
        }
    }
}

fn distinct(ips: impl Iterator<Item = IpAddr>) -> Vec<IpAddr> {
    ips.collect::<BTreeSet<_>>().into_iter().collect()
}

/// Namespaces whose clients see the entry; empty for all.
fn audience(entry: &ServiceEntry) -> Vec<String> {
    let to = &entry.spec.export_to;
    if to.iter().any(|to| to == "*") {
        return Vec::new();
    }
    to.iter().map(|to| if to == "." { entry.namespace().to_owned() } else { to.clone() }).collect()
}

fn is_tcp(port: &EntryPort) -> bool {
    !port.protocol.eq_ignore_ascii_case("udp")
}

fn protocol(port: &EntryPort) -> (AppProtocol, ProtocolFrom) {
    match from_app_protocol(&port.protocol) {
        Some(protocol) => (protocol, ProtocolFrom::AppProtocol),
        None => match super::ports::from_name(&port.name) {
            Some(protocol) => (protocol, ProtocolFrom::PortName),
            None => (AppProtocol::default(), ProtocolFrom::Detection),
        },
    }
}

fn entry_warnings(key: &ObjectKey, entry: &ServiceEntry) -> Vec<Warning> {
    let mut warnings: Vec<_> =
        entry.notes.iter().map(|note| note.warning(key, Kind::ServiceEntry.name())).collect();
    let spec = &entry.spec;
    for (at, port) in spec.ports.iter().enumerate() {
        let field = format!("spec.ports[{at}].protocol");
        if !is_tcp(port) {
            let message = "UDP is left to the cluster: the port is not used";
            warnings.push(Warning::new(WarningCode::UnsupportedFeature, key, field, message));
        } else if !port.protocol.is_empty() && from_app_protocol(&port.protocol).is_none() {
            let message = format!(
                "{:?} isn't known here: expected HTTP, HTTP2, GRPC, HTTPS, TLS or TCP; the port's name decides, else the first \
                 bytes do",
                port.protocol
            );
            warnings.push(Warning::new(WarningCode::UnknownValue, key, field, message));
        }
    }
    if spec.resolution == Resolution::None && spec.addresses.is_empty() {
        let message = "has no effect with resolution NONE: destinations are matched by their address, never by a name in the \
                       request; give addresses, or use resolution DNS";
        warnings.push(Warning::new(WarningCode::UnsupportedFeature, key, "spec.addresses", message));
    }
    if spec.addresses.is_empty()
        && spec.resolution.asks_dns()
        && spec.hosts.iter().any(|host| host.starts_with('*'))
    {
        let message = "a wildcard has no address that could be dialled: give addresses";
        warnings.push(Warning::new(WarningCode::UnsupportedFeature, key, "spec.hosts", message));
    }
    warnings
}
