//! The demo's servers and clients: this binary run in a pod by its hidden commands. Plain std, a thread a connection.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

const TIMEOUT: Duration = Duration::from_secs(2);

/// Flags of the hidden command `demo-server`.
#[derive(Debug, clap::Args)]
pub struct ServerArgs {
    /// Name to answer with
    #[arg(long)]
    pub name: String,
    /// Version to answer with
    #[arg(long = "release")]
    pub version: String,
    /// Port to listen on
    #[arg(long)]
    pub port: u16,
    /// While this file is there, every request is answered with 503
    #[arg(long, value_name = "FILE")]
    pub fails_while: PathBuf,
}

/// Flags of the hidden command `demo-client`.
#[derive(Debug, clap::Args)]
pub struct ClientArgs {
    /// Where to
    #[arg(long)]
    pub to: SocketAddr,
    /// Milliseconds between requests
    #[arg(long)]
    pub every: u64,
    /// How many requests; for ever if not given
    #[arg(long)]
    pub count: Option<u64>,
    /// What is asked for
    #[arg(long, default_value = "/")]
    pub path: String,
}

/// Answers every request with name, version and the client's address; or with 503 and a line `refused` on its output.
///
/// # Errors
/// The port is taken.
pub fn server(args: ServerArgs) -> Result<()> {
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, args.port)).context("listening")?;
    println!("listening");
    let args = Arc::new(args);
    for stream in listener.incoming() {
        let args = args.clone();
        // A connection that fails concerns its client only.
        let _ = std::thread::Builder::new().spawn(move || stream.map(|s| answer(s, &args)));
    }
    Ok(())
}

fn answer(stream: TcpStream, args: &ServerArgs) -> Result<()> {
    let peer = stream.peer_addr()?.ip().to_canonical();
    stream.set_nodelay(true)?;
    let mut out = stream.try_clone()?;
    let mut lines = BufReader::new(stream).lines();
    loop {
        // Heads only: the demo's clients send no bodies.
        let mut last = false;
        loop {
            let line = lines.next().transpose()?.context("closed")?;
            if line.is_empty() {
                break;
            }
            last |= line.eq_ignore_ascii_case("connection: close");
        }
        let status = if args.fails_while.exists() { "503 Service Unavailable" } else { "200 OK" };
        if status != "200 OK" {
            println!("refused");
        }
        let body = format!("{} {} {peer}", args.name, args.version);
        write!(out, "HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len())?;
        if last {
            return Ok(());
        }
    }
}

/// Sends requests, each on a connection of its own, and prints a line for each: `ok NAME VERSION PEER DIALLED MICROS`
/// or `fail WHAT RETRY-AFTER RATELIMIT-POLICY - MICROS`, with `-` where nothing is said.
pub fn client(args: &ClientArgs) -> Result<()> {
    let mut number = 0;
    while args.count.is_none_or(|count| number < count) {
        number += 1;
        let started = Instant::now();
        let outcome = request(args.to, &args.path);
        let micros = started.elapsed().as_micros();
        match outcome {
            Ok(Answer::Served(words)) => println!("ok {words} {micros}"),
            Ok(Answer::Refused(words)) => println!("fail {words} - {micros}"),
            Err(error) => println!("fail {} - - - {micros}", word(&error)),
        }
        let every = Duration::from_millis(args.every);
        std::thread::sleep(every.saturating_sub(started.elapsed()));
    }
    Ok(())
}

/// What came back, in words.
enum Answer {
    /// 200
    Served(String),
    /// Any other status.
    Refused(String),
}

fn request(to: SocketAddr, path: &str) -> Result<Answer> {
    let mut stream = TcpStream::connect_timeout(&to, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: cart.shop\r\nConnection: close\r\n\r\n")?;
    let dialled = stream.peer_addr()?;
    let mut answer = String::new();
    // A server that was killed resets; what came before that is judged.
    let end = stream.read_to_string(&mut answer);
    let Some((head, body)) = answer.split_once("\r\n\r\n") else {
        end?;
        anyhow::bail!("closed");
    };
    let status = head.split(' ').nth(1).unwrap_or("none");
    if status == "200" {
        return Ok(Answer::Served(format!("{body} {dialled}")));
    }
    let (retry_after, policy) = (field(head, "retry-after"), field(head, "ratelimit-policy"));
    Ok(Answer::Refused(format!("status-{status} {retry_after} {policy}")))
}

/// The value of a header field, `-` if it isn't there.
fn field<'h>(head: &'h str, name: &str) -> &'h str {
    let fields = head.lines().skip(1).filter_map(|line| line.split_once(':'));
    let mut found = fields.filter(|(said, _)| said.eq_ignore_ascii_case(name));
    found.next().map_or("-", |(_, value)| value.trim())
}

/// One word for an error: the errno's name as far as the demo meets it.
fn word(error: &anyhow::Error) -> String {
    use std::io::ErrorKind;
    match error.downcast_ref::<std::io::Error>().map(std::io::Error::kind) {
        Some(ErrorKind::ConnectionRefused) => "ECONNREFUSED".into(),
        Some(ErrorKind::HostUnreachable) => "EHOSTUNREACH".into(),
        // A socket that was reset has no peer to name.
        Some(ErrorKind::ConnectionReset | ErrorKind::NotConnected) => "ECONNRESET".into(),
        Some(ErrorKind::TimedOut | ErrorKind::WouldBlock) => "timeout".into(),
        Some(kind) => format!("{kind:?}"),
        None => error.to_string().replace(' ', "-"),
    }
}
