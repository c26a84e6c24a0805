//! One of a ServiceEntry's `addresses`: an address or a range of them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::de::{Deserialize, Deserializer, Error, Visitor};

use crate::objects::field::{NOT_AN_ADDRESS, parse_ip};

/// An address with the number of its leading bits that count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Network {
    ip: IpAddr,
    bits: u8,
}

impl Network {
    /// `ip` with everything behind its first `bits` cleared. None if it hasn't so many.
    pub fn new(ip: IpAddr, bits: u8) -> Option<Self> {
        let ip = match ip {
            IpAddr::V4(v4) if bits <= 32 => {
                let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() & mask))
            }
            IpAddr::V6(v6) if bits <= 128 => {
                let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & mask))
            }
            _ => return None,
        };
        Some(Self { ip, bits })
    }

    /// The address, where it is just one.
    pub fn single(&self) -> Option<IpAddr> {
        (self.bits == if self.ip.is_ipv4() { 32 } else { 128 }).then_some(self.ip)
    }

    /// True for IPv4.
    pub fn is_ipv4(&self) -> bool {
        self.ip.is_ipv4()
    }

    /// How many leading bits count.
    pub fn bits(&self) -> u8 {
        self.bits
    }

    fn parse(text: &str) -> Result<Self, String> {
        let Some((address, bits)) = text.split_once('/') else {
            let ip = parse_ip(text)?;
            return Self::new(ip, if ip.is_ipv4() { 32 } else { 128 }).ok_or_else(|| text.to_owned());
        };
        let network = address.parse().ok().zip(bits.parse().ok()).and_then(|(ip, bits)| Self::new(ip, bits));
        network.ok_or_else(|| {
            format!("{text:?} {NOT_AN_ADDRESS}: expected an address, or a range such as 192.0.2.0/24")
        })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.single() {
            Some(ip) => write!(f, "{ip}"),
            None => write!(f, "{}/{}", self.ip, self.bits),
        }
    }
}

impl<'de> Deserialize<'de> for Network {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NetworkVisitor;
        impl Visitor<'_> for NetworkVisitor {
            type Value = Network;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an address or a range of addresses")
            }
            fn visit_str<E: Error>(self, value: &str) -> Result<Network, E> {
                Network::parse(value).map_err(E::custom)
            }
        }
        deserializer.deserialize_str(NetworkVisitor)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_address_or_a_range_and_nothing_else() {
        fn check(text: &str, want: Option<&str>) {
            let got = Network::parse(text);
            assert_eq!(got.as_ref().ok().map(ToString::to_string).as_deref(), want, "{text}: {got:?}");
        }
        check("192.0.2.7", Some("192.0.2.7"));
        check("192.0.2.7/32", Some("192.0.2.7"));
        check("192.0.2.7/24", Some("192.0.2.0/24"));
        check("0.0.0.0/0", Some("0.0.0.0/0"));
        check("2001:db8::1/32", Some("2001:db8::/32"));
        check("2001:db8::1", Some("2001:db8::1"));
        for bad in
            ["", "192.0.2.7/33", "192.0.2/24", "2001:db8::/129", "example.com", "127.0.0.1", "10.0.0.0/-1"]
        {
            check(bad, None);
        }
    }
}
