//! The admin socket: `admin.sock` in the state directory, for its owner only.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixListener;
use tokio::sync::Semaphore;

use super::{AdminState, http as answers, routes};

/// Name of the socket in the state directory.
pub const NAME: &str = "admin.sock";
const CONNECTIONS: usize = 32;

/// Why there is no admin socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Somebody answers there.
    #[error("another agent runs with state directory {0}; give each its own --state-dir and --bpffs-dir")]
    InUse(PathBuf),
    /// The directory or socket can't be made.
    #[error("admin socket {path} can't be made")]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Removes the socket when dropped, unless a successor has put its own there.
#[derive(Debug)]
pub struct SocketGuard {
    path: PathBuf,
    inode: u64,
}

/// Makes the state directory if need be, and the socket in it.
///
/// # Errors
/// When another agent answers there or the file system refuses.
pub fn bind(state_dir: &Path) -> Result<(UnixListener, SocketGuard), SocketError> {
    let path = state_dir.join(NAME);
    if StdUnixStream::connect(&path).is_ok() {
        return Err(SocketError::InUse(state_dir.to_owned()));
    }
    place(state_dir, NAME)
}

/// The same in the place of an agent that leaves, and for any other socket in the state directory.
///
/// # Errors
/// When the file system refuses.
pub fn place(state_dir: &Path, name: &str) -> Result<(UnixListener, SocketGuard), SocketError> {
    let path = state_dir.join(name);
    replace(state_dir, name, &path).map_err(|source| SocketError::Io { path, source })
}

/// Under another name first: it gets its mode before anybody can find it, and replaces a dead agent's in one step.
fn replace(state_dir: &Path, name: &str, path: &Path) -> io::Result<(UnixListener, SocketGuard)> {
    fs::create_dir_all(state_dir)?;
    let fresh = state_dir.join(format!(".{name}.{}", std::process::id()));
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&fresh)?;
    fs::set_permissions(&fresh, Permissions::from_mode(0o600))?;
    fs::rename(&fresh, path)?;
    let inode = fs::metadata(path)?.ino();
    Ok((listener, SocketGuard { path: path.to_owned(), inode }))
}

impl Drop for SocketGuard {
    fn drop(&mut self) {
        if fs::metadata(&self.path).is_ok_and(|m| m.ino() == self.inode) {
            // What can't be removed is replaced by the next agent.
            drop(fs::remove_file(&self.path));
        }
    }
}

/// Serves for as long as it is polled.
pub async fn serve(listener: UnixListener, state: AdminState) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    while let Ok(place) = places.clone().acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => {
                let state = state.clone();
                tokio::spawn(async move {
                    answers::serve(stream, |request| routes::answer(state.clone(), request)).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "the admin socket can't be accepted from");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}
