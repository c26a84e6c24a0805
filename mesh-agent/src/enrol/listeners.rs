//! The agent's listeners inside a pod: made in its network namespace, bound to loopback, kept by the agent.
//!
//! Each worker has its own socket on each port (SO_REUSEPORT); the kernel spreads connections among them.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::AsFd;

use nix::sys::socket::setsockopt;
use socket2::{Domain, Protocol, Socket, Type};

use super::Capture;
use crate::kernel::Flows;
use crate::proxy::upstream::KEEPALIVE;

/// As deep as the kernel allows by default (net.core.somaxconn).
const BACKLOG: i32 = 4096;

/// A listener option that nix lacks (tcp(7)): how many connections may carry data in their SYN.
#[derive(Clone, Copy)]
struct TcpFastOpen;

nix::setsockopt_impl!(
    TcpFastOpen,
    libc::IPPROTO_TCP,
    libc::TCP_FASTOPEN,
    libc::c_int,
    nix::sys::socket::sockopt::SetStruct<libc::c_int>
);

/// Listeners of one worker in one pod.
pub(super) struct Set {
    pub outbound: Vec<TcpListener>,
    pub inbound: Vec<TcpListener>,
}

/// Makes the listeners of `workers` workers. Must run inside the pod's network namespace.
///
/// A pod without IPv6 has IPv4 listeners only, and the other way round.
pub(super) fn make(capture: &Capture, workers: usize) -> io::Result<Vec<Set>> {
    let Capture { ports, flows, .. } = capture;
    for port in [ports.outbound, ports.inbound] {
        both_families(|ip| bind(ip, port, flows, Sharing::Alone).map(drop))?;
    }
    let listen = |port| both_families(|ip| listen(ip, port, flows));
    (0..workers)
        .map(|_| Ok(Set { outbound: listen(ports.outbound)?, inbound: listen(ports.inbound)? }))
        .collect()
}

fn both_families<T>(make: impl Fn(IpAddr) -> io::Result<T>) -> io::Result<Vec<T>> {
    let v4 = make(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let v6 = make(IpAddr::V6(Ipv6Addr::LOCALHOST));
    match (v4, v6) {
        (Ok(v4), Ok(v6)) => Ok(vec![v4, v6]),
        (Ok(one), Err(error)) | (Err(error), Ok(one)) if is_family_missing(&error) => Ok(vec![one]),
        (Err(error), _) | (_, Err(error)) => Err(error),
    }
}

fn is_family_missing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL))
}

fn listen(ip: IpAddr, port: u16, flows: &Flows) -> io::Result<TcpListener> {
    let socket = bind(ip, port, flows, Sharing::Workers)?;
    // Accepted sockets inherit both.
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&KEEPALIVE)?;
    socket.listen(BACKLOG)?;
    // A pod may turn it on for every listener (net.ipv4.tcp_fastopen). A connection that begins before its client has a
    // sequence number acknowledged has no original destination yet; without it the client sends its data again.
    setsockopt(&socket, TcpFastOpen, &0)?;
    Ok(socket.into())
}

/// Who else may have the port.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sharing {
    /// Nobody: fails where an application listens already, even if it would share. Once the pod is captured the bind
    /// hook keeps others out.
    Alone,
    /// The agent's other workers.
    Workers,
}

fn bind(ip: IpAddr, port: u16, flows: &Flows, sharing: Sharing) -> io::Result<Socket> {
    let domain = if ip.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))?;
    if ip.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(sharing == Sharing::Workers)?;
    // An earlier agent may have captured the pod already: the bind hook must know this socket for the agent's.
    flows.mark_own(socket.as_fd(), None)?;
    socket.bind(&SocketAddr::new(ip, port).into())?;
    Ok(socket)
}
