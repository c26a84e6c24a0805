//! The history's file: written as a whole beside its place and renamed over it, read once at start.
//!
//! A file that can't be read or understood never keeps the agent from starting: it is put aside under another name and said.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{History, MAX_BYTES};

/// In the state directory.
pub const NAME: &str = "config-history.json";
/// JSON may need twice the bytes of the text in it, and more for what surrounds it.
const MAX_FILE: u64 = 4 * MAX_BYTES as u64;
/// Of the file's layout.
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Saved<H> {
    version: u32,
    history: H,
}

/// What an earlier agent left in `path`; empty if there is nothing of use.
pub fn load(path: &Path) -> History {
    match read(path) {
        Ok(history) => history,
        Err(error) if error.kind() == io::ErrorKind::NotFound => History::default(),
        Err(error) => {
            let aside = with_ending(path, ".damaged");
            let kept = fs::rename(path, &aside).is_ok();
            tracing::warn!(
                file = %path.display(),
                %error,
                "the history of configuration can't be read and begins anew; a rollback that was in force is not any more{}",
                if kept { format!("; the file is kept as {}", aside.display()) } else { String::new() }
            );
            History::default()
        }
    }
}

/// Replaces `path` as a whole: after a crash the old or the new one is there.
pub fn save(path: &Path, history: &History) -> io::Result<()> {
    let bytes = serde_json::to_vec(&Saved { version: VERSION, history })?;
    if bytes.len() as u64 > MAX_FILE {
        let text = format!("it would have {} MiB, more than {}", bytes.len() >> 20, MAX_FILE >> 20);
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, text));
    }
    let new = with_ending(path, ".new");
    // A file that an agent left when it was killed while writing; its mode may be anything.
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    file.write_all(&bytes)?;
    file.sync_all()?;
    fs::rename(&new, path)
}

fn read(path: &Path) -> io::Result<History> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "the file is too large"));
    }
    let saved: Saved<History> = serde_json::from_slice(&bytes)?;
    let ascending = saved.history.entries.iter().is_sorted_by(|a, b| a.generation < b.generation);
    if saved.version != VERSION || !ascending {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it isn't of this version's layout"));
    }
    Ok(saved.history)
}

fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}
