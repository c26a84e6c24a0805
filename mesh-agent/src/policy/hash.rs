//! What a request or connection is hashed by: one 64-bit number that is the same in every agent and after every restart.
//!
//! Clients keep their endpoint only if all agents agree, so the hash is a fixed one: FNV-1a over the bytes, finished by
//! SplitMix64's mixer so that every bit counts. The hashers of std and foldhash are seeded anew by each process. Like
//! Envoy's xxHash it isn't keyed: whoever picks the value of a header can pick its endpoint, which is what it is for.

use std::net::IpAddr;

use http::header::COOKIE;
use http::{HeaderMap, Uri};

use super::{Cookie, HashKey};

/// What a request is hashed by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashInput {
    /// This.
    Value(u64),
    /// It carries nothing to hash: by chance (Envoy, hash policy).
    Missing,
    /// It carries no cookie: this one is hashed, and given to the client with the answer.
    NewCookie {
        /// Of the cookie's value.
        hash: u64,
        /// A `Set-Cookie` header's value.
        set_cookie: String,
    },
}

impl HashInput {
    /// The number, if there is one.
    pub fn value(&self) -> Option<u64> {
        match self {
            Self::Value(hash) | Self::NewCookie { hash, .. } => Some(*hash),
            Self::Missing => None,
        }
    }
}

/// What a request is hashed by. `fresh` is a random number, for the value of a cookie that is given out.
pub fn of_request(key: &HashKey, uri: &Uri, headers: &HeaderMap, client: IpAddr, fresh: u64) -> HashInput {
    match key {
        HashKey::SourceIp => HashInput::Value(of_address(client)),
        HashKey::Header(name) => {
            let mut values = headers.get_all(name).iter().peekable();
            match values.peek() {
                Some(_) => HashInput::Value(values.fold(0, |hash, value| join(hash, value.as_bytes()))),
                None => HashInput::Missing,
            }
        }
        HashKey::Query(name) => match parameter(uri, name) {
            Some(value) => HashInput::Value(of_bytes(value.as_bytes())),
            None => HashInput::Missing,
        },
        HashKey::Cookie(cookie) => of_cookie(cookie, headers, fresh),
    }
}

/// What a connection is hashed by whose requests nobody sees.
pub fn of_connection(key: &HashKey, client: IpAddr) -> Option<u64> {
    matches!(key, HashKey::SourceIp).then(|| of_address(client))
}

/// Of a client's address.
pub fn of_address(ip: IpAddr) -> u64 {
    of_bytes(&mesh_common::octets(crate::addr::to_map(ip)))
}

/// Of anything.
pub fn of_bytes(bytes: &[u8]) -> u64 {
    mix(bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)))
}

/// Finalizer of SplitMix64 (Steele, Lea, Flood 2014): every input bit reaches every output bit.
pub fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

fn join(hash: u64, bytes: &[u8]) -> u64 {
    mix(hash.rotate_left(1) ^ of_bytes(bytes))
}

fn of_cookie(cookie: &Cookie, headers: &HeaderMap, fresh: u64) -> HashInput {
    let lines = headers.get_all(COOKIE).iter().filter_map(|line| line.to_str().ok());
    let mut pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    if let Some((_, value)) = pairs.find(|(name, _)| *name == cookie.name) {
        return HashInput::Value(of_bytes(value.trim_matches('"').as_bytes()));
    }
    let Some(attributes) = &cookie.attributes else { return HashInput::Missing };
    let value = format!("{fresh:016x}");
    let set_cookie = format!("{}=\"{value}\"{attributes}", cookie.name);
    HashInput::NewCookie { hash: of_bytes(value.as_bytes()), set_cookie }
}

fn parameter<'a>(uri: &'a Uri, name: &str) -> Option<&'a str> {
    let pairs = uri.query()?.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs.filter(|(key, _)| *key == name).map(|(_, value)| value).next()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const FRESH: u64 = 7;

    fn hash(key: &HashKey, uri: &str, lines: &[(&'static str, &'static str)]) -> HashInput {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, http::HeaderValue::from_static(value));
        }
        of_request(key, &uri.parse().unwrap(), &headers, "10.0.0.1".parse().unwrap(), FRESH)
    }

    fn cookie(attributes: Option<&str>) -> HashKey {
        HashKey::Cookie(Cookie { name: "user".into(), attributes: attributes.map(str::to_owned) })
    }

    #[test]
    fn the_hash_is_the_same_in_every_agent() {
        assert_eq!(of_bytes(b""), mix(0xcbf2_9ce4_8422_2325));
        assert_eq!(of_bytes(b"a"), mix(0xaf63_dc4c_8601_ec8c), "FNV-1a's published test vector");
    }

    #[test]
    fn each_key_finds_its_value_and_nothing_else() {
        fn check(key: &HashKey, uri: &str, lines: &[(&'static str, &'static str)], want: Option<&str>) {
            let want = want.map_or(HashInput::Missing, |value| HashInput::Value(of_bytes(value.as_bytes())));
            assert_eq!(hash(key, uri, lines), want, "{key:?} {uri} {lines:?}");
        }
        let query = HashKey::Query("id".into());
        check(&query, "/?id=5&x=1", &[], Some("5"));
        check(&query, "/?xid=5", &[], None);
        check(&query, "/?id", &[], Some(""));
        check(&query, "/", &[], None);
        let user = cookie(None);
        check(&user, "/", &[("cookie", "a=1; user=me")], Some("me"));
        check(&user, "/", &[("cookie", "a=1"), ("cookie", "user=\"me\"")], Some("me"));
        check(&user, "/", &[("cookie", "username=me")], None);
        check(&user, "/", &[], None);
    }

    #[test]
    fn a_header_is_hashed_with_all_its_lines() {
        let key = HashKey::Header(http::HeaderName::from_static("x-user"));
        let one = hash(&key, "/", &[("x-user", "a")]);
        assert_eq!(one, hash(&key, "/", &[("x-other", "b"), ("x-user", "a")]));
        assert_ne!(one, hash(&key, "/", &[("x-user", "b")]));
        assert_ne!(one, hash(&key, "/", &[("x-user", "a"), ("x-user", "b")]));
        assert_eq!(hash(&key, "/", &[]), HashInput::Missing);
    }

    #[test]
    fn a_cookie_that_is_given_out_hashes_like_the_one_that_comes_back() {
        let key = cookie(Some("; Max-Age=60; Path=/; HttpOnly"));
        let HashInput::NewCookie { hash: given, set_cookie } = hash(&key, "/", &[]) else {
            unreachable!("there is no cookie yet")
        };
        assert_eq!(set_cookie, "user=\"0000000000000007\"; Max-Age=60; Path=/; HttpOnly");
        assert_eq!(hash(&key, "/", &[("cookie", "user=\"0000000000000007\"")]).value(), Some(given));
    }
}
