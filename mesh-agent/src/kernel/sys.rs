//! The four bpf(2) commands that aya has no public call for: open a pinned link, ask what it hangs on, replace its
//! program, take it off. The only unsafe code of the agent.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

const BPF_OBJ_GET: libc::c_int = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const BPF_LINK_UPDATE: libc::c_int = 29;
const BPF_LINK_DETACH: libc::c_int = 34;
const BPF_LINK_TYPE_CGROUP: u32 = 3;
const BPF_LINK_TYPE_NETNS: u32 = 5;

/// What a link hangs on. Zero where that is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LinkTarget {
    /// Id of the cgroup, which is its directory's inode number.
    Cgroup(u64),
    /// Inode number of the network namespace.
    Netns(u32),
    /// Anything else isn't ours.
    Other,
}

/// A link as the kernel describes it.
#[derive(Clone, Copy, Debug)]
pub(super) struct LinkInfo {
    pub(super) id: u32,
    pub(super) program_id: u32,
    pub(super) target: LinkTarget,
}

#[repr(C)]
struct ObjGet {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

#[repr(C)]
struct GetInfo {
    fd: u32,
    len: u32,
    info: u64,
}

#[repr(C)]
struct LinkUpdate {
    link_fd: u32,
    new_prog_fd: u32,
    flags: u32,
    old_prog_fd: u32,
}

#[repr(C)]
struct LinkDetach {
    link_fd: u32,
}

/// Head of the kernel's `struct bpf_link_info`; the union is read as words.
#[repr(C)]
#[derive(Default)]
struct RawLinkInfo {
    kind: u32,
    id: u32,
    prog_id: u32,
    _pad: u32,
    union: [u32; 4],
}

/// Opens a pinned object.
pub(super) fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let name = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = ObjGet { pathname: name.as_ptr() as u64, bpf_fd: 0, file_flags: 0 };
    // SAFETY: the path outlives the call.
    let fd = unsafe { bpf(BPF_OBJ_GET, &mut attr) }?;
    // SAFETY: a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// What a link hangs on and which program it runs.
pub(super) fn link_info(link: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    let mut info = RawLinkInfo::default();
    let len = u32::try_from(size_of::<RawLinkInfo>()).unwrap_or(0);
    let mut attr = GetInfo { fd: word(link.as_raw_fd()), len, info: (&raw mut info) as u64 };
    // SAFETY: `info` outlives the call and has the length given.
    unsafe { bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr) }?;
    let target = match info.kind {
        BPF_LINK_TYPE_CGROUP => LinkTarget::Cgroup(u64::from(info.union[1]) << 32 | u64::from(info.union[0])),
        BPF_LINK_TYPE_NETNS => LinkTarget::Netns(info.union[0]),
        _ => LinkTarget::Other,
    };
    Ok(LinkInfo { id: info.id, program_id: info.prog_id, target })
}

/// Replaces a link's program; no event between the two runs neither.
pub(super) fn update_link(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = LinkUpdate {
        link_fd: word(link.as_raw_fd()),
        new_prog_fd: word(program.as_raw_fd()),
        flags: 0,
        old_prog_fd: 0,
    };
    // SAFETY: no pointers.
    unsafe { bpf(BPF_LINK_UPDATE, &mut attr) }.map(|_| ())
}

/// Takes a link off what it hangs on, at once; closing its last descriptor does so some time later.
pub(super) fn detach_link(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = LinkDetach { link_fd: word(link.as_raw_fd()) };
    // SAFETY: no pointers.
    unsafe { bpf(BPF_LINK_DETACH, &mut attr) }.map(|_| ())
}

fn word(fd: RawFd) -> u32 {
    fd.cast_unsigned()
}

/// # Safety
/// `attr` is the command's part of `union bpf_attr`, and what it points at is valid for the command.
unsafe fn bpf<T>(command: libc::c_int, attr: &mut T) -> io::Result<RawFd> {
    // SAFETY: as promised by the caller; the kernel reads no more than the size given.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(RawFd::try_from(result).unwrap_or(0)) }
}
