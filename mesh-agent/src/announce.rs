//! Tells the API server what became of this node's pods: an annotation on those that are captured, for as long as they are,
//! and Events when one is captured or can't be.
//!
//! A task beside the control loop, which never waits for it. `ledger` knows what is to be written (and that nothing is, where
//! the objects say it already, as after the agent's restart); `requests` writes it. Of no consequence for traffic.

mod ledger;
mod requests;

use std::sync::Arc;
use std::time::Instant;

use kube::Client;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::kube::Failure;
use crate::telemetry::AgentMetrics;
use ledger::Ledger;
pub use ledger::{Fact, State};
use requests::Requests;

/// Says what the control loop knows.
pub struct Announcer {
    facts: watch::Sender<Arc<[Fact]>>,
    task: JoinHandle<()>,
}

impl Announcer {
    /// For the pods of `node`. Must be called in the runtime that `client` was made in.
    pub fn start(client: Client, node: &str, metrics: AgentMetrics) -> Self {
        let (facts, told) = watch::channel(Arc::default());
        let requests = Requests::new(client, node);
        Self { facts, task: tokio::spawn(run(told, requests, metrics)) }
    }

    /// The pods of this node of which there is something to say, all of them.
    pub fn tell(&self, facts: Vec<Fact>) {
        self.facts.send_if_modified(|known| {
            let differs = **known != *facts;
            if differs {
                *known = facts.into();
            }
            differs
        });
    }
}

impl Drop for Announcer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(mut facts: watch::Receiver<Arc<[Fact]>>, requests: Requests, metrics: AgentMetrics) {
    let mut ledger = Ledger::new(Instant::now());
    let mut forbidden = false;
    loop {
        let known = facts.borrow_and_update().clone();
        while let Some(deed) = ledger.next(&known, Instant::now()) {
            let done = requests.does(&deed).await;
            let result = done.as_ref().err().map_or("ok", |failure| failure.label());
            metrics.pod_reports.with_label_values(&[deed.what(), result]).inc();
            if let Err(failure) = &done {
                tracing::debug!(pod = %deed.pod(), what = deed.what(), why = failure.describe(), "can't be written");
                if *failure == Failure::Forbidden && !std::mem::replace(&mut forbidden, true) {
                    tracing::warn!(
                        what = deed.what(),
                        "the API server doesn't allow it: the agent's role needs `patch` on pods/status, `create` and `patch` on events of events.k8s.io"
                    );
                }
            }
            ledger.settle(&deed, done, Instant::now());
        }
        let dropped = ledger.take_dropped();
        metrics.pod_reports.with_label_values(&["event", "dropped"]).inc_by(dropped);
        let again = ledger.next_time(&known);
        tokio::select! {
            changed = facts.changed() => if changed.is_err() { return },
            () = until(again) => {}
        }
    }
}

async fn until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}
