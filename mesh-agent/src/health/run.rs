//! The checks under way: a task for each endpoint and policy, for as long as both are there. Runs on the health thread.
//!
//! Follows `wanted`, sleeps as `machine` says, asks by `ask`, and writes verdicts into the endpoints' atomics. Checks of
//! endpoints that are gone end with their task; those of endpoints and groups that stay keep what they know.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::sleep;

use super::Parts;
use super::ask;
use super::machine::{Machine, Transition};
use super::mesh::{self, Peer};
use super::wanted::{Captured, Check, Key, Set, Target, Wanted, Wrapped, origin};
use crate::addr::EndpointAddr;
use crate::balance::health::{Failure, Verdict};
use crate::clock;
use crate::policy::traffic::HealthCheck;

/// Checks under way at a time; others wait for a place. Each takes a descriptor, and a moment of one thread.
const MOST_UNDER_WAY: usize = 128;

/// What all tasks stand on.
struct Shared {
    parts: Parts,
    pods: RefCell<Vec<Captured>>,
    places: Semaphore,
}

/// One check, again and again.
struct Task {
    how: Arc<HealthCheck>,
    to: EndpointAddr,
    wrapped: Wrapped,
    targets: RefCell<Vec<Target>>,
    machine: RefCell<Machine>,
    /// How often it couldn't be reached, whatever came between.
    misses: Cell<usize>,
}

/// A task that ends with this.
struct Running {
    task: Rc<Task>,
    handle: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.handle.abort();
    }
}

/// Checks what is wanted until nobody says any more what that is.
pub(super) async fn run(parts: Parts, mut wanted: watch::Receiver<Arc<Wanted>>) {
    let shared = Rc::new(Shared { parts, pods: RefCell::default(), places: Semaphore::new(MOST_UNDER_WAY) });
    let mut running = HashMap::new();
    let mut sets = Vec::new();
    loop {
        let newest = wanted.borrow_and_update().clone();
        shared.pods.replace(newest.pods.clone());
        release(&sets, &newest.sets);
        sets.clone_from(&newest.sets);
        take_up(&newest);
        follow(&shared, &mut running, &newest);
        newest.sets.iter().for_each(|set| set.count());
        if wanted.changed().await.is_err() {
            return;
        }
    }
}

/// What was found of service ports that aren't checked any more doesn't count.
fn release(before: &[Arc<Set>], now: &[Arc<Set>]) {
    for set in before.iter().filter(|old| !now.iter().any(|new| Arc::ptr_eq(&old.health, &new.health))) {
        set.health.check(false);
        set.endpoints.iter().for_each(|endpoint| endpoint.load.health.set(Verdict::Unchecked));
        set.count();
    }
}

/// Endpoints that are there when checks begin serve until the first check says otherwise: a policy that comes into force,
/// or an agent that starts, cuts nobody off.
fn take_up(wanted: &Wanted) {
    for set in wanted.sets.iter().filter(|set| !set.health.is_checked()) {
        set.endpoints.iter().for_each(|endpoint| endpoint.load.health.set(Verdict::Unchecked));
        set.health.check(true);
    }
    wanted.unchecked.iter().for_each(|endpoint| endpoint.load.health.set(Verdict::Unchecked));
}

fn follow(shared: &Rc<Shared>, running: &mut HashMap<Key, Running>, wanted: &Wanted) {
    running.retain(|key, _| wanted.checks.contains_key(key));
    for (key, check) in &wanted.checks {
        match running.get(key) {
            Some(Running { task, .. }) => task.now_for(&check.targets),
            None => {
                running.insert(key.clone(), start(shared, check));
            }
        }
    }
}

/// A policy whose `healthCheck` changed takes over what the last one found, until its own first check decides.
fn start(shared: &Rc<Shared>, check: &Check) -> Running {
    let known = check.targets.first().map(|target| target.endpoint.load.health.verdict());
    let task = Rc::new(Task {
        how: check.how.clone(),
        to: check.to,
        wrapped: check.wrapped.clone(),
        targets: RefCell::new(check.targets.clone()),
        machine: RefCell::new(Machine::new(known.unwrap_or_default(), clock::now_ns())),
        misses: Cell::new(0),
    });
    task.write();
    let handle = spawn_local(watch_over(shared.clone(), task.clone()));
    Running { task, handle }
}

