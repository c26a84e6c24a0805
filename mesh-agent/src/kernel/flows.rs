//! What workers and the heartbeat thread do with the maps: ask for an accepted connection's original destination, mark
//! an upstream socket as the agent's own, and show that the agent lives.

use std::cell::RefCell;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;

use aya::maps::{Array, MapData, MapError};
use mesh_common::{CLIENT_ADDR_ONLY, Liveness, SocketRecord, owner};
use nix::time::{ClockId, clock_gettime};

use super::KernelError;
use super::maps::{self, Storage};
use crate::addr::{self, ClientAddr, OrigDst};

/// One per worker; may be sent to it, not shared.
pub struct Flows(Option<RefCell<Storage<SocketRecord>>>);

impl Flows {
    pub(super) fn open(bpffs_dir: &Path) -> Result<Self, KernelError> {
        maps::open_sockets(bpffs_dir).map(|sockets| Self(Some(RefCell::new(sockets))))
    }

    /// No kernel behind it: nothing has an original destination, marks go nowhere.
    #[cfg(test)]
    pub fn detached() -> Self {
        Self(None)
    }

    /// Where a connection accepted on the outbound listener wanted to go. It is the socket's own: no other connection's
    /// can be taken for it. `None` means that the agent's port was dialled directly, and the connection must be closed.
    pub fn original_dst(&self, accepted: BorrowedFd<'_>) -> Option<OrigDst> {
        let record = self.record(accepted).filter(|record| record.owner == owner::CAPTURED)?;
        Some(OrigDst::new(addr::from_map(record.addr), record.port))
    }

    /// Marks a socket of the agent before connect(2): the hooks never capture it, sk_lookup lets it through, and the
    /// application that accepts it is told `client` (a zero port: that address with the connection's own port).
    ///
    /// # Errors
    /// No memory for the storage, or not a socket.
    pub fn mark_own(&self, socket: BorrowedFd<'_>, client: Option<ClientAddr>) -> io::Result<()> {
        let mut record = SocketRecord { owner: owner::AGENT, ..SocketRecord::default() };
        if let Some(client) = client {
            record.addr = addr::to_map(client.ip());
            record.port = client.port();
            record.flags = if client.port() == 0 { CLIENT_ADDR_ONLY } else { 0 };
        }
        let Some(sockets) = &self.0 else { return Ok(()) };
        sockets.borrow_mut().insert(&socket, record, 0).map_err(into_io)
    }

    /// Marks a socket of the agent whose other end is an agent too: the hooks never capture it, and in the destination's pod
    /// it is handed to the agent as any connection from outside, also where that is this same agent.
    ///
    /// # Errors
    /// As [`Self::mark_own`].
    pub fn mark_own_unpublished(&self, socket: BorrowedFd<'_>) -> io::Result<()> {
        // To sockops it is published already, so that it isn't.
        let record = SocketRecord { owner: owner::AGENT, published: 1, ..SocketRecord::default() };
        let Some(sockets) = &self.0 else { return Ok(()) };
        sockets.borrow_mut().insert(&socket, record, 0).map_err(into_io)
    }

    /// What an accepted or own socket is recorded as; for diagnosis.
    pub fn record(&self, socket: BorrowedFd<'_>) -> Option<SocketRecord> {
        self.0.as_ref()?.borrow().get(&socket, 0).ok()
    }
}

/// The heartbeat thread's handle.
pub struct HeartbeatMap(Array<MapData, Liveness>);

impl HeartbeatMap {
    pub(super) fn open(bpffs_dir: &Path) -> Result<Self, KernelError> {
        maps::open_liveness(bpffs_dir).map(Self)
    }

    /// The agent lived at `now_ns` ([`monotonic_ns`]).
    ///
    /// # Errors
    /// Only if the kernel refuses the write; the next beat may do better.
    pub fn beat(&mut self, now_ns: u64) -> io::Result<()> {
        self.0.set(0, Liveness { beat_ns: now_ns }, 0).map_err(into_io)
    }

    /// The agent stops: the pods' fail modes apply at once instead of after the stale time.
    ///
    /// # Errors
    /// As for [`HeartbeatMap::beat`].
    pub fn stop(&mut self) -> io::Result<()> {
        self.beat(0)
    }
}

/// CLOCK_MONOTONIC in nanoseconds, the programs' clock.
pub fn monotonic_ns() -> u64 {
    let Ok(now) = clock_gettime(ClockId::CLOCK_MONOTONIC) else { return 0 };
    let seconds = u64::try_from(now.tv_sec()).unwrap_or(0);
    seconds * 1_000_000_000 + u64::try_from(now.tv_nsec()).unwrap_or(0)
}

fn into_io(error: MapError) -> io::Error {
    match error {
        MapError::SyscallError(error) => error.io_error,
        other => io::Error::other(other),
    }
}
