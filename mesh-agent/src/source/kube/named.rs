//! ConfigMaps that BackendTLSPolicies name: each is watched by its name and no other is asked for, since all those of a cluster
//! are a lot, and no business of the agent's.
//!
//! All of them are one place of the `store`, of which each watch has a part. That place is read once the policies are and every
//! ConfigMap that they name, so that no policy comes into force before its authorities.

use std::collections::{BTreeMap, BTreeSet};

use ::kube::Client;
use tokio::task::{AbortHandle, JoinSet};

use super::follow::{Follower, Out, What};
use super::item::Item;
use super::pace::Pace;
use super::resource::{self, Feed};
use super::served::Look;
use crate::model::ObjectName;
use crate::model::build::authorities;
use crate::objects::Object;

/// What is followed by name.
pub struct Named {
    client: Client,
    look: Look,
    out: Out,
    /// What each policy names.
    asked: BTreeMap<ObjectName, BTreeSet<ObjectName>>,
    /// The policies were read.
    begun: bool,
    watches: BTreeMap<ObjectName, AbortHandle>,
    unread: BTreeSet<ObjectName>,
}

impl Named {
    /// Follows nothing yet; `out` is their place.
    pub fn new(client: Client, look: Look, out: Out) -> Self {
        let (asked, watches) = (BTreeMap::new(), BTreeMap::new());
        Self { client, look, out, asked, begun: false, watches, unread: BTreeSet::new() }
    }

    /// Notes what the watch of the policies tells.
    pub fn policies(&mut self, told: &What) {
        match told {
            What::All(items) => {
                self.asked = items.iter().map(|item| (item.name.clone(), names(item))).collect();
                self.begun = true;
            }
            // A version that isn't valid leaves the one before in force.
            What::Put(item) if item.object.is_some() => {
                self.asked.insert(item.name.clone(), names(item));
            }
            What::Gone(name, _) => {
                self.asked.remove(name);
            }
            What::Put(_) | What::Well | What::Failed(_) => {}
        }
    }

    /// Starts and ends watches as the policies have it; ConfigMaps that no policy names any more.
    pub fn follow(&mut self, tasks: &mut JoinSet<()>) -> Vec<ObjectName> {
        let wanted: BTreeSet<ObjectName> = self.asked.values().flatten().cloned().collect();
        let gone: Vec<_> = self.watches.keys().filter(|name| !wanted.contains(*name)).cloned().collect();
        for name in &gone {
            if let Some(watch) = self.watches.remove(name) {
                watch.abort();
            }
            self.unread.remove(name);
        }
        for name in wanted {
            if self.watches.contains_key(&name) {
                continue;
            }
            let follower = Follower {
                feed: Feed::config_map(&name),
                client: self.client.clone(),
                look: self.look.clone(),
                out: Out { part: Some(name.clone()), ..self.out.clone() },
                pace: Pace::default(),
                had_some: false,
            };
            self.unread.insert(name.clone());
            self.watches.insert(name, tasks.spawn(follower.run()));
        }
        if self.watches.is_empty() {
            self.out.health.set_missing(self.out.at);
        }
        gone
    }

    /// True while no policy names any.
    pub fn is_empty(&self) -> bool {
        self.watches.is_empty()
    }

    /// True if a policy names it.
    pub fn follows(&self, name: &ObjectName) -> bool {
        self.watches.contains_key(name)
    }

    /// Notes that a ConfigMap was read, whether it is there or not.
    pub fn read(&mut self, name: &ObjectName) {
        self.unread.remove(name);
    }

    /// True once the policies were read and all that they name.
    pub fn is_read(&self) -> bool {
        self.begun && self.unread.is_empty()
    }

    /// Its place among the watches.
    pub fn at(&self) -> usize {
        self.out.at
    }
}

fn names(item: &Item) -> BTreeSet<ObjectName> {
    match item.object.as_deref() {
        Some(Object::BackendTlsPolicy(policy)) => authorities(policy),
        _ => BTreeSet::new(),
    }
}

impl Feed {
    /// One ConfigMap.
    pub fn config_map(name: &ObjectName) -> Self {
        Self {
            fields: Some(format!("metadata.name={}", name.name)),
            namespace: Some(name.namespace.clone()),
            ..resource::config_maps()
        }
    }
}
