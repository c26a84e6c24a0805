//! What a provider is told of a request or connection: as a message for gRPC, as a head for HTTP. Pure.
//!
//! The contents are those of Envoy's ext_authz filters (`check_request_utils`, `ext_authz_http_impl`). A body is never told.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use http::header::{AUTHORIZATION, CONTENT_LENGTH, COOKIE, HOST, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Version, request};

use super::headers::{HeaderList, is_framing};
use super::message;
use super::message::{
    Address, AttributeContext, CheckRequest, HttpRequest, Request, SocketAddress, Timestamp, TlsSession,
};

/// One end of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Peer<'a> {
    /// Where it is.
    pub address: SocketAddr,
    /// SPIFFE id; None where none is proven.
    pub identity: Option<&'a str>,
}

/// What is asked about.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// Who opened the connection.
    pub source: Peer<'a>,
    /// To whom.
    pub destination: Peer<'a>,
    /// The request; None for a connection that isn't carried as requests.
    pub head: Option<&'a request::Parts>,
    /// Server name of TLS that is passed through.
    pub sni: Option<&'a str>,
    /// When it came.
    pub time: SystemTime,
}

impl Asked<'_> {
    /// For gRPC.
    pub fn message(&self) -> CheckRequest {
        let time = self.time.duration_since(UNIX_EPOCH).unwrap_or_default();
        let request = self.head.map(|head| Request {
            time: Some(Timestamp {
                seconds: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
                nanos: i32::try_from(time.subsec_nanos()).unwrap_or_default(),
            }),
            http: Some(http(head)),
        });
        let attributes = AttributeContext {
            source: Some(self.source.message()),
            destination: Some(self.destination.message()),
            request,
            tls_session: self.sni.map(|sni| TlsSession { sni: sni.to_owned() }),
        };
        CheckRequest { attributes: Some(attributes) }
    }
}

impl Peer<'_> {
    fn message(&self) -> message::Peer {
        let socket_address =
            SocketAddress { address: self.address.ip().to_string(), port_value: self.address.port().into() };
        message::Peer {
            address: Some(Address { socket_address: Some(socket_address) }),
            principal: self.identity.unwrap_or_default().to_owned(),
        }
    }
}

fn http(head: &request::Parts) -> HttpRequest {
    let text = |name: &str| head.headers.get(name).map(shown);
    let (host, path) = (host(head), path(head));
    let mut headers: HashMap<String, String> = HashMap::new();
    for name in head.headers.keys() {
        // Crumbs of a cookie may stand in lines of their own (RFC 9113, 8.2.3).
        let between = if name == COOKIE { "; " } else { "," };
        let lines: Vec<String> = head.headers.get_all(name).iter().map(shown).collect();
        headers.insert(name.as_str().to_owned(), lines.join(between));
    }
    // Envoy has a request's first line among its headers, and policies of providers are written for it.
    for (name, value) in
        [(":method", head.method.as_str()), (":path", &*path), (":authority", &*host), (":scheme", "http")]
    {
        headers.insert(name.to_owned(), value.to_owned());
    }
    headers.remove(HOST.as_str());
    HttpRequest {
        id: text("x-request-id").unwrap_or_default(),
        method: head.method.as_str().to_owned(),
        headers,
        path: path.into_owned(),
        host: host.into_owned(),
        scheme: "http".to_owned(),
        size: text(CONTENT_LENGTH.as_str()).and_then(|length| length.parse().ok()).unwrap_or(-1),
        protocol: protocol(head.version).to_owned(),
    }
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2",
        _ => "HTTP/1.1",
    }
}

/// A value as text. What isn't UTF-8 can't be in a message; Envoy puts `!` in its place.
fn shown(value: &HeaderValue) -> String {
    match std::str::from_utf8(value.as_bytes()) {
        Ok(text) => text.to_owned(),
        Err(_) => value
            .as_bytes()
            .iter()
            .map(|byte| if byte.is_ascii() { char::from(*byte) } else { '!' })
            .collect(),
    }
}

fn path(head: &request::Parts) -> std::borrow::Cow<'_, str> {
    head.uri.path_and_query().map_or("", |target| target.as_str()).into()
}

fn host(head: &request::Parts) -> std::borrow::Cow<'_, str> {
    match (head.uri.authority(), head.headers.get(HOST)) {
        (Some(authority), _) => authority.as_str().into(),
        (None, Some(host)) => shown(host).into(),
        (None, None) => "".into(),
    }
}

