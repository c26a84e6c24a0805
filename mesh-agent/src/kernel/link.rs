//! Links and their pins: adopted where they hang on the right thing, made where they don't.
//!
//! An adopted link gets the new program by BPF_LINK_UPDATE, so no connection falls between two versions. A link whose
//! cgroup or netns is gone, or that hangs on another one (`--cgroup` changed), is replaced.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use aya::Ebpf;
use aya::programs::links::FdLink;
use aya::programs::{CgroupAttachMode, ProgramError};

use super::sys::{self, LinkTarget};
use super::{KernelError, Options, bpffs, cgroup, object};

/// Attaches every program but sk_lookup to the agent's cgroup subtree.
pub(super) fn attach_cgroup(ebpf: &mut Ebpf, options: &Options) -> Result<(), KernelError> {
    let dir = cgroup::open(&options.cgroup)?;
    let target = LinkTarget::Cgroup(cgroup::id(&dir).map_err(cgroup_failed(&options.cgroup))?);
    let links = bpffs::links_dir(&options.bpffs_dir);
    // sockops first: a connection captured before it could be published would be closed by the agent.
    let path = links.join(object::SOCK_OPS);
    if !adopt(ebpf, object::SOCK_OPS, &path, target)? {
        let link = sock_ops_link(ebpf, &dir)?;
        pin(link, &path)?;
    }
    let path = links.join(object::SOCK_RELEASE);
    if !adopt(ebpf, object::SOCK_RELEASE, &path, target)? {
        let program = object::sock_release(ebpf)?;
        let failed = object::failed(object::SOCK_RELEASE);
        let id = program.attach(&dir, CgroupAttachMode::Single).map_err(failed)?;
        let link = program.take_link(id).map_err(object::failed(object::SOCK_RELEASE))?;
        pin(fd_link(object::SOCK_RELEASE, link)?, &path)?;
    }
    for name in object::SOCK_ADDR.into_iter().rev() {
        let path = links.join(name);
        if !adopt(ebpf, name, &path, target)? {
            let program = object::sock_addr(ebpf, name)?;
            let id = program.attach(&dir, CgroupAttachMode::Single).map_err(object::failed(name))?;
            let link = program.take_link(id).map_err(object::failed(name))?;
            pin(fd_link(name, link)?, &path)?;
        }
    }
    Ok(())
}

/// sockops must see the agent's own sockets too. Where the agent lives outside the subtree, it gets a link of its own on
/// the agent's cgroup; unpinned, because that cgroup may be the whole machine's.
pub(super) fn attach_own_cgroup(ebpf: &mut Ebpf, options: &Options) -> Result<Option<FdLink>, KernelError> {
    let own = cgroup::own()?;
    let subtree = fs::canonicalize(&options.cgroup).map_err(cgroup_failed(&options.cgroup))?;
    if own.starts_with(&subtree) {
        return Ok(None);
    }
    let dir = cgroup::open(&own)?;
    sock_ops_link(ebpf, &dir).map(Some)
}

/// Attaches sk_lookup to a pod's netns, or moves an adopted link to the new program.
pub(super) fn attach_netns(ebpf: &mut Ebpf, path: &Path, netns: BorrowedFd<'_>) -> Result<(), KernelError> {
    let inode = netns
        .try_clone_to_owned()
        .and_then(|fd| File::from(fd).metadata())
        .map_err(|source| KernelError::Link { path: path.to_owned(), source })?
        .ino();
    let target = LinkTarget::Netns(u32::try_from(inode).unwrap_or(0));
    if adopt(ebpf, object::SK_LOOKUP, path, target)? {
        return Ok(());
    }
    let program = object::sk_lookup(ebpf)?;
    let id = program.attach(netns).map_err(object::failed(object::SK_LOOKUP))?;
    let link = program.take_link(id).map_err(object::failed(object::SK_LOOKUP))?;
    pin(link.into(), path)
}

/// Moves a pinned link of an earlier process to the new program, whatever netns it hangs on. `false`: that is gone.
pub(super) fn refresh_netns(ebpf: &Ebpf, path: &Path) -> Result<bool, KernelError> {
    let failed = |source| KernelError::Link { path: path.to_owned(), source };
    let link = sys::open_pin(path).map_err(failed)?;
    let info = sys::link_info(link.as_fd()).map_err(failed)?;
    if !matches!(info.target, LinkTarget::Netns(inode) if inode != 0) {
        return Ok(false);
    }
    update(ebpf, object::SK_LOOKUP, link.as_fd())
        .or_else(|error| if is_gone(&error) { Ok(false) } else { Err(failed(error)) })
}

/// Takes a link off and removes its pin. One that isn't there is fine.
///
/// The kernel puts the link of a removed pin in its own time, and its program would go on meanwhile, on maps that forget
/// the pod: whoever dials it in that moment would be refused.
pub(super) fn unpin(path: &Path) -> Result<(), KernelError> {
    if let Ok(link) = sys::open_pin(path)
        && let Err(error) = sys::detach_link(link.as_fd())
    {
        // What it hung on is gone, or the kernel has no way to: then the pin's removal is all there is.
        tracing::debug!(path = %path.display(), %error, "a link isn't taken off at once");
    }
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(KernelError::Link { path: path.to_owned(), source })
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// True if the pin was there, hangs on `target`, and now runs the new program. A pin that doesn't is removed.
fn adopt(ebpf: &Ebpf, name: &'static str, path: &Path, target: LinkTarget) -> Result<bool, KernelError> {
    let failed = |source| KernelError::Link { path: path.to_owned(), source };
    let link = match sys::open_pin(path) {
        Ok(link) => link,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(failed(error)),
    };
    let info = sys::link_info(link.as_fd()).map_err(failed)?;
    if info.target == target {
        match update(ebpf, name, link.as_fd()) {
            Ok(updated) => return Ok(updated),
            Err(error) if is_gone(&error) => {}
            Err(error) => return Err(failed(error)),
        }
    }
    unpin(path)?;
    Ok(false)
}

fn update(ebpf: &Ebpf, name: &'static str, link: BorrowedFd<'_>) -> io::Result<bool> {
    let program = object::program_fd(ebpf, name).map_err(io::Error::other)?;
    sys::update_link(link, program.as_fd())?;
    Ok(true)
}

/// What BPF_LINK_UPDATE says of a link whose cgroup or netns has gone.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOLINK | libc::ENOENT))
}

fn sock_ops_link(ebpf: &mut Ebpf, cgroup: &File) -> Result<FdLink, KernelError> {
    let program = object::sock_ops(ebpf)?;
    let id = program.attach(cgroup, CgroupAttachMode::Single).map_err(object::failed(object::SOCK_OPS))?;
    let link = program.take_link(id).map_err(object::failed(object::SOCK_OPS))?;
    fd_link(object::SOCK_OPS, link)
}

/// Kernels without links are refused by the version check; aya's type still allows for them.
fn fd_link<L: TryInto<FdLink, Error = aya::programs::links::LinkError>>(
    name: &'static str,
    link: L,
) -> Result<FdLink, KernelError> {
    link.try_into().map_err(|_| object::failed(name)(ProgramError::NotAttached))
}

fn pin(link: FdLink, path: &Path) -> Result<(), KernelError> {
    link.pin(path)
        .map(drop)
        .map_err(|error| KernelError::Link { path: path.to_owned(), source: io::Error::other(error) })
}

fn cgroup_failed(path: &Path) -> impl FnOnce(io::Error) -> KernelError {
    let path = path.to_owned();
    move |source| KernelError::Cgroup { path, source }
}
