//! Sees containers' cgroups being made, so that a new pod is captured before its application runs: the sandbox's comes before
//! that of any container of the pod, init containers included.
//!
//! inotify on the directories that kubelet keeps pods in, and on those above, since kubelet may start after the agent; on a
//! thread of its own. Only says whose pod it is; `find` looks for the process, which the runtime puts there a moment later.

use std::collections::HashMap;
use std::fs;
use std::io::{self, PipeReader, PipeWriter, pipe};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::cgroup;

/// How deep kubelet's directory may be below a root, such as `/docker/NODE/kubelet/kubepods` of nodes that are containers.
const DEEPEST: usize = 4;
const MADE: AddWatchFlags = AddWatchFlags::IN_CREATE.union(AddWatchFlags::IN_ONLYDIR);

/// Tells of containers' cgroups.
#[derive(Debug)]
pub struct Births {
    uids: UnboundedReceiver<Vec<String>>,
    // The thread ends when this is closed.
    _end: PipeWriter,
}

/// Watches cgroup hierarchies.
struct Watcher {
    roots: Vec<PathBuf>,
    inotify: Inotify,
    watched: HashMap<WatchDescriptor, Watched>,
    /// The log has that not every directory can be watched.
    told: bool,
}

#[derive(Debug)]
struct Watched {
    path: PathBuf,
    level: Level,
}

/// What stands below a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Level {
    /// Anything; it is this deep below a root.
    Above(usize),
    /// Pods, or their qualities of service.
    Pods,
    /// Containers of the pod with this uid.
    Pod(String),
}

impl Births {
    /// Watches below `roots`; those that aren't there are left out. What can't be watched is said in the log: pods there are
    /// captured when they are looked for next.
    ///
    /// # Errors
    /// No inotify instance is left (`fs.inotify.max_user_instances`), or no thread.
    pub fn watch(roots: Vec<PathBuf>) -> io::Result<Self> {
        let mut watcher = Watcher::new(roots)?;
        // What is there already is no birth: whoever is wanted is looked for at start anyway.
        watcher.walk(&mut Vec::new());
        let (tell, uids) = unbounded_channel();
        let (ended, end) = pipe()?;
        std::thread::Builder::new().name("births".into()).spawn(move || watcher.run(&ended, &tell))?;
        Ok(Self { uids, _end: end })
    }

    /// Waits for containers' cgroups: the uids of their pods, possibly repeated; none once nothing can be seen any more. May be
    /// dropped while it waits.
    pub async fn next(&mut self) -> Option<Vec<String>> {
        self.uids.recv().await
    }
}

