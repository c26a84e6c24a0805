//! Roots in memory for unit tests, identities that have their certificates at once, and certificates with anything wrong
//! that a test wants.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, SystemTime};

use rustls::pki_types::CertificateDer;
use x509_cert::der::pem::{self, LineEnding};

use super::authority::{Authority, Life};
use super::id::SpiffeId;
use super::issuer::{IssueError, Issued, News};
use super::key::Key;
use super::svid::Svid;
use super::trust::Trust;
use super::view::Health;
use super::x509::{self, San};
use super::{Identities, Identity, Options, Standing, run};

/// The trust domain where nothing else is said.
pub(crate) const DOMAIN: &str = "cluster.local";

/// A certificate authority.
#[derive(Clone)]
pub(crate) struct Root {
    authority: Arc<Authority>,
    pub(crate) certificate: CertificateDer<'static>,
}

/// Issues in the caller's own thread.
pub(crate) struct AtOnce {
    root: Root,
    life: Option<Life>,
    /// Kept, so that nobody is told that the thread has ended.
    _told: run::Receiver,
}

/// A day, from a minute ago.
pub(crate) fn today() -> Life {
    let now = SystemTime::now();
    Life { not_before: now - Duration::from_secs(60), not_after: now + Duration::from_secs(86400) }
}

impl Root {
    pub(crate) fn new() -> Self {
        let key = Key::generate().unwrap();
        let (authority, certificate) = Authority::self_signed("CN=test root", &key, today()).unwrap();
        Self { authority: Arc::new(authority), certificate }
    }

    /// A root whose certificate and key are in a directory as cert-manager has them.
    pub(crate) fn in_files(dir: &Path) -> Self {
        let (key, document) = Key::for_a_file().unwrap();
        let (authority, certificate) =
            Authority::self_signed("CN=test root in files", &key, today()).unwrap();
        let text = |label, bytes: &[u8]| pem::encode_string(label, LineEnding::LF, bytes).unwrap();
        let root = text("CERTIFICATE", &certificate);
        for (name, text) in
            [("tls.key", text("PRIVATE KEY", document.as_ref())), ("tls.crt", root.clone()), ("ca.crt", root)]
        {
            // As a Secret's files change: another one takes the place.
            std::fs::write(dir.join("new"), text).unwrap();
            std::fs::rename(dir.join("new"), dir.join(name)).unwrap();
        }
        Self { authority: Arc::new(authority), certificate }
    }

    /// The same for every test of the process.
    pub(crate) fn shared() -> &'static Self {
        static ROOT: OnceLock<Root> = OnceLock::new();
        ROOT.get_or_init(Self::new)
    }

    /// Identities of `cluster.local` that trust this root alone.
    pub(crate) fn identities(&self) -> Identities {
        self.identities_of(DOMAIN, &[], &[self], None)
    }

    /// Identities under this root that trust `trusted`, with certificates of this life, or a day's. Whoever has an expired one
    /// is told so and shows it to nobody; [`Self::svid`] makes one that can be shown.
    pub(crate) fn identities_of(
        &self,
        trust_domain: &str,
        aliases: &[&str],
        trusted: &[&Root],
        life: Option<Life>,
    ) -> Identities {
        let options = Options {
            trust_domain: trust_domain.to_owned(),
            aliases: aliases.iter().map(|alias| (*alias).to_owned()).collect(),
            lifetime: Duration::from_secs(86400),
        };
        let (mut identities, told) = Identities::idle(&options);
        let roots: Vec<_> = trusted.iter().map(|root| root.certificate.clone()).collect();
        identities.0.trust.set_roots(&roots).unwrap();
        let shared = Arc::get_mut(&mut identities.0).unwrap();
        shared.health.store(Arc::new(Health { issuer: "testing".to_owned(), ..Health::default() }));
        shared.at_once = Some(AtOnce { root: self.clone(), life, _told: told });
        identities
    }

    /// A certificate with these URIs and any life, and its key.
    pub(crate) fn chain(&self, uris: &[&str], life: Life) -> (Vec<CertificateDer<'static>>, Key) {
        let key = Key::generate().unwrap();
        let names: Vec<_> = uris.iter().map(|uri| San::Uri(uri)).collect();
        (self.authority.sign(&x509::spki(&key).unwrap(), &names, life).unwrap(), key)
    }

    /// Configurations with a certificate like that.
    pub(crate) fn svid(&self, uris: &[&str], life: Life, trust: &Arc<Trust>) -> Svid {
        let (chain, key) = self.chain(uris, life);
        Svid::new(chain, Arc::new(key), trust.clone()).unwrap()
    }
}

