//! One timer per connection for all its deadlines. It is set when a wait begins and nothing is there yet, moved only
//! towards an earlier deadline, and asked again when it fires: a busy connection registers none.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// A connection's timer.
#[derive(Default)]
pub struct Timer {
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Timer {
    /// Waits for `future` at most `limit`; None if it took longer.
    ///
    /// Futures come pinned: taking them by value would make room for each twice in the caller's.
    pub fn within<F: Future>(
        &mut self,
        limit: Duration,
        future: Pin<&mut F>,
    ) -> impl Future<Output = Option<F::Output>> {
        self.while_moving(limit, None, || 0, future)
    }

    /// Waits for `future` as long as `moved` changes at least every `limit`, and not beyond `until`.
    pub fn while_moving<F: Future>(
        &mut self,
        limit: Duration,
        until: Option<Instant>,
        moved: impl Fn() -> u64,
        mut future: Pin<&mut F>,
    ) -> impl Future<Output = Option<F::Output>> {
        let (mut deadline, mut seen) = (None, 0);
        poll_fn(move |cx| {
            if let Poll::Ready(value) = future.as_mut().poll(cx) {
                return Poll::Ready(Some(value));
            }
            let moved = moved();
            if seen != moved {
                seen = moved;
                deadline = None;
            }
            let idle = *deadline.get_or_insert_with(|| Instant::now() + limit);
            let deadline = until.map_or(idle, |until| until.min(idle));
            if self.expired(cx, deadline) { Poll::Ready(None) } else { Poll::Pending }
        })
    }

    fn expired(&mut self, cx: &mut Context<'_>, deadline: Instant) -> bool {
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if sleep.deadline() > deadline {
            sleep.as_mut().reset(deadline);
        }
        while sleep.as_mut().poll(cx).is_ready() {
            if Instant::now() >= deadline {
                return true;
            }
            sleep.as_mut().reset(deadline);
        }
        false
    }
}
