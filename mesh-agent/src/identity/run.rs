//! The thread that has certificates requested and renewed, and puts them in force.
//!
//! Asks `renewal` what to do, `issuer` for certificates, several at a time and each within a deadline, and checks what came
//! before anybody sees it: the right name, the right key, signed under the roots. Nothing waits for this thread but who has
//! no certificate yet.

use std::collections::HashMap;
use std::io;
use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::thread::Builder;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use futures_util::StreamExt;
use futures_util::future::LocalBoxFuture;
use futures_util::stream::FuturesUnordered;
use rustls::pki_types::CertificateDer;
use rustls::sign::CertifiedKey;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Instant, sleep, timeout};

use super::authority::Life;
use super::id::SpiffeId;
use super::issuer::{IssueError, Issued, Issuer};
use super::renewal::Renewals;
use super::svid::Svid;
use super::trust::{Bundle, Trust};
use super::verify::{peer_of, signed_under};
use super::view::{Health, Report};
use super::{NoIdentity, Slot, Standing};
use crate::report;
use crate::telemetry::AgentMetrics;

/// How often an issuer looks whether anything changed, and the longest that the clock isn't looked at.
const REFRESH: Duration = Duration::from_secs(2);
/// One request takes no longer.
const DEADLINE: Duration = Duration::from_secs(10);

/// What the thread is told.
pub(super) enum Told {
    /// An identity is in use.
    Wanted(Weak<Slot>),
    /// One isn't any more.
    Gone,
}

pub(super) type Receiver = UnboundedReceiver<Told>;

/// What the thread is made of.
pub(super) struct Parts {
    /// For how long certificates are asked.
    pub lifetime: Duration,
    pub issuer: Issuer,
    pub trust: Arc<Trust>,
    pub health: Arc<ArcSwap<Health>>,
    pub metrics: AgentMetrics,
}

/// Starts it. It ends when nobody can tell it anything any more.
pub(super) fn spawn(parts: Parts, told: Receiver) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Builder::new().name("identity".to_owned()).spawn(move || {
        let run = Run::new(parts, SystemTime::now);
        tokio::task::LocalSet::new().block_on(&runtime, run.run(told));
    })?;
    Ok(())
}

type Answer = (SpiffeId, Result<Issued, IssueError>);

pub(super) struct Run<C> {
    issuer: Rc<Issuer>,
    trust: Arc<Trust>,
    lifetime: Duration,
    /// The system's, except in tests.
    clock: C,
    /// As it was last published.
    health: Health,
    published: Arc<ArcSwap<Health>>,
    metrics: AgentMetrics,
    renewals: Renewals,
    slots: HashMap<SpiffeId, Weak<Slot>>,
    asked: FuturesUnordered<LocalBoxFuture<'static, Answer>>,
    /// Roots that the issuer names.
    roots: Vec<CertificateDer<'static>>,
    /// Roots that came with certificates, and until when the last of these is valid.
    passing: Vec<(CertificateDer<'static>, SystemTime)>,
    refreshed: Option<Instant>,
}

impl<C: Fn() -> SystemTime> Run<C> {
    pub(super) fn new(parts: Parts, clock: C) -> Self {
        let Parts { lifetime, issuer, trust, health, metrics } = parts;
        let development = matches!(issuer, Issuer::Dev(_));
        Self {
            health: Health { issuer: issuer.to_string(), development, ..Health::default() },
            published: health,
            metrics,
            issuer: Rc::new(issuer),
            trust,
            lifetime,
            clock,
            renewals: Renewals::default(),
            slots: HashMap::new(),
            asked: FuturesUnordered::new(),
            roots: Vec::new(),
            passing: Vec::new(),
            refreshed: None,
        }
    }

