//! Tells whoever scales a service up that requests wait for it: a small POST, at once and again while they wait.
//!
//! Started by `super`; sent by a task of its own from the agent's network namespace, so that no request waits for it.
//! What comes of it shows in a metric and, where it failed, in the log.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, HOST, USER_AGENT};
use http::{Request, StatusCode, Uri};
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use tokio::net::TcpStream;
use tokio::task::spawn_local;
use tokio::time::{sleep, timeout};

use crate::model::ServicePort;
use crate::policy::traffic::{Activation, HOOK_EVERY};
use crate::proxy::context::Connection;
use crate::{clock, report};

/// A receiver that takes longer isn't waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is posted.
#[derive(Serialize)]
struct Waiting<'a> {
    namespace: &'a str,
    name: &'a str,
    port: u16,
    /// Of this node's agent.
    waiting: u32,
    node: &'a str,
}

#[derive(Debug, thiserror::Error)]
enum HookError {
    #[error("no connection")]
    Connect(#[source] io::Error),
    #[error("no answer")]
    Http(#[from] hyper::Error),
    #[error("the answer is {0}")]
    Status(StatusCode),
    #[error("no answer within {PATIENCE:?}")]
    Late,
}

/// Tells for as long as it is polled, as often as is due among all that wait for the service.
pub(super) async fn keep_telling(conn: &Connection, activation: &Arc<Activation>, port: &ServicePort) {
    let Some(hook) = &activation.hook else { return std::future::pending().await };
    loop {
        if hook.is_due(clock::now_ns()) {
            let (worker, url, host) = (conn.pod.worker.clone(), hook.url.clone(), port.service.host.clone());
            let name = &port.service.name;
            let node = worker.snapshot.load().node.clone();
            let said = Waiting {
                namespace: &name.namespace,
                name: &name.name,
                port: port.port,
                waiting: activation.waiting(),
                node: &node,
            };
            let body = serde_json::to_vec(&said).unwrap_or_default();
            spawn_local(async move {
                let sent = timeout(PATIENCE, post(&url, body.into())).await.unwrap_or(Err(HookError::Late));
                let result = if sent.is_ok() { "ok" } else { "failed" };
                worker.telemetry.metrics.agent().activation_hooks.with_label_values(&[&host, result]).inc();
                if let Err(error) = sent {
                    tracing::warn!(service = %host, %url, error = %report::chain(&error), "the activation hook can't be told");
                }
            });
        }
        sleep(HOOK_EVERY).await;
    }
}

async fn post(url: &Uri, body: Bytes) -> Result<(), HookError> {
    let host = url.host().unwrap_or_default();
    let port = url.port_u16().unwrap_or(80);
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let stream = TcpStream::connect((bare, port)).await.map_err(HookError::Connect)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::post(url.path_and_query().map_or("/", |path| path.as_str()))
        .header(HOST, url.authority().map_or(host, |authority| authority.as_str()))
        .header(CONTENT_TYPE, "application/json")
        .header(USER_AGENT, "mesh-agent/activation")
        .header(CONNECTION, "close")
        .body(Full::new(body))
        .map_err(|error| HookError::Connect(io::Error::other(error)))?;
    let exchange = async { Ok(sender.send_request(request).await?.status()) };
    let status: Result<StatusCode, HookError> = tokio::select! {
        biased;
        status = exchange => status,
        ended = connection => Err(ended.err().map_or(HookError::Late, HookError::Http)),
    };
    let status = status?;
    if status.is_success() { Ok(()) } else { Err(HookError::Status(status)) }
}
