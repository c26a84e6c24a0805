//! Readiness as a set of tasks that start-up still has to do; each is a guard, and dropping it says "done".

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;

/// Names of what keeps the agent from being ready.
pub mod task {
    /// The source was read once and a snapshot published.
    pub const CONFIGURATION: &str = "configuration loaded";
    /// Kernel programs are loaded and attached.
    pub const KERNEL: &str = "kernel programs attached";
    /// Every pod known at start is captured.
    pub const PODS: &str = "pods captured";
    /// The agent is told to end; this is never done.
    pub const DRAIN: &str = "the end: draining";
}

/// Shared by the servers and start-up.
#[derive(Clone, Debug)]
pub struct Readiness(Arc<watch::Sender<BTreeMap<&'static str, usize>>>);

/// A task that isn't done; it is when this is dropped.
#[derive(Debug)]
pub struct ReadinessGuard {
    readiness: Readiness,
    task: &'static str,
}

impl Default for Readiness {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(BTreeMap::new())))
    }
}

impl Readiness {
    /// Adds a task. The agent isn't ready until the guard is dropped.
    #[must_use]
    pub fn begin(&self, task: &'static str) -> ReadinessGuard {
        self.0.send_modify(|tasks| *tasks.entry(task).or_default() += 1);
        ReadinessGuard { readiness: self.clone(), task }
    }

    /// True if no task is left.
    pub fn is_ready(&self) -> bool {
        self.0.borrow().is_empty()
    }

    /// Tasks that are left.
    pub fn waiting_for(&self) -> Vec<&'static str> {
        self.0.borrow().keys().copied().collect()
    }

    /// Resolves when no task is left.
    pub async fn ready(&self) {
        // Can't fail: the sender is `self`.
        drop(self.0.subscribe().wait_for(BTreeMap::is_empty).await);
    }
}

impl Drop for ReadinessGuard {
    fn drop(&mut self) {
        self.readiness.0.send_modify(|tasks| {
            if let Some(count) = tasks.get_mut(self.task) {
                *count -= 1;
                if *count == 0 {
                    tasks.remove(self.task);
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn ready_once_every_guard_is_gone() {
        let readiness = Readiness::default();
        let kernel = readiness.begin(task::KERNEL);
        let pods = [readiness.begin(task::PODS), readiness.begin(task::PODS)];
        drop(kernel);
        assert_eq!(readiness.waiting_for(), [task::PODS]);
        let waiter = tokio::spawn({
            let readiness = readiness.clone();
            async move { readiness.ready().await }
        });
        drop(pods);
        assert!(waiter.await.is_ok() && readiness.is_ready());
    }
}
