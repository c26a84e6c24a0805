//! Finds pods' network namespaces through the processes in them: whose cgroup bears the pod's uid (`cgroup`), read in the
//! host's /proc.
//!
//! One pass over all processes answers for every pod that is asked for. A process is held by its directory there, which no
//! later process of its number inherits. The node's own network namespace is never a pod's.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{FileStat, Mode, fstat, fstatat};

use super::cgroup::{self, Place};

/// More than any `/proc/PID/cgroup` or `stat` is long; what is longer isn't a pod's.
const LONGEST: usize = 16 * 1024;
/// Link to a process's network namespace, in its directory.
const NETNS: &str = "ns/net";

/// Device and inode: name a namespace for as long as somebody holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    device: u64,
    inode: u64,
}

impl Identity {
    /// Of an open namespace.
    ///
    /// # Errors
    /// As fstat(2).
    pub fn of(netns: impl AsFd) -> io::Result<Self> {
        Ok(fstat(netns)?.into())
    }

    /// Of the namespace that a path leads to.
    ///
    /// # Errors
    /// As stat(2).
    pub fn at(path: &Path) -> io::Result<Self> {
        Ok(nix::sys::stat::stat(path)?.into())
    }
}

impl From<FileStat> for Identity {
    fn from(stat: FileStat) -> Self {
        Self { device: stat.st_dev, inode: stat.st_ino }
    }
}

/// What was found of a pod.
#[derive(Debug)]
pub enum Sight {
    /// A process in a network namespace of its own.
    There(Found),
    /// Its processes are in the node's network namespace: the runtime is about to take the first one into the pod's.
    OnNode,
    /// It has processes, whose namespaces can't be opened.
    Closed(io::Error),
}

/// A pod's network namespace.
#[derive(Debug)]
pub struct Found {
    /// Open.
    pub netns: OwnedFd,
    /// Its name.
    pub identity: Identity,
    /// The pod's first process in it.
    pub process: Process,
}

/// A process of a pod.
#[derive(Debug)]
pub struct Process {
    dir: OwnedFd,
}

impl Process {
    /// The network namespace that it is in now; an error once it has ended.
    ///
    /// # Errors
    /// As stat(2).
    pub fn netns(&self) -> io::Result<Identity> {
        Ok(fstatat(&self.dir, NETNS, AtFlags::empty())?.into())
    }

    fn read<'a>(&self, file: &str, buffer: &'a mut Vec<u8>) -> io::Result<Cow<'a, str>> {
        read_at(&self.dir, file, buffer)
    }
}

/// Looks for pods.
#[derive(Debug)]
pub struct Finder {
    proc_dir: PathBuf,
    /// What the last look took.
    cost: Duration,
}

impl Finder {
    /// By the host's /proc, which a container has elsewhere.
    pub fn new(proc_dir: PathBuf) -> Self {
        Self { proc_dir, cost: Duration::ZERO }
    }

    /// As given.
    pub fn proc_dir(&self) -> &Path {
        &self.proc_dir
    }

    /// What the last look took.
    pub fn cost(&self) -> Duration {
        self.cost
    }

    /// What there is of each of the pods with these uids; one that is missing has no process.
    ///
    /// # Errors
    /// The directory can't be read.
    pub fn look(&mut self, wanted: &HashSet<&str>) -> io::Result<HashMap<String, Sight>> {
        let began = Instant::now();
        let found = self.look_for(wanted);
        self.cost = began.elapsed();
        tracing::debug!(pods = wanted.len(), cost = ?self.cost, "looked for pods' processes");
        found
    }

