//! `cargo xtask tidy`: house rules that no other tool checks.
//!
//! Each rule is a function from the tree to complaints. They read text, not syntax: a rule that needs a parser is a
//! lint's job.

mod manifests;
mod sources;
mod tables;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::workspace;

#[derive(clap::Args)]
pub struct Args {}

/// The text files of the tree, read once.
struct Tree {
    files: Vec<(PathBuf, String)>,
}

impl Tree {
    fn read() -> Result<Self> {
        let root = workspace::root();
        let read = |path: PathBuf| fs::read_to_string(root.join(&path)).ok().map(|text| (path, text));
        // What isn't UTF-8 is no text of ours, and what a fuzzer made neither.
        let files = workspace::files()?.into_iter().filter(|path| !path.starts_with("fuzz/corpus"));
        Ok(Self { files: files.filter_map(read).collect() })
    }

    fn rust(&self) -> impl Iterator<Item = (&Path, &str)> {
        self.all().filter(|(path, _)| path.extension().is_some_and(|extension| extension == "rs"))
    }

    fn all(&self) -> impl Iterator<Item = (&Path, &str)> {
        self.files.iter().map(|(path, text)| (path.as_path(), text.as_str()))
    }

    fn get(&self, path: &str) -> Option<&str> {
        self.all().find(|(found, _)| *found == Path::new(path)).map(|(_, text)| text)
    }

    fn has(&self, path: &str) -> bool {
        self.all().any(|(found, _)| found == Path::new(path) || found.starts_with(path))
    }
}

/// What rules found.
#[derive(Default)]
struct Findings {
    errors: Vec<String>,
    warnings: Vec<String>,
}

impl Findings {
    fn error(&mut self, path: impl AsRef<Path>, line: usize, text: impl AsRef<str>) {
        self.errors.push(format!("{}:{line}: {}", path.as_ref().display(), text.as_ref()));
    }

    fn warn(&mut self, path: impl AsRef<Path>, line: usize, text: impl AsRef<str>) {
        self.warnings.push(format!("{}:{line}: {}", path.as_ref().display(), text.as_ref()));
    }
}

/// The command.
pub fn run(_: &Args) -> Result<()> {
    let tree = Tree::read()?;
    let mut findings = Findings::default();
    manifests::check(&tree, &mut findings)?;
    sources::check(&tree, &mut findings);
    tables::check(&tree, &mut findings);
    for warning in &findings.warnings {
        println!("warning: {warning}");
    }
    for error in &findings.errors {
        println!("error: {error}");
    }
    if !findings.errors.is_empty() {
        bail!("tidy: {} to mend, {} warnings", findings.errors.len(), findings.warnings.len());
    }
    println!("tidy: {} files, {} warnings", tree.files.len(), findings.warnings.len());
    Ok(())
}
