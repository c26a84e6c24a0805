//! The thread end to end: something happens to files, and soon a snapshot says so.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::Write;
use std::os::unix::fs::symlink;

use super::*;
use crate::model::build::BuildOptions;
use crate::source::{Coverage, Source, start};

struct World {
    dir: tempfile::TempDir,
    published: Published,
    _thread: SourceThread,
}

impl World {
    fn new(sub: &str, prepare: impl FnOnce(&Path)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        prepare(dir.path());
        let published = Published::new();
        let source = Source::Dir(dir.path().join(sub));
        let thread = start(source, BuildOptions::default(), published.clone()).unwrap();
        let world = Self { dir, published, _thread: thread };
        world.eventually("the first snapshot", || *world.published.changed.borrow() == 1);
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn services(&self) -> String {
        let snapshot = self.published.snapshot.load();
        let mut all: Vec<String> = snapshot
            .services
            .values()
            .map(|service| format!("{}:{}", service.meta.name.name, service.ports[0].port))
            .collect();
        all.sort();
        all.join(" ")
    }

    fn expect(&self, want: &str) {
        self.eventually(want, || self.services() == want);
    }

    /// That notification works, and not only the slow scan, is what `pending`'s tests say and what
    /// `a_file_is_not_read_while_it_is_being_written` rests on: a scan publishes several files at once.
    fn eventually(&self, what: &str, mut done: impl FnMut() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !done() {
            assert!(Instant::now() < deadline, "never came: {what}; now: {}", self.services());
            // The pause between two looks.
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

fn service(name: &str, port: u16) -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{ports: [{{port: {port}}}]}}\n"
    )
}

#[test]
fn written_moved_and_removed_files_are_seen() {
    let world = World::new("", |_| {});
    std::fs::write(world.path("a.yaml"), service("a", 80)).unwrap();
    world.expect("a:80");
    std::fs::write(world.path("a.yaml"), service("a", 81)).unwrap();
    world.expect("a:81");
    std::fs::write(world.path(".b.tmp"), service("b", 80)).unwrap();
    std::fs::rename(world.path(".b.tmp"), world.path("b.yaml")).unwrap();
    world.expect("a:81 b:80");
    std::fs::remove_file(world.path("a.yaml")).unwrap();
    world.expect("b:80");
    std::fs::rename(world.path("b.yaml"), world.path("b.yaml.off")).unwrap();
    world.expect("");
}

#[test]
fn a_swapped_data_link_is_seen() {
    let version = |dir: &Path, name: &str, port: u16| {
        std::fs::create_dir(dir.join(name)).unwrap();
        std::fs::write(dir.join(name).join("a.yaml"), service("a", port)).unwrap();
    };
    let world = World::new("", |dir| {
        version(dir, "..1", 80);
        symlink("..1", dir.join("..data")).unwrap();
        symlink("..data/a.yaml", dir.join("a.yaml")).unwrap();
    });
    assert_eq!(world.services(), "a:80");
    version(world.dir.path(), "..2", 81);
    symlink("..2", world.path("..data_tmp")).unwrap();
    std::fs::rename(world.path("..data_tmp"), world.path("..data")).unwrap();
    world.expect("a:81");
}

#[test]
fn a_directory_that_comes_later_goes_and_comes_back_is_seen() {
    let world = World::new("objects", |_| {});
    world.eventually("a warning", || world.published.warnings.load().iter().any(|w| w.code == "MESH0101"));
    let fill = |name: &str, port: u16| {
        std::fs::create_dir(world.path(name)).unwrap();
        std::fs::write(world.path(name).join("a.yaml"), service("a", port)).unwrap();
    };
    fill("new", 80);
    std::fs::rename(world.path("new"), world.path("objects")).unwrap();
    world.expect("a:80");
    assert!(world.published.warnings.load().is_empty());
    std::fs::rename(world.path("objects"), world.path("old")).unwrap();
    fill("next", 81);
    std::fs::rename(world.path("next"), world.path("objects")).unwrap();
    world.expect("a:81");
    std::fs::write(world.path("objects/a.yaml"), service("a", 82)).unwrap();
    world.expect("a:82");
}

#[test]
fn a_whole_directory_behind_a_link_may_be_swapped() {
    let world = World::new("current", |dir| {
        for (name, port) in [("v1", 80), ("v2", 81)] {
            std::fs::create_dir(dir.join(name)).unwrap();
            std::fs::write(dir.join(name).join("a.yaml"), service("a", port)).unwrap();
        }
        symlink("v1", dir.join("current")).unwrap();
    });
    symlink("v2", world.path("tmp")).unwrap();
    std::fs::rename(world.path("tmp"), world.path("current")).unwrap();
    world.expect("a:81");
    std::fs::write(world.path("v2/a.yaml"), service("a", 82)).unwrap();
    world.expect("a:82");
}

#[test]
fn a_file_is_not_read_while_it_is_being_written() {
    let world = World::new("", |dir| {
        std::fs::write(dir.join("a.yaml"), [service("a", 80), service("b", 80)].concat()).unwrap();
    });
    // Events come in order: once another file that was written later is in force, the earlier ones were noted.
    let noted_by = |name: &str, want: &str| {
        std::fs::write(world.path(&format!("{name}.yaml")), service(name, 80)).unwrap();
        world.expect(want);
    };
    let mut file = std::fs::File::create(world.path("a.yaml")).unwrap();
    noted_by("c", "a:80 b:80 c:80");
    file.write_all(service("a", 81).as_bytes()).unwrap();
    noted_by("d", "a:80 b:80 c:80 d:80");
    file.write_all(service("b", 81).as_bytes()).unwrap();
    noted_by("e", "a:80 b:80 c:80 d:80 e:80");
    drop(file);
    world.expect("a:81 b:81 c:80 d:80 e:80");
    assert_eq!(world.published.snapshot.load().generation, 5, "half a file was published");
}

#[test]
fn each_published_change_says_when_it_was_noticed() {
    let world = World::new("", |dir| std::fs::write(dir.join("a.yaml"), service("a", 80)).unwrap());
    world.eventually("the first one's time", || world.published.noticed.take().len() == 1);
    let before = Instant::now();
    std::fs::write(world.path("a.yaml"), service("a", 81)).unwrap();
    world.expect("a:81");
    let mut noticed = Vec::new();
    world.eventually("the second one's time", || {
        noticed.extend(world.published.noticed.take());
        !noticed.is_empty()
    });
    assert!(noticed.len() == 1 && noticed[0] >= before, "after the write, and without the scan's wait");
}

#[test]
fn a_file_that_breaks_serves_on_and_says_so() {
    let world = World::new("", |dir| std::fs::write(dir.join("a.yaml"), service("a", 80)).unwrap());
    std::fs::write(world.path("a.yaml"), service("a", 0)).unwrap();
    world.eventually("a warning", || world.published.warnings.load().iter().any(|w| w.code == "MESH0110"));
    assert_eq!(world.services(), "a:80");
    std::fs::write(world.path("a.yaml"), service("a", 80)).unwrap();
    world.eventually("no warning", || world.published.warnings.load().is_empty());
    assert_eq!(world.published.snapshot.load().generation, 1);
}

/// Asks as the admin API does and waits for the answer.
fn ask(world: &World, generation: Option<u64>) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(world.published.history.ask(generation)).expect("an answer")
}

