//! Follows a source directory: file notification, a short wait for the dust to settle, one look, one snapshot.
//!
//! A slow scan beside it finds what notification can't: targets of symbolic links elsewhere, lost events, network file
//! systems. Comes before `directory` (what is there) and `model::build` (what it means).

mod pending;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use notify::{RecommendedWatcher, RecursiveMode, Watcher};

use self::pending::Pending;
use super::course::{Backing, Course};
use super::directory::{Directory, Touched};
use super::{Coverage, Published, SourceThread};
use crate::history::{self, Text};
use crate::model::Warning;
use crate::model::build::Builder;
use crate::names::Answer;
use crate::objects::ObjectKey;

/// How often everything is looked at without being told.
const RESCAN: Duration = Duration::from_secs(5);
/// How long what a look left alone has for its close to be told; then it is looked at again.
const AGAIN: Duration = Duration::from_secs(1);

enum Message {
    Event(notify::Result<notify::Event>),
    Operator(history::Request),
    Named(Answer),
    Stop,
}

/// Starts the thread that follows the directory `path`.
pub(super) fn spawn(path: PathBuf, builder: Builder, published: Published) -> io::Result<SourceThread> {
    let (send, receive) = mpsc::channel();
    let path = std::path::absolute(path)?;
    let (events, watched) = (send.clone(), path.clone());
    let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        if event.as_ref().map_or(true, |event| Pending::is_about(event, &watched)) {
            drop(events.send(Message::Event(event)));
        }
    })
    .map_err(io::Error::other)?;
    let (operator, told) = (send.clone(), send.clone());
    let course = Course::new(
        builder,
        published,
        // The thread of the source may have ended.
        move |answer| drop(told.send(Message::Named(answer))),
        move |request| operator.send(Message::Operator(request)).is_ok(),
    );
    let follower = Follower {
        watches: Watches { watcher, directory: None, parent: None },
        files: Files { directory: Directory::new(path).told_of_closes(), pending: Pending::default() },
        course,
    };
    let thread = std::thread::Builder::new().name("source".into()).spawn(move || follower.run(&receive))?;
    Ok(SourceThread::new(move || drop(send.send(Message::Stop)), thread))
}

struct Follower {
    watches: Watches,
    files: Files,
    course: Course,
}

/// What is known of the files, and which of them wait to be looked at.
struct Files {
    directory: Directory,
    pending: Pending,
}

impl Backing for Files {
    fn coverage(&self) -> Coverage {
        self.directory.coverage()
    }
    fn is_available(&self) -> bool {
        self.directory.is_available()
    }
    fn text(&self, key: &ObjectKey) -> Option<Text> {
        self.directory.text(key)
    }
    fn origin(&self, key: &ObjectKey) -> Option<String> {
        self.directory.origin(key)
    }
    fn warnings(&self) -> Vec<Warning> {
        let mut warnings = self.directory.warnings();
        warnings.extend(self.pending.warnings(Instant::now()));
        warnings
    }
}

impl Follower {
    fn run(mut self, messages: &Receiver<Message>) {
        self.watches.renew(self.files.directory.path());
        self.look(&Touched::All, Instant::now());
        let mut next_scan = Instant::now() + RESCAN;
        loop {
            let due = [self.files.pending.due(), self.course.due()];
            let deadline = due.into_iter().flatten().fold(next_scan, Instant::min);
            match messages.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(Message::Event(event)) => self.note(event),
                Ok(Message::Operator(request)) => self.course.obey(request, &self.files),
                Ok(Message::Named(answer)) => self.course.learn(answer, &self.files),
                Ok(Message::Stop) | Err(RecvTimeoutError::Disconnected) => return self.course.finish(),
                Err(RecvTimeoutError::Timeout) => {}
            }
            let now = Instant::now();
            self.course.save(now);
            if now >= next_scan {
                self.watches.renew(self.files.directory.path());
                self.files.pending.rescan(now);
                next_scan = now + RESCAN;
            }
            if let Some((touched, noticed)) = self.files.pending.take(now) {
                if touched == Touched::All {
                    self.watches.renew(self.files.directory.path());
                }
                self.look(&touched, noticed);
            }
        }
    }

    fn note(&mut self, event: notify::Result<notify::Event>) {
        let now = Instant::now();
        let Files { directory, pending } = &mut self.files;
        match event {
            Ok(event) => pending.note(&event, directory.path(), now),
            Err(error) => {
                tracing::debug!(%error, "file notification failed; looking at every file instead");
                pending.lost(now);
            }
        }
    }

    fn look(&mut self, touched: &Touched, noticed: Instant) {
        let Files { directory, pending } = &mut self.files;
        let changes = directory.scan(touched, &pending.unclosed());
        if directory.left_some() {
            pending.rescan_at(Instant::now() + AGAIN);
        }
        self.course.look(&changes, noticed, &self.files);
    }
}

/// What the kernel is asked to tell about: the directory's entries, and its own entry in its parent, so that a directory
/// that appears, or is swapped as a whole, is seen at once.
struct Watches {
    watcher: RecommendedWatcher,
    directory: Option<(u64, u64)>,
    parent: Option<(u64, u64)>,
}

impl Watches {
    /// Makes sure that the watches are on what is there now.
    fn renew(&mut self, path: &Path) {
        Self::renew_one(&mut self.watcher, &mut self.directory, path);
        if let Some(parent) = path.parent() {
            Self::renew_one(&mut self.watcher, &mut self.parent, parent);
        }
    }

    fn renew_one(watcher: &mut RecommendedWatcher, watched: &mut Option<(u64, u64)>, path: &Path) {
        use std::os::unix::fs::MetadataExt;
        let now = std::fs::metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()));
        if now == *watched {
            return;
        }
        if watched.is_some() {
            // The old one may be gone together with its watch.
            let _ = watcher.unwatch(path);
        }
        *watched = now.filter(|_| match watcher.watch(path, RecursiveMode::NonRecursive) {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "no notification of changes: looking every 5 s instead");
                false
            }
        });
    }
}

#[cfg(test)]
mod tests;
