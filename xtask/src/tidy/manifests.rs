//! Rules on manifests: lints are inherited, every dependency says what for.

use anyhow::Result;

use super::{Findings, Tree};
use crate::workspace;

pub(super) fn check(tree: &Tree, findings: &mut Findings) -> Result<()> {
    for member in workspace::members()? {
        let path = format!("{member}/Cargo.toml");
        match tree.get(&path) {
            None => findings.error(&path, 1, "a workspace member without a manifest"),
            Some(text) if !inherits_lints(text) => {
                findings.error(
                    &path,
                    1,
                    "does not inherit the workspace's lints: add `[lints]` with `workspace = true`",
                );
            }
            Some(_) => {}
        }
    }
    let root = tree.get("Cargo.toml").unwrap_or_default();
    for (line, name) in uncommented(root) {
        findings.error("Cargo.toml", line, format!("dependency {name} has no comment that says what for"));
    }
    Ok(())
}

fn inherits_lints(manifest: &str) -> bool {
    let mut lines = manifest.lines().map(str::trim);
    lines.any(|line| line == "[lints]")
        && lines.take_while(|line| !line.starts_with('[')).any(|l| l == "workspace = true")
}

/// Dependencies of `[workspace.dependencies]` without a comment above or behind. Crates of one family (the same first
/// word) may share the comment of the first.
fn uncommented(manifest: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    let (mut inside, mut comment_above, mut family) = (false, false, "");
    for (index, line) in manifest.lines().enumerate() {
        let line = line.trim();
        if line.starts_with('[') {
            inside = line == "[workspace.dependencies]";
        }
        if let Some((name, value)) = line.split_once(" = ").filter(|_| inside) {
            let word = name.split('-').next().unwrap_or(name);
            // Our own crates say what they are for in their own manifests.
            if comment_above || value.contains(" # ") || value.contains("path =") {
                family = word;
            } else if word != family {
                found.push((index + 1, name));
            }
        }
        comment_above = line.starts_with('#');
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dependency_without_a_comment_is_found() {
        let manifest = "[workspace.dependencies]\n# For a.\na = \"1\"\na-log = \"1\"\nc = \"1\"\nown = { path = \"own\" }\n";
        assert_eq!(uncommented(manifest), [(5, "c")]);
    }

    #[test]
    fn lints_must_be_inherited_in_their_own_table() {
        assert!(inherits_lints("[package]\n\n[lints]\nworkspace = true\n"));
        assert!(!inherits_lints("[package]\n[lints]\n[dependencies]\nworkspace = true\n"));
    }
}
