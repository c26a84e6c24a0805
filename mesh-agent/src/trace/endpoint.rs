//! Where the collector is, and how it is spoken to: `--otlp-endpoint` and `--otlp-protocol`. Pure.

use std::fmt;
use std::str::FromStr;

use http::Uri;
use http::uri::{Authority, Scheme};
use rustls::pki_types::ServerName;

use super::signal::Signal;

/// What is spoken with the collector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// OTLP/gRPC.
    #[default]
    Grpc,
    /// OTLP/HTTP, in protobuf.
    Http,
}

/// A collector.
///
/// As text, a URL.
#[derive(Clone, PartialEq, Eq)]
pub struct Endpoint {
    secure: bool,
    authority: Authority,
    path: String,
}

/// A text that is no collector's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} isn't a collector's address: expected a URL such as http://collector.observability:4317")]
pub struct BadEndpoint(String);

impl Endpoint {
    /// True for TLS.
    pub fn is_secure(&self) -> bool {
        self.secure
    }

    /// `http` or `https`.
    pub fn scheme(&self) -> &'static str {
        if self.secure { "https" } else { "http" }
    }

    /// Host and port as they were given.
    pub fn authority(&self) -> &str {
        self.authority.as_str()
    }

    /// The host, an IPv6 address without brackets.
    pub fn host(&self) -> &str {
        self.authority.host().trim_start_matches('[').trim_end_matches(']')
    }

    /// The port; OTLP's own where none was given.
    pub fn port(&self, protocol: Protocol) -> u16 {
        self.authority.port_u16().unwrap_or(match protocol {
            Protocol::Grpc => 4317,
            Protocol::Http => 4318,
        })
    }

    /// A signal's path over HTTP. It is added to a base, as OTEL_EXPORTER_OTLP_ENDPOINT is read; what ends in the path of traces names
    /// its base with them.
    pub fn path(&self, signal: Signal) -> String {
        let path = self.path.trim_end_matches('/');
        let base = path.strip_suffix(Signal::Traces.path()).unwrap_or(path);
        format!("{base}{}", signal.path())
    }
}

impl FromStr for Endpoint {
    type Err = BadEndpoint;

    fn from_str(text: &str) -> Result<Self, BadEndpoint> {
        // What is before an @ may be a password.
        let shown = text.rsplit_once('@').map_or(text, |(_, behind)| behind);
        let bad = || BadEndpoint(shown.to_owned());
        let uri: Uri = text.parse().map_err(|_| bad())?;
        let secure = match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTP => false,
            Some(scheme) if *scheme == Scheme::HTTPS => true,
            _ => return Err(bad()),
        };
        let authority = uri.authority().ok_or_else(bad)?.clone();
        let endpoint = Self { secure, authority, path: uri.path().to_owned() };
        // A flag is no place for a password.
        let named = ServerName::try_from(endpoint.host()).is_ok();
        if !named || text.contains('@') || uri.query().is_some() {
            return Err(bad());
        }
        Ok(endpoint)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", self.scheme(), self.authority, self.path.trim_end_matches('/'))
    }
}

impl serde::Serialize for Endpoint {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_url_says_where_the_collector_is() {
        let check = |text: &str, host: &str, ports: [u16; 2], path: &str, shown: &str| {
            let endpoint: Endpoint = text.parse().unwrap();
            assert_eq!((endpoint.host(), endpoint.path(Signal::Traces).as_str()), (host, path), "{text}");
            let logs = path.replace("/v1/traces", "/v1/logs");
            assert_eq!(endpoint.path(Signal::Logs), logs, "{text}");
            assert_eq!([Protocol::Grpc, Protocol::Http].map(|protocol| endpoint.port(protocol)), ports);
            assert_eq!(endpoint.to_string(), shown);
        };
        check("http://a:1", "a", [1, 1], "/v1/traces", "http://a:1");
        check("http://a.b.svc/", "a.b.svc", [4317, 4318], "/v1/traces", "http://a.b.svc");
        check("https://[fd00::1]:4318/x/", "fd00::1", [4318; 2], "/x/v1/traces", "https://[fd00::1]:4318/x");
        check("http://a/v1/traces", "a", [4317, 4318], "/v1/traces", "http://a/v1/traces");
        assert!("https://a".parse::<Endpoint>().unwrap().is_secure());
    }

    #[test]
    fn what_isnt_a_url_of_http_is_refused() {
        for text in
            ["", "a:4317", "a", "grpc://a:1", "http://", "http://me@a", "http://a/?x=1", "http://a_b c"]
        {
            assert!(text.parse::<Endpoint>().is_err(), "{text}");
        }
    }
}
