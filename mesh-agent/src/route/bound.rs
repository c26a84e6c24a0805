//! Routes bound to a service port: one set for the clients of each namespace that has routes of its own for it.
//!
//! Rules name their backends by an index into [`Routes::targets`], so that a change of a backend's endpoints replaces a
//! pointer and compiles nothing again.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::stream::StreamTable;
use super::table::RouteTable;
use crate::model::{AppProtocol, ObjectName, ServicePort};

/// All routes of one service port.
#[derive(Clone, Debug, Default)]
pub struct PortRoutes {
    /// Producer routes: of the service's own namespace, for every client that has none of its own.
    pub producer: Option<Arc<Routes>>,
    /// Consumer routes by client namespace; they replace the producer's for these clients (GEP-1294).
    pub consumers: BTreeMap<String, Arc<Routes>>,
}

impl PortRoutes {
    /// What holds for a client in `namespace`.
    pub fn for_client(&self, namespace: &str) -> Option<&Arc<Routes>> {
        self.consumers.get(namespace).or(self.producer.as_ref())
    }
}

/// The routes that hold for one kind of client of one service port. By the most specific kind that is attached.
#[derive(Clone, Debug, Default)]
pub struct Routes {
    /// HTTPRoutes and GRPCRoutes.
    pub requests: Option<Arc<RouteTable>>,
    /// TLSRoutes by server name, else TCPRoutes.
    pub streams: Option<Arc<StreamTable>>,
    /// The service ports that the rules' backends are at present.
    pub targets: Vec<BackendPort>,
    /// How the rules name them, in the same order; for people.
    pub names: Sources,
}

impl Routes {
    /// What a port with these routes speaks. Where nothing is declared the kind of route tells: no endpoint of the
    /// service itself may be dialled to find out.
    pub fn spoken(&self, declared: AppProtocol) -> AppProtocol {
        match (declared, &self.requests, &self.streams) {
            (AppProtocol::Detect, Some(_), _) => AppProtocol::Http,
            (AppProtocol::Detect, None, Some(streams)) if streams.by_server_name() => AppProtocol::Tls,
            (AppProtocol::Detect, None, Some(_)) => AppProtocol::Tcp,
            _ => declared,
        }
    }
}

/// A service port that rules name, as it is reached from either address family. None: there is no such Service or port.
#[derive(Clone, Debug, Default)]
pub struct BackendPort {
    /// For connections that were made to an IPv4 address.
    pub v4: Option<Arc<ServicePort>>,
    /// For connections that were made to an IPv6 address.
    pub v6: Option<Arc<ServicePort>>,
}

impl BackendPort {
    /// For a connection to `like`.
    pub fn at(&self, like: IpAddr) -> Option<&Arc<ServicePort>> {
        if like.is_ipv4() { self.v4.as_ref() } else { self.v6.as_ref() }
    }
}

/// What a rule calls a service port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendName {
    /// The Service.
    pub service: ObjectName,
    /// Its port.
    pub port: u16,
    /// A subset of its endpoints, of the DestinationRule in force.
    pub subset: Option<String>,
}

/// Which service ports a table's backends are, in the order of [`Routes::targets`].
pub type Sources = Vec<BackendName>;
