//! Servers on std threads: one thread accepts, one serves each connection, all end with the guard.

use std::collections::HashMap;
use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use socket2::SockRef;

use crate::PATIENCE;

// By the number of the connection; each leaves when its handler returns, so that closing means closing.
type Open = Arc<Mutex<HashMap<usize, TcpStream>>>;

/// A listener that is being served. Dropped, it closes the listener and resets nothing.
pub struct Server {
    listener: Arc<TcpListener>,
    accepted: Arc<AtomicUsize>,
    peers: Arc<Mutex<Vec<SocketAddr>>>,
    open: Open,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Serves every connection with `handle`, each on its own thread. Reads and writes have deadlines.
    pub fn new(
        listener: TcpListener,
        handle: impl Fn(TcpStream, SocketAddr) + Send + Sync + 'static,
    ) -> Self {
        let listener = Arc::new(listener);
        let (accepted, peers) = (Arc::<AtomicUsize>::default(), Arc::<Mutex<Vec<SocketAddr>>>::default());
        let open = Open::default();
        let (l, a, p, o, handle) =
            (listener.clone(), accepted.clone(), peers.clone(), open.clone(), Arc::new(handle));
        let thread = std::thread::spawn(move || {
            // A shut down listener fails with EINVAL.
            while let Ok((stream, peer)) = accept(&l) {
                let number = a.fetch_add(1, Ordering::Relaxed);
                p.lock().unwrap_or_else(PoisonError::into_inner).push(peer);
                if let Ok(clone) = stream.try_clone() {
                    o.lock().unwrap_or_else(PoisonError::into_inner).insert(number, clone);
                }
                let (handle, o) = (handle.clone(), o.clone());
                std::thread::spawn(move || {
                    handle(stream, peer);
                    o.lock().unwrap_or_else(PoisonError::into_inner).remove(&number);
                });
            }
        });
        Self { listener, accepted, peers, open, thread: Some(thread) }
    }

    /// How many connections it has accepted.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }

    /// How many of them are open.
    pub fn open(&self) -> usize {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// What accept(2) said of each client.
    pub fn peers(&self) -> Vec<SocketAddr> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Stops listening and ends every connection that it accepted, as when the process dies.
    pub fn die(&mut self) {
        self.stop();
        for (_, stream) in self.open.lock().unwrap_or_else(PoisonError::into_inner).drain() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Stops listening; what it accepted goes on.
    pub fn stop(&mut self) {
        let _ = SockRef::from(&*self.listener).shutdown(Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.die();
    }
}

fn accept(listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
    let (stream, peer) = listener.accept()?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok((stream, SocketAddr::new(peer.ip().to_canonical(), peer.port())))
}

/// Closes with RST instead of FIN, once the handler that calls it returns.
pub fn reset(stream: TcpStream) {
    let _ = SockRef::from(&stream).set_linger(Some(std::time::Duration::ZERO));
    drop(stream);
}
