//! Rules on documentation: what the code numbers and names has a row, and files that documents name exist.

use std::collections::BTreeSet;

use super::{Findings, Tree};

pub(super) fn check(tree: &Tree, findings: &mut Findings) {
    rows(tree, findings, "docs/flags.md", "mesh-agent/src/flags.rs", &flags(tree));
    rows(tree, findings, "docs/reasons.md", "mesh-common/src/reason.rs", &reasons(tree));
    let codes = warning_codes(tree);
    if !codes.is_empty() {
        rows(tree, findings, "docs/warnings.md", "the sources", &codes);
    }
    for document in ["ARCHITECTURE.md", "README.md", "CONTRIBUTING.md", "SECURITY.md"] {
        named_files(tree, findings, document);
    }
    named_tests(tree, findings, "ARCHITECTURE.md");
    named_anywhere(tree, findings, "SECURITY.md");
}

/// Every label has a row that begins with it, and every row stands for a label.
fn rows(tree: &Tree, findings: &mut Findings, table: &str, source: &str, labels: &BTreeSet<String>) {
    let Some(text) = tree.get(table) else {
        findings.error(table, 1, format!("is missing; it has a row for each of {source}"));
        return;
    };
    let rows: BTreeSet<String> = text.lines().filter_map(row_label).collect();
    for label in labels.difference(&rows) {
        findings.error(table, 1, format!("no row for `{label}` of {source}"));
    }
    for row in rows.difference(labels) {
        findings.error(table, 1, format!("row `{row}` stands for nothing in {source}"));
    }
}

/// The label of a row ``| `label` | ... |``.
fn row_label(line: &str) -> Option<String> {
    line.strip_prefix("| `")?.split('`').next().map(str::to_owned)
}

/// Labels of `Name = "LABEL";`, and the dash that stands for none.
fn flags(tree: &Tree) -> BTreeSet<String> {
    let text = tree.get("mesh-agent/src/flags.rs").unwrap_or_default();
    let label = |line: &str| Some(line.split_once(" = \"")?.1.strip_suffix("\";")?.to_owned());
    text.lines().filter_map(label).chain(["-".to_owned()]).collect()
}

/// Labels of `Name = 7, "label";`.
fn reasons(tree: &Tree) -> BTreeSet<String> {
    let text = tree.get("mesh-common/src/reason.rs").unwrap_or_default();
    let label = |line: &str| {
        let (number, label) = line.split_once(" = ")?.1.split_once(", \"")?;
        number.parse::<u32>().ok()?;
        Some(label.strip_suffix("\";")?.to_owned())
    };
    text.lines().filter_map(label).collect()
}

/// Every `MESH0xxx` in the agent's sources.
fn warning_codes(tree: &Tree) -> BTreeSet<String> {
    let mut codes = BTreeSet::new();
    for (_, text) in tree.rust().filter(|(path, _)| path.starts_with("mesh-agent/src")) {
        for (at, _) in text.match_indices("MESH0") {
            let digits: String = text[at + 4..].chars().take_while(char::is_ascii_digit).collect();
            if digits.len() == 4 {
                codes.insert(format!("MESH{digits}"));
            }
        }
    }
    codes
}

/// Paths in backticks with a slash or a known ending must be there. Generated and installed ones begin otherwise.
fn named_files(tree: &Tree, findings: &mut Findings, document: &str) {
    let Some(text) = tree.get(document) else {
        findings.error(document, 1, "is missing");
        return;
    };
    let mut in_block = false;
    for (index, line) in text.lines().enumerate() {
        in_block ^= line.starts_with("```");
        if in_block {
            continue;
        }
        for name in line.split('`').skip(1).step_by(2).filter(|name| is_path(name)) {
            if !tree.has(name.trim_end_matches('/')) {
                findings.error(document, index + 1, format!("names `{name}`, which does not exist"));
            }
        }
    }
}

