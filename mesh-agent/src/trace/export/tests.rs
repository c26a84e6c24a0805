//! The loop by a clock that jumps, against a collector that answers as it is told.
#![allow(clippy::unwrap_used)]
use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use prometheus::Opts;
use tokio::task::LocalSet;

use super::*;
use crate::model::Workload;
use crate::proxy::testing;

/// When it was asked, and with how many spans.
type Asked = Rc<RefCell<Vec<(Duration, u64)>>>;

/// What it says to requests; whatever comes after is taken.
struct Told {
    begun: Instant,
    asked: Asked,
    answers: VecDeque<Sent>,
    hangs: bool,
}

impl Collector for Told {
    fn timeout(&self) -> Duration {
        Duration::from_secs(10)
    }

    async fn send(&mut self, batch: &Batch) -> Sent {
        self.asked.borrow_mut().push((self.begun.elapsed(), batch.items));
        if self.hangs {
            std::future::pending::<()>().await;
        }
        self.answers.pop_front().unwrap_or_else(taken)
    }
}

fn taken() -> Sent {
    Sent::Taken { rejected: 0, why: String::new() }
}

fn later(after: Option<Duration>) -> Sent {
    Sent::Later(after, "busy".into())
}

struct Lab {
    queue: Arc<Queue>,
    pod: Arc<Workload>,
    counters: Counters,
    asked: Asked,
}

impl Lab {
    fn push(&self, count: usize) {
        (0..count).for_each(|_| self.queue.push(&self.pod, b"span"));
    }

    fn counts(&self) -> Vec<(&'static str, u64)> {
        let count = |label| (label, self.counters.items.with_label_values(&[label]).get());
        RESULTS.map(count).into_iter().filter(|(_, count)| *count > 0).collect()
    }

    fn asked(&self) -> Vec<(Duration, u64)> {
        self.asked.borrow().clone()
    }
}

/// Runs `test` beside the loop.
fn run_with(answers: impl IntoIterator<Item = Sent>, hangs: bool, test: impl AsyncFnOnce(&Lab)) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let answers = answers.into_iter().collect();
    LocalSet::new().block_on(&runtime, async {
        let vec = |name| IntCounterVec::new(Opts::new(name, name), &["result"]).unwrap();
        let counters = Counters { items: vec("spans"), exports: vec("exports") };
        let queue = Arc::new(Queue::new(counters.items.with_label_values(&["queue_full"])));
        let lab = Lab { queue, pod: Arc::new(testing::workload()), counters, asked: Asked::default() };
        let collector = Told { begun: Instant::now(), asked: lab.asked.clone(), answers, hangs };
        let exporter = run(Signal::Traces, lab.queue.clone(), collector, lab.counters.clone(), "east".into());
        tokio::select! {
            biased;
            () = exporter => {}
            () = test(&lab) => {}
        }
    });
}

/// Lets the loop come to where it waits.
async fn after(seconds: u64) {
    sleep(Duration::from_secs(seconds)).await;
}

#[test]
fn spans_are_gathered_for_a_second_or_until_there_are_plenty() {
    run_with([], false, async |lab| {
        lab.push(2);
        sleep(Duration::from_millis(500)).await;
        lab.push(1);
        after(1).await;
        assert_eq!(lab.asked(), [(GATHER, 3)]);
        lab.push(super::super::queue::PLENTY + 1);
        sleep(Duration::from_millis(1)).await;
        assert_eq!(lab.asked()[1..].iter().map(|(_, spans)| *spans).collect::<Vec<_>>(), [512, 1]);
        assert_eq!(lab.counts(), [("exported", 516)]);
    });
}

