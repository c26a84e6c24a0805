//! Field types that refuse a bad value where it stands, so that the parser's error carries its path and line.
//!
//! A port and an address are checked here and nowhere later.

use std::fmt;
use std::net::IpAddr;

use serde::de::{Deserialize, Deserializer, Error, Visitor};

/// Part of the message of every refused port; tells warning codes apart.
pub const NOT_A_PORT: &str = "isn't a port";
/// Part of the message of every refused address.
pub const NOT_AN_ADDRESS: &str = "isn't an address";

/// A problem that is seen only when fields are compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// Path of the field.
    pub field: String,
    /// What was expected.
    pub message: String,
}

impl FieldError {
    /// From its parts.
    pub fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: field.into(), message: message.into() }
    }

    /// The same, of a field inside `parent`.
    pub fn within(mut self, parent: &str) -> Self {
        let dot = if self.field.is_empty() || self.field.starts_with('[') { "" } else { "." };
        self.field = format!("{parent}{dot}{}", self.field);
        self
    }
}

/// `protocol` of a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
pub enum TransportProtocol {
    /// The mesh's business.
    #[default]
    #[serde(rename = "TCP")]
    Tcp,
    /// Balanced in the kernel.
    #[serde(rename = "UDP")]
    Udp,
    /// Left to the cluster.
    #[serde(rename = "SCTP")]
    Sctp,
}

/// A port, 1 to 65535.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortNumber(pub u16);

impl<'de> Deserialize<'de> for PortNumber {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // `deserialize_any` even though a number is wanted: a string must be refused by name, not coerced.
        deserializer.deserialize_any(PortVisitor).map(Self)
    }
}

struct PortVisitor;

impl PortVisitor {
    fn refuse<E: Error>(value: impl fmt::Display) -> E {
        E::custom(format_args!("{value} {NOT_A_PORT}: expected a number from 1 to 65535"))
    }
}

impl Visitor<'_> for PortVisitor {
    type Value = u16;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a port, a number from 1 to 65535")
    }
    fn visit_u64<E: Error>(self, value: u64) -> Result<u16, E> {
        u16::try_from(value).ok().filter(|port| *port != 0).ok_or_else(|| Self::refuse(value))
    }
    fn visit_i64<E: Error>(self, value: i64) -> Result<u16, E> {
        u64::try_from(value).map_err(|_| Self::refuse(value)).and_then(|value| self.visit_u64(value))
    }
    fn visit_i128<E: Error>(self, value: i128) -> Result<u16, E> {
        Err(Self::refuse(value))
    }
    fn visit_u128<E: Error>(self, value: u128) -> Result<u16, E> {
        Err(Self::refuse(value))
    }
    fn visit_f64<E: Error>(self, value: f64) -> Result<u16, E> {
        Err(Self::refuse(value))
    }
    fn visit_bool<E: Error>(self, value: bool) -> Result<u16, E> {
        Err(Self::refuse(value))
    }
    fn visit_unit<E: Error>(self) -> Result<u16, E> {
        Err(Self::refuse("null"))
    }
    fn visit_str<E: Error>(self, value: &str) -> Result<u16, E> {
        Err(Self::refuse(format_args!("{value:?}")))
    }
}

/// `targetPort`: a number or the name of a container port. Slices carry the resolved number; only checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TargetPort;

impl<'de> Deserialize<'de> for TargetPort {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Target;
        impl Visitor<'_> for Target {
            type Value = TargetPort;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a port or the name of a container port")
            }
            // Zero is what an unset field looks like in objects that Go programs wrote.
            fn visit_u64<E: Error>(self, value: u64) -> Result<TargetPort, E> {
                if value == 0 { Ok(TargetPort) } else { PortVisitor.visit_u64(value).map(|_| TargetPort) }
            }
            fn visit_i64<E: Error>(self, value: i64) -> Result<TargetPort, E> {
                PortVisitor.visit_i64(value).map(|_| TargetPort)
            }
            fn visit_str<E: Error>(self, value: &str) -> Result<TargetPort, E> {
                if value.is_empty() { Err(PortVisitor::refuse("\"\"")) } else { Ok(TargetPort) }
            }
        }
        deserializer.deserialize_any(Target)
    }
}

/// `port` of a probe: a number, or the name of a container port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortOrName {
    /// Itself.
    Number(u16),
    /// To be looked up in the container.
    Name(String),
}

