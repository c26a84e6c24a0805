//! Services with their slices to service ports, and the look-up tables that lead to them.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::index::Claimant;
use super::variants::{Source, Spec, variant_of};
use super::{Builder, Dirty, endpoints, ports, ports_of, service_key, udp_of};
use crate::balance::tiers;
use crate::model::{
    AppProtocol, EndpointSet, ObjectName, ProtocolFrom, Service, ServiceMeta, ServicePort, Snapshot, Subset,
    Variant, Warning, WarningCode,
};
use crate::objects::{
    self, AddressType, EndpointSlice, Kind, Network, Object, ObjectKey, ServiceKind, TransportProtocol,
};
use crate::policy::ClusterPolicy;

impl Claimant for ServicePort {
    fn same(&self, other: &Self) -> bool {
        self.port == other.port && self.service.name == other.service.name
    }
}

fn by_name(a: &ServicePort, b: &ServicePort) -> Ordering {
    (&a.service.name, a.port).cmp(&(&b.service.name, b.port))
}

impl Builder {
    /// Builds the service `name` again; true if it changed.
    pub(super) fn build_service(&mut self, name: &ObjectName, next: &mut Snapshot) -> bool {
        let old = next.services.get(name).cloned();
        let mut warnings = Vec::new();
        let new = self.service(name, old.as_ref(), next, &mut warnings);
        self.note(service_key(name), warnings);
        let known = self.objects.contains_key(&service_key(name));
        if known || !self.slices.contains_key(name) {
            self.missing.remove(name);
        } else {
            self.missing.insert(name.clone());
        }
        if same(old.as_ref(), new.as_ref()) {
            return false;
        }
        self.index(old.as_ref(), new.as_ref());
        match new {
            Some(new) => next.services.insert_mut(name.clone(), new),
            None => {
                next.services.remove_mut(name);
            }
        }
        true
    }

    /// Notes which services a slice belonged and belongs to.
    pub(super) fn touch_slice(&mut self, key: &ObjectKey, object: Option<&Object>, dirty: &mut Dirty) {
        let service_of = |object: Option<&Object>| match object {
            Some(Object::EndpointSlice(slice)) => {
                slice.service_name().map(|service| ObjectName::new(&key.name.namespace, service))
            }
            _ => None,
        };
        let old = service_of(self.objects.get(key).map(|object| &**object));
        let new = service_of(object);
        if old != new
            && let Some(old) = &old
            && let Some(slices) = self.slices.get_mut(old)
        {
            slices.remove(&key.name.name);
            if slices.is_empty() {
                self.slices.remove(old);
            }
        }
        if let Some(new) = &new {
            self.slices.entry(new.clone()).or_default().insert(key.name.name.clone());
        }
        if let Some(Object::EndpointSlice(slice)) = object {
            self.note(key.clone(), slice_warnings(key, slice));
        }
        dirty.services.extend(old);
        dirty.services.extend(new);
    }

    fn service(
        &self,
        name: &ObjectName,
        old: Option<&Arc<Service>>,
        next: &Snapshot,
        warnings: &mut Vec<Warning>,
    ) -> Option<Arc<Service>> {
        let Some(Object::Service(raw)) = self.objects.get(&service_key(name)).map(|object| &**object) else {
            return self.outside(name, old, next);
        };
        service_warnings(name, raw, warnings);
        // A name in DNS and no more (Kubernetes, "ExternalName"): whatever it leads to is what a connection is for.
        if raw.spec.kind == ServiceKind::ExternalName {
            return None;
        }
        let meta = ServiceMeta {
            name: name.clone(),
            host: format!("{}.{}.svc.{}", name.name, name.namespace, self.options.cluster_domain),
            trace_sampling: ports::trace_sampling(name, raw, warnings),
        };
        let meta = old.filter(|old| *old.meta == meta).map_or_else(|| Arc::new(meta), |old| old.meta.clone());
        let source = Source::of_service(self, raw, &meta, next);
        let mut port = |port: &objects::ServicePortSpec, old: &[Arc<ServicePort>]| {
            let found = endpoints::collect(self.slices_of(name), &port.name, port.protocol);
            let protocol = match port.protocol {
                TransportProtocol::Tcp => ports::protocol(name, port, warnings),
                // What datagrams carry is nobody's business here.
                TransportProtocol::Udp | TransportProtocol::Sctp => {
                    (AppProtocol::Tcp, ProtocolFrom::Detection)
                }
            };
            let number = port.port.0;
            source.port(&Spec { name: &port.name, number, protocol, found, weights: BTreeMap::new() }, old)
        };
        let of = |transport| raw.spec.ports.iter().filter(move |port| port.protocol == transport);
        let tcp = of(TransportProtocol::Tcp).map(|spec| port(spec, ports_of(old))).collect();
        let udp = of(TransportProtocol::Udp).map(|spec| port(spec, udp_of(old))).collect();
        Some(self.put_together(meta.clone(), raw.vips(), Vec::new(), raw.is_headless(), (tcp, udp), old))
    }

