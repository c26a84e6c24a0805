//! Runs inside a pod and hands out sockets made there.
//!
//! A socket belongs to the network namespace and the cgroup that it was made in, whoever uses it later; so a test can
//! hold a pod's sockets itself. One byte in, `4` or `6` for a stream socket of that family, `u` or `v` for a datagram socket;
//! one byte and the socket out.

use std::io::{IoSlice, Read};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use anyhow::{Context, Result};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, sendmsg,
    socket_with,
};

fn main() -> Result<()> {
    let path = std::env::args().nth(1).context("usage: pod-sockets PATH")?;
    let mut asker = UnixStream::connect(&path).with_context(|| format!("connecting to {path}"))?;
    let mut wanted = [0];
    while asker.read_exact(&mut wanted).is_ok() {
        let (family, kind) = match wanted[0] {
            b'6' => (AddressFamily::INET6, SocketType::STREAM),
            b'u' => (AddressFamily::INET, SocketType::DGRAM),
            b'v' => (AddressFamily::INET6, SocketType::DGRAM),
            _ => (AddressFamily::INET, SocketType::STREAM),
        };
        let socket = socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut rights = SendAncillaryBuffer::new(&mut space);
        let passed = [socket.as_fd()];
        rights.push(SendAncillaryMessage::ScmRights(&passed));
        sendmsg(&asker, &[IoSlice::new(b"s")], &mut rights, SendFlags::empty())?;
    }
    Ok(())
}
