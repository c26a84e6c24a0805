//! What a request's head must be before it goes anywhere, beyond what the h2 crate has checked (RFC 9113, 8).
//!
//! Used by `stream` first of all. h2 refuses malformed fields and pseudo-fields, hop-by-hop fields, and lengths that
//! disagree with the data; here are authority and Host, sizes and counts.

use http::header::{HOST, HeaderMap};
use http::uri::{Authority, Scheme};
use http::{Method, Uri, request};

use crate::proxy::{ErrorKind, Hostile, Limits};

/// What HPACK counts for each field beside name and value (RFC 7541, 4.1).
const FIELD_OVERHEAD: usize = 32;

/// Checks the head and gives its target the authority that only Host names. Returns its size in bytes.
pub(crate) fn check(head: &mut request::Parts, limits: &Limits) -> Result<usize, ErrorKind> {
    let size = size_of(&head.headers);
    if head.headers.len() > limits.max_headers || size > limits.max_head_bytes {
        return Err(ErrorKind::HeadTooLarge);
    }
    if head.uri.path_and_query().is_some_and(|path| path.as_str().len() > limits.max_uri) {
        return Err(ErrorKind::UriTooLong);
    }
    check_authority(head).map_err(ErrorKind::DownstreamProtocol)?;
    Ok(size)
}

fn size_of(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + FIELD_OVERHEAD).sum()
}

/// A recipient that trusts Host and one that trusts `:authority` must see the same (RFC 9113, 8.3.1).
fn check_authority(head: &mut request::Parts) -> Result<(), Hostile> {
    let mut hosts = head.headers.get_all(HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(Hostile::ConflictingHost);
    }
    match (head.uri.authority(), host) {
        (Some(authority), Some(host)) if !same(authority, host.as_bytes()) => Err(Hostile::ConflictingHost),
        (Some(authority), _) if authority.as_str().contains('@') => Err(Hostile::BadTarget),
        (Some(_), _) => Ok(()),
        (None, Some(host)) => {
            let authority = Authority::try_from(host.as_bytes()).map_err(|_| Hostile::BadTarget)?;
            if authority.as_str().contains('@') {
                return Err(Hostile::BadTarget);
            }
            head.uri = with_authority(head, authority)?;
            Ok(())
        }
        (None, None) => Err(Hostile::MissingHost),
    }
}

fn same(authority: &Authority, host: &[u8]) -> bool {
    authority.as_str().as_bytes().eq_ignore_ascii_case(host)
}

fn with_authority(head: &request::Parts, authority: Authority) -> Result<Uri, Hostile> {
    let mut parts = head.uri.clone().into_parts();
    parts.authority = Some(authority);
    if head.method != Method::CONNECT {
        parts.scheme.get_or_insert(Scheme::HTTP);
    }
    Uri::from_parts(parts).map_err(|_| Hostile::BadTarget)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use http::Request;

    use super::*;

    fn check_head(uri: &str, hosts: &[&str], fields: usize) -> Result<String, ErrorKind> {
        let mut builder = Request::builder().uri(uri);
        for host in hosts {
            builder = builder.header(HOST, *host);
        }
        for number in 0..fields {
            builder = builder.header(format!("x-{number}"), "value");
        }
        let mut head = builder.body(()).unwrap().into_parts().0;
        check(&mut head, &Limits::default()).map(|_| head.uri.to_string())
    }

    #[test]
    fn authority_and_host_must_agree() {
        let hostile = |hostile| Err(ErrorKind::DownstreamProtocol(hostile));
        assert_eq!(check_head("http://a/x", &[], 0), Ok("http://a/x".into()));
        assert_eq!(check_head("http://a/x", &["A"], 0), Ok("http://a/x".into()));
        assert_eq!(check_head("http://a/x", &["b"], 0), hostile(Hostile::ConflictingHost));
        assert_eq!(check_head("http://a/x", &["a", "a"], 0), hostile(Hostile::ConflictingHost));
        assert_eq!(check_head("/x", &["b:8080"], 0), Ok("http://b:8080/x".into()));
        assert_eq!(check_head("/x", &["b/c"], 0), hostile(Hostile::BadTarget));
        assert_eq!(check_head("/x", &[], 0), hostile(Hostile::MissingHost));
        assert_eq!(check_head("http://u@a/x", &[], 0), hostile(Hostile::BadTarget));
        assert_eq!(check_head("/x", &["u:@a"], 0), hostile(Hostile::BadTarget));
    }

    #[test]
    fn heads_are_bounded() {
        assert!(check_head("http://a/", &[], 100).is_ok());
        assert_eq!(check_head("http://a/", &[], 101), Err(ErrorKind::HeadTooLarge));
        let long = format!("http://a/{}", "x".repeat(17 * 1024));
        assert_eq!(check_head(&long, &[], 0), Err(ErrorKind::UriTooLong));
    }
}
