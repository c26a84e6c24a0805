//! Status conditions of routes and policies, written to the API server by the controller that leads.
//!
//! What is said is what `analyze`, `get routes` and `get policies` say, from the same snapshot (`conditions`, pure). Each object
//! is read, and replaced under its resourceVersion only where it says something else; entries of other controllers stay as
//! they are (`merge`, pure). Nothing here is on a certificate's or connection's way.

mod conditions;
mod merge;

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use ::kube::api::{ApiResource, DynamicObject, PostParams};
use ::kube::{Api, Client, Error, discovery};
use k8s_openapi::jiff::Timestamp;
use tokio::time::{MissedTickBehavior, interval, timeout};

use self::conditions::Wanted;
use super::lease::Leadership;
use super::metrics::Metrics;
use crate::kube::{DEADLINE, Failure};
use crate::model::Warning;
use crate::objects::{Kind, ObjectKey};
use crate::report;
use crate::source::{Coverage, Published};

/// Who we are in other controllers' eyes.
pub const CONTROLLER: &str = "mesh-agent.dev/controller";
/// Our condition of Istio's objects. Conditions of a status are one list for all who write them, so it has our name.
pub const ACCEPTED: &str = "mesh-agent.dev/Accepted";
/// Changes that come together are written together.
const SETTLE: Duration = Duration::from_millis(200);
/// How often everything is looked at again: somebody may have changed what we wrote.
const RESYNC: Duration = Duration::from_secs(300);
/// How often warnings are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// What couldn't be written is tried again after.
const RETRY: Duration = Duration::from_secs(5);
/// Of one object, when others write it at the same time.
const TRIES: usize = 5;

/// Writes for as long as it is polled.
pub struct Writer {
    client: Client,
    published: Published,
    leadership: Leadership,
    metrics: Rc<Metrics>,
    /// Known to be there as wanted.
    written: HashMap<ObjectKey, Wanted>,
    resources: HashMap<Kind, ApiResource>,
    /// What was logged last about an object.
    said: HashMap<ObjectKey, String>,
}

/// What became of an object's status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Written,
    Unchanged,
    /// The object is gone.
    Gone,
    /// Its CRD has no status that could be written.
    NoStatus,
    /// Somebody else leads.
    NotLeading,
}