    /// A service of its parts; its last version where nothing changed.
    pub(super) fn put_together(
        &self,
        meta: Arc<ServiceMeta>,
        vips: Vec<IpAddr>,
        ranges: Vec<Network>,
        headless: bool,
        (ports, udp): (Vec<Arc<ServicePort>>, Vec<Arc<ServicePort>>),
        old: Option<&Arc<Service>>,
    ) -> Arc<Service> {
        let of_family = |v4: bool| match vips.iter().any(|vip| vip.is_ipv4() == v4) {
            true => ports.iter().map(|port| self.family_port(port, v4, old)).collect(),
            false => Vec::new(),
        };
        let (ports_v4, ports_v6) = (of_family(true), of_family(false));
        let service = Service { meta, vips, headless, ranges, ports, udp, ports_v4, ports_v6 };
        match old {
            Some(old) if same_service(old, &service) => old.clone(),
            _ => Arc::new(service),
        }
    }

    /// The endpoints of `set` by nearness, where `policy` asks for it.
    pub(super) fn tiers(&self, set: &mut EndpointSet, policy: &ClusterPolicy) {
        if let Some(localities) = &policy.localities {
            set.tiers = tiers::sort(&set.available, localities, |endpoint| self.locality_of(endpoint));
        }
    }

    /// `port` with the endpoints of one family: itself where all are of one (an address without endpoints of its own
    /// family leads to the others: the agent connects, and needn't keep the client's), its last version where nothing
    /// changed.
    fn family_port(&self, port: &Arc<ServicePort>, v4: bool, old: Option<&Arc<Service>>) -> Arc<ServicePort> {
        let old = old.map(|old| if v4 { &old.ports_v4 } else { &old.ports_v6 });
        self.family_part(port, v4, old.and_then(|old| old.iter().find(|old| old.port == port.port)))
    }

    fn family_part(
        &self,
        port: &Arc<ServicePort>,
        v4: bool,
        old: Option<&Arc<ServicePort>>,
    ) -> Arc<ServicePort> {
        let all = &port.endpoints.all;
        let own = all.iter().filter(|endpoint| endpoint.addr.ip().is_ipv4() == v4).count();
        let part = if own == 0 || own == all.len() {
            port.clone()
        } else {
            let mut endpoints = endpoints::of_family(&port.endpoints, v4, old.map(|old| &old.endpoints));
            self.tiers(&mut endpoints, &port.policy);
            let variant = |variant: &Variant| {
                let old = old.and_then(|old| variant_of(old, &variant.namespace, &variant.labels));
                Variant { port: self.family_part(&variant.port, v4, old), ..variant.clone() }
            };
            let subset = |subset: &Subset| {
                let old = old.and_then(|old| old.subset(&subset.name));
                Subset { port: self.family_part(&subset.port, v4, old), name: subset.name.clone() }
            };
            Arc::new(ServicePort {
                service: port.service.clone(),
                name: port.name.clone(),
                policy: port.policy.clone(),
                retries: port.retries.clone(),
                session: port.session.clone(),
                external: port.external.clone(),
                backend_policy: port.backend_policy.clone(),
                variants: port.variants.iter().map(variant).collect(),
                subset_name: port.subset_name.clone(),
                subsets: port.subsets.iter().map(subset).collect(),
                endpoints,
                ..**port
            })
        };
        old.filter(|old| same_port(old, &part)).cloned().unwrap_or(part)
    }

