//! From settings to a serving agent, in the order in which one part needs another.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use thiserror::Error;
use tokio::net::UnixListener;
use tokio::sync::{mpsc, watch};

use super::control::Control;
use super::handover::{self, Handed};
use super::replaced::{self, Stop};
use super::servers::Servers;
use crate::admin::{self, About, AdminState, LogHandle, Readiness, SocketError, SocketGuard, task};
use crate::announce::Announcer;
use crate::clock;
use crate::enrol::{Births, Capture, Finder, Manager};
use crate::ext_authz::Providers;
use crate::health::Checks;
use crate::heartbeat::{self, Heartbeat};
use crate::history;
use crate::identity::issuer::{DEV_DIR, DevError, IstioOptions};
use crate::identity::{self, Identities, Issuer};
use crate::kernel::{self, Kernel, KernelError, KernelServices, Ports};
use crate::kube::{self, KubeError};
use crate::proxy::ceiling::Ceiling;
use crate::proxy::limits::Limits;
use crate::proxy::node::NodeAddresses;
use crate::proxy::worker::{self, Parts};
use crate::settings::{Ca, OutboundTrafficPolicy, SameNode, Settings, WhenReplaced};
use crate::sever::Severer;
use crate::source::{self, Published, Source};
use crate::telemetry::{self, Telemetry};

/// Hooks call a heartbeat older than this stale; several beats fit into it even on a busy machine.
const STALE_AFTER: Duration = Duration::from_millis(900);
/// How long a predecessor's admin socket is waited for.
const PREDECESSOR: Duration = Duration::from_secs(2);
/// Requests of the admin servers to the control loop that may wait.
const COMMANDS: usize = 16;
/// A worker silent for this long makes `/livez` fail.
const HUNG: Duration = Duration::from_secs(10);

