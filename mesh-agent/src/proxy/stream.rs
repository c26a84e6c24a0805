//! A connection as the data path carries it: a bare socket, one with TLS of the agent's own on it, or a stream of an HTTP/2
//! connection between two agents.
//!
//! An enum and not a trait object: what goes in plain text costs a branch, no call through a table and no allocation. Made by
//! `upstream`, `listener` and `inbound`; used by `tcp`, `crate::http1` and `crate::http2`.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::future::Either;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf, Ready};
use tokio::net::{TcpStream, tcp};

use crate::http2::Tunnel;
use crate::tls::TlsStream;

/// What carries mutual TLS of the mesh, as metrics have it.
pub(crate) const fn transport(is_hbone: bool) -> &'static str {
    if is_hbone { "hbone" } else { "mesh" }
}

/// A connection.
#[derive(Debug)]
pub enum Stream {
    /// A socket.
    Plain(TcpStream),
    /// A socket with a TLS session on it.
    Tls(Box<TlsStream>),
    /// A CONNECT stream on mutual TLS between two agents.
    Tunnel(Box<Tunnel>),
}

/// Its receiving side.
pub enum ReadHalf<'a> {
    /// Of a socket.
    Plain(tcp::ReadHalf<'a>),
    /// Of a TLS session.
    Tls(&'a TlsStream),
    /// Of a CONNECT stream.
    Tunnel(&'a Tunnel),
}

/// Its sending side.
pub enum WriteHalf<'a> {
    /// Of a socket.
    Plain(tcp::WriteHalf<'a>),
    /// Of a TLS session.
    Tls(&'a TlsStream),
    /// Of a CONNECT stream.
    Tunnel(&'a Tunnel),
}

impl From<TcpStream> for Stream {
    fn from(stream: TcpStream) -> Self {
        Self::Plain(stream)
    }
}

impl From<TlsStream> for Stream {
    fn from(stream: TlsStream) -> Self {
        Self::Tls(Box::new(stream))
    }
}

impl From<Tunnel> for Stream {
    fn from(tunnel: Tunnel) -> Self {
        Self::Tunnel(Box::new(tunnel))
    }
}

impl Stream {
    /// The socket, for what has nothing to do with its bytes. None: it shares one with others.
    pub fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Self::Plain(stream) => Some(stream),
            Self::Tls(stream) => Some(stream.tcp()),
            Self::Tunnel(_) => None,
        }
    }

    /// Resolves once a read may find something.
    pub async fn readable(&self) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.readable().await,
            Self::Tls(stream) => poll_fn(|cx| stream.poll_readable(cx)).await,
            Self::Tunnel(stream) => poll_fn(|cx| stream.poll_readable(cx)).await,
        }
    }

    /// Resolves once the peer has reset the connection, for when nothing is read that would tell.
    pub async fn was_reset(&self) {
        match self {
            Self::Plain(stream) => drop(stream.ready(Interest::ERROR).await),
            Self::Tls(stream) => drop(stream.tcp().ready(Interest::ERROR).await),
            Self::Tunnel(stream) => poll_fn(|cx| stream.poll_reset(cx)).await,
        }
    }

    /// Both sides, to be used at the same time within one task.
    pub fn split(&mut self) -> (ReadHalf<'_>, WriteHalf<'_>) {
        match self {
            Self::Plain(stream) => {
                let (read, write) = stream.split();
                (ReadHalf::Plain(read), WriteHalf::Plain(write))
            }
            Self::Tls(stream) => (ReadHalf::Tls(stream), WriteHalf::Tls(stream)),
            Self::Tunnel(stream) => (ReadHalf::Tunnel(stream), WriteHalf::Tunnel(stream)),
        }
    }

    /// What can be read without being taken, once there is anything; nothing at the end.
    pub async fn peek(&self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.peek(buf).await,
            Self::Tls(stream) => poll_fn(|cx| stream.poll_peek(cx, buf)).await,
            Self::Tunnel(stream) => poll_fn(|cx| stream.poll_peek(cx, buf)).await,
        }
    }

    /// True if the peer of an idle connection closed it, or sent what nobody asked for. Costs a system call only if the
    /// socket was reported readable.
    pub fn idle_is_closed(&self) -> bool {
        match self {
            Self::Plain(stream) => {
                !stream.try_read(&mut [0]).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
            }
            Self::Tls(stream) => stream.idle_is_closed(false),
            Self::Tunnel(stream) => stream.has_news(),
        }
    }

    /// As [`Self::idle_is_closed`], but asks the kernel where the socket is its own.
    pub fn is_closed_now(&self) -> bool {
        match self {
            Self::Plain(stream) => {
                let peeked = SockRef::from(stream).peek(&mut [MaybeUninit::uninit()]);
                !peeked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
            }
            Self::Tls(stream) => stream.idle_is_closed(true),
            Self::Tunnel(stream) => stream.has_news(),
        }
    }

    /// Takes leave of the peer where its protocol has a word for it: before a connection that ended well is dropped.
    pub fn farewell(&self) {
        match self {
            Self::Plain(_) => {}
            Self::Tls(stream) => stream.farewell(),
            Self::Tunnel(stream) => stream.farewell(),
        }
    }
}