    fn look_for(&self, wanted: &HashSet<&str>) -> io::Result<HashMap<String, Sight>> {
        let proc = File::open(&self.proc_dir)?;
        let strangers = self.node_namespaces();
        let mut buffer = Vec::with_capacity(LONGEST);
        let mut of_pod: HashMap<String, Vec<String>> = HashMap::new();
        for entry in fs::read_dir(&self.proc_dir)?.flatten() {
            let name = entry.file_name();
            let Some(pid) = name.to_str().filter(|name| name.bytes().all(|b| b.is_ascii_digit())) else {
                continue;
            };
            // Processes end at any time.
            let Ok(text) = read_at(&proc, &format!("{pid}/cgroup"), &mut buffer) else { continue };
            let Some(Place { uid, .. }) = cgroup::place(&text) else { continue };
            if !wanted.contains(&*uid) {
                continue;
            }
            match of_pod.get_mut(&*uid) {
                Some(pids) => pids.push(pid.to_owned()),
                None => drop(of_pod.insert(uid.into_owned(), vec![pid.to_owned()])),
            }
        }
        let sights = of_pod.into_iter().filter_map(|(uid, pids)| {
            let sight = choose(&proc, &uid, &pids, &strangers, &mut buffer)?;
            Some((uid, sight))
        });
        Ok(sights.collect())
    }

    /// The agent's own and that of the node's first process, which is the same unless the agent is in a pod of its own.
    fn node_namespaces(&self) -> Vec<Identity> {
        let paths = [PathBuf::from("/proc/thread-self/ns/net"), self.proc_dir.join("1").join(NETNS)];
        paths.iter().filter_map(|path| Identity::at(path).ok()).collect()
    }
}

/// One of the processes `pids` that is in the pod's network namespace: the oldest, which is the sandbox's own wherever the
/// runtime keeps one, and before all those in groups that containers made themselves.
fn choose(
    proc: &File,
    uid: &str,
    pids: &[String],
    strangers: &[Identity],
    buffer: &mut Vec<u8>,
) -> Option<Sight> {
    let mut processes: Vec<_> = pids.iter().filter_map(|pid| candidate(proc, pid, uid, buffer)).collect();
    processes.sort_by_key(|(rank, _)| *rank);
    let mut sight = None;
    for (_, process) in processes {
        match enter(process, uid, buffer) {
            Ok(Some(found)) if strangers.contains(&found.identity) => sight = Some(Sight::OnNode),
            Ok(Some(found)) => return Some(Sight::There(found)),
            Ok(None) => {}
            // One that is ending has none any more; that says nothing of the others.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)) => {}
            Err(error) => sight = sight.or(Some(Sight::Closed(error))),
        }
    }
    sight
}

/// Nested ones last, then by the time at which they began.
type Rank = (bool, u64);

fn candidate(proc: &File, pid: &str, uid: &str, buffer: &mut Vec<u8>) -> Option<(Rank, Process)> {
    let dir = openat(proc, pid, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty()).ok()?;
    let process = Process { dir };
    let nested = {
        let text = process.read("cgroup", buffer).ok()?;
        cgroup::place(&text).filter(|place| place.uid == uid)?.nested
    };
    let began = began(&process.read("stat", buffer).ok()?)?;
    Some(((nested, began), process))
}

/// Opens the namespace; None if the process turned out to be another pod's. Looked at after opening: it may be moved.
fn enter(process: Process, uid: &str, buffer: &mut Vec<u8>) -> io::Result<Option<Found>> {
    let netns = openat(&process.dir, NETNS, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?;
    let identity = Identity::of(&netns)?;
    let text = process.read("cgroup", buffer)?;
    let is_the_pods = cgroup::place(&text).is_some_and(|place| place.uid == uid);
    Ok(is_the_pods.then_some(Found { netns, identity, process }))
}

/// Field 22 of `/proc/PID/stat`, in ticks since the machine started; the name in field 2 may hold anything but ends with the
/// last parenthesis.
fn began(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// Lossily decoded: a process may call itself by any bytes.
fn read_at<'a>(dir: impl AsFd, file: &str, buffer: &'a mut Vec<u8>) -> io::Result<Cow<'a, str>> {
    let fd = openat(dir, file, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?;
    buffer.clear();
    File::from(fd).take(LONGEST as u64).read_to_end(buffer)?;
    Ok(String::from_utf8_lossy(buffer))
}

#[cfg(test)]
mod tests;
