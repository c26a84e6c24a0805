//! Which of the CRDs' resources the API server serves, and in which version: asked for as long as one of them is missing.
//!
//! One question for all groups, one more for each version that may have what is wanted. What is found is shared with the
//! watches; one that gets a 404 has it looked at again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use ::kube::Client;
use http::Request;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep};

use super::ask;
use super::follow::{Ended, Out};
use super::pace::{Pace, jitter};
use super::resource::Feed;
use crate::kube::Failure;

/// Between half of it and all of it what is missing is looked for again.
const AGAIN: Duration = Duration::from_secs(5);
/// Nobody's 404 makes for more questions than this.
const SPACING: Duration = Duration::from_secs(1);

/// What is served, by the watches' places.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Served {
    /// How often it was looked at.
    pub round: u64,
    /// None: not known yet.
    pub found: Vec<Option<Found>>,
}

/// What became of looking for a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// This is the newest version that is served and read.
    Version(&'static str),
    /// There is none, and wasn't since then.
    Missing(Instant),
}

/// The watches' side.
#[derive(Clone, Debug)]
pub struct Look {
    served: watch::Receiver<Served>,
    again: Arc<Notify>,
}

impl Look {
    /// What is known of watch `at`, and how many looks ago.
    pub fn found(&mut self, at: usize) -> (u64, Option<Found>) {
        let served = self.served.borrow_and_update();
        (served.round, served.found.get(at).copied().flatten())
    }

    /// Resolves when there was another look.
    pub async fn changed(&mut self) -> Result<(), Ended> {
        self.served.changed().await.map_err(|_| Ended)
    }

    /// Has it looked at again.
    pub fn again(&self) {
        self.again.notify_one();
    }
}

/// The task.
pub struct Discovery {
    client: Client,
    feeds: Arc<[Feed]>,
    served: watch::Sender<Served>,
    again: Arc<Notify>,
    out: Out,
}

#[derive(Debug, Deserialize)]
struct Groups {
    groups: Vec<Group>,
}

#[derive(Debug, Deserialize)]
struct Group {
    name: String,
    versions: Vec<Version>,
}

#[derive(Debug, Deserialize)]
struct Version {
    version: String,
}

#[derive(Debug, Deserialize)]
struct Resources {
    resources: Vec<Name>,
}

#[derive(Debug, Deserialize)]
struct Name {
    name: String,
}

/// Names of resources by group and version.
type Catalogue = BTreeMap<(&'static str, &'static str), BTreeSet<String>>;

impl Discovery {
    /// And what watches have of it.
    pub fn new(client: Client, feeds: Arc<[Feed]>, out: Out) -> (Self, Look) {
        let (served, receiver) = watch::channel(Served { round: 0, found: vec![None; feeds.len()] });
        let again = Arc::new(Notify::new());
        let look = Look { served: receiver, again: again.clone() };
        (Self { client, feeds, served, again, out }, look)
    }

    /// Looks until nobody wants to know any more.
    pub async fn run(self) {
        // There is nobody left to be told.
        let _ = self.look_on().await;
    }

    async fn look_on(&self) -> Result<(), Ended> {
        let mut pace = Pace::default();
        loop {
            match self.look().await {
                Ok(catalogue) => {
                    pace.reset();
                    self.out.well().await?;
                    self.publish(&catalogue);
                }
                Err(failure) => {
                    self.out.failed(failure).await?;
                    sleep(pace.next()).await;
                    continue;
                }
            }
            sleep(SPACING).await;
            let missing =
                self.served.borrow().found.iter().any(|found| matches!(found, Some(Found::Missing(_))));
            tokio::select! {
                () = sleep(jitter(AGAIN)), if missing => {}
                () = self.again.notified() => {}
            }
        }
    }