/// What a table says of tests, `FILE`: NAME, NAME; `FILE`: NAME, must be so: each is a function of that file.
fn named_tests(tree: &Tree, findings: &mut Findings, document: &str) {
    for (index, line) in tree.get(document).unwrap_or_default().lines().enumerate() {
        if !line.starts_with("| ") {
            continue;
        }
        // `FILE` stands between two backticks, what is said of it behind the second.
        let parts: Vec<&str> = line.split('`').collect();
        for pair in parts.windows(2).skip(1).step_by(2) {
            let (file, Some(names)) = (pair[0], pair[1].strip_prefix(": ")) else { continue };
            let Some(text) = tree.get(file).filter(|_| file.ends_with(".rs")) else { continue };
            for name in names.split([',', ';', '|']).map(str::trim).filter(|name| !name.is_empty()) {
                if !text.contains(&format!("fn {name}(")) {
                    findings.error(document, index + 1, format!("`{file}` has no test {name}"));
                }
            }
        }
    }
}

/// Words of a document that are as long as a test's name: each is one, in whatever file.
fn named_anywhere(tree: &Tree, findings: &mut Findings, document: &str) {
    for (index, line) in tree.get(document).unwrap_or_default().lines().enumerate() {
        let words = line.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        for name in words.filter(|word| word.matches('_').count() >= 3) {
            if !tree.rust().any(|(_, text)| text.contains(&format!("fn {name}("))) {
                findings.error(document, index + 1, format!("there is no test {name}"));
            }
        }
    }
}

fn is_path(name: &str) -> bool {
    let ours =
        ["mesh-agent/", "mesh-common/", "mesh-ebpf/", "xtask/", "tests/", "bench/", "deploy/", "docs/"];
    let plain = name.chars().all(|c| c.is_alphanumeric() || "/._-".contains(c));
    let top = name.ends_with(".md") || name.ends_with(".toml");
    plain
        && !name.contains("..")
        && (ours.iter().any(|start| name.starts_with(start)) || (top && !name.contains('/')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_read_from_source_and_table() {
        let files = [
            ("mesh-agent/src/flags.rs", "    NoRoute = \"NR\";\n"),
            ("mesh-common/src/reason.rs", "    Captured = 0, \"captured\";\n"),
            ("docs/flags.md", "| flag | meaning |\n| `-` | fine |\n| `XX` | gone |\n"),
        ];
        let tree =
            Tree { files: files.iter().map(|(path, text)| ((*path).into(), (*text).to_owned())).collect() };
        let mut findings = Findings::default();
        rows(&tree, &mut findings, "docs/flags.md", "flags.rs", &flags(&tree));
        assert_eq!(
            findings.errors.len(),
            2,
            "one flag without a row, one row without a flag: {:?}",
            findings.errors
        );
        assert_eq!(reasons(&tree), BTreeSet::from(["captured".to_owned()]));
    }

    #[test]
    fn a_test_that_a_table_names_is_in_the_file_that_it_names() {
        let row = "| never | `tests/a.rs`: one, two; `tests/b.rs`: three |\n\n`tests/a.rs`: prose\n";
        let files =
            [("A.md", row), ("tests/a.rs", "fn one() {}\nfn two_() {}\n"), ("tests/b.rs", "fn three() {}\n")];
        let tree =
            Tree { files: files.iter().map(|(path, text)| ((*path).into(), (*text).to_owned())).collect() };
        let mut findings = Findings::default();
        named_tests(&tree, &mut findings, "A.md");
        assert_eq!(findings.errors, ["A.md:1: `tests/a.rs` has no test two"]);
    }

    #[test]
    fn a_test_that_prose_names_is_in_some_file() {
        let files = [
            ("A.md", "so it is (b.rs: one_two_three_four,\nno_such_test_here)\n"),
            ("b.rs", "fn one_two_three_four() {}\n"),
        ];
        let tree =
            Tree { files: files.iter().map(|(path, text)| ((*path).into(), (*text).to_owned())).collect() };
        let mut findings = Findings::default();
        named_anywhere(&tree, &mut findings, "A.md");
        assert_eq!(findings.errors, ["A.md:2: there is no test no_such_test_here"]);
    }

    #[test]
    fn only_files_of_the_tree_are_looked_for() {
        assert!(is_path("mesh-agent/src/lib.rs"));
        assert!(is_path("SECURITY.md"));
        assert!(!is_path("/run/mesh-agent"));
        assert!(!is_path("mesh-agent run"));
        assert!(!is_path("target/bpf/mesh-ebpf.o"));
    }
}
