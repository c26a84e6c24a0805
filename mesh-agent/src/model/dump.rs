//! A snapshot as data: what `config dump` writes, the admin API answers and `-f dump.json` reads again off line.

use std::net::IpAddr;
use std::sync::atomic::Ordering::Relaxed;

use serde::{Deserialize, Serialize};

use super::{
    AppProtocol, Endpoint, LoadBalancer, ObjectName, Service, ServicePort, Snapshot, Warning, Workload,
};

/// Everything in a snapshot, sorted by name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Dump {
    /// Of the snapshot.
    pub generation: u64,
    /// The agent's node.
    pub node: String,
    /// Pods.
    pub workloads: Vec<Workload>,
    /// Services with ports and endpoints.
    pub services: Vec<DumpService>,
    /// What was wrong at the time.
    pub warnings: Vec<Warning>,
}

/// One service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DumpService {
    /// Namespace and name.
    pub name: ObjectName,
    /// Host name.
    pub host: String,
    /// Virtual addresses.
    pub vips: Vec<IpAddr>,
    /// No virtual address by design.
    pub headless: bool,
    /// TCP ports.
    pub ports: Vec<DumpPort>,
}

/// One port of a service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DumpPort {
    /// Name, empty for none.
    pub name: String,
    /// Number.
    pub port: u16,
    /// Declared protocol.
    pub protocol: AppProtocol,
    /// How an endpoint is chosen.
    pub load_balancer: LoadBalancer,
    /// Seconds that a client stays with its endpoint.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub client_ip_affinity_seconds: Option<u64>,
    /// Every endpoint known.
    pub endpoints: Vec<DumpEndpoint>,
}

/// One endpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DumpEndpoint {
    /// Address.
    pub ip: IpAddr,
    /// Port.
    pub port: u16,
    /// The pod behind it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub workload: Option<ObjectName>,
    /// Its node.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub node: Option<String>,
    /// Its zone.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub zone: Option<String>,
    /// New connections go here.
    pub available: bool,
    /// Condition of the slice.
    pub ready: bool,
    /// Condition of the slice.
    pub serving: bool,
    /// Condition of the slice.
    pub terminating: bool,
    /// Requests or connections under way.
    pub in_flight: u32,
    /// Peak-EWMA latency in microseconds; 0 for never measured.
    pub latency_us: u64,
}

impl Dump {
    /// The state of `snapshot` and its endpoints at this moment.
    pub fn new(snapshot: &Snapshot, warnings: &[Warning]) -> Self {
        let mut workloads: Vec<_> =
            snapshot.workloads.values().map(|workload| Workload::clone(workload)).collect();
        workloads.sort_by(|a, b| a.name.cmp(&b.name));
        let mut services: Vec<_> =
            snapshot.services.values().map(|service| DumpService::from(&**service)).collect();
        services.sort_by(|a, b| a.name.cmp(&b.name));
        Self {
            generation: snapshot.generation,
            node: snapshot.node.to_string(),
            workloads,
            services,
            warnings: warnings.to_vec(),
        }
    }
}

impl From<&Service> for DumpService {
    fn from(service: &Service) -> Self {
        Self {
            name: service.meta.name.clone(),
            host: service.meta.host.clone(),
            vips: service.vips.clone(),
            headless: service.headless,
            ports: service.ports.iter().map(|port| DumpPort::from(&**port)).collect(),
        }
    }
}

impl From<&ServicePort> for DumpPort {
    fn from(port: &ServicePort) -> Self {
        let available =
            |endpoint: &Endpoint| port.endpoints.available.iter().any(|other| other.addr == endpoint.addr);
        Self {
            name: port.name.clone(),
            port: port.port,
            protocol: port.protocol,
            load_balancer: port.policy.load_balancer,
            client_ip_affinity_seconds: port.policy.client_ip_affinity.map(|time| time.as_secs()),
            endpoints: port.endpoints.all.iter().map(|e| DumpEndpoint::new(e, available(e))).collect(),
        }
    }
}

impl DumpEndpoint {
    fn new(endpoint: &Endpoint, available: bool) -> Self {
        let nanoseconds = f64::from_bits(endpoint.load.ewma_ns.load(Relaxed));
        Self {
            ip: endpoint.addr.ip(),
            port: endpoint.addr.port(),
            workload: endpoint.workload.as_ref().map(|workload| workload.name.clone()),
            node: endpoint.node.clone(),
            zone: endpoint.zone.clone(),
            available,
            ready: endpoint.ready,
            serving: endpoint.serving,
            terminating: endpoint.terminating,
            in_flight: endpoint.load.in_flight.load(Relaxed),
            latency_us: (nanoseconds / 1000.0) as u64,
        }
    }
}
