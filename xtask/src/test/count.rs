//! Reads what test binaries print: counts results, keeps reasons of skipped tests, leaves out what passing tests print.

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
}

impl Count {
    /// Adds others.
    pub fn add(&mut self, other: &Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
        self.wanting += other.wanting;
    }
}

/// What a test prints first when it can't run here.
const SKIPPED: &str = "SKIPPED: ";

/// Decides line by line what is shown.
#[derive(Default)]
pub struct Filter {
    in_successes: bool,
    test: String,
}

impl Filter {
    /// The line to show for a line of output, if any.
    pub fn line(&mut self, line: &str, count: &mut Count) -> Option<String> {
        match line {
            "successes:" => self.in_successes = true,
            "failures:" => self.in_successes = false,
            _ => {}
        }
        if let Some(result) = line.strip_prefix("test result: ") {
            self.in_successes = false;
            count.passed += number_before(result, "passed");
            count.failed += number_before(result, "failed");
            count.skipped += number_before(result, "ignored");
            return Some(line.to_owned());
        }
        if !self.in_successes {
            return Some(line.to_owned());
        }
        if let Some(name) = line.strip_prefix("---- ").and_then(|rest| rest.strip_suffix(" stdout ----")) {
            name.clone_into(&mut self.test);
        }
        let why = line.strip_prefix(SKIPPED)?;
        // libtest knows no skipping at run time and has called it passed.
        count.skipped += 1;
        count.wanting += 1;
        count.passed -= 1;
        Some(format!("skipped {}: {why}", self.test))
    }
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

    #[test]
    fn results_are_summed_and_skips_are_not_passes() {
        let output = "running 2 tests\ntest a ... ok\ntest b ... ok\n\nsuccesses:\n\n---- b stdout ----\nnoise\n\
            SKIPPED: no root\n\n\nsuccesses:\n    a\n    b\n\n\
            test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s\n\
            test result: FAILED. 3 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out";
        let (mut count, mut filter) = (Count::default(), Filter::default());
        let shown: Vec<String> = output.lines().filter_map(|line| filter.line(line, &mut count)).collect();
        assert_eq!(count, Count { passed: 4, failed: 1, skipped: 2, wanting: 1 });
        assert!(shown.contains(&"skipped b: no root".to_owned()));
        assert!(!shown.contains(&"noise".to_owned()));
    }
}
