//! `mesh-agent controller`: signs certificates for the agents of a cluster, by Istio's CSR protocol over TLS.
//!
//! A node's agent proves which node it is (`tokens`), and gets certificates for the service accounts of that node's pods and
//! for no others (`judge`): a node that is taken over speaks for whoever runs on it, as it could anyway, and for nobody else.
//! On Kubernetes the one of them that leads (`lease`) writes status conditions and the trust bundle, too (`cluster`).
//! No application's traffic ever comes here.

mod bundle;
mod cluster;
mod identity;
mod judge;
mod lease;
mod metrics;
mod renewal;
mod review;
mod secret;
mod serve;
mod settings;
mod status;
#[cfg(test)]
mod tests;
mod tokens;

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::LocalSet;
use tokio::time::{MissedTickBehavior, interval};

#[cfg(test)]
pub(crate) use metrics::TABLE as METRICS;
pub use settings::{ControllerArgs, ControllerCa, ControllerSettings, Tokens};

use crate::identity::issuer::{DEV_DIR, DevError, Files, Issuer};
use crate::kube::KubeError;
use crate::report;
use crate::source::{self, Published};
use cluster::Cluster;
use identity::ServerIdentity;
use metrics::{Metrics, Progress};
use secret::{KeySecret, SecretError};
use serve::Controller;
use tokens::{Authenticator, StaticTokens, TokensError};

/// How often files are looked at.
const REFRESH: Duration = Duration::from_secs(2);

