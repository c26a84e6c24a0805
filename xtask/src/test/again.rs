//! A few failed tests are run once more, each alone on the machine, when all others are through. One that passes then was
//! unsteady: it is named, with what it said, and it isn't a failure. Many failures are no bad luck and stay what they are.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use super::count::{Count, Failure};
use crate::workspace;

/// More than these are never bad luck.
const MOST: usize = 8;
/// Lines of what a test said; the panic and its reason stand at the end.
const SHOWN: usize = 60;

/// What became of the failed tests.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Passed the second time.
    pub unsteady: Vec<Failure>,
    /// Failed twice, or weren't tried again.
    pub failed: Vec<Failure>,
}

/// Takes the failures out of a count and judges them.
pub fn judge(count: &mut Count, prepare: impl Fn(&mut Command), show: impl Fn(&str)) -> Result<Verdict> {
    if count.failures.len() > MOST {
        return Ok(Verdict::all_failed(count));
    }
    let failures = std::mem::take(&mut count.failures);
    let mut verdict = Verdict::default();
    for failure in failures {
        show(&format!("once more, alone: {} of {}", failure.test, failure.suite()));
        let mut test = Command::new(workspace::root().join(&failure.binary));
        test.args(["--exact", &failure.test, "--show-output"]);
        prepare(&mut test);
        if passes(&mut test, &show)? {
            count.failed -= 1;
            count.passed += 1;
            verdict.unsteady.push(failure);
        } else {
            verdict.failed.push(failure);
        }
    }
    Ok(verdict)
}

/// A test that isn't there, or is skipped this time, hasn't passed.
fn passes(test: &mut Command, show: impl Fn(&str)) -> Result<bool> {
    let ran = test.current_dir(workspace::root()).stdin(Stdio::null()).output();
    let ran = ran.with_context(|| format!("running {}", test.get_program().display()))?;
    let said = String::from_utf8_lossy(&ran.stdout);
    show(&format!("{said}{}", String::from_utf8_lossy(&ran.stderr)));
    Ok(ran.status.success() && said.contains("\ntest result: ok. 1 passed;") && !said.contains("\nSKIPPED: "))
}

impl Verdict {
    /// Nothing is tried again.
    pub fn all_failed(count: &mut Count) -> Self {
        Self { failed: std::mem::take(&mut count.failures), ..Self::default() }
    }

    /// Shows all of it: at the very end of the output, where it is looked for.
    pub fn show(&self) {
        for (what, failures) in
            [("unsteady (passed when run again)", &self.unsteady), ("FAILED", &self.failed)]
        {
            for failure in failures {
                println!("\n{what}: {} of {}", failure.test, failure.suite());
                let said: Vec<_> = failure.said.iter().filter(|line| !line.trim().is_empty()).collect();
                said[said.len().saturating_sub(SHOWN)..].iter().for_each(|line| println!("    {line}"));
            }
        }
    }
}

impl Failure {
    /// The suite's name: the binary's without its hash.
    fn suite(&self) -> &str {
        let name = Path::new(&self.binary).file_name().and_then(|name| name.to_str()).unwrap_or(&self.binary);
        name.rsplit_once('-').map_or(name, |(suite, _)| suite)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failures(names: &[&str]) -> Count {
        let said = || vec!["no".to_owned()];
        let failure =
            |test: &&str| Failure { binary: "/bin/sh".into(), test: (*test).to_owned(), said: said() };
        let failed = names.len().try_into().unwrap_or(0);
        Count { failed, failures: names.iter().map(failure).collect(), ..Count::default() }
    }

    /// Not shown: whoever counts this test's own output would count it too.
    fn hide(_: &str) {}

    /// In place of a test binary.
    fn prints(text: &str) -> impl Fn(&mut Command) {
        let script = format!("printf '{text}'");
        move |test| {
            *test = {
                let mut shell = Command::new("/bin/sh");
                shell.args(["-c", &script]);
                shell
            }
        }
    }

    #[test]
    fn one_that_passes_alone_is_unsteady_and_counts_as_passed() -> Result<()> {
        let mut count = failures(&["a"]);
        let verdict = judge(&mut count, prints("\\ntest result: ok. 1 passed; 0 failed\\n"), hide)?;
        assert_eq!((verdict.unsteady.len(), verdict.failed.len()), (1, 0));
        assert_eq!((count.passed, count.failed), (1, 0));
        Ok(())
    }

    #[test]
    fn one_that_fails_again_is_skipped_or_is_not_found_has_failed() -> Result<()> {
        for said in [
            "\\ntest result: FAILED. 0 passed; 1 failed\\n",
            "\\ntest result: ok. 0 passed; 0 failed\\n",
            "\\nSKIPPED: no root\\n\\ntest result: ok. 1 passed; 0 failed\\n",
        ] {
            let mut count = failures(&["a"]);
            let verdict = judge(&mut count, prints(said), hide)?;
            assert_eq!((verdict.unsteady.len(), verdict.failed.len(), count.failed), (0, 1, 1), "{said}");
        }
        Ok(())
    }

    #[test]
    fn many_failures_are_not_tried_again() -> Result<()> {
        let mut count = failures(&["a"; MOST + 1]);
        let verdict = judge(&mut count, prints("\\ntest result: ok. 1 passed;\\n"), hide)?;
        assert_eq!((verdict.unsteady.len(), verdict.failed.len()), (0, MOST + 1));
        Ok(())
    }

    #[test]
    fn a_suite_is_named_without_its_hash() {
        let mut failure = failures(&["a"]).failures.remove(0);
        failure.binary = "target/debug/deps/kube_nodes-0123abcd".into();
        assert_eq!(failure.suite(), "kube_nodes");
    }
}
