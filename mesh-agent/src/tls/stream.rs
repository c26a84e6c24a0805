//! Bytes over TLS, of either side: records of a socket to plaintext and back, with both directions usable at once.
//!
//! The end of a stream is what the peer says it is: only a close_notify is a clean one, and a socket that ends without is
//! an error (RFC 8446, 6.1), so that nobody who cuts a connection can pass a part for the whole. An idle connection holds
//! no buffer of ours. Belongs to one task, whose waker both directions share.

use std::cell::RefCell;
use std::fmt;
use std::future::poll_fn;
use std::io::{self, BufRead, IoSlice, Read, Write};
use std::mem;
use std::net::Shutdown;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustls::Connection;
use rustls::client::ClientConnection;
use rustls::pki_types::CertificateDer;
use rustls::server::ServerConnection;
use socket2::SockRef;
use tokio::io::ReadBuf;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// One read of a socket takes at most this much: two records of the largest size.
const CIPHER: usize = 32 * 1024;
/// How long a client that is refused may go on sending until it has read why.
const LINGER: Duration = Duration::from_secs(1);
/// One read of plaintext: the largest record.
const PLAIN: usize = 16 * 1024;

thread_local! {
    /// Ciphertext within one poll.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; CIPHER].into_boxed_slice());
}

