//! What is kept, what goes first, and what the file holds after a restart or an accident.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use super::*;

fn entry(generation: u64, cause: Cause, changes: &[(&str, &str)]) -> Entry {
    let change = |(object, text): &(&str, &str)| Change {
        operation: if text.is_empty() { Operation::Removed } else { Operation::Changed },
        object: Text::from(*object),
        text: (!text.is_empty()).then(|| Text::from(*text)),
    };
    let changes = changes.iter().map(change).collect();
    Entry { generation, time: UNIX_EPOCH, cause, changes, warnings: 0, discovery: 0 }
}

fn shown(objects: Option<Objects>) -> String {
    let objects = objects.expect("kept");
    objects.iter().map(|(key, text)| format!("{key}={text}")).collect::<Vec<_>>().join(" ")
}

#[test]
fn every_kept_generation_can_be_had_in_full() {
    let mut history = History::default();
    history.record(entry(1, Cause::Source, &[("a", "1"), ("b", "1")]));
    history.record(entry(4, Cause::Source, &[("b", "2")]));
    history.record(entry(5, Cause::Source, &[("a", ""), ("c", "1")]));
    assert_eq!(shown(history.objects_at(1)), "a=1 b=1");
    assert_eq!(shown(history.objects_at(4)), "a=1 b=2");
    assert_eq!(shown(history.objects_at(5)), "b=2 c=1");
    assert_eq!(history.objects_at(2), None);
}

#[test]
fn the_oldest_generation_goes_and_the_others_stay_whole() {
    let mut history = History::default();
    history.record(entry(1, Cause::Source, &[("first", "1")]));
    for generation in 2..=MAX_ENTRIES as u64 + 3 {
        history.record(entry(generation, Cause::Source, &[("last", &generation.to_string())]));
    }
    assert_eq!(history.entries().len(), MAX_ENTRIES);
    assert_eq!(history.objects_at(3), None);
    assert_eq!(shown(history.objects_at(4)), "first=1 last=4");
}

#[test]
fn bytes_are_bounded_by_letting_older_generations_go() {
    let mut history = History::default();
    let large = "x".repeat(MAX_BYTES / 4);
    for generation in 1..=9 {
        history.record(entry(generation, Cause::Source, &[("a", &large)]));
    }
    assert!(history.bytes() <= MAX_BYTES, "{}", history.bytes());
    assert_eq!(history.newest().map(|newest| newest.generation), Some(9));
    assert_eq!(history.entries().len(), 2, "base and two generations of a quarter each, with their names");
}

#[test]
fn a_second_rollback_replaces_the_first_and_the_sources_state_stays_known() {
    let mut history = History::default();
    history.record(entry(1, Cause::Source, &[("a", "1")]));
    history.record(entry(2, Cause::Source, &[("a", "2")]));
    history.record(entry(3, Cause::Source, &[("a", "3")]));
    history.record(entry(4, Cause::Rollback(1), &[("a", "1")]));
    history.record(entry(5, Cause::Rollback(2), &[("a", "2")]));
    assert_eq!(history.rolled_back(), Some((2, UNIX_EPOCH)));
    assert_eq!(shown(history.objects_at(5)), "a=2");
    assert_eq!(shown(Some(history.source_objects())), "a=3");
    assert_eq!(history.objects_at(4), None);
    history.record(entry(6, Cause::Release, &[("a", "3")]));
    assert_eq!(history.rolled_back(), None);
    assert_eq!(shown(Some(history.source_objects())), "a=3");
}

#[test]
fn the_file_is_private_and_says_the_same_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let shared = Shared::open(dir.path());
    shared.record(entry(7, Cause::Source, &[("a", "text\nof \"two\" lines")]));
    shared.note(3, 12);
    assert!(shared.due().is_some_and(|due| due > std::time::Instant::now()), "written at once");
    shared.flush();
    assert_eq!(shared.due(), None);
    let path = dir.path().join(file::NAME);
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(Shared::open(dir.path()).get(), shared.get());
    assert_eq!(shared.get().newest().map(|e| (e.warnings, e.discovery)), Some((3, 12)));
}

#[test]
fn churn_alone_never_asks_for_a_write() {
    let dir = tempfile::tempdir().unwrap();
    let shared = Shared::open(dir.path());
    shared.record(entry(1, Cause::Source, &[("a", "1")]));
    shared.flush();
    shared.note(0, 1000);
    assert_eq!(shared.due(), None);
    shared.note(1, 0);
    assert!(shared.due().is_some());
}

#[test]
fn a_damaged_file_is_put_aside_and_the_history_begins_anew() {
    fn check(damage: impl Fn(&Path)) {
        let dir = tempfile::tempdir().unwrap();
        let shared = Shared::open(dir.path());
        shared.record(entry(1, Cause::Rollback(1), &[("a", "1")]));
        shared.record(entry(2, Cause::Source, &[("a", "2")]));
        shared.flush();
        let path = dir.path().join(file::NAME);
        damage(&path);
        let after = Shared::open(dir.path());
        assert_eq!(after.get(), History::default());
        after.record(entry(1, Cause::Source, &[("b", "1")]));
        after.flush();
        assert_eq!(Shared::open(dir.path()).get(), after.get(), "it is written again");
    }
    check(|path| std::fs::write(path, "").unwrap());
    check(|path| std::fs::write(path, b"\xff\x00").unwrap());
    check(|path| std::fs::File::options().write(true).open(path).unwrap().set_len(40).unwrap());
    check(|path| {
        let text = std::fs::read_to_string(path).unwrap();
        std::fs::write(path, text.replace("\"generation\":2", "\"generation\":1")).unwrap();
    });
    check(|path| {
        let text = std::fs::read_to_string(path).unwrap();
        std::fs::write(path, text.replace("\"version\":1", "\"version\":9")).unwrap();
    });
    check(|path| {
        std::fs::remove_file(path).unwrap();
        std::fs::create_dir(path).unwrap();
    });
}

#[tokio::test]
async fn nobody_to_ask_is_told_apart_from_a_refusal() {
    let shared = Shared::default();
    assert_eq!(shared.ask(None).await, None);
    shared.serve(|request| request.answer.send(Err("no".into())).is_ok());
    let answer = tokio::time::timeout(Duration::from_secs(5), shared.ask(Some(1))).await.unwrap();
    assert_eq!(answer, Some(Err("no".into())));
}