/// Why the controller doesn't start.
#[derive(Debug, thiserror::Error)]
pub enum ControllerError {
    /// An address.
    #[error("{address} can't be listened on")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// Development root.
    #[error("the development root (`ca: dev`) can't be used")]
    DevRoot(#[from] DevError),
    /// Tokens.
    #[error("the nodes' tokens can't be used")]
    Tokens(#[from] TokensError),
    /// The authority's files.
    #[error("the certificate authority can't be used: {0}")]
    Authority(String),
    /// The server's own certificate.
    #[error("there is no certificate to show to agents: {0}")]
    Certificate(String),
    /// Which API server.
    #[error("the API server can't be asked")]
    Kube(#[from] KubeError),
    /// The key's Secret.
    #[error("the Secret of the certificate authority can't be used")]
    Secret(#[from] SecretError),
    /// Where the pods are read.
    #[error(transparent)]
    Source(#[from] source::SourceError),
    /// A thread, a runtime, a signal handler.
    #[error("the system refuses a thread or a descriptor")]
    System(#[from] io::Error),
}

/// Serves until it is told to stop.
///
/// # Errors
/// What is missing at the start. Afterwards it serves on with what was last valid.
pub fn run(settings: &ControllerSettings) -> Result<(), ControllerError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let listener = listen(settings.listen).await?;
        let scraped = listen(settings.metrics_address).await?;
        let (metrics, progress) = (Rc::new(Metrics::new()), Rc::new(Progress::default()));
        progress.waits("the API server's address".to_owned());
        let mut probed = pin!(metrics::serve(scraped, metrics.clone(), progress.clone()));
        let cluster = if settings.needs_kube() { Some(Cluster::find(settings).await?) } else { None };
        let published = Published::new();
        let _source = source::start(settings.source.clone(), settings.build_options(), published.clone())?;
        let assembled = async {
            let (authority, key) = authority(settings, cluster.as_ref(), &progress).await?;
            let controller = Rc::new(assemble(settings, published, authority, cluster.as_ref(), metrics)?);
            Ok::<_, ControllerError>((controller, key))
        };
        let (controller, key) = tokio::select! {
            assembled = assembled => assembled?,
            () = &mut probed => return Ok(()),
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
        };
        progress.begins(controller.clone());
        tracing::info!(address = %settings.listen, ca = %settings.ca, "certificates are signed for agents");
        // Nobody may be reading stderr; that stops nothing.
        let _ = writeln!(io::stderr(), "ready");
        let mut duties = Duties::new(cluster.filter(|_| settings.writes()));
        let leadership = duties.leadership();
        tokio::select! {
            () = controller.clone().accept(listener) => {}
            () = probed => {}
            () = refresh(&controller) => {}
            () = follow_key(key.as_ref(), leadership.as_ref(), &controller) => {}
            () = duties.run(&controller) => {}
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        duties.end().await;
        tracing::info!("ended");
        Ok(())
    })
}

/// What only one of several controllers does.
struct Duties(Option<(Cluster, lease::Candidate, lease::Leadership)>);

impl Duties {
    fn new(cluster: Option<Cluster>) -> Self {
        Self(cluster.map(|cluster| {
            let (candidate, leadership) = cluster.candidate();
            (cluster, candidate, leadership)
        }))
    }

    fn leadership(&self) -> Option<lease::Leadership> {
        self.0.as_ref().map(|(_, _, leadership)| leadership.clone())
    }

    async fn run(&mut self, controller: &Rc<Controller>) {
        let Some((cluster, candidate, leadership)) = &mut self.0 else { return std::future::pending().await };
        let mut seen = leadership.clone();
        let tell = async {
            loop {
                controller.parts.metrics.leads(seen.leads());
                seen.changed().await;
            }
        };
        tokio::join!(candidate.run(), cluster.write(controller, leadership), tell);
    }

    async fn end(&mut self) {
        if let Some((_, candidate, _)) = &mut self.0 {
            candidate.release().await;
        }
    }
}

async fn refresh(controller: &Controller) {
    let mut tick = interval(REFRESH);
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        tick.tick().await;
        controller.refresh(SystemTime::now());
    }
}

async fn follow_key(
    key: Option<&KeySecret>,
    leadership: Option<&lease::Leadership>,
    controller: &Controller,
) {
    // Where nobody leads, versions alone decide which of several renews it.
    let leads = || leadership.is_none_or(lease::Leadership::leads);
    match key {
        Some(key) => key.follow(leads, |given| controller.parts.authority.give(given)).await,
        None => std::future::pending().await,
    }
}

async fn listen(address: SocketAddr) -> Result<TcpListener, ControllerError> {
    TcpListener::bind(address).await.map_err(|source| ControllerError::Listen { address, source })
}

/// Whose key signs, and the Secret that it is in.
async fn authority(
    settings: &ControllerSettings,
    cluster: Option<&Cluster>,
    progress: &Progress,
) -> Result<(Files, Option<KeySecret>), ControllerError> {
    let issuer = match (&settings.ca, cluster) {
        (ControllerCa::Dev, _) => {
            tracing::warn!(
                "ca: dev signs certificates with a root that lies on this machine's disk: for trying out only"
            );
            Issuer::dev(PathBuf::from(DEV_DIR))?
        }
        (ControllerCa::Files(dir), _) => Issuer::files(dir.clone()),
        (ControllerCa::Secret(name), Some(cluster)) => {
            let key = cluster.key(name);
            let given = key.wait(|what| progress.waits(what)).await?;
            return Ok((Files::given(&settings.ca.to_string(), given), Some(key)));
        }
        (ControllerCa::Secret(_), None) => {
            return Err(ControllerError::Authority("there is no cluster".to_owned()));
        }
    };
    match issuer {
        Issuer::Dev(authority) | Issuer::Files(authority) => Ok((authority, None)),
        _ => Err(ControllerError::Authority("it has no key".to_owned())),
    }
}

fn assemble(
    settings: &ControllerSettings,
    published: Published,
    authority: Files,
    cluster: Option<&Cluster>,
    metrics: Rc<Metrics>,
) -> Result<Controller, ControllerError> {
    let now = SystemTime::now();
    let roots = authority.refresh(now).roots;
    let roots = roots.ok_or_else(|| match authority.authority() {
        Err(error) => ControllerError::Authority(error.to_string()),
        Ok(_) => ControllerError::Authority("it has no root".to_owned()),
    })?;
    let server = ServerIdentity::new(settings.tls.clone());
    server
        .refresh(&authority, now)
        .map_err(|error| ControllerError::Certificate(report::chain(&error).to_string()))?;
    let tokens = match (&settings.tokens, cluster) {
        (Tokens::File(path), _) => Authenticator::Static(StaticTokens::open(path.clone())?),
        (Tokens::Kube, Some(cluster)) => Authenticator::Review(cluster.reviewer()),
        (Tokens::Kube, None) => return Err(ControllerError::Authority("there is no cluster".to_owned())),
    };
    Ok(Controller::new(
        serve::Parts {
            authority: Rc::new(authority),
            server,
            tokens,
            trust_domain: settings.trust_domain.clone(),
            lifetime: settings.max_certificate_lifetime,
            published,
            metrics,
        },
        roots,
    ))
}
