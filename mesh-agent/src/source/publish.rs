//! From changes to what everybody reads: builds, swaps, tells, and logs what is newly wrong or right again.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use super::force::{Force, Refusal, Step};
use super::{Backing, Changes, Published};
use crate::history::{Entry, History, is_kept};
use crate::jwt;
use crate::model::Warning;
use crate::model::build::Builder;
use crate::names::Answer;

/// The end of the source's thread.
#[derive(Debug)]
pub struct Publisher {
    builder: Builder,
    published: Published,
    force: Force,
}

/// One look at the source.
pub struct Look<'a> {
    /// What changed.
    pub changes: &'a Changes,
    /// When that was noticed.
    pub noticed: Instant,
    /// What is wrong at the source.
    pub warnings: Vec<Warning>,
    /// Where objects and their words are found.
    pub backing: &'a dyn Backing,
}

impl Publisher {
    /// Nothing is published yet.
    pub fn new(builder: Builder, published: Published) -> Self {
        Self { builder, published, force: Force::default() }
    }

    /// Puts in force what the source says.
    pub fn publish(&mut self, look: Look<'_>) {
        let Look { changes, backing, .. } = look;
        // Copied only where it is needed: most looks are churn.
        let history = if self.force.has_begun() { History::default() } else { self.published.history.get() };
        let step = self.force.follow(changes, backing.is_available(), &history, |key| backing.text(key));
        self.put_in_force(step, look);
    }

    /// Does what an operator asks for: a rollback to a generation, or a release.
    pub fn obey(&mut self, generation: Option<u64>, look: Look<'_>) -> Result<(), Refusal> {
        let step = match generation {
            Some(generation) => self.force.roll_back(generation, &self.published.history.get())?,
            None => self.force.release()?,
        };
        self.put_in_force(step, look);
        // Whoever asked may kill the agent next.
        self.published.history.flush();
        Ok(())
    }

    /// Puts in force what a name stands for.
    pub fn learn(&mut self, answer: Answer, look: Look<'_>) {
        self.builder.learn(answer);
        self.put_in_force(Step::default(), look);
    }

    /// Tells what is wrong at the source, before it was read once: of what is in force nothing changes.
    pub fn warn(&self, mut warnings: Vec<Warning>) {
        warnings.sort_unstable();
        warnings.dedup();
        self.swap_warnings(warnings);
    }

    /// Names that have to be resolved for what is in force.
    pub fn wanted_names(&self) -> BTreeSet<String> {
        self.builder.wanted_names()
    }

    /// Where keys for tokens are fetched.
    pub fn key_sources(&self) -> &jwt::Store {
        self.builder.key_sources()
    }

    /// When the history wants to be written.
    pub fn due(&self) -> Option<Instant> {
        self.published.history.due()
    }

    /// Writes the history if that is due.
    pub fn save(&self, now: Instant) {
        self.published.history.save(now);
    }

    /// Writes what the history has not written yet: the thread ends.
    pub fn finish(&self) {
        self.published.history.flush();
    }

    fn put_in_force(&mut self, step: Step, look: Look<'_>) {
        let started = Instant::now();
        let before = *self.published.changed.borrow();
        if before == 0 {
            let next =
                || self.published.history.with(|history| history.newest().map_or(1, |e| e.generation + 1));
            self.builder.resume_at(step.resume.unwrap_or_else(next));
        }
        let mut snapshot = self.builder.apply(&step.changes);
        // Before anybody sees the snapshot, and again with every look, so that files that change are noticed.
        if self.builder.options().serves {
            self.builder.originations().refresh();
        }
        if step.draft.is_some() && snapshot.generation == before {
            snapshot = self.builder.advance();
        }
        let mut warnings = look.warnings;
        let put_back = self.force.put_back();
        warnings.extend(self.builder.warnings(|key| match put_back.filter(|_| is_kept(key.kind)) {
            Some(generation) => Some(format!("generation {generation}")),
            None => look.backing.origin(key),
        }));
        warnings.sort_unstable();
        warnings.dedup();
        self.remember(&step, snapshot.generation, warnings.len());
        self.swap_warnings(warnings);
        let generation = snapshot.generation;
        self.published.names.set_unanswered(self.builder.unanswered_names());
        self.published.snapshot.store(snapshot);
        let more = self.published.coverage.raise(look.backing.coverage());
        if generation != before {
            self.published.noticed.put(look.noticed);
        }
        if more || generation != before {
            self.published.changed.send_replace(generation);
        }
        if generation != before {
            tracing::debug!(
                generation,
                changed = step.changes.upserts.len(),
                deleted = step.changes.deletes.len(),
                build_us = started.elapsed().as_micros(),
                "configuration in force"
            );
        }
    }

    fn remember(&self, step: &Step, generation: u64, warnings: usize) {
        match &step.draft {
            Some(draft) => self.published.history.record(Entry {
                generation,
                time: SystemTime::now(),
                cause: draft.cause,
                changes: draft.changes.clone(),
                warnings,
                discovery: 0,
            }),
            None => self.published.history.note(warnings, step.discovery),
        }
    }

    fn swap_warnings(&self, now: Vec<Warning>) {
        let before = self.published.warnings.load();
        if **before == now {
            return;
        }
        for warning in now.iter().filter(|warning| before.binary_search(warning).is_err()) {
            tracing::warn!(
                code = warning.code,
                object = warning.object,
                field = warning.field,
                origin = warning.origin,
                "{}",
                warning.message
            );
        }
        for warning in before.iter().filter(|warning| now.binary_search(warning).is_err()) {
            tracing::info!(
                code = warning.code,
                object = warning.object,
                origin = warning.origin,
                "no longer so"
            );
        }
        self.published.warnings.store(Arc::new(now));
    }
}
