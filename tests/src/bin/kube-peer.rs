//! What runs in the containers of pods on a real Kubernetes: a server of HTTP/1.1 and of datagrams that says which pod it is, a
//! client that says how each request went, and a process that does nothing. Plain std, a thread a connection.
//!
//! The first process of a container ignores SIGTERM, so a server goes on to serve for its pod's grace period, as one should.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

const USAGE: &str =
    "usage: kube-peer serve PORT | get ADDRESS PATH [COUNT [MILLISECONDS]] | send ADDRESS | wait";
/// To connect: where no mesh is, a service's address leads nowhere, and that is found out by waiting.
const DEADLINE: Duration = Duration::from_secs(5);
/// To be answered once connected, on a busy machine.
const ANSWER: Duration = Duration::from_secs(20);

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args.as_slice() {
        ["serve", port] => serve(port.parse().context(USAGE)?),
        ["get", address, path, rest @ ..] => {
            let number = |at: usize, default| rest.get(at).map_or(Ok(default), |text| text.parse::<u64>());
            get(address.parse().context(USAGE)?, path, number(0, 1)?, Duration::from_millis(number(1, 0)?))
        }
        ["send", address] => send(address.parse().context(USAGE)?),
        ["wait"] => loop {
            std::thread::park();
        },
        _ => bail!(USAGE),
    }
}

fn serve(port: u16) -> Result<()> {
    let datagrams = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port)).context("binding")?;
    std::thread::spawn(move || echo(&datagrams));
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).context("listening")?;
    for stream in listener.incoming() {
        // A connection that fails concerns its client only.
        let _ = std::thread::Builder::new().spawn(move || stream.map(answer));
    }
    Ok(())
}

/// Each datagram is answered with the pod's name.
fn echo(socket: &UdpSocket) -> Result<()> {
    let name = std::env::var("HOSTNAME").unwrap_or_default();
    loop {
        let (_, from) = socket.recv_from(&mut [0; 64])?;
        socket.send_to(name.as_bytes(), from)?;
    }
}

/// One datagram, of a socket that isn't connected; prints what came back, and fails if that came from elsewhere.
fn send(address: SocketAddr) -> Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.set_read_timeout(Some(DEADLINE))?;
    socket.send_to(b"?", address).context("sending")?;
    let mut buf = [0; 256];
    let (len, from) = socket.recv_from(&mut buf).context("no answer")?;
    ensure!(from == address, "answered from {from}");
    println!("{}", String::from_utf8_lossy(&buf[..len]));
    Ok(())
}

fn answer(stream: TcpStream) -> Result<()> {
    let name = std::env::var("HOSTNAME").unwrap_or_default();
    let client = stream.peer_addr()?.ip().to_canonical();
    let (mut reader, mut writer) = (BufReader::new(stream.try_clone()?), stream);
    while let Some(request) = head(&mut reader)? {
        let path = request.split(' ').nth(1).unwrap_or_default();
        let body = format!("{name} {client} {path}\n");
        write!(writer, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())?;
    }
    Ok(())
}

/// The first line of a head without a body, which is read to its end.
fn head(reader: &mut impl BufRead) -> Result<Option<String>> {
    let (mut first, mut line) = (String::new(), String::new());
    if reader.read_line(&mut first)? == 0 {
        return Ok(None);
    }
    loop {
        line.clear();
        if reader.read_line(&mut line)? == 0 {
            bail!("a head without an end");
        }
        if line == "\r\n" {
            return Ok(Some(first));
        }
    }
}

/// Each on a connection of its own. A line for each that didn't get a 200 and the last answer, then how many there were of
/// both; fails if any did.
fn get(address: SocketAddr, path: &str, count: u64, every: Duration) -> Result<()> {
    let (start, mut failed, mut last) = (Instant::now(), 0, String::new());
    for n in 0..count {
        match ask(address, path) {
            Ok(body) => last = body,
            Err(error) => {
                failed += 1;
                println!("{:?}: {error:#}", start.elapsed());
            }
        }
        std::thread::sleep((every * u32::try_from(n + 1)?).saturating_sub(start.elapsed()));
    }
    print!("{last}");
    println!("{} answered, {failed} failed", count - failed);
    ensure!(failed == 0, "{failed} of {count} failed");
    Ok(())
}

fn ask(address: SocketAddr, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, DEADLINE).context("connecting")?;
    stream.set_read_timeout(Some(ANSWER))?;
    // The path is said once more, in words that stand nowhere but in the request.
    let agent = format!("kube-peer{path}");
    let head =
        format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nuser-agent: {agent}\r\nconnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).context("asking")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).context("reading the answer")?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no answer")?;
    let status = head.split(' ').nth(1).unwrap_or_default();
    ensure!(status == "200", "status {status}: {}", body.trim());
    Ok(body.to_owned())
}
