//! Attributes of a request's and a connection's spans (OpenTelemetry semantic conventions 1.40: HTTP and network, stable; RPC, release
//! candidate). Pure.
//!
//! Of a query only the names are told. What has no name there is `mesh_agent.*`.

use std::borrow::Cow;
use std::net::IpAddr;

use http::Uri;

use super::Ended;
use crate::flags::Flag;
use crate::grpc::Code;
use crate::proxy::error::ErrorKind;
use crate::proxy::reach::Reach;
use crate::telemetry::{ConnectionEntry, Peers, RequestEntry, conventions};
use crate::trace::{Attributes, Kind};

/// Names of a query that are longer are no names.
const LONGEST_NAME: usize = 64;
const REDACTED: &str = "REDACTED";

/// What is told of a request.
pub(super) struct Request<'e> {
    entry: &'e RequestEntry<'e>,
    uri: &'e Uri,
    error: Option<ErrorKind>,
    is_grpc: bool,
    /// It left the agent in TLS that a rule asks for.
    secure: bool,
}

impl<'e> Request<'e> {
    pub(super) fn of(ended: &Ended<'e>, entry: &'e RequestEntry<'e>, uri: &'e Uri) -> Self {
        let secure = ended.upstream.is_some_and(|upstream| matches!(upstream.reach(), Reach::Tls(_)));
        Self { entry, uri, error: ended.error, is_grpc: ended.is_grpc, secure }
    }

    /// The method, which is all of a request that has few values; of gRPC the method that is called.
    pub(super) fn name(&self) -> Cow<'e, [u8]> {
        match (self.is_grpc, self.uri.path().strip_prefix('/')) {
            (true, Some(method)) if !method.is_empty() => Cow::Borrowed(method.as_bytes()),
            _ if conventions::is_known_method(self.entry.method) => Cow::Borrowed(self.entry.method),
            _ => Cow::Borrowed(b"HTTP"),
        }
    }

    /// True if the span counts as failed. A client's mistake is no failure of the server's.
    pub(super) fn is_failure(&self, kind: Kind) -> bool {
        if let Some(grpc) = self.entry.grpc_status.filter(|_| self.is_grpc) {
            return match kind {
                Kind::Client => grpc != 0,
                // UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS.
                Kind::Server => matches!(grpc, 2 | 4 | 12 | 13 | 14 | 15),
            };
        }
        let from = if kind == Kind::Client { 400 } else { 500 };
        match self.entry.status {
            0 => self.error.is_some(),
            status => status >= from || self.error.is_some() && status < 400,
        }
    }

    pub(super) fn describe(&self, kind: Kind, attributes: &mut Attributes<'_>) {
        let entry = self.entry;
        if self.is_grpc {
            self.describe_grpc(attributes);
        } else {
            self.describe_http(kind, attributes);
        }
        attributes.text("network.protocol.name", "http");
        attributes.text("network.protocol.version", entry.protocol.strip_prefix("HTTP/").unwrap_or_default());
        conventions::server(self.authority(), &entry.peers, attributes);
        peers(&entry.peers, kind, attributes);
        attributes.text("user_agent.original", entry.user_agent);
        attributes.list("http.request.header.x-request-id", entry.request_id);
        if self.is_failure(kind) {
            attributes.text("error.type", self.error_type().as_bytes());
        }
        if kind == Kind::Client && entry.attempts > 1 {
            attributes.number("http.request.resend_count", u64::from(entry.attempts) - 1);
        }
        attributes.number("http.request.body.size", entry.bytes_received);
        attributes.number("http.response.body.size", entry.bytes_sent);
        attributes.text("mesh_agent.route", entry.route);
        ended(entry.flag, entry.details, attributes);
        super::mesh(&entry.peers, attributes);
    }

    fn describe_grpc(&self, attributes: &mut Attributes<'_>) {
        attributes.text("rpc.system.name", "grpc");
        attributes.text("rpc.method", self.uri.path().trim_start_matches('/'));
        match self.entry.grpc_status {
            Some(status) => attributes.text("rpc.response.status_code", Code(status.into()).name()),
            None if self.entry.status != 0 => {
                attributes.number("http.response.status_code", self.entry.status.into())
            }
            None => {}
        }
    }

    fn describe_http(&self, kind: Kind, attributes: &mut Attributes<'_>) {
        let (entry, uri) = (self.entry, self.uri);
        conventions::method(entry.method, attributes);
        if entry.status != 0 {
            attributes.number("http.response.status_code", entry.status.into());
        }
        let query = uri.query().map(redacted);
        match kind {
            Kind::Client => {
                let scheme = if self.secure { "https" } else { "http" };
                let authority = String::from_utf8_lossy(self.authority());
                let mut url = format!("{scheme}://{authority}{}", uri.path());
                if let Some(query) = query {
                    url.push('?');
                    url.push_str(&query);
                }
                attributes.text("url.full", url);
            }
            Kind::Server => {
                attributes.text("url.scheme", "http");
                attributes.text("url.path", uri.path());
                attributes.text("url.query", query.unwrap_or_default());
            }
        }
    }

    /// Without what may be a user's name and password.
    fn authority(&self) -> &'e [u8] {
        conventions::without_user(self.entry.authority)
    }

    /// The status, or what went wrong before there was one.
    fn error_type(&self) -> Cow<'static, str> {
        match (self.error, self.entry.grpc_status) {
            (Some(error), _) => error.label().into(),
            (None, Some(status)) if self.is_grpc => Code(status.into()).name().into(),
            (None, _) => self.entry.status.to_string().into(),
        }
    }
}

