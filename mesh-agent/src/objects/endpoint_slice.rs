//! EndpointSlice: some of the endpoints of one service, with their conditions.

use std::fmt;
use std::net::IpAddr;

use serde::Deserialize;
use serde::de::{Deserializer, Error, SeqAccess, Visitor};

use super::field::{PortNumber, nullable, parse_ip};
use super::{FieldError, Metadata, NOT_AN_ADDRESS, TransportProtocol};

/// Label that names the service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// What is read of an EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointSlice {
    /// Metadata.
    pub metadata: Metadata,
    /// Family of all addresses.
    pub address_type: AddressType,
    /// Ports of every endpoint.
    #[serde(default, deserialize_with = "nullable")]
    pub ports: Vec<SlicePort>,
    /// Endpoints.
    #[serde(default, deserialize_with = "nullable")]
    pub endpoints: Vec<SliceEndpoint>,
}

/// `addressType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum AddressType {
    /// IPv4.
    IPv4,
    /// IPv6.
    IPv6,
    /// Names, which nothing resolves here.
    #[serde(rename = "FQDN")]
    Fqdn,
}

/// One of `ports`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct SlicePort {
    /// Name of the service's port.
    #[serde(default, deserialize_with = "nullable")]
    pub name: String,
    /// Number at the endpoint; absent means all ports.
    #[serde(default)]
    pub port: Option<PortNumber>,
    /// Transport.
    #[serde(default, deserialize_with = "nullable")]
    pub protocol: TransportProtocol,
}

/// One of `endpoints`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SliceEndpoint {
    #[serde(rename = "addresses")]
    address: EndpointAddress,
    #[serde(default, deserialize_with = "nullable")]
    conditions: Conditions,
    /// Node it runs on.
    #[serde(default)]
    pub node_name: Option<Box<str>>,
    /// Zone it runs in.
    #[serde(default)]
    pub zone: Option<Box<str>>,
    #[serde(default)]
    target_ref: Option<TargetRef>,
    #[serde(default)]
    hints: Option<Box<Hints>>,
}

/// The first of `addresses`: they are interchangeable, and kube-proxy too uses the first only.
#[derive(Clone, Debug, PartialEq, Eq)]
enum EndpointAddress {
    Ip(IpAddr),
    /// Checked against the address type later, which may stand after the endpoints in the text.
    Other(Box<str>),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
struct Conditions {
    #[serde(default)]
    ready: Option<bool>,
    #[serde(default)]
    serving: Option<bool>,
    #[serde(default)]
    terminating: Option<bool>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Hints {
    #[serde(default, deserialize_with = "nullable")]
    for_zones: Vec<ForZone>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct ForZone {
    name: Box<str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct TargetRef {
    #[serde(default, deserialize_with = "nullable")]
    kind: Box<str>,
    #[serde(default, deserialize_with = "nullable")]
    name: Box<str>,
}

impl EndpointSlice {
    /// Name of the service it belongs to.
    pub fn service_name(&self) -> Option<&str> {
        self.metadata.label(SERVICE_NAME).filter(|name| !name.is_empty())
    }

    /// Every address is of the slice's family.
    pub fn validate(&self) -> Result<(), FieldError> {
        for (i, endpoint) in self.endpoints.iter().enumerate() {
            let ok = match (&endpoint.address, self.address_type) {
                (_, AddressType::Fqdn) => true,
                (EndpointAddress::Ip(ip), AddressType::IPv4) => ip.is_ipv4(),
                (EndpointAddress::Ip(ip), AddressType::IPv6) => ip.is_ipv6(),
                (EndpointAddress::Other(_), _) => false,
            };
            if !ok {
                let field = format!("endpoints[{i}].addresses[0]");
                return Err(FieldError::new(field, endpoint.address.complaint(self.address_type)));
            }
        }
        Ok(())
    }
}

impl SliceEndpoint {
    /// One that no slice names: of a ServiceEntry.
    pub fn outside(ip: IpAddr, zone: Option<&str>) -> Self {
        Self {
            address: EndpointAddress::Ip(ip),
            conditions: Conditions::default(),
            node_name: None,
            zone: zone.map(Box::from),
            target_ref: None,
            hints: None,
        }
    }

    /// Its address; none in a slice of names.
    pub fn ip(&self) -> Option<IpAddr> {
        match self.address {
            EndpointAddress::Ip(ip) => Some(ip),
            EndpointAddress::Other(_) => None,
        }
    }

    /// Takes new connections. Unknown counts as ready (EndpointConditions, discovery.k8s.io/v1).
    pub fn ready(&self) -> bool {
        self.conditions.ready.unwrap_or(true)
    }

    /// Answers, though it may be terminating. Unknown defers to `ready`.
    pub fn serving(&self) -> bool {
        self.conditions.serving.unwrap_or_else(|| self.ready())
    }

    /// Is shutting down.
    pub fn terminating(&self) -> bool {
        self.conditions.terminating.unwrap_or(false)
    }

    /// Zones whose clients are to use it, as whoever wrote the slice would have it (`hints.forZones`).
    pub fn for_zones(&self) -> impl Iterator<Item = &str> {
        self.hints.iter().flat_map(|hints| &hints.for_zones).map(|zone| &*zone.name)
    }

    /// Name of the pod behind it.
    pub fn pod(&self) -> Option<&str> {
        self.target_ref.as_ref().filter(|target| &*target.kind == "Pod").map(|target| &*target.name)
    }
}

impl EndpointAddress {
    fn complaint(&self, wanted: AddressType) -> String {
        match self {
            Self::Ip(ip) => format!("{ip} {NOT_AN_ADDRESS} of the slice's addressType {wanted:?}"),
            Self::Other(text) => match parse_ip(text) {
                Err(message) => message,
                Ok(ip) => format!("{ip} {NOT_AN_ADDRESS} of the slice's addressType {wanted:?}"),
            },
        }
    }
}

impl<'de> Deserialize<'de> for EndpointAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct First;
        impl<'de> Visitor<'de> for First {
            type Value = EndpointAddress;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of at least one address")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<EndpointAddress, A::Error> {
                let first: String = seq.next_element()?.ok_or_else(|| A::Error::invalid_length(0, &self))?;
                while seq.next_element::<serde::de::IgnoredAny>()?.is_some() {}
                Ok(match parse_ip(&first) {
                    Ok(ip) => EndpointAddress::Ip(ip),
                    Err(_) => EndpointAddress::Other(first.into()),
                })
            }
        }
        deserializer.deserialize_seq(First)
    }
}