/// Why a status wasn't written.
#[derive(Debug, thiserror::Error)]
enum WriteError {
    #[error("the API server serves no {0} (is its CRD installed?)")]
    NoResource(&'static str),
    #[error("others write it at the same time")]
    Conflict,
    #[error("{}", Failure::of(.0).describe())]
    Server(#[from] Error),
    #[error("no answer in time")]
    Timeout,
}

impl Writer {
    /// Nothing is known of what is there.
    pub fn new(client: Client, published: Published, leadership: Leadership, metrics: Rc<Metrics>) -> Self {
        let (written, resources, said) = (HashMap::new(), HashMap::new(), HashMap::new());
        Self { client, published, leadership, metrics, written, resources, said }
    }

    /// Follows the configuration, for ever.
    pub async fn run(mut self) {
        let mut changed = self.published.changed.subscribe();
        let mut resync = interval(RESYNC);
        resync.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut led = false;
        loop {
            let leads = self.leadership.leads();
            if leads && !led {
                // What the one before wrote isn't known.
                self.written.clear();
            }
            led = leads;
            let whole = self.published.coverage.get() == Coverage::Whole;
            // Before they are used: what changes meanwhile is seen below.
            let warnings = self.published.warnings.load_full();
            let complete = !leads || !whole || self.write_all().await;
            let pause = if complete { Duration::MAX } else { RETRY };
            tokio::select! {
                result = changed.changed() => match result {
                    Ok(()) => tokio::time::sleep(SETTLE).await,
                    Err(_) => return,
                },
                () = self.leadership.changed() => {}
                () = others(&self.published, &warnings) => {}
                _ = resync.tick() => self.written.clear(),
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// True if everything is as it should be.
    async fn write_all(&mut self) -> bool {
        let snapshot = self.published.snapshot.load_full();
        let wanted = conditions::all(&snapshot, &self.published.warnings.load());
        self.written.retain(|key, _| wanted.contains_key(key));
        self.said.retain(|key, _| wanted.contains_key(key));
        let mut complete = true;
        for (key, wanted) in differing(wanted, &self.written) {
            match self.write(&key, &wanted).await {
                Ok(Outcome::NotLeading) => return true,
                Ok(outcome) => {
                    self.metrics.status_write(outcome.label());
                    self.said.remove(&key);
                    self.written.insert(key, wanted);
                }
                Err(error) => {
                    complete = false;
                    self.metrics.status_write(if matches!(error, WriteError::Conflict) {
                        "conflict"
                    } else {
                        "failed"
                    });
                    let why = report::chain(&error).to_string();
                    if self.said.get(&key) != Some(&why) {
                        tracing::warn!(object = %key, why, "its status can't be written, trying again");
                        self.said.insert(key, why);
                    }
                }
            }
        }
        complete
    }

    async fn write(&mut self, key: &ObjectKey, wanted: &Wanted) -> Result<Outcome, WriteError> {
        let Some(resource) = self.resource(key.kind).await? else { return Ok(Outcome::NoStatus) };
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.client.clone(), &key.name.namespace, &resource);
        for _ in 0..TRIES {
            if !self.leadership.leads() {
                return Ok(Outcome::NotLeading);
            }
            let mut object = match bounded(api.get_status(&key.name.name)).await {
                Err(WriteError::Server(Error::Api(status))) if status.code == 404 => {
                    return Ok(Outcome::Gone);
                }
                object => object?,
            };
            let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
            let Some(status) = merge::status(key, &object, wanted, &now) else {
                return Ok(Outcome::Unchanged);
            };
            object.data["status"] = status;
            match bounded(api.replace_status(&key.name.name, &PostParams::default(), &object)).await {
                Ok(_) => return Ok(Outcome::Written),
                Err(WriteError::Server(Error::Api(status))) if status.code == 409 => {
                    tracing::debug!(object = %key, "its status was written by somebody else meanwhile");
                }
                Err(WriteError::Server(Error::Api(status))) if status.code == 404 => {
                    return Ok(Outcome::Gone);
                }
                Err(error) => return Err(error),
            }
        }
        Err(WriteError::Conflict)
    }

    /// The version that the API server serves of a kind; none where that has no status of its own.
    async fn resource(&mut self, kind: Kind) -> Result<Option<ApiResource>, WriteError> {
        if let Some(resource) = self.resources.get(&kind) {
            return Ok(Some(resource.clone()));
        }
        let group = conditions::group(kind);
        let found = match bounded(discovery::group(&self.client, group)).await {
            Err(WriteError::Server(Error::Discovery(_))) => None,
            group => {
                group?.resources_by_stability().into_iter().find(|(resource, _)| resource.kind == kind.name())
            }
        };
        let (resource, capabilities) = found.ok_or(WriteError::NoResource(kind.name()))?;
        if !capabilities.subresources.iter().any(|(part, _)| part.plural == "status") {
            return Ok(None);
        }
        self.resources.insert(kind, resource.clone());
        Ok(Some(resource))
    }
}

/// Returns once there are other warnings: a version that is refused changes nothing else.
async fn others(published: &Published, warnings: &Arc<Vec<Warning>>) {
    let mut look = interval(LOOK);
    loop {
        look.tick().await;
        if !Arc::ptr_eq(&published.warnings.load_full(), warnings) {
            return;
        }
    }
}

/// Those whose status isn't known to be as wanted.
fn differing(
    wanted: BTreeMap<ObjectKey, Wanted>,
    written: &HashMap<ObjectKey, Wanted>,
) -> Vec<(ObjectKey, Wanted)> {
    wanted.into_iter().filter(|(key, wanted)| written.get(key) != Some(wanted)).collect()
}

async fn bounded<T>(ask: impl Future<Output = Result<T, Error>>) -> Result<T, WriteError> {
    timeout(DEADLINE, ask).await.map_err(|_| WriteError::Timeout)?.map_err(WriteError::from)
}

impl Outcome {
    /// For a metric's label.
    const fn label(self) -> &'static str {
        match self {
            Self::Written => "written",
            Self::Unchanged => "unchanged",
            Self::Gone => "gone",
            Self::NoStatus => "no_status",
            Self::NotLeading => "not_leading",
        }
    }
}

#[cfg(test)]
mod tests;
