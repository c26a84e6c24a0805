//! The page's HTTP server: within bounds, with headers that leave a browser no way but the page's own.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::files::File;
use super::gate::{Gate, Verdict};
use super::link::Link;
use crate::admin::api;
use crate::cli::Failure;

/// Connections at a time: a few browsers' worth. Any user of the machine can open some.
const CONNECTIONS: usize = 64;
/// For a request's head, also after idling between two of them.
const HEAD: Duration = Duration::from_secs(30);
/// Before more is accepted after that failed: without descriptors it would fail at once again.
const PAUSE: Duration = Duration::from_millis(100);

/// On every answer.
const HEADERS: [(&str, &str); 7] = [
    (
        "content-security-policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    ("cache-control", "no-store"),
];
const JSON: &str = "application/json";

type Answer = Response<Either<Full<Bytes>, Incoming>>;

/// A page about one agent.
pub(super) struct Page {
    gate: Gate,
    link: Link,
    about: Bytes,
}

impl Page {
    /// `words` are how a command line names the agent.
    pub(super) fn new(gate: Gate, link: Link, words: Vec<String>) -> Self {
        let about = serde_json::json!({ "arguments": words, "version": env!("CARGO_PKG_VERSION") });
        Self { gate, link, about: about.to_string().into() }
    }

    /// Serves for as long as it is polled.
    pub(super) async fn serve(self, listener: TcpListener) {
        let (page, places) = (Arc::new(self), Arc::new(Semaphore::new(CONNECTIONS)));
        while let Ok(place) = places.clone().acquire_owned().await {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let page = page.clone();
                    tokio::spawn(async move {
                        page.connection(stream).await;
                        drop(place);
                    });
                }
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    async fn connection(self: Arc<Self>, stream: TcpStream) {
        let service = service_fn(|request| {
            let page = self.clone();
            async move { Ok::<_, Infallible>(page.answer(&request).await) }
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD)
            .max_buf_size(64 * 1024)
            .serve_connection(TokioIo::new(stream), service);
        // The browser knows how it ended; nobody else is there to be told.
        let _ = connection.await;
    }

    async fn answer(&self, request: &Request<Incoming>) -> Answer {
        let mut answer = match self.gate.judge(request.method(), request.uri(), request.headers()) {
            Verdict::Enter => self.enter(),
            Verdict::File(path) => file(&path),
            Verdict::About => whole(StatusCode::OK, JSON, self.about.clone()),
            Verdict::Ask(question) => match self.link.ask(&question).await {
                Ok((status, body)) => whole(status, JSON, body),
                Err(failure) => unreachable(&failure),
            },
            Verdict::Follow(question) => match self.link.follow(&question).await {
                Ok(response) => passed_on(response),
                Err(failure) => unreachable(&failure),
            },
            Verdict::Refuse(status, why) => problem(status, why),
        };
        for (name, value) in HEADERS {
            answer.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        answer
    }

    /// The token leaves the address, and its place in the browser's history, for a cookie.
    fn enter(&self) -> Answer {
        let mut answer = whole(StatusCode::SEE_OTHER, "text/plain", Bytes::new());
        for (name, value) in [(header::LOCATION, self.gate.page()), (header::SET_COOKIE, self.gate.cookie())]
        {
            if let Ok(value) = HeaderValue::from_str(&value) {
                answer.headers_mut().insert(name, value);
            }
        }
        answer
    }
}

fn file(path: &str) -> Answer {
    let Some(file) = File::find(path) else { return problem(StatusCode::NOT_FOUND, "nothing is here") };
    let mut answer = whole(StatusCode::OK, file.kind(), Bytes::from_static(file.content));
    answer.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    answer
}

/// Of the agent's answer its status and its body, bit by bit.
fn passed_on(response: Response<Incoming>) -> Answer {
    let (head, body) = response.into_parts();
    build(head.status, "application/x-ndjson", Either::Right(body))
}

fn unreachable(failure: &Failure) -> Answer {
    problem(StatusCode::BAD_GATEWAY, &failure.to_string())
}

fn problem(status: StatusCode, error: &str) -> Answer {
    let body = serde_json::to_vec(&api::Problem { error: error.to_owned() }).unwrap_or_default();
    whole(status, JSON, body.into())
}

fn whole(status: StatusCode, kind: &'static str, body: Bytes) -> Answer {
    build(status, kind, Either::Left(Full::new(body)))
}

fn build(status: StatusCode, kind: &'static str, body: Either<Full<Bytes>, Incoming>) -> Answer {
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}
