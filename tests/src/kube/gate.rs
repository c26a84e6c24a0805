//! A way to an API server that can be shut, so that what happens there meanwhile isn't told; or on which somebody may do something
//! between another's reading and writing.

use std::io::{self, Read, Write};
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
    meddlers: Vec<Meddler>,
}

/// Acts before requests that begin so.
struct Meddler {
    request: String,
    times: usize,
    act: Arc<dyn Fn() + Send + Sync>,
}

impl Gate {
    /// An open one to this port.
    ///
    /// # Errors
    /// No port is free.
    pub(crate) fn new(to: u16) -> Result<Self> {
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

    /// Has `act` done before each of the next `times` requests that begin with `request`, such as `PUT /api/v1/pods`. Only for a way
    /// without TLS, and for requests that are written at once.
    pub fn before(&self, request: &str, times: usize, act: impl Fn() + Send + Sync + 'static) {
        let meddler = Meddler { request: request.to_owned(), times, act: Arc::new(act) };
        self.state.lock().unwrap_or_else(PoisonError::into_inner).meddlers.push(meddler);
    }

    /// How often that is still to be done, of all.
    pub fn left(&self) -> usize {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.meddlers.iter().map(|meddler| meddler.times).sum()
    }

    /// Lets connections pass again.
    pub fn open(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).shut = false;
    }
}

fn pass(client: &TcpStream, to: u16, state: &Arc<Mutex<State>>) -> io::Result<()> {
    let all = state.clone();
    let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
    if state.shut {
        return Ok(());
    }
    let server = TcpStream::connect(("127.0.0.1", to))?;
    state.passing.extend([client.try_clone()?, server.try_clone()?]);
    let (mut asking, mut asked) = (client.try_clone()?, server.try_clone()?);
    thread::spawn(move || {
        let _ = pass_requests(&mut asking, &mut asked, &all);
        let _ = asked.shutdown(Shutdown::Both);
    });
    let (mut from, mut to) = (server, client.try_clone()?);
    thread::spawn(move || {
        let _ = io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Both);
    });
    Ok(())
}

fn pass_requests(from: &mut TcpStream, to: &mut TcpStream, state: &Mutex<State>) -> io::Result<()> {
    let mut bytes = vec![0; 64 * 1024];
    loop {
        let length = from.read(&mut bytes)?;
        if length == 0 {
            return Ok(());
        }
        // The lock isn't held while somebody acts: others pass meanwhile.
        if let Some(act) = meddler_of(&bytes[..length], state) {
            act();
        }
        to.write_all(&bytes[..length])?;
    }
}

fn meddler_of(bytes: &[u8], state: &Mutex<State>) -> Option<Arc<dyn Fn() + Send + Sync>> {
    let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
    let is_meant = |it: &&mut Meddler| {
        // With or without a query.
        let path = it.request.as_bytes();
        it.times > 0 && bytes.starts_with(path) && matches!(bytes.get(path.len()), Some(b' ' | b'?'))
    };
    let meddler = state.meddlers.iter_mut().find(is_meant)?;
    meddler.times -= 1;
    Some(meddler.act.clone())
}
