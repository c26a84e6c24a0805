//! The access log's file: rotated here by size, or by somebody else by moving it away, which is noticed.
//!
//! All of it happens on the thread that writes the log; no request ever waits for a file.

use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, Instant};

use serde::{Serialize, Serializer};

/// How often it is looked whether the file is still where it was.
const LOOK: Duration = Duration::from_secs(1);
/// Not less than a line may have, and a write takes.
const LEAST: u64 = 4096;
const MOST_FILES: u32 = 1000;

/// `SIZE:COUNT`: the file is moved away when it is as large, and so many old ones stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotation {
    /// In bytes.
    pub size: u64,
    /// `FILE.1` is the newest.
    pub keep: u32,
}

/// Not of that form.
#[derive(Debug, thiserror::Error)]
#[error(
    "{0:?} is no rotation: expected SIZE:COUNT with a size of at least 4Ki in bytes, Ki, Mi or Gi, and 1 to 1000 old files, as in 100Mi:5"
)]
pub struct ParseRotationError(String);

impl FromStr for Rotation {
    type Err = ParseRotationError;

    fn from_str(text: &str) -> Result<Self, ParseRotationError> {
        let parse = || {
            let (size, keep) = text.split_once(':')?;
            let digits = size.trim_end_matches(|c: char| c.is_ascii_alphabetic());
            let unit = match &size[digits.len()..] {
                "" => 1,
                "Ki" => 1 << 10,
                "Mi" => 1 << 20,
                "Gi" => 1 << 30,
                _ => return None,
            };
            let size = digits.parse::<u64>().ok()?.checked_mul(unit).filter(|size| *size >= LEAST)?;
            let keep = keep.parse().ok().filter(|keep| (1..=MOST_FILES).contains(keep))?;
            Some(Self { size, keep })
        };
        parse().ok_or_else(|| ParseRotationError(text.to_owned()))
    }
}

impl fmt::Display for Rotation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(1 << 30, "Gi"), (1 << 20, "Mi"), (1 << 10, "Ki")];
        match units.into_iter().find(|(unit, _)| self.size.is_multiple_of(*unit)) {
            Some((unit, name)) => write!(f, "{}{name}:{}", self.size / unit, self.keep),
            None => write!(f, "{}:{}", self.size, self.keep),
        }
    }
}

impl Serialize for Rotation {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// An open log file.
#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    file: File,
    /// Device and inode of what is open.
    identity: (u64, u64),
    /// Pipes and devices are neither rotated nor looked for.
    is_regular: bool,
    size: u64,
    rotation: Option<Rotation>,
    looked: Instant,
    /// It was said that the file can't be moved away.
    complained: bool,
}

