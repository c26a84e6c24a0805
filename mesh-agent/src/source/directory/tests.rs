//! Files that come, change, break and go, one look at a time.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::os::unix::fs::symlink;

use super::*;
use crate::objects::Kind;
use crate::source::file::MAX_FILE_BYTES;

struct World {
    dir: tempfile::TempDir,
    directory: Directory,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let directory = Directory::new(dir.path());
        Self { dir, directory }
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        std::fs::write(self.dir.path().join(name), text).unwrap();
    }

    /// `+KIND NAME` and `-KIND NAME` for what changed, sorted.
    fn scan(&mut self) -> String {
        let changes = self.directory.scan(&Touched::All, &BTreeSet::new());
        let mut all: Vec<String> =
            changes.upserts.iter().map(|object| format!("+{}", object.key())).collect();
        all.extend(changes.deletes.iter().map(|key| format!("-{key}")));
        all.sort();
        all.join(", ")
    }

    fn warnings(&self) -> String {
        let all: Vec<String> = self.directory.warnings().iter().map(ToString::to_string).collect();
        all.join("\n").replace(&self.dir.path().display().to_string(), "DIR")
    }
}

fn namespace(name: &str) -> String {
    format!("---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}}}\n")
}

fn service(name: &str, port: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{ports: [{{port: {port}}}]}}\n"
    )
}

