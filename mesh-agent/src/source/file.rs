//! Reading one file of the source directory, whatever is there under its name.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::model::{Warning, WarningCode};

/// No file may be larger: about 400,000 endpoints.
pub const MAX_FILE_BYTES: u64 = 64 << 20;

/// Two writes within the clock's tick leave the same time stamp, so a file that was fresh when it was read may have
/// changed unseen; it is read again by the next scan.
const FRESH: Duration = Duration::from_secs(1);

/// What tells a changed file without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified_ns: i128,
    changed_ns: i128,
    fresh: bool,
}

/// What came of reading.
#[derive(Debug)]
pub enum Content {
    /// Its text.
    Text(String, Stamp),
    /// Not there (any more).
    Gone,
    /// Written to while it was read.
    Changing,
    /// There, but of no use; the warning says why.
    Unusable(Warning, Option<Stamp>),
}

impl Stamp {
    /// Of the file that `path` leads to.
    pub fn of(path: &Path) -> io::Result<Self> {
        std::fs::metadata(path).map(|metadata| Self::new(&metadata))
    }

    /// False if a file with this stamp must be read again, having had stamp `before`.
    pub fn same_as(&self, before: &Self) -> bool {
        !before.fresh && self.same_version(before)
    }

    /// True if both are of one file, whatever was written to it in between.
    pub fn same_file(&self, other: &Self) -> bool {
        (self.device, self.inode) == (other.device, other.inode)
    }

    /// True if nothing was seen to change between the two.
    pub fn same_version(&self, other: &Self) -> bool {
        Self { fresh: other.fresh, ..*self } == *other
    }

    /// True if the file holds something.
    pub fn is_empty(&self) -> bool {
        self.size == 0
    }

    fn new(metadata: &Metadata) -> Self {
        let nanoseconds = |seconds: i64, rest: i64| i128::from(seconds) * 1_000_000_000 + i128::from(rest);
        let modified_ns = nanoseconds(metadata.mtime(), metadata.mtime_nsec());
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let age = i128::try_from(now).unwrap_or(i128::MAX) - modified_ns;
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified_ns,
            changed_ns: nanoseconds(metadata.ctime(), metadata.ctime_nsec()),
            fresh: age < i128::try_from(FRESH.as_nanos()).unwrap_or(0),
        }
    }
}

/// Reads `path`. Never blocks on something that isn't a file.
pub fn read(path: &Path) -> Content {
    match try_read(path) {
        Ok(content) => content,
        Err(error) if error.kind() == io::ErrorKind::NotFound && path.symlink_metadata().is_err() => {
            Content::Gone
        }
        Err(error) => Content::Unusable(
            warning(
                path,
                WarningCode::FileUnreadable,
                &format!("can't be read ({error}): check the file and its permissions"),
            ),
            None,
        ),
    }
}

fn try_read(path: &Path) -> io::Result<Content> {
    // A FIFO named x.yaml would otherwise block the open until somebody writes to it.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let metadata = file.metadata()?;
    read_open(path, file, &metadata)
}

/// The rest of reading, once it is known what `file` looked like before.
fn read_open(path: &Path, mut file: File, metadata: &Metadata) -> io::Result<Content> {
    let stamp = Stamp::new(metadata);
    if !metadata.is_file() {
        let text = "isn't a file: only files are read here";
        return Ok(Content::Unusable(warning(path, WarningCode::FileUnreadable, text), Some(stamp)));
    }
    let Some(bytes) = read_limited(&mut file, metadata.len())? else {
        let text = format!("is larger than {} MiB: split it", MAX_FILE_BYTES >> 20);
        return Ok(Content::Unusable(warning(path, WarningCode::FileTooLarge, &text), Some(stamp)));
    };
    if !Stamp::new(&file.metadata()?).same_version(&stamp) {
        return Ok(Content::Changing);
    }
    Ok(match String::from_utf8(bytes) {
        Ok(text) => Content::Text(text, stamp),
        Err(error) => {
            let at = error.utf8_error().valid_up_to();
            let text = format!("isn't UTF-8 text (byte {at}): save it as UTF-8");
            Content::Unusable(warning(path, WarningCode::FileNotUtf8, &text), Some(stamp))
        }
    })
}

fn read_limited(file: &mut File, size: u64) -> io::Result<Option<Vec<u8>>> {
    if size > MAX_FILE_BYTES {
        return Ok(None);
    }
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0) + 1);
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= MAX_FILE_BYTES).then_some(bytes))
}

/// What is said of a file that somebody is writing.
pub fn not_closed(path: &Path) -> Warning {
    let text =
        "is still being written: what it said before stays in force; write to another name and rename it";
    Warning::new(WarningCode::FileNotClosed, "", "", text).at(path.display().to_string())
}

fn warning(path: &Path, code: WarningCode, text: &str) -> Warning {
    let message = format!("{text}; what it said before stays in force");
    Warning::new(code, "", "", message).at(path.display().to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn what_is_written_to_while_it_is_read_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.yaml");
        let check = |meanwhile: &dyn Fn(), used: bool| {
            std::fs::write(&path, "a: 1\n").unwrap();
            let file = File::open(&path).unwrap();
            let metadata = file.metadata().unwrap();
            meanwhile();
            let content = read_open(&path, file, &metadata).unwrap();
            assert_eq!(matches!(content, Content::Text(..)), used, "{content:?}");
            assert_eq!(matches!(content, Content::Changing), !used, "{content:?}");
        };
        check(&|| {}, true);
        check(&|| drop(File::create(&path).unwrap()), false);
        check(&|| std::fs::write(&path, "a: 1\nb: 2\n").unwrap(), false);
    }
}
