//! An endpoint's address that one worker writes with every request and the list of connections reads now and then.
//!
//! A sequence lock of plain atomics: the writer never waits, a reader that meets a write tries again.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use crate::addr::EndpointAddr;

/// How often a reader tries before it says "unknown"; a write takes nanoseconds.
const TRIES: usize = 100;

/// One writer, any number of readers.
#[derive(Debug, Default)]
pub(super) struct EndpointCell {
    /// Odd while a write is under way; 0 before the first.
    version: AtomicU32,
    high: AtomicU64,
    low: AtomicU64,
    port: AtomicU32,
}

impl EndpointCell {
    /// Called by the connection's worker alone.
    pub fn set(&self, endpoint: EndpointAddr) {
        let bits = u128::from(match endpoint.ip() {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => v6,
        });
        let version = self.version.load(Ordering::Relaxed);
        self.version.store(version.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::Release);
        self.high.store((bits >> 64) as u64, Ordering::Relaxed);
        self.low.store(bits as u64, Ordering::Relaxed);
        self.port.store(u32::from(endpoint.port()), Ordering::Relaxed);
        self.version.store(version.wrapping_add(2), Ordering::Release);
    }

    /// The last one written, if any was.
    pub fn get(&self) -> Option<EndpointAddr> {
        for _ in 0..TRIES {
            let before = self.version.load(Ordering::Acquire);
            if before == 0 {
                return None;
            }
            let bits = u128::from(self.high.load(Ordering::Relaxed)) << 64
                | u128::from(self.low.load(Ordering::Relaxed));
            let port = self.port.load(Ordering::Relaxed);
            fence(Ordering::Acquire);
            if before.is_multiple_of(2) && self.version.load(Ordering::Relaxed) == before {
                let ip = IpAddr::V6(Ipv6Addr::from(bits));
                return Some(EndpointAddr::new(ip, u16::try_from(port).unwrap_or(0)));
            }
            std::hint::spin_loop();
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_never_sees_half_of_one_and_half_of_another() {
        let cell = EndpointCell::default();
        assert_eq!(cell.get(), None);
        let (a, b) = (EndpointAddr::new([10, 0, 0, 1].into(), 1), EndpointAddr::new([10, 9, 9, 9].into(), 9));
        std::thread::scope(|scope| {
            scope.spawn(|| (0..100_000).for_each(|i| cell.set(if i % 2 == 0 { a } else { b })));
            for seen in (0..10_000).filter_map(|_| cell.get()) {
                assert!(seen == a || seen == b, "{seen}");
            }
        });
        assert_eq!(cell.get(), Some(b));
    }
}