    pub(super) fn slices_of(&self, service: &ObjectName) -> impl Iterator<Item = &EndpointSlice> {
        let names = self.slices.get(service).into_iter().flatten();
        names.filter_map(|name| {
            let key = ObjectKey::new(Kind::EndpointSlice, Some(&service.namespace), name);
            match self.objects.get(&key).map(|object| &**object) {
                Some(Object::EndpointSlice(slice)) => Some(slice),
                _ => None,
            }
        })
    }

    /// Brings the tables from `old` to `new`.
    fn index(&mut self, old: Option<&Arc<Service>>, new: Option<&Arc<Service>>) {
        let objects = &self.objects;
        let created = |port: &ServicePort| {
            let object = objects.get(&service_key(&port.service.name))?;
            object.metadata().creation_timestamp.clone()
        };
        // No ServiceEntry takes a Service's address away. Without a time stamp a service counts as young.
        let by_age = |a: &ServicePort, b: &ServicePort| {
            let (a_created, b_created) = (created(a), created(b));
            (a.external.is_some(), a_created.is_none(), a_created)
                .cmp(&(b.external.is_some(), b_created.is_none(), b_created))
                .then_with(|| by_name(a, b))
        };
        for port in ports_of(old) {
            let successor = ports_of(new).iter().find(|new| new.port == port.port);
            let keeps = |vip: &IpAddr| successor.is_some() && new.is_some_and(|new| new.vips.contains(vip));
            for vip in old.iter().flat_map(|old| &old.vips).filter(|vip| !keeps(vip)) {
                self.vips.remove(&(*vip, port.port), port, by_age);
            }
            let keeps =
                |range: &Network| successor.is_some() && new.is_some_and(|new| new.ranges.contains(range));
            for range in old.iter().flat_map(|old| &old.ranges).filter(|range| !keeps(range)) {
                self.ranges.remove(&(*range, port.port), port, by_age);
            }
            if port.external.is_some() {
                continue;
            }
            let kept = successor.map(|new| new.endpoints.all.as_slice()).unwrap_or_default();
            for endpoint in &port.endpoints.all {
                if kept.binary_search_by_key(&endpoint.addr, |kept| kept.addr).is_err() {
                    self.by_endpoint.remove(&endpoint.addr, port, by_name);
                }
            }
        }
        for (vip, port) in new.iter().flat_map(|new| new.vips.iter().flat_map(|vip| at(new, *vip))) {
            self.vips.put((vip, port.port), port, by_age);
        }
        for (key, port) in old.iter().flat_map(|old| udp_at(old)) {
            if !new.iter().flat_map(|new| udp_at(new)).any(|(kept, _)| kept == key) {
                self.udp_vips.remove(&key, port, by_age);
            }
        }
        for (key, port) in new.iter().flat_map(|new| udp_at(new)) {
            self.udp_vips.put(key, port, by_age);
        }
        for (range, port) in
            new.iter().flat_map(|new| new.ranges.iter().flat_map(|range| in_range(new, *range)))
        {
            self.ranges.put((range, port.port), port, by_age);
        }
        // What a pod is behind is said by Services only: a ServiceEntry that names its address changes nothing about it.
        for port in ports_of(new).iter().filter(|port| port.external.is_none()) {
            for endpoint in &port.endpoints.all {
                self.by_endpoint.put(endpoint.addr, port, by_name);
            }
        }
        self.index_addresses(old, new);
    }

    fn index_addresses(&mut self, old: Option<&Arc<Service>>, new: Option<&Arc<Service>>) {
        let (had, has) = (addresses(old), addresses(new));
        if let Some(old) = old {
            for ip in had.difference(&has) {
                if let Some(services) = self.services_at.get_mut(ip) {
                    services.retain(|meta| meta.name != old.meta.name);
                    if services.is_empty() {
                        self.services_at.remove(ip);
                    }
                }
            }
        }
        if let Some(new) = new {
            for ip in has.difference(&had) {
                let services = self.services_at.entry(*ip).or_insert_with(|| Vec::with_capacity(1));
                services.push(new.meta.clone());
            }
        }
    }
}

fn at(service: &Service, vip: IpAddr) -> impl Iterator<Item = (IpAddr, &Arc<ServicePort>)> {
    service.ports_at(vip).iter().map(move |port| (vip, port))
}

fn udp_at(service: &Service) -> impl Iterator<Item = ((IpAddr, u16), &Arc<ServicePort>)> {
    let of = |vip: &IpAddr| {
        let vip = *vip;
        service.udp.iter().map(move |port| ((vip, port.port), port))
    };
    service.vips.iter().flat_map(of)
}