#[test]
fn files_come_change_and_go() {
    let mut world = World::new();
    assert_eq!(world.scan(), "");
    world.write("a.yaml", namespace("a"));
    world.write("b.json", r#"{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "b"}}"#);
    world.write("notes.txt", "not: [yaml");
    world.write(".hidden.yaml", "not: [yaml");
    assert_eq!(world.scan(), "+Namespace a, +Namespace b");
    assert_eq!(world.scan(), "");
    world.write("a.yaml", [namespace("a"), namespace("c")].concat());
    assert_eq!(world.scan(), "+Namespace c");
    world.write("a.yaml", namespace("c"));
    assert_eq!(world.scan(), "-Namespace a");
    std::fs::remove_file(world.dir.path().join("b.json")).unwrap();
    assert_eq!(world.scan(), "-Namespace b");
    world.write("a.yaml", "");
    assert_eq!(world.scan(), "-Namespace c");
    assert_eq!(world.warnings(), "");
}

#[test]
fn a_broken_document_keeps_its_last_valid_version_and_leaves_the_others() {
    let mut world = World::new();
    let text = |b: &str| [service("a", "80"), b.to_owned(), service("c", "80")].concat();
    world.write("a.yaml", text(&service("b", "80")));
    world.scan();
    for broken in [
        service("b", "70000"),
        service("b", "80]"),
        service("b", "80").replace("kind: Service", "kind: Srvice"),
    ] {
        world.write("a.yaml", text(&broken));
        assert_eq!(world.scan(), "", "{broken}");
        assert!(world.warnings().contains("DIR/a.yaml:"), "{}", world.warnings());
        assert!(world.directory.origin(&ObjectKey::new(Kind::Service, None, "b")).is_some());
    }
    world.write("a.yaml", text(&service("b", "81")));
    assert_eq!(world.scan(), "+Service default/b");
    assert_eq!(world.warnings(), "");
    world.write("a.yaml", text(&service("b", "0")));
    world.scan();
    world.write("a.yaml", text(""));
    assert_eq!(world.scan(), "-Service default/b");
}

#[test]
fn a_document_that_nobody_can_read_keeps_all_that_its_file_said() {
    let mut world = World::new();
    world.write("a.yaml", [namespace("a"), namespace("b")].concat());
    world.scan();
    world.write("a.yaml", [namespace("a"), "---\n}{ : [\n".to_owned()].concat());
    assert_eq!(world.scan(), "");
    assert!(world.warnings().starts_with("MESH0105 DIR/a.yaml:"), "{}", world.warnings());
    world.write("a.yaml", namespace("a"));
    assert_eq!(world.scan(), "-Namespace b");
}

#[test]
fn coverage_says_whether_pods_or_services_may_be_hidden() {
    fn check(prepare: impl Fn(&mut World), want: Coverage) {
        let mut world = World::new();
        world.write("a.yaml", namespace("a"));
        prepare(&mut world);
        world.scan();
        assert_eq!(world.directory.coverage(), want, "{}", world.warnings());
    }
    check(|_| {}, Coverage::Whole);
    check(|world| std::fs::remove_file(world.dir.path().join("a.yaml")).unwrap(), Coverage::Whole);
    check(|world| std::fs::remove_dir_all(world.dir.path()).unwrap(), Coverage::Awaited);
    check(|world| world.write("b.yaml", "}{ : [\n"), Coverage::Part);
    check(|world| world.write("b.yaml", service("b", "0")), Coverage::Part);
    check(|world| world.write("b.yaml", b"\xff\xfe---\n"), Coverage::Part);
    check(|world| symlink("/nonexistent/target", world.dir.path().join("b.yaml")).unwrap(), Coverage::Part);
    // What has no pod and no service in it hides none.
    let of = |kind: &str| format!("apiVersion: {kind}\nmetadata: {{name: x, namespace: y}}\nspec: 5\n");
    check(|world| world.write("b.yaml", of("v1\nkind: Gadget")), Coverage::Whole);
    let route = of("gateway.networking.k8s.io/v1\nkind: HTTPRoute");
    check(|world| world.write("b.yaml", &route), Coverage::Whole);
    // What was read once stays in force, whatever its file says now.
    let spoilt = |world: &mut World| {
        world.scan();
        world.write("a.yaml", b"\xff\xfe---\n");
    };
    check(spoilt, Coverage::Whole);
    // Being written, and never read before.
    let mut world = World::new();
    let half = Some(file::not_closed(Path::new("a.yaml")));
    world.directory.files.insert("a.yaml".into(), FileState { problem: half, ..FileState::default() });
    assert_eq!(world.directory.coverage(), Coverage::Awaited);
}

#[test]
fn a_deleted_neighbour_of_a_broken_object_goes() {
    let mut world = World::new();
    world.write("a.yaml", [service("a", "80"), service("b", "80")].concat());
    world.scan();
    world.write("a.yaml", service("a", "0"));
    assert_eq!(world.scan(), "-Service default/b");
}

#[test]
fn unusable_files_keep_what_they_said() {
    fn check(spoil: impl Fn(&Path), code: &str) {
        let mut world = World::new();
        world.write("a.yaml", namespace("a"));
        world.scan();
        let path = world.dir.path().join("a.yaml");
        std::fs::remove_file(&path).unwrap();
        spoil(&path);
        assert_eq!(world.scan(), "", "{code}");
        assert!(world.warnings().starts_with(&format!("{code} DIR/a.yaml: ")), "{}", world.warnings());
        let _ = std::fs::remove_file(&path);
        world.write("a.yaml", namespace("a"));
        assert_eq!((world.scan(), world.warnings()), (String::new(), String::new()));
    }
    check(|path| std::fs::write(path, b"\xff\xfe---\n").unwrap(), "MESH0103");
    check(|path| std::fs::File::create(path).unwrap().set_len(MAX_FILE_BYTES + 1).unwrap(), "MESH0104");
    check(|path| symlink("/nonexistent/target", path).unwrap(), "MESH0102");
    check(|path| symlink(path, path).unwrap(), "MESH0102");
    check(|path| nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap(), "MESH0102");
}

#[test]
fn a_file_that_vanishes_between_listing_and_reading_is_gone() {
    let mut world = World::new();
    world.write("a.yaml", namespace("a"));
    world.scan();
    let path = world.dir.path().join("a.yaml");
    std::fs::remove_file(&path).unwrap();
    let changes = world.directory.scan(&Touched::Files(BTreeSet::from([path])), &BTreeSet::new());
    assert_eq!(changes.deletes.len(), 1);
    assert_eq!(world.warnings(), "");
}

#[test]
fn a_configmaps_swap_of_its_data_link_is_one_change() {
    let mut world = World::new();
    let version = |name: &str, text: &str| {
        std::fs::create_dir(world.dir.path().join(name)).unwrap();
        std::fs::write(world.dir.path().join(name).join("a.yaml"), text).unwrap();
    };
    version("..1", &service("a", "80"));
    version("..2", &service("a", "81"));
    symlink("..1", world.dir.path().join("..data")).unwrap();
    symlink("..data/a.yaml", world.dir.path().join("a.yaml")).unwrap();
    assert_eq!(world.scan(), "+Service default/a");
    symlink("..2", world.dir.path().join("..tmp")).unwrap();
    std::fs::rename(world.dir.path().join("..tmp"), world.dir.path().join("..data")).unwrap();
    std::fs::remove_dir_all(world.dir.path().join("..1")).unwrap();
    assert_eq!(world.scan(), "+Service default/a");
    assert_eq!(world.warnings(), "");
}

#[test]
fn of_two_definitions_the_first_file_wins_and_the_other_takes_over() {
    let mut world = World::new();
    world.write("b.yaml", service("a", "81"));
    assert_eq!(world.scan(), "+Service default/a");
    world.write("a.yaml", ["# first\n", &service("a", "80")].concat());
    assert_eq!(world.scan(), "+Service default/a");
    let warning = world.warnings();
    assert!(
        warning.starts_with(
            "MESH0112 DIR/b.yaml:2 Service default/a metadata.name: is already defined at DIR/a.yaml:3"
        ),
        "{warning}"
    );
    std::fs::remove_file(world.dir.path().join("a.yaml")).unwrap();
    assert_eq!(world.scan(), "+Service default/a");
    assert_eq!(world.warnings(), "");
    world.write("b.yaml", [service("a", "81"), service("a", "82")].concat());
    assert_eq!(world.scan(), "");
    assert!(world.warnings().starts_with("MESH0112 DIR/b.yaml:7 "), "{}", world.warnings());
}

#[test]
fn a_directory_that_is_missing_is_waited_for_and_one_that_vanishes_stays_in_force() {
    let mut world = World::new();
    let path = world.dir.path().join("objects");
    world.directory = Directory::new(&path);
    assert_eq!(world.scan(), "");
    assert!(world.warnings().starts_with("MESH0101 DIR/objects: "), "{}", world.warnings());
    std::fs::create_dir(&path).unwrap();
    world.write("objects/a.yaml", namespace("a"));
    assert_eq!(world.scan(), "+Namespace a");
    assert_eq!(world.warnings(), "");
    std::fs::remove_dir_all(&path).unwrap();
    assert_eq!(world.scan(), "");
    assert!(world.warnings().starts_with("MESH0101"));
    std::fs::create_dir(&path).unwrap();
    assert_eq!(world.scan(), "-Namespace a");
}

#[test]
fn lines_of_warnings_follow_their_document() {
    let mut world = World::new();
    world.write("a.yaml", service("a", "0"));
    world.scan();
    assert!(world.warnings().contains("DIR/a.yaml:5 "), "{}", world.warnings());
    world.write("a.yaml", ["\n\n", &namespace("b"), &service("a", "0")].concat());
    world.scan();
    assert!(world.warnings().contains("DIR/a.yaml:11 "), "{}", world.warnings());
}

proptest::proptest! {
    /// Whatever edits are made, and in whatever steps they are seen, the outcome is that of reading the last state afresh.
    #[test]
    fn looking_step_by_step_ends_where_one_look_ends(
        edits in proptest::collection::vec((0usize..3, proptest::collection::vec((0u8..4, 1u16..4), 0..4)), 1..12)
    ) {
        let mut world = World::new();
        let mut seen = BTreeMap::new();
        for (file, objects) in edits {
            let text: String = objects.iter().map(|(name, port)| service(&format!("s{name}"), &port.to_string())).collect();
            world.write(&format!("{file}.yaml"), text);
            let changes = world.directory.scan(&Touched::All, &BTreeSet::new());
            for key in changes.deletes {
                proptest::prop_assert!(seen.remove(&key).is_some());
            }
            for object in changes.upserts {
                seen.insert(object.key(), object);
            }
        }
        let mut fresh = Directory::new(world.dir.path());
        let fresh = fresh.scan(&Touched::All, &BTreeSet::new()).upserts;
        let fresh: BTreeMap<_, _> = fresh.into_iter().map(|object| (object.key(), object)).collect();
        proptest::prop_assert_eq!(seen.keys().collect::<Vec<_>>(), fresh.keys().collect::<Vec<_>>());
    }
}

#[test]
fn validation_needs_no_agent_and_reads_a_file_or_a_directory() {
    let world = World::new();
    world.write("a.yaml", [service("a", "80"), service("b", "0")].concat());
    for path in [world.dir.path().to_owned(), world.dir.path().join("a.yaml")] {
        let report = crate::source::validate(&path, crate::model::build::BuildOptions::default()).unwrap();
        assert_eq!((report.objects, report.warnings.len()), (1, 1), "{:?}", report.warnings);
        assert!(report.warnings[0].origin.ends_with("a.yaml:10"), "{:?}", report.warnings);
    }
    let missing = world.dir.path().join("none");
    assert!(crate::source::validate(&missing, crate::model::build::BuildOptions::default()).is_err());
}

#[test]
fn a_look_at_everything_leaves_alone_what_may_be_half_written() {
    let mut world = World::new();
    world.directory = Directory::new(world.dir.path()).told_of_closes();
    let path = world.dir.path().join("a.yaml");
    world.write("a.yaml", [namespace("a"), namespace("b")].concat());
    assert_eq!((world.scan().as_str(), world.directory.left_some()), ("+Namespace a, +Namespace b", false));
    world.write("a.yaml", namespace("a"));
    assert_eq!((world.scan().as_str(), world.directory.left_some()), ("", true));
    world.write("a.yaml", "");
    assert_eq!((world.scan().as_str(), world.directory.left_some()), ("", true), "still changing");
    world.write("a.yaml", namespace("a"));
    assert_eq!((world.scan().as_str(), world.directory.left_some()), ("", true), "still changing");
    assert_eq!((world.scan().as_str(), world.directory.left_some()), ("-Namespace b", false));
    // Another file under the name was complete when it got it.
    world.write(".new", namespace("b"));
    std::fs::rename(world.dir.path().join(".new"), &path).unwrap();
    assert_eq!((world.scan().as_str(), world.directory.left_some()), ("+Namespace b, -Namespace a", false));
}
