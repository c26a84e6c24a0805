//! The API server's client: which server, as whom, how it is reached, and what can go wrong with it.
//!
//! The source watches through it; whatever else has to ask or tell the API server takes its client from here too. Knows
//! nothing of objects. A client belongs to the runtime that it was made in.

use std::time::Duration;

use ::kube::client::{Body, ClientBuilder, ConfigExt};
use ::kube::config::{InferConfigError, KubeConfigOptions, KubeconfigError};
use ::kube::{Client, Config, Error};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tower::BoxError;
use tower::util::MapErrLayer;

/// No request may go without an answer for longer. A watch's answer is its beginning.
pub const DEADLINE: Duration = Duration::from_secs(30);
/// For the connection alone.
const CONNECT: Duration = Duration::from_secs(10);
/// A server that is gone without a word is noticed after `KEEPALIVE` + `PROBES` * `PROBE`.
const KEEPALIVE: Duration = Duration::from_secs(15);
const PROBE: Duration = Duration::from_secs(5);
const PROBES: u32 = 3;

/// Why there is no client. That the server doesn't answer is none of these.
#[derive(Debug, thiserror::Error)]
pub enum KubeError {
    /// `KUBECONFIG` leads to nothing that can be used.
    #[error(
        "the file that KUBECONFIG names can't be used as a kubeconfig: correct it, or unset the variable"
    )]
    Kubeconfig(#[source] Box<KubeconfigError>),
    /// Neither a kubeconfig nor a pod's service account.
    #[error(
        "nothing says which API server to ask: set KUBECONFIG to a kubeconfig, or run in a pod with a service account's token \
         mounted (automountServiceAccountToken)"
    )]
    NoServer(#[source] Box<InferConfigError>),
    /// It would go through a proxy.
    #[error(
        "the API server is to be reached through the proxy {0}, which isn't supported: unset HTTPS_PROXY and proxy-url"
    )]
    Proxy(String),
    /// Certificates, keys or tokens.
    #[error("no client for the API server {server} can be made: check its certificates, keys and token")]
    Client {
        /// Its URL.
        server: String,
        /// Why.
        #[source]
        source: Box<Error>,
    },
}

/// Which server, and as whom: what `KUBECONFIG` names, else `~/.kube/config`, else the pod's service account.
///
/// # Errors
/// [`KubeError`].
pub async fn config() -> Result<Config, KubeError> {
    // A variable that leads nowhere is a mistake, and never a reason to turn to another cluster.
    let named = std::env::var_os("KUBECONFIG").is_some_and(|path| !path.is_empty());
    let mut config = if named {
        Config::from_kubeconfig(&KubeConfigOptions::default())
            .await
            .map_err(|error| KubeError::Kubeconfig(error.into()))?
    } else {
        Config::infer().await.map_err(|error| KubeError::NoServer(error.into()))?
    };
    if let Some(proxy) = &config.proxy_url {
        return Err(KubeError::Proxy(proxy.to_string()));
    }
    config.connect_timeout = Some(CONNECT);
    Ok(config)
}

/// A client for it. Made by hand from kube's parts for what its own way of doing it lacks: keep-alive, so that a server that
/// went without a word is noticed, and an end to its retries and error logs, since who asks has ways of its own for both.
///
/// # Errors
/// [`KubeError::Client`].
pub fn client(config: &Config) -> Result<Client, KubeError> {
    let unusable =
        |source| KubeError::Client { server: config.cluster_url.to_string(), source: Box::new(source) };
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(config.connect_timeout);
    tcp.set_keepalive(Some(KEEPALIVE));
    tcp.set_keepalive_interval(Some(PROBE));
    tcp.set_keepalive_retries(Some(PROBES));
    // What is sent and never acknowledged holds keep-alive's probes up.
    tcp.set_tcp_user_timeout(Some(DEADLINE));
    let https = config.rustls_https_connector_with_connector(tcp).map_err(unusable)?;
    let http = hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build::<_, Body>(https);
    let headers = config.extra_headers_layer().map_err(unusable)?;
    let builder = ClientBuilder::new(http, config.default_namespace.clone())
        .with_layer(&headers)
        .with_layer(&MapErrLayer::new(BoxError::from));
    let base = config.base_uri_layer();
    Ok(match config.auth_layer().map_err(unusable)? {
        Some(auth) => builder.with_layer(&auth).with_layer(&base).build(),
        None => builder.with_layer(&base).build(),
    })
}

/// What a failed request comes to: label of metrics, and what people are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Failure {
    /// No connection, or it broke.
    Unreachable,
    /// No answer in time.
    Timeout,
    /// 401: who asks isn't known.
    Unauthorized,
    /// 403: who asks may not.
    Forbidden,
    /// 404.
    NotFound,
    /// 410, or a version that the server doesn't have: watching can't go on from there.
    Expired,
    /// 429.
    Throttled,
    /// Any other status.
    Refused,
    /// No answer that could be understood.
    Broken,
}

impl Failure {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Unreachable,
        Self::Timeout,
        Self::Unauthorized,
        Self::Forbidden,
        Self::NotFound,
        Self::Expired,
        Self::Throttled,
        Self::Refused,
        Self::Broken,
    ];

    /// What became of a request.
    pub fn of(error: &Error) -> Self {
        match error {
            Error::Api(status) => Self::of_status(status.code),
            Error::HyperError(_) | Error::Service(_) | Error::ReadEvents(_) => Self::Unreachable,
            Error::Auth(_) => Self::Unauthorized,
            _ => Self::Broken,
        }
    }

    /// What an HTTP status says.
    pub const fn of_status(code: u16) -> Self {
        match code {
            401 => Self::Unauthorized,
            403 => Self::Forbidden,
            404 => Self::NotFound,
            408 | 504 => Self::Timeout,
            410 => Self::Expired,
            429 => Self::Throttled,
            _ => Self::Refused,
        }
    }

    /// Label of metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Timeout => "timeout",
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden",
            Self::NotFound => "not_found",
            Self::Expired => "expired",
            Self::Throttled => "throttled",
            Self::Refused => "refused",
            Self::Broken => "broken",
        }
    }

    /// For people.
    pub const fn describe(self) -> &'static str {
        match self {
            Self::Unreachable => "no connection to it, or it broke",
            Self::Timeout => "no answer in time",
            Self::Unauthorized => "it doesn't accept the agent's token or certificate",
            Self::Forbidden => "it doesn't allow it",
            Self::NotFound => "it has no such resource",
            Self::Expired => "it can't go on from where it was",
            Self::Throttled => "it asks for fewer requests",
            Self::Refused => "it answers with an error",
            Self::Broken => "its answer can't be understood",
        }
    }
}

#[cfg(test)]
mod tests;