async fn watch_over(shared: Rc<Shared>, task: Rc<Task>) {
    loop {
        let wait = task.machine.borrow().wait(clock::now_ns());
        sleep(wait).await;
        // The semaphore is never closed.
        let Ok(place) = shared.places.acquire().await else { return };
        let Some((from, host)) = task.origin(&shared) else { return };
        let connect = async {
            let parts = &shared.parts;
            let (at, to_agent) = match &task.wrapped {
                Wrapped::Plain | Wrapped::Tls(_) => (task.to, false),
                Wrapped::Mesh(_) => (task.to, true),
                Wrapped::Hbone(_) => (EndpointAddr::new(task.to.ip(), parts.hbone_port), true),
            };
            let tcp = ask::connect(&from, &parts.flows, at, to_agent).await;
            let tcp = tcp.map_err(|_| Failure::Connect)?;
            match &task.wrapped {
                Wrapped::Plain => Ok(tcp.into()),
                Wrapped::Tls(tls) => ask::wrap(tcp, task.to, tls, &task.how.probe).await,
                Wrapped::Mesh(account) => {
                    let peer = Peer { account, is_hbone: false };
                    mesh::through(parts, &from, peer, tcp, task.to, task.how.timeout).await
                }
                Wrapped::Hbone(account) => {
                    let peer = Peer { account, is_hbone: true };
                    mesh::through(parts, &from, peer, tcp, task.to, task.how.timeout).await
                }
            }
        };
        let outcome = ask::ask(&task.how, &host, connect).await;
        drop(place);
        task.settle(&shared, &from, outcome);
    }
}

impl Task {
    /// Where the next check comes from, and what the endpoint is called. None can't be: a check without is not wanted.
    fn origin(&self, shared: &Shared) -> Option<(Captured, String)> {
        let targets = self.targets.borrow();
        let from = origin(&shared.pods.borrow(), &targets, self.misses.get())?.clone();
        Some((from, targets.first()?.set.host.clone()))
    }

    /// The configuration changed around the endpoint.
    fn now_for(&self, targets: &[Target]) {
        self.targets.replace(targets.to_vec());
        self.write();
    }

    fn write(&self) {
        let verdict = self.machine.borrow().verdict();
        self.targets.borrow().iter().for_each(|target| target.endpoint.load.health.set(verdict));
    }

    fn settle(&self, shared: &Shared, from: &Captured, outcome: Result<(), Failure>) {
        let now_ns = clock::now_ns();
        let label = outcome.map_or_else(Failure::label, |()| "passed");
        shared.parts.telemetry.metrics.agent().health_checks.with_label_values(&[label]).inc();
        if matches!(outcome, Err(Failure::Connect | Failure::Timeout)) {
            self.misses.set(self.misses.get().wrapping_add(1));
        }
        let changes = self.machine.borrow_mut().note(&self.how, outcome, now_ns, fastrand::f64());
        self.write();
        if self.machine.borrow().verdict() == Verdict::Healthy && outcome.is_ok() {
            self.reinstate(now_ns);
        }
        let Some(transition) = changes else { return };
        self.targets.borrow().iter().for_each(|target| target.set.count());
        self.say(transition, from);
        if transition.from.is_avoided() && !transition.to.is_avoided() {
            // Requests may wait for it.
            shared.parts.changed.send_modify(|_| ());
        }
    }

    /// What checks find healthy isn't left alone for what it answered before (Envoy).
    fn reinstate(&self, now_ns: u64) {
        for target in self.targets.borrow().iter() {
            if target.endpoint.load.outlier.reinstate(now_ns) {
                let (service, endpoint) = (&*target.set.host, target.endpoint.addr);
                tracing::info!(service, port = target.set.port, %endpoint, "ejection ended by a health check that passed");
            }
        }
    }

    fn say(&self, transition: Transition, from: &Captured) {
        let targets = self.targets.borrow();
        let Some(Target { set, endpoint }) = targets.first() else { return };
        let (service, port, endpoint, from) = (&*set.host, set.port, endpoint.addr, &from.workload.name);
        match transition {
            Transition { to: Verdict::Unhealthy(reason), .. } => {
                tracing::warn!(service, port, %endpoint, %reason, %from, "endpoint unhealthy");
            }
            // At the start of checks most endpoints are healthy, as they counted already.
            Transition { from: Verdict::Unchecked, .. } => {
                tracing::debug!(service, port, %endpoint, %from, "endpoint healthy");
            }
            Transition { .. } => tracing::info!(service, port, %endpoint, %from, "endpoint healthy"),
        }
    }
}

impl Set {
    /// Counts anew how many get no requests.
    fn count(&self) {
        self.health.count(&self.endpoints);
    }
}

#[cfg(test)]
mod tests;
