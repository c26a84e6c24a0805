//! The page's files as `cargo xtask build` left them, compressed. Empty where it was built without npm.

/// One file.
pub(super) struct File {
    /// Below the page's own address; empty for the page itself.
    pub(super) path: &'static str,
    /// Compressed by gzip, which every browser reads.
    pub(super) content: &'static [u8],
}

include!(concat!(env!("OUT_DIR"), "/page.rs"));

impl File {
    /// The file at `path`.
    pub(super) fn find(path: &str) -> Option<&'static Self> {
        let path = if path.is_empty() { "index.html" } else { path };
        ALL.iter().find(|file| file.path == path)
    }

    /// Its `Content-Type`.
    pub(super) fn kind(&self) -> &'static str {
        match self.path.rsplit('.').next() {
            Some("html") => "text/html; charset=utf-8",
            Some("js") => "text/javascript; charset=utf-8",
            Some("css") => "text/css; charset=utf-8",
            Some("svg") => "image/svg+xml",
            _ => "text/plain; charset=utf-8",
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn what_is_built_in_is_whole() {
        if ALL.is_empty() {
            println!("SKIPPED: built without its page");
            return;
        }
        assert_eq!(File::find("").unwrap().path, "index.html");
        for needed in ["main.js", "style.css", "vendor/dagre.js", "vendor/uplot.js", "licences.txt"] {
            assert!(
                File::find(needed).is_some_and(|file| file.content.starts_with(&[0x1f, 0x8b])),
                "{needed}"
            );
        }
        assert!(File::find("../main.js").is_none());
    }
}
