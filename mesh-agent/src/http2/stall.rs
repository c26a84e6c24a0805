//! Whether a stream still moves: a coarse clock per connection instead of a timer per stream.
//!
//! `stream` notes every move and what it waits for; `server` advances the clock every few seconds while there are
//! streams, and wakes those that have stood still for too long.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Waker};

use crate::proxy::ErrorKind;

/// Ticks of one connection.
pub(super) type Ticks = Rc<Cell<u32>>;

/// One stream's progress.
#[derive(Debug)]
pub(super) struct Stall {
    ticks: Ticks,
    moved_at: Cell<u32>,
    waits_for: Cell<Option<ErrorKind>>,
    over: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Stall {
    pub(super) fn new(ticks: &Ticks) -> Rc<Self> {
        Rc::new(Self {
            ticks: ticks.clone(),
            moved_at: Cell::new(ticks.get()),
            waits_for: Cell::new(None),
            over: Cell::new(false),
            waker: RefCell::new(None),
        })
    }

    /// Something was passed on.
    pub(super) fn moved(&self) {
        self.moved_at.set(self.ticks.get());
    }

    /// What ends the stream if it waits too long from here; None if it may wait.
    pub(super) fn wait_for(&self, error: Option<ErrorKind>, cx: &Context<'_>) {
        self.waits_for.set(error);
        if error.is_some() && self.waker.borrow().is_none() {
            // A stream's waker stays the same for its life: it belongs to the set that polls it.
            self.waker.replace(Some(cx.waker().clone()));
        }
    }

    /// It may wait for as long as it likes.
    pub(super) fn wait_for_nothing(&self) {
        self.waits_for.set(None);
    }

    /// The error to end with, once it has waited for too long.
    pub(super) fn over(&self) -> Option<ErrorKind> {
        if self.over.get() { self.waits_for.get() } else { None }
    }

    /// Wakes the stream to its end if it has stood still for `limit` ticks.
    pub(super) fn check(&self, limit: u32) {
        if self.waits_for.get().is_some() && self.ticks.get().wrapping_sub(self.moved_at.get()) >= limit {
            self.over.set(true);
            self.waker.borrow().iter().for_each(Waker::wake_by_ref);
        }
    }
}
