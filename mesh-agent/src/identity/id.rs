//! SPIFFE ids: the names that certificates are for, read strictly and cheap to keep.
//!
//! What isn't spelled as SPIFFE-ID 2 says is no id, so that no two spellings mean one workload. Used by everything in
//! `identity`, and by whoever asks who a peer is.

use std::fmt;
use std::sync::Arc;

use serde::{Serialize, Serializer};

const SCHEME: &str = "spiffe://";
/// SPIFFE-ID, 2.3: longer ones need not be understood by anybody.
const LONGEST: usize = 2048;

/// `spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/SERVICE_ACCOUNT`, or another path of the trust domain.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId(Arc<str>);

/// Why a text is no SPIFFE id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotSpiffe {
    /// Another URI.
    #[error("it doesn't begin with spiffe://")]
    Scheme,
    /// Empty, or with characters that no trust domain has.
    #[error("its trust domain isn't one")]
    TrustDomain,
    /// Empty segments, dots, or characters that no path has.
    #[error("its path isn't one")]
    Path,
    /// More than 2048 bytes.
    #[error("it is longer than 2048 bytes")]
    TooLong,
}

impl SpiffeId {
    /// Of a service account, as Istio spells it. Names of Kubernetes have no character that could change its meaning; one
    /// that isn't such a name makes an id that [`Self::parse`] refuses, or one with more segments that has no account.
    pub fn new(trust_domain: &str, namespace: &str, service_account: &str) -> Self {
        Self(format!("{SCHEME}{trust_domain}/ns/{namespace}/sa/{service_account}").into())
    }

    /// An id as it stands in a certificate.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn parse(text: &str) -> Result<Self, NotSpiffe> {
        if text.len() > LONGEST {
            return Err(NotSpiffe::TooLong);
        }
        let rest = text.strip_prefix(SCHEME).ok_or(NotSpiffe::Scheme)?;
        let (domain, path) = rest.split_once('/').ok_or(NotSpiffe::Path)?;
        let in_domain =
            |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.' | '_');
        if domain.is_empty() || domain.len() > 255 || !domain.chars().all(in_domain) {
            return Err(NotSpiffe::TrustDomain);
        }
        let in_path = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
        let segment = |s: &str| !matches!(s, "" | "." | "..") && s.chars().all(in_path);
        if path.split('/').all(segment) { Ok(Self(text.into())) } else { Err(NotSpiffe::Path) }
    }

    /// With the scheme.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// As Istio's policies spell it: without the scheme.
    pub fn principal(&self) -> &str {
        self.0.strip_prefix(SCHEME).unwrap_or(&self.0)
    }

    /// Whose ids these are.
    pub fn trust_domain(&self) -> &str {
        self.principal().split_once('/').map_or("", |(domain, _)| domain)
    }

    /// What follows the trust domain, without its slash.
    pub fn path(&self) -> &str {
        self.principal().split_once('/').map_or("", |(_, path)| path)
    }

    /// None for an id that isn't a service account's.
    pub fn namespace(&self) -> Option<&str> {
        self.account().map(|(namespace, _)| namespace)
    }

    /// None for an id that isn't a service account's.
    pub fn service_account(&self) -> Option<&str> {
        self.account().map(|(_, account)| account)
    }

    fn account(&self) -> Option<(&str, &str)> {
        let mut segments = self.path().split('/');
        let all = (segments.next()?, segments.next()?, segments.next()?, segments.next()?, segments.next());
        match all {
            ("ns", namespace, "sa", account, None) => Some((namespace, account)),
            _ => None,
        }
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for SpiffeId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_account_s_id_has_parts_and_others_have_none() {
        let id = SpiffeId::new("cluster.local", "shop", "web");
        assert_eq!(id.to_string(), "spiffe://cluster.local/ns/shop/sa/web");
        assert_eq!(SpiffeId::parse(id.as_str()).unwrap(), id);
        assert_eq!(id.principal(), "cluster.local/ns/shop/sa/web");
        assert_eq!(id.trust_domain(), "cluster.local");
        assert_eq!((id.namespace(), id.service_account()), (Some("shop"), Some("web")));
        for other in
            ["spiffe://td/web", "spiffe://td/ns/a/sa", "spiffe://td/ns/a/sa/b/c", "spiffe://td/sa/a/ns/b"]
        {
            let id = SpiffeId::parse(other).unwrap();
            assert_eq!((id.namespace(), id.service_account()), (None, None), "{other}");
        }
    }

    #[test]
    fn only_the_strict_spelling_is_an_id() {
        let long = format!("spiffe://td/{}", "a".repeat(2048));
        for (text, wrong) in [
            ("https://td/ns/a/sa/b", NotSpiffe::Scheme),
            ("SPIFFE://td/ns/a/sa/b", NotSpiffe::Scheme),
            ("spiffe:///ns/a/sa/b", NotSpiffe::TrustDomain),
            ("spiffe://TD/ns/a/sa/b", NotSpiffe::TrustDomain),
            ("spiffe://td:80/ns/a/sa/b", NotSpiffe::TrustDomain),
            ("spiffe://user@td/ns/a/sa/b", NotSpiffe::TrustDomain),
            ("spiffe://td", NotSpiffe::Path),
            ("spiffe://td/", NotSpiffe::Path),
            ("spiffe://td/ns//sa/b", NotSpiffe::Path),
            ("spiffe://td/ns/a/sa/b/", NotSpiffe::Path),
            ("spiffe://td/ns/a/sa/..", NotSpiffe::Path),
            ("spiffe://td/ns/a/sa/./b", NotSpiffe::Path),
            ("spiffe://td/ns/a/sa/b%2fc", NotSpiffe::Path),
            ("spiffe://td/ns/a/sa/b?x", NotSpiffe::Path),
            ("spiffe://td/ns/a/sa/b#x", NotSpiffe::Path),
            ("spiffe://td/ns/a/sa/b\0", NotSpiffe::Path),
            (long.as_str(), NotSpiffe::TooLong),
        ] {
            assert_eq!(SpiffeId::parse(text), Err(wrong), "{text}");
        }
    }
}
