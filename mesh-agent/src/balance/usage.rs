//! How much of a service port's limits is in use: connections, requests, retries.
//!
//! Counted over all workers and pods of the agent, since it is the one proxy of its node. A place is taken before what it
//! is for begins, and given back on drop. Comes after the choice, before `proxy::upstream`.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;

use super::queue::Places;

/// The counts of one service port.
#[derive(Debug, Default)]
pub struct Usage {
    /// HTTP/1 and opaque connections open, and what waits for one.
    pub connections: Places,
    /// Requests under way.
    pub requests: Count,
    /// Requests under way that are sent once more.
    pub retries: Count,
}

/// One count.
#[derive(Clone, Debug, Default)]
pub struct Count(Arc<AtomicU32>);

/// One place of a count, until dropped.
#[derive(Debug)]
pub struct Place(Arc<AtomicU32>);

impl Count {
    /// A place, unless `limit` are taken.
    pub fn take(&self, limit: Option<u32>) -> Option<Place> {
        let limit = limit.unwrap_or(u32::MAX);
        let taken = self.0.fetch_update(Relaxed, Relaxed, |count| (count < limit).then_some(count + 1));
        taken.ok().map(|_| Place(self.0.clone()))
    }

    /// How many are taken.
    pub fn get(&self) -> u32 {
        self.0.load(Relaxed)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_never_passes_its_limit_and_places_come_back() {
        let count = Count::default();
        let places: Vec<_> = (0..5).filter_map(|_| count.take(Some(3))).collect();
        assert_eq!((places.len(), count.get()), (3, 3));
        drop(places);
        assert_eq!(count.get(), 0);
        assert!(count.take(Some(1)).is_some());
    }
}