    pub(super) async fn run(mut self, mut told: Receiver) {
        let (issuer, trust) = (self.issuer.clone(), self.trust.clone());
        let follow = async { issuer.follow(&trust).await };
        tokio::pin!(follow);
        loop {
            if self.refreshed.is_none_or(|at| at.elapsed() >= REFRESH) {
                self.refresh();
            }
            let now = (self.clock)();
            self.begin(now);
            self.warn(now);
            self.publish();
            let idle = self.renewals.idle_for(now).map_or(REFRESH, |idle| idle.min(REFRESH));
            tokio::select! {
                next = told.recv() => match next {
                    Some(next) => self.hear(next),
                    None => return,
                },
                Some((id, answer)) = self.asked.next(), if !self.asked.is_empty() => self.settle(&id, answer),
                () = issuer.changed() => self.refresh(),
                () = &mut follow => {}
                () = sleep(idle) => {}
            }
        }
    }

    fn hear(&mut self, told: Told) {
        match told {
            Told::Wanted(slot) => {
                let Some(id) = slot.upgrade().map(|slot| slot.id.clone()) else { return };
                self.slots.insert(id.clone(), slot);
                self.renewals.want(id, (self.clock)());
            }
            Told::Gone => {
                let metrics = &self.metrics;
                self.slots.retain(|id, slot| {
                    let used = slot.strong_count() > 0;
                    if !used {
                        for life in [&metrics.certificate_issued, &metrics.certificate_expiry] {
                            // There is none if nothing was ever issued.
                            let _ = life.remove_label_values(&[id.as_str()]);
                        }
                    }
                    used
                });
                let slots = &self.slots;
                self.renewals.retain(|id| slots.contains_key(id));
            }
        }
    }

    /// What the issuer says of itself.
    fn refresh(&mut self) {
        self.refreshed = Some(Instant::now());
        let now = (self.clock)();
        let news = self.issuer.refresh(now);
        if news.problem != self.health.problem {
            match &news.problem {
                Some(problem) => {
                    tracing::warn!(issuer = %self.issuer, problem, "the issuer can't be used as it is")
                }
                None => tracing::info!(issuer = %self.issuer, "the issuer can be used again"),
            }
            self.health.problem = news.problem;
        }
        if let Some(roots) = news.roots {
            self.roots = roots;
        }
        self.passing.retain(|(_, until)| *until > now);
        self.publish_roots();
        if let Some(within) = news.reissue {
            tracing::info!(issuer = %self.issuer, "other certificates are to be had: all are requested anew");
            self.renewals.hurry(now, within, fastrand::f64);
        }
    }

    /// What people see of the issuer.
    fn publish(&self) {
        let failing = self.health.problem.is_some() || self.health.failure.is_some();
        self.metrics.certificate_issuer_failing.set(i64::from(failing));
        self.published.store(Arc::new(self.health.clone()));
    }

    /// What people see of an identity.
    fn report(&self, id: &SpiffeId, slot: &Slot, now: SystemTime, error: Option<String>) {
        let Some(stand) = self.renewals.stand(id, now) else { return };
        slot.report.store(Arc::new(Report { next: stand.next, late: stand.late, error }));
    }

    fn publish_roots(&self) {
        let all: Vec<_> =
            self.roots.iter().chain(self.passing.iter().map(|(root, _)| root)).cloned().collect();
        match self.trust.set_roots(&all) {
            Ok(true) => tracing::info!(roots = all.len(), "the trust bundle changed"),
            Ok(false) => {}
            Err(error) => {
                tracing::error!(error = %report::chain(&error), "the trust bundle can't be used, the former stays");
            }
        }
        let roots = self.trust.bundle().certificates.len();
        self.metrics.certificate_roots.set(i64::try_from(roots).unwrap_or(i64::MAX));
    }

    fn begin(&mut self, now: SystemTime) {
        for id in self.renewals.start(now) {
            let (issuer, lifetime) = (self.issuer.clone(), self.lifetime);
            self.asked.push(Box::pin(async move {
                let late = |_| Err(IssueError::Unavailable(format!("no answer within {DEADLINE:?}")));
                let answer = timeout(DEADLINE, issuer.issue(&id, lifetime, now)).await.unwrap_or_else(late);
                (id, answer)
            }));
        }
    }