impl Watcher {
    fn new(roots: Vec<PathBuf>) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        Ok(Self { roots, inotify, watched: HashMap::new(), told: false })
    }

    fn run(mut self, ended: &PipeReader, tell: &UnboundedSender<Vec<String>>) {
        loop {
            let readable = {
                let of = |fd| PollFd::new(fd, PollFlags::POLLIN);
                let mut fds = [of(self.inotify.as_fd()), of(ended.as_fd())];
                match poll(&mut fds, PollTimeout::NONE) {
                    Err(Errno::EINTR) => continue,
                    Err(_) => return,
                    Ok(_) => fds.map(|fd| fd.any().unwrap_or_default()),
                }
            };
            let [_, false] = readable else { return };
            let born = match self.inotify.read_events() {
                Ok(events) => self.take_all(events),
                Err(Errno::EAGAIN | Errno::EINTR) => continue,
                Err(errno) => {
                    tracing::warn!(%errno, "cgroups can't be watched any more: new pods are captured late");
                    return;
                }
            };
            if !born.is_empty() && tell.send(born).is_err() {
                return;
            }
        }
    }

    fn take_all(&mut self, events: Vec<InotifyEvent>) -> Vec<String> {
        let mut born = Vec::new();
        events.into_iter().for_each(|event| self.take(event, &mut born));
        born
    }

    fn take(&mut self, event: InotifyEvent, born: &mut Vec<String>) {
        if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
            // Every pod may be a new one.
            return self.walk(born);
        }
        if event.mask.contains(AddWatchFlags::IN_IGNORED) {
            self.watched.remove(&event.wd);
            return;
        }
        let Some(Watched { path, level }) = self.watched.get(&event.wd) else { return };
        if let Some(name) = event.name.as_ref().and_then(|name| name.to_str())
            && event.mask.contains(AddWatchFlags::IN_ISDIR)
        {
            let (path, level) = (path.join(name), level.clone());
            self.found(name, path, &level, born);
        }
    }

    fn walk(&mut self, born: &mut Vec<String>) {
        for root in self.roots.clone() {
            let name = root.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let level = if cgroup::holds_pods(name) { Level::Pods } else { Level::Above(0) };
            self.add(root, level, born);
        }
    }

    /// A directory that stands in one of `level`.
    fn found(&mut self, name: &str, path: PathBuf, level: &Level, born: &mut Vec<String>) {
        match level {
            Level::Pod(uid) if cgroup::is_container(name) => born.push(uid.clone()),
            Level::Pod(_) => {}
            Level::Above(_) | Level::Pods if cgroup::holds_pods(name) => self.add(path, Level::Pods, born),
            Level::Above(depth) if depth + 1 < DEEPEST => self.add(path, Level::Above(depth + 1), born),
            Level::Above(_) => {}
            Level::Pods => {
                if let Some(uid) = cgroup::pod_of_name(name) {
                    self.add(path, Level::Pod(uid.into_owned()), born);
                }
            }
        }
    }

    /// Watches a directory, then looks into it: what is made in between is seen once or twice, never missed.
    fn add(&mut self, path: PathBuf, level: Level, born: &mut Vec<String>) {
        match self.inotify.add_watch(&path, MADE) {
            Ok(watch) => {
                self.watched.insert(watch, Watched { path: path.clone(), level: level.clone() });
            }
            Err(Errno::ENOENT | Errno::ENOTDIR) => return,
            Err(errno) => return self.tell(&path, errno),
        }
        let directories = fs::read_dir(&path).into_iter().flatten().flatten();
        for entry in directories.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
            if let Some(name) = entry.file_name().to_str() {
                self.found(name, entry.path(), &level, born);
            }
        }
    }

    fn tell(&mut self, path: &Path, errno: Errno) {
        if std::mem::replace(&mut self.told, true) {
            return;
        }
        let advice = if errno == Errno::ENOSPC { "raise fs.inotify.max_user_watches" } else { "" };
        let path = path.display();
        tracing::warn!(%path, %errno, advice, "a cgroup can't be watched: new pods in it are captured late");
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use super::*;

    const UID: &str = "8f3c2a10-5b7e-4d06-9a41-c2d7e61f0b93";
    const DEADLINE: Duration = Duration::from_secs(10);

    async fn born(births: &mut Births) -> Vec<String> {
        let mut uids = tokio::time::timeout(DEADLINE, births.next()).await.unwrap().unwrap();
        uids.dedup();
        uids
    }

    async fn check(pods: &str, pod: &str, container: &str) {
        let root = tempfile::tempdir().unwrap();
        let mut births = Births::watch(vec![root.path().to_owned(), "/nonexistent".into()]).unwrap();
        // Kubelet's own directories first, then pod and container at once, faster than any watch.
        fs::create_dir_all(root.path().join(pods)).unwrap();
        fs::create_dir_all(root.path().join(pods).join(pod).join(container)).unwrap();
        assert_eq!(born(&mut births).await, [UID], "{pods}/{pod}");
        // Another container, or the sandbox made anew.
        fs::create_dir(root.path().join(pods).join(pod).join("another")).unwrap();
        assert_eq!(born(&mut births).await, [UID], "{pods}/{pod} again");
    }

    #[tokio::test]
    async fn a_container_s_cgroup_is_seen_in_every_layout() {
        let (cgroupfs, slice) = (format!("pod{UID}"), UID.replace('-', "_"));
        check("kubepods", &cgroupfs, "c1").await;
        check("kubepods/burstable", &cgroupfs, "c1").await;
        check("k8s-node-a/kubepods/besteffort", &cgroupfs, "c1").await;
        check("docker/node/kubelet/kubepods", &cgroupfs, "c1").await;
        let pod = format!("kubepods-burstable-pod{slice}.slice");
        check("kubepods.slice/kubepods-burstable.slice", &pod, "cri-containerd-c1.scope").await;
        let pod = format!("kubelet-kubepods-pod{slice}.slice");
        check("kubelet.slice/kubelet-kubepods.slice", &pod, "crio-c1.scope").await;
    }

    #[tokio::test]
    async fn what_was_there_before_is_no_birth_and_neither_is_a_pod_without_containers() {
        let root = tempfile::tempdir().unwrap();
        let pods = root.path().join("kubepods");
        fs::create_dir_all(pods.join(format!("pod{UID}")).join("c1")).unwrap();
        let mut births = Births::watch(vec![pods.clone()]).unwrap();
        let other = UID.replace('8', "7");
        fs::create_dir_all(pods.join(format!("pod{other}"))).unwrap();
        fs::create_dir_all(pods.join(format!("pod{other}")).join("crio-conmon-c1.scope")).unwrap();
        fs::create_dir_all(root.path().join("kubepods/podcast/c1")).unwrap();
        let third = UID.replace('8', "6");
        fs::create_dir_all(pods.join(format!("pod{third}")).join("c1")).unwrap();
        assert_eq!(born(&mut births).await, [third]);
    }

    #[test]
    fn a_directory_that_went_is_forgotten_and_watched_again_when_it_is_back() {
        let root = tempfile::tempdir().unwrap();
        let pod = root.path().join("kubepods").join(format!("pod{UID}"));
        fs::create_dir_all(&pod).unwrap();
        let mut watcher = Watcher::new(vec![root.path().to_owned()]).unwrap();
        watcher.walk(&mut Vec::new());
        // Told of by the kernel before mkdir(2) and rmdir(2) return.
        let mut born = || {
            let events = std::iter::from_fn(|| watcher.inotify.read_events().ok()).flatten().collect();
            let mut uids = watcher.take_all(events);
            uids.dedup();
            (uids, watcher.watched.len())
        };
        for _round in 0..3 {
            fs::create_dir_all(pod.join("c1")).unwrap();
            // Root, kubepods and the pod, however often they were made.
            assert_eq!(born(), (vec![UID.to_owned()], 3));
            fs::remove_dir_all(root.path().join("kubepods")).unwrap();
            assert_eq!(born(), (Vec::new(), 1));
        }
    }
}
