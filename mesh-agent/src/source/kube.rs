//! The API server as the source: a watch for each resource, on one thread, and one snapshot from all of them.
//!
//! `follow` watches, `served` finds out which CRDs there are, `item` reads objects, `store` holds what is said and says what
//! changed; here it is put in force, at once or, in a storm, fifty milliseconds later. Nothing is published before all was
//! read once: without policies an agent would let through what they forbid. What was read stays, however long the API server
//! is away.

mod ask;
mod follow;
mod health;
mod item;
mod link;
mod named;
mod pace;
mod resource;
mod served;
mod store;

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ::kube::Client;
use tokio::sync::mpsc::{self, Receiver, UnboundedReceiver};
use tokio::task::JoinSet;
use tokio::time::sleep_until;

use self::follow::{Follower, Out, Told, What};
pub use self::health::{Health, ResourceHealth};
use self::link::Link;
use self::named::Named;
use self::pace::Pace;
use self::resource::{Feed, feeds};
use self::served::Discovery;
use self::store::Store;
use super::course::{Backing, Course};
use super::{Changes, Coverage, Published, SourceError, SourceThread};
use crate::history::{self, Text};
use crate::kube::{self, Failure, KubeError};
use crate::model::Warning;
use crate::model::build::Builder;
use crate::names::Answer;
use crate::objects::{Kind, ObjectKey};

/// In a storm snapshots are so far apart: or as one takes to make, if that is more, but never more than twice this.
const PAUSE: Duration = Duration::from_millis(50);
/// What watches have seen and isn't looked at yet; then they wait.
const AHEAD: usize = 256;
/// Label of metrics for looking for resources.
const DISCOVERY: &str = "discovery";

/// What others want of the source's thread.
enum Order {
    Operator(history::Request),
    Named(Answer),
    Stop,
}

/// Starts the thread, once it is known which API server to follow and as whom.
pub(super) fn spawn(builder: Builder, published: Published) -> Result<SourceThread, SourceError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (send, orders) = mpsc::unbounded_channel();
    let (operator, told) = (send.clone(), send.clone());
    let (begun, begins) = std::sync::mpsc::channel();
    let thread = std::thread::Builder::new().name("source".into()).spawn(move || {
        runtime.block_on(async move {
            let (server, client) = match client().await {
                Ok(made) => made,
                // Whoever started this waits for the answer.
                Err(error) => return drop(begun.send(Err(error))),
            };
            let _ = begun.send(Ok(()));
            let health = published.health.clone();
            let feeds: Arc<[Feed]> = feeds(&builder.options().node).into();
            let course = Course::new(
                builder,
                published,
                // The thread of the source may have ended.
                move |answer| drop(told.send(Order::Named(answer))),
                move |request| operator.send(Order::Operator(request)).is_ok(),
            );
            Main::new(course, server, feeds, health).run(client, orders).await;
        });
    })?;
    let source = SourceThread::new(move || drop(send.send(Order::Stop)), thread);
    match begins.recv() {
        Ok(Ok(())) => Ok(source),
        Ok(Err(error)) => Err(error.into()),
        Err(_) => Err(io::Error::other("the source's thread ended at its start").into()),
    }
}

async fn client() -> Result<(String, Client), KubeError> {
    let config = kube::config().await?;
    Ok((config.cluster_url.to_string(), kube::client(&config)?))
}

/// The thread's state.
struct Main {
    course: Course,
    state: State,
    health: Arc<Health>,
    /// Since when something waits to be put in force.
    waiting: Option<Instant>,
    /// What is to be told of the watches themselves isn't told yet.
    news: bool,
    /// Nothing is put in force before.
    not_before: Instant,
    /// Something was put in force.
    begun: bool,
}

/// What is known.
struct State {
    server: String,
    feeds: Arc<[Feed]>,
    store: Store,
    link: Link,
}

impl Backing for State {
    fn coverage(&self) -> Coverage {
        self.store.coverage()
    }
    fn is_available(&self) -> bool {
        self.store.is_read()
    }
    fn text(&self, key: &ObjectKey) -> Option<Text> {
        self.store.text(key)
    }
    fn origin(&self, key: &ObjectKey) -> Option<String> {
        self.store.has(key).then(|| self.server.clone())
    }
    fn warnings(&self) -> Vec<Warning> {
        let mut warnings = self.link.warnings(&self.server, &self.feeds);
        warnings.extend(self.store.warnings().map(|warning| warning.clone().at(self.server.clone())));
        warnings
    }
}

impl Main {
    fn new(course: Course, server: String, feeds: Arc<[Feed]>, health: Arc<Health>) -> Self {
        health.begin(server.clone(), feeds.iter().map(|feed| feed.name).chain([DISCOVERY]));
        tracing::info!(server, watches = feeds.len(), "following the API server");
        let store = Store::new(&feeds);
        let state = State { server, feeds, store, link: Link::default() };
        Self { course, state, health, waiting: None, news: false, not_before: Instant::now(), begun: false }
    }

