//! Which node an agent speaks for, by the bearer token that it shows.
//!
//! On Kubernetes the API server knows (`review`). Elsewhere, tokens in a file: a node's name and a token on each line. Only their hashes are kept, which is also why no comparison
//! takes longer for a token that is nearly right. The file is read again when it changes.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use aws_lc_rs::digest::{SHA256, digest};
use zeroize::Zeroizing;

use super::review::{Reviewer, Unanswered};
use crate::tls::files::Stamp;

/// A shorter token can be guessed.
const SHORTEST: usize = 16;
const LARGEST: u64 = 8 * 1024 * 1024;

/// Whoever knows tokens.
pub enum Authenticator {
    /// A file of them.
    Static(StaticTokens),
    /// The API server.
    Review(Reviewer),
}

/// Tokens of a file.
#[derive(Debug)]
pub struct StaticTokens {
    path: PathBuf,
    loaded: Mutex<Loaded>,
}

#[derive(Debug)]
struct Loaded {
    stamp: Stamp,
    nodes: HashMap<Hash, String>,
}

type Hash = [u8; 32];

/// Why a file of tokens isn't one.
#[derive(Debug, thiserror::Error)]
pub enum TokensError {
    /// No file.
    #[error("{} can't be read", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A line of it.
    #[error("line {line} of {}: {what}; expected a node's name, a blank and a token", path.display())]
    Line {
        /// Of which file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong, without the token.
        what: &'static str,
    },
}

impl Authenticator {
    /// The node whose agent shows this token; none if it is no agent's.
    ///
    /// # Errors
    /// Nobody can tell now.
    pub async fn node_of(&self, token: &str) -> Result<Option<String>, Unanswered> {
        match self {
            Self::Static(tokens) => Ok(tokens.node_of(token)),
            Self::Review(reviewer) => reviewer.node_of(token).await,
        }
    }

    /// Looks whether anything changed.
    pub fn refresh(&self) {
        match self {
            Self::Static(tokens) => tokens.refresh(),
            Self::Review(_) => {}
        }
    }
}

impl StaticTokens {
    /// Reads a file.
    ///
    /// # Errors
    /// It can't be read, or has a line that isn't a node with its token.
    pub fn open(path: PathBuf) -> Result<Self, TokensError> {
        let stamp = Stamp::of(&path);
        let nodes = read(&path)?;
        if fs::metadata(&path).is_ok_and(|metadata| metadata.mode() & 0o004 != 0) {
            tracing::warn!(path = %path.display(), "the file of tokens can be read by everybody on this machine");
        }
        Ok(Self { path, loaded: Mutex::new(Loaded { stamp, nodes }) })
    }

    fn node_of(&self, token: &str) -> Option<String> {
        let loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        loaded.nodes.get(&hash(token)).cloned()
    }

    /// Reads it again if it changed. What can't be read leaves the former tokens in force.
    fn refresh(&self) {
        let stamp = Stamp::of(&self.path);
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if loaded.stamp == stamp {
            return;
        }
        match read(&self.path) {
            Ok(nodes) => {
                tracing::info!(tokens = nodes.len(), "the nodes' tokens were read again");
                loaded.nodes = nodes;
            }
            Err(error) => {
                tracing::error!(error = %crate::report::chain(&error), "the nodes' tokens can't be read, the former stay in force");
            }
        }
        loaded.stamp = stamp;
    }
}

fn hash(token: &str) -> Hash {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
    hash
}

fn read(path: &Path) -> Result<HashMap<Hash, String>, TokensError> {
    let unreadable = |source| TokensError::Unreadable { path: path.to_owned(), source };
    if fs::metadata(path).map_err(unreadable)?.len() > LARGEST {
        return Err(unreadable(io::Error::other("it is larger than 8 MiB")));
    }
    let text = Zeroizing::new(fs::read_to_string(path).map_err(unreadable)?);
    parse(&text).map_err(|(line, what)| TokensError::Line { path: path.to_owned(), line, what })
}

fn parse(text: &str) -> Result<HashMap<Hash, String>, (usize, &'static str)> {
    let mut nodes = HashMap::new();
    for (at, line) in text.lines().enumerate() {
        let bad = |what| Err((at + 1, what));
        let mut words = line.split_whitespace();
        let (node, token) = match (words.next(), words.next(), words.next()) {
            (None, ..) => continue,
            (Some(word), ..) if word.starts_with('#') => continue,
            (Some(node), Some(token), None) => (node, token),
            (_, None, _) => return bad("there is no token"),
            _ => return bad("there are more than two words"),
        };
        if token.len() < SHORTEST {
            return bad("its token has fewer than 16 characters");
        }
        if nodes.insert(hash(token), node.to_owned()).is_some_and(|other| other != node) {
            return bad("its token is another node's too");
        }
    }
    Ok(nodes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn each_line_is_a_node_and_a_token() {
        let nodes =
            parse("# nodes\n\nnode-a aaaaaaaaaaaaaaaa\nnode-a bbbbbbbbbbbbbbbb\nnode-b\tcccccccccccccccc\n")
                .unwrap();
        let of = |token| nodes.get(&hash(token)).map(String::as_str);
        assert_eq!(of("aaaaaaaaaaaaaaaa"), Some("node-a"));
        assert_eq!(of("bbbbbbbbbbbbbbbb"), Some("node-a"), "an old one and a new one");
        assert_eq!(of("cccccccccccccccc"), Some("node-b"));
        assert_eq!(of("node-a"), None);
        assert_eq!(of(""), None);
    }

    #[test]
    fn a_bad_line_is_named_without_its_token() {
        for (text, line) in [
            ("node-a\n", 1),
            ("\nnode-a short\n", 2),
            ("node-a aaaaaaaaaaaaaaaa b\n", 1),
            ("node-a aaaaaaaaaaaaaaaa\nnode-b aaaaaaaaaaaaaaaa\n", 2),
        ] {
            let (at, what) = parse(text).unwrap_err();
            assert_eq!(at, line, "{text}");
            assert!(!what.contains("aaaa"), "{what}");
        }
    }

    #[test]
    fn a_file_is_read_again_and_one_that_breaks_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens");
        fs::write(&path, "node-a aaaaaaaaaaaaaaaa\n").unwrap();
        let tokens = StaticTokens::open(path.clone()).unwrap();
        assert_eq!(tokens.node_of("aaaaaaaaaaaaaaaa").as_deref(), Some("node-a"));
        fs::write(&path, "node-a\n").unwrap();
        tokens.refresh();
        assert_eq!(tokens.node_of("aaaaaaaaaaaaaaaa").as_deref(), Some("node-a"));
        fs::write(&path, "node-a bbbbbbbbbbbbbbbbbb\n").unwrap();
        tokens.refresh();
        assert_eq!(tokens.node_of("aaaaaaaaaaaaaaaa"), None);
        assert_eq!(tokens.node_of("bbbbbbbbbbbbbbbbbb").as_deref(), Some("node-a"));
    }
}