/// The head of the request that an HTTP provider gets. None for one that has no path to ask about, such as CONNECT.
pub fn http_head(
    head: &request::Parts,
    prefix: &str,
    told: &HeaderList,
    more: &[(HeaderName, HeaderValue)],
) -> Option<(Method, String, HeaderMap)> {
    if head.method == Method::CONNECT {
        return None;
    }
    let path = match &*path(head) {
        "" | "*" => "/".to_owned(),
        path => path.to_owned(),
    };
    let mut headers = HeaderMap::new();
    headers.insert(HOST, HeaderValue::from_str(&host(head)).ok()?);
    headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    for (name, value) in &head.headers {
        // Envoy tells of Authorization whatever the list says.
        if !is_framing(name) && (*name == AUTHORIZATION || told.has(name)) {
            headers.append(name, value.clone());
        }
    }
    for (name, value) in more {
        headers.insert(name, value.clone());
    }
    Some((head.method.clone(), format!("{prefix}{path}"), headers))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use http::Request;

    use super::*;

    fn head(uri: &str, headers: &[(&str, &[u8])]) -> request::Parts {
        let mut request = Request::builder().method("POST").uri(uri);
        for (name, value) in headers {
            request = request.header(*name, HeaderValue::from_bytes(value).unwrap());
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn a_request_is_told_as_envoy_tells_it() {
        let head = head(
            "/a%20b?q=1",
            &[
                ("host", b"cart.shop"),
                ("content-length", b"12"),
                ("x-request-id", b"id"),
                ("x-two", b"1"),
                ("x-two", b"2"),
                ("cookie", b"a=1"),
                ("cookie", b"b=2"),
                ("x-odd", &[b'a', 0xff]),
            ],
        );
        let peer = |text: &str, identity| Peer { address: text.parse().unwrap(), identity };
        let asked = Asked {
            source: peer("10.0.0.1:1234", Some("spiffe://td/ns/a/sa/b")),
            destination: peer("[fd00::1]:80", None),
            head: Some(&head),
            sni: None,
            time: UNIX_EPOCH + std::time::Duration::new(5, 7),
        };
        let attributes = asked.message().attributes.unwrap();
        let source = attributes.source.unwrap();
        assert_eq!(source.principal, "spiffe://td/ns/a/sa/b");
        let at = source.address.unwrap().socket_address.unwrap();
        assert_eq!((&*at.address, at.port_value), ("10.0.0.1", 1234));
        let destination = attributes.destination.unwrap();
        assert_eq!(
            (&*destination.principal, &*destination.address.unwrap().socket_address.unwrap().address),
            ("", "fd00::1")
        );
        let request = attributes.request.unwrap();
        assert_eq!(request.time, Some(Timestamp { seconds: 5, nanos: 7 }));
        let http = request.http.unwrap();
        assert_eq!((&*http.method, &*http.path, &*http.host), ("POST", "/a%20b?q=1", "cart.shop"));
        assert_eq!((&*http.id, http.size, &*http.protocol), ("id", 12, "HTTP/1.1"));
        let got = |name: &str| http.headers.get(name).map(String::as_str);
        assert_eq!(
            (got(":path"), got(":authority"), got(":method")),
            (Some("/a%20b?q=1"), Some("cart.shop"), Some("POST"))
        );
        assert_eq!((got("x-two"), got("cookie"), got("x-odd")), (Some("1,2"), Some("a=1; b=2"), Some("a!")));
        assert_eq!(got("host"), None);
    }

    #[test]
    fn a_connection_is_told_without_a_request() {
        let peer = Peer { address: "10.0.0.1:1".parse().unwrap(), identity: None };
        let asked =
            Asked { source: peer, destination: peer, head: None, sni: Some("a.test"), time: UNIX_EPOCH };
        let attributes = asked.message().attributes.unwrap();
        assert!(attributes.request.is_none());
        assert_eq!(attributes.tls_session.unwrap().sni, "a.test");
    }

    #[test]
    fn an_http_provider_gets_the_head_that_it_asks_for() {
        let told = HeaderList::new(&["x-user".to_owned(), "connection".to_owned()]);
        let more = [(HeaderName::from_static("x-user"), HeaderValue::from_static("mesh"))];
        let request = head(
            "/p?q=1",
            &[
                ("host", b"h"),
                ("authorization", b"Bearer x"),
                ("x-user", b"a"),
                ("x-other", b"b"),
                ("connection", b"close"),
                ("content-length", b"9"),
            ],
        );
        let (method, path, headers) = http_head(&request, "/check", &told, &[]).unwrap();
        assert_eq!((method.as_str(), &*path), ("POST", "/check/p?q=1"));
        let mut lines: Vec<_> = headers.iter().map(|(n, v)| (n.as_str(), v.to_str().unwrap())).collect();
        lines.sort_unstable();
        assert_eq!(
            lines,
            [("authorization", "Bearer x"), ("content-length", "0"), ("host", "h"), ("x-user", "a")]
        );
        let (_, _, headers) = http_head(&request, "", &told, &more).unwrap();
        assert_eq!(headers.get_all("x-user").iter().collect::<Vec<_>>(), ["mesh"]);
        let mut connect = head("h:80", &[]);
        connect.method = Method::CONNECT;
        assert!(http_head(&connect, "/check", &told, &[]).is_none());
    }
}
