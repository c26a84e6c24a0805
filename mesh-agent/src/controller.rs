//! `mesh-agent controller`: signs certificates for the agents of a cluster, by Istio's CSR protocol over TLS.
//!
//! A node's agent proves which node it is (`tokens`), and gets certificates for the service accounts of that node's pods and
//! for no others (`judge`): a node that is taken over speaks for whoever runs on it, as it could anyway, and for nobody else.
//! No application's traffic ever comes here.

mod identity;
mod judge;
mod metrics;
mod serve;
mod settings;
#[cfg(test)]
mod tests;
mod tokens;

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::LocalSet;
use tokio::time::{MissedTickBehavior, interval};

#[cfg(test)]
pub(crate) use metrics::TABLE as METRICS;
pub use settings::{ControllerArgs, ControllerCa, ControllerSettings};

use crate::identity::issuer::{DEV_DIR, DevError, Issuer};
use crate::report;
use crate::source::{self, Published};
use identity::ServerIdentity;
use metrics::Metrics;
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
        let published = Published::new();
        let _source = source::start(settings.source.clone(), settings.build_options(), published.clone())?;
        let controller = Rc::new(assemble(settings, published)?);
        tracing::info!(address = %settings.listen, ca = %settings.ca, "certificates are signed for agents");
        // Nobody may be reading stderr; that stops nothing.
        let _ = writeln!(io::stderr(), "ready");
        let mut tick = interval(REFRESH);
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        tokio::select! {
            () = controller.clone().accept(listener) => {}
            () = metrics::serve(scraped, controller.clone()) => {}
            () = async { loop { tick.tick().await; controller.refresh(SystemTime::now()); } } => {}
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("ended");
        Ok(())
    })
}

async fn listen(address: SocketAddr) -> Result<TcpListener, ControllerError> {
    TcpListener::bind(address).await.map_err(|source| ControllerError::Listen { address, source })
}

fn assemble(settings: &ControllerSettings, published: Published) -> Result<Controller, ControllerError> {
    let now = SystemTime::now();
    let issuer = match &settings.ca {
        ControllerCa::Dev => {
            tracing::warn!(
                "ca: dev signs certificates with a root that lies on this machine's disk: for trying out only"
            );
            Issuer::dev(PathBuf::from(DEV_DIR))?
        }
        ControllerCa::Files(dir) => Issuer::files(dir.clone()),
    };
    let (Issuer::Dev(authority) | Issuer::Files(authority)) = issuer else {
        return Err(ControllerError::Authority("it has no key".to_owned()));
    };
    let roots = authority.refresh(now).roots;
    let roots = roots.ok_or_else(|| match authority.authority() {
        Err(error) => ControllerError::Authority(error.to_string()),
        Ok(_) => ControllerError::Authority("it has no root".to_owned()),
    })?;
    let server = ServerIdentity::new(settings.tls.clone());
    server
        .refresh(&authority, now)
        .map_err(|error| ControllerError::Certificate(report::chain(&error).to_string()))?;
    let tokens = Authenticator::Static(StaticTokens::open(settings.tokens.clone())?);
    Ok(Controller::new(
        serve::Parts {
            authority,
            server,
            tokens,
            trust_domain: settings.trust_domain.clone(),
            lifetime: settings.max_certificate_lifetime,
            published,
            metrics: Metrics::new(),
        },
        roots,
    ))
}
