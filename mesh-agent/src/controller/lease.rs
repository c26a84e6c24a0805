//! Which of several controllers writes: the one that holds a Lease (coordination.k8s.io).
//!
//! As client-go's leader election does it: whoever wants it watches the holder's renewals by its own clock, so that no two
//! clocks have to agree, and takes it when they fail to come. A leader that can't renew stops writing before another may
//! begin. Signing needs no leader.

use std::time::{Duration, Instant};

use ::kube::api::{ObjectMeta, PostParams};
use ::kube::{Api, Client, Error};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::report;

/// A holder that hasn't renewed for so long has lost it.
const DURATION: Duration = Duration::from_secs(15);
/// A leader that couldn't renew for so long writes no more; the rest is for clocks that run apart.
const RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// Between two tries.
const RETRY: Duration = Duration::from_secs(2);

/// Whether this process may write, and until when.
#[derive(Clone, Debug)]
pub struct Leadership(watch::Receiver<Option<Instant>>);

impl Leadership {
    /// Asked before every write.
    pub fn leads(&self) -> bool {
        self.0.borrow().is_some_and(|until| Instant::now() < until)
    }

    /// Returns when it may have begun or ended. Never, once nobody tries any more.
    pub async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// One that would lead.
pub struct Candidate {
    leases: Api<Lease>,
    name: String,
    identity: String,
    seen: Option<Seen>,
    until: watch::Sender<Option<Instant>>,
}

/// A holder's latest renewal, and when it was first seen.
#[derive(Clone, Debug, PartialEq)]
struct Seen {
    spec: LeaseSpec,
    at: Instant,
}

impl Candidate {
    /// For the Lease `name` in `namespace`; `identity` is nobody else's.
    pub fn new(client: &Client, namespace: &str, name: &str, identity: String) -> (Self, Leadership) {
        let (until, leadership) = watch::channel(None);
        let leases = Api::namespaced(client.clone(), namespace);
        (Self { leases, name: name.to_owned(), identity, seen: None, until }, Leadership(leadership))
    }