/// Why the agent doesn't start or stopped.
#[derive(Debug, Error)]
pub enum AgentError {
    /// State directory.
    #[error("the state directory {} can't be made", path.display())]
    StateDir {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// State directory that others may write: they could put a socket of theirs in the agent's place.
    #[error(
        "the state directory {} can be written by group or others (mode {mode:o}): chmod go-w it, or name one of the agent's own with --state-dir",
        path.display()
    )]
    SharedStateDir {
        /// Where.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// Admin socket.
    #[error("the admin socket can't be opened")]
    Socket(#[from] SocketError),
    /// Metrics address.
    #[error(
        "the metrics address {address} can't be listened on (is another agent running? use --metrics-address)"
    )]
    Metrics {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// Cgroup.
    #[error("no cgroup to attach to was found; mount cgroup2 or name one with --cgroup")]
    Cgroup(#[source] io::Error),
    /// Kernel programs.
    #[error("the kernel programs can't be put in place (`mesh-agent check` says what is missing)")]
    Kernel(#[from] KernelError),
    /// API server.
    #[error(transparent)]
    Kube(#[from] KubeError),
    /// Development root.
    #[error("the development root (`ca: dev`) can't be used")]
    DevRoot(#[from] DevError),
    /// Access log.
    #[error("the access log can't be opened")]
    AccessLog(#[source] io::Error),
    /// Source.
    #[error(transparent)]
    Source(#[from] source::SourceError),
    /// A thread, a runtime, a signal handler.
    #[error("the system refuses a thread or a descriptor")]
    System(#[from] io::Error),
}

/// Runs the agent until it is told to stop, drain included.
pub fn run(settings: &Settings, log: LogHandle) -> Result<(), AgentError> {
    let descriptors = raise_descriptor_limit();
    make_state_dir(&settings.state_dir)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut stop = Stop::new()?;
        let (mut handed, predecessor) = handover::receive(&settings.state_dir).unzip();
        let taken = match predecessor {
            Some(_) => None,
            None => Some(take_socket(&settings.state_dir).await?),
        };
        let metrics = listen_for_metrics(settings.metrics_address, handed.as_mut())?;
        let published = Published { history: history::Shared::open(&settings.state_dir), ..Published::new() };
        let source = source::start(settings.source.clone(), settings.build_options(), published.clone())?;
        let mut control = assemble(settings, log, &published, descriptors, handed)?;
        if settings.source == Source::Kube {
            let client = kube::client(&kube::config().await?)?;
            let metrics = control.admin.telemetry.metrics.agent().clone();
            control.announcer = Some(Announcer::start(client, &settings.node_name, metrics));
        }
        match predecessor {
            Some(predecessor) => control.predecessor = Some((predecessor, metrics)),
            None => {
                control.servers = Some(Servers::start(&settings.state_dir, taken, metrics, &control.admin)?);
            }
        }
        let replaced = control.run().await?;
        drop(source);
        if replaced && settings.when_replaced == WhenReplaced::Wait {
            replaced::wait(&settings.state_dir, &mut stop).await;
        }
        Ok(())
    })
}

/// The socket of the agent whose place is taken, or one of our own.
fn listen_for_metrics(address: SocketAddr, handed: Option<&mut Handed>) -> Result<TcpListener, AgentError> {
    let handed = handed.and_then(|handed| handed.metrics.take());
    if let Some(listener) = handed.filter(|listener| listener.local_addr().is_ok_and(|own| own == address)) {
        return Ok(listener);
    }
    let listener = TcpListener::bind(address).and_then(|listener| {
        listener.set_nonblocking(true)?;
        Ok(listener)
    });
    listener.map_err(|source| AgentError::Metrics { address, source })
}

/// An agent that was just killed may still be on its way out: its socket is waited for, a living one's is not taken.
async fn take_socket(state_dir: &Path) -> Result<(UnixListener, SocketGuard), AgentError> {
    let deadline = Instant::now() + PREDECESSOR;
    loop {
        match admin::bind_socket(state_dir) {
            Err(SocketError::InUse(_)) if Instant::now() < deadline => {
                tokio::time::sleep(PREDECESSOR / 40).await
            }
            result => return Ok(result?),
        }
    }
}

/// Telemetry, then the kernel, then the workers, then the heartbeat: the hooks begin to capture only when all are there.
fn assemble(
    settings: &Settings,
    log: LogHandle,
    published: &Published,
    descriptors: u64,
    handed: Option<Handed>,
) -> Result<Control, AgentError> {
    let telemetry = Telemetry::new(telemetry::Options {
        access_log: settings.access_log.clone(),
        log: settings.log_options(),
        redact: settings.redact(),
        node: settings.node_name.clone(),
        trust_domain: settings.trust_domain.clone(),
        labels: settings.metrics_labels,
        tracing: settings.tracing(),
        ..telemetry::Options::default()
    })
    .map_err(AgentError::AccessLog)?;
    let readiness = Readiness::default();
    let reading = readiness.begin(task::CONFIGURATION);
    let starting = readiness.begin(task::PODS);
    let cgroup =
        settings.cgroup.clone().map_or_else(kernel::cgroup::cgroup2_mount, Ok).map_err(AgentError::Cgroup)?;
    let ports = Ports {
        outbound: settings.outbound_port,
        inbound: settings.inbound_port,
        hbone: settings.hbone_port,
    };
    let mut kernel = Kernel::load(&kernel::Options {
        bpffs_dir: settings.bpffs_dir.clone(),
        cgroup: cgroup.clone(),
        ports,
        stale_after: STALE_AFTER,
        services: settings.kernel_services,
    })?;
    if handed.is_none() {
        // They have no listeners yet, and some may not get any for long.
        kernel.leave_to_fail_modes()?;
    }
    let adopted = !kernel.enrolled_cookies().is_empty();
    let registry_only = settings.outbound_traffic_policy == OutboundTrafficPolicy::RegistryOnly;
    // What is wrong with them was said when the settings were read.
    let providers = Providers::new(&settings.extension_providers).unwrap_or_default();
    let flows = kernel.flows()?;
    let crowded = watch::Sender::new(0);
    let ceiling = Ceiling::for_descriptors(descriptors);
    let node = NodeAddresses::default();
    node.refresh();
    let identities = start_identities(settings, &telemetry)?;
    let workers = (0..settings.workers)
        .map(|id| {
            let parts = Parts {
                snapshot: published.snapshot.clone(),
                changed: published.changed.clone(),
                crowded: crowded.clone(),
                telemetry: telemetry.clone(),
                flows: kernel.flows()?,
                identities: identities.clone(),
                limits: Limits::default(),
                ceiling: ceiling.clone(),
                node: node.clone(),
                registry_only,
                secrets_dir: settings.secrets_dir.as_path().into(),
                providers: providers.clone(),
                same_node_mtls: settings.same_node == SameNode::Mtls,
                ports,
                forward_client_cert: settings.forward_client_cert_details,
            };
            Ok(worker::spawn(id, parts)?)
        })
        .collect::<Result<Vec<_>, AgentError>>()?;
    let lives: Vec<_> = workers.iter().map(worker::Handle::life).collect();
    let start = match (&handed, adopted) {
        (Some(_), _) => heartbeat::Start::Beside,
        (None, false) => heartbeat::Start::Now,
        (None, true) => heartbeat::Start::Later,
    };
    let heartbeat = Heartbeat::start(kernel.heartbeat()?, lives.clone(), start)?;
    let checks = Checks::new(
        telemetry.clone(),
        identities.clone(),
        settings.same_node == SameNode::Mtls,
        settings.hbone_port,
        published.changed.clone(),
    );
    let (control, commands) = mpsc::channel(COMMANDS);
    let admin = AdminState {
        snapshot: published.snapshot.clone(),
        telemetry,
        warnings: published.warnings.clone(),
        identities: identities.clone(),
        history: published.history.clone(),
        health: published.health.clone(),
        pods: Arc::default(),
        settings: Arc::new(serde_json::to_value(settings).unwrap_or_default()),
        about: Arc::new(about(settings)),
        readiness,
        alive: Arc::new(move || alive(&lives)),
        log,
        control,
    };
    let closed = admin.telemetry.metrics.agent().balanced_connections_closed.clone();
    let severer = Severer::start(kernel.balanced_sockets()?, closed)?;
    let everywhere = (settings.kernel_services == KernelServices::All).then(|| settings.proc_dir.clone());
    Ok(Control {
        kernel,
        severer,
        everywhere,
        announcer: None,
        births: watch_births(settings, &cgroup),
        manager: Manager::new(
            Capture { ports, registry_only, refuse_unknown: registry_only, flows },
            Finder::new(settings.proc_dir.clone()),
            handed.map(|handed| handed.pods).unwrap_or_default(),
        ),
        workers,
        node,
        heartbeat,
        checks,
        identities,
        snapshot: published.snapshot.clone(),
        changed: published.changed.subscribe(),
        coverage: published.coverage.clone(),
        noticed: published.noticed.clone(),
        names: published.names.clone(),
        jwks: published.jwks.clone(),
        commands,
        admin,
        drain_time: settings.drain_time,
        state_dir: settings.state_dir.clone(),
        servers: None,
        predecessor: None,
        adopted,
        strangers: true,
        reading: Some(reading),
        starting: Some(starting),
    })
}

/// A directory's pods say where they are.
fn watch_births(settings: &Settings, cgroup: &Path) -> Option<Births> {
    if matches!(settings.source, Source::Dir(_)) {
        return None;
    }
    let births = Births::watch(kernel::cgroup::hierarchies(cgroup));
    let told = |error: &io::Error| {
        tracing::warn!(%error, "cgroups can't be watched (fs.inotify.max_user_instances?): new pods are captured late");
    };
    births.inspect_err(told).ok()
}

fn start_identities(settings: &Settings, telemetry: &Telemetry) -> Result<Identities, AgentError> {
    let issuer = match &settings.ca {
        Ca::Dev => {
            tracing::warn!(
                "ca: dev signs certificates with a root that lies on this machine's disk: for trying out only, and no other machine trusts it"
            );
            Issuer::dev(DEV_DIR.into())?
        }
        Ca::Files(dir) => Issuer::files(dir.clone()),
        Ca::Istio(authority) => Issuer::istio(IstioOptions {
            authority: authority.clone(),
            token_file: settings.istio_token_file.clone(),
            root_cert_file: settings.istio_root_cert_file.clone(),
            cluster_id: settings.istio_cluster_id.clone(),
        }),
        Ca::Spiffe(socket) => Issuer::spiffe(socket.clone()),
    };
    let options = identity::Options {
        trust_domain: settings.trust_domain.clone(),
        aliases: settings.trust_domain_aliases.clone(),
        lifetime: settings.certificate_lifetime,
    };
    Ok(Identities::start(options, issuer, telemetry.metrics.agent().clone())?)
}

fn about(settings: &Settings) -> About {
    About {
        node: settings.node_name.clone(),
        source: settings.source.to_string(),
        state_dir: settings.state_dir.clone(),
        bpffs_dir: settings.bpffs_dir.clone(),
        registry_only: settings.outbound_traffic_policy == OutboundTrafficPolicy::RegistryOnly,
        kernel_services: settings.kernel_services,
        workers: settings.workers,
        started: SystemTime::now(),
    }
}

fn alive(lives: &[Arc<std::sync::atomic::AtomicU64>]) -> Result<(), String> {
    let now = clock::now_ns();
    for (id, life) in lives.iter().enumerate() {
        let silent = now.saturating_sub(life.load(std::sync::atomic::Ordering::Relaxed));
        if silent > HUNG.as_nanos() as u64 {
            return Err(format!("data path thread {id} shows no life for {} s", silent / 1_000_000_000));
        }
    }
    Ok(())
}

/// Made for its owner only. One that is there already may be others' too, and keeps its mode.
fn make_state_dir(path: &Path) -> Result<(), AgentError> {
    let failed = |source| AgentError::StateDir { path: path.to_owned(), source };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
    let mode = fs::metadata(path).map_err(failed)?.permissions().mode() & 0o7777;
    if mode & 0o022 != 0 {
        return Err(AgentError::SharedStateDir { path: path.to_owned(), mode });
    }
    Ok(())
}

/// As many as the hard limit allows. Returns how many files may be open from now on.
fn raise_descriptor_limit() -> u64 {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!(%error, "the limit on open files stays as it is");
    }
    // What every Linux process may open at least (getrlimit(2)).
    getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_state_directory_that_is_there_keeps_its_mode_and_one_for_everybody_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        let set = |mode| fs::set_permissions(dir.path(), fs::Permissions::from_mode(mode)).unwrap();
        let fresh = dir.path().join("a/b");
        make_state_dir(&fresh).unwrap();
        assert_eq!((mode(&fresh), mode(&dir.path().join("a"))), (0o700, 0o700));
        set(0o755);
        make_state_dir(dir.path()).unwrap();
        assert_eq!(mode(dir.path()), 0o755);
        for shared in [0o1777, 0o770] {
            set(shared);
            let refused = make_state_dir(dir.path()).map_err(|error| error.to_string()).unwrap_err();
            assert!(refused.contains(&format!("{shared:o}")) && refused.contains("--state-dir"), "{refused}");
            assert_eq!(mode(dir.path()), shared);
        }
        set(0o700);
    }
}
