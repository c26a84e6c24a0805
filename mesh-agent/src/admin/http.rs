//! What both servers share: connections within bounds, answers in JSON or text.
//!
//! A connection that is slow to ask or to read is cut off, and only so many are open at a time.

use std::convert::Infallible;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use hyper::body::{Body, Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncWrite};

use super::api;
use super::flows::FlowStream;
use crate::telemetry::Exposition;

/// To send a request's head, also after idling between two requests.
const HEAD: Duration = Duration::from_secs(15);
/// After this a connection ends with the answer under way.
const LIFE: Duration = Duration::from_secs(60);
/// And after this much longer it is cut.
const GRACE: Duration = Duration::from_secs(30);

/// Body of an answer.
pub(crate) enum Answer {
    /// All at once.
    Whole(Option<Bytes>),
    /// Metrics, piece by piece.
    Metrics(Box<Exposition>),
    /// Flows, a line each, as long as somebody reads.
    Flows(Box<FlowStream>),
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = match self.get_mut() {
            Self::Whole(bytes) => bytes.take(),
            Self::Metrics(exposition) => exposition.next().map(Bytes::from),
            Self::Flows(stream) => ready!(stream.poll_lines(cx)),
        };
        Poll::Ready(piece.map(|bytes| Ok(Frame::data(bytes))))
    }
}

/// Serves one connection until it is done or out of time.
pub(crate) async fn serve<F, Fut>(stream: impl AsyncRead + AsyncWrite + Unpin, answer: F)
where
    F: Fn(Request<Incoming>) -> Fut,
    Fut: Future<Output = Response<Answer>>,
{
    // Flows are read for as long as their reader likes: how many do is bounded elsewhere.
    let endless = AtomicBool::new(false);
    let service = service_fn(|request| {
        let (answer, endless) = (answer(request), &endless);
        async move {
            let answer = answer.await;
            let is_endless = matches!(answer.body(), Answer::Flows(stream) if stream.is_endless());
            endless.store(is_endless, Relaxed);
            Ok::<_, Infallible>(answer)
        }
    });
    let mut connection = pin!(
        hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD)
            .max_buf_size(64 * 1024)
            .serve_connection(TokioIo::new(stream), service)
    );
    let result = match tokio::time::timeout(LIFE, connection.as_mut()).await {
        Ok(result) => result,
        Err(_) => {
            connection.as_mut().graceful_shutdown();
            if endless.load(Relaxed) {
                // An error is that the reader has gone.
                drop(connection.await);
                return;
            }
            match tokio::time::timeout(GRACE, connection).await {
                Ok(result) => result,
                Err(_) => return tracing::debug!("an admin or metrics client was too slow"),
            }
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "an admin or metrics connection ended early");
    }
}

/// A value as JSON.
pub(super) fn json(value: &impl Serialize) -> Response<Answer> {
    match serde_json::to_vec(value) {
        Ok(body) => answer(StatusCode::OK, "application/json", body),
        Err(error) => problem(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

/// A failure.
pub(super) fn problem(status: StatusCode, error: impl Into<String>) -> Response<Answer> {
    let body = serde_json::to_vec(&api::Problem { error: error.into() }).unwrap_or_default();
    answer(status, "application/json", body)
}

/// A line of text.
pub(crate) fn text(status: StatusCode, body: impl Into<String>) -> Response<Answer> {
    answer(status, "text/plain; charset=utf-8", body.into() + "\n")
}

/// The metrics, in Prometheus's text format 0.0.4.
pub(super) fn metrics(exposition: Exposition) -> Response<Answer> {
    build(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", Answer::Metrics(Box::new(exposition)))
}

/// Flows, a JSON object a line.
pub(super) fn flows(stream: FlowStream) -> Response<Answer> {
    build(StatusCode::OK, "application/x-ndjson", Answer::Flows(Box::new(stream)))
}

fn answer(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Answer> {
    let body = body.into();
    let length = body.len();
    let mut response = build(status, content_type, Answer::Whole(Some(body)));
    response.headers_mut().insert(header::CONTENT_LENGTH, length.into());
    response
}

fn build(status: StatusCode, content_type: &'static str, body: Answer) -> Response<Answer> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let value = header::HeaderValue::from_static(content_type);
    response.headers_mut().insert(header::CONTENT_TYPE, value);
    response
}
