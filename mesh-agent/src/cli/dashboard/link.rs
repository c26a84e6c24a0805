//! The page's questions on their way to the agent: over one kept connection, and over one of its own for what is followed.
//!
//! A page asks every few seconds. Through an API server each connection is a process in the agent's pod, so one is kept for as long as
//! the agent keeps it. An agent that was restarted is simply asked anew; on a cluster that may be another pod.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::sync::Mutex;

use crate::cli::client::{Door, unreachable};
use crate::cli::{Exit, Failure, cluster};

/// An answer that takes longer won't come.
const LIMIT: Duration = Duration::from_secs(5);
/// The same where API server and kubelet are on the way.
const LIMIT_THERE: Duration = Duration::from_secs(20);
/// No answer is larger.
const MOST: usize = 32 << 20;

/// The way to one agent.
pub(super) struct Link {
    door: Door,
    kept: Mutex<Option<SendRequest<Empty<Bytes>>>>,
}

impl Link {
    pub(super) fn new(door: Door) -> Self {
        Self { door, kept: Mutex::new(None) }
    }

    /// One question and its whole answer.
    ///
    /// # Errors
    /// Nobody answers, or not in time.
    pub(super) async fn ask(&self, question: &str) -> Result<(StatusCode, Bytes), Failure> {
        let mut kept = self.kept.lock().await;
        let limit = self.limit();
        // Taken out: what isn't finished is never used again.
        let mut before = kept.take().filter(|sender| !sender.is_closed());
        let asked = tokio::time::timeout(limit, async {
            if let Some(sender) = &mut before
                && let Ok(answer) = whole(sender, question).await
            {
                return Ok(answer);
            }
            // The agent closes connections by and by, or was restarted. Nothing is changed by asking twice.
            let mut fresh = self.connect().await?;
            let answer = whole(&mut fresh, question).await;
            before = Some(fresh);
            answer
        });
        let answer = asked.await.unwrap_or_else(|_| Err(silent(limit)));
        if answer.is_ok() {
            *kept = before;
        }
        answer
    }

    /// A question on a connection of its own, whose answer has no end.
    ///
    /// # Errors
    /// Nobody answers, or not in time.
    pub(super) async fn follow(&self, question: &str) -> Result<Response<Incoming>, Failure> {
        let limit = self.limit();
        let asked = async {
            let mut sender = self.connect().await?;
            send(&mut sender, question).await
        };
        tokio::time::timeout(limit, asked).await.map_err(|_| silent(limit))?
    }

    fn limit(&self) -> Duration {
        match &self.door {
            Door::Socket(_) => LIMIT,
            Door::Node(..) => LIMIT_THERE,
        }
    }

    async fn connect(&self) -> Result<SendRequest<Empty<Bytes>>, Failure> {
        match &self.door {
            Door::Socket(socket) => here(socket).await,
            Door::Node(node, of) => {
                let agent = cluster::agent_of(node, of).await?;
                let (stream, process) = cluster::open(&agent).await?;
                let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(gone)?;
                tokio::spawn(async move {
                    // Whoever asked hears of how it ended.
                    let _ = connection.await;
                    drop(process);
                });
                Ok(sender)
            }
        }
    }
}

async fn here(socket: &Path) -> Result<SendRequest<Empty<Bytes>>, Failure> {
    let stream = UnixStream::connect(socket).await.map_err(|error| unreachable(socket, error))?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(gone)?;
    tokio::spawn(connection);
    Ok(sender)
}

async fn send(sender: &mut SendRequest<Empty<Bytes>>, question: &str) -> Result<Response<Incoming>, Failure> {
    sender.ready().await.map_err(gone)?;
    // A unix socket has no name, but HTTP/1.1 wants a Host.
    let request = Request::get(question).header("host", "mesh-agent").body(Empty::new())?;
    sender.send_request(request).await.map_err(gone)
}

async fn whole(
    sender: &mut SendRequest<Empty<Bytes>>,
    question: &str,
) -> Result<(StatusCode, Bytes), Failure> {
    let (head, body) = send(sender, question).await?.into_parts();
    let body = Limited::new(body, MOST).collect().await;
    let body =
        body.map_err(|error| Failure::message(Exit::Failed, format!("the answer can't be read: {error}")))?;
    Ok((head.status, body.to_bytes()))
}

fn gone(error: hyper::Error) -> Failure {
    Failure::new(Exit::Unreachable, anyhow::Error::new(error).context("the agent has gone"))
}

fn silent(limit: Duration) -> Failure {
    Failure::message(Exit::Unreachable, format!("the agent didn't answer within {limit:?}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::admin::SOCKET_NAME;
    use crate::admin::testing::Fixture;

    #[tokio::test]
    async fn an_agent_that_is_restarted_is_asked_anew() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join(SOCKET_NAME);
        let link = Link::new(Door::Socket(socket.clone()));
        for _ in 0..2 {
            let away = link.ask("/v1/status").await.unwrap_err();
            assert!(away.to_string().starts_with("no agent answers at"), "{away}");
            let agent = Fixture::start();
            std::os::unix::fs::symlink(agent.dir.path().join(SOCKET_NAME), &socket).unwrap();
            for _ in 0..2 {
                let (status, body) = link.ask("/v1/status").await.unwrap();
                assert_eq!(status, StatusCode::OK);
                assert!(body.starts_with(b"{\"agent\":"), "{body:?}");
            }
            assert!(link.kept.lock().await.is_some());
            drop(agent);
            std::fs::remove_file(&socket).unwrap();
        }
    }
}
