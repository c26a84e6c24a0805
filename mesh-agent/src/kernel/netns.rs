//! Network namespaces: which one a thread is in, a visit to another, and the addresses found there.
//!
//! A thread that visits always comes back; if it couldn't, the process ends rather than open the next socket in the
//! wrong pod.

use std::cell::{Cell, OnceCell};
use std::fs::File;
use std::io;
use std::net::{IpAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, BorrowedFd};

use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, getsockopt, socket};

/// `SO_NETNS_COOKIE` (socket.h, since 5.14).
const SO_NETNS_COOKIE: libc::c_int = 71;

/// The socket option, for nix.
#[derive(Clone, Copy)]
struct NetnsCookie;

nix::getsockopt_impl!(
    NetnsCookie,
    libc::SOL_SOCKET,
    SO_NETNS_COOKIE,
    u64,
    nix::sys::socket::sockopt::GetStruct<u64>
);

thread_local! {
    /// The namespace that this thread was in at its first visit; threads live in no other.
    static HOME: OnceCell<File> = const { OnceCell::new() };
    static AWAY: Cell<bool> = const { Cell::new(false) };
}

/// Cookie of the namespace that this thread is in: the kernel's own number for it, never reused while the machine is up.
///
/// # Errors
/// A kernel before 5.14, or no file descriptors left.
pub fn cookie_here() -> io::Result<u64> {
    let probe = socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    Ok(getsockopt(&probe, NetnsCookie)?)
}

/// Runs `f` in another network namespace and comes back. `f` must not wait for anything.
///
/// # Errors
/// The namespace can't be entered; `f` wasn't run then. Visits within visits are refused.
pub fn enter<T>(netns: BorrowedFd<'_>, f: impl FnOnce() -> T) -> io::Result<T> {
    if AWAY.get() {
        return Err(io::Error::other("already visiting a network namespace"));
    }
    HOME.with(|home| {
        let home = match home.get() {
            Some(home) => home,
            None => {
                let here = File::open("/proc/thread-self/ns/net")?;
                home.get_or_init(|| here)
            }
        };
        setns(netns, CloneFlags::CLONE_NEWNET)?;
        let _way_back = WayBack(home.as_fd());
        AWAY.set(true);
        Ok(f())
    })
}

/// Goes home when dropped, also when the visit panics.
struct WayBack<'a>(BorrowedFd<'a>);

impl Drop for WayBack<'_> {
    fn drop(&mut self) {
        if let Err(errno) = setns(self.0, CloneFlags::CLONE_NEWNET) {
            tracing::error!(%errno, "no way back from a pod's network namespace; ending");
            std::process::abort();
        }
        AWAY.set(false);
    }
}

/// Addresses of the namespace that this thread is in, without loopback and without link-local ones: those needn't be
/// unique on a node, so they can't name a pod.
///
/// # Errors
/// The kernel's list can't be read.
pub fn local_addresses() -> io::Result<Vec<IpAddr>> {
    let mut addresses: Vec<IpAddr> = nix::ifaddrs::getifaddrs()?
        .filter_map(|interface| {
            let address = interface.address?;
            let v4 = address.as_sockaddr_in().map(|a| IpAddr::V4(SocketAddrV4::from(*a).ip().to_owned()));
            v4.or_else(|| {
                address.as_sockaddr_in6().map(|a| IpAddr::V6(SocketAddrV6::from(*a).ip().to_owned()))
            })
        })
        .filter(|ip| names_a_pod(*ip))
        .collect();
    addresses.sort_unstable();
    addresses.dedup();
    Ok(addresses)
}

/// Index of the one device with a link-local IPv6 address in the namespace that this thread is in; none if there are
/// several, or there is none.
///
/// # Errors
/// The kernel's list can't be read.
pub fn link_local_device() -> io::Result<Option<u32>> {
    let mut devices: Vec<u32> = nix::ifaddrs::getifaddrs()?
        .filter_map(|interface| Some(SocketAddrV6::from(*interface.address?.as_sockaddr_in6()?)))
        .filter(|address| address.ip().is_unicast_link_local())
        .map(|address| address.scope_id())
        .collect();
    devices.sort_unstable();
    devices.dedup();
    Ok(devices.first().copied().filter(|_| devices.len() == 1))
}

fn names_a_pod(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_link_local() && !v4.is_unspecified(),
        IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unicast_link_local() && !v6.is_unspecified(),
    }
}