    fn settle(&mut self, id: &SpiffeId, answer: Result<Issued, IssueError>) {
        let Some(slot) = self.slots.get(id).and_then(Weak::upgrade) else { return };
        let now = (self.clock)();
        match answer.and_then(|issued| self.check(id, issued, now)) {
            Ok(svid) => {
                let life = Life { not_before: svid.facts.not_before, not_after: svid.facts.not_after };
                self.renewals.issued(id, life, now, fastrand::f64());
                self.metrics.certificate_requests.with_label_values(&["issued"]).inc();
                let metrics = &self.metrics;
                for (gauge, at) in [
                    (&metrics.certificate_issued, life.not_before),
                    (&metrics.certificate_expiry, life.not_after),
                ] {
                    let at = at.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
                    gauge.with_label_values(&[id.as_str()]).set(at);
                }
                (self.health.last_issued, self.health.failure) = (Some(now), None);
                tracing::debug!(%id, serial = svid.facts.serial, "a certificate was issued");
                slot.stand(Standing::With(Box::new(svid)));
                self.report(id, &slot, now, None);
            }
            Err(error) => {
                let wait = self.renewals.failed(id, now, fastrand::f64());
                self.metrics.certificate_requests.with_label_values(&[error.label()]).inc();
                self.health.failure = Some((now, error.to_string()));
                let known = slot.report.load().error.as_deref() == Some(error.to_string().as_str());
                self.report(id, &slot, now, Some(error.to_string()));
                if let Standing::Without(_) = **slot.standing.load() {
                    let refused = matches!(error, IssueError::Refused(_));
                    slot.stand(Standing::Without(if refused {
                        NoIdentity::Refused
                    } else {
                        NoIdentity::NotYetIssued
                    }));
                }
                match known {
                    // Said once; `get certs` and the metrics have it as long as it is so.
                    true => tracing::debug!(%id, %error, again_in = ?wait, "still no certificate was issued"),
                    false => {
                        tracing::warn!(%id, issuer = %self.issuer, %error, again_in = ?wait, "no certificate was issued");
                    }
                }
            }
        }
    }

    /// What came is for this identity, belongs to its key, and would be believed. Roots that came with it count from here on.
    fn check(&mut self, id: &SpiffeId, issued: Issued, now: SystemTime) -> Result<Svid, IssueError> {
        let bad = |what: String| IssueError::Invalid(what);
        let of = peer_of(&issued.chain).map_err(|error| bad(report::chain(&error).to_string()))?;
        if of != *id {
            return Err(bad(format!("the certificate is for {of}")));
        }
        let pair = CertifiedKey::new(issued.chain.clone(), issued.key.clone());
        if let Err(error) = pair.keys_match() {
            return Err(bad(format!("the certificate is for another key ({error})")));
        }
        let svid = Svid::new(issued.chain, issued.key, self.trust.clone());
        let svid = svid.map_err(|error| bad(report::chain(&error).to_string()))?;
        let passing = self.passing.iter().map(|(root, _)| root);
        let roots: Vec<_> = self.roots.iter().chain(passing).chain(&issued.roots).cloned().collect();
        let bundle = Bundle::new(&roots).map_err(|error| bad(report::chain(&error).to_string()))?;
        signed_under(&bundle, &svid.chain, now).map_err(|error| {
            bad(format!("the certificate isn't trusted under the roots that we have: {error}"))
        })?;
        for root in issued.roots {
            match self.passing.iter_mut().find(|(known, _)| *known == root) {
                Some((_, until)) => *until = (*until).max(svid.facts.not_after),
                None => self.passing.push((root, svid.facts.not_after)),
            }
        }
        self.publish_roots();
        Ok(svid)
    }

    fn warn(&mut self, now: SystemTime) {
        for id in self.renewals.newly_late(now) {
            let Some(slot) = self.slots.get(&id).and_then(Weak::upgrade) else { continue };
            let error = slot.report.load().error.clone();
            self.report(&id, &slot, now, error);
            let until = match &**slot.standing.load() {
                Standing::With(svid) => svid.facts.not_after.duration_since(now).ok(),
                Standing::Without(_) => None,
            };
            tracing::warn!(%id, issuer = %self.issuer, left = ?until, "the certificate can't be renewed; when it expires, connections are refused");
        }
    }
}
