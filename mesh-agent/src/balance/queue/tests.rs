//! The queue by itself: order, bounds, limits that change, waits that are given up; and that no count passes its limit.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::VecDeque;
use std::task::Waker;

use super::*;

const ME: usize = 1;

fn places(limit: u32, waiting: u32) -> Places {
    let places = Places::default();
    places.set_limits(Some(limit), Some(waiting));
    places
}

fn wait(places: &Places, owner: usize) -> Waiting {
    match places.ask(owner) {
        Asked::Waiting(waiting) => waiting,
        other => panic!("{other:?}"),
    }
}

fn granted(waiting: &mut Waiting) -> Option<Place> {
    match Pin::new(waiting).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(place) => Some(place),
        Poll::Pending => None,
    }
}

#[test]
fn those_that_wait_are_served_in_order_and_before_newcomers() {
    let places = places(1, 2);
    let first = places.take().unwrap();
    let (mut second, mut third) = (wait(&places, ME), wait(&places, ME));
    assert!(matches!(places.ask(ME), Asked::Full));
    assert!(granted(&mut second).is_none());
    drop(first);
    assert!(places.take().is_none(), "a newcomer took what belongs to the queue");
    let place = granted(&mut second).unwrap();
    assert!(granted(&mut third).is_none());
    drop(place);
    drop(granted(&mut third).unwrap());
    assert_eq!((places.taken(), places.waiting()), (0, 0));
    assert!(places.take().is_some());
}

#[test]
fn whoever_gives_up_leaves_the_queue_and_loses_no_place() {
    let places = places(1, 3);
    let first = places.take().unwrap();
    let (gone, mut second, late) = (wait(&places, ME), wait(&places, ME), wait(&places, ME));
    drop(gone);
    assert_eq!(places.waiting(), 2);
    drop(first);
    let place = granted(&mut second).unwrap();
    drop(place);
    // Granted, and never asked for.
    drop(late);
    assert_eq!((places.taken(), places.waiting()), (0, 0));
}

#[test]
fn a_raised_or_removed_limit_reaches_those_that_wait() {
    let places = places(1, 9);
    let _first = places.take().unwrap();
    let mut all: VecDeque<_> = (0..4).map(|_| wait(&places, ME)).collect();
    places.set_limits(Some(3), Some(9));
    let _two = [granted(&mut all[0]).unwrap(), granted(&mut all[1]).unwrap()];
    assert!(granted(&mut all[2]).is_none());
    places.set_limits(None, None);
    let _rest = [granted(&mut all[2]).unwrap(), granted(&mut all[3]).unwrap()];
    assert_eq!((places.taken(), places.waiting()), (5, 0));
}

#[test]
fn a_lowered_limit_takes_places_back_as_they_are_passed_on() {
    let places = places(3, 9);
    let mut held: VecDeque<_> = (0..3).map(|_| places.take().unwrap()).collect();
    places.set_limits(Some(1), Some(9));
    let mut waiting = wait(&places, ME);
    for _ in 0..2 {
        assert!(matches!(held.pop_front().unwrap().pass_on(ME), Passed::Elsewhere));
        assert!(granted(&mut waiting).is_none());
    }
    assert!(matches!(held.pop_front().unwrap().pass_on(ME), Passed::Within(_)));
    assert!(granted(&mut waiting).is_some());
}

#[test]
fn a_place_is_passed_on_to_the_first_whoever_that_is() {
    let places = places(1, 9);
    let place = match places.take().unwrap().pass_on(ME) {
        Passed::Back(place) => place,
        other => panic!("{other:?}"),
    };
    let (mut other, mut mine) = (wait(&places, 2), wait(&places, ME));
    assert!(place.is_wanted());
    assert!(matches!(place.pass_on(ME), Passed::Elsewhere));
    let place = granted(&mut other).unwrap();
    let ticket = mine.ticket();
    assert!(matches!(place.pass_on(ME), Passed::Within(passed) if passed == ticket));
    assert!(granted(&mut mine).is_some());
}

#[test]
fn places_that_rest_are_known_until_they_are_used_or_given_back() {
    let places = places(2, 9);
    let (mut one, mut other) = (places.take().unwrap(), places.take().unwrap());
    one.rest();
    other.rest();
    one.wake();
    assert!(places.any_resting());
    drop(other);
    assert!(!places.any_resting());
}

#[test]
fn threads_that_take_wait_and_give_back_end_with_nothing_taken() {
    let places = places(2, 1000);
    let most = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                for _ in 0..500 {
                    let place = match places.ask(ME) {
                        Asked::Taken(place) => place,
                        Asked::Waiting(waiting) => runtime.block_on(waiting),
                        Asked::Full => panic!("there is room for all"),
                    };
                    most.fetch_max(places.taken(), Relaxed);
                    drop(place);
                }
            });
        }
    });
    assert_eq!((places.taken(), places.waiting()), (0, 0));
    assert!(most.load(Relaxed) <= 2, "{most:?}");
}

proptest::proptest! {
    #[test]
    fn counts_never_pass_their_limits_and_nobody_waits_beside_a_free_place(
        steps in proptest::collection::vec((0u8..6, 0usize..8, 1u32..5), 1..200)
    ) {
        let places = places(2, 3);
        let (mut limit, mut held, mut waiting) = (2, Vec::new(), VecDeque::new());
        for (step, at, number) in steps {
            match step {
                0 | 1 => match places.ask(at % 2) {
                    Asked::Taken(place) => held.push(place),
                    Asked::Waiting(wait) => waiting.push_back(wait),
                    Asked::Full => proptest::prop_assert_eq!(places.waiting(), 3),
                },
                2 if !held.is_empty() => drop(held.swap_remove(at % held.len())),
                3 if !held.is_empty() => {
                    if let Passed::Back(place) = held.swap_remove(at % held.len()).pass_on(0) {
                        held.push(place);
                    }
                }
                4 if !waiting.is_empty() => drop(waiting.remove(at % waiting.len())),
                5 => {
                    limit = number;
                    places.set_limits(Some(limit), Some(3));
                }
                _ => {}
            }
            // In order: once one isn't served, none after it is.
            let before = held.len() as u32;
            while let Some(place) = waiting.front_mut().and_then(granted) {
                waiting.pop_front();
                held.push(place);
            }
            for later in waiting.iter_mut() {
                proptest::prop_assert!(granted(later).is_none(), "served out of turn");
            }
            proptest::prop_assert_eq!(places.taken(), held.len() as u32);
            proptest::prop_assert_eq!(places.waiting(), waiting.len() as u32);
            proptest::prop_assert!(places.taken() <= limit.max(before));
            proptest::prop_assert!(waiting.is_empty() || places.taken() >= limit, "waits beside a free place");
        }
    }
}
