//! Results as CI systems read them: JUnit's XML, as far as all of them agree on it.

use std::fmt::Write;

use super::{Case, CaseResult};

/// One suite with a test case for each scenario.
pub(super) fn document(cases: &[Case]) -> String {
    let count = |result| cases.iter().filter(|case| case.result == result).count();
    let (failed, skipped) = (count(CaseResult::Failed), count(CaseResult::Skipped));
    let mut text = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    // Writing to a String can't fail.
    let _ = writeln!(
        text,
        "<testsuite name=\"mesh-agent connectivity\" tests=\"{}\" failures=\"{failed}\" skipped=\"{skipped}\">",
        cases.len()
    );
    for case in cases {
        let seconds = case.millis as f64 / 1000.0;
        let _ = write!(text, "  <testcase name=\"{}\" time=\"{seconds:.3}\"", escaped(case.name));
        let _ = match case.result {
            CaseResult::Passed => writeln!(text, "/>"),
            CaseResult::Failed => {
                let message = escaped(&case.detail);
                writeln!(text, ">\n    <failure message=\"{message}\"/>\n  </testcase>")
            }
            CaseResult::Skipped => {
                let message = escaped(&case.detail);
                writeln!(text, ">\n    <skipped message=\"{message}\"/>\n  </testcase>")
            }
        };
    }
    text + "</testsuite>\n"
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            // XML 1.0 has no way to say them.
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_failed_and_what_was_not_tried_say_why() {
        let case = |name, result, detail: &str| Case {
            name,
            what: "",
            result,
            detail: detail.to_owned(),
            millis: 1500,
        };
        let text = document(&[
            case("one", CaseResult::Passed, ""),
            case("two", CaseResult::Failed, "got <\"503\"> & more\n"),
            case("three", CaseResult::Skipped, "one node"),
        ]);
        assert_eq!(
            text,
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
             <testsuite name=\"mesh-agent connectivity\" tests=\"3\" failures=\"1\" skipped=\"1\">\n  \
             <testcase name=\"one\" time=\"1.500\"/>\n  \
             <testcase name=\"two\" time=\"1.500\">\n    \
             <failure message=\"got &lt;&quot;503&quot;&gt; &amp; more \"/>\n  </testcase>\n  \
             <testcase name=\"three\" time=\"1.500\">\n    <skipped message=\"one node\"/>\n  </testcase>\n\
             </testsuite>\n"
        );
    }
}
