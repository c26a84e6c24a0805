//! The admin API from the command line's side: one request, one answer, over the unix socket.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Error;
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::{Exit, Failure};
use crate::admin::{SOCKET_NAME, api};

/// An agent that doesn't answer within this hangs.
const LIMIT: Duration = Duration::from_secs(5);

/// One agent's admin socket.
pub(super) struct Client {
    socket: PathBuf,
    runtime: tokio::runtime::Runtime,
}

impl Client {
    pub(super) fn new(state_dir: &Path) -> Result<Self, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self { socket: state_dir.join(SOCKET_NAME), runtime })
    }

    pub(super) fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.send(Method::GET, path, Bytes::new())
    }

    pub(super) fn put<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, Failure> {
        self.send(Method::PUT, path, serde_json::to_vec(body)?.into())
    }

    /// A question whose answer changes nothing.
    pub(super) fn ask<T: DeserializeOwned>(
        &self,
        path: &str,
        question: &impl Serialize,
    ) -> Result<T, Failure> {
        self.send(Method::POST, path, serde_json::to_vec(question)?.into())
    }

    pub(super) fn post<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.send(Method::POST, path, Bytes::new())
    }

    /// True while somebody listens, an agent that hangs included. Fails where that can't be told.
    pub(super) fn reachable(&self) -> Result<bool, Failure> {
        use io::ErrorKind::{ConnectionRefused, NotFound};
        match std::os::unix::net::UnixStream::connect(&self.socket) {
            Ok(_) => Ok(true),
            Err(error) if matches!(error.kind(), NotFound | ConnectionRefused) => Ok(false),
            Err(error) => Err(unreachable(&self.socket, error)),
        }
    }

    fn send<T: DeserializeOwned>(&self, method: Method, path: &str, body: Bytes) -> Result<T, Failure> {
        // A unix socket has no name, but HTTP/1.1 wants a Host.
        let request = Request::builder().method(method).uri(path).header("host", "mesh-agent");
        let request = request.body(Full::new(body))?;
        let limited = async { tokio::time::timeout(LIMIT, exchange(&self.socket, request)).await };
        match self.runtime.block_on(limited) {
            Ok(Ok((status, body))) => read(status, &body),
            Ok(Err(error)) => Err(unreachable(&self.socket, error)),
            Err(_) => Err(silent(&self.socket)),
        }
    }
}

async fn exchange(socket: &Path, request: Request<Full<Bytes>>) -> io::Result<(StatusCode, Bytes)> {
    let stream = UnixStream::connect(socket).await?;
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(io::Error::other)?;
    // Ends with the runtime's next use, when the sender is gone.
    tokio::spawn(connection);
    let response = sender.send_request(request).await.map_err(io::Error::other)?;
    let status = response.status();
    let body = response.into_body().collect().await.map_err(io::Error::other)?;
    Ok((status, body.to_bytes()))
}

fn read<T: DeserializeOwned>(status: StatusCode, body: &[u8]) -> Result<T, Failure> {
    if status.is_success() {
        return serde_json::from_slice(body).map_err(|error| {
            Failure::new(Exit::Failed, Error::new(error).context("the agent's answer can't be read"))
                .hint("agent and command line may be of different versions: see `mesh-agent version`")
        });
    }
    let problem: Option<api::Problem> = serde_json::from_slice(body).ok();
    let exit = match status {
        StatusCode::BAD_REQUEST => Exit::BadInput,
        StatusCode::SERVICE_UNAVAILABLE => Exit::Unreachable,
        _ => Exit::Failed,
    };
    Err(Failure::message(exit, problem.map_or_else(|| format!("the agent answered {status}"), |p| p.error)))
}

fn unreachable(socket: &Path, error: io::Error) -> Failure {
    let at = socket.display();
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            Failure::new(Exit::NoPermission, Error::new(error).context(format!("{at} may not be opened")))
                .hint("the admin socket is for the agent's own user: try sudo")
        }
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            Failure::new(Exit::Unreachable, Error::new(error).context(format!("no agent answers at {at}")))
                .hint(
                    "is `mesh-agent run` up, and is --state-dir (MESH_AGENT_STATE_DIR) the one it was given?",
                )
        }
        _ => Failure::new(Exit::Unreachable, Error::new(error).context(format!("the agent at {at} is gone"))),
    }
}

fn silent(socket: &Path) -> Failure {
    let message = format!("the agent at {} didn't answer within {LIMIT:?}", socket.display());
    Failure::message(Exit::Unreachable, message).hint("its control thread may hang: see its log")
}
