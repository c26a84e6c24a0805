//! How much of the source was read since the agent started: an agent that takes over must not take a pod for unwanted only
//! because nobody could read its object yet.
//!
//! Said by `directory`, published by `watch`, asked by the control loop and through it by the kernel's service map.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// How much was read. What was read once stays in force, so it only grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Coverage {
    /// The directory can't be listed, or a file is in the middle of being written: more is about to come.
    #[default]
    Awaited,
    /// Something can't be read or understood that may name pods or services, and won't before somebody mends it.
    Part,
    /// All that is there; an empty directory too.
    Whole,
}

/// Shared by the source and who follows it.
#[derive(Clone, Debug, Default)]
pub struct CoverageHandle(Arc<AtomicU8>);

impl CoverageHandle {
    /// As of now.
    pub fn get(&self) -> Coverage {
        let now = self.0.load(Ordering::Acquire);
        [Coverage::Whole, Coverage::Part].into_iter().find(|c| *c as u8 == now).unwrap_or_default()
    }

    /// True if that is more than before.
    pub(super) fn raise(&self, to: Coverage) -> bool {
        self.0.fetch_max(to as u8, Ordering::Release) < to as u8
    }
}
