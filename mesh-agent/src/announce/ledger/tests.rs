//! What is written of pods, what isn't again, and what becomes of failures.
#![allow(clippy::unwrap_used)]

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn fact(name: &str, annotated: bool, state: State) -> Fact {
    Fact { pod: ObjectName::new("shop", name), uid: format!("uid-{name}"), annotated, state }
}

fn failing(note: &str) -> State {
    State::Failing(note.to_owned())
}

/// Everything that is written now, if every request succeeds; an annotation isn't seen on the object yet.
fn written(ledger: &mut Ledger, facts: &[Fact], now: Instant) -> Vec<String> {
    let mut all = Vec::new();
    while let Some(deed) = ledger.next(facts, now) {
        all.push(match &deed {
            Deed::Annotate { pod, on, .. } => format!("{} {on}", pod.name),
            Deed::Tell { pod, event, .. } => format!("{} {} x{}", pod.name, event.reason, event.times),
        });
        ledger.settle(&deed, Ok(()), now);
        assert!(all.len() < 1000, "{all:?}");
    }
    all
}

#[test]
fn a_captured_pod_is_annotated_and_told_once() {
    let now = Instant::now();
    let mut ledger = Ledger::new(now);
    let captured = [fact("web", false, State::Captured)];
    assert_eq!(written(&mut ledger, &captured, now), ["web true", "web MeshEnrolled x1"]);
    // The object doesn't show it yet, then it does.
    assert_eq!(written(&mut ledger, &captured, now + SECOND), Vec::<String>::new());
    let shown = [fact("web", true, State::Captured)];
    assert_eq!(written(&mut ledger, &shown, now + 2 * SECOND), Vec::<String>::new());
    // Somebody took it off.
    assert_eq!(written(&mut ledger, &captured, now + 3 * SECOND), ["web true", "web MeshEnrolled x2"]);
    assert_eq!(ledger.next_time(&shown), None);
}

#[test]
fn an_agent_that_starts_again_writes_nothing_about_pods_that_stayed_as_they_were() {
    let now = Instant::now();
    let facts = [
        fact("web", true, State::Waiting),
        fact("new", false, State::Waiting),
        fact("cart", true, State::Captured),
        fact("free", false, State::Left),
    ];
    assert_eq!(written(&mut Ledger::new(now), &facts, now), Vec::<String>::new());
}

#[test]
fn the_annotation_goes_when_the_pod_is_left_and_another_s_is_asked_for_once() {
    let now = Instant::now();
    let mut ledger = Ledger::new(now);
    let left = [fact("web", true, State::Left)];
    assert_eq!(written(&mut ledger, &left, now), ["web false"]);
    // It is another mesh's: it stays.
    assert_eq!(written(&mut ledger, &left, now + 1000 * SECOND), Vec::<String>::new());
    assert_eq!(ledger.next_time(&left), None);
}

#[test]
fn a_failure_is_told_when_it_is_new_and_then_now_and_then() {
    let now = Instant::now();
    let mut ledger = Ledger::new(now);
    let taken = [fact("web", true, failing("port taken"))];
    assert_eq!(written(&mut ledger, &taken, now), ["web false", "web MeshEnrolFailed x1"]);
    let taken = [fact("web", false, failing("port taken"))];
    assert_eq!(written(&mut ledger, &taken, now + SECOND), Vec::<String>::new());
    assert_eq!(ledger.next_time(&taken), Some(now + REPEAT));
    assert_eq!(written(&mut ledger, &taken, now + REPEAT), ["web MeshEnrolFailed x2"]);
    let other = [fact("web", false, failing("no namespace"))];
    assert_eq!(written(&mut ledger, &other, now + REPEAT), ["web MeshEnrolFailed x1"]);
}

#[test]
fn what_fails_is_tried_again_later_and_later_and_holds_up_nobody_else() {
    let now = Instant::now();
    let mut ledger = Ledger::new(now);
    let facts = [fact("web", false, State::Captured), fact("cart", false, State::Captured)];
    let (mut at, mut waits) = (now, Vec::new());
    for _ in 0..9 {
        let deed = ledger.next(&facts[..1], at).unwrap();
        ledger.settle(&deed, Err(Failure::Unreachable), at);
        assert_eq!(ledger.next(&facts[..1], at), None);
        let next = ledger.next_time(&facts[..1]).unwrap();
        waits.push(next.duration_since(at).as_secs());
        at = next;
    }
    assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 120, 120]);
    let just_before = at - SECOND;
    assert_eq!(written(&mut ledger, &facts, just_before), ["cart true", "cart MeshEnrolled x1"]);
    assert_eq!(written(&mut ledger, &facts, at), ["web true", "web MeshEnrolled x1"]);
}

#[test]
fn a_wait_that_is_over_with_nothing_left_to_do_wakes_nobody() {
    let now = Instant::now();
    let mut ledger = Ledger::new(now);
    let captured = [fact("web", false, State::Captured)];
    let deed = ledger.next(&captured, now).unwrap();
    ledger.settle(&deed, Err(Failure::Timeout), now);
    // It arrived all the same.
    let shown = [fact("web", true, State::Captured)];
    assert_eq!(ledger.next(&shown, now + 10 * SECOND), None);
    assert_eq!(ledger.next_time(&shown), None);
}

#[test]
fn events_of_an_agent_are_bounded_and_those_left_out_counted() {
    let now = Instant::now();
    let mut ledger = Ledger::new(now);
    let facts: Vec<_> = (0..200).map(|n| fact(&format!("p{n}"), false, failing("no"))).collect();
    assert_eq!(written(&mut ledger, &facts, now).len(), 50);
    assert_eq!((ledger.take_dropped(), ledger.take_dropped()), (150, 0));
    let more: Vec<_> = (0..200).map(|n| fact(&format!("q{n}"), false, failing("no"))).collect();
    assert_eq!(written(&mut ledger, &more, now + 60 * SECOND).len(), 30);
}

#[test]
fn a_pod_that_is_gone_is_forgotten() {
    let now = Instant::now();
    let mut ledger = Ledger::new(now);
    let captured = [fact("web", false, State::Captured)];
    let deed = ledger.next(&captured, now).unwrap();
    ledger.settle(&deed, Err(Failure::NotFound), now);
    assert_eq!(ledger.next(&[], now), None);
    assert!(ledger.pods.is_empty());
}
