//! HTTP/1 as small and as literal as a test needs it: an echo server that keeps what it received byte for byte, and a
//! client that sends exactly the bytes it is told.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::server::{Server, reset};

/// One message as it was received.
#[derive(Clone, Debug, Default)]
pub struct Message {
    /// Request line or status line, and header lines, as they were, up to and with the empty line.
    pub head: String,
    /// Body, without chunk framing.
    pub body: Vec<u8>,
    /// Trailer lines of a chunked body.
    pub trailers: Vec<String>,
    /// Sizes of the chunks, if it was chunked.
    pub chunks: Vec<usize>,
}

impl Message {
    /// First line.
    pub fn start_line(&self) -> &str {
        self.head.lines().next().unwrap_or("")
    }

    /// Second word of the first line: a response's status, a request's target.
    pub fn word(&self) -> &str {
        self.start_line().split(' ').nth(1).unwrap_or("")
    }

    /// A response's status.
    pub fn status(&self) -> u16 {
        self.word().parse().unwrap_or(0)
    }

    /// First header of that name, without regard to case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers(name).into_iter().next()
    }

    /// Every header of that name, without regard to case.
    pub fn headers(&self, name: &str) -> Vec<&str> {
        let lines = self.head.lines().skip(1).filter_map(|line| line.split_once(':'));
        lines.filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.trim()).collect()
    }

    /// Body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Reads one message; `None` at a clean end before its first byte. `bodiless`: a response to HEAD.
///
/// # Errors
/// The connection ended inside the message, or the framing is broken.
pub fn read_message(from: &mut impl BufRead, bodiless: bool) -> io::Result<Option<Message>> {
    let mut message = Message::default();
    loop {
        let before = message.head.len();
        if from.read_line(&mut message.head)? == 0 {
            return if before == 0 { Ok(None) } else { Err(cut("head")) };
        }
        if &message.head[before..] == "\r\n" {
            break;
        }
    }
    let response = message.head.starts_with("HTTP/");
    let status = if response { message.status() } else { 0 };
    if bodiless || (100..200).contains(&status) || status == 204 || status == 304 {
        return Ok(Some(message));
    }
    if message.header("transfer-encoding").is_some_and(|coding| coding.ends_with("chunked")) {
        read_chunks(from, &mut message)?;
    } else if let Some(length) = message.header("content-length").and_then(|l| l.parse().ok()) {
        message.body = vec![0; length];
        from.read_exact(&mut message.body)?;
    } else if response {
        from.read_to_end(&mut message.body)?;
    }
    Ok(Some(message))
}

fn read_chunks(from: &mut impl BufRead, message: &mut Message) -> io::Result<()> {
    loop {
        let line = line(from)?;
        let size = line.split(';').next().unwrap_or("").trim();
        let size =
            usize::from_str_radix(size, 16).map_err(|_| io::Error::other(format!("chunk size {line:?}")))?;
        if size == 0 {
            break;
        }
        message.chunks.push(size);
        let at = message.body.len();
        message.body.resize(at + size, 0);
        from.read_exact(&mut message.body[at..])?;
        line_end(from)?;
    }
    loop {
        let line = line(from)?;
        if line.is_empty() {
            return Ok(());
        }
        message.trailers.push(line);
    }
}

fn line(from: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    from.read_line(&mut line)?;
    match line.strip_suffix("\r\n") {
        Some(line) => Ok(line.to_owned()),
        None => Err(cut("a line")),
    }
}

fn line_end(from: &mut impl BufRead) -> io::Result<()> {
    if line(from)?.is_empty() { Ok(()) } else { Err(io::Error::other("no CRLF after a chunk")) }
}

fn cut(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, format!("ended inside {what}"))
}

/// A client connection.
pub struct Client {
    reader: BufReader<TcpStream>,
}

impl Client {
    /// On an open connection.
    pub fn new(stream: TcpStream) -> Self {
        let _ = stream.set_nodelay(true);
        Self { reader: BufReader::new(stream) }
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.reader.get_mut().write_all(bytes.as_ref())
    }

    /// Reads one response, 1xx included; `None` when the server closed instead.
    pub fn read(&mut self) -> io::Result<Option<Message>> {
        read_message(&mut self.reader, false)
    }

