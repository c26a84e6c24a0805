//! Names of outside services followed in the background: asked for again when their TTL is over, never on a connection's way.
//!
//! A thread of its own, so that no slow server holds anything up. What it finds goes to `source`, which lets `model::build`
//! make the services again that a name is for. A name that can't be resolved keeps its last good answer there. hickory asks
//! the servers of resolv.conf; its cache is off, since the TTL is kept here.

mod answer;
mod resolver;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::{AbortHandle, LocalSet, spawn_local};
use tokio::time::{Instant, sleep};

use answer::Memory;
pub use answer::{Addresses, Answer, Stats};
use resolver::Resolver;

/// No name is asked for more often, whatever its TTL is.
const SHORTEST: Duration = Duration::from_secs(1);
/// Nor less often: a mistake with a long TTL is mended within the hour.
const LONGEST: Duration = Duration::from_secs(3600);
/// After a question without an answer; doubled with each up to the longest.
const RETRY: Duration = Duration::from_secs(1);
const RETRY_MOST: Duration = Duration::from_secs(30);

/// The thread. Ends with its owner.
#[derive(Debug)]
pub struct Names {
    wanted: Option<UnboundedSender<BTreeSet<String>>>,
    last: BTreeSet<String>,
    conf: PathBuf,
    stats: Arc<Stats>,
    thread: Option<JoinHandle<()>>,
}

impl Names {
    /// Starts no thread before there is a name. `conf` is a resolv.conf, read again when it changes.
    pub fn new(conf: PathBuf, stats: Arc<Stats>) -> Self {
        Self { wanted: None, last: BTreeSet::new(), conf, stats, thread: None }
    }

    /// Follows these names and no others; `told` is called on the thread of names.
    ///
    /// # Errors
    /// If the thread can't be had; tried again with the next call.
    pub fn follow(
        &mut self,
        names: BTreeSet<String>,
        told: impl Fn(Answer) + Clone + 'static + Send,
    ) -> io::Result<()> {
        if names == self.last {
            return Ok(());
        }
        if self.wanted.is_none() {
            let (send, receive) = unbounded_channel();
            let (conf, stats) = (self.conf.clone(), self.stats.clone());
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let thread = std::thread::Builder::new().name("names".into()).spawn(move || {
                let resolver = Rc::new(Resolver::new(conf));
                LocalSet::new().block_on(&runtime, run(receive, &resolver, &stats, told));
            })?;
            (self.wanted, self.thread) = (Some(send), Some(thread));
        }
        self.last.clone_from(&names);
        if let Some(wanted) = &self.wanted {
            // It ends with this end of the channel only.
            let _ = wanted.send(names);
        }
        Ok(())
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        self.wanted = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// One task for each name.
async fn run(
    mut wanted: UnboundedReceiver<BTreeSet<String>>,
    resolver: &Rc<Resolver>,
    stats: &Arc<Stats>,
    told: impl Fn(Answer) + Clone + 'static,
) {
    let mut tasks: BTreeMap<String, AbortHandle> = BTreeMap::new();
    while let Some(names) = wanted.recv().await {
        tasks.retain(|name, task| {
            let stays = names.contains(name);
            if !stays {
                task.abort();
            }
            stays
        });
        for name in names {
            tasks.entry(name).or_insert_with_key(|name| {
                let (name, resolver, stats) = (name.clone(), resolver.clone(), stats.clone());
                spawn_local(follow_one(name, resolver, stats, told.clone())).abort_handle()
            });
        }
    }
}

async fn follow_one(name: String, resolver: Rc<Resolver>, stats: Arc<Stats>, told: impl Fn(Answer)) {
    let mut memory = Memory::default();
    let mut wait_after_failure = RETRY;
    loop {
        let (result, wait) = match resolver.look_up(&name).await {
            Ok(found) => {
                wait_after_failure = RETRY;
                let wait = found.ttl.clamp(SHORTEST, LONGEST);
                stats.resolved();
                (Ok(memory.remember(found.addresses, Instant::now(), wait)), wait)
            }
            Err(failure) => {
                stats.failed(&failure);
                let wait = wait_after_failure;
                wait_after_failure = (wait * 2).min(RETRY_MOST);
                (Err(failure.to_string()), wait)
            }
        };
        if memory.is_news(&result) {
            told(Answer { name: name.clone(), result });
        }
        sleep(wait).await;
    }
}
