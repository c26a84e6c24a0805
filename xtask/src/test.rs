//! `cargo xtask test`: unit tests, then the suites on a real kernel, and one line that sums them up.

mod count;
mod suites;

use std::env;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::setup::{self, Part};
use crate::{build, sh};
use count::Count;
use suites::Suites;

#[derive(clap::Args, Default)]
pub struct Args {
    /// Only tests whose name contains this
    filter: Option<String>,
    /// Only the unit tests: no root, no kernel programs, no suites
    #[arg(long)]
    unit: bool,
    /// A test that is skipped for lack of root or kernel features fails; the default where CI is set
    #[arg(long)]
    require_kernel: bool,
}

impl Args {
    /// Everything, and nothing may be skipped.
    pub fn all_required() -> Self {
        Self { require_kernel: true, ..Self::default() }
    }
}

/// The command.
pub fn run(args: &Args) -> Result<()> {
    let mut count = Count::default();
    if args.unit {
        let passed = cargo_test(&mut unit_tests(), args, &mut count)?;
        return sum_up(&count, passed, false);
    }
    let required = args.require_kernel || env::var_os("CI").is_some();
    setup::ensure(&[Part::Bpf, Part::Page, Part::Demo, Part::Tests])?;
    let agent = build::agent(false)?;
    let mut passed = cargo_test(&mut unit_tests(), args, &mut count)?;
    // The harness's helper programs run inside pods; a test looks for them beside the agent.
    build::packages(&["mesh-tests"], false)?;
    sh::run(sh::cargo().args(["test", "--package", "mesh-tests", "--no-run"]))?;
    let ready = |mut cargo: Command| {
        cargo.env("MESH_AGENT_BIN", &agent);
        if required {
            cargo.env("MESH_TESTS_REQUIRE_KERNEL", "1");
        }
        cargo
    };
    let Suites { alone, beside } = Suites::find()?;
    let mut first = ready(suites::cargo(&alone));
    passed &= cargo_test(first.args(["--lib", "--bins"]), args, &mut count)?;
    let rows = beside.iter().map(|row| {
        let mut cargo = ready(suites::cargo(row));
        harness(&mut cargo, args);
        cargo
    });
    passed &= suites::beside(rows.collect(), &mut count, |line| println!("{line}"))?;
    sum_up(&count, passed, required)
}

/// The workspace's default members: what tests itself without root.
fn unit_tests() -> Command {
    let mut cargo = sh::cargo();
    cargo.args(["test", "--no-fail-fast"]);
    cargo
}

/// Runs cargo, shows its output as it comes and counts results. False when a test failed.
fn cargo_test(cargo: &mut Command, args: &Args, count: &mut Count) -> Result<bool> {
    harness(cargo, args);
    cargo.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = cargo.spawn().context("could not start cargo")?;
    let stdout = child.stdout.take().context("cargo's output is piped")?;
    let mut filter = count::Filter::default();
    for line in BufReader::new(stdout).split(b'\n') {
        let line = line?;
        if let Some(shown) = filter.line(&String::from_utf8_lossy(&line), count) {
            println!("{shown}");
        }
    }
    Ok(child.wait()?.success())
}

/// What cargo passes on to the tests.
fn harness(cargo: &mut Command, args: &Args) {
    if let Some(filter) = &args.filter {
        cargo.arg(filter);
    }
    // With it a skipped test's reason is seen; the rest of what passing tests print is left out.
    cargo.args(["--", "--show-output"]);
}

fn sum_up(count: &Count, passed: bool, required: bool) -> Result<()> {
    println!("{} passed, {} failed, {} skipped", count.passed, count.failed, count.skipped);
    if !passed || count.failed > 0 {
        bail!("not every test passed");
    }
    if required && count.wanting > 0 {
        bail!("{} tests were skipped for want of something, and none may be here", count.wanting);
    }
    Ok(())
}
