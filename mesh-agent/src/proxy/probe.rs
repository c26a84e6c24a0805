//! Plain text where mutual TLS is required: refused, but for what kubelet's probes of the pod are.
//!
//! Kubelet has no certificate of the mesh and speaks from an address of the node, as does whatever kube-proxy
//! masquerades: so the address alone lets nothing in, and what is let in is exactly what the Pod declares. `inbound` asks
//! where a connection arrives, `crate::http1` and `crate::http2` for every request, `access` while bytes are carried, so that a
//! policy that comes later holds for connections that are open already. Never lets in more than one probe's method, target and version.

use bytes::BytesMut;
use http::header::UPGRADE;
use http::{Method, Version, request};
use tokio::io::AsyncReadExt;
use tokio::time::{Instant, timeout_at};

use super::answer::LocalAnswer;
use super::carry;
use super::context::{Connection, Direction};
use super::detect::{self, Verdict};
use super::error::ErrorKind;
use super::stream::Stream;
use crate::model::{MtlsMode, Probe};
use crate::telemetry::L7;

/// The method that kubelet calls (grpc/grpc, doc/health-checking.md).
const GRPC_CHECK: &str = "/grpc.health.v1.Health/Check";

/// What of plain text a port lets in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlainText {
    /// All of it.
    All,
    /// Probes that the pod declares for the port.
    Probes,
    /// Nothing.
    Nothing,
}

impl Connection {
    /// Which connections the dialled port of this pod accepts.
    pub fn mtls_mode(&self) -> MtlsMode {
        self.snapshot().mtls_mode(&self.pod.workload.borrow().name, self.dst.port())
    }

    /// What is let in of this connection, if its client proves no identity.
    pub fn plain_text(&self) -> PlainText {
        match self.mtls_mode() {
            MtlsMode::Disable | MtlsMode::Permissive => PlainText::All,
            MtlsMode::Strict if self.has_probe(|_| true) => PlainText::Probes,
            MtlsMode::Strict => PlainText::Nothing,
        }
    }

    /// True if it comes from the node itself, to a port that the pod declares such a probe for.
    pub fn has_probe(&self, wanted: impl Fn(&Probe) -> bool) -> bool {
        let port = self.dst.port();
        let workload = self.pod.workload.borrow();
        let declared = workload.probes.iter().any(|it| it.port == port && wanted(&it.probe));
        declared && self.direction == Direction::Inbound && self.is_from_node()
    }

    /// True for a request that is a declared probe and nothing else. `bodyless` if nothing follows its head.
    pub fn is_probe(&self, head: &request::Parts, bodyless: bool) -> bool {
        let plain = head.version != Version::HTTP_2 && head.uri.authority().is_none();
        let get = plain && bodyless && head.method == Method::GET && !head.headers.contains_key(UPGRADE);
        self.has_probe(|probe| match probe {
            Probe::Http { target } => {
                get && head.uri.path_and_query().is_some_and(|asked| asked == target.as_str())
            }
            Probe::Grpc => {
                head.version == Version::HTTP_2
                    && head.method == Method::POST
                    && head.uri.path() == GRPC_CHECK
                    && head.uri.query().is_none()
            }
            Probe::Https | Probe::Tcp => false,
        })
    }

    /// Lets a request in unless it comes in plain text to where that isn't accepted.
    ///
    /// # Errors
    /// With the answer to give instead, after which the connection ends.
    pub fn admit_plain_text(&self, head: &request::Parts, bodyless: bool) -> Result<(), LocalAnswer> {
        if self.direction == Direction::Outbound || self.proven_identity().is_some() {
            return Ok(());
        }
        let admitted = match self.plain_text_now() {
            PlainText::All => true,
            PlainText::Probes => self.is_probe(head, bodyless),
            PlainText::Nothing => false,
        };
        if admitted {
            return Ok(());
        }
        let why = ErrorKind::PlainTextRefused;
        self.pod.worker.count_refused(why.label());
        Err(LocalAnswer::refusing(why))
    }

    /// True unless it carries bytes that came in plain text to where that isn't accepted any more.
    pub(super) fn may_stay(&self) -> bool {
        if self.direction == Direction::Outbound || self.proven_identity().is_some() {
            return true;
        }
        match self.plain_text_now() {
            PlainText::All => true,
            PlainText::Probes => {
                let is_tls = self.live.protocol() == L7::Tls.label();
                is_tls && self.has_probe(|probe| matches!(probe, Probe::Https))
            }
            PlainText::Nothing => false,
        }
    }

    /// [`Self::plain_text`], found anew for each version of the configuration.
    fn plain_text_now(&self) -> PlainText {
        let generation = self.snapshot().generation;
        match self.admits.get() {
            Some((known, admits)) if known == generation => admits,
            _ => {
                let admits = self.plain_text();
                self.admits.set(Some((generation, admits)));
                admits
            }
        }
    }

    fn is_from_node(&self) -> bool {
        let ip = self.client.ip();
        self.pod.worker.node.contains(ip) || self.snapshot().node_addresses.contains(&ip)
    }
}

/// Carries a connection of which only probes are let in.
/// `first` was read from it already.
pub(super) async fn serve(conn: &Connection, mut client: Stream, mut first: BytesMut) {
    match first_words(conn, &mut client, &mut first).await {
        // A probe of the port: the connection was made, and that is all that it was for.
        Ok(None) => {}
        Ok(Some(Verdict::Http1)) if conn.has_probe(|probe| matches!(probe, Probe::Http { .. })) => {
            carry::serve_http1(conn, client, first).await;
        }
        Ok(Some(Verdict::Http2)) if conn.has_probe(|probe| matches!(probe, Probe::Grpc)) => {
            carry::serve_http2(conn, client, first).await;
        }
        // What is asked within can't be seen: the widest of the exemptions.
        Ok(Some(Verdict::Tls(hello))) if conn.has_probe(|probe| matches!(probe, Probe::Https)) => {
            carry::through(conn, client, first.freeze(), hello.server_name, None).await;
        }
        Ok(Some(_)) | Err(()) => refuse(conn, client),
    }
}

/// Resets a connection that comes in plain text to where that isn't accepted.
pub(super) fn refuse(conn: &Connection, client: Stream) {
    let why = ErrorKind::PlainTextRefused;
    conn.pod.worker.count_refused(why.label());
    carry::refuse(conn, client, why);
}

/// What the client begins with; None if it ends without a word. An error if it says nothing, or nothing clear, for longer
/// than a probe would.
async fn first_words(
    conn: &Connection,
    client: &mut Stream,
    first: &mut BytesMut,
) -> Result<Option<Verdict>, ()> {
    let deadline = Instant::now() + conn.limits().head_timeout;
    // `inbound` has waited for as long already.
    let waited = !first.is_empty();
    loop {
        match detect::classify(first) {
            Verdict::Unclear if waited => return Err(()),
            Verdict::Unclear if first.len() < detect::MAX_PEEK => {}
            verdict => return Ok(Some(verdict)),
        }
        match timeout_at(deadline, client.read_buf(first)).await {
            Err(_) => return Err(()),
            Ok(Ok(1..)) => {}
            Ok(Ok(0) | Err(_)) if first.is_empty() => return Ok(None),
            Ok(Ok(0) | Err(_)) => return Err(()),
        }
    }
}

#[cfg(test)]
mod tests;
