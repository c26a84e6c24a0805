//! `cargo xtask test`: unit tests, then the suites on a real kernel, what failed once more, and one line that sums it up.

mod again;
mod count;
mod suites;

use std::env;
use std::io::{BufRead, BufReader};
use std::process::Command;

use anyhow::{Result, bail};

use crate::setup::{self, Part};
use crate::{build, sh};
use again::Verdict;
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
    /// A test that fails isn't run once more, alone, to see whether it is unsteady
    #[arg(long)]
    once: bool,
}

impl Args {
    /// Everything, and nothing may be skipped.
    pub fn all_required() -> Self {
        Self { require_kernel: true, ..Self::default() }
    }

    /// Nothing may be skipped.
    fn kernel_is_required(&self) -> bool {
        !self.unit && (self.require_kernel || env::var_os("CI").is_some())
    }
}

/// The command.
pub fn run(args: &Args) -> Result<()> {
    let mut count = Count::default();
    if args.unit {
        let passed = cargo_test(&mut unit_tests(), args, &mut count)?;
        return sum_up(count, passed, args, |_| ());
    }
    setup::ensure(&[Part::Bpf, Part::Page, Part::Demo, Part::Tests])?;
    let agent = build::agent(false)?;
    let mut passed = cargo_test(&mut unit_tests(), args, &mut count)?;
    // The harness's helper programs run inside pods; a test looks for them beside the agent.
    build::packages(&["mesh-tests"], false)?;
    sh::run(sh::cargo().args(["test", "--package", "mesh-tests", "--no-run"]))?;
    let prepare = |test: &mut Command| {
        test.env("MESH_AGENT_BIN", &agent);
        if args.kernel_is_required() {
            test.env("MESH_TESTS_REQUIRE_KERNEL", "1");
        }
    };
    let Suites { alone, beside } = Suites::find()?;
    let mut first = suites::cargo(&alone);
    prepare(&mut first);
    passed &= cargo_test(first.args(["--lib", "--bins"]), args, &mut count)?;
    let rows = beside.iter().map(|row| {
        let mut cargo = suites::cargo(row);
        prepare(&mut cargo);
        harness(&mut cargo, args);
        cargo
    });
    passed &= suites::beside(rows.collect(), &mut count, |line| println!("{line}"))?;
    sum_up(count, passed, args, prepare)
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
    let (mut child, output) = suites::start(cargo)?;
    let mut filter = count::Filter::default();
    for line in BufReader::new(output).split(b'\n') {
        let line = line?;
        if let Some(shown) = filter.line(&String::from_utf8_lossy(&line), count) {
            println!("{shown}");
        }
    }
    filter.end(count);
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

/// Failed tests are judged with `prepare` giving them what the suites had.
fn sum_up(mut count: Count, passed: bool, args: &Args, prepare: impl Fn(&mut Command)) -> Result<()> {
    // What cargo calls a failure without a test that failed (it didn't build, a binary was killed) is one.
    let untold = !passed && count.failures.is_empty();
    let verdict = if args.once {
        Verdict::all_failed(&mut count)
    } else {
        again::judge(&mut count, prepare, |text| println!("{text}"))?
    };
    verdict.show();
    let Count { passed, failed, skipped, wanting, broken, .. } = count;
    println!(
        "{passed} passed ({} of them unsteady), {failed} failed, {skipped} skipped",
        verdict.unsteady.len()
    );
    if !broken.is_empty() {
        bail!("without a result: {}", broken.join(", "));
    }
    if untold || failed > 0 || !verdict.failed.is_empty() {
        bail!("not every test passed");
    }
    if args.kernel_is_required() && wanting > 0 {
        bail!("{wanting} tests were skipped for want of something, and none may be here");
    }
    Ok(())
}
