//! A DNS server of the test's own: answers A questions over UDP with what a test says, good for one second.
//!
//! It listens on a loopback address that no other process has, on port 53, which is all that a resolv.conf can name.

use std::collections::HashMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use mesh_agent::lab::own_address;

/// How long an answer is good for, in seconds.
const TTL: u8 = 1;
/// How long a slow one thinks: both families' questions are answered within the resolver's second.
const SLOW: Duration = Duration::from_millis(200);

type Zone = Arc<Mutex<HashMap<String, Vec<Ipv4Addr>>>>;

/// The server; ends on drop.
pub struct Dns {
    zone: Zone,
    failing: Arc<AtomicBool>,
    slow: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
    over: Arc<AtomicBool>,
    address: IpAddr,
    thread: Option<JoinHandle<()>>,
}

impl Dns {
    /// Starts to answer; there is no name yet.
    pub fn start() -> Result<Self> {
        let address = own_address().ip();
        let socket =
            UdpSocket::bind((address, 53)).with_context(|| format!("listening on {address} port 53"))?;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        let (zone, failing) = (Zone::default(), Arc::<AtomicBool>::default());
        let (asked, over) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
        let slow = Arc::<AtomicBool>::default();
        let (z, f, a, o, s) = (zone.clone(), failing.clone(), asked.clone(), over.clone(), slow.clone());
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 1024];
            while !o.load(Ordering::Relaxed) {
                let Ok((len, from)) = socket.recv_from(&mut buffer) else { continue };
                a.fetch_add(1, Ordering::Relaxed);
                if s.load(Ordering::Relaxed) {
                    std::thread::sleep(SLOW);
                }
                if let Some(answer) = reply(&buffer[..len], &z, f.load(Ordering::Relaxed)) {
                    let _ = socket.send_to(&answer, from);
                }
            }
        });
        Ok(Self { zone, failing, slow, asked, over, address, thread: Some(thread) })
    }

    /// Writes a resolv.conf that leads here.
    pub fn conf(&self, dir: &Path) -> Result<PathBuf> {
        let path = dir.join("resolv.conf");
        fs::write(&path, format!("nameserver {}\noptions timeout:1 attempts:1\n", self.address))?;
        Ok(path)
    }

    /// What a name stands for from now on.
    pub fn set(&self, name: &str, addresses: &[Ipv4Addr]) {
        let mut zone = self.zone.lock().unwrap_or_else(PoisonError::into_inner);
        zone.insert(name.to_owned(), addresses.to_vec());
    }

    /// Takes its time for every answer, from now on.
    pub fn slow_down(&self) {
        self.slow.store(true, Ordering::Relaxed);
    }

    /// Answers SERVFAIL to everything, or no longer.
    pub fn fail(&self, failing: bool) {
        self.failing.store(failing, Ordering::Relaxed);
    }

    /// Questions so far.
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The answer to one question (RFC 1035, 4.1). None for what isn't one.
fn reply(question: &[u8], zone: &Zone, failing: bool) -> Option<Vec<u8>> {
    let (mut name, mut at) = (Vec::new(), 12);
    loop {
        let len = usize::from(*question.get(at)?);
        at += 1;
        if len == 0 {
            break;
        }
        name.push(String::from_utf8_lossy(question.get(at..at + len)?).to_ascii_lowercase());
        at += len;
    }
    let is_a = question.get(at..at + 2)? == [0, 1];
    let zone = zone.lock().unwrap_or_else(PoisonError::into_inner);
    let known = zone.get(&name.join("."));
    let code = match known {
        _ if failing => 2,
        None => 3,
        Some(_) => 0,
    };
    let addresses = known.filter(|_| is_a && !failing).map_or(&[][..], Vec::as_slice);
    let mut out = vec![
        question[0],
        question[1],
        0x81,
        0x80 | code,
        0,
        1,
        0,
        u8::try_from(addresses.len()).ok()?,
        0,
        0,
        0,
        0,
    ];
    out.extend_from_slice(question.get(12..at + 4)?);
    for address in addresses {
        out.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, TTL, 0, 4]);
        out.extend(address.octets());
    }
    Some(out)
}