/// What is told of a connection.
pub(super) fn connection(
    entry: &ConnectionEntry<'_>,
    error: Option<ErrorKind>,
    kind: Kind,
    attributes: &mut Attributes<'_>,
) {
    attributes.text("network.transport", "tcp");
    attributes.text("network.type", if entry.peers.client.ip().is_ipv4() { "ipv4" } else { "ipv6" });
    conventions::server(b"", &entry.peers, attributes);
    peers(&entry.peers, kind, attributes);
    attributes.text("tls.client.server_name", entry.server_name);
    attributes.text("error.type", error.map_or("", ErrorKind::label));
    attributes.number("mesh_agent.bytes_received", entry.bytes_received);
    attributes.number("mesh_agent.bytes_sent", entry.bytes_sent);
    attributes.text("mesh_agent.route", entry.route);
    ended(entry.flag, entry.details, attributes);
    super::mesh(&entry.peers, attributes);
}

/// Who is at the other end, and for a server who that is for.
fn peers(peers: &Peers<'_>, kind: Kind, attributes: &mut Attributes<'_>) {
    let peer: Option<(IpAddr, u16)> = match kind {
        Kind::Client => peers.endpoint.map(|to| (to.ip(), to.port())),
        Kind::Server => Some((peers.client.ip(), peers.client.port())),
    };
    if let Some((ip, port)) = peer {
        attributes.address("network.peer.address", ip);
        attributes.number("network.peer.port", port.into());
    }
    if kind == Kind::Server {
        attributes.address("client.address", peers.client.ip());
    }
}

fn ended(flag: Flag, details: &str, attributes: &mut Attributes<'_>) {
    if flag != Flag::None {
        attributes.text("mesh_agent.response_flags", flag.label());
    }
    attributes.text("mesh_agent.response_code_details", details);
}

/// A query's names, without what they are set to.
fn redacted(query: &str) -> String {
    let mut out = String::new();
    for (at, pair) in query.split('&').take(32).enumerate() {
        if at > 0 {
            out.push('&');
        }
        match pair.split_once('=') {
            Some((name, _)) if name.len() <= LONGEST_NAME => {
                out.push_str(name);
                out.push('=');
                out.push_str(REDACTED);
            }
            // A token may stand alone.
            _ if pair.is_empty() => {}
            _ => out.push_str(REDACTED),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::redacted;

    #[test]
    fn of_a_query_only_names_are_told() {
        for (query, want) in [
            ("a=1&b=2", "a=REDACTED&b=REDACTED"),
            ("a=", "a=REDACTED"),
            ("secret", "REDACTED"),
            ("a=1&secret", "a=REDACTED&REDACTED"),
            ("a=b=c", "a=REDACTED"),
            ("", ""),
            ("a=1&&b", "a=REDACTED&&REDACTED"),
        ] {
            assert_eq!(redacted(query), want, "{query}");
        }
        assert_eq!(redacted(&format!("{}=1", "x".repeat(65))), "REDACTED");
    }
}