fn in_range(service: &Service, range: Network) -> impl Iterator<Item = (Network, &Arc<ServicePort>)> {
    service.ports.iter().map(move |port| (range, port))
}

fn addresses(service: Option<&Arc<Service>>) -> BTreeSet<IpAddr> {
    ports_of(service).iter().flat_map(|port| &port.endpoints.all).map(|endpoint| endpoint.addr.ip()).collect()
}

fn same(old: Option<&Arc<Service>>, new: Option<&Arc<Service>>) -> bool {
    match (old, new) {
        (Some(old), Some(new)) => Arc::ptr_eq(old, new),
        (None, None) => true,
        _ => false,
    }
}

fn same_service(old: &Service, new: &Service) -> bool {
    let same_ports = |old: &[Arc<ServicePort>], new: &[Arc<ServicePort>]| {
        old.len() == new.len() && old.iter().zip(new).all(|(a, b)| Arc::ptr_eq(a, b))
    };
    same_ports(&old.ports, &new.ports)
        && same_ports(&old.udp, &new.udp)
        && Arc::ptr_eq(&old.meta, &new.meta)
        && old.vips == new.vips
        && old.ranges == new.ranges
        && old.headless == new.headless
}

pub(super) fn same_port(old: &ServicePort, new: &ServicePort) -> bool {
    Arc::ptr_eq(&old.service, &new.service)
        && old.name == new.name
        && old.protocol == new.protocol
        && old.protocol_from == new.protocol_from
        && Arc::ptr_eq(&old.policy, &new.policy)
        && same_variants(&old.variants, &new.variants)
        && same_subsets(&old.subsets, &new.subsets)
        && old.retries.as_ref().map(Arc::as_ptr) == new.retries.as_ref().map(Arc::as_ptr)
        && old.session == new.session
        && old.external == new.external
        && old.backend_policy == new.backend_policy
        && endpoints::same(&old.endpoints, &new.endpoints)
}

fn same_variants(old: &[Variant], new: &[Variant]) -> bool {
    let same = |(old, new): (&Variant, &Variant)| {
        old.namespace == new.namespace && old.labels == new.labels && Arc::ptr_eq(&old.port, &new.port)
    };
    old.len() == new.len() && old.iter().zip(new).all(same)
}

fn same_subsets(old: &[Subset], new: &[Subset]) -> bool {
    let same = |(old, new): (&Subset, &Subset)| old.name == new.name && Arc::ptr_eq(&old.port, &new.port);
    old.len() == new.len() && old.iter().zip(new).all(same)
}

fn service_warnings(name: &ObjectName, raw: &objects::Service, warnings: &mut Vec<Warning>) {
    let mut unsupported = |field: &str, message: &str| {
        warnings.push(Warning::new(WarningCode::UnsupportedFeature, service_key(name), field, message));
    };
    if let Some(value) = &raw.spec.traffic_distribution
        && !["PreferClose", "PreferSameZone", "PreferSameNode"].contains(&value.as_str())
    {
        let message = format!(
            "{value:?} isn't known here: expected PreferClose, PreferSameZone or PreferSameNode; all endpoints are used alike"
        );
        unsupported("spec.trafficDistribution", &message);
    }
    ports::load_balancer(name, raw, warnings);
}

fn slice_warnings(key: &ObjectKey, slice: &EndpointSlice) -> Vec<Warning> {
    let mut warnings = Vec::new();
    if slice.service_name().is_none() {
        let field = "metadata.labels[kubernetes.io/service-name]";
        let message = "is missing, so the slice belongs to no Service and is not used: add the label";
        warnings.push(Warning::new(WarningCode::SliceWithoutService, key, field, message));
    }
    if slice.address_type == AddressType::Fqdn {
        let message =
            "FQDN is not supported by this version: the slice is not used; list IP addresses instead";
        warnings.push(Warning::new(WarningCode::UnsupportedFeature, key, "addressType", message));
    }
    if slice.ports.iter().any(|port| port.port.is_none()) {
        let message = "a port without a number (all ports) is not supported by this version: it is not used";
        warnings.push(Warning::new(WarningCode::UnsupportedFeature, key, "ports", message));
    }
    warnings
}
