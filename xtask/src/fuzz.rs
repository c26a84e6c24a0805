//! `cargo xtask fuzz`: runs the fuzz targets under `fuzz/`, one after the other, and keeps what tells something new.
//!
//! cargo-fuzz with the compiler that is there: without a sanitizer no flag needs a nightly. Rust's own checks, and the
//! targets' assertions, are what finds something. What is found is under `fuzz/artifacts/`; the corpora under `fuzz/corpus/` are
//! replayed by the agent's unit tests, so that nothing of this runs in CI.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::{setup, sh, workspace};

/// More files of one target aren't kept, and of those that together reach the same code a part.
const MOST_KEPT: usize = 60;
/// Longer files aren't kept either.
const LONGEST_KEPT: u64 = 4096;

#[derive(clap::Args)]
pub struct Args {
    /// Only this target; all of them otherwise
    target: Option<String>,
    /// How long each is run
    #[arg(long, default_value_t = 120)]
    seconds: u32,
    /// Adds to fuzz/corpus/ what was found, as little of it as reaches the same code
    #[arg(long)]
    keep: bool,
}

/// The command.
pub fn run(args: &Args) -> Result<()> {
    let known = targets()?;
    let chosen = match &args.target {
        None => known,
        Some(name) if known.contains(name) => vec![name.clone()],
        Some(name) => bail!("no target is called {name}: there are {}", known.join(", ")),
    };
    setup::ensure(&[setup::Part::Fuzz])?;
    for target in chosen {
        let found = workspace::target_dir().join("fuzz-corpus").join(&target);
        fs::create_dir_all(&found).with_context(|| format!("could not create {}", found.display()))?;
        sh::progress(format!("fuzz: {target} for {} s", args.seconds));
        let kept = dir().join("corpus").join(&target);
        let mut fuzz = cargo_fuzz("run", &target);
        // What is found goes to the first directory, what is kept is read alone.
        fuzz.args([&found, &kept]).arg("--");
        fuzz.args([format!("-max_total_time={}", args.seconds), "-timeout=10".to_owned()]);
        sh::run(fuzz.args(["-rss_limit_mb=2048", "-print_final_stats=1"]))?;
        if args.keep {
            keep(&target, &found, &kept)?;
        }
    }
    Ok(())
}

/// Puts a part of the fewest files that together reach what all of them do in place of those that were put there so before. What was
/// written by hand stays: its names aren't digests.
fn keep(target: &str, found: &Path, kept: &Path) -> Result<()> {
    let least = found.with_extension("least");
    let _ = fs::remove_dir_all(&least);
    fs::create_dir_all(&least)?;
    let mut merge = cargo_fuzz("run", target);
    merge.arg(&least).args([kept, found]).args(["--", "-merge=1"]);
    sh::logged("fuzz-merge", &mut merge)?;
    let mut places = MOST_KEPT;
    for (_, file) in files(kept)? {
        match is_digest(&file) {
            true => fs::remove_file(&file)?,
            false => places = places.saturating_sub(1),
        }
    }
    let mut new = files(&least)?;
    new.retain(|(size, file)| *size <= LONGEST_KEPT && is_digest(file));
    // Of every length, since the short ones end early.
    let step = new.len().div_ceil(places.max(1)).max(1);
    for (_, file) in new.iter().rev().step_by(step).take(places) {
        fs::copy(file, kept.join(file.file_name().context("a file's name")?))?;
    }
    sh::progress(format!("fuzz: {} files are kept of {target}", files(kept)?.len()));
    Ok(())
}

/// With their sizes, the smallest first.
fn files(dir: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| format!("could not read {}", dir.display()))? {
        let entry = entry?;
        files.push((entry.metadata()?.len(), entry.path()));
    }
    files.sort();
    Ok(files)
}

/// libFuzzer calls files by SHA-1.
fn is_digest(file: &Path) -> bool {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    name.len() == 40 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn cargo_fuzz(verb: &str, target: &str) -> std::process::Command {
    let mut cargo = sh::cargo();
    cargo.current_dir(dir()).args(["fuzz", verb, "--sanitizer", "none"]);
    // One unit, which is the default, takes a quarter of an hour.
    cargo.args(["--codegen-units", "16", "--target-dir"]);
    cargo.arg(workspace::target_dir().join("fuzz")).arg(target);
    cargo
}

fn targets() -> Result<Vec<String>> {
    let files = fs::read_dir(dir().join("fuzz_targets")).context("could not read fuzz/fuzz_targets")?;
    let stem = |file: std::io::Result<fs::DirEntry>| -> Result<String> {
        Ok(file?.path().file_stem().context("a file's name")?.to_string_lossy().into_owned())
    };
    let mut names: Vec<String> = files.map(stem).collect::<Result<_>>()?;
    names.sort();
    Ok(names)
}

fn dir() -> PathBuf {
    workspace::root().join("fuzz")
}
