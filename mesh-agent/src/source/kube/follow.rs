//! One watch: a list page by page, then every change, and on from there for as long as the API server allows.
//!
//! kube's own watcher isn't used for three things that it lacks: after a restored backup the API server waits for versions
//! that it will never have, and a list is the way out; when it was last heard, bookmarks included; and a resource may vanish. Comes before `store`, which `super` tells what is sent from here.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ::kube::Client;
use ::kube::api::{ListParams, WatchParams};
use ::kube::core::Request as ApiRequest;
use http::Request;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::ask::{self, Status};
use super::health::Health;
use super::item::{Head, Item};
use super::pace::{Pace, jitter};
use super::resource::Feed;
use super::served::{Found, Look};
use crate::kube::Failure;
use crate::model::ObjectName;

/// Objects in a page of a list.
const PAGE: u32 = 500;
/// Between half of it and all of it the API server ends a watch, so that not all nodes come at once. Seconds.
const WATCH_SECONDS: u32 = 280;
/// A watch that says nothing for so long, not even a bookmark (one comes each minute), is of a server that hangs, or waits for
/// versions that it will never have: everything is read again.
const SILENCE: Duration = Duration::from_secs(120);
/// A watch that ends sooner wasn't one: the next waits.
const SHORT: Duration = Duration::from_secs(1);
/// After so many refusals in a row to go on from where it was, everything is read again.
const REFUSALS: u32 = 3;
/// A resource that was there is believed to be gone after so long: an API server that starts doesn't know its CRDs yet.
const GONE: Duration = Duration::from_secs(10);

/// Nobody listens any more.
#[derive(Debug)]
pub struct Ended;

/// What a watch tells.
#[derive(Debug)]
pub struct Told {
    /// Which watch.
    pub at: usize,
    /// Of which object, where each has a watch of its own.
    pub part: Option<ObjectName>,
    /// When it was seen.
    pub seen: Instant,
    /// What.
    pub what: What,
}

/// What a watch tells.
#[derive(Debug)]
pub enum What {
    /// Everything that is there.
    All(Vec<Item>),
    /// This is new or changed.
    Put(Box<Item>),
    /// This is gone.
    Gone(ObjectName, Box<str>),
    /// It works.
    Well,
    /// It failed, and is tried again.
    Failed(Failure),
}

/// Where one watch tells.
#[derive(Clone, Debug)]
pub struct Out {
    /// Its place.
    pub at: usize,
    /// The object that it is for, where each has a watch of its own.
    pub part: Option<ObjectName>,
    /// To whom.
    pub told: mpsc::Sender<Told>,
    /// For metrics.
    pub health: Arc<Health>,
}

impl Out {
    async fn tell(&self, what: What) -> Result<(), Ended> {
        let told = Told { at: self.at, part: self.part.clone(), seen: Instant::now(), what };
        self.told.send(told).await.map_err(|_| Ended)
    }

    /// It works.
    pub async fn well(&self) -> Result<(), Ended> {
        self.health.heard(self.at);
        self.health.set_connected(self.at, true);
        self.tell(What::Well).await
    }

    /// It failed.
    pub async fn failed(&self, failure: Failure) -> Result<(), Ended> {
        tracing::debug!(watch = self.at, failure = failure.label(), "a request to the API server failed");
        self.health.failed(failure);
        self.health.set_connected(self.at, false);
        self.tell(What::Failed(failure)).await
    }
}

/// The task.
pub struct Follower {
    /// What is watched.
    pub feed: Feed,
    /// By this.
    pub client: Client,
    /// Whether it is served.
    pub look: Look,
    /// Who is told.
    pub out: Out,
    /// When what failed is tried again.
    pub pace: Pace,
    /// It has told of objects that may be there still.
    pub had_some: bool,
}

