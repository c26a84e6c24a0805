//! Session persistence (GEP-1619): the endpoint that a client is kept at, as a cookie or header that the client carries.
//!
//! The value names an endpoint and when the session began and was last used. It isn't signed, as Envoy's isn't: whoever
//! makes one up gets what he could have had by chance, one of the service's own endpoints, since `proxy::session` takes
//! no other; and agents need no common secret. Pure: time is an argument, in milliseconds since 1970.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use http::header::{COOKIE, HeaderMap, HeaderName, HeaderValue, SET_COOKIE};

use super::edit::HeaderEdits;
use super::rule::{SessionKind, SessionPersistence};
use crate::addr::EndpointAddr;
use crate::model::ObjectName;

/// First byte of every value; another form gets another number.
const VERSION: u8 = 1;
/// Version, two times, backend, address, port.
const BYTES: usize = 1 + 8 + 8 + 4 + 16 + 2;

/// Whose sessions: of no rule, or of one, or of one of its backends. "Route rules referencing the same service MUST NOT
/// share persistent sessions" (GEP-1619). A hash (FNV-1a) that is the same in every agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scope(pub u32);

impl Default for Scope {
    fn default() -> Self {
        Self(0x811c_9dc5)
    }
}

impl Scope {
    /// What is named by `bytes` within it.
    #[must_use]
    pub fn with(self, bytes: &[u8]) -> Self {
        let hash = |hash: u32, byte: &u8| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
        // An end, so that two names are never taken for one.
        Self(bytes.iter().chain(&[0]).fold(self.0, hash))
    }

    /// A service port as a backend of it.
    #[must_use]
    pub fn backend(self, service: &ObjectName, port: u16) -> Self {
        self.with(service.namespace.as_bytes()).with(service.name.as_bytes()).with(&port.to_be_bytes())
    }
}

/// What a client carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    /// Its endpoint.
    pub endpoint: EndpointAddr,
    /// Which backend of which rule the endpoint belonged to (see `proxy::session`).
    pub backend: Scope,
    /// When it began.
    pub begun_ms: u64,
    /// When it was last used; kept only for the idle timeout.
    pub used_ms: u64,
}

impl SessionPersistence {
    /// The session that a request by the rule of `scope` belongs to. None if it has none, or one that is over or can't be
    /// read.
    pub fn read(&self, scope: Scope, headers: &HeaderMap, now_ms: u64) -> Option<Session> {
        let session = match &self.kind {
            SessionKind::Cookie { .. } => {
                let values = cookies(headers).filter_map(|pair| self.value(scope, pair));
                values.filter_map(|rest| rest.strip_prefix(b"=")).find_map(Session::decode)?
            }
            SessionKind::Header if !self.is_named_for(scope) => {
                Session::decode(headers.get(&self.name)?.as_bytes())?
            }
            SessionKind::Header => {
                let mine = |name: &HeaderName| self.value(scope, name.as_str().as_bytes()) == Some(b"");
                Session::decode(headers.iter().find(|(name, _)| mine(name))?.1.as_bytes())?
            }
        };
        let is_over = |since: u64, limit: Option<Duration>| {
            limit.is_some_and(|limit| u128::from(now_ms.saturating_sub(since)) >= limit.as_millis())
        };
        let over =
            is_over(session.begun_ms, self.absolute_timeout) || is_over(session.used_ms, self.idle_timeout);
        (!over).then_some(session)
    }

    /// What of `text` comes after the name that a session of `scope` goes by.
    fn value<'t>(&self, scope: Scope, text: &'t [u8]) -> Option<&'t [u8]> {
        let rest = text.strip_prefix(self.name.as_bytes())?;
        if !self.is_named_for(scope) {
            return Some(rest);
        }
        let (suffix, rest) = rest.strip_prefix(b"-")?.split_at_checked(8)?;
        let number = u32::from_str_radix(std::str::from_utf8(suffix).ok()?, 16).ok()?;
        (number == scope.0).then_some(rest)
    }

    /// True if the name ends with the rule's own mark.
    fn is_named_for(&self, scope: Scope) -> bool {
        self.per_rule && scope != Scope::default()
    }

    /// The name that a session of `scope` goes by.
    fn named(&self, scope: Scope) -> Cow<'_, str> {
        match self.is_named_for(scope) {
            true => format!("{}-{:08x}", self.name, scope.0).into(),
            false => Cow::Borrowed(&self.name),
        }
    }

    /// What tells the client of its session by the rule of `scope`.
    pub fn tell(&self, scope: Scope, session: &Session, now_ms: u64) -> HeaderEdits {
        let (name, value) = (self.named(scope), session.encode());
        match &self.kind {
            SessionKind::Cookie { permanent, path } => {
                let mut cookie = format!("{name}={value}; Path={path}; HttpOnly");
                if let Some(limit) = self.absolute_timeout.filter(|_| *permanent) {
                    let passed = Duration::from_millis(now_ms.saturating_sub(session.begun_ms));
                    cookie += &format!("; Max-Age={}", limit.saturating_sub(passed).as_secs().max(1));
                }
                let line = HeaderValue::try_from(cookie).map(|line| (SET_COOKIE, line));
                HeaderEdits { add: line.into_iter().collect(), ..HeaderEdits::default() }
            }
            SessionKind::Header => {
                let line =
                    HeaderName::from_bytes(name.as_bytes()).ok().zip(HeaderValue::try_from(value).ok());
                HeaderEdits { set: line.into_iter().collect(), ..HeaderEdits::default() }
            }
        }
    }

    /// True if the client has to be told of every use.
    pub fn tells_use(&self) -> bool {
        self.idle_timeout.is_some()
    }
}

