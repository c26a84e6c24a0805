//! The password for Redis, out of a file that is read anew for each connection: a new password needs no restart.
//!
//! The file lies below the agent's `secretsDir`, in the policy's namespace, so that who may write a policy can't have any
//! file of the node sent to a server of their own. Called by `super::connect`; never logged.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::fcntl::OFlag;

/// Longer than any password; a larger file isn't one.
const LONGEST: u64 = 4096;

/// The file's content without the line feed that editors leave behind it. Off the data path's thread: a file may be slow.
pub(super) async fn read(path: &Path) -> io::Result<Vec<u8>> {
    let path = path.to_owned();
    tokio::task::spawn_blocking(move || {
        read_now(&path).map_err(|error| {
            let what = format!("the password file {} can't be used: {error}", path.display());
            io::Error::new(error.kind(), what)
        })
    })
    .await
    .map_err(io::Error::other)?
}

fn read_now(path: &Path) -> io::Result<Vec<u8>> {
    // A pipe would be waited for without this.
    let file = OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it isn't a regular file"));
    }
    let mut password = Vec::new();
    file.take(LONGEST + 1).read_to_end(&mut password)?;
    if password.len() as u64 > LONGEST {
        return Err(io::Error::other(format!("it is larger than {LONGEST} bytes")));
    }
    for end in [b"\n", b"\r"] {
        if password.ends_with(end) {
            password.pop();
        }
    }
    if password.is_empty() { Err(io::Error::other("it is empty")) } else { Ok(password) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_password_is_a_small_regular_file_without_its_line_feed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("redis");
        let check = |content: &[u8], want: Result<&[u8], &str>| {
            std::fs::write(&path, content).unwrap();
            let got = read_now(&path).map_err(|error| error.to_string());
            assert_eq!(got.as_deref().map_err(String::as_str), want);
        };
        check(b"secret", Ok(b"secret"));
        check(b"secret\n", Ok(b"secret"));
        check(b"secret\r\n", Ok(b"secret"));
        check(b" two\nlines\n\n", Ok(b" two\nlines\n"));
        check(&[b'x'; 4096], Ok(&[b'x'; 4096]));
        check(&[b'x'; 4097], Err("it is larger than 4096 bytes"));
        check(b"\n", Err("it is empty"));
        check(b"", Err("it is empty"));
        let refused = |path: &Path| read_now(path).unwrap_err().to_string();
        assert_eq!(refused(dir.path()), "it isn't a regular file");
        let pipe = dir.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
        assert_eq!(refused(&pipe), "it isn't a regular file", "and nobody waits for its writer");
    }
}
