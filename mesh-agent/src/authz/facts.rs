//! What is known of a connection or request when it is judged.

use std::net::IpAddr;

use http::HeaderMap;

use super::path::Readings;
use super::principal::Principal;
use crate::jwt::Claims;

/// Of a connection, and of a request on it.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    pub(super) principal: Option<Principal<'a>>,
    /// The peer that opened the connection.
    pub source: IpAddr,
    /// The workload's own address and port.
    pub destination: (IpAddr, u16),
    /// Server name of TLS that is passed through.
    pub sni: Option<&'a str>,
    /// None for a connection that isn't carried as requests.
    pub request: Option<RequestFacts<'a>>,
}

/// Of a request.
#[derive(Clone, Copy, Debug)]
pub struct RequestFacts<'a> {
    /// Method.
    pub method: &'a str,
    /// Authority or Host, as it was sent.
    pub host: Option<&'a str>,
    /// The path's readings.
    pub path: &'a Readings,
    /// All headers.
    pub headers: &'a HeaderMap,
    /// The client behind trusted proxies.
    pub remote: IpAddr,
    /// Of a verified token.
    pub claims: Option<&'a Claims>,
}

impl<'a> Facts<'a> {
    /// Of a connection. `identity` is proven: a SPIFFE id, with or without its scheme.
    pub fn new(identity: Option<&'a str>, source: IpAddr, destination: (IpAddr, u16)) -> Self {
        Self { principal: identity.map(Principal::new), source, destination, sni: None, request: None }
    }

    /// The same of a request on it.
    #[must_use]
    pub fn asking(self, request: RequestFacts<'a>) -> Self {
        Self { request: Some(request), ..self }
    }

    /// The same with the server name of TLS that is passed through, in lower case.
    #[must_use]
    pub fn named(self, sni: Option<&'a str>) -> Self {
        Self { sni, ..self }
    }

    /// The client's address behind trusted proxies; the peer's where there is no request.
    pub(super) fn remote(&self) -> IpAddr {
        self.request.as_ref().map_or(self.source, |request| request.remote)
    }
}

/// The client's address by `X-Forwarded-For` where `hops` proxies before the peer are trusted, as Envoy's
/// `xff_num_trusted_hops` with `use_remote_address`: the entry so many from the right, or the peer's where there are fewer.
pub fn remote_address(headers: &HeaderMap, peer: IpAddr, hops: usize) -> IpAddr {
    if hops == 0 {
        return peer;
    }
    let mut left = hops;
    for line in headers.get_all("x-forwarded-for").iter().rev() {
        for entry in line.as_bytes().rsplit(|b| *b == b',') {
            left -= 1;
            if left == 0 {
                let entry = std::str::from_utf8(entry.trim_ascii()).ok();
                return entry
                    .and_then(|entry| entry.parse::<IpAddr>().ok())
                    .map_or(peer, |ip| ip.to_canonical());
            }
        }
    }
    peer
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_as_many_entries_as_proxies_are_trusted_count() {
        fn check(lines: &[&str], hops: usize, want: &str) {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append("x-forwarded-for", line.parse().unwrap());
            }
            let peer = "10.0.0.9".parse().unwrap();
            assert_eq!(
                remote_address(&headers, peer, hops),
                want.parse::<IpAddr>().unwrap(),
                "{lines:?} {hops}"
            );
        }
        check(&["1.1.1.1, 2.2.2.2"], 0, "10.0.0.9");
        check(&["1.1.1.1, 2.2.2.2"], 1, "2.2.2.2");
        check(&["1.1.1.1, 2.2.2.2"], 2, "1.1.1.1");
        check(&["1.1.1.1, 2.2.2.2"], 3, "10.0.0.9");
        check(&["1.1.1.1", "2.2.2.2"], 1, "2.2.2.2");
        check(&["1.1.1.1", "2.2.2.2"], 2, "1.1.1.1");
        check(&["nonsense"], 1, "10.0.0.9");
        check(&["::ffff:1.1.1.1"], 1, "1.1.1.1");
        check(&[], 1, "10.0.0.9");
    }
}
