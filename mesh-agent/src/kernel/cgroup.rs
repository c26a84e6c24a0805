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

/// Where cgroups of pods below `cgroup`, a part of cgroup2, may be made: there, and on hosts that have cgroup v1 too, where
/// kubelet may make them in v1 alone, in one hierarchy of it.
pub fn hierarchies(cgroup: &Path) -> Vec<PathBuf> {
    let mountinfo = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let below = cgroup2_mounts(&mountinfo)
        .into_iter()
        .find_map(|mount| Some(cgroup.strip_prefix(mount).ok()?.to_owned()));
    let v1 = v1_mount(&mountinfo).map(|mount| {
        let part = mount.join(below.unwrap_or_default());
        if part.is_dir() { part } else { mount }
    });
    [cgroup.to_owned()].into_iter().chain(v1).collect()
}

/// Mount points of type cgroup2.
fn cgroup2_mounts(mountinfo: &str) -> Vec<PathBuf> {
    mounts(mountinfo, "cgroup2").map(|(mount, _)| mount).collect()
}

/// Of the hierarchies of cgroup v1 one that every runtime uses.
fn v1_mount(mountinfo: &str) -> Option<PathBuf> {
    let with = |option: &str| {
        mounts(mountinfo, "cgroup")
            .find(|(_, options)| options.split(',').any(|one| one == option))
            .map(|(mount, _)| mount)
    };
    ["name=systemd", "pids", "memory", "cpu"].into_iter().find_map(with)
}

/// Mount point and super options of the mounts of a type (proc_pid_mountinfo(5): the type follows a lone hyphen).
fn mounts<'a>(mountinfo: &'a str, kind: &str) -> impl Iterator<Item = (PathBuf, &'a str)> {
    mountinfo.lines().filter_map(move |line| {
        let (head, tail) = line.split_once(" - ")?;
        let mut tail = tail.split(' ');
        let is_it = tail.next() == Some(kind);
        let options = tail.nth(1).unwrap_or_default();
        is_it.then_some((unescape(head.split(' ').nth(4)?), options))
    })
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

    #[test]
    fn of_v1_one_hierarchy_is_watched_the_one_that_systemd_keeps_before_others() {
        let line = |name: &str, options: &str| {
            format!("40 30 0:30 / /sys/fs/cgroup/{name} rw - cgroup cgroup rw,{options}\n")
        };
        let (cpu, pids, systemd) =
            (line("cpu,cpuacct", "cpu,cpuacct"), line("pids", "pids"), line("systemd", "xattr,name=systemd"));
        let check = |lines: &[&String], expected: Option<&str>| {
            let text: String = lines.iter().map(|line| line.as_str()).collect();
            assert_eq!(v1_mount(&text), expected.map(PathBuf::from), "{text}");
        };
        check(&[&cpu, &pids, &systemd], Some("/sys/fs/cgroup/systemd"));
        check(&[&cpu, &pids], Some("/sys/fs/cgroup/pids"));
        check(&[&cpu], Some("/sys/fs/cgroup/cpu,cpuacct"));
        check(&[&"31 30 0:27 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n".to_owned()], None);
    }
}
