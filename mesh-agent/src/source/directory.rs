//! The state of a source directory: which file says what, and what changed since the last look.
//!
//! Knows nothing of notification and time (`watch` does); every look is one call. A file is read again only if it may
//! have changed, a document is parsed again only if its text did.

mod claims;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::BuildHasher;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use foldhash::quality::RandomState;

use self::claims::{Claim, Claims};
use super::document::{Broken, Document};
use super::file::{self, Content, Stamp};
use super::parse::{self, Format};
use super::split::split;
use super::{Changes, Coverage};
use crate::history::{self, Text};
use crate::model::{Warning, WarningCode};
use crate::objects::{Kind, Object, ObjectKey};

/// Which files may have changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Touched {
    /// Look at all of them.
    All,
    /// These names in the directory, and no other.
    Files(BTreeSet<PathBuf>),
}

/// A directory of objects, or one file.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    files: BTreeMap<Arc<str>, FileState>,
    claims: Claims,
    hasher: RandomState,
    next_id: u64,
    unavailable: Option<Warning>,
    told_of_closes: bool,
    left_some: bool,
}

#[derive(Debug, Default)]
struct FileState {
    stamp: Option<Stamp>,
    /// What it looked like when it was left alone because it may have been in the middle of being written.
    left: Option<Stamp>,
    documents: Vec<Document>,
    /// Objects that the file defined and that a broken document in it may still mean.
    held: Vec<(ObjectKey, u64)>,
    problem: Option<Warning>,
}

