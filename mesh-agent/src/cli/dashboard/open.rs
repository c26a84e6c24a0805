//! The user's browser, brought to the page.
//!
//! What stands on a command line every user of the machine can read, so the browser isn't given the address with the token: it is
//! given a file of the user's own that leads there.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, process};

/// A browser was asked to show the page. The file that leads there goes when this is dropped.
pub(super) struct Opened {
    file: PathBuf,
}

impl Opened {
    /// Opens `url` in the user's browser; `None` where there is none: no desktop, or root, as whom browsers don't run.
    pub(super) fn in_browser(url: &str) -> Option<Self> {
        let has_desktop = ["WAYLAND_DISPLAY", "DISPLAY"].iter().any(|name| env::var_os(name).is_some());
        if !has_desktop || nix::unistd::geteuid().is_root() {
            return None;
        }
        // Whatever goes wrong, the address stands on the terminal.
        let opened = Self::leading_to(url, &place()).ok()?;
        let mut browser = Command::new("xdg-open");
        browser.arg(&opened.file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        browser.spawn().ok().map(|_| opened)
    }

    fn leading_to(url: &str, dir: &Path) -> io::Result<Self> {
        let file = dir.join(format!("mesh-agent-dashboard-{}.html", process::id()));
        let mut opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&file)?;
        let leads = Self { file };
        writeln!(
            opened,
            "<!doctype html><meta charset=\"utf-8\"><meta name=\"referrer\" content=\"no-referrer\">\
             <meta http-equiv=\"refresh\" content=\"0;url={url}\"><a href=\"{url}\">mesh-agent</a>"
        )?;
        Ok(leads)
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        // Without the command that it leads to it is of no use to anybody.
        let _ = fs::remove_file(&self.file);
    }
}

fn place() -> PathBuf {
    env::var_os("XDG_RUNTIME_DIR")
        .filter(|dir: &OsString| !dir.is_empty())
        .map_or_else(env::temp_dir, PathBuf::from)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_file_is_the_users_own_and_goes() {
        let dir = tempfile::tempdir().unwrap();
        let url = "http://127.0.0.1:4000/place/?token=token";
        let opened = Opened::leading_to(url, dir.path()).unwrap();
        let file = opened.file.clone();
        assert!(fs::read_to_string(&file).unwrap().contains(&format!("content=\"0;url={url}\"")));
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(Opened::leading_to(url, dir.path()).is_err(), "nobody else's file is written to");
        drop(opened);
        assert!(!file.exists());
    }
}
