//! A limited number of places, and the queue of those that wait for one: first come, first served.
//!
//! Counted and queued over all workers of the agent. Taking and giving back a place is one atomic operation while nobody
//! waits; the queue has a lock, which only those take that wait or have somebody wait for them. Comes after the choice of
//! an endpoint, before `proxy::upstream`.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::sync::oneshot;

/// So many may wait where the policy doesn't say (Envoy's default for `max_pending_requests`).
pub const MOST_WAITING: u32 = 1024;

/// Places of one kind.
#[derive(Clone, Debug, Default)]
pub struct Places(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// A newcomer must see both counts at once: it may take a free place only if nobody waits.
    counts: AtomicU64,
    limit: AtomicU32,
    most_waiting: AtomicU32,
    resting: AtomicU32,
    queue: Mutex<Queue>,
}

/// Places taken and entries in the queue, as one number.
#[derive(Clone, Copy)]
struct Counts {
    taken: u32,
    waiting: u32,
}

#[derive(Debug, Default)]
struct Queue {
    next: u64,
    entries: VecDeque<Entry>,
}

#[derive(Debug)]
struct Entry {
    ticket: u64,
    owner: usize,
    grant: oneshot::Sender<Place>,
}

/// One place, until dropped.
#[derive(Debug)]
pub struct Place {
    shared: Option<Arc<Shared>>,
    resting: bool,
}

/// What became of somebody who asked for a place.
#[derive(Debug)]
pub enum Asked {
    /// It has one.
    Taken(Place),
    /// It has to wait.
    Waiting(Waiting),
    /// Too many wait already.
    Full,
}

/// A wait for a place. Whoever drops it leaves the queue.
#[derive(Debug)]
pub struct Waiting {
    shared: Arc<Shared>,
    ticket: u64,
    granted: oneshot::Receiver<Place>,
}

/// Who has a place that was passed on.
#[derive(Debug)]
pub enum Passed {
    /// Nobody waits: its holder may keep it.
    Back(Place),
    /// The first of the queue, with the same owner: this is its ticket.
    Within(u64),
    /// Somebody else, or nobody where there are more than are allowed by now.
    Elsewhere,
}

impl Places {
    /// From now on so many are there, and so many may wait. None: no limit, and [`MOST_WAITING`]. Whoever waits gets what
    /// becomes free by it.
    pub fn set_limits(&self, places: Option<u32>, waiting: Option<u32>) {
        let mut queue = self.0.lock();
        self.0.limit.store(places.unwrap_or(u32::MAX), Relaxed);
        self.0.most_waiting.store(waiting.unwrap_or(MOST_WAITING), Relaxed);
        self.0.admit(&mut queue);
    }

    /// A place, unless all are taken or others wait.
    pub fn take(&self) -> Option<Place> {
        let shared = &self.0;
        let taken = shared.change(|counts| {
            let free = counts.waiting == 0 && counts.taken < shared.limit.load(Relaxed);
            free.then_some(Counts { taken: counts.taken + 1, ..counts })
        });
        taken.map(|_| Place::new(shared))
    }

    /// A place, or a wait for one. `owner` tells apart who could make use of what a place is passed on with.
    pub fn ask(&self, owner: usize) -> Asked {
        if let Some(place) = self.take() {
            return Asked::Taken(place);
        }
        let shared = &self.0;
        let mut queue = shared.lock();
        let free = |counts: Counts| counts.waiting == 0 && counts.taken < shared.limit.load(Relaxed);
        let before = shared.change(|counts| match counts {
            _ if free(counts) => Some(Counts { taken: counts.taken + 1, ..counts }),
            Counts { waiting, .. } if waiting >= shared.most_waiting.load(Relaxed) => None,
            Counts { waiting, .. } => Some(Counts { waiting: waiting + 1, ..counts }),
        });
        match before {
            None => Asked::Full,
            // One was given back meanwhile.
            Some(before) if free(before) => Asked::Taken(Place::new(shared)),
            Some(_) => {
                let (grant, granted) = oneshot::channel();
                let ticket = queue.next;
                queue.next += 1;
                queue.entries.push_back(Entry { ticket, owner, grant });
                Asked::Waiting(Waiting { shared: shared.clone(), ticket, granted })
            }
        }
    }

    /// How many are taken.
    pub fn taken(&self) -> u32 {
        self.0.counts().taken
    }

    /// How many wait.
    pub fn waiting(&self) -> u32 {
        self.0.counts().waiting
    }

    /// True if a place is held by what is of no use to its holder at present.
    pub fn any_resting(&self) -> bool {
        self.0.resting.load(Relaxed) > 0
    }
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            counts: AtomicU64::default(),
            limit: u32::MAX.into(),
            most_waiting: MOST_WAITING.into(),
            resting: AtomicU32::default(),
            queue: Mutex::default(),
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn counts(&self) -> Counts {
        self.counts.load(Relaxed).into()
    }