#[derive(Debug, Deserialize)]
struct Page<'a> {
    metadata: PageMetadata,
    #[serde(default, borrow)]
    items: Option<Vec<&'a RawValue>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PageMetadata {
    #[serde(default)]
    resource_version: String,
    #[serde(default, rename = "continue")]
    next: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Event<'a> {
    #[serde(rename = "type")]
    kind: EventKind,
    #[serde(borrow)]
    object: &'a RawValue,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum EventKind {
    Added,
    Modified,
    Deleted,
    Bookmark,
    Error,
    /// Of a later API.
    #[serde(other)]
    Other,
}

/// Why a watch doesn't go on from where it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Everything has to be read again.
    Expired,
    /// There is no such resource any more.
    Missing,
}

impl Follower {
    /// Follows the resource, whatever becomes of it, until nobody listens.
    pub async fn run(mut self) {
        // There is nobody left to be told.
        let _ = self.follow().await;
    }

    async fn follow(&mut self) -> Result<(), Ended> {
        loop {
            let version = self.version().await?;
            while self.list_and_watch(version).await? == End::Expired {
                // Where one node has to read everything again, others have to as well.
                sleep(jitter(SHORT / 4)).await;
            }
            self.failed(Failure::NotFound).await?;
            self.ask_anew().await?;
        }
    }

