//! The request's body on its way to the application: DATA frames as the client's framing had them, by length or in chunks.
//!
//! Beside `download` in one task. Window goes back only for what the application's socket took, so that a slow one holds
//! its client back. A stream that ends early never looks like a body that ended.

use std::future::poll_fn;
use std::task::Poll;

use bytes::{BufMut, Bytes};
use h2::RecvStream;

use crate::http1::body::Body;
use crate::http1::conn::Writer;
use crate::http1::forward::State;
use crate::http1::over_http2::chunks;
use crate::http2::pass;
use crate::proxy::ErrorKind;

/// A request's body and its way. Its head is staged.
pub(super) struct Sending<'a, 'w> {
    pub(super) state: &'a State,
    /// As the head has it.
    pub(super) framing: &'a Body,
    pub(super) from: &'a mut RecvStream,
    pub(super) to: &'a mut Writer<'w>,
}

/// Why a body's way ended early.
enum Stopped {
    /// The application wants no more of it. Whether that is a failure, its response says.
    Deaf,
    /// The client broke it off.
    Client(ErrorKind),
}

impl Sending<'_, '_> {
    /// Sends head and body. Who takes the request back meanwhile is noticed by `download`.
    pub(super) async fn run(mut self) -> Result<(), ErrorKind> {
        match self.send().await {
            Ok(()) => self.state.sent.set(true),
            Err(Stopped::Deaf) => self.state.upstream_deaf.set(true),
            Err(Stopped::Client(kind)) => return Err(kind),
        }
        Ok(())
    }

    async fn send(&mut self) -> Result<(), Stopped> {
        let chunked = matches!(self.framing, Body::Chunked(_));
        while let Some(data) = self.next().await? {
            // At once: what was taken of the stream can't be sent on another connection.
            State::bump(&self.state.request_bytes, data.len());
            if !data.is_empty() {
                if chunked {
                    chunks::put_size(data.len(), self.to.stage());
                }
                self.to.send(&data).await.map_err(|_| Stopped::Deaf)?;
                if chunked {
                    self.to.stage().put_slice(b"\r\n");
                }
            }
            State::bump(&self.state.moved, data.len() + 1);
            // Fails only for a stream that was reset meanwhile, whose window h2 has given back by itself.
            let _ = self.from.flow_control().release_capacity(data.len());
        }
        let trailers = poll_fn(|cx| self.from.poll_trailers(cx)).await.map_err(|error| broken(&error))?;
        if chunked {
            let last = chunks::put_last_restored(trailers, self.to.stage());
            last.map_err(|hostile| Stopped::Client(ErrorKind::DownstreamProtocol(hostile)))?;
        }
        self.flush().await
    }

    /// The next piece of the body. What is staged doesn't wait for it.
    async fn next(&mut self) -> Result<Option<Bytes>, Stopped> {
        let now = poll_fn(|cx| Poll::Ready(self.from.poll_data(cx))).await;
        let next = match now {
            Poll::Ready(next) => next,
            Poll::Pending => {
                self.flush().await?;
                poll_fn(|cx| self.from.poll_data(cx)).await
            }
        };
        next.transpose().map_err(|error| broken(&error))
    }

    async fn flush(&mut self) -> Result<(), Stopped> {
        self.to.send(&[]).await.map_err(|_| Stopped::Deaf)
    }
}

fn broken(error: &h2::Error) -> Stopped {
    Stopped::Client(pass::client_fault(error).kind)
}
