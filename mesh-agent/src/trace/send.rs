//! One request to the collector, by gRPC or HTTP, in plain text or TLS, on a connection of its own.
//!
//! A connection for each batch, of which there is one a second at most while little happens: nothing is to be kept alive, and a
//! collector that was moved is found where its name leads. Part of `export`.

use std::io;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{
    CONNECTION, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER, USER_AGENT,
};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use prost::Message;
use rustls::pki_types::ServerName;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

use super::batch::Batch;
use super::context::{SpanId, TraceId};
use super::endpoint::{Endpoint, Protocol};
use super::export::{Collector, Sent};
use super::message;
use super::propagate::TRACEPARENT;
use super::signal::Signal;
use super::w3c;
use crate::grpc::{self, Call, Code, Status};
use crate::proxy::Stream;
use crate::report;
use crate::tls::{self, Alpn, TlsError, Trust};

/// Of several addresses each has this long to take a connection.
const CONNECT: Duration = Duration::from_secs(3);
/// Of an answer no more than this is read.
const LARGEST: usize = 64 * 1024;
const AGENT: &str = concat!("mesh-agent/", env!("CARGO_PKG_VERSION"));
const PROTOBUF: &str = "application/x-protobuf";

/// The collector that flags name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remote {
    /// Where.
    pub endpoint: Endpoint,
    /// How.
    pub protocol: Protocol,
    /// Whose signature its certificate has to have; None: the system's authorities'.
    pub ca: Option<PathBuf>,
    /// For a request as a whole.
    pub timeout: Duration,
}

