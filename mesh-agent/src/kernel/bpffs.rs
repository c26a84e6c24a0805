//! The pin directory: made, and a bpffs mounted for it, where that is missing; emptied on request.
//!
//! `maps/NAME`, `links/PROGRAM` and `links/netns/COOKIE` below it; nothing else.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::KernelError;

const USUAL: &str = "/sys/fs/bpf";

pub(super) fn maps_dir(dir: &Path) -> PathBuf {
    dir.join("maps")
}

pub(super) fn links_dir(dir: &Path) -> PathBuf {
    dir.join("links")
}

pub(super) fn netns_dir(dir: &Path) -> PathBuf {
    dir.join("links/netns")
}

/// Makes the directories, mounting a bpffs first where there is none.
pub(super) fn prepare(dir: &Path) -> Result<(), KernelError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| KernelError::Bpffs { path, source }
    };
    // A relative path has no ancestors to find a bpffs among.
    let dir = std::path::absolute(dir).map_err(failed(dir))?;
    let point = if dir.starts_with(USUAL) { Path::new(USUAL) } else { &dir };
    ensure_mounted(point, &dir).map_err(failed(point))?;
    for dir in [maps_dir(&dir), netns_dir(&dir)] {
        fs::create_dir_all(&dir).map_err(failed(&dir))?;
    }
    Ok(())
}

/// Makes sure of the bpffs at its usual place.
pub(super) fn mount_usual() -> io::Result<()> {
    ensure_mounted(Path::new(USUAL), Path::new(USUAL))
}

/// Never mounts over a bpffs: whatever is pinned there would be out of sight. Under a lock, because agents that start
/// together would mount one over the other; whoever opens the point after the mount locks another inode, but finds the
/// bpffs.
fn ensure_mounted(point: &Path, dir: &Path) -> io::Result<()> {
    if nearest_is_bpffs(dir)? {
        return Ok(());
    }
    fs::create_dir_all(point)?;
    let lock = Flock::lock(File::open(point)?, FlockArg::LockExclusive).map_err(|(_, errno)| errno)?;
    if !is_bpffs(point)? {
        mount(
            Some("bpf"),
            point,
            Some("bpf"),
            MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
            Some("mode=0700"),
        )?;
    }
    drop(lock);
    Ok(())
}

/// Whether the directory, or the nearest existing one above it, is on a bpffs.
fn nearest_is_bpffs(dir: &Path) -> io::Result<bool> {
    for ancestor in dir.ancestors() {
        if ancestor.exists() {
            return is_bpffs(ancestor);
        }
    }
    Ok(false)
}

pub(super) fn is_bpffs(path: &Path) -> io::Result<bool> {
    Ok(statfs(path)?.filesystem_type() == BPF_FS_MAGIC)
}

/// Links first, so that no hook runs on maps that are going. Returns the pins that went.
///
/// Elsewhere than on a bpffs nothing is touched: a directory of somebody's files may have a `maps` in it as well.
pub(super) fn purge(dir: &Path) -> io::Result<Vec<PathBuf>> {
    match is_bpffs(dir) {
        Ok(true) => {}
        Ok(false) => return Err(io::Error::other("it isn't on a bpffs")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    }
    let mut removed = Vec::new();
    for sub in [netns_dir(dir), links_dir(dir), maps_dir(dir)] {
        remove_pins(&sub, &mut removed)?;
    }
    match fs::remove_dir(dir) {
        // The mount point itself stays, and so does what others keep beside the agent's pins.
        Err(error)
            if !matches!(
                error.kind(),
                io::ErrorKind::ResourceBusy
                    | io::ErrorKind::DirectoryNotEmpty
                    | io::ErrorKind::PermissionDenied
            ) =>
        {
            Err(error)
        }
        Ok(()) | Err(_) => Ok(removed),
    }
}

/// Empties one directory of pins and removes it. A missing one is fine.
fn remove_pins(dir: &Path, removed: &mut Vec<PathBuf>) -> io::Result<()> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    let mut pins = entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    pins.sort_unstable();
    for pin in pins {
        fs::remove_file(&pin)?;
        removed.push(pin);
    }
    fs::remove_dir(dir)
}

