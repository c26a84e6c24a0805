//! Answers of the agent's own: in gRPC's form where the client speaks it, plain text otherwise.
//!
//! Used by `stream` when a request can't be passed on. Never says more than the kind of failure.

use bytes::Bytes;
use h2::Reason;
use h2::server::SendResponse;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderValue, Response, StatusCode, Version};

use super::grpc::{GRPC_MESSAGE, GRPC_STATUS};
use crate::proxy::{ErrorKind, Exchange, LocalAnswer};

/// Tells the client of `error` by `answer`, or resets the stream where it is too late for an answer or HTTP has no words for it.
pub(super) fn fail(
    respond: &mut SendResponse<Bytes>,
    exchange: &mut Exchange<'_>,
    error: ErrorKind,
    answer: Option<LocalAnswer>,
) {
    match answer.filter(|_| !exchange.is_answered()) {
        Some(answer) => send(respond, exchange, &answer),
        None => {
            exchange.fail(error);
            respond.send_reset(reset_code(error));
        }
    }
}

/// Answers in the form that the client speaks.
pub(super) fn send(respond: &mut SendResponse<Bytes>, exchange: &mut Exchange<'_>, answer: &LocalAnswer) {
    if let Some(kind) = answer.why {
        exchange.fail(kind);
    }
    exchange.answered_with(answer);
    // A redirect means nothing to gRPC, but is what the route says; what isn't an error goes as it is.
    let (response, body) = if exchange.is_grpc() && answer.is_error() {
        exchange.answered_locally(StatusCode::OK);
        exchange.grpc_status(answer.grpc_status);
        (grpc_response(answer), None)
    } else {
        exchange.answered_locally(answer.status);
        let body = Some(&answer.body).filter(|body| !body.is_empty() && !exchange.is_head());
        (plain_response(answer), body.map(|body| Bytes::copy_from_slice(body.as_bytes())))
    };
    // Fails only if the client is gone, and then there is nobody to tell.
    if let (Ok(mut stream), Some(body)) = (respond.send_response(response, body.is_none()), body) {
        exchange.response_bytes += body.len() as u64;
        let _ = stream.send_data(body, true);
    }
}

/// The code for a stream that ends by `error` without an answer.
pub(crate) fn reset_code(error: ErrorKind) -> Reason {
    match error {
        ErrorKind::UpstreamReset(reason) | ErrorKind::DownstreamReset(reason) => reason,
        ErrorKind::DownstreamProtocol(_) => Reason::PROTOCOL_ERROR,
        ErrorKind::Overflow | ErrorKind::Draining => Reason::REFUSED_STREAM,
        ErrorKind::BodyTimeout
        | ErrorKind::UpstreamTimeout
        | ErrorKind::RequestTimeout
        | ErrorKind::TryTimeout
        | ErrorKind::DownstreamClosed => Reason::CANCEL,
        _ => Reason::INTERNAL_ERROR,
    }
}

fn grpc_response(answer: &LocalAnswer) -> Response<()> {
    let mut response = response(StatusCode::OK, answer);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(GRPC_STATUS, HeaderValue::from(answer.grpc_status));
    if let Ok(message) = HeaderValue::from_str(answer.body.trim_end()) {
        headers.insert(GRPC_MESSAGE, message);
    }
    response
}

fn plain_response(answer: &LocalAnswer) -> Response<()> {
    let mut response = response(answer.status, answer);
    let headers = response.headers_mut();
    if !answer.body.is_empty() && !answer.has_content_type() {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    }
    if answer.status != StatusCode::NO_CONTENT {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(answer.body.len()));
    }
    response
}

fn response(status: StatusCode, answer: &LocalAnswer) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = status;
    *response.version_mut() = Version::HTTP_2;
    for (name, value) in &answer.headers {
        response.headers_mut().append(name, value.clone());
    }
    response
}