/// Every cookie, `NAME=VALUE`; a client may send several of one name, with different paths.
fn cookies(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    let pairs = headers.get_all(COOKIE).iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b';'));
    pairs.map(<[u8]>::trim_ascii)
}

impl Session {
    fn encode(&self) -> String {
        let mut bytes = Vec::with_capacity(BYTES);
        let ip = match self.endpoint.ip() {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => v6,
        };
        bytes.push(VERSION);
        bytes.extend(self.begun_ms.to_be_bytes());
        bytes.extend(self.used_ms.to_be_bytes());
        bytes.extend(self.backend.0.to_be_bytes());
        bytes.extend(ip.octets());
        bytes.extend(self.endpoint.port().to_be_bytes());
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn decode(value: &[u8]) -> Option<Self> {
        if value.len() != 2 * BYTES {
            return None;
        }
        let mut bytes = [0; BYTES];
        for (byte, digits) in bytes.iter_mut().zip(value.chunks_exact(2)) {
            let digit = |at: usize| char::from(digits[at]).to_digit(16);
            *byte = u8::try_from(digit(0)? * 16 + digit(1)?).ok()?;
        }
        let (version, rest) = bytes.split_first()?;
        let (begun, rest) = rest.split_first_chunk()?;
        let (used, rest) = rest.split_first_chunk()?;
        let (backend, rest) = rest.split_first_chunk()?;
        let (ip, rest) = rest.split_first_chunk::<16>()?;
        let (port, _) = rest.split_first_chunk()?;
        let ip = IpAddr::V6(Ipv6Addr::from(*ip)).to_canonical();
        (*version == VERSION).then(|| Self {
            endpoint: EndpointAddr::new(ip, u16::from_be_bytes(*port)),
            backend: Scope(u32::from_be_bytes(*backend)),
            begun_ms: u64::from_be_bytes(*begun),
            used_ms: u64::from_be_bytes(*used),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn how(kind: SessionKind, absolute: Option<u64>, idle: Option<u64>) -> SessionPersistence {
        SessionPersistence {
            kind,
            name: "s".into(),
            per_rule: false,
            absolute_timeout: absolute.map(Duration::from_secs),
            idle_timeout: idle.map(Duration::from_secs),
        }
    }

    fn cookie(permanent: bool) -> SessionKind {
        SessionKind::Cookie { permanent, path: "/api".into() }
    }

    fn session(ip: &str) -> Session {
        let endpoint = EndpointAddr::new(ip.parse().unwrap(), 8080);
        Session { endpoint, backend: Scope(7), begun_ms: 1_000_000, used_ms: 1_000_000 }
    }

    const RULE: Scope = Scope(0x00c0_ffee);

    /// The one line that a client is told, and a request with what it sends back.
    fn told(how: &SessionPersistence, session: &Session, now_ms: u64) -> (String, HeaderMap) {
        let edits = how.tell(RULE, session, now_ms);
        let (name, line) = edits.lines().next().unwrap();
        let line = line.to_str().unwrap().to_owned();
        let mut headers = HeaderMap::new();
        if *name == SET_COOKIE {
            let pair = line.split(';').next().unwrap();
            headers.append(COOKIE, "other=1; s=bad".parse().unwrap());
            headers.append(COOKIE, format!("ss=1; {pair};last=2").parse().unwrap());
        } else {
            headers.insert(name, line.parse().unwrap());
        }
        (line, headers)
    }

    #[test]
    fn what_a_client_is_told_is_read_again() {
        for kind in [cookie(false), cookie(true), SessionKind::Header] {
            let how = how(kind, Some(60), None);
            for ip in ["10.1.2.3", "fd00::1"] {
                let (line, headers) = told(&how, &session(ip), 1_000_000);
                assert_eq!(how.read(RULE, &headers, 1_000_001), Some(session(ip)), "{line}");
            }
        }
        let none = HeaderMap::new();
        assert_eq!(how(cookie(false), None, None).read(RULE, &none, 0), None);
        assert_eq!(how(SessionKind::Header, None, None).read(RULE, &none, 0), None);
    }

    #[test]
    fn a_name_that_nobody_gave_is_each_rules_own() {
        for kind in [cookie(false), SessionKind::Header] {
            let how = SessionPersistence { per_rule: true, ..how(kind, None, None) };
            let (line, headers) = told(&how, &session("10.1.2.3"), 1_000_000);
            let names = headers.keys().map(HeaderName::as_str).collect::<String>() + &line;
            assert!(names.contains("s-00c0ffee"), "{names}");
            assert_eq!(how.read(RULE, &headers, 1_000_000), Some(session("10.1.2.3")), "{line}");
            assert_eq!(how.read(Scope(0x00c0_ffef), &headers, 1_000_000), None, "{line}");
            assert_eq!(how.named(Scope::default()), "s", "without a rule there is nothing to tell apart");
        }
    }

    #[test]
    fn scopes_are_told_apart_by_every_part_of_their_names() {
        let scope = |rule: &str, namespace: &str, name: &str, port: u16| {
            Scope::default().with(rule.as_bytes()).backend(&ObjectName::new(namespace, name), port)
        };
        let all = [
            scope("a/b/0", "a", "b", 80),
            scope("a/b/1", "a", "b", 80),
            scope("a/b/0", "ab", "", 80),
            scope("a/b/0", "", "ab", 80),
            scope("a/b/0", "a", "b", 81),
        ];
        for (at, one) in all.iter().enumerate() {
            assert!(!all[..at].contains(one), "{all:?}");
        }
    }

    #[test]
    fn a_cookie_lives_as_its_session_does() {
        fn check(permanent: bool, absolute: Option<u64>, now_ms: u64, end: &str) {
            let (line, _) = told(&how(cookie(permanent), absolute, None), &session("10.1.2.3"), now_ms);
            let attributes = line.split_once(';').unwrap().1;
            assert_eq!(attributes, format!(" Path=/api; HttpOnly{end}"), "{permanent} {absolute:?} {now_ms}");
        }
        check(false, Some(60), 1_000_000, "");
        check(true, Some(60), 1_000_000, "; Max-Age=60");
        check(true, Some(60), 1_020_000, "; Max-Age=40");
        check(true, Some(60), 2_000_000, "; Max-Age=1");
    }

    #[test]
    fn a_session_ends_by_age_and_by_disuse() {
        fn check(absolute: Option<u64>, idle: Option<u64>, used_ms: u64, now_ms: u64, lives: bool) {
            let how = how(SessionKind::Header, absolute, idle);
            let session = Session { used_ms, ..session("10.1.2.3") };
            let (_, headers) = told(&how, &session, now_ms);
            let label = format!("{absolute:?} {idle:?} {used_ms} {now_ms}");
            assert_eq!(how.read(RULE, &headers, now_ms), lives.then_some(session), "{label}");
        }
        check(None, None, 1_000_000, u64::MAX, true);
        check(Some(60), None, 1_000_000, 1_059_999, true);
        check(Some(60), None, 1_059_000, 1_060_000, false);
        check(None, Some(5), 1_059_000, 1_063_999, true);
        check(None, Some(5), 1_059_000, 1_064_000, false);
        check(Some(60), Some(5), 1_059_000, 1_060_000, false);
        // A clock that was put back ends nothing.
        check(Some(60), Some(5), 1_000_000, 1, true);
    }

    proptest::proptest! {
        #[test]
        fn whatever_a_client_sends_is_read_or_ignored(value in proptest::collection::vec(0x20_u8..0x7f, 0..100)) {
            let how = how(SessionKind::Header, None, None);
            let mut headers = HeaderMap::new();
            headers.insert("s", HeaderValue::from_bytes(&value).unwrap());
            proptest::prop_assert_eq!(how.read(RULE, &headers, 0), Session::decode(&value));
            let hex: Vec<u8> = value.iter().map(|byte| b"0123456789abcdef"[usize::from(byte & 15)]).collect();
            let mut hex = [b"01".to_vec(), hex].concat();
            hex.resize(2 * BYTES, b'0');
            let decoded = Session::decode(&hex).unwrap();
            proptest::prop_assert_eq!(decoded.encode().into_bytes(), hex);
        }
    }
}