#[test]
fn an_operator_puts_a_generation_back_until_a_file_changes() {
    let world = World::new("", |dir| std::fs::write(dir.join("a.yaml"), service("a", 80)).unwrap());
    std::fs::write(world.path("a.yaml"), service("a", 81)).unwrap();
    world.expect("a:81");
    ask(&world, Some(1)).unwrap();
    assert_eq!((world.services().as_str(), *world.published.changed.borrow()), ("a:80", 3));
    assert!(ask(&world, Some(9)).unwrap_err().contains("isn't kept"));
    ask(&world, None).unwrap();
    assert_eq!((world.services().as_str(), *world.published.changed.borrow()), ("a:81", 4));
    ask(&world, Some(1)).unwrap();
    std::fs::write(world.path("a.yaml"), service("a", 82)).unwrap();
    world.expect("a:82");
}

#[test]
fn generations_go_on_and_a_rollback_holds_in_the_next_agent() {
    let (dir, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let run = |generation: u64| {
        let published = Published { history: history::Shared::open(state.path()), ..Published::new() };
        let source = Source::Dir(dir.path().to_owned());
        let _thread = start(source, BuildOptions::default(), published.clone()).unwrap();
        let world = World { dir: tempfile::tempdir().unwrap(), published, _thread };
        world.eventually("the first snapshot", || *world.published.changed.borrow() == generation);
        world
    };
    std::fs::write(dir.path().join("a.yaml"), service("a", 80)).unwrap();
    let first = run(1);
    std::fs::write(dir.path().join("a.yaml"), service("a", 81)).unwrap();
    first.expect("a:81");
    drop(first);
    let second = run(2);
    assert_eq!(second.services(), "a:81");
    ask(&second, Some(1)).unwrap();
    // As after SIGKILL: what is on disk now is what the next one has.
    let third = run(3);
    assert_eq!(third.services(), "a:80");
    assert_eq!(third.published.history.get().rolled_back().map(|(generation, _)| generation), Some(1));
    drop((second, third));
    std::fs::write(dir.path().join("a.yaml"), service("a", 83)).unwrap();
    assert_eq!(run(4).services(), "a:83");
}

#[test]
fn coverage_grows_when_the_directory_comes_and_never_shrinks() {
    let world = World::new("late", |_| {});
    assert_eq!(world.published.coverage.get(), Coverage::Awaited);
    std::fs::create_dir(world.path("late")).unwrap();
    world.eventually("the empty directory is all there is", || {
        world.published.coverage.get() == Coverage::Whole
    });
    std::fs::remove_dir(world.path("late")).unwrap();
    world.eventually("a word of it", || !world.published.warnings.load().is_empty());
    assert_eq!(world.published.coverage.get(), Coverage::Whole);
}

#[test]
fn a_change_that_changes_no_snapshot_is_a_generation_all_the_same() {
    let world = World::new("", |_| {});
    let account = "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: a}\n";
    std::fs::write(world.path("a.yaml"), account).unwrap();
    world.eventually("generation 2", || *world.published.changed.borrow() == 2);
    let generations: Vec<u64> = world.published.history.get().entries().map(|e| e.generation).collect();
    assert_eq!(generations, [1, 2]);
}