impl Directory {
    /// Nothing is read yet; `path` need not exist.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            files: BTreeMap::new(),
            claims: Claims::default(),
            hasher: RandomState::default(),
            next_id: 0,
            unavailable: None,
            told_of_closes: false,
            left_some: false,
        }
    }

    /// A look at everything then leaves alone what was rewritten in place since it was read: word of its close will
    /// come. Without such word it is read by the next look that finds no further change.
    pub fn told_of_closes(self) -> Self {
        Self { told_of_closes: true, ..self }
    }

    /// True if the last look found files in the middle of being written and left them as they were.
    pub fn left_some(&self) -> bool {
        self.left_some
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Looks at what may have changed and says what did. `hold` names files that are being written: they keep what
    /// they said before.
    pub fn scan(&mut self, touched: &Touched, hold: &BTreeSet<PathBuf>) -> Changes {
        self.left_some = false;
        match touched {
            Touched::All => self.scan_all(hold),
            Touched::Files(paths) => {
                for path in paths.iter().filter(|path| is_object_file(path) && !hold.contains(*path)) {
                    self.read(path);
                }
            }
        }
        self.claims.take_changes()
    }

    /// Everything that is wrong with the files at this moment.
    pub fn warnings(&self) -> Vec<Warning> {
        let mut warnings: Vec<Warning> = self.unavailable.iter().cloned().collect();
        for (name, file) in &self.files {
            warnings.extend(file.problem.iter().cloned());
            for document in &file.documents {
                let problems = document.parsed.problems.iter();
                warnings.extend(problems.map(|(w, line)| w.clone().at(document.origin(name, *line))));
            }
        }
        for (key, claims) in self.claims.contested() {
            let used = self.origin_of(key, &claims[0]);
            for other in claims[1..].iter().filter(|claim| !claim.stands_in) {
                let message = format!("is already defined at {used}, which is used: remove one of the two");
                let warning = Warning::new(WarningCode::DuplicateObject, key, "metadata.name", message);
                warnings.push(warning.at(self.origin_of(key, other)));
            }
        }
        warnings
    }

    /// Where the version in force of an object was read: `FILE:LINE`.
    pub fn origin(&self, key: &ObjectKey) -> Option<String> {
        self.claims.winner(key).map(|claim| self.origin_of(key, claim))
    }

    /// The words of an object in force, of kinds that the history keeps.
    pub fn text(&self, key: &ObjectKey) -> Option<Text> {
        self.claims.text(key).cloned()
    }

    /// False while the directory can't be listed and what it said before stays.
    pub fn is_available(&self) -> bool {
        self.unavailable.is_none()
    }

    /// How much of what is there has a version in force.
    pub fn coverage(&self) -> Coverage {
        if self.unavailable.is_some() || self.files.values().any(FileState::is_awaited) {
            Coverage::Awaited
        } else if self.files.values().any(FileState::may_hide_objects) {
            Coverage::Part
        } else {
            Coverage::Whole
        }
    }

    /// The words of every object in force, of kinds that the history keeps.
    pub fn texts(&self) -> history::Objects {
        let keys = self.objects().map(|object| object.key());
        keys.filter_map(|key| Some((Text::from(key.to_string()), self.text(&key)?))).collect()
    }

    fn origin_of(&self, key: &ObjectKey, claim: &Claim) -> String {
        let documents = self.files.get(&claim.file).map(|file| file.documents.as_slice()).unwrap_or_default();
        match documents.iter().find(|document| document.id == claim.document) {
            Some(document) => {
                let mut defined = document.parsed.objects.iter().chain(&document.parsed.stand_ins);
                let line = defined.find(|(object, _)| object.key() == *key);
                document.origin(&claim.file, line.map_or(1, |(_, line)| *line))
            }
            // An earlier version than what the file holds now.
            None => claim.file.to_string(),
        }
    }

    fn scan_all(&mut self, hold: &BTreeSet<PathBuf>) {
        let listed = match list(&self.path) {
            Ok(listed) => listed,
            Err(error) => return self.lose(&error),
        };
        self.unavailable = None;
        let gone: Vec<Arc<str>> =
            self.files.keys().filter(|name| !listed.contains(Path::new(name.as_ref()))).cloned().collect();
        for name in gone {
            self.forget(&name);
        }
        for path in listed.iter().filter(|path| !hold.contains(*path)) {
            let known = self.files.get_mut(path.to_string_lossy().as_ref());
            match known.zip(Stamp::of(path).ok()) {
                Some((file, now)) if file.stamp.is_some_and(|before| now.same_as(&before)) => {}
                Some((file, now)) if self.told_of_closes && file.may_be_half_written(&now) => {
                    file.left = Some(now);
                    self.left_some = true;
                }
                _ => self.read(path),
            }
        }
    }

    /// The directory can't be listed. What it said stays: it may be on its way back.
    fn lose(&mut self, error: &io::Error) {
        let message = format!(
            "can't be listed ({error}): what was read before stays in force, and it is looked for again every few \
             seconds; create it or correct --source"
        );
        let warning = Warning::new(WarningCode::DirectoryUnavailable, "", "", message);
        self.unavailable = Some(warning.at(self.path.display().to_string()));
    }

    fn read(&mut self, path: &Path) {
        let name: Arc<str> = path.to_string_lossy().into();
        match file::read(path) {
            Content::Text(text, stamp) => {
                self.update(&name, &text);
                let file = self.files.entry(name).or_default();
                (file.stamp, file.problem) = (Some(stamp), None);
            }
            Content::Gone => self.forget(&name),
            // Most of it may be missing; the last version stays, and the look after its last write reads it.
            Content::Changing => {
                self.left_some = true;
                self.files.entry(name).or_default().problem = Some(file::not_closed(path));
            }
            Content::Unusable(problem, stamp) => {
                let file = self.files.entry(name).or_default();
                (file.stamp, file.problem) = (stamp, Some(problem));
            }
        }
    }

    fn forget(&mut self, name: &Arc<str>) {
        let Some(file) = self.files.remove(name) else { return };
        for document in &file.documents {
            for (object, _) in &document.parsed.objects {
                self.claims.remove(&object.key(), document.id);
            }
            self.forget_stand_ins(document);
        }
        for (key, id) in &file.held {
            self.claims.remove(key, *id);
        }
    }

    /// New text of a file: unchanged documents move over, the rest is parsed.
    fn update(&mut self, name: &Arc<str>, text: &str) {
        let format = if name.ends_with(".json") { Format::Json } else { Format::Yaml };
        let mut file = self.files.remove(name).unwrap_or_default();
        let mut old = Reusable::new(std::mem::take(&mut file.documents));
        for chunk in chunks(text, format) {
            let hash = self.hasher.hash_one(chunk.text);
            let document = match old.take(hash, chunk.text.len()) {
                Some(document) => Document { line: chunk.line, ..document },
                None => self.parse(name, chunk.text, chunk.line, hash, format),
            };
            file.documents.push(document);
        }
        let mut orphans = std::mem::take(&mut file.held);
        for document in old.rest() {
            self.forget_stand_ins(&document);
            orphans.extend(document.parsed.objects.iter().map(|(object, _)| (object.key(), document.id)));
        }
        self.settle(name, &mut file, orphans);
        self.files.insert(name.clone(), file);
    }

    fn parse(&mut self, name: &Arc<str>, text: &str, line: u32, hash: u64, format: Format) -> Document {
        self.next_id += 1;
        let document =
            Document { id: self.next_id, hash, len: text.len(), line, parsed: parse::parse(text, format) };
        for ((object, _), text) in document.parsed.objects.iter().zip(&document.parsed.texts) {
            self.claims.add(name, document.id, object, text.as_ref());
        }
        for (object, _) in &document.parsed.stand_ins {
            self.claims.stand_in(name, document.id, object);
        }
        document
    }

    fn forget_stand_ins(&mut self, document: &Document) {
        for (object, _) in &document.parsed.stand_ins {
            self.claims.remove(&object.key(), document.id);
        }
    }

    /// Objects that no document of the file defines any more go, unless a broken document may mean them.
    fn settle(&mut self, name: &Arc<str>, file: &mut FileState, orphans: Vec<(ObjectKey, u64)>) {
        for (key, id) in orphans {
            let replaced = self
                .claims
                .of(&key)
                .iter()
                .any(|claim| claim.file == *name && claim.document > id && !claim.stands_in);
            let meant =
                || file.documents.iter().flat_map(|document| &document.parsed.broken).any(|b| b.covers(&key));
            if !replaced && meant() {
                file.held.push((key, id));
            } else {
                self.claims.remove(&key, id);
            }
        }
    }

    /// Every object in force.
    pub fn objects(&self) -> impl Iterator<Item = &Arc<Object>> {
        self.claims.winners()
    }
}

