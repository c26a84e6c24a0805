//! What runs inside the pods. Each is one thread, kept as plain as it can be: they are the floor to compare with.

pub mod change;
pub mod dial;
pub mod hold;
pub mod hooked_proxy;
pub mod http_proxy;
pub mod pull;
pub mod serve;
pub mod tcp_proxy;
pub mod tls_proxy;

use std::future::Future;
use std::net::SocketAddr;

use anyhow::{Context, Result};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;
use tokio::task::LocalSet;

/// Runs on a runtime of one thread.
fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, work)
}

/// A listener with a queue that a burst of connections fits in.
fn listen(address: SocketAddr) -> Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into()).with_context(|| format!("could not bind {address}"))?;
    socket.listen(4096)?;
    Ok(TcpListener::from_std(socket.into())?)
}

/// Says on stdout that the program may be used.
fn say_ready() {
    println!("ready");
}
