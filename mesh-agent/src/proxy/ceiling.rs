//! How many connections the process may hold, by the descriptors that it may have, and how pods share them.
//!
//! `listener` takes a place for each connection that it accepts, `upstream` one for each that it keeps for later. Counted
//! over all workers by atomics; nothing here waits. Whoever gets no place is turned away, so that descriptors are left
//! for the admin servers, the source and other pods.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

/// Left to everything but connections: listeners and sockets made ahead in pods (some 50 a pod with four workers), kernel
/// maps, the source's files, admin and metrics connections.
const RESERVE: u64 = 16 * 1024;

/// What all pods share.
#[derive(Debug)]
pub struct Ceiling {
    most: usize,
    taken: AtomicUsize,
    kept: Arc<AtomicUsize>,
}

/// What one pod has of it, over all workers and both directions.
#[derive(Debug, Default)]
pub struct PodShare {
    taken: AtomicUsize,
    refused: AtomicU64,
}

/// A place among a pod's connections, given back on drop.
#[derive(Debug)]
pub struct Admitted {
    ceiling: Arc<Ceiling>,
    share: Arc<PodShare>,
}

/// A place among the unused connections that are kept, given back on drop.
#[derive(Debug)]
pub struct Kept(Arc<AtomicUsize>);

impl Ceiling {
    /// For a process that may have `descriptors` files open. A quarter, at most [`RESERVE`], isn't for connections; of the
    /// rest each connection has one for its client and one for its endpoint, and as many are for unused connections.
    pub fn for_descriptors(descriptors: u64) -> Arc<Self> {
        let most = (descriptors - (descriptors / 4).min(RESERVE)) / 3;
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        Arc::new(Self { most, taken: AtomicUsize::new(0), kept: Arc::default() })
    }

    /// A place for one more connection of a pod. A pod may have as many as are left free, so that however many pods take
    /// all they can get, as much as each has stays for the next one.
    pub fn admit(self: &Arc<Self>, share: &Arc<PodShare>, most_of_pod: usize) -> Option<Admitted> {
        let taken = self.taken.fetch_add(1, Relaxed);
        let of_pod = share.taken.fetch_add(1, Relaxed);
        // Given back by its drop where there is no room.
        let place = Admitted { ceiling: self.clone(), share: share.clone() };
        if of_pod < most_of_pod.min(self.most.saturating_sub(taken)) {
            return Some(place);
        }
        share.refused.fetch_add(1, Relaxed);
        None
    }

    /// A place for one more connection that nothing is on.
    pub fn keep(&self) -> Option<Kept> {
        let before = self.kept.fetch_add(1, Relaxed);
        let kept = Kept(self.kept.clone());
        (before < self.most).then_some(kept)
    }
}

impl PodShare {
    /// Places that the pod has now.
    pub fn taken(&self) -> usize {
        self.taken.load(Relaxed)
    }

    /// How often it got none.
    pub fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.share.taken.fetch_sub(1, Relaxed);
        self.ceiling.taken.fetch_sub(1, Relaxed);
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO_LIMIT: usize = usize::MAX;

    #[test]
    fn a_pod_that_takes_all_it_can_get_leaves_as_much_to_the_next() {
        let ceiling = Ceiling::for_descriptors(400);
        assert_eq!(ceiling.most, 100);
        let take_all = || {
            let share = Arc::new(PodShare::default());
            std::iter::from_fn(|| ceiling.admit(&share, NO_LIMIT)).take(1000).collect::<Vec<_>>()
        };
        let [first, second, third] = [take_all(), take_all(), take_all()];
        assert_eq!([first.len(), second.len(), third.len()], [50, 25, 13]);
        drop((first, second));
        assert_eq!(take_all().len(), 44, "what was given back is shared anew");
        assert_eq!(ceiling.taken.load(Relaxed), third.len(), "and nothing else is counted");
    }

    #[test]
    fn no_pod_has_more_than_its_own_limit() {
        let (ceiling, share) = (Ceiling::for_descriptors(1 << 20), Arc::new(PodShare::default()));
        let all: Vec<_> = std::iter::from_fn(|| ceiling.admit(&share, 7)).collect();
        assert_eq!(all.len(), 7);
        assert_eq!((share.taken(), share.refused()), (7, 1), "and what it was refused is counted");
    }

    #[test]
    fn kept_connections_have_places_of_their_own() {
        let ceiling = Ceiling::for_descriptors(8);
        let first = (ceiling.keep(), ceiling.keep());
        assert!(first.0.is_some() && first.1.is_some() && ceiling.keep().is_none());
        drop(first);
        assert!(ceiling.keep().is_some());
    }

    #[test]
    fn the_reserve_is_a_quarter_and_bounded() {
        let most = |descriptors| Ceiling::for_descriptors(descriptors).most;
        assert_eq!([most(1024), most(20_000), most(1 << 20)], [256, 5000, 344_064]);
    }
}
