//! Who pods are: one SPIFFE certificate for each service account with captured pods on this node, and whom they believe.
//!
//! [`Identities`] is asked for a pod's [`Identity`] when the pod is enrolled, which has its certificate requested at once; a
//! connection asks the identity for a TLS configuration, without a lock. A thread of its own requests and renews (`run`, by
//! the moments of `renewal`) from whoever signs (`issuer`). No certificate means no connection: never plain text instead.

pub mod authority;
mod id;
pub mod issuer;
mod key;
pub mod proto;
mod renewal;
mod run;
mod svid;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod trust;
mod verify;
mod view;
pub mod x509;

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, ServerConfig};
use tokio::sync::Notify;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

pub use id::{NotSpiffe, SpiffeId};
pub use issuer::Issuer;
pub use key::{Key, NoKey};
pub use svid::Svid;
pub use trust::{BadRoot, Trust};
pub use verify::{PeerError, Refusal, peer_of};

use crate::model::{ObjectName, Snapshot, Workload};
use crate::telemetry::AgentMetrics;

/// ALPN between agents of ours.
pub const ALPN_MESH: &[u8] = b"mesh-h2";
/// ALPN of HBONE.
pub const ALPN_HBONE: &[u8] = b"h2";

/// Why there is no TLS configuration, and so no connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoIdentity {
    /// The issuer was asked and hasn't answered with one yet.
    #[error("no certificate was issued yet")]
    NotYetIssued,
    /// It wasn't renewed in time.
    #[error("the certificate has expired and wasn't renewed")]
    Expired,
    /// The issuer won't have it.
    #[error("the issuer refuses a certificate for this identity")]
    Refused,
}

/// Every identity of this node's pods. Clones are the same.
#[derive(Clone)]
pub struct Identities(Arc<Shared>);

/// The identity of one service account; kept by its pods. Its certificate is renewed for as long as anybody has one, and
/// forgotten with the last.
#[derive(Clone)]
pub struct Identity(Arc<Slot>);

/// How identities are made.
#[derive(Clone, Debug)]
pub struct Options {
    /// Of every id that is requested.
    pub trust_domain: String,
    /// Trust domains that count as the own one.
    pub aliases: Vec<String>,
    /// For how long certificates are asked; an issuer may give less.
    pub lifetime: Duration,
}

struct Shared {
    trust: Arc<Trust>,
    slots: Mutex<HashMap<ObjectName, Weak<Slot>>>,
    /// Those of pods that the configuration has on this node, enrolled already or not.
    kept: Mutex<HashMap<ObjectName, Identity>>,
    told: UnboundedSender<run::Told>,
    health: Arc<ArcSwap<view::Health>>,
    #[cfg(test)]
    at_once: Option<testing::AtOnce>,
}

struct Slot {
    id: SpiffeId,
    account: ObjectName,
    standing: ArcSwap<Standing>,
    report: ArcSwap<view::Report>,
    /// Somebody waits for the first certificate.
    issued: Notify,
    told: UnboundedSender<run::Told>,
}

#[derive(Debug)]
enum Standing {
    /// Nothing was issued yet, or is refused.
    Without(NoIdentity),
    With(Box<Svid>),
}

impl Identities {
    /// Starts the thread that requests and renews.
    ///
    /// # Errors
    /// The system refuses the thread.
    pub fn start(options: Options, issuer: Issuer, metrics: AgentMetrics) -> io::Result<Self> {
        let (identities, receiver) = Self::idle(&options);
        let shared = &identities.0;
        let (trust, health) = (shared.trust.clone(), shared.health.clone());
        run::spawn(run::Parts { lifetime: options.lifetime, issuer, trust, health, metrics }, receiver)?;
        Ok(identities)
    }

    fn idle(options: &Options) -> (Self, run::Receiver) {
        let (told, receiver) = unbounded_channel();
        let shared = Shared {
            trust: Arc::new(Trust::new(&options.trust_domain, &options.aliases)),
            slots: Mutex::default(),
            kept: Mutex::default(),
            told,
            health: Arc::default(),
            #[cfg(test)]
            at_once: None,
        };
        (Self(Arc::new(shared)), receiver)
    }