/// Removes pins of maps that this version doesn't know, such as an earlier layout's. What can't be removed only takes up
/// memory.
pub(super) fn remove_unknown_maps(dir: &Path, known: &[&str]) {
    let pins = fs::read_dir(maps_dir(dir)).into_iter().flatten().flatten();
    for pin in pins.filter(|pin| !known.iter().any(|name| pin.file_name() == *name)) {
        let path = pin.path();
        match fs::remove_file(&path) {
            Ok(()) => tracing::info!(pin = %path.display(), "map of another version removed"),
            Err(error) => {
                tracing::warn!(pin = %path.display(), %error, "map of another version can't be removed")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use nix::sched::{CloneFlags, unshare};

    /// In a mount namespace of its own, which goes with the thread.
    fn apart(test: impl FnOnce() + Send) {
        if !nix::unistd::geteuid().is_root() {
            println!("SKIPPED: needs root to mount");
            return;
        }
        let inside = || {
            unshare(CloneFlags::CLONE_NEWNS).unwrap();
            let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
            mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
            test();
        };
        std::thread::scope(|scope| scope.spawn(inside).join().unwrap());
    }

    fn mounts_at(point: &Path) -> usize {
        let point = point.to_str().unwrap();
        let mounts = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        mounts.lines().filter(|line| line.split(' ').nth(4) == Some(point)).count()
    }

    #[test]
    fn agents_that_start_together_share_one_mount() {
        apart(|| {
            let dir = tempfile::tempdir().unwrap();
            let point = dir.path().join("bpf");
            std::thread::scope(|scope| {
                for id in 0..8 {
                    let point = &point;
                    scope.spawn(move || ensure_mounted(point, &point.join(format!("agent-{id}"))).unwrap());
                }
            });
            assert_eq!(mounts_at(&point), 1);
            fs::create_dir(point.join("agent")).unwrap();
            // The directory, one below it and one that isn't there yet; named as the place to mount at or not.
            for dir in [point.join("agent"), point.join("agent/a"), point.join("other/b")] {
                ensure_mounted(&point, &dir).unwrap();
                ensure_mounted(&dir, &dir).unwrap();
                assert_eq!((mounts_at(&point), mounts_at(&dir)), (1, 0), "{}", dir.display());
            }
            nix::mount::umount(&point).unwrap();
        });
    }

    #[test]
    fn only_pins_are_purged() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(purge(&dir.path().join("missing")).unwrap(), Vec::<PathBuf>::new());
        fs::create_dir(maps_dir(dir.path())).unwrap();
        fs::write(maps_dir(dir.path()).join("city"), "").unwrap();
        assert!(purge(dir.path()).unwrap_err().to_string().contains("bpffs"));
        assert!(maps_dir(dir.path()).join("city").exists());
    }

    #[test]
    fn what_others_keep_beside_the_pins_stays() {
        apart(|| {
            let dir = tempfile::tempdir().unwrap();
            let (point, pins) = (dir.path().join("bpf"), dir.path().join("bpf/agent"));
            ensure_mounted(&point, &point).unwrap();
            for sub in [netns_dir(&pins), maps_dir(&pins), pins.join("other")] {
                fs::create_dir_all(sub).unwrap();
            }
            purge(&pins).unwrap();
            assert_eq!(fs::read_dir(&pins).unwrap().count(), 1);
            fs::remove_dir(pins.join("other")).unwrap();
            purge(&pins).unwrap();
            assert!(!pins.exists());
            // The mount point can't go.
            purge(&point).unwrap();
            nix::mount::umount(&point).unwrap();
        });
    }
}