    /// In which version it is to be asked for. As long as there is none, nothing is there.
    async fn version(&mut self) -> Result<&'static str, Ended> {
        if self.feed.resource.built_in {
            return Ok(self.feed.resource.versions[0]);
        }
        let mut told = false;
        loop {
            match self.look.found(self.out.at).1 {
                Some(Found::Version(version)) => return Ok(version),
                Some(Found::Missing(since)) if !self.had_some || since.elapsed() >= GONE => {
                    if !std::mem::replace(&mut told, true) {
                        self.had_some = false;
                        self.out.health.set_missing(self.out.at);
                        self.out.tell(What::All(Vec::new())).await?;
                        self.out.well().await?;
                    }
                }
                Some(Found::Missing(_)) | None => {}
            }
            self.look.changed().await?;
        }
    }

    /// Has it looked at which version is served, and waits for that.
    async fn ask_anew(&mut self) -> Result<(), Ended> {
        if self.feed.resource.built_in {
            return Ok(());
        }
        let (before, _) = self.look.found(self.out.at);
        self.look.again();
        while self.look.found(self.out.at).0 == before {
            self.look.changed().await?;
        }
        Ok(())
    }

    async fn list_and_watch(&mut self, version: &'static str) -> Result<End, Ended> {
        let mut mark = loop {
            match self.list(version).await {
                Ok((items, mark)) => {
                    self.had_some = !items.is_empty();
                    self.out.health.listed(self.out.at);
                    self.out.tell(What::All(items)).await?;
                    self.well().await?;
                    break mark;
                }
                Err(Failure::NotFound) => return Ok(End::Missing),
                Err(failure) => self.failed(failure).await?,
            }
        };
        let mut refusals = 0;
        loop {
            let began = Instant::now();
            match self.watch(version, &mut mark).await? {
                Ok(()) => {
                    refusals = 0;
                    if began.elapsed() < SHORT {
                        sleep(jitter(SHORT / 2)).await;
                    }
                }
                Err(Failure::NotFound) => return Ok(End::Missing),
                Err(Failure::Expired) => {
                    self.out.health.failed(Failure::Expired);
                    return Ok(End::Expired);
                }
                Err(failure) => {
                    refusals += u32::from(is_refusal(failure));
                    self.failed(failure).await?;
                    if refusals >= REFUSALS {
                        return Ok(End::Expired);
                    }
                }
            }
        }
    }

    /// Everything that is there, and the version that it is of. Nothing of it is told before all of it was read.
    async fn list(&self, version: &str) -> Result<(Vec<Item>, String), Failure> {
        let mut parameters = ListParams { limit: Some(PAGE), ..ListParams::default() };
        parameters.field_selector.clone_from(&self.feed.fields);
        let mut items = Vec::new();
        loop {
            let request = ApiRequest::new(self.feed.path(version)).list(&parameters);
            let body = ask::whole(&self.client, request.map_err(|_| Failure::Broken)?).await?;
            self.out.health.heard(self.out.at);
            let page: Page<'_> = serde_json::from_slice(&body).map_err(|_| Failure::Broken)?;
            for json in page.items.unwrap_or_default() {
                items.extend(self.item(version, json));
            }
            match page.metadata.next.filter(|next| !next.is_empty()) {
                Some(next) => parameters.continue_token = Some(next),
                None if page.metadata.resource_version.is_empty() => return Err(Failure::Broken),
                None => return Ok((items, page.metadata.resource_version)),
            }
        }
    }

    /// Every change after `mark`, which goes with them; until the watch ends, or fails.
    async fn watch(&mut self, version: &str, mark: &mut String) -> Result<Result<(), Failure>, Ended> {
        let begun = match self.request(version, mark) {
            Ok(request) => ask::lines(&self.client, request).await,
            Err(failure) => Err(failure),
        };
        let mut lines = match begun {
            Ok(lines) => lines,
            Err(failure) => return Ok(Err(failure)),
        };
        self.well().await?;
        loop {
            let line = match lines.next(SILENCE).await {
                Ok(Some(line)) => line,
                Ok(None) => return Ok(Ok(())),
                Err(Failure::Timeout) => return Ok(Err(Failure::Expired)),
                Err(failure) => return Ok(Err(failure)),
            };
            self.out.health.heard(self.out.at);
            if line.is_empty() {
                continue;
            }
            let Ok(event) = serde_json::from_slice::<Event<'_>>(line) else {
                return Ok(Err(Failure::Broken));
            };
            if event.kind == EventKind::Error {
                let status = serde_json::from_str::<Status>(event.object.get());
                return Ok(Err(status.map_or(Failure::Broken, |status| status.failure())));
            }
            let Ok(head) = Head::read(event.object) else { return Ok(Err(Failure::Broken)) };
            let what = self.change(version, &event, &head);
            if let Some(version) = head.version() {
                version.clone_into(mark);
            }
            if let Some(what) = what {
                self.had_some = true;
                self.out.tell(what).await?;
            }
        }
    }

    fn request(&self, version: &str, mark: &str) -> Result<Request<Vec<u8>>, Failure> {
        let timeout = fastrand::u32(WATCH_SECONDS / 2..=WATCH_SECONDS);
        let mut parameters =
            WatchParams { timeout: Some(timeout), bookmarks: true, ..WatchParams::default() };
        parameters.field_selector.clone_from(&self.feed.fields);
        let request = ApiRequest::new(self.feed.path(version)).watch(&parameters, mark);
        request.map_err(|_| Failure::Broken)
    }

    fn change(&self, version: &str, event: &Event<'_>, head: &Head) -> Option<What> {
        match event.kind {
            EventKind::Added | EventKind::Modified => {
                self.item(version, event.object).map(Box::new).map(What::Put)
            }
            EventKind::Deleted => Some(What::Gone(head.name(), head.uid().into())),
            EventKind::Bookmark | EventKind::Error | EventKind::Other => None,
        }
    }

    fn item(&self, version: &str, json: &RawValue) -> Option<Item> {
        match Head::read(json) {
            Ok(head) => Some(Item::read(&self.feed, version, &head, json)),
            Err(error) => {
                tracing::warn!(resource = self.feed.name, %error, "the API server sent something that is no object");
                None
            }
        }
    }

    async fn well(&mut self) -> Result<(), Ended> {
        self.pace.reset();
        self.out.well().await
    }

    /// Tells of it, and waits before the next try.
    async fn failed(&mut self, failure: Failure) -> Result<(), Ended> {
        self.out.failed(failure).await?;
        sleep(self.pace.next()).await;
        Ok(())
    }
}

/// True if the API server is there and doesn't do what it is asked for, as for a version that it hasn't reached.
const fn is_refusal(failure: Failure) -> bool {
    matches!(failure, Failure::Refused | Failure::Timeout | Failure::Broken)
}
