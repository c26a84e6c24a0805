//! `cargo xtask ci`: every gate in one command. All of them run, so that one run shows all that is wrong.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::{bpf, build, setup, sh, test, tidy, workspace};

#[derive(clap::Args)]
pub struct Args {
    /// Only these steps, by the names in the table
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
}

type Step = (&'static str, fn() -> Result<()>);

/// In this order: what fails quickly first, what needs the agent built last.
const STEPS: &[Step] = &[
    ("setup", set_up),
    ("fmt", fmt),
    ("tidy", || tidy::run(&tidy::Args {})),
    ("deny", deny),
    ("build", || build::agent(false).map(drop)),
    ("clippy", clippy),
    ("clippy-bpf", clippy_bpf),
    ("docs", docs),
    ("test", || test::run(&test::Args::all_required())),
];

/// The command.
pub fn run(args: &Args) -> Result<()> {
    if let Some(unknown) = args.only.iter().find(|name| !STEPS.iter().any(|(step, _)| step == name)) {
        bail!("no step is called {unknown}");
    }
    let mut results = Vec::new();
    for (name, step) in STEPS {
        if !args.only.is_empty() && !args.only.iter().any(|only| only == name) {
            continue;
        }
        sh::progress(format!("ci: {name}"));
        let begin = Instant::now();
        let result = step();
        if let Err(error) = &result {
            eprintln!("xtask: {name}: {error:#}");
        }
        results.push((*name, result.is_ok(), begin.elapsed()));
    }
    print_table(&results);
    let failed: Vec<&str> = results.iter().filter(|(_, ok, _)| !ok).map(|(name, ..)| *name).collect();
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    Ok(())
}

fn print_table(results: &[(&str, bool, Duration)]) {
    println!("\n{:<12} {:<7} {:>8}", "step", "result", "seconds");
    for (name, ok, took) in results {
        println!("{name:<12} {:<7} {:>8.1}", if *ok { "ok" } else { "FAILED" }, took.as_secs_f64());
    }
    let total: Duration = results.iter().map(|(.., took)| *took).sum();
    println!("{:<12} {:<7} {:>8.1}", "total", "", total.as_secs_f64());
}

fn set_up() -> Result<()> {
    use setup::Part;
    setup::ensure(&[Part::Bpf, Part::Page, Part::Demo, Part::Tests, Part::Gates])
}

fn fmt() -> Result<()> {
    sh::run(sh::cargo().args(["fmt", "--all", "--check"]))
}

fn clippy() -> Result<()> {
    sh::run(sh::cargo().args([
        "clippy",
        "--workspace",
        "--exclude",
        "mesh-ebpf",
        "--all-targets",
        "--",
        "--deny",
        "warnings",
    ]))
}

/// The kernel programs for their own target, with the clippy of the compiler that builds them.
fn clippy_bpf() -> Result<()> {
    let compiler = bpf::Compiler::find().context("no compiler for BPF: run `cargo xtask setup`")?;
    let mut cargo = match &compiler {
        bpf::Compiler::Nightly => compiler.cargo("clippy"),
        bpf::Compiler::Debian(rustc) => {
            let driver = rustc.with_file_name("clippy-driver");
            if !driver.is_file() {
                bail!("{} is missing: `apt-get install rust-web-clippy`", driver.display());
            }
            // What cargo-clippy does, with the driver that knows this compiler's `core`.
            let mut cargo = compiler.cargo("check");
            cargo.env("RUSTC_WORKSPACE_WRAPPER", driver).env("CLIPPY_ARGS", "-Dwarnings__CLIPPY_HACKERY__");
            cargo
        }
    };
    if matches!(compiler, bpf::Compiler::Nightly) {
        cargo.args(["--", "--deny", "warnings"]);
    }
    sh::run(&mut cargo)
}

fn docs() -> Result<()> {
    let mut cargo = sh::cargo();
    cargo.args(["doc", "--workspace", "--exclude", "mesh-ebpf", "--no-deps", "--document-private-items"]);
    // Flags of the environment would hide ours.
    cargo.env("RUSTDOCFLAGS", "--deny warnings --allow rustdoc::private_intra_doc_links");
    sh::run(&mut cargo)
}

/// Licences, duplicates and sources always; advisories where their database can be had.
fn deny() -> Result<()> {
    sh::run(sh::cargo().args(["deny", "--log-level", "error", "check", "bans", "licenses", "sources"]))?;
    let fetched = sh::logged("deny-fetch", sh::cargo().args(["deny", "fetch", "db"]));
    let mut check = sh::cargo();
    check.args(["deny", "--log-level", "error", "check"]);
    if fetched.is_err() {
        if !has_advisories() {
            sh::progress(
                "ADVISORIES NOT CHECKED: the RustSec database can't be fetched from here and there is no copy of it",
            );
            return Ok(());
        }
        sh::progress(
            "the RustSec database can't be fetched from here; checking against the copy from an earlier run",
        );
        check.arg("--disable-fetch");
    }
    sh::run(check.arg("advisories"))
}

/// Whether an earlier run has left a copy of the advisory database (deny.toml's `db-path`).
fn has_advisories() -> bool {
    let copies = workspace::root().join("target/advisory-db");
    let has_crates = |dir: &Path| dir.join("crates").is_dir();
    std::fs::read_dir(copies).is_ok_and(|entries| entries.flatten().any(|entry| has_crates(&entry.path())))
}
