//! Addresses and ranges of addresses: whether one of a rule's has an address in it, and which rules' of a table do.
//!
//! As in Istio an IPv4 range has no IPv6 address in it and the other way round; IPv4-mapped addresses are IPv4.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};

/// One family's range: its first address and how many leading bits count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Range {
    first: u128,
    bits: u8,
}

impl Range {
    fn has(self, address: u128) -> bool {
        address & mask(self.bits) == self.first
    }
}

fn mask(bits: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0)
}

/// The address as a number whose leading bits are the address's own.
fn number(ip: IpAddr) -> (bool, u128) {
    match ip.to_canonical() {
        IpAddr::V4(v4) => (true, u128::from(v4.to_bits()) << 96),
        IpAddr::V6(v6) => (false, v6.to_bits()),
    }
}

/// Ranges of one rule's field.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks {
    v4: Box<[Range]>,
    v6: Box<[Range]>,
}

impl Networks {
    /// Of texts that validation has taken; others are left out.
    pub fn parse(values: &[String]) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for (ip, bits) in values.iter().filter_map(|value| Self::parse_one(value).ok()) {
            let (is_v4, first) = number(ip);
            if is_v4 { &mut v4 } else { &mut v6 }.push(Range { first: first & mask(bits), bits });
        }
        Self { v4: apart(v4), v6: apart(v6) }
    }

    /// An address, or a range such as `192.0.2.0/24`.
    ///
    /// # Errors
    /// Says what was expected.
    pub fn parse_one(value: &str) -> Result<(IpAddr, u8), String> {
        let bad =
            || format!("{value:?} isn't an address or range: expected one such as 192.0.2.7 or 192.0.2.0/24");
        let (address, bits) = match value.split_once('/') {
            Some((address, bits)) => (address, Some(bits.parse::<u8>().map_err(|_| bad())?)),
            None => (value, None),
        };
        let ip: IpAddr = address.parse().map_err(|_| bad())?;
        match (ip, mapped(ip), bits) {
            (IpAddr::V6(_), Some(v4), None) => Ok((v4, 32)),
            (IpAddr::V6(_), Some(v4), Some(bits @ 96..=128)) => Ok((v4, bits - 96)),
            (IpAddr::V4(_), _, bits) if bits.is_none_or(|bits| bits <= 32) => Ok((ip, bits.unwrap_or(32))),
            (IpAddr::V6(_), _, bits) if bits.is_none_or(|bits| bits <= 128) => Ok((ip, bits.unwrap_or(128))),
            _ => Err(bad()),
        }
    }

    /// True if one of them has `ip` in it.
    pub fn has(&self, ip: IpAddr) -> bool {
        let (is_v4, address) = number(ip);
        let ranges = if is_v4 { &self.v4 } else { &self.v6 };
        let behind = ranges.partition_point(|range| range.first <= address);
        behind.checked_sub(1).is_some_and(|at| ranges[at].has(address))
    }

    /// Each, for an index.
    pub(super) fn iter(&self) -> impl Iterator<Item = NetworkKey> {
        let v4 = self.v4.iter().map(|range| NetworkKey { is_v4: true, range: *range });
        v4.chain(self.v6.iter().map(|range| NetworkKey { is_v4: false, range: *range }))
    }
}

fn mapped(ip: IpAddr) -> Option<IpAddr> {
    match ip {
        IpAddr::V6(v6) => Ipv6Addr::to_ipv4_mapped(&v6).map(IpAddr::V4),
        IpAddr::V4(_) => None,
    }
}

/// Sorted, without those that lie in others.
fn apart(mut ranges: Vec<Range>) -> Box<[Range]> {
    ranges.sort_unstable();
    let mut kept: Vec<Range> = Vec::new();
    for range in ranges {
        if kept.last().is_none_or(|last| !last.has(range.first)) {
            kept.push(range);
        }
    }
    kept.into()
}

/// A range as an index has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct NetworkKey {
    is_v4: bool,
    range: Range,
}

/// Ranges of many rules: a trie, as a sorted list in which each knows the narrowest that it lies in.
#[derive(Debug, Default)]
pub(super) struct NetworkIndex {
    v4: Box<[Entry]>,
    v6: Box<[Entry]>,
}

#[derive(Debug)]
struct Entry {
    range: Range,
    parent: Option<u32>,
    noted: Box<[u32]>,
}

