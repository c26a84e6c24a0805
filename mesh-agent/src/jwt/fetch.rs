//! One fetch: a GET with a deadline, a largest size and few redirects, over TLS with the system's authorities or in plain text.
//!
//! Used by `keeper`, on its thread and in the agent's own network namespace. Who may write a RequestAuthentication chooses
//! where the agent connects to, so that no address of the node itself and no link-local one (metadata of clouds) is connected
//! to, whatever a name or a redirect says; and no more of an answer is told than that it wasn't a key set.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CACHE_CONTROL, CONNECTION, HOST, LOCATION, USER_AGENT};
use http::uri::{Authority, Scheme};
use http::{Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::json;
use super::keys::{KeySet, KeySetError};
use super::reach::{Reach, ReachError};
use super::remote::{Source, Spec};
use super::schedule;
use crate::proxy::Stream;
use crate::report;
use crate::tls::{self, Alpn, TlsError};

/// Key sets have a few kilobytes.
const LARGEST: usize = 256 * 1024;
/// Heads of answers.
const LARGEST_HEAD: usize = 64 * 1024;
const MOST_REDIRECTS: usize = 3;
/// Of several addresses each has this long to take a connection.
const CONNECT: Duration = Duration::from_secs(2);
const AGENT: &str = "mesh-agent/jwks";

/// Keys, and how long they are good.
#[derive(Debug)]
pub(super) struct Fetched {
    pub(super) keys: KeySet,
    pub(super) max_age: Option<Duration>,
}

/// Why a fetch failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error(transparent)]
    Reach(#[from] ReachError),
    #[error("{0} can't be connected to")]
    Connect(Authority, #[source] io::Error),
    #[error("no TLS connection to {0}")]
    Tls(Authority, #[source] TlsError),
    #[error("it isn't a URL that can be fetched")]
    BadUrl,
    #[error("the exchange failed")]
    Exchange(#[source] hyper::Error),
    #[error("it takes longer than {0:?}")]
    Timeout(Duration),
    #[error("the answer is {0}, expected 200")]
    Status(StatusCode),
    #[error("more than {MOST_REDIRECTS} redirects, or one to somewhere that isn't followed")]
    Redirect,
    #[error("the answer is larger than {} KiB", LARGEST >> 10)]
    TooLarge,
    #[error("the answer isn't a key set")]
    NotKeys(#[source] KeySetError),
    #[error("the issuer's OpenID configuration names another issuer, or no jwks_uri that can be fetched")]
    NotDiscovery,
}

impl FetchError {
    /// Label of `mesh_agent_jwks_fetches_total`.
    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::Reach(ReachError::Unresolved(..)) => "unresolved",
            Self::Reach(ReachError::Forbidden(_)) => "forbidden_address",
            Self::Connect(..) => "unreachable",
            Self::Tls(..) => "tls",
            Self::Exchange(_) => "broken",
            Self::Timeout(_) => "timeout",
            Self::Status(_) => "status",
            Self::Redirect | Self::BadUrl => "redirect",
            Self::TooLarge => "too_large",
            Self::NotKeys(_) | Self::NotDiscovery => "invalid",
        }
    }
}

/// Fetches the keys of `spec`, within its time.
pub(super) async fn fetch(spec: &Spec, reach: &Reach) -> Result<Fetched, FetchError> {
    let fetched = timeout(spec.timeout, async {
        let uri = match &spec.source {
            Source::Keys(uri) => uri.clone(),
            Source::Issuer(issuer) => discover(issuer, reach).await?,
        };
        let (body, max_age) = get(uri, reach).await?;
        Ok(Fetched { keys: KeySet::parse(&body).map_err(FetchError::NotKeys)?, max_age })
    });
    fetched.await.unwrap_or(Err(FetchError::Timeout(spec.timeout)))
}

/// Where the issuer says that its keys are. The document has to be the issuer's own (OpenID Connect Discovery 1.0, 4.3).
async fn discover(issuer: &Uri, reach: &Reach) -> Result<Uri, FetchError> {
    let name = issuer.to_string();
    let name = name.trim_end_matches('/');
    let uri = format!("{name}/.well-known/openid-configuration").parse().map_err(|_| FetchError::BadUrl)?;
    let (body, _) = get(uri, reach).await?;
    let found = json::object(&body, 4096).map_err(|_| FetchError::NotDiscovery)?;
    let text = |field: &str| found.get(field).and_then(Value::as_str);
    if text("issuer").map(|said| said.trim_end_matches('/')) != Some(name) {
        return Err(FetchError::NotDiscovery);
    }
    text("jwks_uri").and_then(|uri| uri.parse().ok()).ok_or(FetchError::NotDiscovery)
}

/// The body of an answer with 200, and how old it may become.
async fn get(mut uri: Uri, reach: &Reach) -> Result<(Vec<u8>, Option<Duration>), FetchError> {
    for _ in 0..=MOST_REDIRECTS {
        let response = ask(&uri, reach).await?;
        let status = response.status();
        if status == StatusCode::OK {
            let said = response.headers().get(CACHE_CONTROL).and_then(|value| value.to_str().ok());
            let max_age = said.and_then(schedule::max_age);
            return Ok((read(response).await?, max_age));
        }
        if !matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308) {
            return Err(FetchError::Status(status));
        }
        let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
        uri = location.and_then(|location| follow(&uri, location)).ok_or(FetchError::Redirect)?;
    }
    Err(FetchError::Redirect)
}

/// Where a redirect leads; None where it isn't followed: from TLS to plain text, and to what isn't HTTP.
fn follow(from: &Uri, location: &str) -> Option<Uri> {
    let to: Uri = match location.strip_prefix('/') {
        Some(rest) if !rest.starts_with('/') => {
            let mut parts = from.clone().into_parts();
            parts.path_and_query = Some(location.parse().ok()?);
            Uri::from_parts(parts).ok()?
        }
        _ => location.parse().ok()?,
    };
    let secure = |uri: &Uri| uri.scheme() == Some(&Scheme::HTTPS);
    (to.authority().is_some() && (secure(&to) || !secure(from))).then_some(to)
}

/// Sends the request, and reads the answer's head. The connection ends with the answer.
async fn ask(uri: &Uri, reach: &Reach) -> Result<Response<Incoming>, FetchError> {
    let authority = uri.authority().ok_or(FetchError::BadUrl)?;
    let stream = connect(uri, authority, reach).await?;
    let handshake = http1::Builder::new().max_buf_size(LARGEST_HEAD).handshake(TokioIo::new(stream));
    let (mut sender, connection) = handshake.await.map_err(FetchError::Exchange)?;
    // It drives what `sender` and the body wait for, and ends with them.
    tokio::task::spawn_local(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection for keys ended");
        }
    });
    let target = uri.path_and_query().map_or("/", |target| target.as_str());
    let request = Request::get(target)
        .header(HOST, authority.as_str())
        .header(ACCEPT, "application/json, application/jwk-set+json")
        .header(USER_AGENT, AGENT)
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|_| FetchError::BadUrl)?;
    sender.send_request(request).await.map_err(FetchError::Exchange)
}

