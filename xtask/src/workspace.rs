//! Where things are: the workspace, its target directories, its crates.

use std::env;
use std::path::{Path, PathBuf};

/// The workspace's root directory.
pub fn root() -> PathBuf {
    // cargo sets the variable when it runs us; the compiled-in value serves a binary that is started by hand.
    let here = env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    here.parent().map_or_else(|| here.clone(), Path::to_path_buf)
}

/// Where cargo puts host builds: `CARGO_TARGET_DIR` or the workspace's `target`.
pub fn target_dir() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |dir| root().join(dir))
}

/// Logs of the commands that xtask runs.
pub fn log_dir() -> PathBuf {
    root().join("target/xtask")
}

/// The kernel programs' object; always in the workspace, whatever `CARGO_TARGET_DIR` says.
pub fn bpf_object() -> PathBuf {
    env::var_os("MESH_EBPF_OBJECT").map_or_else(|| root().join("target/bpf/mesh-ebpf.o"), PathBuf::from)
}

/// A binary of a host build.
pub fn binary(name: &str, release: bool) -> PathBuf {
    target_dir().join(if release { "release" } else { "debug" }).join(name)
}

/// The workspace's crates, each with its directory, in the order of the workspace's manifest.
pub fn members() -> anyhow::Result<Vec<String>> {
    let manifest = std::fs::read_to_string(root().join("Cargo.toml"))?;
    let list = manifest
        .lines()
        .find_map(|line| line.strip_prefix("members = ["))
        .and_then(|rest| rest.split(']').next())
        .ok_or_else(|| anyhow::anyhow!("Cargo.toml: expected `members = [...]` on one line"))?;
    Ok(list
        .split(',')
        .map(|name| name.trim().trim_matches('"').to_owned())
        .filter(|name| !name.is_empty())
        .collect())
}

/// Every file that git knows or would add, below `root`, as paths relative to it.
pub fn files() -> anyhow::Result<Vec<PathBuf>> {
    let mut git = std::process::Command::new("git");
    git.args(["ls-files", "--cached", "--others", "--exclude-standard", "-z"]).current_dir(root());
    let listed = crate::sh::output(&mut git)?;
    let mut files: Vec<PathBuf> = listed
        .split('\0')
        .filter(|name| !name.is_empty())
        .map(PathBuf::from)
        .filter(|f| root().join(f).is_file())
        .collect();
    files.sort();
    files.dedup();
    Ok(files)
}
