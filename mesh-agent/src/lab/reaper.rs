//! The root of everything that this process makes, and the child that clears it away however the process ends.
//!
//! Guards clean up when they are dropped. A panic that aborts, Ctrl-C or SIGKILL drops nothing: then the reaper, a
//! small shell process that sees its standard input close, does the same by name. It touches only names that carry
//! this process's id.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, anyhow, bail};

/// Where bpffs is expected.
const BPFFS: &str = "/sys/fs/bpf";

/// Runs once standard input is at its end. Arguments: netns prefix, cgroup, bpffs directory, state directory.
const SCRIPT: &str = r#"
trap '' INT TERM HUP
while read -r _; do :; done
gone() {
  i=0
  while [ -d "$1" ] && [ $i -lt 3000 ]; do
    echo 1 >"$1/cgroup.kill" 2>/dev/null
    find "$1" -depth -type d -exec rmdir {} + 2>/dev/null
    i=$((i+1)); [ ! -d "$1" ] || sleep 0.01
  done
}
gone "$2"
for n in /run/netns/"$1"*; do [ ! -e "$n" ] || ip netns del "${n##*/}" 2>/dev/null; done
[ ! -d "$3" ] || rm -rf "$3"
[ ! -d "$4" ] || rm -rf "$4"
"#;

/// Names and directories of this process.
pub struct Root {
    prefix: String,
    cgroup: PathBuf,
    bpffs: PathBuf,
    state: PathBuf,
    next: AtomicU32,
    // Its standard input stays open for as long as this process lives.
    _reaper: Child,
}

impl Root {
    /// The one root of this process; made, with its reaper, at the first call.
    ///
    /// # Errors
    /// Not root, no cgroup2, no bpffs, or no shell.
    pub fn get() -> Result<&'static Root> {
        static ROOT: OnceLock<Result<Root, String>> = OnceLock::new();
        ROOT.get_or_init(|| Root::make().map_err(|e| format!("{e:#}"))).as_ref().map_err(|e| anyhow!("{e}"))
    }

    fn make() -> Result<Root> {
        if let Some(what) = missing() {
            bail!("{what}");
        }
        let pid = std::process::id();
        let prefix = format!("mal{pid}-");
        let cgroup = cgroup2_mount().context("no cgroup2 mount")?.join(format!("mesh-lab-{pid}"));
        let bpffs = Path::new(BPFFS).join(format!("mesh-lab-{pid}"));
        let state = PathBuf::from(format!("/run/mesh-lab-{pid}"));
        let reaper = Command::new("/bin/sh")
            .args(["-c", SCRIPT, "mesh-lab-reaper", &prefix])
            .args([&cgroup, &bpffs, &state])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .context("starting the reaper")?;
        for dir in [&cgroup, &bpffs, &state] {
            fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
        }
        Ok(Root { prefix, cgroup, bpffs, state, next: AtomicU32::new(0), _reaper: reaper })
    }

    /// A number that this process uses once.
    pub(super) fn number(&self) -> u32 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// A network namespace's name, unique on this machine.
    pub(super) fn netns_name(&self, name: &str) -> String {
        format!("{}{}-{name}", self.prefix, self.number())
    }

    /// Parent of every cgroup.
    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// Parent of every bpffs directory.
    pub fn bpffs(&self) -> &Path {
        &self.bpffs
    }

    /// Parent of every state and mesh directory.
    pub fn state(&self) -> &Path {
        &self.state
    }
}

/// What keeps a topology from being built here, as a sentence; `None` if nothing does.
pub fn missing() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("needs root: network namespaces, cgroups and kernel programs".into());
    }
    if cgroup2_mount().is_none() {
        return Some(
            "needs a cgroup2 mount whose root is the real one; none is in /proc/self/mountinfo".into(),
        );
    }
    if !Path::new("/sys/kernel/btf/vmlinux").exists() {
        return Some("needs a kernel with BTF (/sys/kernel/btf/vmlinux)".into());
    }
    if let Err(error) = Command::new("ip").arg("-V").output() {
        return Some(format!("needs `ip` of iproute2: {error}"));
    }
    crate::kernel::mount_bpffs().err().map(|e| format!("needs bpffs at {BPFFS}: {e}"))
}

/// The mount point of cgroup2 that shows the hierarchy's real root.
fn cgroup2_mount() -> Option<PathBuf> {
    mounts().into_iter().find(|m| m.kind == "cgroup2" && m.root == "/").map(|m| m.point)
}

struct Mount {
    root: String,
    point: PathBuf,
    kind: String,
}

/// proc_pid_mountinfo(5): id, parent, device, root, mount point, options, optional fields, `-`, type, source, options.
fn mounts() -> Vec<Mount> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    text.lines()
        .filter_map(|line| {
            let (head, tail) = line.split_once(" - ")?;
            let mut head = head.split(' ').skip(3);
            let root = head.next()?.to_owned();
            let point = PathBuf::from(head.next()?);
            Some(Mount { root, point, kind: tail.split(' ').next()?.to_owned() })
        })
        .collect()
}
