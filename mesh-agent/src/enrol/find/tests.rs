//! Looking for pods among processes: most of them made up, in a directory that looks like /proc.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::process::Command;

use super::*;

const UID: &str = "8f3c2a10-5b7e-4d06-9a41-c2d7e61f0b93";
const OTHER: &str = "00000000-1111-2222-3333-444444444444";

/// A directory of made-up processes; a file stands for each network namespace.
struct Proc(tempfile::TempDir);

impl Proc {
    /// With the node's first process.
    fn new() -> Self {
        let proc = Self(tempfile::tempdir().unwrap());
        proc.process(1, "0::/init.scope", "node", 0);
        fs::write(proc.0.path().join("uptime"), "1 1").unwrap();
        proc
    }

    fn process(&self, pid: u32, cgroup: &str, netns: &str, began: u64) {
        let dir = self.0.path().join(pid.to_string());
        fs::create_dir_all(dir.join("ns")).unwrap();
        fs::write(dir.join("cgroup"), format!("{cgroup}\n")).unwrap();
        let zeros = "0 ".repeat(18);
        fs::write(dir.join("stat"), format!("{pid} (a) S) odd name) S {zeros}{began} 0 0\n")).unwrap();
        let namespaces = self.0.path().join("namespaces");
        fs::create_dir_all(&namespaces).unwrap();
        let namespace = namespaces.join(netns);
        if !namespace.exists() {
            fs::write(&namespace, "").unwrap();
        }
        std::os::unix::fs::symlink(namespace, dir.join(NETNS)).unwrap();
    }

    fn netns(&self, name: &str) -> Identity {
        Identity::at(&self.0.path().join("namespaces").join(name)).unwrap()
    }

    fn look(&self, uids: &[&str]) -> HashMap<String, Sight> {
        Finder::new(self.0.path().to_owned()).look(&uids.iter().copied().collect()).unwrap()
    }
}

fn in_container(uid: &str, container: &str) -> String {
    format!("0::/kubepods/burstable/pod{uid}/{container}")
}

#[test]
fn all_pods_are_found_in_one_look_each_in_its_own_namespace() {
    let proc = Proc::new();
    proc.process(100, &in_container(UID, "sandbox"), "web", 10);
    proc.process(101, &in_container(OTHER, "sandbox"), "cart", 11);
    proc.process(102, &in_container("99999999-1111-2222-3333-444444444444", "sandbox"), "not-wanted", 12);
    let found = proc.look(&[UID, OTHER, "12121212-1111-2222-3333-444444444444"]);
    let at: HashMap<_, _> = found
        .iter()
        .map(|(uid, sight)| match sight {
            Sight::There(found) => (uid.as_str(), found.identity),
            other => panic!("{uid}: {other:?}"),
        })
        .collect();
    assert_eq!(at, HashMap::from([(UID, proc.netns("web")), (OTHER, proc.netns("cart"))]));
}

#[test]
fn the_sandbox_s_process_speaks_for_the_pod() {
    let proc = Proc::new();
    // Numbers wrap around: a lower one may be younger.
    proc.process(50, &in_container(UID, "app"), "made-by-the-application", 300);
    proc.process(60, &format!("{}/docker/c1", in_container(UID, "app")), "of-a-container-within", 5);
    proc.process(90, &in_container(UID, "sandbox"), "web", 200);
    let found = proc.look(&[UID]);
    let Some(Sight::There(found)) = found.get(UID) else { panic!("{found:?}") };
    assert_eq!(found.identity, proc.netns("web"));
}

#[test]
fn the_node_s_network_namespace_is_never_a_pod_s() {
    let proc = Proc::new();
    proc.process(70, &in_container(UID, "sandbox"), "node", 200);
    let found = proc.look(&[UID]);
    assert!(matches!(found.get(UID), Some(Sight::OnNode)), "{found:?}");
    // The runtime enters namespaces by and by.
    proc.process(71, &in_container(UID, "sandbox"), "web", 201);
    let found = proc.look(&[UID]);
    assert!(matches!(found.get(UID), Some(Sight::There(_))), "{found:?}");
}

#[test]
fn a_pod_whose_processes_show_no_namespace_is_said_to_be_there() {
    let proc = Proc::new();
    proc.process(70, &in_container(UID, "sandbox"), "web", 200);
    fs::remove_file(proc.0.path().join("70").join(NETNS)).unwrap();
    assert!(proc.look(&[UID]).is_empty(), "one that is ending");
    std::os::unix::fs::symlink("net", proc.0.path().join("70").join(NETNS)).unwrap();
    let found = proc.look(&[UID]);
    assert!(matches!(found.get(UID), Some(Sight::Closed(_))), "{found:?}");
}

#[test]
fn a_pod_without_processes_is_missing_and_a_proc_that_is_none_an_error() {
    assert!(Proc::new().look(&[UID]).is_empty());
    let none = Finder::new("/nonexistent/proc".into()).look(&HashSet::from([UID]));
    assert_eq!(none.map(|_| ()).map_err(|error| error.kind()), Err(io::ErrorKind::NotFound));
}

#[test]
fn a_process_that_ended_is_no_later_one_of_its_number() {
    let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
    let proc = File::open("/proc").unwrap();
    let dir = openat(&proc, child.id().to_string().as_str(), OFlag::O_PATH, Mode::empty()).unwrap();
    let process = Process { dir };
    assert_eq!(process.netns().unwrap(), Identity::at(Path::new("/proc/self/ns/net")).unwrap());
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(process.netns().is_err());
}
