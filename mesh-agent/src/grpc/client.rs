//! One call on a connection of its own. Its deadline is the caller's.

use std::future::Future;

use h2::client::{self, SendRequest};
use http::header::{CONTENT_TYPE, HeaderMap, TE, USER_AGENT};
use http::{Request, StatusCode};
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};

use super::message::{Messages, frame, outcome};
use super::{Code, Status};

/// An answer larger than this is none: the longest chains and bundles are far below.
const MOST: usize = 4 * 1024 * 1024;
const AGENT: &str = concat!("mesh-agent/", env!("CARGO_PKG_VERSION"));

/// Whom to call, and what to say beside the message.
#[derive(Debug)]
pub struct Call<'a> {
    /// `http` or `https`.
    pub scheme: &'static str,
    /// The server's name.
    pub authority: &'a str,
    /// `/package.Service/Method`.
    pub path: &'static str,
    /// Metadata.
    pub headers: HeaderMap,
}

/// One question, one answer.
///
/// # Errors
/// How the call ended.
pub async fn unary<A: Message + Default>(
    io: impl AsyncRead + AsyncWrite + Unpin,
    to: Call<'_>,
    question: &impl Message,
) -> Result<A, Status> {
    call(io, to, question, async |mut answers| {
        let answer = answers.next().await?;
        let answer = answer.ok_or_else(|| Status::new(Code::INTERNAL, "there was no answer"))?;
        match answers.next::<A>().await? {
            None => Ok(answer),
            Some(_) => Err(Status::new(Code::INTERNAL, "there was more than one answer")),
        }
    })
    .await
}

/// One question, and `listen` to the answers.
///
/// # Errors
/// How the call ended.
pub async fn call<T, F: Future<Output = Result<T, Status>>>(
    io: impl AsyncRead + AsyncWrite + Unpin,
    to: Call<'_>,
    question: &impl Message,
    listen: impl FnOnce(Messages) -> F,
) -> Result<T, Status> {
    let broken = |error: h2::Error| Status::broken(&error);
    let (client, connection) = client::handshake(io).await.map_err(broken)?;
    let exchange = async move {
        let answers = ask(client, to, question).await?;
        listen(answers).await
    };
    tokio::pin!(exchange);
    tokio::select! {
        biased;
        outcome = &mut exchange => outcome,
        // What came before the connection's end still counts.
        _ = connection => exchange.await,
    }
}

async fn ask(
    client: SendRequest<bytes::Bytes>,
    to: Call<'_>,
    question: &impl Message,
) -> Result<Messages, Status> {
    let broken = |error: h2::Error| Status::broken(&error);
    let mut request = Request::post(format!("{}://{}{}", to.scheme, to.authority, to.path))
        .header(CONTENT_TYPE, "application/grpc")
        .header(TE, "trailers")
        .header(USER_AGENT, AGENT)
        .body(())
        .map_err(|error| Status::new(Code::INVALID_ARGUMENT, error.to_string()))?;
    request.headers_mut().extend(to.headers);
    let mut client = client.ready().await.map_err(broken)?;
    let (response, mut body) = client.send_request(request, false).map_err(broken)?;
    body.send_data(frame(question)?, true).map_err(broken)?;
    let (head, body) = response.await.map_err(broken)?.into_parts();
    if head.status != StatusCode::OK {
        return Err(Status::new(Code::UNAVAILABLE, format!("the server answers {}", head.status)));
    }
    if head.headers.contains_key("grpc-status") {
        outcome(Some(&head.headers))?;
    }
    Ok(Messages::new(body, MOST))
}
