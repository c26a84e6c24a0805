//! The compiled programs, as part of the binary, and how they are loaded onto the pinned maps.

use std::path::Path;

use aya::programs::{CgroupSock, CgroupSockAddr, ProgramFd, SkLookup, SockOps};
use aya::{Ebpf, EbpfLoader, include_bytes_aligned};

use super::{KernelError, bpffs, debug, maps};

static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/mesh-ebpf.o"));

/// Programs for addresses in socket calls. Attached from the last to the first: nothing is sent elsewhere before what
/// hides it is there.
pub(super) const SOCK_ADDR: [&str; 12] = [
    "connect4",
    "connect6",
    "sendmsg4",
    "sendmsg6",
    "recvmsg4",
    "recvmsg6",
    "getpeername4",
    "getpeername6",
    "getsockname4",
    "getsockname6",
    "bind4",
    "bind6",
];
/// The sockops program.
pub(super) const SOCK_OPS: &str = "sock_ops";
/// The program for sockets that close.
pub(super) const SOCK_RELEASE: &str = "sock_release";
/// The sk_lookup program.
pub(super) const SK_LOOKUP: &str = "pick_listener";

/// Whether the programs were there when the agent was compiled.
pub(super) fn is_built() -> bool {
    !OBJECT.is_empty()
}

/// Loads every program; maps are opened from their pins, or made and pinned.
pub(super) fn load(bpffs_dir: &Path) -> Result<Ebpf, KernelError> {
    if !is_built() {
        return Err(KernelError::NotBuilt);
    }
    let level = debug::level();
    let mut loader = EbpfLoader::new();
    loader.override_global(aya_log::LEVEL, &level, false);
    for map in maps::NAMES {
        loader.map_pin_path(map, bpffs::maps_dir(bpffs_dir).join(map));
    }
    let mut ebpf = loader.load(OBJECT).map_err(|error| KernelError::Load(Box::new(error)))?;
    for name in SOCK_ADDR {
        sock_addr(&mut ebpf, name)?.load().map_err(failed(name))?;
    }
    sock_release(&mut ebpf)?.load().map_err(failed(SOCK_RELEASE))?;
    sock_ops(&mut ebpf)?.load().map_err(failed(SOCK_OPS))?;
    sk_lookup(&mut ebpf)?.load().map_err(failed(SK_LOOKUP))?;
    Ok(ebpf)
}

/// One of [`SOCK_ADDR`].
pub(super) fn sock_addr<'a>(
    ebpf: &'a mut Ebpf,
    name: &'static str,
) -> Result<&'a mut CgroupSockAddr, KernelError> {
    find(ebpf, name)?.try_into().map_err(failed(name))
}

/// The program for sockets that close.
pub(super) fn sock_release(ebpf: &mut Ebpf) -> Result<&mut CgroupSock, KernelError> {
    find(ebpf, SOCK_RELEASE)?.try_into().map_err(failed(SOCK_RELEASE))
}

/// The sockops program.
pub(super) fn sock_ops(ebpf: &mut Ebpf) -> Result<&mut SockOps, KernelError> {
    find(ebpf, SOCK_OPS)?.try_into().map_err(failed(SOCK_OPS))
}

/// The sk_lookup program.
pub(super) fn sk_lookup(ebpf: &mut Ebpf) -> Result<&mut SkLookup, KernelError> {
    find(ebpf, SK_LOOKUP)?.try_into().map_err(failed(SK_LOOKUP))
}

/// A handle on a loaded program that doesn't borrow the set.
pub(super) fn program_fd(ebpf: &Ebpf, name: &'static str) -> Result<ProgramFd, KernelError> {
    let not_loaded = || failed(name)(aya::programs::ProgramError::NotLoaded);
    let program = ebpf.program(name).ok_or_else(not_loaded)?;
    let fd = program.fd().map_err(failed(name))?;
    fd.try_clone().map_err(|error| failed(name)(error.into()))
}

pub(super) fn failed(name: &'static str) -> impl FnOnce(aya::programs::ProgramError) -> KernelError {
    move |source| KernelError::Program { name, source: Box::new(source) }
}

fn find<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut aya::programs::Program, KernelError> {
    ebpf.program_mut(name).ok_or_else(|| failed(name)(aya::programs::ProgramError::NotLoaded))
}