/// Why there is no TLS connection.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The peer's certificate isn't one that the rule accepts.
    #[error("the peer's certificate is refused")]
    Certificate(#[source] rustls::Error),
    /// The two don't agree, or the peer refuses us.
    #[error("the TLS handshake failed")]
    Handshake(#[source] rustls::Error),
    /// The socket failed or ended within the handshake.
    #[error("the connection failed within the TLS handshake")]
    Io(#[source] io::Error),
}

impl From<io::Error> for TlsError {
    fn from(error: io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(tls @ rustls::Error::InvalidCertificate(_)) => Self::Certificate(tls.clone()),
            Some(tls) => Self::Handshake(tls.clone()),
            None => Self::Io(error),
        }
    }
}

/// A socket with the TLS session on it.
pub struct TlsStream {
    tcp: TcpStream,
    state: RefCell<State>,
}

struct State {
    session: Connection,
    /// Ciphertext that was read and must wait until plaintext is taken.
    incoming: Vec<u8>,
    /// Plaintext that is encrypted and not yet gone: its writer is told once it has.
    owed: usize,
    /// Our close_notify was said.
    closed: bool,
}

impl TlsStream {
    /// Shakes hands as the client.
    ///
    /// # Errors
    /// [`TlsError`]; the socket is closed then, after the alert that the peer is owed.
    pub async fn client(tcp: TcpStream, session: ClientConnection) -> Result<Self, TlsError> {
        Self::shake_hands(tcp, session.into()).await
    }

    /// Shakes hands as the server, after `first` was read from the socket.
    ///
    /// # Errors
    /// As [`Self::client`].
    pub async fn server_after(
        first: impl Into<Vec<u8>>,
        tcp: TcpStream,
        session: ServerConnection,
    ) -> Result<Self, TlsError> {
        let stream = Self::new(first.into(), tcp, session.into());
        match poll_fn(|cx| stream.poll_handshake(cx)).await {
            Ok(()) => Ok(stream),
            Err(error) => {
                // A client of TLS 1.3 has done its part and goes on to speak: closing with that unread would reset the
                // connection, and the alert that says why with it.
                let _ = timeout(LINGER, stream.linger()).await;
                Err(error.into())
            }
        }
    }

    async fn linger(&self) {
        let _ = SockRef::from(&self.tcp).shutdown(Shutdown::Write);
        let mut left = CIPHER;
        while left > 0 && self.tcp.readable().await.is_ok() {
            match self.tcp.try_read(&mut [0; 1024]) {
                Ok(0) => return,
                Ok(read) => left = left.saturating_sub(read),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    }

    /// Shakes hands as the server.
    ///
    /// # Errors
    /// As [`Self::client`].
    pub async fn server(tcp: TcpStream, session: ServerConnection) -> Result<Self, TlsError> {
        Self::server_after(Vec::new(), tcp, session).await
    }

    async fn shake_hands(tcp: TcpStream, session: Connection) -> Result<Self, TlsError> {
        let stream = Self::new(Vec::new(), tcp, session);
        poll_fn(|cx| stream.poll_handshake(cx)).await?;
        Ok(stream)
    }

    fn new(incoming: Vec<u8>, tcp: TcpStream, session: Connection) -> Self {
        Self { tcp, state: RefCell::new(State { session, incoming, owed: 0, closed: false }) }
    }

    fn poll_handshake(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.state.borrow_mut();
        loop {
            ready!(self.poll_send(&mut state, cx))?;
            if !state.session.is_handshaking() {
                return Poll::Ready(Ok(()));
            }
            ready!(self.poll_more(&mut state, cx))?;
        }
    }

    /// The socket, for what has nothing to do with its bytes.
    pub fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    /// True if the session of an earlier connection was taken up again.
    pub fn is_resumed(&self) -> bool {
        self.state.borrow().session.handshake_kind() == Some(rustls::HandshakeKind::Resumed)
    }

    /// What both agreed to speak.
    pub fn alpn(&self) -> Option<Vec<u8>> {
        self.state.borrow().session.alpn_protocol().map(<[u8]>::to_vec)
    }

    /// The peer's own certificate, if it showed one.
    pub fn peer_certificate(&self) -> Option<Vec<u8>> {
        let state = self.state.borrow();
        state.session.peer_certificates()?.first().map(|certificate| certificate.to_vec())
    }

    /// All that the peer showed, its own first; none if it showed none.
    pub fn peer_certificates(&self) -> Vec<CertificateDer<'static>> {
        let state = self.state.borrow();
        let chain = state.session.peer_certificates().unwrap_or_default();
        chain.iter().map(|certificate| certificate.clone().into_owned()).collect()
    }

    /// As `AsyncRead::poll_read`. No bytes is the peer's close_notify.
    pub fn poll_read(&self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut state = self.state.borrow_mut();
        loop {
            let room = buf.remaining().min(PLAIN);
            match state.session.reader().read(buf.initialize_unfilled_to(room)) {
                Ok(read) => {
                    buf.advance(read);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
            ready!(self.poll_more(&mut state, cx))?;
        }
    }

    /// Ready once a read would be: tickets and other messages of the protocol aren't anything to read.
    pub fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.state.borrow_mut();
        loop {
            if state.has_news() {
                return Poll::Ready(Ok(()));
            }
            ready!(self.poll_more(&mut state, cx))?;
        }
    }

    /// The beginning of what a read would find, which it still finds.
    pub fn poll_peek(&self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_readable(cx))?;
        let mut state = self.state.borrow_mut();
        let mut reader = state.session.reader();
        let read = reader.fill_buf()?;
        let most = read.len().min(buf.len());
        buf[..most].copy_from_slice(&read[..most]);
        Poll::Ready(Ok(most))
    }

    /// As `AsyncWrite::poll_write_vectored`, but bytes count as taken only once the socket has them: nobody would carry on
    /// what is left in here. Until then it has to be called again with the same bytes.
    pub fn poll_write(&self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let mut state = self.state.borrow_mut();
        ready!(self.poll_send(&mut state, cx))?;
        if state.owed == 0 {
            state.owed = state.session.writer().write_vectored(slices)?;
            ready!(self.poll_send(&mut state, cx))?;
        }
        Poll::Ready(Ok(mem::take(&mut state.owed)))
    }

    /// As `AsyncWrite::poll_flush`.
    pub fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_send(&mut self.state.borrow_mut(), cx)
    }

    /// Ends our direction: close_notify, then the socket's end.
    pub fn poll_shutdown(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.state.borrow_mut();
        state.say_goodbye();
        ready!(self.poll_send(&mut state, cx))?;
        Poll::Ready(SockRef::from(&self.tcp).shutdown(Shutdown::Write))
    }

    /// Says close_notify, as far as the socket takes it at once: for a connection that ends where it may.
    pub fn farewell(&self) {
        let mut state = self.state.borrow_mut();
        state.say_goodbye();
        // The peer may be gone, and then needs no word of it.
        let _ = state.session.write_tls(&mut Socket(&self.tcp));
    }

    /// True if the peer of an idle connection closed it, or sent what nobody asked for. Costs a system call only if the
    /// socket was reported readable; with `now` it asks the kernel.
    pub fn idle_is_closed(&self, now: bool) -> bool {
        let mut state = self.state.borrow_mut();
        SCRATCH.with_borrow_mut(|scratch| {
            loop {
                if state.has_news() {
                    return true;
                }
                let read =
                    if now { (&*SockRef::from(&self.tcp)).read(scratch) } else { self.tcp.try_read(scratch) };
                match read {
                    Ok(0) => return true,
                    Ok(read) if state.digest(&scratch[..read]).is_ok() => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                    Ok(_) | Err(_) => return true,
                }
            }
        })
    }

    /// Reads from the socket once and decrypts what came, or what had to wait.
    fn poll_more(&self, state: &mut State, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !state.incoming.is_empty() {
            let waiting = mem::take(&mut state.incoming);
            return Poll::Ready(self.digest(state, &waiting));
        }
        loop {
            ready!(self.tcp.poll_read_ready(cx))?;
            let result = SCRATCH.with_borrow_mut(|scratch| match self.tcp.try_read(scratch) {
                Ok(read) => Some(self.digest(state, &scratch[..read])),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
                Err(error) => Some(Err(error)),
            });
            if let Some(result) = result {
                return Poll::Ready(result);
            }
        }
    }

    fn digest(&self, state: &mut State, bytes: &[u8]) -> io::Result<()> {
        let result = state.digest(bytes);
        if state.session.wants_write() {
            // An alert, or the answer to a change of keys; what doesn't go now goes with the next write.
            let _ = state.session.write_tls(&mut Socket(&self.tcp));
        }
        result
    }

    /// Sends what is encrypted.
    fn poll_send(&self, state: &mut State, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while state.session.wants_write() {
            match state.session.write_tls(&mut Socket(&self.tcp)) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(self.tcp.poll_write_ready(cx))?;
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl State {
    /// True if there is plaintext, an end or a failure to read.
    fn has_news(&mut self) -> bool {
        !self.session.reader().fill_buf().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Decrypts up to the first plaintext; the rest waits. No bytes are the socket's end.
    fn digest(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() {
            if self.session.is_handshaking() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.session.read_tls(&mut io::empty())?;
        }
        while !bytes.is_empty() {
            // What follows a close_notify is nobody's (RFC 8446, 6.1).
            if self.session.read_tls(&mut bytes)? == 0 {
                return Ok(());
            }
            let progress = self
                .session
                .process_new_packets()
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            if progress.plaintext_bytes_to_read() > 0 {
                self.incoming = bytes.to_vec();
                return Ok(());
            }
        }
        Ok(())
    }

    fn say_goodbye(&mut self) {
        if !mem::replace(&mut self.closed, true) {
            self.session.send_close_notify();
        }
    }
}

impl fmt::Debug for TlsStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsStream").field("tcp", &self.tcp).finish_non_exhaustive()
    }
}

/// The socket as rustls writes to it.
struct Socket<'a>(&'a TcpStream);

impl Write for Socket<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.try_write(buf)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(slices)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
