//! Reads what test binaries print: counts results, keeps reasons of skipped tests and what failed ones said, leaves out
//! what passing tests print.

/// Results of every test binary so far.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Tests that ran and passed.
    pub passed: i64,
    /// Tests that failed.
    pub failed: i64,
    /// Tests that said `SKIPPED: why`, and ignored ones.
    pub skipped: i64,
    /// Those that said why: something isn't there that they need.
    pub wanting: i64,
    /// Test binaries that ended without a result: killed, aborted.
    pub broken: Vec<String>,
    /// What failed, with what it said.
    pub failures: Vec<Failure>,
}

/// One failed test.
#[derive(Debug, PartialEq, Eq)]
pub struct Failure {
    /// The test binary, as cargo names it: a path below the workspace.
    pub binary: String,
    /// The test's name in it.
    pub test: String,
    /// What it printed.
    pub said: Vec<String>,
}

impl Count {
    /// Adds others.
    pub fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
        self.wanting += other.wanting;
        self.broken.extend(other.broken);
        self.failures.extend(other.failures);
    }
}

/// What a test prints first when it can't run here.
const SKIPPED: &str = "SKIPPED: ";

/// Decides line by line what is shown.
#[derive(Default)]
pub struct Filter {
    part: Part,
    test: String,
    /// The binary that runs and hasn't said its result.
    binary: Option<String>,
    /// The last failure of the count is this binary's, and what follows is what it said.
    saying: bool,
}

/// The part of a binary's output that a line is in.
#[derive(Default, PartialEq, Eq)]
enum Part {
    /// What runs, and results.
    #[default]
    Tests,
    /// What passing tests printed.
    Successes,
    /// What failed ones did.
    Failures,
}

impl Filter {
    /// The line to show for a line of output, if any.
    pub fn line(&mut self, line: &str, count: &mut Count) -> Option<String> {
        if let Some(binary) = running(line) {
            self.end(count);
            self.binary = Some(binary.to_owned());
        }
        match line {
            "successes:" => self.enter(Part::Successes),
            "failures:" => self.enter(Part::Failures),
            _ => {}
        }
        if let Some(result) = line.strip_prefix("test result: ") {
            self.enter(Part::Tests);
            self.binary = None;
            count.passed += number_before(result, "passed");
            count.failed += number_before(result, "failed");
            count.skipped += number_before(result, "ignored");
            return Some(line.to_owned());
        }
        let about = line.strip_prefix("---- ").and_then(|rest| rest.strip_suffix(" stdout ----"));
        match self.part {
            Part::Tests => Some(line.to_owned()),
            Part::Failures => {
                if let (Some(test), Some(binary)) = (about, &self.binary) {
                    let (binary, test) = (binary.clone(), test.to_owned());
                    count.failures.push(Failure { binary, test, said: Vec::new() });
                    self.saying = true;
                } else if let Some(failure) = count.failures.last_mut().filter(|_| self.saying) {
                    failure.said.push(line.to_owned());
                }
                Some(line.to_owned())
            }
            Part::Successes => {
                if let Some(test) = about {
                    test.clone_into(&mut self.test);
                }
                let why = line.strip_prefix(SKIPPED)?;
                // libtest knows no skipping at run time and has called it passed.
                count.skipped += 1;
                count.wanting += 1;
                count.passed -= 1;
                Some(format!("skipped {}: {why}", self.test))
            }
        }
    }

    /// The output is over.
    pub fn end(&mut self, count: &mut Count) {
        self.enter(Part::Tests);
        count.broken.extend(self.binary.take());
    }

    fn enter(&mut self, part: Part) {
        self.part = part;
        self.saying = false;
    }
}

/// The binary of cargo's `Running tests/a.rs (target/debug/deps/a-0123)`.
fn running(line: &str) -> Option<&str> {
    let (_, rest) = line.trim_start().strip_prefix("Running ")?.split_once(" (")?;
    rest.strip_suffix(')').filter(|path| path.contains("/deps/"))
}

fn number_before(text: &str, word: &str) -> i64 {
    let mut words = text.split([' ', ';']).filter(|word| !word.is_empty()).peekable();
    while let Some(number) = words.next() {
        if words.peek() == Some(&word) {
            return number.parse().unwrap_or(0);
        }
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(output: &str) -> (Count, Vec<String>) {
        let (mut count, mut filter) = (Count::default(), Filter::default());
        let shown = output.lines().filter_map(|line| filter.line(line, &mut count)).collect();
        filter.end(&mut count);
        (count, shown)
    }

    #[test]
    fn results_are_summed_and_skips_are_not_passes() {
        let (count, shown) = read(
            "running 2 tests\ntest a ... ok\ntest b ... ok\n\nsuccesses:\n\n---- b stdout ----\nnoise\n\
            SKIPPED: no root\n\n\nsuccesses:\n    a\n    b\n\n\
            test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s\n\
            test result: FAILED. 3 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out",
        );
        assert_eq!(count, Count { passed: 4, failed: 1, skipped: 2, wanting: 1, ..Count::default() });
        assert!(shown.contains(&"skipped b: no root".to_owned()));
        assert!(!shown.contains(&"noise".to_owned()));
    }

    #[test]
    fn what_failed_is_known_with_its_binary_and_what_it_said() {
        let (count, shown) = read(
            "     Running tests/one.rs (target/debug/deps/one-01)\ntest a ... FAILED\n\nfailures:\n\n\
            ---- a stdout ----\nthread 'a' panicked at one.rs:1:1:\nno\n\n\nfailures:\n    a\n\n\
            test result: FAILED. 0 passed; 1 failed; 0 ignored\n\
            \x20    Running tests/two.rs (target/debug/deps/two-02)\ntest b ... ok\n\
            test result: ok. 1 passed; 0 failed; 0 ignored\n",
        );
        let told: Vec<_> = count.failures.iter().map(|it| (it.binary.as_str(), it.test.as_str())).collect();
        assert_eq!(told, [("target/debug/deps/one-01", "a")]);
        let said = count.failures.iter().flat_map(|it| &it.said).filter(|line| !line.is_empty());
        assert_eq!(said.count(), 2);
        assert_eq!((count.broken.len(), shown.len()), (0, 17));
    }

    #[test]
    fn a_binary_that_ends_without_a_result_is_broken() {
        let (count, _) = read(
            "     Running tests/one.rs (target/debug/deps/one-01)\ntest a ...\n\
            \x20    Running tests/two.rs (target/debug/deps/two-02)\ntest result: ok. 1 passed\n\
            \x20    Running tests/three.rs (target/debug/deps/three-03)\n",
        );
        assert_eq!(count.broken, ["target/debug/deps/one-01", "target/debug/deps/three-03"]);
    }
}
