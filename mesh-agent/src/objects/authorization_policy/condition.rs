//! The keys of `when`: which are known, which a node agent can't know, and why.
//!
//! From Istio's "Authorization Policy Conditions" and `pkg/config/security`. `crate::authz` makes tests of them.

use http::HeaderName;

/// What a condition looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConditionKey {
    /// `request.headers[NAME]`.
    Header(HeaderName),
    /// `source.ip`.
    SourceIp,
    /// `remote.ip`.
    RemoteIp,
    /// `source.namespace`.
    Namespace,
    /// `source.serviceAccount`.
    ServiceAccount,
    /// `source.principal`.
    Principal,
    /// `request.auth.principal`.
    RequestPrincipal,
    /// `request.auth.audiences`.
    Audiences,
    /// `request.auth.presenter`.
    Presenter,
    /// `request.auth.claims[NAME]`, and `[NAME]` again for each level below.
    Claims(Vec<String>),
    /// `destination.ip`.
    DestinationIp,
    /// `destination.port`.
    DestinationPort,
    /// `connection.sni`.
    Sni,
    /// None that can be judged; the text says why.
    Unknown(&'static str),
}

impl ConditionKey {
    /// What `key` stands for.
    pub fn parse(key: &str) -> Self {
        match key {
            "source.ip" => Self::SourceIp,
            "remote.ip" => Self::RemoteIp,
            "source.namespace" => Self::Namespace,
            "source.serviceAccount" => Self::ServiceAccount,
            "source.principal" => Self::Principal,
            "request.auth.principal" => Self::RequestPrincipal,
            "request.auth.audiences" => Self::Audiences,
            "request.auth.presenter" => Self::Presenter,
            "destination.ip" => Self::DestinationIp,
            "destination.port" => Self::DestinationPort,
            "connection.sni" => Self::Sni,
            "destination.namespace" => Self::Unknown("the policy's own namespace says it"),
            "destination.name" | "destination.user" => {
                Self::Unknown("Istio has given it up: use the selector")
            }
            _ => Self::with_brackets(key),
        }
    }

    fn with_brackets(key: &str) -> Self {
        let unknown = Self::Unknown("there is no such key");
        if key.starts_with("destination.labels[") {
            return Self::Unknown("the selector says it");
        }
        if key.starts_with("experimental.envoy.filters.") {
            return Self::Unknown("it is about Envoy's filters, which the agent hasn't");
        }
        if key.starts_with("request.experimental.inline.headers[") {
            return Self::Unknown("it is experimental: use request.headers");
        }
        if let Some(rest) = key.strip_prefix("request.headers") {
            return match bracketed(rest).as_deref() {
                Some([name]) if name.starts_with(':') => {
                    Self::Unknown("pseudo-headers are judged as methods, paths and hosts")
                }
                Some([name]) => name.parse().map_or(unknown, Self::Header),
                _ => unknown,
            };
        }
        match key.strip_prefix("request.auth.claims").and_then(bracketed) {
            Some(names) => Self::Claims(names.iter().map(ToString::to_string).collect()),
            None => unknown,
        }
    }

    /// True if a connection that isn't carried as requests has nothing of the kind.
    pub const fn is_http(&self) -> bool {
        matches!(
            self,
            Self::Header(_) | Self::RequestPrincipal | Self::Audiences | Self::Presenter | Self::Claims(_)
        )
    }
}

/// `[a][b]` taken apart.
fn bracketed(text: &str) -> Option<Vec<&str>> {
    let inner = text.strip_prefix('[')?.strip_suffix(']')?;
    let names: Vec<_> = inner.split("][").collect();
    names.iter().all(|name| !name.is_empty() && !name.contains(['[', ']'])).then_some(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_of_the_reference_is_known_or_refused_by_name() {
        let check = |key: &str, want: ConditionKey| assert_eq!(ConditionKey::parse(key), want, "{key}");
        check("request.headers[User-Agent]", ConditionKey::Header(http::header::USER_AGENT));
        check("source.ip", ConditionKey::SourceIp);
        check("remote.ip", ConditionKey::RemoteIp);
        check("source.namespace", ConditionKey::Namespace);
        check("source.serviceAccount", ConditionKey::ServiceAccount);
        check("source.principal", ConditionKey::Principal);
        check("request.auth.principal", ConditionKey::RequestPrincipal);
        check("request.auth.audiences", ConditionKey::Audiences);
        check("request.auth.presenter", ConditionKey::Presenter);
        check("request.auth.claims[iss]", ConditionKey::Claims(vec!["iss".into()]));
        check("request.auth.claims[a][b]", ConditionKey::Claims(vec!["a".into(), "b".into()]));
        check("destination.ip", ConditionKey::DestinationIp);
        check("destination.port", ConditionKey::DestinationPort);
        check("connection.sni", ConditionKey::Sni);
        for key in [
            "experimental.envoy.filters.network.mysql_proxy[db.table]",
            "request.experimental.inline.headers[x]",
            "request.headers[:path]",
            "request.headers[a b]",
            "request.headers",
            "request.headers[]",
            "request.headers[a][b]",
            "request.auth.claims",
            "request.auth.claims[a",
            "destination.labels[version]",
            "destination.namespace",
            "source.labels[app]",
            "source.IP",
            "",
        ] {
            assert!(matches!(ConditionKey::parse(key), ConditionKey::Unknown(_)), "{key}");
        }
    }
}
