//! The issuer `spiffe:SOCKET`: the SPIFFE Workload API, as SPIRE's agent serves it on a unix socket.
//!
//! The API pushes all that this process may have, with keys, and pushes anew when anything changes. `follow` keeps that
//! stream and what came last; an identity that isn't among it has no certificate. What came stays when the stream breaks.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use http::header::{HeaderMap, HeaderName, HeaderValue};
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::SigningKey;
use tokio::net::UnixStream;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use x509_cert::der::{Reader, SliceReader};

use super::{IssueError, Issued, News};
use crate::grpc::{self, Call, Status};
use crate::identity::id::SpiffeId;
use crate::identity::proto::{FETCH_X509_SVID, SvidRequest, SvidResponse, WorkloadSvid};
use crate::identity::x509;

/// After the stream broke; doubled with each try up to the most (SPIFFE Workload API, 4.4: exponential back-off).
const RETRY: Duration = Duration::from_millis(500);
const RETRY_MOST: Duration = Duration::from_secs(30);
/// Before the first answer or failure.
const NOT_ASKED: &str = "it hasn't answered yet";
/// For the socket to be connected to.
const CONNECT: Duration = Duration::from_secs(5);

/// A Workload API.
#[derive(Debug)]
pub struct Spiffe {
    socket: PathBuf,
    table: Mutex<Table>,
    changed: Notify,
}

#[derive(Debug)]
struct Table {
    svids: HashMap<SpiffeId, Pushed>,
    roots: Vec<CertificateDer<'static>>,
    /// Something came since `refresh` was last asked.
    news: bool,
    /// Why there is no stream. None: there is one.
    down: Option<String>,
}

#[derive(Clone)]
struct Pushed {
    chain: Vec<CertificateDer<'static>>,
    key: Arc<dyn SigningKey>,
}

impl Spiffe {
    /// Nothing is asked yet: [`Self::follow`] does.
    pub fn new(socket: PathBuf) -> Self {
        let down = Some(NOT_ASKED.to_owned());
        let table = Table { svids: HashMap::new(), roots: Vec::new(), news: false, down };
        Self { socket, table: Mutex::new(table), changed: Notify::new() }
    }

    /// Where it is.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Keeps the stream, for ever. For identities of this trust domain the bundle counts that came with them.
    pub(super) async fn follow(&self, ours: impl Fn(&SpiffeId) -> bool) {
        let mut wait = RETRY;
        loop {
            let ended = self.listen(&ours, &mut wait).await.map_err(|status| status.to_string());
            let why = ended.err().unwrap_or_else(|| "the stream ended".to_owned());
            self.lock().down = Some(why);
            sleep(wait.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
            wait = (wait * 2).min(RETRY_MOST);
        }
    }

    async fn listen(&self, ours: &impl Fn(&SpiffeId) -> bool, wait: &mut Duration) -> Result<(), Status> {
        let unavailable = |what: String| Status::new(grpc::Code::UNAVAILABLE, what);
        let connect = timeout(CONNECT, UnixStream::connect(&self.socket)).await;
        let stream = connect
            .map_err(|_| unavailable("the socket doesn't answer".to_owned()))?
            .map_err(|error| unavailable(format!("{}: {error}", self.socket.display())))?;
        let mut headers = HeaderMap::new();
        // Without it the API answers nobody: a request that somebody was made to forward lacks it.
        headers.insert(HeaderName::from_static("workload.spiffe.io"), HeaderValue::from_static("true"));
        let call = Call { scheme: "http", authority: "localhost", path: FETCH_X509_SVID, headers };
        grpc::call(stream, call, &SvidRequest {}, async |mut answers| {
            while let Some(answer) = answers.next::<SvidResponse>().await? {
                self.take(&answer, ours);
                *wait = RETRY;
            }
            Ok(())
        })
        .await
    }

    /// Replaces all that was there: what isn't in an answer is withdrawn.
    fn take(&self, answer: &SvidResponse, ours: &impl Fn(&SpiffeId) -> bool) {
        let mut svids = HashMap::new();
        let mut roots = Vec::new();
        for svid in &answer.svids {
            let id = match SpiffeId::parse(&svid.spiffe_id) {
                Ok(id) if ours(&id) => id,
                Ok(_) | Err(_) => continue,
            };
            match pushed(svid) {
                Ok((pushed, bundle)) => {
                    roots.extend(bundle);
                    // The first of several is the default (SPIFFE Workload API, 5.2.1).
                    svids.entry(id).or_insert(pushed);
                }
                Err(error) => tracing::warn!(%id, error, "what the Workload API gives can't be used"),
            }
        }
        let mut table = self.lock();
        let roots = if roots.is_empty() { std::mem::take(&mut table.roots) } else { roots };
        *table = Table { svids, roots, news: true, down: None };
        drop(table);
        self.changed.notify_one();
    }

    /// Returns when something came.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    pub(super) fn refresh(&self) -> News {
        let mut table = self.lock();
        let news = std::mem::take(&mut table.news);
        News {
            roots: news.then(|| table.roots.clone()),
            reissue: news.then_some(Duration::ZERO),
            problem: table.down.clone().filter(|why| why != NOT_ASKED),
        }
    }

    pub(super) fn issue(&self, id: &SpiffeId, now: SystemTime) -> Result<Issued, IssueError> {
        let table = self.lock();
        let Some(pushed) = table.svids.get(id).cloned() else {
            return Err(match &table.down {
                Some(why) => IssueError::Unavailable(why.clone()),
                None => {
                    IssueError::Refused("the Workload API offers none for it: register it there".to_owned())
                }
            });
        };
        if let Some(why) = &table.down
            && is_half_over(&pushed.chain, now)
        {
            return Err(IssueError::Unavailable(format!("nothing newer comes: {why}")));
        }
        Ok(Issued { chain: pushed.chain, key: pushed.key, roots: Vec::new() })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_half_over(chain: &[CertificateDer<'_>], now: SystemTime) -> bool {
    let facts = chain.first().and_then(|leaf| x509::facts(leaf).ok());
    facts.is_none_or(|facts| {
        let whole = facts.not_after.duration_since(facts.not_before).unwrap_or_default();
        now >= facts.not_before + whole / 2
    })
}

fn pushed(svid: &WorkloadSvid) -> Result<(Pushed, Vec<CertificateDer<'static>>), String> {
    let chain = split(&svid.x509_svid).map_err(|error| format!("its chain isn't DER: {error}"))?;
    let roots = split(&svid.bundle).map_err(|error| format!("its bundle isn't DER: {error}"))?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(svid.x509_svid_key.as_slice()));
    let key = any_supported_type(&key).map_err(|error| format!("its key can't be used: {error}"))?;
    Ok((Pushed { chain, key }, roots))
}

/// Certificates that stand one after the other.
fn split(bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, x509_cert::der::Error> {
    let mut reader = SliceReader::new(bytes)?;
    let mut all = Vec::new();
    while !reader.is_finished() {
        all.push(reader.tlv_bytes()?.to_vec().into());
    }
    Ok(all)
}

impl fmt::Debug for Pushed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pushed").field("certificates", &self.chain.len()).finish_non_exhaustive()
    }
}
