//! Sockets that the agent connects with: made in a pod's network namespace, some ahead.
//!
//! Used by `upstream`, which marks and connects them, and by `crate::health`. Never connects.

use std::cell::RefCell;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::BorrowedFd;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};

use crate::kernel::netns;
use crate::policy::Keepalive;

/// Sockets made ahead, so that entering the pod's network namespace is paid once for several connections.
const STOCK: usize = 8;
/// A peer that vanished without a word is noticed after about two minutes.
pub const KEEPALIVE: TcpKeepalive = TcpKeepalive::new()
    .with_time(Duration::from_secs(60))
    .with_interval(Duration::from_secs(15))
    .with_retries(4);

/// A link-local IPv6 address means nothing without a device, and the one that the application named can't be seen in the
/// hook: it is the pod's only one, or the connection fails rather than go to a stranger of the same address.
pub(super) fn with_scope(addr: SocketAddr, netns: BorrowedFd<'_>) -> io::Result<SocketAddr> {
    match addr {
        SocketAddr::V6(mut v6) if v6.ip().is_unicast_link_local() => {
            let device = netns::enter(netns, netns::link_local_device)??;
            v6.set_scope_id(device.ok_or_else(|| io::Error::other("not one device to reach it by"))?);
            Ok(v6.into())
        }
        other => Ok(other),
    }
}

/// Unconnected sockets of one pod's network namespace.
#[derive(Default)]
pub struct SocketStock {
    v4: RefCell<Vec<Socket>>,
    v6: RefCell<Vec<Socket>>,
}

impl SocketStock {
    pub(super) fn take(&self, like: IpAddr, netns: BorrowedFd<'_>) -> io::Result<Socket> {
        let (stock, domain) =
            if like.is_ipv4() { (&self.v4, Domain::IPV4) } else { (&self.v6, Domain::IPV6) };
        let mut stock = stock.borrow_mut();
        if let Some(socket) = stock.pop() {
            return Ok(socket);
        }
        netns::enter(netns, || {
            for _ in 0..STOCK {
                stock.push(new_socket(domain)?);
            }
            io::Result::Ok(())
        })??;
        stock.pop().ok_or_else(|| io::Error::other("no socket made"))
    }

    pub(super) fn clear(&self) {
        self.v4.borrow_mut().clear();
        self.v6.borrow_mut().clear();
    }
}

/// A socket for `like`'s family in a network namespace, as all that the agent connects with.
pub fn socket_in(netns: BorrowedFd<'_>, like: IpAddr) -> io::Result<Socket> {
    netns::enter(netns, || new_socket(if like.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 }))?
}

fn new_socket(domain: Domain) -> io::Result<Socket> {
    let socket = Socket::new(domain, Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))?;
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&KEEPALIVE)?;
    Ok(socket)
}

/// What a DestinationRule asks for; what it leaves out is the agent's own.
pub(super) fn probes(keepalive: &Keepalive) -> TcpKeepalive {
    let mut probes = KEEPALIVE;
    if let Some(time) = keepalive.time {
        probes = probes.with_time(time);
    }
    if let Some(interval) = keepalive.interval {
        probes = probes.with_interval(interval);
    }
    keepalive.probes.map_or_else(|| probes.clone(), |count| probes.clone().with_retries(count))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn only_a_link_local_address_needs_the_pods_device() {
        let here = std::fs::File::open("/proc/self/ns/net").unwrap();
        for addr in ["10.1.0.1:80", "[fd00::1]:80"] {
            let addr: SocketAddr = addr.parse().unwrap();
            assert_eq!(with_scope(addr, here.as_fd()).unwrap(), addr);
        }
    }
}