    /// The identity of a service account, by namespace and name. One that isn't in use yet is requested now.
    pub fn of(&self, account: &ObjectName) -> Identity {
        let mut slots = self.0.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = slots.get(account).and_then(Weak::upgrade) {
            return Identity(slot);
        }
        slots.retain(|_, slot| slot.strong_count() > 0);
        let id = SpiffeId::new(self.0.trust.domain(), &account.namespace, &account.name);
        // What isn't the name of a namespace or an account could spell somebody else's id.
        let is_account = SpiffeId::parse(id.as_str()).is_ok_and(|id| id.namespace().is_some());
        let without = if is_account { NoIdentity::NotYetIssued } else { NoIdentity::Refused };
        let slot = Arc::new(Slot {
            id,
            account: account.clone(),
            standing: ArcSwap::from_pointee(Standing::Without(without)),
            report: ArcSwap::from_pointee(view::Report::default()),
            issued: Notify::new(),
            told: self.0.told.clone(),
        });
        slots.insert(account.clone(), Arc::downgrade(&slot));
        let identity = Identity(slot);
        if is_account {
            self.request(&identity);
        }
        identity
    }

    fn request(&self, identity: &Identity) {
        #[cfg(test)]
        if let Some(at_once) = &self.0.at_once {
            return at_once.issue(identity, &self.0.trust);
        }
        // The thread lives as long as this end does.
        let _ = identity.0.told.send(run::Told::Wanted(Arc::downgrade(&identity.0)));
    }

    /// The identity of a pod.
    pub fn of_pod(&self, workload: &Workload) -> Identity {
        self.of(&ObjectName::new(&workload.name.namespace, &workload.service_account))
    }

    /// Keeps the identities of the pods that are to be captured on this node, so that they are requested before the first
    /// connection.
    pub fn follow(&self, snapshot: &Snapshot) {
        let mut kept = self.0.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let mut now = HashMap::new();
        for workload in snapshot.enrolled() {
            let identity = self.of_pod(workload);
            now.insert(identity.0.account.clone(), identity);
        }
        *kept = now;
    }

    /// Whom its workloads believe.
    pub fn trust(&self) -> &Arc<Trust> {
        &self.0.trust
    }
}

impl Identity {
    /// Its name.
    pub fn id(&self) -> &SpiffeId {
        &self.0.id
    }

    /// For a connection to `expected`, whose certificate has to be signed under the trust bundle and to name it alone. ALPN
    /// is the caller's.
    ///
    /// # Errors
    /// There is no certificate to show.
    pub fn client(&self, expected: &SpiffeId) -> Result<Arc<ClientConfig>, NoIdentity> {
        self.with(|svid| svid.client(expected))
    }

    /// For connections from any workload of the trust domain; whose it is says [`peer_of`] after the handshake. ALPN is
    /// [`ALPN_MESH`].
    ///
    /// # Errors
    /// There is no certificate to show.
    pub fn server(&self) -> Result<Arc<ServerConfig>, NoIdentity> {
        self.with(Svid::server)
    }

    /// The same for HBONE: [`ALPN_HBONE`].
    ///
    /// # Errors
    /// As [`Self::server`].
    pub fn hbone_server(&self) -> Result<Arc<ServerConfig>, NoIdentity> {
        self.with(Svid::hbone_server)
    }

    /// The certificate that it shows, as it is now.
    ///
    /// # Errors
    /// There is none to show.
    pub fn certificate(&self) -> Result<CertificateDer<'static>, NoIdentity> {
        self.with(|svid| svid.chain.first().cloned())?.ok_or(NoIdentity::NotYetIssued)
    }

    fn with<T>(&self, made: impl FnOnce(&Svid) -> T) -> Result<T, NoIdentity> {
        match &**self.0.standing.load() {
            Standing::Without(why) => Err(*why),
            Standing::With(svid) if svid.facts.not_after < SystemTime::now() => Err(NoIdentity::Expired),
            Standing::With(svid) => Ok(made(svid)),
        }
    }

    /// Returns once there is a certificate or the issuer has refused one. For whoever comes right after the pod did; the
    /// caller bounds the time.
    pub async fn decided(&self) {
        loop {
            let issued = self.0.issued.notified();
            if !matches!(**self.0.standing.load(), Standing::Without(NoIdentity::NotYetIssued)) {
                return;
            }
            issued.await;
        }
    }
}

impl Slot {
    fn stand(&self, standing: Standing) {
        self.standing.store(Arc::new(standing));
        self.issued.notify_waiters();
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let _ = self.told.send(run::Told::Gone);
    }
}

impl fmt::Debug for Identities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identities").field("trust", &self.0.trust).finish_non_exhaustive()
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Identity").field(&self.0.id).finish()
    }
}

/// Between agents: TLS 1.3, and a key exchange that a later quantum computer doesn't open where the peer can.
fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    let made = || {
        let mut provider = aws_lc_rs::default_provider();
        provider.kx_groups = vec![aws_lc_rs::kx_group::X25519MLKEM768, aws_lc_rs::kx_group::X25519];
        provider.cipher_suites.retain(|suite| suite.tls13().is_some());
        Arc::new(provider)
    };
    PROVIDER.get_or_init(made).clone()
}
