//! When files are due, with the clock in the test's hand.
#![allow(clippy::unwrap_used)]

use notify::Event;
use notify::event::{CreateKind, DataChange, Flag, RemoveKind, RenameMode};

use super::*;

const CREATED: EventKind = EventKind::Create(CreateKind::File);
const WRITTEN: EventKind = EventKind::Modify(ModifyKind::Data(DataChange::Any));
const CLOSED: EventKind = EventKind::Access(AccessKind::Close(AccessMode::Write));
const OPENED: EventKind = EventKind::Access(AccessKind::Open(AccessMode::Any));
const MOVED: EventKind = EventKind::Modify(ModifyKind::Name(RenameMode::To));
const REMOVED: EventKind = EventKind::Remove(RemoveKind::File);

/// What happens at a millisecond.
enum At {
    /// Something to `a.yaml`.
    File(u64, EventKind),
    /// Something to the directory itself.
    Directory(u64, EventKind),
    /// The kernel's queue was too short.
    Lost(u64),
}

/// Plays `story`, taking what is due every millisecond; says when `a.yaml` was looked at by name and when everything was.
fn play(dir: &Path, story: &[At]) -> (Vec<u64>, Vec<u64>) {
    let start = Instant::now();
    let mut pending = Pending::default();
    let (mut named, mut all) = (Vec::new(), Vec::new());
    for ms in 0..20_000 {
        let now = start + Duration::from_millis(ms);
        for at in story {
            let (when, event) = match at {
                At::File(when, kind) => (when, Event::new(*kind).add_path(dir.join("a.yaml"))),
                At::Directory(when, kind) => (when, Event::new(*kind).add_path(dir.to_owned())),
                At::Lost(when) => (when, Event::new(EventKind::Other).set_flag(Flag::Rescan)),
            };
            if *when == ms {
                pending.note(&event, dir, now);
            }
        }
        let due = pending.due().is_some_and(|due| due <= now);
        let taken = pending.take(now);
        assert_eq!(taken.is_some(), due, "due() and take() agree");
        match taken {
            Some((Touched::All, _)) => all.push(ms),
            Some((Touched::Files(files), _)) => {
                assert_eq!(files, BTreeSet::from([dir.join("a.yaml")]));
                assert!(!pending.unclosed().contains(&dir.join("a.yaml")), "taken at {ms} while held back");
                named.push(ms);
            }
            None => {}
        }
    }
    (named, all)
}

#[test]
fn a_file_is_due_when_it_is_closed_however_long_its_writer_takes() {
    let dir = tempfile::tempdir().unwrap();
    let check = |story: &[At], named: &[u64], all: &[u64]| {
        let (got_named, got_all) = play(dir.path(), story);
        assert_eq!((&*got_named, &*got_all), (named, all));
    };
    let file = At::File;
    // Nothing says that the file on disk is empty: a new name with nothing behind it was moved or linked here.
    check(&[file(0, MOVED)], &[10], &[]);
    check(&[file(0, REMOVED)], &[10], &[]);
    check(&[file(0, OPENED), file(5, WRITTEN), file(6, CLOSED)], &[16], &[]);
    check(&[file(0, WRITTEN), file(9_000, WRITTEN), file(19_000, CLOSED)], &[19_010], &[]);
    check(&[file(0, WRITTEN)], &[], &[]);
    // Moved over while somebody still has the old one open.
    check(&[file(0, WRITTEN), file(50, MOVED)], &[60], &[]);
    // What comes together is one look.
    check(&[file(0, CLOSED), file(5, MOVED), file(9, REMOVED)], &[10], &[]);
    // Nobody knows whether a close was among what was lost, until the writer is heard again.
    check(&[file(0, WRITTEN), At::Lost(100)], &[2_100], &[100]);
    check(&[file(0, WRITTEN), At::Lost(100), file(200, WRITTEN), file(9_000, CLOSED)], &[9_010], &[100]);
    check(&[file(0, WRITTEN), At::Directory(100, MOVED)], &[2_100], &[110]);
    std::fs::write(dir.path().join("a.yaml"), "").unwrap();
    check(&[file(0, CREATED), file(5, WRITTEN), file(9_000, CLOSED)], &[9_010], &[]);
    check(&[file(0, CREATED)], &[2_000], &[]);
    std::fs::write(dir.path().join("a.yaml"), "linked: here\n").unwrap();
    check(&[file(0, CREATED)], &[10], &[]);
}

#[test]
fn a_file_that_stays_open_is_warned_of_and_held_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.yaml");
    let start = Instant::now();
    let at = |ms| start + Duration::from_millis(ms);
    let mut pending = Pending::default();
    pending.note(&Event::new(WRITTEN).add_path(path.clone()), dir.path(), at(0));
    assert_eq!(pending.unclosed(), BTreeSet::from([path.clone()]));
    assert_eq!((pending.warnings(at(1_000)).count(), pending.warnings(at(1_001)).count()), (0, 1));
    pending.note(&Event::new(CLOSED).add_path(path.clone()), dir.path(), at(60_000));
    assert_eq!((pending.unclosed().len(), pending.warnings(at(60_000)).count()), (0, 0));
    let taken = pending.take(at(60_010)).unwrap();
    assert_eq!(taken, (Touched::Files(BTreeSet::from([path])), at(60_000)), "counted from the close");
}

#[test]
fn what_happens_beside_the_directory_or_only_reads_wakes_nobody() {
    let dir = Path::new("/etc/mesh");
    let about = |kind, path: &str| Pending::is_about(&Event::new(kind).add_path(path.into()), dir);
    assert!(
        about(CLOSED, "/etc/mesh/a.yaml") && about(MOVED, "/etc/mesh") && about(WRITTEN, "/etc/mesh/..data")
    );
    assert!(Pending::is_about(&Event::new(EventKind::Other).set_flag(Flag::Rescan), dir));
    assert!(
        !about(WRITTEN, "/etc/access.log") && !about(WRITTEN, "/etc") && !about(OPENED, "/etc/mesh/a.yaml")
    );
}