    async fn run(mut self, client: Client, mut orders: UnboundedReceiver<Order>) {
        // Its end is that of every watch.
        let (mut told, mut watches, mut named) = self.watch(&client);
        loop {
            let due = [self.due(), self.course.due()].into_iter().flatten().min();
            tokio::select! {
                order = orders.recv() => match order {
                    Some(Order::Operator(request)) => self.course.obey(request, &self.state),
                    Some(Order::Named(answer)) => self.course.learn(answer, &self.state),
                    Some(Order::Stop) | None => return self.course.finish(),
                },
                Some(first) = told.recv() => {
                    self.take(first, &mut named);
                    // No more than there is room for: the rest waits for the next round.
                    for _ in 0..AHEAD {
                        let Ok(next) = told.try_recv() else { break };
                        self.take(next, &mut named);
                    }
                    self.follow(&mut named, &mut watches);
                }
                () = sleep_until(due.unwrap_or_else(Instant::now).into()), if due.is_some() => {}
            }
            let now = Instant::now();
            self.course.save(now);
            if self.due().is_some_and(|due| due <= now) {
                self.put_in_force();
            }
        }
    }

    /// Starts every watch.
    fn watch(&self, client: &Client) -> (Receiver<Told>, JoinSet<()>, Named) {
        let (send, told) = mpsc::channel(AHEAD);
        let out = |at| Out { at, part: None, told: send.clone(), health: self.health.clone() };
        let feeds = &self.state.feeds;
        let mut tasks = JoinSet::new();
        let (discovery, look) = Discovery::new(client.clone(), feeds.clone(), out(feeds.len()));
        tasks.spawn(discovery.run());
        let place = feeds.iter().position(Feed::is_named).unwrap_or(feeds.len());
        let named = Named::new(client.clone(), look.clone(), out(place));
        for (at, feed) in feeds.iter().enumerate().filter(|(_, feed)| !feed.is_named()) {
            let follower = Follower {
                feed: feed.clone(),
                client: client.clone(),
                look: look.clone(),
                out: out(at),
                pace: Pace::default(),
                had_some: false,
            };
            tasks.spawn(follower.run());
        }
        (told, tasks, named)
    }

    /// Once the policies are known, and what they name was read, that is all there is of it.
    fn follow(&mut self, named: &mut Named, watches: &mut JoinSet<()>) {
        let gone = named.follow(watches);
        if named.is_empty() && !gone.is_empty() {
            // Its failures were those of watches that are no more.
            let news = self.state.link.work(named.at());
            self.tell(news, Instant::now());
        }
        for name in gone {
            self.state.store.forget(named.at(), &name);
        }
        if named.is_read() {
            self.state.store.complete(named.at());
        }
    }

    fn due(&self) -> Option<Instant> {
        self.waiting.map(|since| since.max(self.not_before))
    }

    /// Notes what a watch tells.
    fn take(&mut self, told: Told, named: &mut Named) {
        let Told { at, part, seen, what } = told;
        let State { store, link, feeds, .. } = &mut self.state;
        if part.as_ref().is_some_and(|part| !named.follows(part)) {
            // It comes late, of a watch that was ended.
            return;
        }
        if feeds.get(at).is_some_and(|feed| feed.resource.reads == Some(Kind::BackendTlsPolicy)) {
            named.policies(&what);
        }
        match what {
            What::All(items) if let Some(part) = part => {
                named.read(&part);
                store.replace_one(at, &part, items.into_iter().next());
            }
            What::All(items) => {
                tracing::debug!(resource = feeds[at].name, objects = items.len(), "read from the API server");
                store.replace(at, items);
            }
            What::Put(item) => store.put(at, *item),
            What::Gone(name, uid) => store.remove(at, &name, &uid),
            What::Well => {
                let news = link.work(at);
                return self.tell(news, seen);
            }
            // That there is no such CRD is no failure.
            What::Failed(Failure::NotFound) if feeds.get(at).is_none_or(|feed| !feed.resource.built_in) => {
                return;
            }
            What::Failed(failure) => {
                let news = link.fail(at, failure);
                return self.tell(news, seen);
            }
        }
        self.health.set_objects(at, store.count(at));
        self.waiting.get_or_insert(seen);
    }

    fn tell(&mut self, news: bool, seen: Instant) {
        if news {
            self.news = true;
            self.waiting.get_or_insert(seen);
        }
    }

    fn put_in_force(&mut self) {
        let Some(noticed) = self.waiting.take() else { return };
        let started = Instant::now();
        let news = std::mem::take(&mut self.news);
        if !self.state.store.is_read() {
            return self.course.warn(&self.state);
        }
        let changes: Changes = self.state.store.take_changes();
        // Most of what is written to a cluster says nothing new to a mesh.
        if self.begun && changes.is_empty() && !self.state.store.take_restated() && !news {
            return;
        }
        self.course.look(&changes, noticed, &self.state);
        if !std::mem::replace(&mut self.begun, true) {
            tracing::info!(
                objects = changes.upserts.len(),
                "the API server was read, its objects are in force"
            );
        }
        let now = Instant::now();
        self.not_before = now + (now - started).clamp(PAUSE, PAUSE * 2);
    }
}
