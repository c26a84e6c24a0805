//! Tells whoever started the agent that it serves: a line on stderr, and systemd where it asks (sd_notify(3)).

use std::io::{self, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Says that every pod known at start is captured.
pub fn ready() {
    // Nobody may be reading stderr; that doesn't stop the agent.
    let _ = writeln!(io::stderr(), "ready");
    tell_systemd("READY=1");
}

/// Says that the agent drains.
pub fn stopping() {
    tell_systemd("STOPPING=1");
}

fn tell_systemd(message: &str) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    if let Err(error) = send(path.as_encoded_bytes(), message) {
        tracing::warn!(%error, "systemd can't be notified");
    }
}

fn send(path: &[u8], message: &str) -> io::Result<()> {
    let address = match path.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(std::str::from_utf8(path).map_err(io::Error::other)?)?,
    };
    UnixDatagram::unbound()?.send_to_addr(message.as_bytes(), &address).map(drop)
}