    /// Changes the counts as `how` says, and returns them as they were before; None if it says None. Relaxed: what else is
    /// shared is under the lock.
    fn change(&self, how: impl Fn(Counts) -> Option<Counts>) -> Option<Counts> {
        let how = |counts: u64| how(counts.into()).map(u64::from);
        self.counts.fetch_update(Relaxed, Relaxed, how).ok().map(Counts::from)
    }

    fn give_back(self: &Arc<Self>) {
        let one_less = |counts: Counts| Counts { taken: counts.taken - 1, ..counts };
        if self.change(|counts| (counts.waiting == 0).then(|| one_less(counts))).is_some() {
            return;
        }
        let mut queue = self.lock();
        self.change(|counts| Some(one_less(counts)));
        self.admit(&mut queue);
    }

    /// Gives the places that are free to those that wait.
    fn admit(self: &Arc<Self>, queue: &mut Queue) {
        while self.counts().taken < self.limit.load(Relaxed)
            && let Some(entry) = queue.entries.pop_front()
        {
            self.change(|counts| Some(Counts { taken: counts.taken + 1, waiting: counts.waiting - 1 }));
            self.grant(entry);
        }
    }

    /// Whoever waits takes its entry out under the lock before it stops listening, so this reaches it.
    fn grant(self: &Arc<Self>, entry: Entry) {
        if let Err(mut unheard) = entry.grant.send(Place::new(self)) {
            unheard.shared = None;
            self.change(|counts| Some(Counts { taken: counts.taken - 1, ..counts }));
        }
    }
}

impl Place {
    fn new(shared: &Arc<Shared>) -> Self {
        Self { shared: Some(shared.clone()), resting: false }
    }

    /// Gives it to the first of the queue, if there is one.
    pub fn pass_on(mut self, owner: usize) -> Passed {
        let Some(shared) = self.shared.clone() else { return Passed::Elsewhere };
        let Counts { taken, waiting } = shared.counts();
        if waiting == 0 && taken <= shared.limit.load(Relaxed) {
            return Passed::Back(self);
        }
        let mut queue = shared.lock();
        let within = shared.counts().taken <= shared.limit.load(Relaxed);
        let first = if within { queue.entries.pop_front() } else { None };
        match first {
            Some(entry) => {
                let passed = match entry.owner == owner {
                    true => Passed::Within(entry.ticket),
                    false => Passed::Elsewhere,
                };
                self.shared = None;
                shared.change(|counts| Some(Counts { waiting: counts.waiting - 1, ..counts }));
                shared.grant(entry);
                passed
            }
            None if within => Passed::Back(self),
            None => {
                drop(queue);
                Passed::Elsewhere
            }
        }
    }

    /// True if somebody waits for one like it.
    pub fn is_wanted(&self) -> bool {
        self.shared.as_ref().is_some_and(|shared| shared.counts().waiting > 0)
    }

    /// Its holder has no use for it at present, and would give it away for whoever asks.
    pub fn rest(&mut self) {
        if let Some(shared) = self.shared.as_ref().filter(|_| !self.resting) {
            shared.resting.fetch_add(1, Relaxed);
            self.resting = true;
        }
    }

    /// Its holder has.
    pub fn wake(&mut self) {
        if let Some(shared) = self.shared.as_ref().filter(|_| self.resting) {
            shared.resting.fetch_sub(1, Relaxed);
            self.resting = false;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.wake();
        if let Some(shared) = self.shared.take() {
            shared.give_back();
        }
    }
}

impl Waiting {
    /// Tells it from every other wait for the same places.
    pub fn ticket(&self) -> u64 {
        self.ticket
    }
}

impl Future for Waiting {
    type Output = Place;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Place> {
        match ready!(Pin::new(&mut self.granted).poll(cx)) {
            Ok(place) => Poll::Ready(place),
            // Its entry is only ever taken out to be granted.
            Err(_) => Poll::Pending,
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut queue = self.shared.lock();
        // Tickets stand in their order.
        if let Ok(at) = queue.entries.binary_search_by_key(&self.ticket, |entry| entry.ticket) {
            queue.entries.remove(at);
            self.shared.change(|counts| Some(Counts { waiting: counts.waiting - 1, ..counts }));
        }
    }
}

impl From<u64> for Counts {
    fn from(both: u64) -> Self {
        Self { taken: both as u32, waiting: (both >> 32) as u32 }
    }
}

impl From<Counts> for u64 {
    fn from(Counts { taken, waiting }: Counts) -> Self {
        Self::from(waiting) << 32 | Self::from(taken)
    }
}

#[cfg(test)]
mod tests;