async fn connect(uri: &Uri, authority: &Authority, reach: &Reach) -> Result<Stream, FetchError> {
    if authority.as_str().contains('@') {
        return Err(FetchError::BadUrl);
    }
    let secure = match uri.scheme() {
        Some(scheme) if *scheme == Scheme::HTTPS => true,
        Some(scheme) if *scheme == Scheme::HTTP => false,
        _ => return Err(FetchError::BadUrl),
    };
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    let port = authority.port_u16().unwrap_or(if secure { 443 } else { 80 });
    let addresses = reach.addresses(host, port).await?;
    let tcp = dial(&addresses).await.map_err(|error| FetchError::Connect(authority.clone(), error))?;
    if !secure {
        return Ok(tcp.into());
    }
    let name = ServerName::try_from(host.to_owned()).map_err(|_| FetchError::BadUrl)?;
    // Made anew for each fetch, so that the system's authorities are those of today.
    let store = tls::Store::default();
    let origination = store.get(tls::Spec {
        by: tls::By::Agent("keys for tokens"),
        server_name: name,
        names: Vec::new(),
        trust: reach.trust(),
        identity: None,
    });
    store.refresh();
    let shaken = origination.shake_hands(tcp, Alpn::Http1).await;
    shaken.map(Stream::from).map_err(|error| FetchError::Tls(authority.clone(), error))
}

/// The first of the addresses that takes a connection.
async fn dial(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in addresses {
        match timeout(CONNECT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => last = error,
            Err(_) => last = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(last)
}

async fn read(response: Response<Incoming>) -> Result<Vec<u8>, FetchError> {
    let mut body = response.into_body();
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.map_err(FetchError::Exchange)?.into_data() {
            if bytes.len() + data.len() > LARGEST {
                return Err(FetchError::TooLarge);
            }
            bytes.extend_from_slice(&data);
        }
    }
    Ok(bytes)
}

/// With its causes, for the log and a warning.
pub(super) fn told(error: &FetchError) -> String {
    report::chain(error).to_string()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn redirects_stay_with_http_and_never_leave_tls() {
        fn check(from: &str, location: &str, want: Option<&str>) {
            let got = follow(&from.parse().unwrap(), location);
            assert_eq!(got.map(|uri| uri.to_string()).as_deref(), want, "{from} {location}");
        }
        check("https://a/x", "/y?z", Some("https://a/y?z"));
        check("https://a:1/x", "https://b/y", Some("https://b/y"));
        check("http://a/x", "https://b/y", Some("https://b/y"));
        check("http://a/x", "http://b/y", Some("http://b/y"));
        check("https://a/x", "http://a/x", None);
        check("https://a/x", "//b/y", None);
        check("https://a/x", "y", None);
        check("https://a/x", "", None);
    }
}
