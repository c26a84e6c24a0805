//! Request targets and Host: each form where it belongs, and no two authorities that disagree (RFC 9112, 3.2 and 3.3).
//!
//! Called by `message`. Nothing is normalized: what passes is forwarded as it was written.

use http::{Method, Uri, Version};

use crate::proxy::error::Hostile;

/// Checks a target against its method, version and Host.
pub fn check(method: &Method, uri: &Uri, version: Version, host: Option<&[u8]>) -> Result<(), Hostile> {
    match host {
        None if version == Version::HTTP_11 => return Err(Hostile::MissingHost),
        Some(host) if !is_host(host) => return Err(Hostile::BadTarget),
        _ => {}
    }
    match (uri.scheme_str(), uri.authority()) {
        (Some(scheme), Some(authority)) => {
            let default_port = match scheme {
                "http" => "80",
                "https" => "443",
                _ => return Err(Hostile::BadTarget),
            };
            agree(authority.as_str(), host, default_port)
        }
        (None, Some(authority)) if *method == Method::CONNECT && authority.port().is_some() => {
            agree(authority.as_str(), host, "443")
        }
        (None, None) if uri.path() == "*" => allowed(*method == Method::OPTIONS),
        (None, None) => allowed(uri.path().starts_with('/') && *method != Method::CONNECT),
        _ => Err(Hostile::BadTarget),
    }
}

fn allowed(yes: bool) -> Result<(), Hostile> {
    if yes { Ok(()) } else { Err(Hostile::BadTarget) }
}

/// The target's authority and Host name one place; a default port may be left out in either.
fn agree(authority: &str, host: Option<&[u8]>, default_port: &str) -> Result<(), Hostile> {
    if authority.contains('@') {
        return Err(Hostile::BadTarget);
    }
    let Some(host) = host else { return Ok(()) };
    let (name, port) = split_port(authority.as_bytes());
    let (host_name, host_port) = split_port(host);
    let port_of =
        |port: &[u8]| if port.is_empty() { default_port.as_bytes().to_vec() } else { port.to_vec() };
    if name.eq_ignore_ascii_case(host_name) && port_of(port) == port_of(host_port) {
        Ok(())
    } else {
        Err(Hostile::ConflictingHost)
    }
}

fn split_port(authority: &[u8]) -> (&[u8], &[u8]) {
    match authority.iter().rposition(|b| *b == b':') {
        Some(at) if authority[at + 1..].iter().all(u8::is_ascii_digit) => {
            (&authority[..at], &authority[at + 1..])
        }
        _ => (authority, b""),
    }
}

/// `uri-host [ ":" port ]` (RFC 9110, 7.2), or empty.
fn is_host(host: &[u8]) -> bool {
    let (name, port) = split_port(host);
    if port.len() > 5 {
        return false;
    }
    match name.strip_prefix(b"[") {
        Some(literal) => literal.strip_suffix(b"]").is_some_and(|literal| {
            !literal.is_empty()
                && literal.iter().all(|b| b.is_ascii_hexdigit() || matches!(b, b':' | b'.' | b'v' | b'%'))
        }),
        None => name.iter().all(|b| is_reg_name(*b)),
    }
}

/// Unreserved, percent signs and sub-delims of RFC 3986, 3.2.2.
fn is_reg_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=".contains(&byte)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn check_one(method: &str, target: &str, host: Option<&str>, expected: Result<(), Hostile>) {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let got = check(&method, &target.parse().unwrap(), Version::HTTP_11, host.map(str::as_bytes));
        assert_eq!(got, expected, "{method} {target} {host:?}");
    }

    #[test]
    fn each_form_where_it_belongs() {
        check_one("GET", "/a?b", Some("a"), Ok(()));
        check_one("GET", "/a", Some(""), Ok(()));
        check_one("GET", "http://a/b", Some("a"), Ok(()));
        check_one("GET", "http://a:80/b", Some("A"), Ok(()));
        check_one("GET", "https://a/b", Some("a:443"), Ok(()));
        check_one("OPTIONS", "*", Some("a"), Ok(()));
        check_one("CONNECT", "a:443", Some("a:443"), Ok(()));
        check_one("CONNECT", "a:443", Some("a"), Ok(()));
        check_one("GET", "*", Some("a"), Err(Hostile::BadTarget));
        check_one("GET", "a:443", Some("a"), Err(Hostile::BadTarget));
        check_one("CONNECT", "/a", Some("a"), Err(Hostile::BadTarget));
        check_one("GET", "ftp://a/b", Some("a"), Err(Hostile::BadTarget));
        check_one("GET", "http://u@a/b", Some("a"), Err(Hostile::BadTarget));
    }

    #[test]
    fn one_authority_only() {
        check_one("GET", "/", None, Err(Hostile::MissingHost));
        check_one("GET", "http://a/b", Some("b"), Err(Hostile::ConflictingHost));
        check_one("GET", "http://a:81/b", Some("a"), Err(Hostile::ConflictingHost));
        check_one("CONNECT", "a:443", Some("b:443"), Err(Hostile::ConflictingHost));
        assert_eq!(check(&Method::GET, &"/".parse().unwrap(), Version::HTTP_10, None), Ok(()));
    }

    #[test]
    fn host_is_a_host() {
        for host in ["a:b", "a b", "a/b", "u@a", "a#", "[::1", "a:123456", "a\"", "[]"] {
            check_one("GET", "/", Some(host), Err(Hostile::BadTarget));
        }
        for host in ["a.b:8080", "[::1]:80", "127.0.0.1", "a_b", "a:"] {
            check_one("GET", "/", Some(host), Ok(()));
        }
    }
}
