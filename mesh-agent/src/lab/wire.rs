//! Somebody who listens on the network between the nodes, as anybody with access to it could.

use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::libc;
use socket2::{Domain, Protocol, Socket, Type};

use super::topology::Topology;

/// Every frame on the nodes' network since it began to listen.
pub struct Wire {
    ear: Arc<Mutex<Ear>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

struct Ear {
    socket: Socket,
    frames: Vec<Vec<u8>>,
}

/// Between two looks at what lies in the socket, which has room for much more.
const EVERY: Duration = Duration::from_millis(20);

impl Wire {
    /// Listens on every link of the bridge's namespace, which all pods hang on.
    pub fn listen(topology: &Topology) -> Result<Self> {
        Self::with(topology.fabric().run(ear)?.context("a packet socket")?)
    }

    /// Listens on every link of the host, on which nodes of a real cluster have their pods.
    pub fn on_host() -> Result<Self> {
        Self::with(ear().context("a packet socket")?)
    }

    fn with(socket: Socket) -> Result<Self> {
        socket.set_recv_buffer_size(16 * 1024 * 1024)?;
        socket.set_nonblocking(true)?;
        let ear = Arc::new(Mutex::new(Ear { socket, frames: Vec::new() }));
        let stop = Arc::<AtomicBool>::default();
        let (shared, over) = (ear.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                shared.lock().unwrap_or_else(PoisonError::into_inner).hear();
                std::thread::sleep(EVERY);
            }
        });
        Ok(Self { ear, stop, thread: Some(thread) })
    }

    /// How many frames until now have these bytes in them.
    pub fn count(&self, bytes: &[u8]) -> usize {
        let mut ear = self.ear.lock().unwrap_or_else(PoisonError::into_inner);
        ear.hear();
        ear.frames.iter().filter(|frame| frame.windows(bytes.len()).any(|window| window == bytes)).count()
    }

    /// How many there are until now.
    pub fn frames(&self) -> usize {
        let mut ear = self.ear.lock().unwrap_or_else(PoisonError::into_inner);
        ear.hear();
        ear.frames.len()
    }
}

fn ear() -> std::io::Result<Socket> {
    let all = Protocol::from(i32::from((libc::ETH_P_ALL as u16).to_be()));
    Socket::new(Domain::PACKET, Type::RAW, Some(all))
}

impl Ear {
    /// Takes what has come.
    fn hear(&mut self) {
        let mut buffer = vec![0; 128 * 1024];
        while let Ok(length) = self.socket.read(&mut buffer) {
            self.frames.push(buffer[..length].to_vec());
        }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}
