//! The admin API from the command line's side: one request, one answer, over the unix socket of an agent of this machine, or
//! over that of a node of a cluster (`cluster`).

use std::cell::OnceCell;
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
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;

use super::cluster::{self, AgentPod, ClusterArgs};
use super::{Exit, Failure};
use crate::admin::api;

/// An agent that doesn't answer within this hangs.
const LIMIT: Duration = Duration::from_secs(5);
/// The same where API server and kubelet are on the way, which start a process.
const LIMIT_THERE: Duration = Duration::from_secs(20);

/// The way to an agent's admin socket.
pub(super) enum Door {
    /// It is on this machine.
    Socket(PathBuf),
    /// On this node of a cluster.
    Node(String, ClusterArgs),
}

/// One agent's admin API.
pub(super) struct Client {
    door: Door,
    /// Found once: a question that is asked again goes to the same pod.
    agent: OnceCell<AgentPod>,
    runtime: tokio::runtime::Runtime,
}

impl Client {
    pub(super) fn new(door: Door) -> Result<Self, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self { door, agent: OnceCell::new(), runtime })
    }

    pub(super) fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.send(Method::GET, path, Bytes::new())
    }

    /// An answer that isn't JSON.
    pub(super) fn text(&self, path: &str) -> Result<String, Failure> {
        let (status, body) = self.exchange(Method::GET, path, Bytes::new())?;
        if !status.is_success() {
            return Err(refused(status, &body));
        }
        Ok(String::from_utf8_lossy(&body).into_owned())
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
        let socket = match &self.door {
            Door::Socket(socket) => socket,
            Door::Node(node, cluster) => {
                let agents = self.runtime.block_on(cluster::agents(cluster))?;
                return Ok(agents.iter().any(|agent| agent.node == *node));
            }
        };
        match std::os::unix::net::UnixStream::connect(socket) {
            Ok(_) => Ok(true),
            Err(error) if matches!(error.kind(), NotFound | ConnectionRefused) => Ok(false),
            Err(error) => Err(unreachable(socket, error)),
        }
    }

    fn send<T: DeserializeOwned>(&self, method: Method, path: &str, body: Bytes) -> Result<T, Failure> {
        let (status, body) = self.exchange(method, path, body)?;
        read(status, &body)
    }

    fn exchange(&self, method: Method, path: &str, body: Bytes) -> Result<(StatusCode, Bytes), Failure> {
        // A unix socket has no name, but HTTP/1.1 wants a Host.
        let request = Request::builder().method(method).uri(path).header("host", "mesh-agent");
        let request = request.body(Full::new(body))?;
        match &self.door {
            Door::Socket(socket) => self.runtime.block_on(ask_here(socket, request)),
            Door::Node(node, cluster) => self.runtime.block_on(self.ask_there(node, cluster, request)),
        }
    }

    async fn ask_there(
        &self,
        node: &str,
        cluster: &ClusterArgs,
        request: Request<Full<Bytes>>,
    ) -> Result<(StatusCode, Bytes), Failure> {
        let agent = match self.agent.get() {
            Some(agent) => agent,
            None => {
                let found = cluster::agent_of(node, cluster).await?;
                self.agent.get_or_init(|| found)
            }
        };
        let limited = tokio::time::timeout(LIMIT_THERE, cluster::ask(agent, request));
        limited.await.map_err(|_| {
            let message = format!("the agent of node {node} didn't answer within {LIMIT_THERE:?}");
            Failure::message(Exit::Unreachable, message).hint(format!("see the log of pod {agent}"))
        })?
    }
}

async fn ask_here(socket: &Path, request: Request<Full<Bytes>>) -> Result<(StatusCode, Bytes), Failure> {
    let asked = async { exchange(UnixStream::connect(socket).await?, request).await };
    match tokio::time::timeout(LIMIT, asked).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(unreachable(socket, error)),
        Err(_) => Err(silent(socket)),
    }
}

/// One request and its answer on a connection to an admin socket.
pub(super) async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    request: Request<Full<Bytes>>,
) -> io::Result<(StatusCode, Bytes)> {
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
    Err(refused(status, body))
}

fn refused(status: StatusCode, body: &[u8]) -> Failure {
    let problem: Option<api::Problem> = serde_json::from_slice(body).ok();
    let exit = match status {
        StatusCode::BAD_REQUEST => Exit::BadInput,
        StatusCode::SERVICE_UNAVAILABLE => Exit::Unreachable,
        _ => Exit::Failed,
    };
    Failure::message(exit, problem.map_or_else(|| format!("the agent answered {status}"), |p| p.error))
}

pub(super) fn unreachable(socket: &Path, error: io::Error) -> Failure {
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
