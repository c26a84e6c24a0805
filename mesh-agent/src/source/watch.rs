//! Follows a source directory: file notification, a short wait for the dust to settle, one look, one snapshot.
//!
//! A slow scan beside it finds what notification can't: targets of symbolic links elsewhere, lost events, network file
//! systems. Comes before `directory` (what is there) and `model::build` (what it means).

mod pending;
mod publish;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use notify::{RecommendedWatcher, RecursiveMode, Watcher};

use self::pending::Pending;
use self::publish::{Look, Publisher};
use super::directory::{Directory, Touched};
use super::{Changes, Published};
use crate::history;
use crate::jwt::Keeper;
use crate::model::Warning;
use crate::model::build::Builder;
use crate::names::{Answer, Names};

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

/// The thread that follows the source; stopped and joined on drop.
#[derive(Debug)]
pub struct SourceThread {
    stop: Sender<Message>,
    thread: Option<JoinHandle<()>>,
}

impl SourceThread {
    pub(super) fn spawn(path: PathBuf, builder: Builder, published: Published) -> io::Result<Self> {
        let (send, receive) = mpsc::channel();
        let path = std::path::absolute(path)?;
        let (events, watched) = (send.clone(), path.clone());
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if event.as_ref().map_or(true, |event| Pending::is_about(event, &watched)) {
                drop(events.send(Message::Event(event)));
            }
        })
        .map_err(io::Error::other)?;
        let operator = send.clone();
        published.history.serve(move |request| operator.send(Message::Operator(request)).is_ok());
        let names = Names::new(builder.options().resolv_conf.clone(), published.names.clone());
        let domain = builder.options().cluster_domain.clone();
        let keys = Keeper::new(published.snapshot.clone(), domain, published.jwks.clone());
        let follower = Follower {
            names,
            keys,
            told: send.clone(),
            watches: Watches { watcher, directory: None, parent: None },
            directory: Directory::new(path).told_of_closes(),
            publisher: Publisher::new(builder, published),
            pending: Pending::default(),
        };
        let thread =
            std::thread::Builder::new().name("source".into()).spawn(move || follower.run(&receive))?;
        Ok(Self { stop: send, thread: Some(thread) })
    }
}

impl Drop for SourceThread {
    fn drop(&mut self) {
        // Either may have ended by itself; there is nothing left to do then.
        let _ = self.stop.send(Message::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Follower {
    watches: Watches,
    directory: Directory,
    publisher: Publisher,
    pending: Pending,
    names: Names,
    keys: Keeper,
    told: Sender<Message>,
}

impl Follower {
    fn run(mut self, messages: &Receiver<Message>) {
        self.watches.renew(self.directory.path());
        self.look(&Touched::All, Instant::now());
        let mut next_scan = Instant::now() + RESCAN;
        loop {
            let due = [self.pending.due(), self.publisher.due()];
            let deadline = due.into_iter().flatten().fold(next_scan, Instant::min);
            match messages.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(Message::Event(event)) => self.note(event),
                Ok(Message::Operator(request)) => self.obey(request),
                Ok(Message::Named(answer)) => self.learn(answer),
                Ok(Message::Stop) | Err(RecvTimeoutError::Disconnected) => return self.publisher.finish(),
                Err(RecvTimeoutError::Timeout) => {}
            }
            let now = Instant::now();
            self.publisher.save(now);
            if now >= next_scan {
                self.watches.renew(self.directory.path());
                self.pending.rescan(now);
                next_scan = now + RESCAN;
            }
            if let Some((touched, noticed)) = self.pending.take(now) {
                if touched == Touched::All {
                    self.watches.renew(self.directory.path());
                }
                self.look(&touched, noticed);
            }
        }
    }

    fn note(&mut self, event: notify::Result<notify::Event>) {
        let now = Instant::now();
        match event {
            Ok(event) => self.pending.note(&event, self.directory.path(), now),
            Err(error) => {
                tracing::debug!(%error, "file notification failed; looking at every file instead");
                self.pending.lost(now);
            }
        }
    }

    fn look(&mut self, touched: &Touched, noticed: Instant) {
        let changes: Changes = self.directory.scan(touched, &self.pending.unclosed());
        if self.directory.left_some() {
            self.pending.rescan_at(Instant::now() + AGAIN);
        }
        let (warnings, directory) = (self.warnings(), &self.directory);
        self.publisher.publish(Look { changes: &changes, noticed, warnings, directory });
        self.follow_names();
    }

    /// A name stands for other addresses, or can't be resolved.
    fn learn(&mut self, answer: Answer) {
        let (warnings, directory) = (self.warnings(), &self.directory);
        let look = Look { changes: &Changes::default(), noticed: Instant::now(), warnings, directory };
        self.publisher.learn(answer, look);
    }

    fn follow_names(&mut self) {
        let told = self.told.clone();
        let follow = self.names.follow(self.publisher.wanted_names(), move |answer| {
            // The thread of the source may have ended.
            let _ = told.send(Message::Named(answer));
        });
        if let Err(error) = follow {
            tracing::warn!(%error, "names of ServiceEntries can't be resolved, trying again");
        }
        if let Err(error) = self.keys.follow(self.publisher.key_sources()) {
            tracing::warn!(%error, "keys for tokens can't be fetched, trying again");
        }
    }

    fn obey(&mut self, request: history::Request) {
        let (warnings, directory) = (self.warnings(), &self.directory);
        let look = Look { changes: &Changes::default(), noticed: Instant::now(), warnings, directory };
        let done = self.publisher.obey(request.generation, look);
        self.follow_names();
        // Whoever asked may have gone.
        let _ = request.answer.send(done.map_err(|refusal| refusal.to_string()));
    }

    fn warnings(&self) -> Vec<Warning> {
        let mut warnings = self.directory.warnings();
        warnings.extend(self.pending.warnings(Instant::now()));
        warnings
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
