//! Where cgroup2 is, and where in it the agent is.
//!
//! Hybrid hosts mount cgroup2 at an odd place, and in a cgroup namespace a mount may show only a part of the tree, so
//! neither is guessed: mountinfo says where, and the inode number of the real root (1) says whether it is all of it.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, fstatfs};

use super::KernelError;

/// Inode number, and so cgroup id, of the root of cgroup2.
const ROOT_INODE: u64 = 1;

/// The mount point of the whole of cgroup2.
///
/// # Errors
/// There is none, or only mounts of parts (a container's own cgroup namespace).
pub fn cgroup2_mount() -> io::Result<PathBuf> {
    let mountinfo = fs::read_to_string("/proc/self/mountinfo")?;
    let mounts = cgroup2_mounts(&mountinfo);
    let root = mounts.iter().find(|mount| fs::metadata(mount).is_ok_and(|meta| meta.ino() == ROOT_INODE));
    root.cloned().ok_or_else(|| {
        let text = match mounts.first() {
            None => "no cgroup2 is mounted".to_owned(),
            Some(part) => {
                format!("{} shows only a part of cgroup2: mount the host's /sys/fs/cgroup", part.display())
            }
        };
        io::Error::new(io::ErrorKind::NotFound, text)
    })
}

/// Mount points of type cgroup2 (proc_pid_mountinfo(5): the type follows a lone hyphen).
fn cgroup2_mounts(mountinfo: &str) -> Vec<PathBuf> {
    let is_cgroup2 =
        |line: &&str| line.split_once(" - ").is_some_and(|(_, tail)| tail.starts_with("cgroup2 "));
    let mount_point = |line: &str| line.split(' ').nth(4).map(unescape);
    mountinfo.lines().filter(is_cgroup2).filter_map(mount_point).collect()
}

/// Blanks in mountinfo are octal.
fn unescape(field: &str) -> PathBuf {
    PathBuf::from(
        field.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\"),
    )
}

/// The agent's own cgroup directory below the real root.
///
/// # Errors
/// It can't be found there (the agent runs in a cgroup namespace and can't see its own processes in the host's tree).
pub fn own() -> Result<PathBuf, KernelError> {
    let failed = |path: &Path, source| KernelError::Cgroup { path: path.to_owned(), source };
    let mount = cgroup2_mount().map_err(|error| failed(Path::new("cgroup2"), error))?;
    let text = fs::read_to_string("/proc/self/cgroup").map_err(|error| failed(&mount, error))?;
    let relative = text.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or("");
    let direct = mount.join(relative);
    if holds_us(&direct) {
        return Ok(direct);
    }
    // In a cgroup namespace the path is relative to the namespace's root, so look for ourselves.
    search(&mount, 0).ok_or_else(|| {
        let text = "the agent's own cgroup isn't below it: run the agent in the host's cgroup namespace";
        failed(&mount, io::Error::new(io::ErrorKind::NotFound, text))
    })
}

fn holds_us(dir: &Path) -> bool {
    let us = std::process::id().to_string();
    fs::read_to_string(dir.join("cgroup.procs")).is_ok_and(|procs| procs.lines().any(|pid| pid == us))
}

/// Kubernetes nests seven deep; anything deeper than this isn't where an agent runs.
const MAX_DEPTH: usize = 12;

fn search(dir: &Path, depth: usize) -> Option<PathBuf> {
    if holds_us(dir) {
        return Some(dir.to_owned());
    }
    if depth == MAX_DEPTH {
        return None;
    }
    let entries = fs::read_dir(dir).ok()?;
    let mut dirs = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    dirs.find_map(|entry| search(&entry.path(), depth + 1))
}

/// Opens a cgroup2 directory to attach to.
pub(super) fn open(path: &Path) -> Result<File, KernelError> {
    let failed = |source| KernelError::Cgroup { path: path.to_owned(), source };
    let dir = File::open(path).map_err(failed)?;
    let stat = fstatfs(&dir).map_err(|errno| failed(errno.into()))?;
    if stat.filesystem_type() != CGROUP2_SUPER_MAGIC {
        return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, "not on a cgroup2 mount")));
    }
    Ok(dir)
}

/// A cgroup's id, which is its directory's inode number.
pub(super) fn id(dir: &File) -> io::Result<u64> {
    dir.metadata().map(|meta| meta.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroup2_is_found_wherever_it_is_mounted() {
        let mountinfo = "\
            30 20 0:26 / /sys/fs/cgroup rw shared:9 - tmpfs tmpfs rw\n\
            31 30 0:27 / /sys/fs/cgroup/unified rw,nosuid shared:10 master:2 - cgroup2 cgroup2 rw\n\
            32 30 0:28 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
            33 30 0:27 /a /odd\\040place rw - cgroup2 none rw\n";
        let expected = [PathBuf::from("/sys/fs/cgroup/unified"), PathBuf::from("/odd place")];
        assert_eq!(cgroup2_mounts(mountinfo), expected);
    }
}