/// An issuer that does what a test says.
#[derive(Clone, Default)]
pub struct Scripted(Arc<Mutex<Script>>);

#[derive(Default)]
pub(crate) struct Script {
    pub(crate) root: Option<Root>,
    /// Roots that count, if they change.
    pub(crate) roots: Option<Vec<CertificateDer<'static>>>,
    pub(crate) fails: Option<IssueError>,
    /// Never answers.
    pub(crate) hangs: bool,
    /// Gives a certificate for this URI whatever is asked.
    pub(crate) uri: Option<String>,
    /// Roots that come with each certificate.
    pub(crate) sends: Vec<CertificateDer<'static>>,
    pub(crate) asked: Vec<SpiffeId>,
    pub(crate) under_way: usize,
    pub(crate) most_under_way: usize,
}

impl Scripted {
    /// Issues under `root`, whom it has trusted.
    pub(crate) fn new(root: &Root) -> Self {
        let scripted = Self::default();
        scripted.change(|script| {
            script.roots = Some(vec![root.certificate.clone()]);
            script.root = Some(root.clone());
        });
        scripted
    }

    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut Script) -> T) -> T {
        change(&mut self.0.lock().unwrap())
    }

    pub(crate) fn refresh(&self) -> News {
        News { roots: self.change(|script| script.roots.take()), ..News::default() }
    }

    pub(crate) async fn issue(
        &self,
        id: &SpiffeId,
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<Issued, IssueError> {
        self.change(|script| {
            script.asked.push(id.clone());
            script.under_way += 1;
            script.most_under_way = script.most_under_way.max(script.under_way);
        });
        // An issuer takes time: long enough for others to be asked meanwhile.
        tokio::time::sleep(Duration::from_millis(100)).await;
        if self.change(|script| script.hangs) {
            std::future::pending::<()>().await;
        }
        self.change(|script| {
            script.under_way -= 1;
            if let Some(error) = &script.fails {
                return Err(error.clone());
            }
            let uri = script.uri.as_deref().unwrap_or(id.as_str());
            // Long enough ago for handshakes, which go by the system's clock.
            let life = Life { not_before: now - Duration::from_secs(3600), not_after: now + lifetime };
            let (chain, key) = script.root.as_ref().unwrap().chain(&[uri], life);
            Ok(Issued { chain, key: Arc::new(key), roots: script.sends.clone() })
        })
    }
}

impl std::fmt::Debug for Scripted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Scripted")
    }
}

impl AtOnce {
    pub(super) fn issue(&self, identity: &Identity, trust: &Arc<Trust>) {
        let life = self.life.unwrap_or_else(today);
        let svid = self.root.svid(&[identity.id().as_str()], life, trust);
        identity.0.stand(Standing::With(Box::new(svid)));
    }
}

/// Trust in these roots.
pub(crate) fn trust(domain: &str, aliases: &[&str], roots: &[&Root]) -> Arc<Trust> {
    let aliases: Vec<_> = aliases.iter().map(|alias| (*alias).to_owned()).collect();
    let trust = Trust::new(domain, &aliases);
    let roots: Vec<_> = roots.iter().map(|root| root.certificate.clone()).collect();
    trust.set_roots(&roots).unwrap();
    Arc::new(trust)
}