impl LogFile {
    /// Opens it for appending, and makes it if need be.
    pub(super) fn open(path: &Path, rotation: Option<Rotation>) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        let metadata = file.metadata()?;
        Ok(Self {
            path: path.to_owned(),
            file,
            identity: (metadata.dev(), metadata.ino()),
            is_regular: metadata.is_file(),
            size: metadata.len(),
            rotation,
            looked: Instant::now(),
            complained: false,
        })
    }

    fn reopen(&mut self) -> io::Result<()> {
        *self = Self { complained: self.complained, ..Self::open(&self.path, self.rotation)? };
        Ok(())
    }

    /// If it was moved or removed, it is made anew; if it was cut, it is small again.
    fn look(&mut self) -> io::Result<()> {
        if self.looked.elapsed() < LOOK {
            return Ok(());
        }
        self.looked = Instant::now();
        match fs::metadata(&self.path) {
            Ok(there) if (there.dev(), there.ino()) == self.identity => {
                self.size = there.len();
                Ok(())
            }
            _ => self.reopen(),
        }
    }

    fn rotate(&mut self, keep: u32) -> io::Result<()> {
        let old = |number: u32| {
            let mut name = OsString::from(&self.path);
            name.push(format!(".{number}"));
            PathBuf::from(name)
        };
        for number in (1..keep).rev() {
            match fs::rename(old(number), old(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        fs::rename(&self.path, old(1))?;
        self.reopen()
    }

    /// How much of `lines`, which are whole, goes into this file; some always does.
    fn portion(&mut self, lines: &[u8]) -> usize {
        let Some(rotation) = self.rotation else { return lines.len() };
        let end_within = |room: u64| {
            let room = usize::try_from(room).unwrap_or(usize::MAX).min(lines.len());
            if room == lines.len() {
                Some(room)
            } else {
                lines[..room].iter().rposition(|b| *b == b'\n').map(|at| at + 1)
            }
        };
        if let Some(end) = end_within(rotation.size.saturating_sub(self.size)) {
            return end;
        }
        if self.size > 0
            && let Err(error) = self.rotate(rotation.keep)
        {
            // Too large a file is better than none; the next look at it brings the next try.
            self.size = 0;
            if !std::mem::replace(&mut self.complained, true) {
                tracing::error!(%error, file = %self.path.display(), "the access log can't be moved away and grows on");
            }
        }
        let first = || lines.iter().position(|b| *b == b'\n').map_or(lines.len(), |at| at + 1);
        end_within(rotation.size).unwrap_or_else(first)
    }
}

impl Write for LogFile {
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        let mut end = lines.len();
        if self.is_regular {
            self.look()?;
            end = self.portion(lines);
        }
        let written = self.file.write(&lines[..end])?;
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn rotations_are_read_and_written_alike() {
        for text in ["100Mi:5", "4Ki:1", "5000:1000", "1Gi:2"] {
            assert_eq!(text.parse::<Rotation>().unwrap().to_string(), text);
        }
        for text in ["", "1Mi", "1Mi:", "1Mi:0", "1Mi:1001", "1:1", "1MB:1", "x:1", "99999999999Gi:1"] {
            assert!(text.parse::<Rotation>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_full_file_is_moved_at_the_end_of_a_line_and_the_oldest_goes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("access.log");
        let mut file = LogFile::open(&path, Some(Rotation { size: LEAST, keep: 2 })).unwrap();
        let mut lines = Vec::new();
        for i in 0..1000 {
            lines.extend_from_slice(format!("line {i:04} and some more\n").as_bytes());
        }
        file.write_all(&lines).unwrap();
        let read = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
        let parts = ["access.log.2", "access.log.1", "access.log"].map(read);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
        for part in &parts {
            assert!(part.starts_with("line ") && part.ends_with("more\n") && part.len() as u64 <= LEAST);
        }
        // Together they are the end of all that was written, without a gap.
        assert!(lines.ends_with(parts.concat().as_bytes()));
    }

    #[test]
    fn a_line_that_is_longer_than_a_file_has_one_for_itself() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("access.log");
        let mut file = LogFile::open(&path, Some(Rotation { size: LEAST, keep: 3 })).unwrap();
        let long = "a".repeat(10_000);
        file.write_all(format!("short\n{long}\nend\n").as_bytes()).unwrap();
        let read = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
        assert_eq!(read("access.log.2"), "short\n");
        assert_eq!(read("access.log.1"), long + "\n");
        assert_eq!(read("access.log"), "end\n");
    }

    #[test]
    fn a_file_that_cannot_be_moved_grows_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("access.log");
        // What is in the way can't be replaced by a file.
        fs::create_dir(dir.path().join("access.log.1")).unwrap();
        let mut file = LogFile::open(&path, Some(Rotation { size: LEAST, keep: 1 })).unwrap();
        let lines = "a line of the log\n".repeat(1000);
        file.write_all(lines.as_bytes()).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), lines);
    }

    #[test]
    fn a_file_that_was_moved_away_is_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let (path, moved) = (dir.path().join("access.log"), dir.path().join("moved"));
        let mut file = LogFile::open(&path, None).unwrap();
        file.write_all(b"one\n").unwrap();
        fs::rename(&path, &moved).unwrap();
        // As if the second were over.
        file.looked = Instant::now().checked_sub(LOOK).unwrap();
        file.write_all(b"two\n").unwrap();
        assert_eq!(fs::read_to_string(&moved).unwrap(), "one\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), "two\n");
    }
}