    /// Reads one response to HEAD.
    pub fn read_bodiless(&mut self) -> io::Result<Option<Message>> {
        read_message(&mut self.reader, true)
    }

    /// Sends bytes and reads one response that must be there.
    pub fn ask(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<Message> {
        self.send(bytes)?;
        self.read()?.ok_or_else(|| cut("nothing: closed without an answer"))
    }

    /// GET of a path with Host `host`.
    pub fn get(&mut self, host: &str, path: &str) -> io::Result<Message> {
        self.ask(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"))
    }

    /// GET of a path with one more header line.
    pub fn get_with(&mut self, host: &str, path: &str, header: &str) -> io::Result<Message> {
        self.ask(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{header}\r\n\r\n"))
    }

    /// The connection itself.
    pub fn stream(&self) -> &TcpStream {
        self.reader.get_ref()
    }

    /// Everything until the connection ends.
    pub fn read_all(&mut self) -> io::Result<Vec<u8>> {
        let mut all = Vec::new();
        self.reader.read_to_end(&mut all)?;
        Ok(all)
    }

    /// True if the server closes or resets within `deadline`, whatever it sends before.
    pub fn closes_within(&mut self, deadline: Duration) -> bool {
        let _ = self.stream().set_read_timeout(Some(deadline));
        let mut rest = Vec::new();
        match self.reader.read_to_end(&mut rest) {
            Ok(_) => true,
            Err(error) => !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut),
        }
    }

    /// Reads exactly this many bytes.
    pub fn read_bytes(&mut self, count: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; count];
        self.reader.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}

/// What the echo server has received.
#[derive(Clone, Default)]
pub struct Seen {
    messages: Arc<Mutex<Vec<Message>>>,
    status: Arc<AtomicU16>,
}

impl Seen {
    /// Every request so far, complete ones only.
    pub fn all(&self) -> Vec<Message> {
        self.messages.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many requests.
    pub fn count(&self) -> usize {
        self.messages.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Those whose target is `target`.
    pub fn of(&self, target: &str) -> Vec<Message> {
        self.all().into_iter().filter(|message| message.word() == target).collect()
    }

    /// Answers every request with this status from here on, whatever its path; 0 ends that.
    pub fn answer_with(&self, status: u16) {
        self.status.store(status, Ordering::Relaxed);
    }

    fn add(&self, message: &Message) {
        self.messages.lock().unwrap_or_else(PoisonError::into_inner).push(message.clone());
    }
}

/// An HTTP/1 server that answers by path.
///
/// `/` its name; `/head` the received head; `/echo` the body, chunked if it came so, with the trailers; `/chunked` three
/// chunks and a trailer; `/bytes/N` N bytes; `/status/N`; `/slow/MS` after a while; `/close` close-delimited; `/early`
/// 103 before 200; `/continue` asks for the body with 100; `/cut` ends inside the body; `/cutchunk` ends without a last
/// chunk; `/reset` RST before an answer; `/hang` never answers; `/upgrade` switches to an echo of bytes; `/one` closes after its answer.
pub fn echo_server(listener: TcpListener, name: &str) -> (Server, Seen) {
    let (seen, name) = (Seen::default(), name.to_owned());
    let kept = seen.clone();
    let server = Server::new(listener, move |stream, peer| {
        let _ = serve(stream, peer, &name, &kept);
    });
    (server, seen)
}

fn serve(stream: TcpStream, peer: SocketAddr, name: &str, seen: &Seen) -> io::Result<()> {
    let mut out = stream.try_clone()?;
    let mut reader = BufReader::new(stream);
    loop {
        if expects_continue(&mut reader)? {
            out.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        let Some(request) = read_message(&mut reader, false)? else { return Ok(()) };
        seen.add(&request);
        let target = request.word().to_owned();
        let path =
            target.strip_prefix("http://").and_then(|t| t.find('/').map(|at| &t[at..])).unwrap_or(&target);
        let path = path.split('?').next().unwrap_or(path);
        let mut parts = path.splitn(3, '/').skip(1);
        let (action, argument) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""));
        let number: u64 = argument.parse().unwrap_or(0);
        if request.start_line().starts_with("CONNECT ") {
            out.write_all(b"HTTP/1.1 200 Connected\r\n\r\n")?;
            return echo_bytes(&mut reader, &mut out);
        }
        match action {
            _ if seen.status.load(Ordering::Relaxed) != 0 => {
                plain(&mut out, &request, seen.status.load(Ordering::Relaxed), b"told so\n")?;
            }
            "head" => plain(&mut out, &request, 200, request.head.as_bytes())?,
            "peer" => plain(&mut out, &request, 200, peer.to_string().as_bytes())?,
            "echo" => echo(&mut out, &request)?,
            "chunked" => out.write_all(
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n\
                  3\r\none\r\n3\r\ntwo\r\n5\r\nthree\r\n0\r\nX-Sum: 11\r\n\r\n",
            )?,
            "bytes" => plain(&mut out, &request, 200, &vec![b'x'; number as usize])?,
            "status" => plain(&mut out, &request, number as u16, b"status\n")?,
            "slow" => {
                std::thread::sleep(Duration::from_millis(number));
                plain(&mut out, &request, 200, name.as_bytes())?;
            }
            "close" => {
                out.write_all(b"HTTP/1.1 200 OK\r\nX-Server: close\r\n\r\nuntil the end")?;
                return Ok(());
            }
            "one" => {
                out.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 3\r\n\r\none")?;
                return Ok(());
            }
            "early" => {
                out.write_all(b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n")?;
                plain(&mut out, &request, 200, name.as_bytes())?;
            }
            "cut" => {
                out.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this")?;
                return Ok(());
            }
            "cutchunk" => {
                out.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\n")?;
                return Ok(());
            }
            "reset" | "cutreset" => {
                if action == "cutreset" {
                    out.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this")?;
                }
                drop(out);
                reset(reader.into_inner());
                return Ok(());
            }
            "hang" => {
                let mut rest = Vec::new();
                reader.read_to_end(&mut rest)?;
                return Ok(());
            }
            "upgrade" => {
                out.write_all(
                    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
                )?;
                return echo_bytes(&mut reader, &mut out);
            }
            _ => plain(&mut out, &request, 200, name.as_bytes())?,
        }
        if request.header("connection").is_some_and(|c| c.eq_ignore_ascii_case("close"))
            || request.start_line().ends_with("HTTP/1.0")
        {
            return Ok(());
        }
    }
}

/// Looks at what is buffered of the next head, without taking it.
fn expects_continue(reader: &mut BufReader<TcpStream>) -> io::Result<bool> {
    let head = String::from_utf8_lossy(reader.fill_buf()?).to_ascii_lowercase();
    Ok(head.contains("\r\nexpect: 100-continue\r\n"))
}

fn plain(out: &mut impl Write, request: &Message, status: u16, body: &[u8]) -> io::Result<()> {
    let mut answer =
        format!("HTTP/1.1 {status} Reason\r\nContent-Length: {}\r\nX-Kept: As-Is\r\n\r\n", body.len())
            .into_bytes();
    if !request.head.starts_with("HEAD ") {
        answer.extend_from_slice(body);
    }
    out.write_all(&answer)
}

fn echo(out: &mut impl Write, request: &Message) -> io::Result<()> {
    if request.header("transfer-encoding").is_none() {
        return plain(out, request, 200, &request.body);
    }
    let mut answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    for chunk in request.body.chunks(1000) {
        answer.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        answer.extend_from_slice(chunk);
        answer.extend_from_slice(b"\r\n");
    }
    answer.extend_from_slice(b"0\r\n");
    for trailer in &request.trailers {
        answer.extend_from_slice(format!("{trailer}\r\n").as_bytes());
    }
    answer.extend_from_slice(b"\r\n");
    out.write_all(&answer)
}

fn echo_bytes(reader: &mut BufReader<TcpStream>, out: &mut TcpStream) -> io::Result<()> {
    loop {
        let taken = {
            let bytes = reader.fill_buf()?;
            out.write_all(bytes)?;
            bytes.len()
        };
        if taken == 0 {
            return out.shutdown(std::net::Shutdown::Write);
        }
        reader.consume(taken);
    }
}
