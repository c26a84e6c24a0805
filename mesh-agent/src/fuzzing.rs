//! What the fuzz targets under `fuzz/` run, one function each: bytes that a stranger could send, and what has to hold whatever
//! they are. Not part of the agent: only with the feature `fuzzing`, and in tests, which replay the corpora that were kept.
//!
//! A function that finds something wrong panics. `wire` is for what comes over a connection, `words` for names, tokens and
//! certificates, `policy` for what the configuration says about them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is how a target reports")]

mod policy;
mod wire;
mod words;

use http::{HeaderMap, HeaderName, HeaderValue};

pub use policy::authorization;
pub use wire::{client_hello, connect_request, http1_head, mesh_mark};
pub use words::{baggage, certificate, jwt, spiffe_id, xfcc};

/// A target: its name, and what it runs.
pub type Target = (&'static str, fn(&[u8]));

/// Every target, as its file under `fuzz/fuzz_targets` and its corpus are called.
pub const TARGETS: [Target; 10] = [
    ("authorization", authorization),
    ("baggage", baggage),
    ("certificate", certificate),
    ("client_hello", client_hello),
    ("connect_request", connect_request),
    ("http1_head", http1_head),
    ("jwt", jwt),
    ("mesh_mark", mesh_mark),
    ("spiffe_id", spiffe_id),
    ("xfcc", xfcc),
];

/// Cuts `data` at each `separator` into at most `N` parts; those that aren't there are empty.
fn parts<const N: usize>(data: &[u8], separator: u8) -> [&[u8]; N] {
    let mut rest = data.splitn(N, |byte| *byte == separator);
    std::array::from_fn(|_| rest.next().unwrap_or_default())
}

/// `NAME:VALUE` lines; what isn't one is left out.
fn headers(lines: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in lines.split(|byte| *byte == b'\n').take(100) {
        let [name, value] = parts(line, b':');
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
            headers.append(name, value);
        }
    }
    headers
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::{Path, PathBuf};

    use super::*;

    fn fuzz() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz")
    }

    fn names(dir: &str) -> BTreeSet<String> {
        let entries = fs::read_dir(fuzz().join(dir)).unwrap();
        let stem = |path: PathBuf| path.file_stem().unwrap().to_string_lossy().into_owned();
        entries.map(|entry| stem(entry.unwrap().path())).collect()
    }

    #[test]
    fn every_target_has_its_file_and_its_corpus() {
        let targets: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
        assert_eq!(names("fuzz_targets"), targets);
        assert_eq!(names("corpus"), targets);
        let manifest = fs::read_to_string(fuzz().join("Cargo.toml")).unwrap();
        for name in targets {
            assert!(manifest.contains(&format!("path = \"fuzz_targets/{name}.rs\"")), "{name} is no [[bin]]");
        }
    }

    #[test]
    fn what_fuzzing_kept_still_holds() {
        for (name, target) in TARGETS {
            let files: Vec<_> = fs::read_dir(fuzz().join("corpus").join(name)).unwrap().collect();
            assert!(files.len() > 3, "{name} has no corpus");
            for file in files {
                let path = file.unwrap().path();
                let data = fs::read(&path).unwrap();
                let held = std::panic::catch_unwind(|| target(&data));
                assert!(held.is_ok(), "{} fails with {}", name, path.display());
            }
        }
    }
}
