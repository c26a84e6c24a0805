//! Enrolment: makes the kernel and the workers agree on which pods are captured.
//!
//! Follows the snapshot. A pod is entered once to make its listeners and read its cookie; then the kernel is told,
//! last of all that it is captured. Leaving goes the other way round, so that at no moment a connection is handed to
//! nobody. Established connections are never touched. What can't be entered is reported by name and tried again: at once and
//! for a while when `births` has seen the runtime begin with it, else with back-off.

mod births;
mod cgroup;
mod error;
mod find;
mod listeners;
mod netns;
mod pod;
mod retry;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::announce::{Fact, State};
use crate::health::Captured;
use crate::kernel::{Flows, Kernel, Ports};
use crate::model::{Enrolment, Netns, ObjectName, Snapshot, Workload};
use crate::proxy::worker;
pub use births::Births;
pub use error::EnrolError;
pub use find::Finder;
use find::Sight;
pub use listeners::Set;
use netns::{PodNetns, Still};
use pod::Enrolled;
use retry::{Failure, Newborns};

/// A pod that has no process any more is left after this: its first process may be on its way out while another, which a
/// look through all processes just missed, is on its way in.
const ABSENT: Duration = Duration::from_secs(1);

type Wanted = BTreeMap<ObjectName, Arc<Workload>>;

/// How a pod of this node that asks to be captured stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PodState {
    /// Captured.
    Enrolled,
    /// Wanted, but not possible yet; tried again.
    Pending(String),
    /// Wanted, but this pod can't be captured.
    Refused(String),
}

/// How pods are captured, the same for all.
pub struct Capture {
    /// The agent's in-pod ports.
    pub ports: Ports,
    /// `outboundTrafficPolicy: registryOnly`.
    pub registry_only: bool,
    /// The kernel itself refuses what is unknown under `registryOnly`; set by [`Manager::reconcile`].
    pub refuse_unknown: bool,
    /// Marks the listeners as the agent's own.
    pub flows: Flows,
}

/// Which pods are captured, and which should be.
pub struct Manager {
    capture: Capture,
    finder: Finder,
    wanted: Wanted,
    enrolled: HashMap<ObjectName, Enrolled>,
    failed: HashMap<ObjectName, Failure>,
    newborns: Newborns,
    /// From a new pod seen to it captured, of those captured since they were last taken.
    waits: Vec<Duration>,
    /// Listeners that another agent hands over, by netns cookie.
    handed: HashMap<u64, Set>,
}

/// What there is of pods that are known by their processes.
#[derive(Default)]
struct Looked {
    sights: HashMap<String, Sight>,
    failed: Option<Arc<io::Error>>,
}

impl Manager {
    /// Nothing is enrolled yet; pods whose listeners are `handed` over get these.
    pub fn new(capture: Capture, finder: Finder, handed: HashMap<u64, Set>) -> Self {
        Self {
            capture,
            finder,
            wanted: Wanted::new(),
            enrolled: HashMap::new(),
            failed: HashMap::new(),
            newborns: Newborns::default(),
            waits: Vec::new(),
            handed,
        }
    }

