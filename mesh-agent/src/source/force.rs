//! Which configuration objects are in force: the source's, or those of a generation that an operator put back.
//!
//! Lies between the source and `model::build`: what goes in is what the source says, what comes out is what the builder shall
//! change, and what the history has to say about it. Pods, EndpointSlices and Nodes pass through whatever is in force.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Changes;
use super::parse::{self, Format};
use crate::history::{Cause, Change, History, Objects, Operation, Text, is_kept};
use crate::objects::{Object, ObjectKey};

/// An object with its own words.
#[derive(Clone, Debug)]
struct Version {
    object: Arc<Object>,
    text: Text,
}

type Versions = BTreeMap<ObjectKey, Version>;

/// What is in force, and what the source says where that differs.
#[derive(Debug, Default)]
pub struct Force {
    /// The source was read once.
    begun: bool,
    source: Versions,
    /// In force instead of `source`.
    put_back: Option<PutBack>,
}

#[derive(Debug)]
struct PutBack {
    generation: u64,
    objects: Versions,
}

/// What a look at the source, or an operator, comes to.
#[derive(Debug, Default)]
pub struct Step {
    /// For the builder.
    pub changes: Changes,
    /// For the history; none if no configuration changed.
    pub draft: Option<Draft>,
    /// How many Pods, EndpointSlices and Nodes changed.
    pub discovery: u64,
    /// The first snapshot has this generation; else it has the one after all that are kept.
    pub resume: Option<u64>,
}

/// An entry of the history without what only the publisher knows.
#[derive(Debug)]
pub struct Draft {
    /// Why.
    pub cause: Cause,
    /// What.
    pub changes: Vec<Change>,
}

/// Why an operator's wish isn't followed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No such generation.
    #[error("generation {0} isn't kept: `mesh-agent config history` lists those that are")]
    NotKept(u64),
    /// It says what is in force.
    #[error("the configuration objects of generation {0} are in force already")]
    InForce(u64),
    /// This agent can't read an object of it.
    #[error("{1} of generation {0} can't be read by this version of the agent: nothing is changed")]
    Unreadable(u64, Text),
    /// Nothing to release.
    #[error("no generation is put back: the source's own configuration is in force")]
    NotRolledBack,
    /// The source has said nothing yet.
    #[error("the source wasn't read yet: try again when `mesh-agent status` shows a generation")]
    NotYet,
}

impl Force {
    /// Which generation is put back, if one is.
    pub fn put_back(&self) -> Option<u64> {
        self.put_back.as_ref().map(|put_back| put_back.generation)
    }

    /// True once the source was read.
    pub fn has_begun(&self) -> bool {
        self.begun
    }

    /// Takes what changed at the source. `available` says whether the source can be read; `text` has an object's own
    /// words. `history` is looked at by the first call only.
    pub fn follow(
        &mut self,
        changes: &Changes,
        available: bool,
        history: &History,
        text: impl Fn(&ObjectKey) -> Option<Text>,
    ) -> Step {
        let (mut step, told, kept) = self.take(changes, text);
        if !self.begun {
            self.begun = available;
            return if available { self.begin(step, history) } else { step };
        }
        if kept.is_empty() {
            return step;
        }
        match self.put_back.take() {
            Some(put_back) => {
                tracing::warn!(
                    generation = put_back.generation,
                    "the source changed: its own configuration is in force again, the generation that was put back isn't"
                );
                step.turn(&put_back.objects, &self.source, Cause::Source);
                step.draft.get_or_insert(Draft { cause: Cause::Source, changes: Vec::new() });
            }
            None => step.add(told, kept, Cause::Source),
        }
        step
    }

    /// Puts the objects of a kept generation in force until the source changes.
    ///
    /// # Errors
    /// [`Refusal`]; nothing changed then.
    pub fn roll_back(&mut self, generation: u64, history: &History) -> Result<Step, Refusal> {
        if !self.begun {
            return Err(Refusal::NotYet);
        }
        let texts = history.objects_at(generation).ok_or(Refusal::NotKept(generation))?;
        let objects = read_all(&texts).map_err(|object| Refusal::Unreadable(generation, object))?;
        if difference(&self.source, &objects).0.is_empty() {
            return if self.put_back.is_some() { self.release() } else { Err(Refusal::InForce(generation)) };
        }
        let mut step = Step::default();
        let now = self.put_back.as_ref().map_or(&self.source, |put_back| &put_back.objects);
        step.turn(now, &objects, Cause::Rollback(generation));
        if step.draft.is_none() {
            return Err(Refusal::InForce(generation));
        }
        // A rollback takes the place of the one before, so it is told as a difference to the source.
        let (told, _) = difference(&self.source, &objects);
        step.draft = Some(Draft { cause: Cause::Rollback(generation), changes: told });
        tracing::warn!(
            generation,
            "an operator put this generation's configuration objects back in force; it stays until the source changes, or \
             until `mesh-agent config rollback --release`"
        );
        self.put_back = Some(PutBack { generation, objects });
        Ok(step)
    }

    /// Lets the source decide again.
    ///
    /// # Errors
    /// [`Refusal::NotRolledBack`].
    pub fn release(&mut self) -> Result<Step, Refusal> {
        let put_back = self.put_back.take().ok_or(Refusal::NotRolledBack)?;
        tracing::info!(
            generation = put_back.generation,
            "released: the source's own configuration is in force again"
        );
        let mut step = Step::default();
        step.turn(&put_back.objects, &self.source, Cause::Release);
        // Never silent, even where the two say the same by now.
        step.draft.get_or_insert(Draft { cause: Cause::Release, changes: Vec::new() });
        Ok(step)
    }

