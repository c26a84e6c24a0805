//! Identities in Istio's spelling, `TRUST_DOMAIN/ns/NAMESPACE/sa/SERVICE_ACCOUNT`, and what patterns say of them.
//!
//! Namespace and service account are read off the identity, never off an address.

use super::pattern::Pattern;

/// A SPIFFE id begins so; policies leave it out.
const SCHEME: &str = "spiffe://";
/// Stands for the mesh's own trust domain, whatever that is (Istio, `pkg/security/trustdomain`).
const OWN: &str = "cluster.local";

/// A proven identity taken apart.
#[derive(Clone, Copy, Debug)]
pub struct Principal<'a> {
    /// All of it.
    pub all: &'a str,
    /// The namespace.
    pub namespace: Option<&'a str>,
    /// `NAMESPACE/sa/SERVICE_ACCOUNT`.
    pub account: Option<&'a str>,
}

impl<'a> Principal<'a> {
    /// Of an identity, with or without its scheme.
    pub fn new(identity: &'a str) -> Self {
        let all = identity.strip_prefix(SCHEME).unwrap_or(identity);
        let account = all.split_once("/ns/").map(|(_, account)| account).filter(|account| {
            let mut parts = account.split('/');
            let named = |part: Option<&str>| part.is_some_and(|part| !part.is_empty());
            named(parts.next()) && parts.next() == Some("sa") && named(parts.next()) && parts.next().is_none()
        });
        let namespace = account.and_then(|account| account.split('/').next());
        Self { all, namespace, account }
    }
}

/// Patterns of `principals`. One with the own trust domain, or `cluster.local`, holds for all of `domains`.
pub fn principals(values: &[String], domains: &[String]) -> Vec<Pattern> {
    let values = values.iter().map(|value| value.strip_prefix(SCHEME).unwrap_or(value));
    values.flat_map(|value| in_domains(value, domains)).map(|value| Pattern::parse(&value)).collect()
}

fn in_domains(value: &str, domains: &[String]) -> Vec<String> {
    match value.split_once('/') {
        Some((domain, rest)) if domain == OWN || domains.iter().any(|own| own == domain) => {
            domains.iter().map(|domain| format!("{domain}/{rest}")).collect()
        }
        _ => vec![value.to_owned()],
    }
}

/// Patterns of `serviceAccounts`, compared with [`Principal::account`]. A name alone is of the policy's namespace.
pub fn accounts(values: &[String], namespace: &str) -> Vec<Pattern> {
    let exact = |value: &String| {
        let (namespace, name) = value.split_once('/').unwrap_or((namespace, value));
        Pattern::Exact(format!("{namespace}/sa/{name}").into_bytes().into())
    };
    values.iter().map(exact).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authz::pattern::Patterns;

    #[test]
    fn an_identity_says_its_namespace_and_account() {
        fn check(identity: &str, namespace: Option<&str>, account: Option<&str>) {
            let principal = Principal::new(identity);
            assert_eq!((principal.namespace, principal.account), (namespace, account), "{identity}");
        }
        check("spiffe://td/ns/shop/sa/web", Some("shop"), Some("shop/sa/web"));
        check("td/ns/shop/sa/web", Some("shop"), Some("shop/sa/web"));
        check("td/ns/ns/sa/sa", Some("ns"), Some("ns/sa/sa"));
        for odd in
            ["", "td", "td/ns/shop", "td/ns/shop/sa/", "td/ns//sa/web", "td/ns/shop/sa/web/x", "td/sa/web"]
        {
            check(odd, None, None);
        }
    }

    #[test]
    fn the_own_trust_domain_stands_for_its_aliases() {
        let domains = ["own.test".to_owned(), "old.test".to_owned()];
        fn check(domains: &[String], value: &str, identity: &str, want: bool) {
            let patterns = Patterns::new(principals(&[value.to_owned()], domains));
            assert_eq!(patterns.fit_some(identity.as_bytes()), want, "{value} {identity}");
        }
        check(&domains, "cluster.local/ns/a/sa/b", "own.test/ns/a/sa/b", true);
        check(&domains, "old.test/ns/a/sa/b", "own.test/ns/a/sa/b", true);
        check(&domains, "own.test/ns/a/*", "old.test/ns/a/sa/b", true);
        check(&domains, "cluster.local/ns/a/sa/b", "other.test/ns/a/sa/b", false);
        check(&domains, "other.test/ns/a/sa/b", "own.test/ns/a/sa/b", false);
        check(&domains, "spiffe://own.test/ns/a/sa/b", "own.test/ns/a/sa/b", true);
        check(&domains, "*/ns/a/sa/b", "other.test/ns/a/sa/b", true);
        check(&domains, "*", "other.test/x", true);
    }

    #[test]
    fn an_account_without_namespace_is_of_the_policys() {
        let patterns = Patterns::new(accounts(&["web".into(), "test/curl".into()], "shop"));
        assert!(patterns.fit_some(b"shop/sa/web") && patterns.fit_some(b"test/sa/curl"));
        assert!(!patterns.fit_some(b"test/sa/web") && !patterns.fit_some(b"shop/sa/web2"));
    }
}
