//! Sockets as the kernel lists them (sock_diag(7)), with what the connect hook noted of them, and their end by SOCK_DESTROY.
//!
//! By hand, since no library asks for socket storage or destroys. Looks at the network namespace that the thread is in.
//! A socket is named by its addresses and its cookie: another that took its place is never meant.

use std::io::{self, Read as _};
use std::os::fd::{AsRawFd as _, BorrowedFd};

use mesh_common::{Addr, SocketRecord, owner};
use socket2::{Domain, Protocol, Socket, Type};

use crate::addr::{EndpointAddr, from_map, to_map};

const NETLINK_SOCK_DIAG: i32 = 4;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_DUMP: u16 = 0x300;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLMSG_HEADER: usize = 16;
/// inet_diag.h: asks for socket storage, and the attribute that answers.
const REQUEST_STORAGES: u16 = 2;
const STORAGES: u16 = 20;
/// sock_diag.h: which map, one storage, and its value.
const STORAGE_REQUEST_MAP: u16 = 1;
const STORAGE: u16 = 1;
const STORAGE_VALUE: u16 = 3;
const NLA_TYPE_MASK: u16 = 0x3fff;
/// `struct inet_diag_msg`.
const MESSAGE: usize = 72;
/// `struct inet_diag_sockid`, and where it is in request and answer.
const ID: usize = 48;
const ID_IN_MESSAGE: usize = 4;
const DST_PORT_IN_ID: usize = 2;
const DST_IN_ID: usize = 20;
/// ESTABLISHED to CLOSING, without TIME_WAIT, CLOSE and LISTEN: what has another end. Of UDP sockets: the connected ones.
const CONNECTED: u32 = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 8 | 1 << 9 | 1 << 11;

/// Which sockets are listed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kind {
    family: u8,
    protocol: u8,
}

/// TCP and UDP of both families.
pub(super) const KINDS: [Kind; 4] = [
    Kind { family: libc::AF_INET as u8, protocol: libc::IPPROTO_TCP as u8 },
    Kind { family: libc::AF_INET6 as u8, protocol: libc::IPPROTO_TCP as u8 },
    Kind { family: libc::AF_INET as u8, protocol: libc::IPPROTO_UDP as u8 },
    Kind { family: libc::AF_INET6 as u8, protocol: libc::IPPROTO_UDP as u8 },
];