/// Sends it a signal.
#[derive(Clone, Debug)]
pub struct Sender {
    /// Which.
    pub signal: Signal,
    /// Where to.
    pub remote: Remote,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
enum ConnectError {
    #[error("{0} can't be resolved")]
    Unresolved(String, #[source] io::Error),
    #[error("{0} can't be connected to")]
    Connect(String, #[source] io::Error),
    #[error("no TLS connection to {0}")]
    Tls(String, #[source] TlsError),
    #[error("{0} isn't a name that a certificate can have")]
    Name(String),
}

impl Collector for Sender {
    fn timeout(&self) -> Duration {
        self.remote.timeout
    }

    async fn send(&mut self, batch: &Batch) -> Sent {
        let sending = async {
            match self.remote.protocol {
                Protocol::Grpc => self.by_grpc(batch).await,
                Protocol::Http => self.by_http(batch).await,
            }
        };
        let late = || {
            Sent::Later(None, format!("{} takes longer than {:?}", self.remote.endpoint, self.remote.timeout))
        };
        timeout(self.remote.timeout, sending).await.unwrap_or_else(|_| late())
    }
}

impl Sender {
    async fn by_grpc(&self, batch: &Batch) -> Sent {
        let stream = match self.connect(Alpn::Http2).await {
            Ok(stream) => stream,
            Err(error) => return Sent::Later(None, report::chain(&error).to_string()),
        };
        let (scheme, authority) = (self.remote.endpoint.scheme(), self.remote.endpoint.authority());
        let call =
            Call { scheme, authority, path: self.signal.method(), headers: HeaderMap::from_iter(untraced()) };
        match grpc::unary::<message::Response>(stream, call, &batch.request).await {
            Ok(response) => taken(response),
            Err(status) => by_status(&status),
        }
    }

    async fn by_http(&self, batch: &Batch) -> Sent {
        let stream = match self.connect(Alpn::Http1).await {
            Ok(stream) => stream,
            Err(error) => return Sent::Later(None, report::chain(&error).to_string()),
        };
        let broken = |error: hyper::Error| Sent::Later(None, report::chain(&error).to_string());
        match self.post(stream, batch).await {
            Ok(response) => read(response).await.unwrap_or_else(broken),
            Err(error) => broken(error),
        }
    }

    async fn post(&self, stream: Stream, batch: &Batch) -> hyper::Result<Response<Incoming>> {
        let (mut sender, connection) =
            http1::Builder::new().max_buf_size(LARGEST).handshake(TokioIo::new(stream)).await?;
        // It drives what `sender` and the body wait for, and ends with them.
        tokio::task::spawn_local(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to the collector ended");
            }
        });
        let mut request = Request::new(Full::new(Bytes::from(batch.request.encode_to_vec())));
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = self.remote.endpoint.path(self.signal).parse().unwrap_or_default();
        let headers = request.headers_mut();
        for (name, value) in [
            (HOST, self.remote.endpoint.authority()),
            (CONTENT_TYPE, PROTOBUF),
            (USER_AGENT, AGENT),
            (CONNECTION, "close"),
        ] {
            headers.extend(HeaderValue::from_str(value).ok().map(|value| (name, value)));
        }
        headers.extend(untraced());
        sender.send_request(request).await
    }

    async fn connect(&self, alpn: Alpn) -> Result<Stream, ConnectError> {
        let (host, port) = (self.remote.endpoint.host(), self.remote.endpoint.port(self.remote.protocol));
        let named = || self.remote.endpoint.authority().to_owned();
        let addresses =
            lookup_host((host, port)).await.map_err(|error| ConnectError::Unresolved(named(), error))?;
        let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
        for address in addresses {
            match timeout(CONNECT, TcpStream::connect(address)).await {
                Ok(Ok(stream)) if self.remote.endpoint.is_secure() => return self.secure(stream, alpn).await,
                Ok(Ok(stream)) => return Ok(stream.into()),
                Ok(Err(error)) => last = error,
                Err(_) => last = io::ErrorKind::TimedOut.into(),
            }
        }
        Err(ConnectError::Connect(named(), last))
    }

    async fn secure(&self, stream: TcpStream, alpn: Alpn) -> Result<Stream, ConnectError> {
        let host = self.remote.endpoint.host().to_owned();
        let server_name = ServerName::try_from(host.clone()).map_err(|_| ConnectError::Name(host))?;
        // Made anew for each connection, so that the authorities are those of today.
        let store = tls::Store::default();
        let origination = store.get(tls::Spec {
            by: tls::By::Agent(self.signal.thread()),
            server_name,
            names: Vec::new(),
            trust: self.remote.ca.clone().map_or(Trust::System, Trust::File),
            identity: None,
        });
        store.refresh();
        let shaken = origination.shake_hands(stream, alpn).await;
        let failed = |error| ConnectError::Tls(self.remote.endpoint.authority().to_owned(), error);
        shaken.map(Stream::from).map_err(failed)
    }
}

/// Not to be recorded: the collector may be a pod of the mesh, and spans of its own spans would never end.
fn untraced() -> Option<(HeaderName, HeaderValue)> {
    let value = w3c::print(TraceId::random(), SpanId::random(), false, false);
    Some((TRACEPARENT, HeaderValue::from_bytes(&value).ok()?))
}

fn taken(response: message::Response) -> Sent {
    let partial = response.partial_success.unwrap_or_default();
    let rejected = u64::try_from(partial.rejected).unwrap_or_default();
    Sent::Taken { rejected, why: partial.error_message }
}

/// Which failures are worth another try (OTLP specification, "Failures" of OTLP/gRPC).
fn by_status(status: &Status) -> Sent {
    let asked = message::retry_delay(&status.details);
    let again = matches!(
        status.code,
        Code::CANCELLED
            | Code::DEADLINE_EXCEEDED
            | Code::ABORTED
            | Code::OUT_OF_RANGE
            | Code::UNAVAILABLE
            | Code::DATA_LOSS
    );
    if again || status.code == Code::RESOURCE_EXHAUSTED && asked.is_some() {
        Sent::Later(asked, status.to_string())
    } else {
        Sent::Refused(status.to_string())
    }
}

/// The same of OTLP/HTTP ("Failures").
async fn read(response: Response<Incoming>) -> hyper::Result<Sent> {
    let (head, body) = response.into_parts();
    if head.status.is_success() {
        let answer = match Limited::new(body, LARGEST).collect().await {
            Ok(body) => message::Response::decode(body.to_bytes()).unwrap_or_default(),
            Err(_) => message::Response::default(),
        };
        return Ok(taken(answer));
    }
    let why = format!("the collector answers {}", head.status);
    Ok(match head.status {
        StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => Sent::Later(retry_after(&head.headers, SystemTime::now()), why),
        _ => Sent::Refused(why),
    })
}

/// `Retry-After`: seconds, or a date (RFC 9110, 10.2.3).
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = http_date(value)?;
    Some(Duration::from_secs(at).saturating_sub(now.duration_since(SystemTime::UNIX_EPOCH).ok()?))
}

/// `Sun, 06 Nov 1994 08:49:37 GMT` as Unix time. The two forms that are obsolete aren't sent any more.
fn http_date(text: &str) -> Option<u64> {
    const MONTHS: &str = "JanFebMarAprMayJunJulAugSepOctNovDec";
    let (_, text) = text.split_once(", ")?;
    let mut parts = text.strip_suffix(" GMT")?.split([' ', ':']);
    let mut part = || parts.next();
    let (day, month, year) = (part()?.parse::<u64>().ok()?, part()?, part()?.parse::<u64>().ok()?);
    let month = MONTHS.find(month).filter(|at| at % 3 == 0 && month.len() == 3)? as u64 / 3 + 1;
    let mut number = || part()?.parse::<u64>().ok();
    let (hour, minute, second) = (number()?, number()?, number()?);
    let fits =
        (1970..10_000).contains(&year) && (1..=31).contains(&day) && hour < 24 && minute < 60 && second <= 60;
    fits.then(|| days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second)
}

/// Days since 1970-01-01 (H. Hinnant, "chrono-compatible low-level date algorithms", days_from_civil).
fn days(year: u64, month: u64, day: u64) -> u64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year / 400, year % 400);
    let of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_770);
        let check = |value: &str, want: Option<u64>| {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, value.parse().unwrap())]);
            assert_eq!(retry_after(&headers, now), want.map(Duration::from_secs), "{value}");
        };
        check("7", Some(7));
        check("Sun, 06 Nov 1994 08:49:37 GMT", Some(7));
        check("Sun, 06 Nov 1994 08:49:00 GMT", Some(0));
        check("Thu, 29 Feb 2024 00:00:00 GMT", Some(1_709_164_800 - 784_111_770));
        for bad in [
            "",
            "-1",
            "soon",
            "Sun, 06 Nov 1994",
            "Sun, 06 Xyz 1994 08:49:37 GMT",
            "Sun, 06 anF 1994 08:49:37 GMT",
        ] {
            check(bad, None);
        }
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }

    #[test]
    fn a_status_of_grpc_says_whether_to_try_again() {
        let of = |code| by_status(&Status::new(code, "x"));
        for code in [Code::UNAVAILABLE, Code::DEADLINE_EXCEEDED, Code::ABORTED, Code::DATA_LOSS] {
            assert!(matches!(of(code), Sent::Later(None, _)), "{code:?}");
        }
        for code in [Code::INVALID_ARGUMENT, Code::UNAUTHENTICATED, Code::INTERNAL, Code::RESOURCE_EXHAUSTED]
        {
            assert!(matches!(of(code), Sent::Refused(_)), "{code:?}");
        }
        let info = message::RetryInfo { retry_delay: Some(message::Wait { seconds: 3, nanos: 0 }) };
        let any = message::Any {
            type_url: "type.googleapis.com/google.rpc.RetryInfo".into(),
            value: info.encode_to_vec(),
        };
        let details = message::RpcStatus { message: String::new(), details: vec![any] }.encode_to_vec();
        let full = Status { details: details.into(), ..Status::new(Code::RESOURCE_EXHAUSTED, "x") };
        assert!(matches!(by_status(&full), Sent::Later(Some(wait), _) if wait == Duration::from_secs(3)));
    }
}
