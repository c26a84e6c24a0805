//! Data-path threads: each has a runtime of its own and everything its connections need; commands come in by channel.
//!
//! A worker is told of pods (with listeners made for it) and of drain. It shows life by a counter that the heartbeat
//! thread looks at, so that a wedged worker makes the kernel follow the pods' fail mode.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::watch;
use tokio::task::{LocalSet, spawn_local};
use tokio::time::Instant;

use super::ceiling::{Ceiling, PodShare};
use super::client_cert::ForwardClientCert;
use super::context::{Pod, Worker};
use super::drain::Drain;
use super::limits::Limits;
use super::listener::{self, Door};
use super::node::NodeAddresses;
use super::sockets::SocketStock;
use crate::clock;
use crate::enrol::Set;
use crate::ext_authz::Providers;
use crate::identity::Identities;
use crate::kernel::{Flows, Ports};
use crate::model::{SnapshotHandle, Workload};
use crate::telemetry::Telemetry;

/// Bytes that pass from one socket to another within one poll.
const SCRATCH: usize = 64 * 1024;
/// How often a worker shows life and tidies up.
const LIFE: Duration = Duration::from_millis(250);
const SWEEP_EVERY: u32 = 40;

/// What a worker is made of.
pub struct Parts {
    /// The newest configuration.
    pub snapshot: SnapshotHandle,
    /// Tells of a newer one.
    pub changed: watch::Sender<u64>,
    /// Asks every worker for places that idle connections have.
    pub crowded: watch::Sender<u64>,
    /// Metrics, access log, live connections.
    pub telemetry: Arc<Telemetry>,
    /// Kernel maps of the data path.
    pub flows: Flows,
    /// Certificates of the pods' service accounts.
    pub identities: Identities,
    /// Bounds and deadlines.
    pub limits: Limits,
    /// How many connections there may be; all workers share it.
    pub ceiling: Arc<Ceiling>,
    /// The node's own addresses.
    pub node: NodeAddresses,
    /// `outboundTrafficPolicy: registryOnly`.
    pub registry_only: bool,
    /// `secretsDir`.
    pub secrets_dir: Arc<Path>,
    /// Whom AuthorizationPolicies with action CUSTOM may ask.
    pub providers: Providers,
    /// `sameNode: mtls`.
    pub same_node_mtls: bool,
    /// The agent's ports in pods.
    pub ports: Ports,
    /// `forwardClientCertDetails`.
    pub forward_client_cert: ForwardClientCert,
}

/// A pod as a worker is told of it.
pub struct PodSpec {
    /// SO_NETNS_COOKIE.
    pub cookie: u64,
    /// Its object.
    pub workload: Arc<Workload>,
    /// Its network namespace.
    pub netns: Arc<OwnedFd>,
    /// Its connections on all workers.
    pub share: Arc<PodShare>,
    /// This worker's own.
    pub listeners: Set,
}

/// What a worker is told.
pub enum Command {
    /// Serve this pod.
    Add(PodSpec),
    /// The pod's object changed.
    Update(u64, Arc<Workload>),
    /// Serve it no longer; connections under way go on.
    Remove(u64),
    /// Finish what is under way, then end.
    Drain,
    /// End now; what is still under way is reset.
    Cut,
}

/// The control thread's end of a worker.
pub struct Handle {
    commands: UnboundedSender<Command>,
    life: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

impl Handle {
    /// Tells the worker something. A worker that has ended needs telling nothing.
    pub fn tell(&self, command: Command) {
        let _ = self.commands.send(command);
    }

    /// Where it shows life: the process's clock in nanoseconds.
    pub fn life(&self) -> Arc<AtomicU64> {
        self.life.clone()
    }

    /// True once it has ended.
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }
}

/// Starts worker number `id`.
pub fn spawn(id: usize, parts: Parts) -> io::Result<Handle> {
    let (commands, receiver) = unbounded_channel();
    let life = Arc::new(AtomicU64::new(clock::now_ns()));
    let shown = life.clone();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let thread = Builder::new().name(format!("mesh-{id}")).spawn(move || {
        let worker = Rc::new(Worker {
            id,
            snapshot: parts.snapshot,
            changed: parts.changed,
            crowded: parts.crowded,
            telemetry: parts.telemetry,
            flows: parts.flows,
            identities: parts.identities,
            limits: parts.limits,
            ceiling: parts.ceiling,
            node: parts.node,
            registry_only: parts.registry_only,
            same_node_mtls: parts.same_node_mtls,
            ports: parts.ports,
            forward_client_cert: parts.forward_client_cert,
            drain: Drain::default(),
            idle_shown: Cell::new(0),
            redis: RefCell::default(),
            secrets_dir: parts.secrets_dir,
            mirrors: Cell::new(0),
            served: RefCell::default(),
            tokens: RefCell::default(),
            providers: parts.providers,
            scratch: RefCell::new(vec![0; SCRATCH].into_boxed_slice()),
        });
        LocalSet::new().block_on(&runtime, run(worker, receiver, &shown));
    })?;
    Ok(Handle { commands, life, thread })
}