/// Ends the sockets of this network namespace that the connect hook sent to one of `endpoints` and that still are connected
/// to it. Returns how many.
///
/// # Errors
/// The kernel lists no sockets, or the thread may not ask.
pub(super) fn destroy(sockets: BorrowedFd<'_>, endpoints: &[EndpointAddr]) -> io::Result<usize> {
    let netlink = Socket::new(
        Domain::from(libc::AF_NETLINK),
        Type::from(libc::SOCK_RAW).cloexec(),
        Some(Protocol::from(NETLINK_SOCK_DIAG)),
    )?;
    let mut destroyed = 0;
    for kind in KINDS {
        for id in balanced_to(&netlink, kind, sockets, endpoints)? {
            match end(&netlink, kind, &id) {
                Ok(()) => destroyed += 1,
                // It ended by itself meanwhile.
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(destroyed)
}

fn balanced_to(
    netlink: &Socket,
    kind: Kind,
    sockets: BorrowedFd<'_>,
    endpoints: &[EndpointAddr],
) -> io::Result<Vec<[u8; ID]>> {
    let map = attribute(STORAGE_REQUEST_MAP, &sockets.as_raw_fd().to_ne_bytes());
    let storages = attribute(REQUEST_STORAGES, &map);
    let request = request(SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, kind, CONNECTED, &[0; ID], &storages);
    netlink.send(&request)?;
    let mut found = Vec::new();
    answers(netlink, |message| {
        let (Some(id), Some(attributes)) =
            (message.get(ID_IN_MESSAGE..).and_then(<[u8]>::first_chunk::<ID>), message.get(MESSAGE..))
        else {
            return;
        };
        let peer = peer(kind, id);
        let is_balanced = |record: &SocketRecord| {
            record.owner == owner::TRANSLATED
                && EndpointAddr::new(from_map(record.peer_addr), record.peer_port) == peer
        };
        if endpoints.contains(&peer) && record(attributes).is_some_and(|record| is_balanced(&record)) {
            found.push(*id);
        }
    })?;
    Ok(found)
}

fn end(netlink: &Socket, kind: Kind, id: &[u8; ID]) -> io::Result<()> {
    netlink.send(&request(SOCK_DESTROY, NLM_F_ACK, kind, CONNECTED, id, &[]))?;
    answers(netlink, |_| {})
}

/// Hands each message to `f` until the last one, or the kernel's word that the request is done.
fn answers(netlink: &Socket, mut f: impl FnMut(&[u8])) -> io::Result<()> {
    let mut buf = vec![0; 32 * 1024];
    loop {
        let len = (&*netlink).read(&mut buf)?;
        let mut rest = buf.get(..len).unwrap_or_default();
        while let Some((kind, body, next)) = next_message(rest) {
            match kind {
                NLMSG_DONE => return Ok(()),
                NLMSG_ERROR => {
                    let code = body.first_chunk().map_or(-libc::EPROTO, |code| i32::from_ne_bytes(*code));
                    return if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(-code)) };
                }
                _ => f(body),
            }
            rest = next;
        }
    }
}

fn next_message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
    let kind = u16::from_ne_bytes(*bytes.get(4..)?.first_chunk()?);
    let body = bytes.get(NLMSG_HEADER..length)?;
    Some((kind, body, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

fn request(message: u16, flags: u16, kind: Kind, states: u32, id: &[u8; ID], attributes: &[u8]) -> Vec<u8> {
    let length = NLMSG_HEADER + 8 + ID + attributes.len();
    let mut bytes = Vec::with_capacity(length);
    bytes.extend(u32::try_from(length).unwrap_or(0).to_ne_bytes());
    bytes.extend(message.to_ne_bytes());
    bytes.extend((NLM_F_REQUEST | flags).to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend([kind.family, kind.protocol, 0, 0]);
    bytes.extend(states.to_ne_bytes());
    bytes.extend(id);
    bytes.extend(attributes);
    bytes
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = 4 + value.len();
    let mut bytes = u16::try_from(length).unwrap_or(0).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(length.next_multiple_of(4), 0);
    bytes
}

/// The first attribute of a kind.
fn find(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let length = usize::from(u16::from_ne_bytes(*attributes.first_chunk()?));
        let kind = u16::from_ne_bytes(*attributes.get(2..)?.first_chunk()?) & NLA_TYPE_MASK;
        let value = attributes.get(4..length)?;
        if kind == wanted {
            return Some(value);
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
}

/// What the connect hook noted.
fn record(attributes: &[u8]) -> Option<SocketRecord> {
    let value = find(find(find(attributes, STORAGES)?, STORAGE)?, STORAGE_VALUE)?;
    let word = |at: usize| value.get(at..)?.first_chunk().map(|word| u32::from_ne_bytes(*word));
    let port = |at: usize| value.get(at..)?.first_chunk().map(|port| u16::from_ne_bytes(*port));
    let addr = |at: usize| Some([word(at)?, word(at + 4)?, word(at + 8)?, word(at + 12)?]);
    Some(SocketRecord {
        owner: word(std::mem::offset_of!(SocketRecord, owner))?,
        peer_port: port(std::mem::offset_of!(SocketRecord, peer_port))?,
        peer_addr: addr(std::mem::offset_of!(SocketRecord, peer_addr))?,
        ..SocketRecord::default()
    })
}

fn peer(kind: Kind, id: &[u8; ID]) -> EndpointAddr {
    let port =
        id.get(DST_PORT_IN_ID..).and_then(|port| port.first_chunk()).map_or(0, |p| u16::from_be_bytes(*p));
    let octets: [u8; 16] =
        id.get(DST_IN_ID..).and_then(|octets| octets.first_chunk()).copied().unwrap_or_default();
    let [a, b, c, d, ..] = octets;
    let addr: Addr = match i32::from(kind.family) {
        libc::AF_INET => mesh_common::v4_mapped([a, b, c, d]),
        _ => mesh_common::from_octets(octets),
    };
    debug_assert_eq!(to_map(from_map(addr)), addr);
    EndpointAddr::new(from_map(addr), port)
}
