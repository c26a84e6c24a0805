//! The control loop: follows the configuration, keeps pods enrolled, answers the admin API, drains when told to.

use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval};

use super::handover::Predecessor;
use super::servers::Servers;
use super::{notify, view};
use crate::admin::{AdminState, Command, ReadinessGuard, api, task};
use crate::announce::Announcer;
use crate::balance::outlier;
use crate::clock;
use crate::enrol::{Births, Manager, PodState};
use crate::health::Checks;
use crate::heartbeat::Heartbeat;
use crate::identity::Identities;
use crate::jwt;
use crate::kernel::Kernel;
use crate::model::{Snapshot, SnapshotHandle};
use crate::names;
use crate::proxy::node::NodeAddresses;
use crate::proxy::worker;
use crate::sever::{Severer, Where};
use crate::source::{Coverage, CoverageHandle, Noticed};

/// Namespaces that went away are noticed, and failures tried again, at this pace.
const RECONCILE: Duration = Duration::from_secs(1);
/// Flows that a dead agent left behind are swept at this age; a live one's are needed during their handshake only.
const LEFTOVER: Duration = Duration::from_secs(30);
/// For a worker to drop what is left of its connections.
const CUT_TIME: Duration = Duration::from_secs(1);
/// How often idle metric series and leftovers are looked for, in reconciliations.
const TIDY_EVERY: u32 = 15;

/// Everything that the loop holds.
pub(super) struct Control {
    pub kernel: Kernel,
    pub manager: Manager,
    /// None where pods come from no API server.
    pub announcer: Option<Announcer>,
    /// None where pods aren't known by their processes, or can't be seen to begin.
    pub births: Option<Births>,
    pub workers: Vec<worker::Handle>,
    pub node: NodeAddresses,
    pub heartbeat: Heartbeat,
    pub checks: Checks,
    pub identities: Identities,
    pub severer: Severer,
    /// The host's /proc, where services are balanced for all of its processes.
    pub everywhere: Option<PathBuf>,
    pub snapshot: SnapshotHandle,
    pub changed: watch::Receiver<u64>,
    pub coverage: CoverageHandle,
    pub noticed: Noticed,
    pub names: Arc<names::Stats>,
    pub jwks: Arc<jwt::Stats>,
    pub commands: mpsc::Receiver<Command>,
    pub admin: AdminState,
    pub drain_time: Duration,
    /// Where its sockets are.
    pub state_dir: PathBuf,
    /// None until it serves, where it takes over from another agent.
    pub servers: Option<Servers>,
    /// Whose place it takes, and the metrics address's listener.
    pub predecessor: Option<(Predecessor, TcpListener)>,
    /// An earlier agent left pods captured: what nobody has read yet may want them.
    pub adopted: bool,
    /// Until all of the source was read once: the kernel may capture pods that nobody wants.
    pub strangers: bool,
    /// Held until the source was read.
    pub reading: Option<ReadinessGuard>,
    /// Held until every pod known at start is captured.
    pub starting: Option<ReadinessGuard>,
}

