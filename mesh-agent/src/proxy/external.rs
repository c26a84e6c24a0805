//! Asks a provider about a request or connection (AuthorizationPolicy, action CUSTOM), where it arrives, and waits for its answer.
//!
//! Used by `access` for what a policy's rule matches. `crate::ext_authz` says what is asked and what answers mean; this file
//! finds the provider's service, and has one deadline for picking, connecting, asking and the answer. Whatever goes wrong on the
//! way is no answer, which refuses unless the provider says `failOpen`.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue, TE, USER_AGENT};
use http::{Request, StatusCode, Version};
use prost::Message;
use tokio::time::timeout;

use super::answer::LocalAnswer;
use super::backend::Picked;
use super::context::{Connection, Direction, Pod};
use super::error::{ErrorKind, grpc_status_for};
use crate::ext_authz::message::{CHECK, CheckResponse};
use crate::ext_authz::{self, Allowed, Asked, Denied, Protocol, Provider, Verdict};
use crate::model::build::CLUSTER_DOMAIN;
use crate::model::{ObjectName, ServicePort, Snapshot, Workload};
use crate::{http1, http2};

/// Answers are decisions, maybe with a page for people.
const LONGEST_ANSWER: usize = 64 * 1024;
/// Endpoints that are tried, where one can't be reached.
const MOST_ENDPOINTS: usize = 2;
/// A message's flag and length (grpc/grpc, doc/PROTOCOL-HTTP2.md).
const PREFIX: usize = 5;
const AGENT: &str = concat!("mesh-agent/", env!("CARGO_PKG_VERSION"));

impl Connection {
    /// Asks the provider, as the pod would where the traffic arrives: what its client is able to do in its own network
    /// namespace reaches nobody who is asked.
    ///
    /// # Errors
    /// With the answer to give to the client, where the request may not pass.
    pub(super) async fn ask_provider(
        &self,
        provider: &Provider,
        asked: &Asked<'_>,
        there: &Workload,
    ) -> Result<Box<Allowed>, LocalAnswer> {
        let answered = timeout(provider.timeout, self.ask(provider, asked, there)).await;
        let verdict = answered.unwrap_or(Verdict::Unanswered(Cow::Borrowed("no answer in time")));
        let (outcome, result) = match verdict {
            Verdict::Allowed(allowed) => ("allowed", Ok(allowed)),
            Verdict::Denied(denied) => ("denied", Err(refused(*denied))),
            Verdict::Unanswered(why) if provider.fail_open => {
                tracing::warn!(provider = provider.name, %why, "no answer of an authorization provider: failOpen lets it pass");
                ("failed_open", Ok(Box::default()))
            }
            Verdict::Unanswered(why) => {
                tracing::warn!(provider = provider.name, %why, "no answer of an authorization provider: refused");
                ("error", Err(unanswered(provider.status_on_error)))
            }
        };
        self.pod
            .worker
            .telemetry
            .metrics
            .agent()
            .ext_authz
            .with_label_values(&[&provider.name, outcome])
            .inc();
        result
    }

    async fn ask(&self, provider: &Provider, asked: &Asked<'_>, there: &Workload) -> Verdict {
        let asking = match self.direction {
            Direction::Inbound => Some(self.pod.clone()),
            Direction::Outbound => self.pod.worker.pod_of(there),
        };
        let Some(pod) = asking else {
            return Verdict::Unanswered("the pod that was called isn't captured".into());
        };
        let port = find(&self.snapshot(), &provider.service, provider.port);
        let Some(port) = port else {
            return Verdict::Unanswered("there is no such service, or port of it".into());
        };
        let mut tried = Vec::new();
        loop {
            let picked = match self.pick_as(&pod, &port, &tried) {
                Ok(picked) => picked,
                Err(error) => return Verdict::Unanswered(error.kind.label().into()),
            };
            match self.ask_endpoint(provider, &pod, &picked, asked).await {
                Ok(verdict) => return verdict,
                Err(kind) => {
                    picked.fail(self);
                    tried.push(picked.upstream.endpoint.addr);
                    if !kind.retryable() || tried.len() >= MOST_ENDPOINTS {
                        return Verdict::Unanswered(kind.label().into());
                    }
                }
            }
        }
    }