impl ReadHalf<'_> {
    /// Resolves once the peer has reset the connection, for when nothing is read that would tell. The value says no
    /// more than that; taking it off would make every connection's future larger.
    pub fn reset(&self) -> impl Future<Output = io::Result<Ready>> {
        match self {
            Self::Plain(half) => Either::Left(half.as_ref().ready(Interest::ERROR)),
            Self::Tls(stream) => Either::Left(stream.tcp().ready(Interest::ERROR)),
            Self::Tunnel(stream) => {
                Either::Right(poll_fn(|cx| stream.poll_reset(cx).map(|()| Ok(Ready::ERROR))))
            }
        }
    }

    /// Ready once a read may find something; nothing is read ahead.
    pub fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(half) => half.as_ref().poll_read_ready(cx),
            Self::Tls(stream) => stream.poll_readable(cx),
            Self::Tunnel(stream) => stream.poll_readable(cx),
        }
    }

    /// True if bytes wait in the socket. Asks the kernel.
    pub fn has_more_now(&self) -> bool {
        match self {
            Self::Plain(half) => {
                let peeked = SockRef::from(half.as_ref()).peek(&mut [MaybeUninit::uninit()]);
                peeked.is_ok_and(|bytes| bytes > 0)
            }
            Self::Tls(stream) => stream.idle_is_closed(true),
            Self::Tunnel(stream) => stream.has_news(),
        }
    }
}

impl AsyncRead for ReadHalf<'_> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(half) => Pin::new(half).poll_read(cx, buf),
            Self::Tls(stream) => stream.poll_read(cx, buf),
            Self::Tunnel(stream) => stream.poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for WriteHalf<'_> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(half) => Pin::new(half).poll_write(cx, buf),
            Self::Tls(stream) => stream.poll_write(cx, &[IoSlice::new(buf)]),
            Self::Tunnel(stream) => stream.poll_write(cx, &[IoSlice::new(buf)]),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(half) => Pin::new(half).poll_write_vectored(cx, slices),
            Self::Tls(stream) => stream.poll_write(cx, slices),
            Self::Tunnel(stream) => stream.poll_write(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(half) => Pin::new(half).poll_flush(cx),
            Self::Tls(stream) => stream.poll_flush(cx),
            Self::Tunnel(_) => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(half) => Pin::new(half).poll_shutdown(cx),
            Self::Tls(stream) => stream.poll_shutdown(cx),
            Self::Tunnel(stream) => stream.poll_shutdown(cx),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => stream.poll_read(cx, buf),
            Self::Tunnel(stream) => stream.poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => stream.poll_write(cx, &[IoSlice::new(buf)]),
            Self::Tunnel(stream) => stream.poll_write(cx, &[IoSlice::new(buf)]),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Self::Tls(stream) => stream.poll_write(cx, slices),
            Self::Tunnel(stream) => stream.poll_write(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => stream.poll_flush(cx),
            Self::Tunnel(_) => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => stream.poll_shutdown(cx),
            Self::Tunnel(stream) => stream.poll_shutdown(cx),
        }
    }
}
