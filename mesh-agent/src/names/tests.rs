//! Names against a server of the test's own: asked again by the TTL, remembered for a while, kept quiet about what is the same.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::{IpAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn answers_are_remembered_for_a_while_and_news_are_told_once() {
    let mut memory = Memory::default();
    let (start, ttl) = (Instant::now(), Duration::from_secs(5));
    let first = memory.remember(vec![ip("192.0.2.2")], start, ttl);
    assert_eq!(first.known, [ip("192.0.2.2")]);
    let second = memory.remember(vec![ip("192.0.2.1")], start + ttl, ttl);
    assert_eq!(
        (second.newest, second.known),
        (vec![ip("192.0.2.1")], vec![ip("192.0.2.1"), ip("192.0.2.2")])
    );
    let later = start + Duration::from_secs(610);
    assert_eq!(memory.remember(vec![ip("192.0.2.1")], later, ttl).known, [ip("192.0.2.1")]);
    for n in 0..1000_u32 {
        memory.remember(vec![IpAddr::from(n.to_be_bytes())], later, ttl);
    }
    assert!(memory.remember(vec![ip("192.0.2.1")], later, ttl).known.len() <= 257);
    let news = |memory: &mut Memory, text: &str| memory.is_news(&Err(text.to_owned()));
    assert!(news(&mut memory, "a") && !news(&mut memory, "a") && news(&mut memory, "b"));
}

/// Answers every question for an A record with one address, or not at all.
struct Server {
    address: Arc<Mutex<Option<[u8; 4]>>>,
    stop: Arc<AtomicBool>,
    conf: tempfile::TempDir,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// None where port 53 can't be had.
    fn start() -> Option<Self> {
        // An address for this process alone, on the port that a resolv.conf can name.
        let own = crate::lab::own_address().ip();
        let socket = UdpSocket::bind((own, 53)).ok()?;
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let conf = tempfile::tempdir().unwrap();
        std::fs::write(conf.path().join("resolv.conf"), format!("nameserver {own}\noptions timeout:1\n"))
            .unwrap();
        let (address, stop) = (Arc::<Mutex<Option<[u8; 4]>>>::default(), Arc::<AtomicBool>::default());
        let (shown, over) = (address.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 512];
            while !over.load(Relaxed) {
                let Ok((len, from)) = socket.recv_from(&mut buffer) else { continue };
                let address = *shown.lock().unwrap();
                let _ = socket.send_to(&reply(&buffer[..len], address), from);
            }
        });
        Some(Self { address, stop, conf, thread: Some(thread) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        self.thread.take().map(JoinHandle::join);
    }
}

/// The question with an answer behind it: an A record for one second, nothing for another type, SERVFAIL without address.
fn reply(question: &[u8], address: Option<[u8; 4]>) -> Vec<u8> {
    let end = 12 + question[12..].iter().position(|byte| *byte == 0).unwrap() + 5;
    let is_a = question[end - 4..end - 2] == [0, 1];
    let (code, count) = match address {
        None => (2, 0),
        Some(_) => (0, u8::from(is_a)),
    };
    let mut out = vec![question[0], question[1], 0x81, 0x80 | code, 0, 1, 0, count, 0, 0, 0, 0];
    out.extend_from_slice(&question[12..end]);
    if let (Some(address), 1) = (address, count) {
        out.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4]);
        out.extend(address);
    }
    out
}

#[test]
fn a_name_is_asked_for_again_when_its_ttl_is_over_and_failures_are_told() {
    let Some(server) = Server::start() else {
        println!("SKIPPED: port 53 can't be had");
        return;
    };
    *server.address.lock().unwrap() = Some([192, 0, 2, 1]);
    let stats = Arc::<Stats>::default();
    let mut names = Names::new(server.conf.path().join("resolv.conf"), stats.clone());
    let (send, told) = channel();
    let wanted = || BTreeSet::from(["api.example.com".to_owned()]);
    names.follow(wanted(), move |answer| drop(send.send(answer))).unwrap();
    let next = |told: &Receiver<Answer>| told.recv_timeout(PATIENCE).expect("nothing was told");
    let newest = |answer: &Answer| answer.result.clone().unwrap().newest;
    assert_eq!(newest(&next(&told)), [ip("192.0.2.1")]);
    *server.address.lock().unwrap() = Some([192, 0, 2, 2]);
    let changed = next(&told);
    assert_eq!(newest(&changed), [ip("192.0.2.2")]);
    assert_eq!(changed.result.unwrap().known.len(), 2, "the former address is remembered");
    *server.address.lock().unwrap() = None;
    assert!(next(&told).result.is_err());
    *server.address.lock().unwrap() = Some([127, 0, 0, 1]);
    let unusable =
        std::iter::repeat_with(|| next(&told).result.unwrap_err()).find(|why| why.contains("no address"));
    assert!(unusable.is_some(), "a loopback address is nobody's");
    *server.address.lock().unwrap() = Some([192, 0, 2, 2]);
    assert!(std::iter::repeat_with(|| next(&told)).any(|answer| answer.result.is_ok()), "it recovers");
    assert!(stats.counts().iter().all(|(_, count)| *count > 0), "{:?}", stats.counts());
}