    /// The listeners of every pod, for an agent that takes over.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn hand_over(&self) -> io::Result<HashMap<u64, Set>> {
        self.enrolled.values().map(|pod| Ok((pod.cookie(), pod.listeners()?))).collect()
    }

    /// Each captured pod by name, with the connections that it has and how many it was refused.
    pub fn connections(&self) -> impl Iterator<Item = (String, usize, u64)> {
        self.enrolled.iter().map(|(name, pod)| (name.to_string(), pod.share().taken(), pod.share().refused()))
    }

    /// Lets go of what was handed over and belongs to no pod that is wanted.
    pub fn forget_handed(&mut self) {
        self.handed.clear();
    }

    /// Brings the kernel and the workers to what `snapshot` says. Called on every change and every second or so, which
    /// is when namespaces that disappeared are noticed and failures tried again.
    pub fn reconcile(&mut self, snapshot: &Snapshot, kernel: &mut Kernel, workers: &[worker::Handle]) {
        // The kernel knows single addresses only: where ranges are known too, the agent refuses what is unknown.
        self.capture.refuse_unknown = self.capture.registry_only && snapshot.ranges.is_empty();
        let wanted: Wanted = snapshot.enrolled().map(|w| (w.name.clone(), w.clone())).collect();
        let now = Instant::now();
        self.failed.retain(|name, failure| {
            let (Some(old), Some(new)) = (self.wanted.get(name), wanted.get(name)) else { return false };
            if !Arc::ptr_eq(old, new) {
                // Kubelet may have said that it runs by now.
                failure.try_at(now);
            }
            // Another pod of the name has failed at nothing yet.
            old.netns == new.netns
        });
        self.wanted = wanted;
        self.attend(kernel, workers);
    }

    /// Brings them to what the last snapshot said. True if a pod was captured or left.
    pub fn attend(&mut self, kernel: &mut Kernel, workers: &[worker::Handle]) -> bool {
        let now = Instant::now();
        let wanted = std::mem::take(&mut self.wanted);
        self.newborns.forget_old(now);
        let (mut changed, unsure) = self.leave_unwanted(&wanted, kernel, workers);
        let mut looked = self.look(&wanted, &unsure, now);
        changed |= self.follow_processes(&wanted, unsure, &mut looked, now, kernel, workers);
        for (name, workload) in &wanted {
            match self.enrolled.get_mut(name) {
                Some(pod) => pod.update(workload, self.capture.refuse_unknown, kernel, workers),
                None => changed |= self.join(workload, &mut looked, now, kernel, workers),
            }
        }
        self.wanted = wanted;
        changed
    }

    /// The runtime makes containers of the pods with these uids: new ones' first processes are about to begin.
    pub fn expect(&mut self, uids: Vec<String>) {
        let now = Instant::now();
        for uid in uids {
            let is_it = |name: &ObjectName| {
                self.wanted
                    .get(name)
                    .is_some_and(|w| matches!(&w.netns, Some(Netns::Uid(own)) if *own == uid))
            };
            self.failed
                .iter_mut()
                .filter(|(name, _)| is_it(name))
                .for_each(|(_, failure)| failure.try_at(now));
            self.newborns.seen(uid, now);
        }
    }

    /// When a new pod is to be looked for again, if any is.
    pub fn next_try(&self) -> Option<Instant> {
        self.failed.values().filter(|failure| failure.is_new).map(|failure| failure.next).min()
    }

    /// From a new pod seen to it captured, of each captured since this was last asked.
    pub fn take_waits(&mut self) -> Vec<Duration> {
        std::mem::take(&mut self.waits)
    }

    /// Pods that the kernel captures and nobody wants captured: an earlier agent's that left meanwhile, or one that the
    /// kernel wouldn't forget. Not while a wanted pod waits that may have been captured before: it may be the one, and
    /// letting it go would open it.
    pub fn remove_strangers(&self, kernel: &mut Kernel) {
        if self.failed.values().any(|failure| failure.told) {
            return;
        }
        for cookie in kernel.enrolled_cookies() {
            if self.enrolled.values().any(|pod| pod.cookie() == cookie) {
                continue;
            }
            match kernel.unenrol(cookie) {
                Ok(()) => tracing::info!(cookie, "a pod that nobody wants captured any more is left"),
                Err(error) => {
                    tracing::warn!(cookie, %error, "a pod that nobody wants captured any more can't be left")
                }
            }
        }
    }

    /// The pods that are captured now, by name.
    pub fn captured(&self) -> Vec<Captured> {
        let mut pods: Vec<_> = self.enrolled.values().map(Enrolled::captured).collect();
        pods.sort_by(|a, b| a.workload.name.cmp(&b.workload.name));
        pods
    }

    /// The state of every pod of this node that asks to be captured.
    pub fn states(&self, snapshot: &Snapshot) -> BTreeMap<ObjectName, PodState> {
        let of_node = snapshot.workloads.values().filter(|w| *w.node == *snapshot.node);
        of_node.filter_map(|w| Some((w.name.clone(), self.state(w)?))).collect()
    }

    /// What there is to say of this node's pods to the API server that they came from.
    pub fn facts(&self, snapshot: &Snapshot) -> Vec<Fact> {
        let of_node = snapshot.workloads.values().filter(|w| *w.node == *snapshot.node);
        of_node.filter_map(|w| self.fact(w)).collect()
    }

    fn fact(&self, workload: &Workload) -> Option<Fact> {
        let uid = uid_of(workload)?.to_owned();
        let failure = self.failed.get(&workload.name);
        let state = match &workload.enrolment {
            Enrolment::NotRequested if !workload.redirected => return None,
            Enrolment::NotRequested => State::Left,
            Enrolment::Refused(why) => State::Failing(why.clone()),
            Enrolment::Enrolled if self.enrolled.contains_key(&workload.name) => State::Captured,
            Enrolment::Enrolled => match failure.filter(|failure| failure.told) {
                Some(failure) => State::Failing(crate::report::chain(&failure.error).to_string()),
                None => State::Waiting,
            },
        };
        Some(Fact { pod: workload.name.clone(), uid, annotated: workload.redirected, state })
    }

    fn state(&self, workload: &Workload) -> Option<PodState> {
        Some(match &workload.enrolment {
            Enrolment::NotRequested => return None,
            Enrolment::Refused(why) => PodState::Refused(why.clone()),
            Enrolment::Enrolled => match self.failed.get(&workload.name) {
                Some(failure) => PodState::Pending(crate::report::chain(&failure.error).to_string()),
                None if self.enrolled.contains_key(&workload.name) => PodState::Enrolled,
                None => PodState::Pending("not tried yet".to_owned()),
            },
        })
    }

    /// True if no pod waits to be captured for the first time.
    pub fn settled(&self, snapshot: &Snapshot) -> bool {
        snapshot.enrolled().all(|w| self.enrolled.contains_key(&w.name) || self.failed.contains_key(&w.name))
    }

    /// Leaves those whose object or namespace went. Returns whether there were any, and those whose namespace isn't known
    /// to be theirs.
    fn leave_unwanted(
        &mut self,
        wanted: &Wanted,
        kernel: &mut Kernel,
        workers: &[worker::Handle],
    ) -> (bool, Vec<ObjectName>) {
        let before = self.enrolled.len();
        let mut unsure = Vec::new();
        self.enrolled.retain(|name, pod| {
            let why = match wanted.get(name).map(|workload| pod.still(workload)) {
                None => "no longer enrolled",
                Some(Still::Gone) => "its network namespace is gone or another",
                Some(Still::Here) => return true,
                Some(Still::Unsure) => {
                    unsure.push(name.clone());
                    return true;
                }
            };
            leave(name, pod, why, kernel, workers);
            false
        });
        (self.enrolled.len() < before, unsure)
    }

    /// Looks through the processes, once for all: for pods that are `unsure`, and those whose time to be tried it is.
    fn look(&mut self, wanted: &Wanted, unsure: &[ObjectName], now: Instant) -> Looked {
        let is_due = |name: &ObjectName| self.failed.get(name).is_none_or(|failure| failure.next <= now);
        let new = wanted.iter().filter(|(name, _)| !self.enrolled.contains_key(name) && is_due(name));
        let known = unsure.iter().filter_map(|name| wanted.get_key_value(name));
        let uids: HashSet<&str> = new.chain(known).filter_map(|(_, workload)| uid_of(workload)).collect();
        if uids.is_empty() {
            return Looked::default();
        }
        match self.finder.look(&uids) {
            Ok(sights) => Looked { sights, failed: None },
            Err(error) => Looked { sights: HashMap::new(), failed: Some(Arc::new(error)) },
        }
    }

    /// The processes that were held have ended: others are held, or the pod is left, to be entered anew if it has another
    /// namespace now. True if any was left.
    fn follow_processes(
        &mut self,
        wanted: &Wanted,
        unsure: Vec<ObjectName>,
        looked: &mut Looked,
        now: Instant,
        kernel: &mut Kernel,
        workers: &[worker::Handle],
    ) -> bool {
        if looked.failed.is_some() {
            return false;
        }
        let before = self.enrolled.len();
        for name in unsure {
            let Some(uid) = wanted.get(&name).and_then(|workload| uid_of(workload)) else { continue };
            let Some(pod) = self.enrolled.get_mut(&name) else { continue };
            let why = match looked.sights.remove(uid) {
                Some(Sight::There(found)) if pod.has(&found) => {
                    pod.hold(found);
                    continue;
                }
                Some(sight @ Sight::There(_)) => {
                    looked.sights.insert(uid.to_owned(), sight);
                    "its sandbox was made anew"
                }
                _ if self.newborns.has(uid) => "its sandbox is being made anew",
                _ if now.duration_since(pod.absent(now)) < ABSENT => continue,
                _ => "no process of it is left",
            };
            leave(&name, pod, why, kernel, workers);
            self.enrolled.remove(&name);
        }
        self.enrolled.len() < before
    }

    /// True if it is captured now.
    fn join(
        &mut self,
        workload: &Arc<Workload>,
        looked: &mut Looked,
        now: Instant,
        kernel: &mut Kernel,
        workers: &[worker::Handle],
    ) -> bool {
        if self.failed.get(&workload.name).is_some_and(|failure| failure.next > now) {
            return false;
        }
        let netns = self.open(workload, looked);
        let joined = netns.and_then(|netns| {
            Enrolled::join(workload, netns, &self.capture, &mut self.handed, kernel, workers)
        });
        match joined {
            Ok(pod) => {
                tracing::info!(pod = %workload.name, cookie = pod.cookie(), "enrolled");
                let seen = uid_of(workload).and_then(|uid| self.newborns.captured(uid));
                self.waits.extend(seen.map(|seen| seen.elapsed()));
                self.failed.remove(&workload.name);
                self.enrolled.insert(workload.name.clone(), pod);
                true
            }
            Err(error) => {
                self.note_failure(workload, error, now);
                false
            }
        }
    }

    fn open(&self, workload: &Workload, looked: &mut Looked) -> Result<PodNetns, EnrolError> {
        let proc_dir = || self.finder.proc_dir().to_owned();
        let uid = match &workload.netns {
            None => return Err(EnrolError::NoNetns),
            Some(Netns::Path(path)) => return PodNetns::at(path),
            Some(Netns::Uid(uid)) => uid,
        };
        if let Some(source) = looked.failed.clone() {
            return Err(EnrolError::Processes { path: proc_dir(), source });
        }
        match looked.sights.remove(uid) {
            Some(Sight::There(found)) => Ok(PodNetns::found(uid, found)),
            Some(Sight::OnNode) => Err(EnrolError::OnNode),
            Some(Sight::Closed(error)) => Err(EnrolError::Closed(error)),
            None => Err(EnrolError::NoProcess { path: proc_dir() }),
        }
    }

    fn note_failure(&mut self, workload: &Workload, error: EnrolError, now: Instant) {
        let is_new = error.is_early() && uid_of(workload).is_some_and(|uid| self.newborns.has(uid));
        // While kubelet hasn't said that it made the sandbox nothing is wrong.
        let is_expected = error.is_early() && workload.addresses.is_empty();
        let before = self.failed.remove(&workload.name);
        let told = before.as_ref().is_some_and(|failure| failure.told) || !is_expected;
        if told && !before.as_ref().is_some_and(|failure| failure.told) {
            tracing::warn!(pod = %workload.name, error = %crate::report::chain(&error), "can't be enrolled, will be tried again");
        }
        let wait =
            retry::wait(before.map_or(Duration::ZERO, |failure| failure.wait), is_new, self.finder.cost());
        let failure = Failure { error, wait, next: now + wait, is_new, told };
        self.failed.insert(workload.name.clone(), failure);
    }
}

fn leave(name: &ObjectName, pod: &Enrolled, why: &str, kernel: &mut Kernel, workers: &[worker::Handle]) {
    tracing::info!(pod = %name, why, "left");
    pod.leave(kernel, workers);
}

fn uid_of(workload: &Workload) -> Option<&str> {
    match &workload.netns {
        Some(Netns::Uid(uid)) => Some(uid),
        Some(Netns::Path(_)) | None => None,
    }
}
