//! Enrolment: makes the kernel and the workers agree on which pods are captured.
//!
//! Follows the snapshot. A pod is entered once to make its listeners and read its cookie; then the kernel is told,
//! last of all that it is captured. Leaving goes the other way round, so that at no moment a connection is handed to
//! nobody. Established connections are never touched. What can't be entered is reported by name and tried again.

mod listeners;
mod pod;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::health::Captured;
use crate::kernel::{Flows, Kernel, Ports};
use crate::model::{Enrolment, ObjectName, Snapshot, Workload};
use crate::proxy::worker;
pub use listeners::Set;
pub use pod::EnrolError;
use pod::Enrolled;

/// First wait before a pod that couldn't be enrolled is tried again; doubles up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_millis(250);
const RETRY_MAX: Duration = Duration::from_secs(10);

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
    enrolled: HashMap<ObjectName, Enrolled>,
    failed: HashMap<ObjectName, Failure>,
    /// Listeners that another agent hands over, by netns cookie.
    handed: HashMap<u64, Set>,
}

struct Failure {
    error: EnrolError,
    wait: Duration,
    next: Instant,
}

impl Manager {
    /// Nothing is enrolled yet; pods whose listeners are `handed` over get these.
    pub fn new(capture: Capture, handed: HashMap<u64, Set>) -> Self {
        Self { capture, enrolled: HashMap::new(), failed: HashMap::new(), handed }
    }

    /// The listeners of every pod, for an agent that takes over.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn hand_over(&self) -> io::Result<HashMap<u64, Set>> {
        self.enrolled.values().map(|pod| Ok((pod.cookie(), pod.listeners()?))).collect()
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
        let wanted: HashMap<&ObjectName, &Arc<Workload>> =
            snapshot.enrolled().map(|w| (&w.name, w)).collect();
        self.leave_unwanted(&wanted, kernel, workers);
        self.failed.retain(|name, _| wanted.contains_key(name));
        for (name, workload) in wanted {
            match self.enrolled.get_mut(name) {
                Some(pod) => pod.update(workload, self.capture.refuse_unknown, kernel, workers),
                None => self.join(workload, kernel, workers),
            }
        }
    }

    /// Pods that the kernel captures and nobody wants captured: an earlier agent's that left meanwhile, or one that the
    /// kernel wouldn't forget. Not while a wanted pod waits: it may be the one, and letting it go would open it.
    pub fn remove_strangers(&self, kernel: &mut Kernel) {
        if !self.failed.is_empty() {
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

    fn leave_unwanted(
        &mut self,
        wanted: &HashMap<&ObjectName, &Arc<Workload>>,
        kernel: &mut Kernel,
        workers: &[worker::Handle],
    ) {
        self.enrolled.retain(|name, pod| {
            let why = match wanted.get(name) {
                None => "no longer enrolled",
                Some(workload) if pod.is_of(workload) => return true,
                Some(_) => "its network namespace is gone or another",
            };
            tracing::info!(pod = %name, why, "left");
            pod.leave(kernel, workers);
            false
        });
    }

    fn join(&mut self, workload: &Arc<Workload>, kernel: &mut Kernel, workers: &[worker::Handle]) {
        let now = Instant::now();
        if self.failed.get(&workload.name).is_some_and(|failure| failure.next > now) {
            return;
        }
        match Enrolled::join(workload, &self.capture, &mut self.handed, kernel, workers) {
            Ok(pod) => {
                tracing::info!(pod = %workload.name, cookie = pod.cookie(), "enrolled");
                self.failed.remove(&workload.name);
                self.enrolled.insert(workload.name.clone(), pod);
            }
            Err(error) => self.note_failure(workload, error, now),
        }
    }

    fn note_failure(&mut self, workload: &Workload, error: EnrolError, now: Instant) {
        let wait = self.failed.get(&workload.name).map_or(RETRY_MIN, |f| (f.wait * 2).min(RETRY_MAX));
        if wait == RETRY_MIN {
            tracing::warn!(pod = %workload.name, error = %crate::report::chain(&error), "can't be enrolled, will be tried again");
        }
        self.failed.insert(workload.name.clone(), Failure { error, wait, next: now + wait });
    }
}
