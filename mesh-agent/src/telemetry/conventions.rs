//! OpenTelemetry's names (semantic conventions 1.40) for what spans and records of the access log have alike. Pure.
//!
//! Used by `proxy::spans` and by `access_log`.

use http::Method;

use super::Peers;
use crate::trace::Attributes;

/// True of the methods that are told by their names: there are few of them.
pub fn is_known_method(method: &[u8]) -> bool {
    let known = [
        Method::GET,
        Method::HEAD,
        Method::POST,
        Method::PUT,
        Method::PATCH,
        Method::DELETE,
        Method::OPTIONS,
        Method::CONNECT,
        Method::TRACE,
    ];
    known.iter().any(|known| known.as_str().as_bytes() == method)
}

/// The method of a request.
pub fn method(method: &[u8], attributes: &mut Attributes<'_>) {
    if is_known_method(method) {
        attributes.text("http.request.method", method);
    } else {
        attributes.text("http.request.method", "_OTHER");
        attributes.text("http.request.method_original", method);
    }
}

/// An authority without what may be a user's name and password.
pub fn without_user(authority: &[u8]) -> &[u8] {
    let from = authority.iter().rposition(|byte| *byte == b'@').map_or(0, |at| at + 1);
    &authority[from..]
}

/// Whom the client meant: by the authority, else the service, else the address that it dialled.
pub fn server(authority: &[u8], peers: &Peers<'_>, attributes: &mut Attributes<'_>) {
    let authority = std::str::from_utf8(authority).ok().and_then(|text| text.parse().ok());
    let authority: Option<http::uri::Authority> = authority;
    match (&authority, peers.service) {
        (Some(authority), _) => {
            let host = authority.host().trim_start_matches('[').trim_end_matches(']');
            attributes.text("server.address", host);
        }
        (None, Some(service)) => attributes.text("server.address", &service.host),
        (None, None) => attributes.address("server.address", peers.destination.ip()),
    }
    let port = authority.and_then(|authority| authority.port_u16());
    attributes.number("server.port", port.unwrap_or_else(|| peers.destination.port()).into());
}