#[test]
fn a_collector_that_is_busy_is_asked_again_ever_later_and_nothing_is_lost() {
    run_with([later(None), later(None), later(None)], false, async |lab| {
        lab.push(1);
        after(20).await;
        let asked = lab.asked();
        let gaps: Vec<_> = asked.windows(2).map(|pair| pair[1].0 - pair[0].0).collect();
        assert_eq!(asked.len(), 4);
        for (gap, full) in gaps.iter().zip([500, 1000, 2000]) {
            let full = Duration::from_millis(full);
            assert!(*gap >= full / 2 && *gap <= full + Duration::from_millis(2), "{gaps:?}");
        }
        assert_eq!(lab.counts(), [("exported", 1)]);
    });
}

#[test]
fn what_the_collector_asks_for_is_waited_for() {
    run_with([later(Some(Duration::from_secs(30))), later(Some(Duration::MAX))], false, async |lab| {
        lab.push(1);
        after(30).await;
        assert_eq!(lab.asked().len(), 1);
        after(10).await;
        assert_eq!(lab.asked().len(), 2);
        let gap = lab.asked()[1].0 - lab.asked()[0].0;
        assert!(gap >= Duration::from_secs(30) && gap <= Duration::from_secs(37), "{gap:?}");
        // For ever is longer than a batch is tried for.
        assert_eq!(lab.counts(), [("unavailable", 1)]);
    });
}

#[test]
fn a_batch_is_given_up_and_the_next_one_gets_its_turn() {
    let busy = std::iter::repeat_n(later(None), 1000);
    run_with(busy, false, async |lab| {
        lab.push(1);
        after(70).await;
        assert_eq!(lab.counts(), [("unavailable", 1)]);
        let tries = lab.asked().len();
        assert!((5..20).contains(&tries), "{tries}");
        lab.push(2);
        after(5).await;
        assert_eq!(lab.asked()[tries].1, 2);
    });
}

#[test]
fn a_collector_that_hangs_is_given_up_too() {
    run_with([], true, async |lab| {
        lab.push(1);
        after(130).await;
        assert_eq!(lab.counts(), [("unavailable", 1)]);
    });
}

#[test]
fn what_is_refused_isnt_sent_again() {
    let partly = Sent::Taken { rejected: 2, why: "too old".into() };
    run_with([Sent::Refused("no".into()), partly], false, async |lab| {
        lab.push(1);
        after(2).await;
        lab.push(5);
        after(2).await;
        assert_eq!(lab.asked().len(), 2);
        assert_eq!(lab.counts(), [("exported", 3), ("rejected", 3)]);
        for (label, count) in [("refused", 1), ("partial", 1), ("ok", 0), ("retry", 0)] {
            assert_eq!(lab.counters.exports.with_label_values(&[label]).get(), count, "{label}");
        }
    });
}

#[test]
fn at_the_end_what_is_left_has_one_try() {
    run_with([], false, async |lab| {
        lab.push(3);
        lab.queue.close();
        sleep(Duration::from_millis(1)).await;
        assert_eq!((lab.asked().len(), lab.counts()), (1, vec![("exported", 3)]));
    });
    // The loop ends by itself, though the collector never answers.
    let ended = Rc::new(RefCell::new(None));
    run_with([], true, async |lab| {
        *ended.borrow_mut() = Some((lab.counters.items.clone(), Instant::now()));
        lab.push(3);
        lab.queue.close();
        after(3600).await;
        unreachable!("the loop goes on");
    });
    let (spans, _) = ended.take().unwrap();
    assert_eq!(spans.with_label_values(&["shutdown"]).get(), 3);
}

#[test]
fn waits_grow_to_a_bound() {
    for chance in [0.0, 0.5, 1.0] {
        let waits: Vec<_> = (0..40).map(|tries| wait(tries, None, chance)).collect();
        assert!(waits.is_sorted() && waits[39] <= LONGEST_WAIT && waits[0] >= FIRST_WAIT / 2, "{waits:?}");
    }
    assert_eq!(wait(0, Some(Duration::from_secs(3)), 0.0), Duration::from_secs(3));
    assert_eq!(wait(0, Some(Duration::from_secs(10)), 1.0), Duration::from_secs(12));
}
