//! Seats for the connections of a server that anybody may reach: a newcomer always gets one, and where none is left, the
//! connection that has been silent longest loses its own.
//!
//! So neither connections that never ask nor ones that never end keep a probe from being answered.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

/// Cheap to clone.
#[derive(Clone)]
pub(super) struct Seats {
    most: usize,
    taken: Arc<Mutex<Taken>>,
}

#[derive(Default)]
struct Taken {
    /// A clock that ticks with every event.
    now: u64,
    seats: Vec<Entry>,
}

struct Entry {
    /// When it was taken; no two are alike.
    id: u64,
    is_answering: bool,
    silent_since: u64,
    leave: Arc<Notify>,
}

/// One connection's; given back on drop.
pub(super) struct Seat {
    seats: Seats,
    id: u64,
    leave: Arc<Notify>,
}

impl Seats {
    pub(super) fn new(most: usize) -> Self {
        Self { most, taken: Arc::default() }
    }

    /// A seat for a new connection, if need be another's.
    pub(super) fn take(&self) -> Seat {
        let leave = Arc::new(Notify::new());
        let id = self.with(|taken| {
            if taken.seats.len() >= self.most {
                // Those that are answered right now go last.
                let longest = taken.seats.iter().enumerate();
                let longest = longest.min_by_key(|(_, seat)| (seat.is_answering, seat.silent_since));
                if let Some((at, _)) = longest {
                    taken.seats.swap_remove(at).leave.notify_one();
                }
            }
            let id = taken.tick();
            taken.seats.push(Entry { id, is_answering: false, silent_since: id, leave: leave.clone() });
            id
        });
        Seat { seats: self.clone(), id, leave }
    }

    fn with<T>(&self, f: impl FnOnce(&mut Taken) -> T) -> T {
        f(&mut self.taken.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Taken {
    fn tick(&mut self) -> u64 {
        self.now += 1;
        self.now
    }
}

impl Seat {
    /// The head of a request is there (`true`), or its answer is on its way.
    pub(super) fn answers(&self, is_answering: bool) {
        self.seats.with(|taken| {
            let now = taken.tick();
            if let Some(entry) = taken.seats.iter_mut().find(|entry| entry.id == self.id) {
                (entry.is_answering, entry.silent_since) = (is_answering, now);
            }
        });
    }

    /// Resolves when another connection has got it.
    pub(super) async fn lost(&self) {
        self.leave.notified().await;
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.seats.with(|taken| taken.seats.retain(|entry| entry.id != self.id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_lost(seat: &Seat) -> bool {
        seat.seats.with(|taken| taken.seats.iter().all(|entry| entry.id != seat.id))
    }

    #[test]
    fn whoever_is_silent_longest_makes_room() {
        let seats = Seats::new(3);
        let [one, two, three] = [seats.take(), seats.take(), seats.take()];
        one.answers(true);
        let _four = seats.take();
        assert_eq!([is_lost(&one), is_lost(&two), is_lost(&three)], [false, true, false]);
        one.answers(false);
        let _five = seats.take();
        assert_eq!([is_lost(&one), is_lost(&three)], [false, true], "it was heard of later");
        drop(one);
        let _six = seats.take();
        assert!(!is_lost(&_four) && !is_lost(&_five), "a seat that was given back is used first");
    }

    #[test]
    fn a_newcomer_gets_a_seat_though_all_are_being_answered() {
        let seats = Seats::new(2);
        let [one, two] = [seats.take(), seats.take()];
        one.answers(true);
        two.answers(true);
        let three = seats.take();
        assert_eq!([is_lost(&one), is_lost(&two), is_lost(&three)], [true, false, false]);
    }
}