impl Control {
    /// Runs until a signal or the admin API ends it, then drains. True if another agent has taken its place.
    pub async fn run(mut self) -> std::io::Result<bool> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut tick = interval(RECONCILE);
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut ticks = 0_u32;
        let mut replaced = false;
        loop {
            tokio::select! {
                changed = self.changed.changed() => match changed {
                    Ok(()) => self.follow(),
                    Err(_) => return Err(std::io::Error::other("the configuration source ended")),
                },
                _ = tick.tick() => {
                    self.node.refresh();
                    self.follow();
                    ticks = ticks.wrapping_add(1);
                    if ticks.is_multiple_of(TIDY_EVERY) {
                        self.tidy();
                    }
                }
                uids = born(&mut self.births) => {
                    self.manager.expect(uids);
                    self.attend();
                }
                () = at(self.manager.next_try()) => self.attend(),
                command = self.commands.recv() => match command {
                    Some(Command::Kernel(answer)) => {
                        // Whoever asked may have given up.
                        let _ = answer.send(self.kernel_view());
                    }
                    Some(Command::Drain(answer)) => {
                        let _ = answer.send(());
                        break;
                    }
                    Some(Command::HandOver(answer)) => match self.manager.hand_over() {
                        Ok(listeners) => drop(answer.send(listeners)),
                        Err(error) => tracing::warn!(%error, "the listeners can't be handed over"),
                    },
                    Some(Command::Replaced(answer)) => {
                        self.admin.history.release();
                        replaced = true;
                        let _ = answer.send(());
                        break;
                    }
                    None => break,
                },
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
            }
        }
        self.drain(replaced).await;
        Ok(replaced)
    }

    /// Between snapshots: new pods are captured as soon as the runtime has made them.
    fn attend(&mut self) {
        if self.manager.attend(&mut self.kernel, &self.workers) {
            self.follow();
        }
    }

    /// Makes the kernel and the workers agree with the newest snapshot.
    fn follow(&mut self) {
        // Before the snapshot, so that it has every change whose time is taken.
        let noticed = self.noticed.take();
        let coverage = self.coverage.get();
        let snapshot = self.snapshot.load_full();
        self.changed.mark_unchanged();
        // The one whose place it takes knows where names lead: none of its connections is accepted here before that is known.
        let awaits_names = self.predecessor.is_some() && self.names.are_awaited();
        if snapshot.generation == 0 || awaits_names {
            return;
        }
        let is_whole = coverage == Coverage::Whole;
        let written = self.kernel.sync_services(&snapshot, is_whole);
        self.sever();
        if written.failed > 0 {
            tracing::error!(
                failed = written.failed,
                "services can't be told to the kernel (a full map?), trying again"
            );
        }
        // Before the pods are entered, so that certificates are there with the first connection.
        self.identities.follow(&snapshot);
        self.manager.reconcile(&snapshot, &mut self.kernel, &self.workers);
        self.checks.follow(&snapshot, self.manager.captured(), || self.kernel.flows());
        self.publish_config(&snapshot, &noticed);
        self.publish_pods(&snapshot);
        self.publish_ejected(&snapshot);
        self.checks.publish(&snapshot);
        if coverage > Coverage::Awaited || !self.adopted {
            self.reading = None;
        }
        if self.reading.is_some() || !self.manager.settled(&snapshot) {
            return;
        }
        // The one whose place it takes may serve a pod that wasn't read yet.
        if self.predecessor.is_some() && !is_whole {
            return;
        }
        if is_whole && std::mem::take(&mut self.strangers) {
            self.manager.remove_strangers(&mut self.kernel);
        }
        if self.starting.take().is_some() {
            self.heartbeat.begin();
            self.take_over();
            notify::ready();
        }
    }

    /// Connections past the agent to endpoints that are gone are ended.
    fn sever(&mut self) {
        let gone = self.kernel.take_gone();
        if gone.is_empty() {
            return;
        }
        let place = match &self.everywhere {
            Some(proc_dir) => Where::Everywhere(proc_dir.clone()),
            None => Where::In(self.manager.captured().into_iter().map(|pod| pod.netns).collect()),
        };
        self.severer.sever(gone, place);
    }

    /// This agent beats: the one whose place it takes may go, and what is asked on its sockets is answered here.
    fn take_over(&mut self) {
        let Some((predecessor, metrics)) = self.predecessor.take() else { return };
        self.manager.forget_handed();
        match Servers::start(&self.state_dir, None, metrics, &self.admin) {
            Ok(servers) => self.servers = Some(servers),
            Err(error) => {
                tracing::error!(error = %crate::report::chain(&error), "no admin socket and no metrics: traffic is served all the same");
            }
        }
        match predecessor.let_go() {
            Ok(()) => tracing::info!("the former agent has let go and drains"),
            Err(error) => tracing::warn!(%error, "the former agent doesn't answer"),
        }
    }

    fn publish_config(&self, snapshot: &Snapshot, noticed: &[Instant]) {
        let metrics = self.admin.telemetry.metrics.agent();
        noticed.iter().for_each(|at| metrics.config_apply.observe(at.elapsed().as_secs_f64()));
        let warnings = self.admin.all_warnings();
        metrics.set_rollback(self.admin.history.with(|history| history.rolled_back()));
        metrics.set_name_lookups(self.names.counts());
        metrics.set_jwks(&self.jwks);
        metrics.set_config(snapshot.generation, warnings.iter().map(|warning| warning.code.as_str()));
    }

    fn publish_pods(&mut self, snapshot: &Snapshot) {
        let waits = self.manager.take_waits();
        let capture = &self.admin.telemetry.metrics.agent().pod_capture;
        waits.iter().for_each(|wait| capture.observe(wait.as_secs_f64()));
        if let Some(announcer) = &self.announcer {
            announcer.tell(self.manager.facts(snapshot));
        }
        let states = self.manager.states(snapshot);
        let count = |wanted: fn(&PodState) -> bool| states.values().filter(|state| wanted(state)).count();
        let gauge = &self.admin.telemetry.metrics.agent().enrolled_pods;
        for (label, number) in [
            ("captured", count(|s| matches!(s, PodState::Enrolled))),
            ("pending", count(|s| matches!(s, PodState::Pending(_)))),
            ("refused", count(|s| matches!(s, PodState::Refused(_)))),
        ] {
            gauge.with_label_values(&[label]).set(i64::try_from(number).unwrap_or(i64::MAX));
        }
        self.admin.pods.store(Arc::new(states));
    }

    fn publish_ejected(&self, snapshot: &Snapshot) {
        let now = clock::now_ns();
        let ports = snapshot.services.values().flat_map(|service| &service.ports);
        let forms = ports.flat_map(|port| port.forms());
        let ejected: usize = forms.map(|port| outlier::ejected(&port.endpoints, now)).sum();
        let gauge = &self.admin.telemetry.metrics.agent().outlier_ejected;
        gauge.set(i64::try_from(ejected).unwrap_or(i64::MAX));
    }

    /// Programs, maps and reasons for the admin API; brings their metrics, and pods', up to date on the way.
    fn kernel_view(&self) -> api::Kernel {
        let status = self.kernel.status();
        let reasons = self.kernel.reasons();
        let metrics = self.admin.telemetry.metrics.agent();
        metrics.set_kernel_decisions(reasons.iter().copied());
        for map in &status.maps {
            metrics
                .bpf_map_entries
                .with_label_values(&[map.name])
                .set(i64::try_from(map.entries).unwrap_or(i64::MAX));
            metrics.bpf_map_max_entries.with_label_values(&[map.name]).set(i64::from(map.max_entries));
        }
        for program in &status.programs {
            let time = Duration::from_nanos(program.run_time_ns);
            metrics.set_program(&program.name, program.run_count, time);
        }
        metrics.set_pods(self.manager.connections());
        view::kernel(status, &reasons)
    }

    fn tidy(&mut self) {
        // A pod that the kernel wouldn't forget when it was left is tried again.
        if self.starting.is_none() && !self.strangers {
            self.manager.remove_strangers(&mut self.kernel);
        }
        self.kernel.sweep_chosen();
        let left = self.kernel.sweep(LEFTOVER);
        if left > 0 {
            tracing::debug!(left, "flows past their handshake are swept");
        }
        self.admin.telemetry.metrics.expire(Instant::now());
    }

    /// New connections follow the fail mode from here on, or are another agent's; those under way may finish.
    async fn drain(mut self, replaced: bool) {
        tracing::info!(deadline = ?self.drain_time, replaced, "draining");
        // Who asks for anything is told at once that nothing more is done.
        self.commands.close();
        notify::stopping();
        let _draining = self.admin.readiness.begin(task::DRAIN);
        if replaced {
            self.servers = None;
            self.heartbeat.leave();
        } else {
            self.heartbeat.stop();
        }
        // The workers have the listeners too, and close them in their own time.
        drop((self.manager, self.checks, self.announcer));
        self.workers.iter().for_each(|w| w.tell(worker::Command::Drain));
        wait_for(&self.workers, self.drain_time).await;
        let left = self.admin.telemetry.connections.active();
        if left > 0 {
            tracing::warn!(left, "drain time is over, resetting what is left");
            self.workers.iter().for_each(|w| w.tell(worker::Command::Cut));
            wait_for(&self.workers, CUT_TIME).await;
        }
        self.admin.telemetry.access_log.flush();
    }
}

/// The uids of pods in which the runtime begins a container.
async fn born(births: &mut Option<Births>) -> Vec<String> {
    let Some(watcher) = births else { return std::future::pending().await };
    let uids = watcher.next().await;
    if uids.is_none() {
        *births = None;
    }
    uids.unwrap_or_default()
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}

async fn wait_for(workers: &[worker::Handle], limit: Duration) {
    let deadline = Instant::now() + limit;
    while Instant::now() < deadline && !workers.iter().all(worker::Handle::is_finished) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
