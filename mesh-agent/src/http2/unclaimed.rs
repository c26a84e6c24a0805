//! Streams that a client began and that the h2 crate hasn't handed over: what becomes of them is h2's own doing.
//!
//! Kept by `guard` from the frames that pass. h2 answers a head that is larger than it takes with 431 and tells nobody;
//! a response on a stream that nobody was given can be nothing else. `server` takes note of what is handed over.

use std::cell::{Cell, RefCell};

/// Streams remembered. Far more than can be open; a client that floods with heads is closed before.
const MOST: usize = 8 * 1024;

/// A stream that began.
#[derive(Clone, Copy, Debug)]
struct Begun {
    id: u32,
    /// The request ended with its head.
    last: bool,
    /// h2 has sent a response of its own.
    answered: bool,
}

/// One client connection's streams that weren't handed over.
#[derive(Debug, Default)]
pub(super) struct Unclaimed {
    newest: Cell<u32>,
    /// In the order of their identifiers, which only grow (RFC 9113, 5.1.1).
    streams: RefCell<Vec<Begun>>,
    refused: Cell<u32>,
}

impl Unclaimed {
    /// For a connection to a server, where every stream is ours.
    pub(super) fn none() -> Self {
        Self { newest: Cell::new(u32::MAX), ..Self::default() }
    }

    /// HEADERS came from the client.
    pub(super) fn begun(&self, id: u32, last: bool) {
        if id <= self.newest.get() {
            return;
        }
        self.newest.set(id);
        let mut streams = self.streams.borrow_mut();
        if streams.len() == MOST {
            streams.remove(0);
        }
        streams.push(Begun { id, last, answered: false });
    }

    /// h2 has handed the request over, or either side has reset the stream. True if h2 had refused it with 431.
    pub(super) fn settled(&self, id: u32) -> bool {
        let mut streams = self.streams.borrow_mut();
        let found = streams.binary_search_by_key(&id, |stream| stream.id);
        found.is_ok_and(|at| streams.remove(at).answered)
    }

    /// HEADERS went to the client.
    pub(super) fn answered(&self, id: u32) {
        let mut streams = self.streams.borrow_mut();
        let Ok(at) = streams.binary_search_by_key(&id, |stream| stream.id) else { return };
        self.refused.set(self.refused.get() + 1);
        if streams[at].last {
            streams.remove(at);
        } else {
            // A reset follows, which tells the client to keep its body.
            streams[at].answered = true;
        }
    }

    /// Requests that h2 has refused since this was last asked.
    pub(super) fn take_refused(&self) -> u32 {
        self.refused.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_on_a_stream_that_nobody_was_given_is_a_refusal() {
        let unclaimed = Unclaimed::default();
        for id in [1, 3, 5, 7, 3] {
            unclaimed.begun(id, id > 3);
        }
        assert!(!unclaimed.settled(1), "handed over");
        for id in [1, 3, 5] {
            unclaimed.answered(id);
        }
        assert_eq!(unclaimed.take_refused(), 2);
        assert!(unclaimed.settled(3), "the reset behind the 431");
        assert!(!unclaimed.settled(7), "a reset without one");
        assert!(unclaimed.streams.borrow().is_empty());
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let unclaimed = Unclaimed::default();
        for id in 0..100_000 {
            unclaimed.begun(2 * id + 1, true);
        }
        assert_eq!(unclaimed.streams.borrow().len(), MOST);
    }
}
