//! What keys do, in which order, and what is told of it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::*;

const TOOK: Duration = Duration::from_millis(320);

fn keys(board: &Board) -> String {
    board.lines(Instant::now())[1].0.clone()
}

fn told(board: &Board, now: Instant) -> (String, Tone) {
    board.lines(now)[2].clone()
}

/// Presses a key, and has it done.
fn press(board: &mut Board, key: char) -> Order {
    let order = board.press(key, Instant::now()).unwrap();
    board.done(order.action, TOOK, Ok(()));
    order
}

#[test]
fn each_key_says_what_it_does_next_and_comes_round() {
    let mut board = Board::default();
    let first = "c canary 90/10  x kill cart-2  d deny batch  m node mTLS  u new agent  r crash";
    assert_eq!(keys(&board), first);
    assert!(first.len() <= 80);
    for key in ['c', 'x', 'd', 'm', 'u', 'r'] {
        press(&mut board, key);
    }
    let second = "c canary 50/50  x start cart-2  d admit batch  m mTLS off  u new agent  r crash";
    assert_eq!(keys(&board), second);
    assert!(second.len() <= 80);
    for key in ['c', 'x', 'd', 'm'] {
        press(&mut board, key);
    }
    assert!(keys(&board).starts_with("c canary off  x kill cart-2"));
    press(&mut board, 'c');
    assert_eq!(keys(&board), first);
}

#[test]
fn an_order_has_all_that_is_in_force_after_it() {
    let mut board = Board::default();
    press(&mut board, 'c');
    let denied = press(&mut board, 'd').then;
    assert_eq!((denied.split, denied.is_denied), (Split::By(90, 10), true));
    let killed = press(&mut board, 'x').then;
    assert_eq!(killed, InForce { is_killed: true, ..denied });
    assert_eq!(press(&mut board, 'd').then, InForce { is_denied: false, ..killed });
}

#[test]
fn one_thing_at_a_time() {
    let (mut board, begin) = (Board::default(), Instant::now());
    let order = board.press('u', begin).unwrap();
    assert_eq!(board.press('c', begin), None);
    let later = begin + Duration::from_millis(1500);
    assert_eq!(told(&board, later), ("u new agent ... 1.5 s".to_owned(), Tone::Waiting));
    // What comes meanwhile came since the key that does something.
    board.count(&Tally::of("ok cart-1 v1 a b 9\n"));
    assert!(board.lines(later)[0].0.ends_with("since u: sent 1  denied 0  failed 0"));
    board.done(order.action, TOOK, Ok(()));
    let (text, tone) = told(&board, later);
    assert_eq!(
        (text.as_str(), tone),
        ("u took 320 ms: another agent has taken the first node's agent's place", Tone::Plain)
    );
    assert!(board.press('c', later).is_some());
}

#[test]
fn what_failed_changes_nothing_is_told_and_can_be_tried_again() {
    let mut board = Board::default();
    let order = board.press('x', Instant::now()).unwrap();
    board.done(order.action, TOOK, Err("no second server\nstderr: a lot".into()));
    assert_eq!(
        told(&board, Instant::now()),
        ("x kill cart-2 failed: no second server".to_owned(), Tone::Bad)
    );
    assert_eq!(board.failures(), ["kill cart-2: no second server\nstderr: a lot"]);
    assert_eq!(board.press('x', Instant::now()), Some(order));
}

#[test]
fn other_keys_do_nothing() {
    let mut board = Board::default();
    for key in ['q', 's', 'S', '/', 'p', 'j', 'k', 'C', '\t'] {
        assert_eq!(board.press(key, Instant::now()), None);
        assert!(!KEYS.contains(&key));
    }
    assert!(told(&board, Instant::now()).0.starts_with("press a key"));
    board.lost();
    assert_eq!((board.press('c', Instant::now()), told(&board, Instant::now()).1), (None, Tone::Bad));
}