impl PortOrName {
    /// The number; a name that no port has may be one written as text.
    pub fn number(&self, named: impl Fn(&str) -> Option<u16>) -> Option<u16> {
        match self {
            Self::Number(port) => Some(*port),
            Self::Name(name) => named(name).or_else(|| name.parse().ok().filter(|port| *port != 0)),
        }
    }
}

impl<'de> Deserialize<'de> for PortOrName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl Visitor<'_> for Either {
            type Value = PortOrName;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a port or the name of a container port")
            }
            fn visit_u64<E: Error>(self, value: u64) -> Result<PortOrName, E> {
                PortVisitor.visit_u64(value).map(PortOrName::Number)
            }
            fn visit_i64<E: Error>(self, value: i64) -> Result<PortOrName, E> {
                PortVisitor.visit_i64(value).map(PortOrName::Number)
            }
            fn visit_str<E: Error>(self, value: &str) -> Result<PortOrName, E> {
                Ok(PortOrName::Name(value.to_owned()))
            }
        }
        deserializer.deserialize_any(Either)
    }
}

/// An address of a pod, an endpoint or a service, in canonical form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ip(pub IpAddr);

impl<'de> Deserialize<'de> for Ip {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct IpVisitor;
        impl Visitor<'_> for IpVisitor {
            type Value = Ip;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an IPv4 or IPv6 address")
            }
            fn visit_str<E: Error>(self, value: &str) -> Result<Ip, E> {
                parse_ip(value).map(Ip).map_err(E::custom)
            }
        }
        deserializer.deserialize_str(IpVisitor)
    }
}

/// The address in canonical form, if [`parse_ip`] would take it: an answer of a DNS server may say anything.
pub fn usable_address(ip: IpAddr) -> Option<IpAddr> {
    let ip = ip.to_canonical();
    is_usable(&ip).then_some(ip)
}

/// Refuses what the API server refuses for endpoints: an endpoint at a loopback or link-local address would let
/// whoever writes an EndpointSlice reach the client's own namespace or node.
pub fn parse_ip(value: &str) -> Result<IpAddr, String> {
    let Ok(ip) = value.parse::<IpAddr>() else {
        return Err(format!("{value:?} {NOT_AN_ADDRESS}: expected one IPv4 or IPv6 address"));
    };
    let ip = ip.to_canonical();
    if !is_usable(&ip) {
        return Err(format!(
            "{value} {NOT_AN_ADDRESS} that a pod or service can have: unspecified, loopback, link-local and multicast are refused"
        ));
    }
    Ok(ip)
}

fn is_usable(ip: &IpAddr) -> bool {
    let link_local = match ip {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !(ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || link_local)
}

/// For `#[serde(default, deserialize_with)]`: `null` and an absent field are the same, as in Kubernetes.
pub fn nullable<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Option::<T>::deserialize(deserializer).map(Option::unwrap_or_default)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn a_port_is_a_number_from_1_to_65535() {
        fn check(text: &str, want: Option<u16>) {
            let got = serde_yaml_ng::from_str::<PortNumber>(text);
            match (got, want) {
                (Ok(port), Some(want)) => assert_eq!(port.0, want, "{text}"),
                (Err(error), None) => assert!(error.to_string().contains(NOT_A_PORT), "{text}: {error}"),
                (got, _) => panic!("{text}: {got:?}"),
            }
        }
        check("1", Some(1));
        check("65535", Some(65535));
        for bad in
            ["0", "65536", "70000", "-1", "http", "\"80\"", "80.5", "true", "null", "99999999999999999999"]
        {
            check(bad, None);
        }
    }

    #[test]
    fn an_address_is_one_a_pod_can_have() {
        fn check(text: &str, want: Option<&str>) {
            let got = parse_ip(text);
            assert_eq!(got.as_ref().ok().map(ToString::to_string).as_deref(), want, "{text}: {got:?}");
            if let Err(message) = got {
                assert!(message.contains(NOT_AN_ADDRESS), "{message}");
            }
        }
        check("10.0.0.1", Some("10.0.0.1"));
        check("fd45::1", Some("fd45::1"));
        check("::ffff:10.0.0.1", Some("10.0.0.1"));
        for bad in [
            "",
            "10.0.0",
            "10.0.0.1/24",
            "10.0.0.256",
            "cart",
            "127.0.0.1",
            "::1",
            "0.0.0.0",
            "::",
            "169.254.0.1",
            "fe80::1",
            "224.0.0.1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "255.255.255.255",
            " 10.0.0.1",
        ] {
            check(bad, None);
        }
    }
}
