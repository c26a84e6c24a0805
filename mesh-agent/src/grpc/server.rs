//! Unary calls on one connection, within bounds. Who asks is the handler's question.

use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use h2::server::{Builder, SendResponse};
use h2::{Reason, RecvStream};
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

use super::message::{Messages, frame};
use super::{Code, Status, escape};

/// Calls at the same time on one connection.
const STREAMS: u32 = 32;
/// A question: certificate requests are below 2 KiB, RSA included.
const MOST: usize = 64 * 1024;
const HEADERS: u32 = 16 * 1024;
/// For a question to arrive and be answered.
const CALL: Duration = Duration::from_secs(10);
/// A connection on which nothing is asked for so long is closed.
const IDLE: Duration = Duration::from_secs(300);
/// For the connection's own beginning.
const START: Duration = Duration::from_secs(10);

/// One question.
#[derive(Debug)]
pub struct Asked {
    /// `/package.Service/Method`.
    pub path: String,
    /// Metadata.
    pub headers: HeaderMap,
    message: Bytes,
}

impl Asked {
    /// The message.
    ///
    /// # Errors
    /// It is none of this kind.
    pub fn message<T: Message + Default>(&self) -> Result<T, Status> {
        T::decode(self.message.clone())
            .map_err(|error| Status::new(Code::INVALID_ARGUMENT, error.to_string()))
    }
}

/// Answers what is asked on a connection until it ends.
///
/// # Errors
/// The connection broke, or its beginning took too long.
pub async fn serve<A, F>(
    io: impl AsyncRead + AsyncWrite + Unpin,
    answer: impl Fn(Asked) -> F,
) -> Result<(), h2::Error>
where
    A: Message,
    F: Future<Output = Result<A, Status>>,
{
    let mut builder = Builder::new();
    builder.max_concurrent_streams(STREAMS).max_header_list_size(HEADERS).max_concurrent_reset_streams(16);
    let late = || h2::Error::from(Reason::SETTINGS_TIMEOUT);
    let mut connection = timeout(START, builder.handshake::<_, Bytes>(io)).await.map_err(|_| late())??;
    let answer = Rc::new(answer);
    let mut calls = FuturesUnordered::new();
    loop {
        let idle = tokio::time::sleep(IDLE);
        tokio::select! {
            next = connection.accept() => match next {
                Some(next) => {
                    let (request, respond) = next?;
                    calls.push(one(request, respond, answer.clone()));
                }
                None => return Ok(()),
            },
            Some(()) = calls.next(), if !calls.is_empty() => {}
            () = idle, if calls.is_empty() => {
                connection.graceful_shutdown();
                // Whoever doesn't hang up now is hung up on.
                let _ = timeout(START, std::future::poll_fn(|cx| connection.poll_closed(cx))).await;
                return Ok(());
            }
        }
    }
}

async fn one<A, F, H>(request: Request<RecvStream>, mut respond: SendResponse<Bytes>, answer: Rc<H>)
where
    A: Message,
    F: Future<Output = Result<A, Status>>,
    H: Fn(Asked) -> F,
{
    let late = Err(Status::new(Code::DEADLINE_EXCEEDED, "too late"));
    let answered = timeout(CALL, asked(request, &*answer)).await.unwrap_or(late);
    // Whoever asked may have gone.
    let _ = send(&mut respond, answered.and_then(|answer| frame(&answer)));
}

async fn asked<A, F, H>(request: Request<RecvStream>, answer: &H) -> Result<A, Status>
where
    F: Future<Output = Result<A, Status>>,
    H: Fn(Asked) -> F,
{
    let (head, body) = request.into_parts();
    let kind = head.headers.get(CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    if head.method != Method::POST || !kind.starts_with(b"application/grpc") {
        return Err(Status::new(Code::UNIMPLEMENTED, "this is a gRPC server"));
    }
    let missing = || Status::new(Code::INVALID_ARGUMENT, "there is no message");
    let message = Messages::new(body, MOST).bytes().await?.ok_or_else(missing)?;
    answer(Asked { path: head.uri.path().to_owned(), headers: head.headers, message }).await
}

fn send(respond: &mut SendResponse<Bytes>, answer: Result<Bytes, Status>) -> Result<(), h2::Error> {
    let mut head = Response::new(());
    *head.status_mut() = StatusCode::OK;
    head.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    match answer {
        Ok(message) => {
            let mut body = respond.send_response(head, false)?;
            body.send_data(message, false)?;
            body.send_trailers(status(Code::OK, ""))
        }
        Err(error) => {
            head.headers_mut().extend(status(error.code, &error.message));
            respond.send_response(head, true).map(drop)
        }
    }
}

fn status(code: Code, message: &str) -> HeaderMap {
    let mut fields = HeaderMap::new();
    fields.insert("grpc-status", HeaderValue::from(code.0));
    if let Ok(value) = HeaderValue::try_from(escape(message))
        && !message.is_empty()
    {
        fields.insert("grpc-message", value);
    }
    fields
}
