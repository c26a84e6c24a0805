//! Which files wait to be looked at, and from when on.
//!
//! A file that is being written is not read in the middle: between truncation and the last write it is valid YAML with
//! most of its objects missing. It is due when it is closed, however long that takes: a writer that stalls looks like
//! one that is done. Only where the kernel may have kept the close to itself does a time decide.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind};

use crate::model::Warning;
use crate::source::Touched;
use crate::source::directory::is_object_file;
use crate::source::file::{Stamp, not_closed};

/// Changes that come together are taken together.
const SETTLE: Duration = Duration::from_millis(10);
/// A file whose close may have gone untold is read after so long without a write.
const UNTOLD: Duration = Duration::from_secs(2);
/// A file that stays open for longer is worth a warning.
const LONG: Duration = Duration::from_secs(1);

/// Files that changed since they were looked at.
#[derive(Debug, Default)]
pub struct Pending {
    all: Option<Instant>,
    closed: BTreeMap<PathBuf, Instant>,
    open: BTreeMap<PathBuf, Open>,
    /// Since when something of `all` or `closed` waits.
    noticed: Option<Instant>,
}

#[derive(Debug)]
struct Open {
    since: Instant,
    /// Since when it is uncertain that its close will be told.
    doubted: Option<Instant>,
}

impl Pending {
    /// Everything is due.
    pub fn rescan(&mut self, now: Instant) {
        self.all = Some(now);
        self.noticed.get_or_insert(now);
    }

    /// Everything is due at `at`, if not before.
    pub fn rescan_at(&mut self, at: Instant) {
        self.all.get_or_insert(at);
    }

    /// Events were lost: everything is due, and closes may be among them.
    pub fn lost(&mut self, now: Instant) {
        self.rescan(now);
        self.doubt(now);
    }

    fn doubt(&mut self, now: Instant) {
        for open in self.open.values_mut() {
            open.doubted.get_or_insert(now);
        }
    }

    /// False for what nothing would come of: looks at files, and what happens beside `directory` in its parent, where
    /// others may log by the thousand. Asked where events come in, so that those wake nobody.
    pub fn is_about(event: &notify::Event, directory: &Path) -> bool {
        let looked_at =
            matches!(event.kind, EventKind::Access(access) if access != AccessKind::Close(AccessMode::Write));
        let concerns = |path: &PathBuf| path == directory || path.parent() == Some(directory);
        event.need_rescan() || event.paths.is_empty() || (!looked_at && event.paths.iter().any(concerns))
    }

    /// Something happened to an entry of `directory` or of its parent.
    pub fn note(&mut self, event: &notify::Event, directory: &Path, now: Instant) {
        if !Self::is_about(event, directory) {
            return;
        }
        if event.need_rescan() || event.paths.is_empty() {
            self.lost(now);
        }
        for path in &event.paths {
            self.note_path(event.kind, path, directory, now);
        }
    }

    fn note_path(&mut self, kind: EventKind, path: &Path, directory: &Path, now: Instant) {
        let inside = path.parent() == Some(directory);
        if inside && is_object_file(path) {
            match kind {
                EventKind::Modify(ModifyKind::Data(_) | ModifyKind::Any) => self.written(path, now),
                // A new file is either written to (and closed) or moved or linked here complete, maybe empty.
                EventKind::Create(_) if is_being_filled(path) => {
                    self.open.insert(path.to_owned(), Open { since: now, doubted: Some(now) });
                }
                _ => {
                    self.open.remove(path);
                    self.closed.entry(path.to_owned()).or_insert(now + SETTLE);
                    self.noticed.get_or_insert(now);
                }
            }
        } else if path == directory || (inside && leads_to_files(path)) {
            // The directory itself, or a ConfigMap's ..data: anything may have changed, and files that were open may
            // be closed in a directory that nobody watches any more.
            self.all = Some(self.all.map_or(now + SETTLE, |due| due.min(now + SETTLE)));
            self.noticed.get_or_insert(now);
            self.doubt(now);
        }
    }

    /// Whoever writes will close: the kernel is heard, whatever it kept to itself before.
    fn written(&mut self, path: &Path, now: Instant) {
        self.open.entry(path.to_owned()).or_insert(Open { since: now, doubted: None }).doubted = None;
    }

    /// When something is due.
    pub fn due(&self) -> Option<Instant> {
        let open = self.open.values().filter_map(Open::due);
        self.all.iter().copied().chain(self.closed.values().copied()).chain(open).min()
    }

    /// What is due now, and since when it has waited. A file that is being written counts from its close.
    pub fn take(&mut self, now: Instant) -> Option<(Touched, Instant)> {
        for (path, _) in self.open.extract_if(.., |_, open| open.due().is_some_and(|due| due <= now)) {
            self.closed.insert(path, now);
            self.noticed.get_or_insert(now);
        }
        let touched = self.due_now(now)?;
        let left = self.closed.values().chain(&self.all).min();
        let left = left.and_then(|due| due.checked_sub(SETTLE)).filter(|left| *left <= now);
        Some((touched, std::mem::replace(&mut self.noticed, left).unwrap_or(now)))
    }

    fn due_now(&mut self, now: Instant) -> Option<Touched> {
        if self.all.is_some_and(|due| due <= now) {
            // What was closed is still looked at by name: a look at everything leaves alone what looks half written.
            self.all = None;
            return Some(Touched::All);
        }
        let due: BTreeSet<PathBuf> =
            self.closed.iter().filter(|(_, due)| **due <= now).map(|(path, _)| path.clone()).collect();
        self.closed.retain(|path, _| !due.contains(path));
        (!due.is_empty()).then_some(Touched::Files(due))
    }

    /// Files that must not be read now.
    pub fn unclosed(&self) -> BTreeSet<PathBuf> {
        self.open.keys().cloned().collect()
    }

    /// Files that have been written to for suspiciously long.
    pub fn warnings(&self, now: Instant) -> impl Iterator<Item = Warning> {
        let long = self.open.iter().filter(move |(_, open)| now.saturating_duration_since(open.since) > LONG);
        long.map(|(path, _)| not_closed(path))
    }
}

impl Open {
    fn due(&self) -> Option<Instant> {
        self.doubted.map(|since| since + UNTOLD)
    }
}

/// True for what files may be linked through: a ConfigMap's `..data`, and any other link.
fn leads_to_files(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"..")) || path.is_symlink()
}

/// True for a regular file that is still empty: whoever created it is about to write.
fn is_being_filled(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|metadata| metadata.is_file())
        && Stamp::of(path).is_ok_and(|stamp| stamp.is_empty())
}

#[cfg(test)]
mod tests;
