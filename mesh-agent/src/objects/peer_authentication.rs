//! PeerAuthentication: which connections to pods have to be mutual TLS.
//!
//! `model::build` finds out which of them hold for a pod. What looks like a narrower policy than it would be is refused
//! rather than read as a wider one.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, de};

use super::field::{NOT_A_PORT, nullable};
use super::{FieldError, Metadata};

/// What is read of a PeerAuthentication.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct PeerAuthentication {
    /// Metadata.
    pub metadata: Metadata,
    /// `spec`.
    #[serde(default, deserialize_with = "nullable")]
    pub spec: PeerAuthenticationSpec,
}

/// What is read of `spec`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PeerAuthenticationSpec {
    /// Pods that it holds for; all of its namespace, or of the mesh, without one.
    #[serde(default)]
    pub selector: Option<PodSelector>,
    /// For every port.
    #[serde(default, deserialize_with = "nullable")]
    pub mtls: MutualTls,
    /// For single ports of the pods, by number.
    #[serde(default, deserialize_with = "nullable")]
    pub port_level_mtls: BTreeMap<PortKey, Option<MutualTls>>,
}

/// `selector`. A field of another name would make a policy for some pods one for all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PodSelector {
    /// Labels, all of which a pod must have.
    #[serde(default, deserialize_with = "nullable")]
    pub match_labels: BTreeMap<String, String>,
}

/// `mtls`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct MutualTls {
    /// Which connections are accepted.
    #[serde(default, deserialize_with = "nullable")]
    pub mode: TlsModeSpec,
}

/// `mode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum TlsModeSpec {
    /// As the next wider policy has it.
    #[default]
    Unset,
    /// Plain text alone.
    Disable,
    /// Either.
    Permissive,
    /// Mutual TLS alone.
    Strict,
}

/// A port as a key of a mapping: a number in YAML, text in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortKey(pub u16);

impl<'de> Deserialize<'de> for PortKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Key;
        impl de::Visitor<'_> for Key {
            type Value = PortKey;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a port, a number from 1 to 65535")
            }
            fn visit_u64<E: de::Error>(self, value: u64) -> Result<PortKey, E> {
                self.visit_str(&value.to_string())
            }
            fn visit_i64<E: de::Error>(self, value: i64) -> Result<PortKey, E> {
                self.visit_str(&value.to_string())
            }
            fn visit_str<E: de::Error>(self, value: &str) -> Result<PortKey, E> {
                let port = value.parse().ok().filter(|port| *port != 0 && !value.starts_with('+'));
                let refused =
                    || E::custom(format_args!("{value:?} {NOT_A_PORT}: expected a number from 1 to 65535"));
                port.map(PortKey).ok_or_else(refused)
            }
        }
        deserializer.deserialize_any(Key)
    }
}

impl PeerAuthentication {
    /// The API's rule between fields: single ports are a workload's, not a namespace's.
    pub fn validate(&self) -> Result<(), FieldError> {
        if !self.spec.port_level_mtls.is_empty() && self.selector().is_none() {
            return Err(FieldError::new(
                "spec.portLevelMtls",
                "is only possible with a selector: name the pods whose ports these are in spec.selector.matchLabels",
            ));
        }
        Ok(())
    }

    /// The labels that its pods must have; None for all pods. A selector without labels is none, as in Istio.
    pub fn selector(&self) -> Option<&BTreeMap<String, String>> {
        self.spec.selector.as_ref().map(|selector| &selector.match_labels).filter(|labels| !labels.is_empty())
    }

    /// True if it holds for a pod with these labels.
    pub fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        self.selector().is_none_or(|wanted| wanted.iter().all(|(key, value)| labels.get(key) == Some(value)))
    }

    /// Its namespace.
    pub fn namespace(&self) -> &str {
        self.metadata.namespace.as_deref().unwrap_or("default")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn parse(spec: &str) -> Result<PeerAuthentication, String> {
        let text = format!("{{metadata: {{name: a, namespace: shop}}, spec: {spec}}}");
        let policy: PeerAuthentication = serde_yaml_ng::from_str(&text).map_err(|error| error.to_string())?;
        policy.validate().map_err(|error| format!("{}: {}", error.field, error.message))?;
        Ok(policy)
    }

    #[test]
    fn the_fields_are_read() {
        let policy = parse("{selector: {matchLabels: {app: cart}}, mtls: {mode: STRICT}, portLevelMtls: {8080: {mode: DISABLE}, 81: {}, 82: null}}").unwrap();
        assert_eq!(policy.spec.mtls.mode, TlsModeSpec::Strict);
        let ports: Vec<_> = policy
            .spec
            .port_level_mtls
            .iter()
            .map(|(port, mtls)| (port.0, mtls.unwrap_or_default().mode))
            .collect();
        assert_eq!(ports, [(81, TlsModeSpec::Unset), (82, TlsModeSpec::Unset), (8080, TlsModeSpec::Disable)]);
        let json = r#"{"metadata": {"name": "a"}, "spec": {"selector": {"matchLabels": {"a": "b"}}, "portLevelMtls": {"8080": {"mode": "PERMISSIVE"}}}}"#;
        let policy: PeerAuthentication = serde_json::from_str(json).unwrap();
        assert_eq!(policy.spec.port_level_mtls.keys().copied().collect::<Vec<_>>(), [PortKey(8080)]);
        for unset in ["{}", "null", "{mtls: null}", "{mtls: {}}", "{mtls: {mode: UNSET}}", "{selector: {}}"] {
            let policy = parse(unset).unwrap();
            assert_eq!((policy.spec.mtls.mode, policy.selector()), (TlsModeSpec::Unset, None), "{unset}");
        }
    }

    #[test]
    fn bad_values_are_refused() {
        for (spec, said) in [
            ("{mtls: {mode: strict}}", "mode"),
            ("{mtls: {mode: ON}}", "mode"),
            ("{selector: {matchExpressions: []}}", "matchExpressions"),
            ("{selector: {labels: {a: b}}}", "labels"),
            ("{portLevelMtls: {80: {mode: STRICT}}}", "selector"),
            ("{selector: {matchLabels: {}}, portLevelMtls: {80: {mode: STRICT}}}", "selector"),
            ("{selector: {matchLabels: {a: b}}, portLevelMtls: {0: {}}}", NOT_A_PORT),
            ("{selector: {matchLabels: {a: b}}, portLevelMtls: {65536: {}}}", NOT_A_PORT),
            ("{selector: {matchLabels: {a: b}}, portLevelMtls: {http: {}}}", NOT_A_PORT),
        ] {
            let error = parse(spec).unwrap_err();
            assert!(error.contains(said), "{spec}: {error}");
        }
    }

    #[test]
    fn a_selector_wants_all_of_its_labels() {
        let labels = |text: &str| serde_yaml_ng::from_str::<BTreeMap<String, String>>(text).unwrap();
        let policy = parse("{selector: {matchLabels: {app: cart, version: v1}}}").unwrap();
        assert!(policy.selects(&labels("{app: cart, version: v1, more: x}")));
        assert!(
            !policy.selects(&labels("{app: cart}")) && !policy.selects(&labels("{app: cart, version: v2}"))
        );
        assert!(parse("{}").unwrap().selects(&labels("{}")));
    }
}
