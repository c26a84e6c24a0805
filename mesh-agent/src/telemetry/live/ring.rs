//! Buckets of figures by time, bounded in number and in bytes. Pure: time is milliseconds of the wall clock, so that the
//! buckets of several nodes begin together.
//!
//! The newest bucket is open and kept as it is; full ones are packed, a row for each number that moved in it.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::figures::{Figures, pull, push};

/// A clock that is set back by more than this begins anew; by less, the newest bucket lasts until it has caught up.
const SET_BACK: u64 = 60_000;

/// The ring.
#[derive(Debug)]
pub(super) struct Ring {
    bucket: u64,
    keep: usize,
    most_bytes: usize,
    /// Oldest first; none is empty.
    full: VecDeque<Bucket>,
    bytes: usize,
    open: BTreeMap<u32, Figures>,
    /// Where the newest bucket begins.
    start: u64,
    /// Where what is kept begins.
    begin: u64,
}

#[derive(Debug)]
struct Bucket {
    start: u64,
    rows: Box<[u8]>,
}

/// What a window comes to.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) wanted: Duration,
    pub(super) covered: Duration,
    /// Start of the first bucket.
    pub(super) from: u64,
}

impl Ring {
    pub(super) fn new(bucket: Duration, keep: usize, most_bytes: usize, now: u64) -> Self {
        let bucket = u64::try_from(bucket.as_millis()).unwrap_or(u64::MAX).max(1);
        Self {
            bucket,
            keep,
            most_bytes,
            full: VecDeque::new(),
            bytes: 0,
            open: BTreeMap::new(),
            start: now - now % bucket,
            begin: now,
        }
    }

    /// True where [`Self::advance`] would change something.
    pub(super) fn is_due(&self, now: u64) -> bool {
        now >= self.start + self.bucket || now + SET_BACK < self.start
    }

    /// Adds to the newest bucket.
    pub(super) fn add(&mut self, row: u32, figures: &Figures) {
        self.open.entry(row).or_default().add(figures);
    }

    /// Closes the newest bucket if it is over, and lets go of the oldest.
    pub(super) fn advance(&mut self, now: u64) {
        if !self.is_due(now) {
            return;
        }
        if now < self.start {
            *self = Self {
                full: VecDeque::new(),
                bytes: 0,
                open: BTreeMap::new(),
                start: now - now % self.bucket,
                begin: now,
                ..*self
            };
            return;
        }
        self.close();
        self.start = now - now % self.bucket;
        let kept = self.start.saturating_sub(self.bucket * self.keep as u64);
        while self.full.front().is_some_and(|oldest| oldest.start < kept || self.bytes > self.most_bytes) {
            if let Some(oldest) = self.full.pop_front() {
                self.bytes -= oldest.rows.len();
                self.begin = self.begin.max(oldest.start + self.bucket);
            }
        }
        self.begin = self.begin.max(kept);
    }

    fn close(&mut self) {
        let mut rows = Vec::new();
        for (row, figures) in std::mem::take(&mut self.open) {
            push(&mut rows, row.into());
            figures.pack(&mut rows);
        }
        if !rows.is_empty() {
            self.bytes += rows.len();
            self.full.push_back(Bucket { start: self.start, rows: rows.into() });
        }
    }

    /// Where the newest bucket begins.
    pub(super) fn newest(&self) -> u64 {
        self.start
    }

    /// No row is older.
    pub(super) fn oldest(&self) -> u64 {
        self.full.front().map_or(self.start, |oldest| oldest.start)
    }

    /// Full buckets of a window, and the newest.
    pub(super) fn span(&self, window: Duration, now: u64) -> Span {
        let wanted = u64::try_from(window.as_millis()).unwrap_or(u64::MAX);
        let buckets = wanted.div_ceil(self.bucket).clamp(1, self.keep as u64);
        let from = self.start.saturating_sub(buckets * self.bucket);
        let covered = now.saturating_sub(from.max(self.begin)).max(1000);
        let whole = Duration::from_millis(buckets * self.bucket);
        Span { wanted: whole, covered: Duration::from_millis(covered), from }
    }

    /// Every row of buckets that don't begin before `from`, oldest first.
    pub(super) fn read(&self, from: u64, mut each: impl FnMut(u64, u32, &Figures)) {
        for bucket in self.full.iter().filter(|bucket| bucket.start >= from) {
            let mut rows = &*bucket.rows;
            while let Some((row, figures)) = unpack(&mut rows) {
                each(bucket.start, row, &figures);
            }
        }
        self.open.iter().for_each(|(row, figures)| each(self.start, *row, figures));
    }

    /// What the full buckets take.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

fn unpack(rows: &mut &[u8]) -> Option<(u32, Figures)> {
    let row = u32::try_from(pull(rows)?).ok()?;
    Some((row, Figures::unpack(rows)?))
}