/// Pods served, each with the switch that stops its listeners.
type Pods = HashMap<u64, (Rc<Pod>, Drain)>;

async fn run(worker: Rc<Worker>, mut commands: UnboundedReceiver<Command>, life: &AtomicU64) {
    let mut pods = Pods::new();
    // Pods that are no longer enrolled but still have connections.
    let mut leaving: Vec<Rc<Pod>> = Vec::new();
    let id = worker.id.to_string();
    let mut tick = tokio::time::interval(LIFE);
    let mut ticks = 0_u32;
    // Once draining: when the listeners have closed.
    let mut last_call = None;
    let mut crowded = worker.crowded.subscribe();
    loop {
        tokio::select! {
            // The worker holds a sender itself, so this never fails.
            Ok(()) = crowded.changed() => {
                pods.values().map(|(pod, _)| pod).chain(&leaving).for_each(|pod| pod.give_way());
            }
            _ = tick.tick() => {
                life.store(clock::now_ns(), Ordering::Relaxed);
                worker.telemetry.metrics.agent().worker_busy_so_far(&id, clock::thread_cpu());
                ticks = ticks.wrapping_add(1);
                if ticks.is_multiple_of(SWEEP_EVERY) {
                    sweep(&worker, &pods);
                }
                leaving.retain(|pod| pod.connections.get() > 0);
                if last_call.is_some_and(|over| Instant::now() >= over) && leaving.is_empty() && pods.values().all(|(p, _)| p.connections.get() == 0) {
                    return;
                }
            }
            command = commands.recv() => match command {
                Some(Command::Add(spec)) => add(&worker, &mut pods, spec),
                Some(Command::Update(cookie, workload)) => {
                    if let Some((pod, _)) = pods.get(&cookie) {
                        pod.identity.replace(worker.identities.of_pod(&workload));
                        pod.workload.replace(workload);
                        // Labels of the series may have changed with it.
                        pod.forget_upstreams();
                    }
                }
                Some(Command::Remove(cookie)) => {
                    if let Some((pod, stop)) = pods.remove(&cookie) {
                        stop.begin();
                        leaving.push(pod);
                    }
                }
                // The caller drops every task with the runtime.
                Some(Command::Cut) => return,
                Some(Command::Drain) | None => {
                    pods.values().for_each(|(_, stop)| stop.begin());
                    worker.drain.begin();
                    last_call.get_or_insert_with(|| Instant::now() + listener::LAST_CALL);
                }
            },
        }
    }
}

fn add(worker: &Rc<Worker>, pods: &mut Pods, spec: PodSpec) {
    let pod = Rc::new(Pod {
        worker: worker.clone(),
        identity: RefCell::new(worker.identities.of_pod(&spec.workload)),
        workload: RefCell::new(spec.workload),
        cookie: spec.cookie,
        netns: spec.netns,
        share: spec.share,
        sockets: SocketStock::default(),
        upstreams: RefCell::default(),
        direct: RefCell::default(),
        arrivals: RefCell::default(),
        told_at: RefCell::default(),
        connections: Cell::new(0),
    });
    let stop = Drain::default();
    let Set { outbound, inbound, hbone } = spec.listeners;
    for (listeners, door) in [(outbound, Door::Outbound), (inbound, Door::Inbound), (hbone, Door::Hbone)] {
        for listener in listeners {
            match TcpListener::from_std(listener) {
                Ok(listener) => {
                    spawn_local(listener::accept(pod.clone(), listener, door, stop.clone()));
                }
                Err(error) => {
                    tracing::error!(pod = %pod.workload().name, %error, "a listener can't be served")
                }
            }
        }
    }
    worker.serves(&pod);
    pods.insert(pod.cookie, (pod, stop));
}

fn sweep(worker: &Worker, pods: &Pods) {
    worker.served.borrow_mut().retain(|_, pod| pod.strong_count() > 0);
    let mut idle = 0;
    for (pod, _) in pods.values() {
        pod.sweep();
        let (balanced, direct) = (pod.upstreams.borrow(), pod.direct.borrow());
        idle += balanced.values().chain(direct.values()).map(|upstream| upstream.idle_count()).sum::<usize>();
    }
    // Each worker adds what changed with itself, so that the gauge is their sum.
    let change = idle as i64 - worker.idle_shown.replace(idle) as i64;
    worker.telemetry.metrics.agent().upstream_pool_idle.add(change);
}
