//! Addresses for servers that listen on this machine itself: an agent's metrics, a redis-server.
//!
//! A port that was free a moment ago can be taken before its server listens, by a connection that another process
//! opens. So nobody asks for a free one: each process of the lab has a loopback address of its own, and its ports lie
//! below those that the kernel gives to connections.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU16, Ordering};

/// The first port given out; the kernel's own begin at 32768 (`ip_local_port_range`).
const FIRST: u16 = 15_100;
const LAST: u16 = 32_000;

/// An address of 127.64.0.0/10 that this process gives out once and that no other process is given.
pub fn own_address() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let port = FIRST + NEXT.fetch_add(1, Ordering::Relaxed) % (LAST - FIRST);
    (of_process(std::process::id()), port).into()
}

/// Process ids have 22 bits at the most (`PID_MAX_LIMIT`), so each has its address.
fn of_process(pid: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(u32::from_be_bytes([127, 64, 0, 0]) | (pid & 0x003f_ffff))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_processes_and_no_two_calls_share_an_address() {
        assert_eq!(of_process(1), Ipv4Addr::new(127, 64, 0, 1));
        assert_eq!(of_process(4_194_304 - 1), Ipv4Addr::new(127, 127, 255, 255));
        let (one, other) = (own_address(), own_address());
        assert_eq!(one.ip(), other.ip());
        assert_ne!(one.port(), other.port());
    }
}