    async fn ask_endpoint(
        &self,
        provider: &Provider,
        pod: &Pod,
        picked: &Picked,
        asked: &Asked<'_>,
    ) -> Result<Verdict, ErrorKind> {
        match &provider.protocol {
            Protocol::Grpc => self.ask_by_grpc(provider, pod, picked, asked).await,
            Protocol::Http { prefix, told, more, upstream, on_deny, on_allow } => {
                let head = asked.head.and_then(|head| ext_authz::http_head(head, prefix, told, more));
                let Some(head) = head else {
                    return Ok(Verdict::Unanswered("it can't be asked about by HTTP".into()));
                };
                let answered = http1::ask(&head, picked, pod, self.client, LONGEST_ANSWER).await;
                let it = answered.map_err(|error| error.kind)?;
                Ok(ext_authz::of_http(it.status, &it.headers, &it.body, upstream, on_deny, on_allow))
            }
        }
    }

    async fn ask_by_grpc(
        &self,
        provider: &Provider,
        pod: &Pod,
        picked: &Picked,
        asked: &Asked<'_>,
    ) -> Result<Verdict, ErrorKind> {
        let Some(port) = picked.port() else { return Err(ErrorKind::NoBackend) };
        let authority = format!("{}:{}", port.service.host, port.port);
        let Some(head) = grpc_head(&authority, provider.timeout) else {
            return Ok(Verdict::Unanswered("its host can't be asked for".into()));
        };
        let body = frame(&asked.message());
        let answered = http2::ask(&head, &body, picked, pod, self.client, LONGEST_ANSWER).await;
        answered.map(|answered| of_call(&answered)).map_err(|error| error.kind)
    }
}

fn grpc_head(authority: &str, longest: Duration) -> Option<Request<()>> {
    let millis = longest.as_millis().clamp(1, 99_999_999);
    Request::post(format!("http://{authority}{CHECK}"))
        .version(Version::HTTP_2)
        .header(CONTENT_TYPE, "application/grpc")
        .header(TE, "trailers")
        .header(USER_AGENT, AGENT)
        .header(HeaderName::from_static("grpc-timeout"), HeaderValue::try_from(format!("{millis}m")).ok()?)
        .body(())
        .ok()
}

fn frame(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut out = BytesMut::with_capacity(PREFIX + length);
    out.put_u8(0);
    out.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    // The buffer has room for all of it.
    let _ = message.encode(&mut out);
    out.freeze()
}

/// What a call came to: a verdict only if it went well and brought exactly one message.
fn of_call(answered: &http2::Answered) -> Verdict {
    let none = |why: &'static str| Verdict::Unanswered(Cow::Borrowed(why));
    if answered.status != StatusCode::OK {
        return none("the answer isn't gRPC's");
    }
    let status = |name: &str| {
        let trailers = answered.trailers.as_ref().and_then(|trailers| trailers.get(name));
        trailers.or_else(|| answered.headers.get(name))
    };
    if status("grpc-status").map(HeaderValue::as_bytes) != Some(b"0") {
        return none("the call failed");
    }
    let Some((prefix, message)) = answered.body.split_first_chunk::<PREFIX>() else {
        return none("the answer has no message");
    };
    let [compressed, length @ ..] = *prefix;
    if compressed != 0 || u32::from_be_bytes(length) as usize != message.len() {
        return none("the answer isn't one message");
    }
    match CheckResponse::decode(message) {
        Ok(response) => ext_authz::of_grpc(response),
        Err(_) => none("the answer isn't a CheckResponse"),
    }
}

/// The provider's refusal, as it wants the client to see it.
fn refused(denied: Denied) -> LocalAnswer {
    LocalAnswer {
        body: Cow::Owned(denied.body),
        why: Some(ErrorKind::ExternallyDenied),
        ..LocalAnswer::new(denied.status, denied.headers)
    }
}

fn unanswered(status: StatusCode) -> LocalAnswer {
    LocalAnswer {
        grpc_status: grpc_status_for(status),
        why: Some(ErrorKind::AuthorizationUnavailable),
        ..LocalAnswer::new(status, Vec::new())
    }
}

/// The port of the service that `[NAMESPACE/]HOST` names: a Service's short or full name, or a ServiceEntry's host.
fn find(snapshot: &Snapshot, service: &str, port: u16) -> Option<Arc<ServicePort>> {
    let (namespace, host) = match service.split_once('/') {
        Some((namespace, host)) => (Some(namespace), host),
        None => (None, service),
    };
    let found = match ObjectName::of_host(host, CLUSTER_DOMAIN) {
        Some(name) if namespace.is_none_or(|namespace| namespace == name.namespace) => {
            snapshot.services.get(&name)
        }
        _ => None,
    };
    let named = || snapshot.services.get(&ObjectName::new(namespace?, host));
    let anywhere = || {
        snapshot.services.values().find(|service| service.meta.host == host).filter(|_| namespace.is_none())
    };
    let service = found.or_else(named).or_else(anywhere)?;
    service.ports.iter().find(|own| own.port == port).cloned()
}