    /// Tries for ever.
    pub async fn run(&mut self) {
        let mut said = String::new();
        loop {
            let begun = Instant::now();
            let tried = timeout(RENEW_DEADLINE / 2, self.attempt(begun)).await;
            let led = self.until.borrow().is_some();
            match tried {
                Ok(Ok(true)) => {
                    if !led {
                        tracing::info!(
                            identity = self.identity,
                            "this controller leads: it writes status and trust bundles"
                        );
                    }
                    said.clear();
                    // From before it was asked: by then nobody else may lead.
                    self.until.send_if_modified(|until| {
                        // A renewal is no news.
                        until.replace(begun + RENEW_DEADLINE).is_none()
                    });
                }
                Ok(Ok(false)) => {
                    said.clear();
                    self.step_down();
                }
                failed => {
                    let why = match failed {
                        Ok(Err(error)) => report::chain(&error).to_string(),
                        _ => "no answer in time".to_owned(),
                    };
                    if said != why {
                        tracing::warn!(
                            why,
                            "the Lease that says who leads can't be read or written, trying again"
                        );
                        said = why;
                    }
                    if self.until.borrow().is_some_and(|until| until <= Instant::now()) {
                        self.step_down();
                    }
                }
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    fn step_down(&self) {
        if self.until.send_replace(None).is_some() {
            tracing::info!(identity = self.identity, "this controller leads no longer");
        }
    }

    /// True if this one leads now.
    async fn attempt(&mut self, now: Instant) -> Result<bool, Error> {
        let Some(mut lease) = self.leases.get_opt(&self.name).await? else {
            let lease = Lease {
                metadata: ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() },
                spec: Some(taken(None, &self.identity, Timestamp::now())),
            };
            return won(self.leases.create(&PostParams::default(), &lease).await);
        };
        let spec = lease.spec.take().unwrap_or_default();
        if self.seen.as_ref().is_none_or(|seen| seen.spec != spec) {
            self.seen = Some(Seen { spec: spec.clone(), at: now });
        }
        let since = self.seen.as_ref().map_or(Duration::ZERO, |seen| now.duration_since(seen.at));
        if !may_take(&spec, &self.identity, since) {
            return Ok(false);
        }
        lease.spec = Some(taken(Some(&spec), &self.identity, Timestamp::now()));
        // Under the resourceVersion that was read: of two that try at once one is refused.
        won(self.leases.replace(&self.name, &PostParams::default(), &lease).await)
    }

    /// Lets another one lead at once.
    pub async fn release(&mut self) {
        if self.until.send_replace(None).is_none() {
            return;
        }
        let let_go = async {
            let mut lease = self.leases.get(&self.name).await?;
            let spec = lease.spec.get_or_insert_default();
            if spec.holder_identity.as_deref() == Some(&self.identity) {
                spec.holder_identity = Some(String::new());
                spec.lease_duration_seconds = Some(1);
                self.leases.replace(&self.name, &PostParams::default(), &lease).await?;
            }
            Ok::<_, Error>(())
        };
        if let Ok(Err(error)) = timeout(RETRY, let_go).await {
            tracing::debug!(error = %report::chain(&error), "the Lease can't be let go; it runs out");
        }
    }
}

/// Somebody else was first, or it can't be told.
fn won<T>(written: Result<T, Error>) -> Result<bool, Error> {
    match written {
        Ok(_) => Ok(true),
        Err(Error::Api(status)) if status.code == 409 => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether it is this one's, nobody's, or of somebody who hasn't renewed it for as long as it lasts.
fn may_take(spec: &LeaseSpec, identity: &str, unchanged: Duration) -> bool {
    let holder = spec.holder_identity.as_deref().unwrap_or_default();
    let lasts = spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
    holder.is_empty() || holder == identity || unchanged > lasts.map_or(DURATION, Duration::from_secs)
}

fn taken(before: Option<&LeaseSpec>, identity: &str, now: Timestamp) -> LeaseSpec {
    let own = before.filter(|spec| spec.holder_identity.as_deref() == Some(identity));
    let transitions = before.and_then(|spec| spec.lease_transitions).unwrap_or(0);
    LeaseSpec {
        holder_identity: Some(identity.to_owned()),
        lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
        acquire_time: own.and_then(|spec| spec.acquire_time.clone()).or(Some(MicroTime(now))),
        renew_time: Some(MicroTime(now)),
        lease_transitions: Some(if own.is_some() || before.is_none() {
            transitions
        } else {
            transitions + 1
        }),
        ..LeaseSpec::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_taken_from_nobody_from_oneself_and_from_who_is_gone() {
        let held = |by: &str| LeaseSpec {
            holder_identity: Some(by.into()),
            ..taken(None, by, Timestamp::UNIX_EPOCH)
        };
        let (short, long) = (Duration::from_secs(14), Duration::from_secs(16));
        assert!(may_take(&LeaseSpec::default(), "a", Duration::ZERO));
        assert!(may_take(&held(""), "a", Duration::ZERO));
        assert!(may_take(&held("a"), "a", Duration::ZERO));
        assert!(!may_take(&held("b"), "a", Duration::ZERO));
        assert!(!may_take(&held("b"), "a", short));
        assert!(may_take(&held("b"), "a", long));
        let soon = LeaseSpec { lease_duration_seconds: Some(1), ..held("b") };
        assert!(may_take(&soon, "a", Duration::from_secs(2)));
        let odd = LeaseSpec { lease_duration_seconds: Some(-1), ..held("b") };
        assert!(!may_take(&odd, "a", short));
    }

    #[test]
    fn a_leader_stops_writing_before_another_may_begin() {
        assert!(RENEW_DEADLINE + RETRY < DURATION);
    }

    #[test]
    fn transitions_count_changes_of_the_holder() {
        let first = taken(None, "a", Timestamp::UNIX_EPOCH);
        assert_eq!(first.lease_transitions, Some(0));
        let again = taken(Some(&first), "a", Timestamp::now());
        assert_eq!((again.lease_transitions, &again.acquire_time), (Some(0), &first.acquire_time));
        let other = taken(Some(&again), "b", Timestamp::now());
        assert_eq!(other.lease_transitions, Some(1));
        assert_ne!(other.acquire_time, again.acquire_time);
    }
}
