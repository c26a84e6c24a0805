//! The page of `mesh-agent dashboard`: its packages by npm, its files put together by `page/build.js` into `target/page`, from where
//! the agent's build script takes them in.

use std::env;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::{sh, workspace};

/// Builds it, unless the environment names a ready one or there is no npm: then the agent is built without, and says so when it is asked
/// for its page.
pub fn build() -> Result<()> {
    if let Some(page) = env::var_os("MESH_PAGE") {
        sh::progress(format!("page from MESH_PAGE: {}", page.to_string_lossy()));
        return Ok(());
    }
    if sh::which("npm").is_none() || sh::which("node").is_none() {
        sh::progress("no npm here: the agent is built without its page (`cargo xtask setup` installs npm)");
        return Ok(());
    }
    packages()?;
    let mut node = Command::new("node");
    node.arg(source().join("build.js")).arg(workspace::root().join("target/page"));
    sh::logged("page", &mut node)
}

/// What the page and its tests need from npm, as the lock file has it. Nothing is fetched while that stays the same.
pub fn packages() -> Result<()> {
    let lock = source().join("package-lock.json");
    let wanted = fs::read(&lock).with_context(|| format!("could not read {}", lock.display()))?;
    let installed = source().join("node_modules/.installed-lock.json");
    if fs::read(&installed).is_ok_and(|installed| installed == wanted) {
        return Ok(());
    }
    sh::progress("installing the page's packages");
    let mut npm = Command::new("npm");
    npm.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]).current_dir(source());
    sh::logged("npm-ci", &mut npm)?;
    fs::write(&installed, wanted).with_context(|| format!("could not write {}", installed.display()))
}

fn source() -> PathBuf {
    workspace::root().join("page")
}