impl FileState {
    /// Never read, because it was being written.
    fn is_awaited(&self) -> bool {
        let not_closed = |problem: &Warning| problem.code == WarningCode::FileNotClosed.code();
        self.stamp.is_none() && self.problem.as_ref().is_some_and(not_closed)
    }

    /// Something that it says, or meant to say, may be a pod or service that has no version in force.
    fn may_hide_objects(&self) -> bool {
        let kinds = [Kind::Namespace, Kind::Pod, Kind::Service, Kind::EndpointSlice];
        let hides = |broken: &Broken| match broken {
            Broken::Key(key) => kinds.contains(&key.kind),
            Broken::Unknown => true,
            // Of a kind that isn't read.
            Broken::Named(_) => false,
        };
        let never_read = self.problem.is_some() && self.documents.is_empty();
        never_read || self.documents.iter().flat_map(|document| &document.parsed.broken).any(hides)
    }

    fn may_be_half_written(&self, now: &Stamp) -> bool {
        self.stamp.is_some_and(|before| now.same_file(&before) && !now.same_version(&before))
            && !self.left.is_some_and(|left| now.same_version(&left))
    }
}

/// Documents of a file's last version, found by their text. Text mostly stays in order, so the next one is tried first.
struct Reusable {
    documents: Vec<Option<Document>>,
    next: usize,
    index: Option<HashMap<(u64, usize), Vec<usize>>>,
}

impl Reusable {
    fn new(documents: Vec<Document>) -> Self {
        Self { documents: documents.into_iter().map(Some).collect(), next: 0, index: None }
    }

    fn take(&mut self, hash: u64, len: usize) -> Option<Document> {
        // One edited document in between is the common change: look one further before building an index.
        for at in [self.next, self.next + 1] {
            if self
                .documents
                .get(at)
                .is_some_and(|d| d.as_ref().is_some_and(|d| d.hash == hash && d.len == len))
            {
                self.next = at + 1;
                return self.documents[at].take();
            }
        }
        let documents = &self.documents;
        let index = self.index.get_or_insert_with(|| {
            let mut index: HashMap<(u64, usize), Vec<usize>> = HashMap::new();
            for (at, document) in documents.iter().enumerate().rev() {
                if let Some(document) = document {
                    index.entry((document.hash, document.len)).or_default().push(at);
                }
            }
            index
        });
        while let Some(at) = index.get_mut(&(hash, len)).and_then(Vec::pop) {
            if let Some(document) = self.documents[at].take() {
                self.next = at + 1;
                return Some(document);
            }
        }
        None
    }

    fn rest(self) -> impl Iterator<Item = Document> {
        self.documents.into_iter().flatten()
    }
}

fn chunks(text: &str, format: Format) -> Vec<super::split::Chunk<'_>> {
    match format {
        Format::Yaml => split(text),
        Format::Json if text.trim().is_empty() => Vec::new(),
        Format::Json => vec![super::split::Chunk { text, line: 1 }],
    }
}

/// Object files of a directory; a path that isn't a directory stands for itself.
fn list(path: &Path) -> io::Result<BTreeSet<PathBuf>> {
    if !std::fs::metadata(path)?.is_dir() {
        return Ok(BTreeSet::from([path.to_owned()]));
    }
    let mut listed = BTreeSet::new();
    for entry in std::fs::read_dir(path)? {
        let path = entry?.path();
        if is_object_file(&path) && !path.is_dir() {
            listed.insert(path);
        }
    }
    Ok(listed)
}

/// `*.yaml`, `*.yml` and `*.json`, but no hidden ones: editors' and ConfigMaps' own files begin with a dot.
pub fn is_object_file(path: &Path) -> bool {
    let hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
    !hidden
        && path
            .extension()
            .is_some_and(|extension| ["yaml", "yml", "json"].iter().any(|known| extension == *known))
}

#[cfg(test)]
mod tests;
