//! TLS on a tokio socket by rustls, for peers that a test plays: nothing of the agent's own.

use std::io::{self, Read, Write};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustls::Connection;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// A connection with its session.
pub struct Tls {
    socket: TcpStream,
    session: Connection,
}

/// The socket as rustls wants it: what isn't possible now fails with WouldBlock.
struct Now<'a>(&'a TcpStream);

impl Read for Now<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(buf)
    }
}

impl Write for Now<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.try_write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Tls {
    /// Shakes hands.
    ///
    /// # Errors
    /// Either side's refusal, as far as it comes within the handshake.
    pub async fn shake_hands(socket: TcpStream, session: Connection) -> io::Result<Self> {
        let mut tls = Self { socket, session };
        std::future::poll_fn(|cx| {
            while tls.session.is_handshaking() {
                ready!(tls.poll_drain(cx))?;
                if tls.session.is_handshaking() && !ready!(tls.poll_fill(cx))? {
                    return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
                }
            }
            tls.poll_drain(cx)
        })
        .await?;
        Ok(tls)
    }

    /// What is known of the peer.
    pub fn session(&self) -> &Connection {
        &self.session
    }

    /// Sends what the session has to send.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.session.wants_write() {
            match self.session.write_tls(&mut Now(&self.socket)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(self.socket.poll_write_ready(cx))?;
                }
                sent => drop(sent?),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Takes what has come; false at the end.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        loop {
            match self.session.read_tls(&mut Now(&self.socket)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(self.socket.poll_read_ready(cx))?;
                }
                Ok(0) => return Poll::Ready(Ok(false)),
                read => {
                    read?;
                    let processed = self.session.process_new_packets();
                    if processed.is_err() {
                        // The alert that says why.
                        let _ = self.session.write_tls(&mut Now(&self.socket));
                    }
                    processed.map_err(io::Error::other)?;
                    return Poll::Ready(Ok(true));
                }
            }
        }
    }
}

impl AsyncRead for Tls {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            match self.session.reader().read(buf.initialize_unfilled()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => {
                    buf.advance(read?);
                    return Poll::Ready(Ok(()));
                }
            }
            if !ready!(self.poll_fill(cx))? {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl AsyncWrite for Tls {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_drain(cx))?;
        let written = self.session.writer().write(buf)?;
        // What doesn't go now goes with the next write or flush.
        let _ = self.poll_drain(cx)?;
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_drain(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.session.send_close_notify();
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
