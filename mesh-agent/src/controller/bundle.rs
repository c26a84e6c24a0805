//! The trust bundle as a ConfigMap in every namespace with captured pods, and in the controller's own, for the agents.
//!
//! Written by the controller that leads, where it is missing or says something else. Others may read it, to trust the mesh's
//! certificates; it has no secret. One in a namespace that has no captured pod any more is kept up, not taken away.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;
use std::time::Duration;

use ::kube::api::{ObjectMeta, PostParams};
use ::kube::runtime::watcher::{self, Event};
use ::kube::{Api, Client, Error};
use futures_util::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use tokio::sync::watch;
use tokio::time::timeout;

use super::lease::Leadership;
use super::metrics::Metrics;
use crate::kube::{DEADLINE, Failure};
use crate::model::Snapshot;
use crate::source::Published;

/// Its name in every namespace.
pub const NAME: &str = "mesh-agent-root";
/// Its key; as Istio names it.
pub const KEY: &str = "root-cert.pem";
/// After something changed, for what changes with it; after a failure.
const PAUSE: Duration = Duration::from_millis(500);
/// Between two connections to watch by.
const AGAIN: Duration = Duration::from_secs(3);

/// Publishes for as long as it is polled.
pub struct Publisher {
    client: Client,
    own: String,
    published: Published,
    leadership: Leadership,
    metrics: Rc<Metrics>,
    /// Roots as PEM.
    bundle: watch::Receiver<Rc<str>>,
    /// What is there, by namespace; none until it was listed.
    there: Option<HashMap<String, ConfigMap>>,
    /// While it is listed.
    listing: HashMap<String, ConfigMap>,
    said: HashMap<String, String>,
}

impl Publisher {
    /// For the controller in the namespace `own`.
    pub fn new(
        client: Client,
        own: String,
        published: Published,
        leadership: Leadership,
        metrics: Rc<Metrics>,
        bundle: watch::Receiver<Rc<str>>,
    ) -> Self {
        let (there, listing, said) = (None, HashMap::new(), HashMap::new());
        Self { client, own, published, leadership, metrics, bundle, there, listing, said }
    }

    /// Follows namespaces, roots and what others do to the ConfigMaps, for ever.
    pub async fn run(mut self) {
        let mut changed = self.published.changed.subscribe();
        let all: Api<ConfigMap> = Api::all(self.client.clone());
        let config = watcher::Config::default().fields(&format!("metadata.name={NAME}"));
        let mut events = Box::pin(watcher::watcher(all, config));
        let mut complete = true;
        loop {
            let again = async {
                match complete {
                    true => std::future::pending().await,
                    false => tokio::time::sleep(AGAIN).await,
                }
            };
            tokio::select! {
                event = events.next() => match event {
                    Some(Ok(event)) => self.note(event),
                    Some(Err(error)) => {
                        tracing::debug!(%error, "trust bundles can't be watched, trying again");
                        tokio::time::sleep(AGAIN).await;
                        continue;
                    }
                    None => return,
                },
                result = changed.changed() => match result {
                    Ok(()) => tokio::time::sleep(PAUSE).await,
                    Err(_) => return,
                },
                _ = self.bundle.changed() => {}
                () = self.leadership.changed() => {}
                () = again => {}
            }
            complete = self.write_all().await;
        }
    }

    fn note(&mut self, event: Event<ConfigMap>) {
        let namespace = |map: &ConfigMap| map.metadata.namespace.clone().unwrap_or_default();
        match event {
            Event::Init => self.listing.clear(),
            Event::InitApply(map) => drop(self.listing.insert(namespace(&map), map)),
            Event::InitDone => self.there = Some(std::mem::take(&mut self.listing)),
            Event::Apply(map) => drop(self.there.get_or_insert_default().insert(namespace(&map), map)),
            Event::Delete(map) => drop(self.there.get_or_insert_default().remove(&namespace(&map))),
        }
    }

    /// True unless something has to be tried again.
    async fn write_all(&mut self) -> bool {
        let Some(there) = &self.there else { return true };
        let bundle = self.bundle.borrow().clone();
        let wanted = wanted(&self.published.snapshot.load(), &self.own, there.keys());
        self.said.retain(|namespace, _| wanted.contains(namespace));
        let missing: Vec<(String, Option<ConfigMap>)> = wanted
            .into_iter()
            .map(|namespace| (there.get(&namespace).cloned(), namespace))
            .filter(|(map, _)| !map.as_ref().is_some_and(|map| says(map, &bundle)))
            .map(|(map, namespace)| (namespace, map))
            .collect();
        let mut complete = true;
        for (namespace, map) in missing {
            if !self.leadership.leads() {
                return true;
            }
            match self.write(&namespace, map, &bundle).await {
                Ok(map) => {
                    self.metrics.bundle_write("written");
                    self.said.remove(&namespace);
                    self.there.get_or_insert_default().insert(namespace, map);
                }
                // Its newest version comes by the watch.
                Err(Error::Api(status)) if status.code == 409 => self.metrics.bundle_write("conflict"),
                Err(error) => {
                    complete = false;
                    self.metrics.bundle_write("failed");
                    let why = Failure::of(&error).describe().to_owned();
                    if self.said.get(&namespace) != Some(&why) {
                        tracing::warn!(
                            namespace,
                            why,
                            "the trust bundle can't be written there, trying again"
                        );
                        self.said.insert(namespace, why);
                    }
                }
            }
        }
        complete
    }

    async fn write(&self, namespace: &str, map: Option<ConfigMap>, bundle: &str) -> Result<ConfigMap, Error> {
        let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), namespace);
        let data = Some(BTreeMap::from([(KEY.to_owned(), bundle.to_owned())]));
        let write = async {
            match map {
                Some(map) => {
                    let map = ConfigMap { data, binary_data: None, ..map };
                    maps.replace(NAME, &PostParams::default(), &map).await
                }
                None => {
                    maps.create(
                        &PostParams::default(),
                        &ConfigMap { metadata: metadata(), data, ..ConfigMap::default() },
                    )
                    .await
                }
            }
        };
        timeout(DEADLINE, write)
            .await
            .unwrap_or_else(|_| Err(Error::Service(Failure::Timeout.describe().into())))
    }
}

fn metadata() -> ObjectMeta {
    let label = |name: &str, value: &str| (format!("app.kubernetes.io/{name}"), value.to_owned());
    let labels = [label("part-of", "mesh-agent"), label("managed-by", "mesh-agent-controller")];
    ObjectMeta { name: Some(NAME.to_owned()), labels: Some(labels.into()), ..ObjectMeta::default() }
}

/// Where it should be: with captured pods, with the agents, and wherever it is already.
fn wanted<'a>(snapshot: &Snapshot, own: &str, there: impl Iterator<Item = &'a String>) -> BTreeSet<String> {
    let captured = snapshot.workloads.values().filter(|workload| workload.is_enrolled());
    let captured = captured.map(|workload| workload.name.namespace.clone());
    captured.chain([own.to_owned()]).chain(there.cloned()).collect()
}

fn says(map: &ConfigMap, bundle: &str) -> bool {
    map.data.as_ref().is_some_and(|data| data.len() == 1 && data.get(KEY).is_some_and(|text| text == bundle))
}
