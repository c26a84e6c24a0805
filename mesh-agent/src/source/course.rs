//! What every source's thread does with what it has seen: publishes it, has names resolved and keys fetched for it, and does
//! what operators ask for.
//!
//! A source brings its changes and a [`Backing`]; `publish` comes after it. Waits for nothing itself.

use std::sync::Arc;
use std::time::Instant;

use super::publish::{Look, Publisher};
use super::{Changes, Coverage, Published};
use crate::history::{self, Text};
use crate::jwt::Keeper;
use crate::model::Warning;
use crate::model::build::Builder;
use crate::names::{Answer, Names};
use crate::objects::ObjectKey;

/// What a source knows besides the objects themselves.
pub trait Backing {
    /// How much of what is there was read.
    fn coverage(&self) -> Coverage;
    /// False as long as an empty source only means that nobody could read it.
    fn is_available(&self) -> bool;
    /// The words of an object in force, of kinds that the history keeps.
    fn text(&self, key: &ObjectKey) -> Option<Text>;
    /// Where the version in force of an object was read, for people.
    fn origin(&self, key: &ObjectKey) -> Option<String>;
    /// Everything that is wrong at this moment.
    fn warnings(&self) -> Vec<Warning>;
}

/// The part of a source's thread that all sources have.
pub struct Course {
    publisher: Publisher,
    names: Names,
    keys: Keeper,
    serves: bool,
    told: Arc<dyn Fn(Answer) + Send + Sync>,
}

impl Course {
    /// `named` and `asked` bring the answers to questions for names, and what operators ask for, to the source's thread;
    /// `asked` says whether there is one.
    pub fn new(
        builder: Builder,
        published: Published,
        named: impl Fn(Answer) + Send + Sync + 'static,
        asked: impl Fn(history::Request) -> bool + Send + 'static,
    ) -> Self {
        published.history.serve(asked);
        let names = Names::new(builder.options().resolv_conf.clone(), published.names.clone());
        let domain = builder.options().cluster_domain.clone();
        let keys = Keeper::new(published.snapshot.clone(), domain, published.jwks.clone());
        let serves = builder.options().serves;
        Self { publisher: Publisher::new(builder, published), names, keys, serves, told: Arc::new(named) }
    }

    /// Puts in force what the source says.
    pub fn look(&mut self, changes: &Changes, noticed: Instant, backing: &dyn Backing) {
        self.publisher.publish(Look { changes, noticed, warnings: backing.warnings(), backing });
        self.follow_names();
    }

    /// Tells what is wrong before anything was read.
    pub fn warn(&self, backing: &dyn Backing) {
        self.publisher.warn(backing.warnings());
    }

    /// A name stands for other addresses, or can't be resolved.
    pub fn learn(&mut self, answer: Answer, backing: &dyn Backing) {
        self.publisher.learn(answer, unchanged(&Changes::default(), backing));
    }

    /// An operator wants a generation back, or the source to decide again.
    pub fn obey(&mut self, request: history::Request, backing: &dyn Backing) {
        let done = self.publisher.obey(request.generation, unchanged(&Changes::default(), backing));
        self.follow_names();
        // Whoever asked may have gone.
        let _ = request.answer.send(done.map_err(|refusal| refusal.to_string()));
    }

    /// When [`Course::save`] wants to be called.
    pub fn due(&self) -> Option<Instant> {
        self.publisher.due()
    }

    /// Writes the history if that is due.
    pub fn save(&self, now: Instant) {
        self.publisher.save(now);
    }

    /// Writes what isn't written yet: the thread ends.
    pub fn finish(&self) {
        self.publisher.finish();
    }

    fn follow_names(&mut self) {
        if !self.serves {
            return;
        }
        let told = self.told.clone();
        if let Err(error) = self.names.follow(self.publisher.wanted_names(), move |answer| told(answer)) {
            tracing::warn!(%error, "names of ServiceEntries can't be resolved, trying again");
        }
        if let Err(error) = self.keys.follow(self.publisher.key_sources()) {
            tracing::warn!(%error, "keys for tokens can't be fetched, trying again");
        }
    }
}

fn unchanged<'a>(changes: &'a Changes, backing: &'a dyn Backing) -> Look<'a> {
    Look { changes, noticed: Instant::now(), warnings: backing.warnings(), backing }
}
