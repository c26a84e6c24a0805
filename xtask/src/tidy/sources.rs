//! Rules on source files: size, opening doc, forbidden words, where `unsafe` and sleeping may be.

use std::path::Path;

use super::{Findings, Tree};

const MOST_LINES: usize = 600;
const MANY_LINES: usize = 400;

/// Where `unsafe` is allowed: kernel programs, the types both sides share, the loader.
const UNSAFE_ALLOWED: &[&str] =
    &["mesh-ebpf/", "mesh-common/", "mesh-agent/src/kernel/", "mesh-agent/src/kernel.rs"];
/// The one place that waits: everything else calls it.
const SLEEP_ALLOWED: &[&str] = &["mesh-agent/src/lab/", "tests/src/", "bench/", "xtask/"];

// Put together so that this file doesn't find itself.
const PROMISES: &[&str] = &[concat!("todo", "!("), concat!("unimplemented", "!("), concat!("dbg", "!(")];
const BUILD_PATHS: &[&str] = &[concat!("/ho", "me/"), concat!("/ro", "ot/"), concat!("/wo", "rk/")];
const UNSAFE: &str = concat!("un", "safe");
const TESTS: [&str; 2] = ["tests", "tests.rs"];
const SLEEPS: [&str; 2] = [concat!("thread::", "sleep("), concat!("time::", "sleep(")];

pub(super) fn check(tree: &Tree, findings: &mut Findings) {
    for (path, text) in tree.rust() {
        size(path, text, findings);
        opening(path, text, findings);
        words(path, text, findings);
    }
    for (path, text) in tree.all().filter(|(path, _)| !path.ends_with("Cargo.lock")) {
        for (number, line) in numbered(text) {
            if let Some(found) = BUILD_PATHS.iter().find(|found| has_path(line, found)) {
                findings.error(path, number, format!("an absolute path of one machine: {found}"));
            }
        }
    }
}

fn size(path: &Path, text: &str, findings: &mut Findings) {
    let lines = text.lines().count();
    if lines > MOST_LINES {
        findings.error(
            path,
            1,
            format!("{lines} lines, at most {MOST_LINES}: what are the two things in it?"),
        );
    } else if lines > MANY_LINES {
        findings.warn(path, 1, format!("{lines} lines, more than {MANY_LINES}"));
    }
}

/// Every file opens with what it does; inner attributes may come after, a shebang never.
fn opening(path: &Path, text: &str, findings: &mut Findings) {
    if !text.starts_with("//! ") {
        findings.error(path, 1, "does not open with a `//!` sentence that says what it does");
    }
}

fn words(path: &Path, text: &str, findings: &mut Findings) {
    let allowed = |list: &[&str]| list.iter().any(|prefix| path.to_string_lossy().starts_with(prefix));
    let mut in_tests = path.components().any(|part| TESTS.iter().any(|name| part.as_os_str() == *name));
    let mut explained = false;
    for (number, line) in numbered(text) {
        let code = line.split("//").next().unwrap_or_default();
        in_tests |= code.trim_start().starts_with("#[cfg(test)]");
        if let Some(found) = PROMISES.iter().find(|found| code.contains(**found)) {
            findings.error(path, number, format!("`{found}...)` is left behind"));
        }
        if has_word(code, UNSAFE) && !allowed(UNSAFE_ALLOWED) {
            findings.error(path, number, format!("`{UNSAFE}` outside the kernel programs and their loader"));
        }
        if in_tests
            && SLEEPS.iter().any(|sleep| code.contains(sleep))
            && !explained
            && !allowed(SLEEP_ALLOWED)
        {
            let text = "a test that sleeps: wait for the condition with a deadline, or say above what the time stands for";
            findings.error(path, number, text);
        }
        explained = line.trim_start().starts_with("// ");
    }
}

fn numbered(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().map(|(index, line)| (index + 1, line))
}

/// A directory of one machine, not the same letters within a longer path or a pattern.
fn has_path(line: &str, path: &str) -> bool {
    line.match_indices(path).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + path.len()..].chars().next();
        before.is_none_or(|c| c.is_whitespace() || "\"'`(=:".contains(c))
            && after.is_some_and(char::is_alphanumeric)
    })
}

fn has_word(code: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word).any(|(at, _)| {
        !code[..at].chars().next_back().is_some_and(part)
            && !code[at + word.len()..].chars().next().is_some_and(part)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaints(path: &str, text: &str) -> usize {
        let tree = Tree { files: vec![(path.into(), text.to_owned())] };
        let mut findings = Findings::default();
        check(&tree, &mut findings);
        findings.errors.len()
    }

    #[test]
    fn rules_find_what_they_forbid() {
        let check = |path: &str, line: &str, expected: usize| {
            assert_eq!(complaints(path, &format!("//! Doc.\n{line}\n")), expected, "{path}: {line}");
        };
        check("mesh-agent/src/a.rs", "fn a() {}", 0);
        check("mesh-agent/src/a.rs", PROMISES[0], 1);
        check("mesh-agent/src/a.rs", &format!("{UNSAFE} {{ a() }}"), 1);
        check("mesh-agent/src/a.rs", &format!("#![forbid({UNSAFE}_code)]"), 0);
        check("mesh-agent/src/kernel/a.rs", &format!("{UNSAFE} {{ a() }}"), 0);
        for sleep in SLEEPS {
            for test in [
                "tests/tests/a.rs",
                "mesh-agent/tests/a.rs",
                "mesh-agent/src/a/tests.rs",
                "mesh-agent/src/tests/a.rs",
            ] {
                check(test, &format!("{sleep}second);"), 1);
                check(test, &format!("// A slow server.\n{sleep}second);"), 0);
            }
            check("mesh-agent/src/a.rs", &format!("{sleep}second);"), 0);
        }
        check("mesh-agent/src/a.rs", &format!("let a = \"{}someone/a\";", BUILD_PATHS[0]), 1);
        check("mesh-agent/src/a.rs", &format!("let a = \"/shop{}a\";", BUILD_PATHS[0]), 0);
    }

    #[test]
    fn a_file_without_an_opening_sentence_is_found() {
        assert_eq!(complaints("mesh-agent/src/a.rs", "use std::fs;\n"), 1);
    }
}
