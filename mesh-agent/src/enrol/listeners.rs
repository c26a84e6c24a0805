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
use crate::proxy::sockets::KEEPALIVE;

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

/// Listeners in one pod, of one worker or of all.
#[derive(Debug, Default)]
pub struct Set {
    /// On the outbound port.
    pub outbound: Vec<TcpListener>,
    /// On the inbound port.
    pub inbound: Vec<TcpListener>,
    /// On the HBONE port.
    pub hbone: Vec<TcpListener>,
}

impl Set {
    /// The same sockets under other descriptors.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn share(&self) -> io::Result<Self> {
        let all = |listeners: &[TcpListener]| -> io::Result<Vec<TcpListener>> {
            listeners.iter().map(TcpListener::try_clone).collect()
        };
        Ok(Self { outbound: all(&self.outbound)?, inbound: all(&self.inbound)?, hbone: all(&self.hbone)? })
    }

    /// All of `sets` in one.
    pub(super) fn of_all(sets: &[Self]) -> io::Result<Self> {
        let mut all = Self::default();
        for set in sets {
            let Self { outbound, inbound, hbone } = set.share()?;
            all.outbound.extend(outbound);
            all.inbound.extend(inbound);
            all.hbone.extend(hbone);
        }
        Ok(all)
    }
}

/// Makes the listeners of `workers` workers. Must run inside the pod's network namespace.
///
/// A pod without IPv6 has IPv4 listeners only, and the other way round.
pub(super) fn make(capture: &Capture, workers: usize) -> io::Result<Vec<Set>> {
    let Capture { ports, flows, .. } = capture;
    for port in [ports.outbound, ports.inbound, ports.hbone] {
        both_families(|ip| bind(ip, port, flows, Sharing::Alone).map(drop))?;
    }
    let listen = |port| both_families(|ip| listen(ip, port, flows));
    let set = |_| {
        let (outbound, inbound) = (listen(ports.outbound)?, listen(ports.inbound)?);
        Ok(Set { outbound, inbound, hbone: listen(ports.hbone)? })
    };
    (0..workers).map(set).collect()
}

/// The listeners that another agent hands over, spread over `workers` workers, each of which has one of its own: none is
/// closed, since connections may wait in it. None if they are of other ports. Must run inside the pod's network namespace.
pub(super) fn adopt(capture: &Capture, handed: Set, workers: usize) -> io::Result<Option<Vec<Set>>> {
    let Capture { ports, flows, .. } = capture;
    let is_on = |listeners: &[TcpListener], port: u16| {
        listeners.iter().all(|listener| listener.local_addr().is_ok_and(|addr| addr.port() == port))
    };
    let Set { outbound, inbound, mut hbone } = handed;
    let all = [(&outbound, ports.outbound), (&inbound, ports.inbound), (&hbone, ports.hbone)];
    if !all.into_iter().all(|(listeners, port)| is_on(listeners, port)) {
        return Ok(None);
    }
    if hbone.is_empty() {
        // Of an agent that had none.
        hbone = both_families(|ip| listen(ip, ports.hbone, flows))?;
    }
    let outbound = spread(outbound, ports.outbound, flows, workers)?;
    let inbound = spread(inbound, ports.inbound, flows, workers)?;
    let hbone = spread(hbone, ports.hbone, flows, workers)?;
    let sets = outbound.into_iter().zip(inbound).zip(hbone);
    Ok(Some(sets.map(|((outbound, inbound), hbone)| Set { outbound, inbound, hbone }).collect()))
}

/// The listeners of each worker: all that there are, and more of the same families for workers that would have none.
fn spread(
    listeners: Vec<TcpListener>,
    port: u16,
    flows: &Flows,
    workers: usize,
) -> io::Result<Vec<Vec<TcpListener>>> {
    let mut of_worker: Vec<Vec<TcpListener>> = (0..workers).map(|_| Vec::new()).collect();
    let is_v4 = |listener: &TcpListener| listener.local_addr().is_ok_and(|addr| addr.is_ipv4());
    let (v4, v6): (Vec<_>, Vec<_>) = listeners.into_iter().partition(is_v4);
    for of_family in [v4, v6] {
        let Some(ip) = of_family.first().and_then(|listener| listener.local_addr().ok()) else { continue };
        let more = workers.saturating_sub(of_family.len());
        let made = (0..more).map(|_| listen(ip.ip(), port, flows)).collect::<io::Result<Vec<_>>>()?;
        for (place, listener) in of_family.into_iter().chain(made).enumerate() {
            of_worker[place % workers].push(listener);
        }
    }
    Ok(of_worker)
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