impl NetworkIndex {
    pub(super) fn new(found: BTreeMap<NetworkKey, Vec<u32>>) -> Self {
        let family = |wanted: bool, found: &BTreeMap<NetworkKey, Vec<u32>>| {
            let mut entries: Vec<Entry> = Vec::new();
            let mut open: Vec<u32> = Vec::new();
            for (key, noted) in found.iter().filter(|(key, _)| key.is_v4 == wanted) {
                while let Some(last) = open.last()
                    && !entries[*last as usize].range.has(key.range.first)
                {
                    open.pop();
                }
                let parent = open.last().copied();
                open.push(u32::try_from(entries.len()).unwrap_or(u32::MAX));
                entries.push(Entry { range: key.range, parent, noted: noted.as_slice().into() });
            }
            entries.into()
        };
        Self { v4: family(true, &found), v6: family(false, &found) }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }

    /// Tells of everything that is noted at ranges with `ip` in them.
    pub(super) fn find(&self, ip: IpAddr, tell: &mut impl FnMut(u32)) {
        let (is_v4, address) = number(ip);
        let entries = if is_v4 { &self.v4 } else { &self.v6 };
        let behind = entries.partition_point(|entry| entry.range.first <= address);
        let mut next = behind.checked_sub(1);
        while let Some(entry) = next.and_then(|at| entries.get(at)) {
            if entry.range.has(address) {
                entry.noted.iter().for_each(|noted| tell(*noted));
            }
            next = entry.parent.map(|parent| parent as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_address_is_in_the_ranges_that_have_it_and_in_no_others() {
        fn check(ranges: &[&str], ip: &str, want: bool) {
            let values: Vec<String> = ranges.iter().map(ToString::to_string).collect();
            assert_eq!(Networks::parse(&values).has(ip.parse().unwrap()), want, "{ranges:?} {ip}");
        }
        check(&["10.1.2.3"], "10.1.2.3", true);
        check(&["10.1.2.3"], "10.1.2.4", false);
        check(&["10.1.2.3/16"], "10.1.200.4", true);
        check(&["10.0.0.0/8", "10.1.0.0/16"], "10.200.0.1", true);
        check(&["10.1.0.0/16", "10.3.0.0/16"], "10.2.0.0", false);
        check(&["0.0.0.0/0"], "255.255.255.255", true);
        check(&["0.0.0.0/0"], "::1", false);
        check(&["::/0"], "10.1.2.3", false);
        check(&["::/0"], "fd00::1", true);
        check(&["fd00::/8"], "fdff::1", true);
        check(&["::ffff:10.0.0.0/104"], "10.9.9.9", true);
        check(&["10.0.0.0/8"], "::ffff:10.1.2.3", true);
        check(&[], "10.0.0.1", false);
    }

    #[test]
    fn what_is_no_range_is_refused() {
        for bad in [
            "",
            "10.0.0",
            "10.0.0.0/33",
            "fd00::/129",
            "a",
            "10.0.0.1/",
            "/8",
            "10.0.0.1/-1",
            "::ffff:10.0.0.1/80x",
        ] {
            assert!(Networks::parse_one(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn an_index_tells_of_all_ranges_with_an_address_and_of_no_others(
            ranges in prop::collection::vec((any::<bool>(), 0..8_u8, 0..=8_u8), 0..30),
            ip in (any::<bool>(), any::<u8>()),
        ) {
            // Few bits, so that ranges lie in each other.
            let text = |(v4, high, bits): &(bool, u8, u8)| match v4 {
                true => format!("{}.0.0.0/{bits}", u32::from(*high) << 5),
                false => format!("{:x}00::/{bits}", u32::from(*high) << 5),
            };
            let address = match ip {
                (true, high) => format!("{high}.1.2.3"),
                (false, high) => format!("{high:x}00::1"),
            };
            let address: IpAddr = address.parse().unwrap();
            let mut found: BTreeMap<NetworkKey, Vec<u32>> = BTreeMap::new();
            let all: Vec<Networks> = ranges.iter().map(|range| Networks::parse(&[text(range)])).collect();
            for (at, networks) in all.iter().enumerate() {
                networks.iter().for_each(|key| found.entry(key).or_default().push(at as u32));
            }
            let mut got = Vec::new();
            NetworkIndex::new(found).find(address, &mut |at| got.push(at));
            got.sort_unstable();
            let want: Vec<u32> = (0..all.len()).filter(|at| all[*at].has(address)).map(|at| at as u32).collect();
            prop_assert_eq!(got, want);
        }
    }
}
