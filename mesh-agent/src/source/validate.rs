//! `config validate`: everything that an agent would say about a directory or file, without an agent.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::{Directory, Touched};
use crate::history;
use crate::model::build::{BuildOptions, Builder};
use crate::model::{Snapshot, Warning};

/// What a look at a configuration came to.
#[derive(Clone, Debug)]
pub struct Report {
    /// Objects that would be in force.
    pub objects: usize,
    /// What they make.
    pub snapshot: Arc<Snapshot>,
    /// Words of the objects that the history keeps.
    pub texts: history::Objects,
    /// What is wrong, sorted.
    pub warnings: Vec<Warning>,
}

/// Reads `path`, a directory or a file, as the agent of `options.node` would. With an empty node name everything that
/// concerns only pods of the agent's own node goes unsaid.
///
/// # Errors
/// If `path` isn't there or can't be read at all.
pub fn validate(path: &Path, options: BuildOptions) -> io::Result<Report> {
    if std::fs::metadata(path)?.is_dir() {
        std::fs::read_dir(path)?;
    } else {
        std::fs::File::open(path)?;
    }
    let mut directory = Directory::new(path);
    let mut builder = Builder::new(options);
    let snapshot = builder.apply(&directory.scan(&Touched::All, &BTreeSet::new()));
    let mut warnings = directory.warnings();
    warnings.extend(builder.warnings(|key| directory.origin(key)));
    warnings.sort_unstable();
    warnings.dedup();
    let texts = directory.texts();
    Ok(Report { objects: directory.objects().count(), snapshot, texts, warnings })
}