    /// The first look: what an earlier agent had in force decides whether anything is new.
    fn begin(&mut self, mut step: Step, history: &History) -> Step {
        let Some(newest) = history.newest() else {
            step.turn(&Versions::new(), &self.source, Cause::Source);
            step.draft.get_or_insert(Draft { cause: Cause::Source, changes: Vec::new() });
            return step;
        };
        let (said, _) = read_some(&history.source_objects());
        let unchanged = difference(&said, &self.source).0.is_empty();
        let (in_force, unreadable) = read_some(&history.objects_at(newest.generation).unwrap_or_default());
        match history.rolled_back() {
            Some((generation, _)) if unchanged && unreadable.is_none() => {
                tracing::warn!(
                    generation,
                    "this generation's configuration objects are in force, as before the agent's restart, though the source \
                     says otherwise"
                );
                step.turn(&Versions::new(), &in_force, Cause::Rollback(generation));
                (step.draft, step.resume) = (None, Some(newest.generation));
                self.put_back = Some(PutBack { generation, objects: in_force });
            }
            None if unchanged => {
                step.turn(&Versions::new(), &self.source, Cause::Source);
                (step.draft, step.resume) = (None, Some(newest.generation));
            }
            rolled_back => {
                if let Some((generation, _)) = rolled_back {
                    tracing::warn!(
                        generation,
                        unreadable = unreadable.as_deref(),
                        "the generation that was put back before the agent's restart isn't in force any more: the source \
                         changed meanwhile, or an object of it can't be read"
                    );
                }
                step.turn(&Versions::new(), &self.source, Cause::Source);
                let changes = difference(&in_force, &self.source).0;
                step.draft = Some(Draft { cause: Cause::Source, changes });
            }
        }
        step
    }

    /// Notes what the source says now. What isn't kept is for the builder at once; the rest comes apart.
    fn take(
        &mut self,
        changes: &Changes,
        text: impl Fn(&ObjectKey) -> Option<Text>,
    ) -> (Step, Vec<Change>, Changes) {
        let (mut step, mut told, mut kept) = (Step::default(), Vec::new(), Changes::default());
        for object in &changes.upserts {
            let key = object.key();
            if !is_kept(key.kind) {
                step.changes.upserts.push(object.clone());
                continue;
            }
            let text = text(&key).unwrap_or_else(|| Text::from(""));
            let object_name = name(&key);
            let version = Version { object: object.clone(), text: text.clone() };
            let known = self.source.insert(key, version).is_some();
            let operation = if known { Operation::Changed } else { Operation::Added };
            told.push(Change { operation, object: object_name, text: Some(text) });
            kept.upserts.push(object.clone());
        }
        for key in &changes.deletes {
            if !is_kept(key.kind) {
                step.changes.deletes.push(key.clone());
            } else if self.source.remove(key).is_some() {
                told.push(Change { operation: Operation::Removed, object: name(key), text: None });
                kept.deletes.push(key.clone());
            }
        }
        step.discovery = (step.changes.upserts.len() + step.changes.deletes.len()) as u64;
        (step, told, kept)
    }
}

impl Step {
    /// Adds what makes `after` of `before`.
    fn turn(&mut self, before: &Versions, after: &Versions, cause: Cause) {
        let (told, changes) = difference(before, after);
        self.add(told, changes, cause);
    }

    fn add(&mut self, told: Vec<Change>, changes: Changes, cause: Cause) {
        self.changes.upserts.extend(changes.upserts);
        self.changes.deletes.extend(changes.deletes);
        if !told.is_empty() {
            self.draft = Some(Draft { cause, changes: told });
        }
    }
}

/// What makes `after` of `before`: for the history and for the builder.
fn difference(before: &Versions, after: &Versions) -> (Vec<Change>, Changes) {
    let (mut told, mut changes) = (Vec::new(), Changes::default());
    for (key, version) in after {
        let operation = match before.get(key) {
            Some(old) if Arc::ptr_eq(&old.object, &version.object) || old.object == version.object => {
                continue;
            }
            Some(_) => Operation::Changed,
            None => Operation::Added,
        };
        told.push(Change { operation, object: name(key), text: Some(version.text.clone()) });
        changes.upserts.push(version.object.clone());
    }
    for key in before.keys().filter(|key| !after.contains_key(*key)) {
        told.push(Change { operation: Operation::Removed, object: name(key), text: None });
        changes.deletes.push(key.clone());
    }
    (told, changes)
}

fn name(key: &ObjectKey) -> Text {
    Text::from(key.to_string())
}

/// Every object, or the name of the first that can't be read.
fn read_all(texts: &Objects) -> Result<Versions, Text> {
    match read_some(texts) {
        (versions, None) => Ok(versions),
        (_, Some(unreadable)) => Err(unreadable),
    }
}

/// The objects that can be read, and the first that can't.
fn read_some(texts: &Objects) -> (Versions, Option<Text>) {
    let (mut versions, mut unreadable) = (Versions::new(), None);
    for (wanted, text) in texts {
        // JSON is YAML.
        let objects = parse::parse(text, Format::Yaml).objects;
        let mut found = objects.into_iter().map(|(object, _)| object);
        match found.find(|object| object.key().to_string() == **wanted) {
            Some(object) => {
                versions.insert(object.key(), Version { object, text: text.clone() });
            }
            None => drop(unreadable.get_or_insert_with(|| wanted.clone())),
        }
    }
    (versions, unreadable)
}

#[cfg(test)]
mod tests;
