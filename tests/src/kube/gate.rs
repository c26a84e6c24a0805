//! A way to an API server that can be shut, so that what happens there meanwhile isn't told.

use std::io;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::Result;

/// Passes connections on, while it is open. Its thread ends with the process.
pub struct Gate {
    /// Where it listens, at 127.0.0.1.
    pub port: u16,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    shut: bool,
    passing: Vec<TcpStream>,
}

impl Gate {
    /// An open one to this port.
    ///
    /// # Errors
    /// No port is free.
    pub(super) fn new(to: u16) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let gate = Self { port: listener.local_addr()?.port(), state: Arc::default() };
        let state = gate.state.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                // A server that is away ends the connection, and so does a gate that is shut.
                let _ = pass(&client, to, &state);
            }
        });
        Ok(gate)
    }

    /// Ends every connection, and each new one at once.
    pub fn shut(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.shut = true;
        for stream in state.passing.drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Lets connections pass again.
    pub fn open(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).shut = false;
    }
}

fn pass(client: &TcpStream, to: u16, state: &Mutex<State>) -> io::Result<()> {
    let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
    if state.shut {
        return Ok(());
    }
    let server = TcpStream::connect(("127.0.0.1", to))?;
    state.passing.extend([client.try_clone()?, server.try_clone()?]);
    for (mut from, mut to) in [(client.try_clone()?, server.try_clone()?), (server, client.try_clone()?)] {
        thread::spawn(move || {
            let _ = io::copy(&mut from, &mut to);
            let _ = to.shutdown(Shutdown::Both);
        });
    }
    Ok(())
}