    /// What is served of all that may be wanted.
    async fn look(&self) -> Result<Catalogue, Failure> {
        self.is_ready().await?;
        let groups: Groups = self.get("/apis").await?;
        let mut catalogue = Catalogue::new();
        for (group, version) in wanted(&self.feeds) {
            let known = groups.groups.iter().find(|known| known.name == group);
            if known.is_some_and(|known| known.versions.iter().any(|served| served.version == version)) {
                match self.get::<Resources>(&format!("/apis/{group}/{version}")).await {
                    Ok(found) => {
                        let names = found.resources.into_iter().map(|resource| resource.name).collect();
                        catalogue.insert((group, version), names);
                    }
                    // It has gone in between.
                    Err(Failure::NotFound) => {}
                    Err(failure) => return Err(failure),
                }
            }
        }
        Ok(catalogue)
    }

    /// An API server that starts lists groups before it knows its CRDs: nothing that it leaves out then is missing. One that
    /// doesn't say whether it is ready is believed to be.
    async fn is_ready(&self) -> Result<(), Failure> {
        let request = Request::get("/readyz").body(Vec::new()).map_err(|_| Failure::Broken)?;
        match ask::whole(&self.client, request).await {
            Ok(_) | Err(Failure::Unauthorized | Failure::Forbidden | Failure::NotFound) => Ok(()),
            Err(failure) => Err(failure),
        }
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        let request = Request::get(path).body(Vec::new()).map_err(|_| Failure::Broken)?;
        let body = ask::whole(&self.client, request).await?;
        serde_json::from_slice(&body).map_err(|error| {
            tracing::debug!(%error, path, "the API server's answer can't be understood");
            Failure::Broken
        })
    }

    fn publish(&self, catalogue: &Catalogue) {
        let now = Instant::now();
        self.served.send_modify(|served| {
            served.round += 1;
            for (feed, found) in self.feeds.iter().zip(&mut served.found) {
                *found = Some(match (newest(feed, catalogue), *found) {
                    (Some(version), _) => Found::Version(version),
                    (None, Some(Found::Missing(since))) => Found::Missing(since),
                    (None, _) => Found::Missing(now),
                });
            }
        });
    }
}

/// The groups and versions that may have something.
fn wanted(feeds: &[Feed]) -> BTreeSet<(&'static str, &'static str)> {
    let custom = feeds.iter().map(|feed| feed.resource).filter(|resource| !resource.built_in);
    custom
        .flat_map(|resource| resource.versions.iter().map(move |version| (resource.group, *version)))
        .collect()
}

/// What is built in needs no looking for.
fn newest(feed: &Feed, catalogue: &Catalogue) -> Option<&'static str> {
    let resource = feed.resource;
    let serves = |version: &str| {
        catalogue.get(&(resource.group, version)).is_some_and(|names| names.contains(resource.plural))
    };
    resource.versions.iter().find(|version| resource.built_in || serves(version)).copied()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::source::kube::resource::feeds;

    #[test]
    fn the_newest_version_that_is_served_is_taken() {
        fn check(served: &[(&'static str, &[&str])], plural: &str, want: Option<&str>) {
            let catalogue: Catalogue = served
                .iter()
                .map(|(version, names)| {
                    (
                        ("gateway.networking.k8s.io", *version),
                        names.iter().map(|name| (*name).to_owned()).collect(),
                    )
                })
                .collect();
            let feed = feeds("").into_iter().find(|feed| feed.resource.plural == plural).unwrap();
            assert_eq!(newest(&feed, &catalogue), want, "{plural} of {served:?}");
        }
        let both: &[(&str, &[&str])] =
            &[("v1beta1", &["httproutes", "httproutes/status"]), ("v1", &["httproutes"])];
        check(both, "httproutes", Some("v1"));
        check(&both[..1], "httproutes", Some("v1beta1"));
        check(&[("v1", &["httproutes"]), ("v1alpha2", &["tcproutes"])], "tcproutes", Some("v1alpha2"));
        check(&[("v1", &["httproutes"])], "tcproutes", None);
        check(&[], "httproutes", None);
        check(&[], "services", Some("v1"));
    }

    #[test]
    fn only_groups_of_crds_are_looked_for() {
        let wanted = wanted(&feeds(""));
        assert!(wanted.contains(&("gateway.networking.k8s.io", "v1alpha2")));
        assert!(!wanted.iter().any(|(group, _)| group.is_empty() || *group == "discovery.k8s.io"));
    }
}
