//! BackendTLSPolicy: TLS to a Service's endpoints, and who they have to prove to be (GEP-1897).

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_yaml_ng::Value;

use super::gateway::{DottedName, GroupName, Hostname, KindName, List, ObjectRef, RefName, each, unique};
use super::{FieldError, Metadata};

/// What is read of a BackendTLSPolicy.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct BackendTlsPolicy {
    /// Metadata.
    pub metadata: Metadata,
    /// `spec`.
    pub spec: BackendTlsPolicySpec,
    /// It has no valid version: to what it names nothing may be sent.
    #[serde(skip)]
    pub closed: bool,
}

/// What is read of `spec`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendTlsPolicySpec {
    /// Services of its own namespace, or ports of them.
    pub target_refs: List<TlsTarget, 1, 16>,
    /// Who they have to be.
    pub validation: TlsValidation,
    /// Of other implementations; none is known here.
    #[serde(default)]
    pub options: BTreeMap<String, String>,
}

/// One of `targetRefs`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TlsTarget {
    /// API group; empty for core.
    pub group: GroupName,
    /// Kind.
    pub kind: KindName,
    /// Name.
    pub name: RefName,
    /// A port's name; all ports where absent.
    #[serde(default)]
    pub section_name: Option<DottedName>,
}

/// `validation`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TlsValidation {
    /// ConfigMaps of its own namespace, each with `ca.crt`.
    #[serde(default)]
    pub ca_certificate_refs: List<ObjectRef, 0, 8>,
    /// `System`.
    #[serde(default, rename = "wellKnownCACertificates")]
    pub well_known: Option<String>,
    /// For SNI; the certificate's name too where `subjectAltNames` is empty.
    pub hostname: Hostname,
    /// The certificate has one of these.
    #[serde(default)]
    pub subject_alt_names: List<SubjectAltName, 0, 5>,
}

/// One of `subjectAltNames`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct SubjectAltName {
    /// Which of the two is given.
    #[serde(rename = "type")]
    pub kind: SubjectAltNameKind,
    /// A host name.
    #[serde(default)]
    pub hostname: Option<Hostname>,
    /// A URI, such as a SPIFFE id.
    #[serde(default)]
    pub uri: Option<String>,
}

/// `type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum SubjectAltNameKind {
    /// `hostname`.
    Hostname,
    /// `uri`.
    #[serde(rename = "URI")]
    Uri,
}

impl BackendTlsPolicy {
    /// The CRD's rules between fields.
    pub fn validate(&self) -> Result<(), FieldError> {
        self.spec.validate().map_err(|error| error.within("spec"))
    }

    /// What holds in place of one that isn't valid: that nothing is sent to what it names. None if it names nothing.
    pub fn stand_in(document: &Value) -> Option<Self> {
        let metadata = Metadata::deserialize(document.get("metadata")?).ok()?;
        let named = document.get("spec").and_then(|spec| spec.get("targetRefs")).and_then(Value::as_sequence);
        let named = named?.iter().filter_map(|target| TlsTarget::deserialize(target).ok());
        let targets: Vec<_> = named.take(16).collect();
        // It has to have one, which isn't asked for as the policy is closed.
        let hostname = Hostname::deserialize(&Value::from("closed.invalid")).ok()?;
        let validation = TlsValidation {
            ca_certificate_refs: List::default(),
            well_known: None,
            hostname,
            subject_alt_names: List::default(),
        };
        let spec = BackendTlsPolicySpec { target_refs: targets.into(), validation, options: BTreeMap::new() };
        (!spec.target_refs.is_empty()).then_some(Self { metadata, spec, closed: true })
    }

    /// Its namespace.
    pub fn namespace(&self) -> &str {
        self.metadata.namespace.as_deref().unwrap_or("default")
    }
}

impl BackendTlsPolicySpec {
    fn validate(&self) -> Result<(), FieldError> {
        unique("targetRefs", &self.target_refs, "", |target| {
            let section = target.section_name.as_deref().map(str::to_owned);
            Some((target.group.to_string(), target.kind.to_string(), target.name.to_string(), section))
        })?;
        let whole = self.target_refs.iter().find(|target| {
            let same = |other: &&TlsTarget| {
                (&other.group, &other.kind, &other.name) == (&target.group, &target.kind, &target.name)
            };
            target.section_name.is_none() && self.target_refs.iter().filter(same).count() > 1
        });
        if let Some(target) = whole {
            let message = format!(
                "{} {} is named as a whole and by its ports: give each reference to it a sectionName",
                &*target.kind, &*target.name
            );
            return Err(FieldError::new("targetRefs", message));
        }
        self.validation.validate().map_err(|error| error.within("validation"))?;
        if self.options.len() > 16 {
            return Err(FieldError::new("options", "too many elements: expected at most 16"));
        }
        Ok(())
    }
}

impl TlsValidation {
    fn validate(&self) -> Result<(), FieldError> {
        let refuse = |field: &str, message: &str| Err(FieldError::new(field, message));
        match (&self.well_known, self.ca_certificate_refs.is_empty()) {
            (Some(_), false) => {
                return refuse(
                    "caCertificateRefs",
                    "excludes wellKnownCACertificates: keep the one that signs the endpoints' certificates",
                );
            }
            (None, true) => {
                return refuse(
                    "caCertificateRefs",
                    "is missing: name a ConfigMap with ca.crt, or write wellKnownCACertificates: System",
                );
            }
            _ => {}
        }
        if self.well_known.as_deref().is_some_and(|well_known| well_known != "System") {
            return refuse("wellKnownCACertificates", "expected System");
        }
        if self.hostname.parse::<std::net::IpAddr>().is_ok() {
            return refuse("hostname", "is an address: expected a host name, which SNI can carry (RFC 6066)");
        }
        each("subjectAltNames", &self.subject_alt_names, SubjectAltName::validate)
    }
}

impl SubjectAltName {
    fn validate(&self) -> Result<(), FieldError> {
        let (given, field, other) = match self.kind {
            SubjectAltNameKind::Hostname => (self.hostname.is_some(), "hostname", self.uri.is_some()),
            SubjectAltNameKind::Uri => (self.uri.is_some(), "uri", self.hostname.is_some()),
        };
        if !given || other {
            return Err(FieldError::new(
                field,
                "of hostname and uri, exactly the one that type names is given",
            ));
        }
        let is_uri = |uri: &str| {
            uri.split_once(':').is_some_and(|(scheme, rest)| {
                let mut letters = scheme.chars();
                letters.next().is_some_and(|first| first.is_ascii_alphabetic())
                    && letters.all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
                    && !rest.is_empty()
            })
        };
        if self.uri.as_deref().is_some_and(|uri| uri.len() > 253 || !is_uri(uri)) {
            return Err(FieldError::new("uri", "expected an absolute URI of at most 253 bytes"));
        }
        Ok(())
    }

    /// The name that a certificate has to have.
    pub fn name(&self) -> &str {
        self.hostname.as_deref().or(self.uri.as_deref()).unwrap_or_default()
    }
}

impl TlsTarget {
    /// True for a core Service, the only kind that can have it here.
    pub fn is_service(&self) -> bool {
        self.group.is_empty() && &*self.kind == "Service"
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn check(validation: &str, targets: &str) -> Result<(), String> {
        let text = format!(
            "metadata: {{name: a, namespace: shop}}\nspec: {{targetRefs: [{targets}], validation: {{{validation}}}}}"
        );
        let policy = serde_yaml_ng::from_str::<BackendTlsPolicy>(&text).map_err(|error| error.to_string())?;
        policy.validate().map_err(|error| error.field)
    }

    const TARGET: &str = "{group: '', kind: Service, name: cart}";
    const MAP: &str = "{group: '', kind: ConfigMap, name: ca}";

    #[test]
    fn what_the_crd_refuses_is_refused_by_field() {
        let fine = [
            "hostname: a.test, wellKnownCACertificates: System".to_owned(),
            format!("hostname: a.test, caCertificateRefs: [{MAP}]"),
            format!(
                "hostname: a.test, caCertificateRefs: [{MAP}], subjectAltNames: [{{type: URI, uri: 'spiffe://a/b'}}, {{type: Hostname, hostname: b.test}}]"
            ),
        ];
        for validation in fine {
            assert_eq!(check(&validation, TARGET), Ok(()), "{validation}");
        }
        for (validation, field) in [
            ("hostname: a.test", "spec.validation.caCertificateRefs"),
            ("hostname: a.test, wellKnownCACertificates: Mine", "spec.validation.wellKnownCACertificates"),
            ("hostname: 10.0.0.1, wellKnownCACertificates: System", "spec.validation.hostname"),
            (
                "hostname: a.test, wellKnownCACertificates: System, subjectAltNames: [{type: URI, hostname: a.test}]",
                "spec.validation.subjectAltNames[0].uri",
            ),
            (
                "hostname: a.test, wellKnownCACertificates: System, subjectAltNames: [{type: URI, uri: nowhere}]",
                "spec.validation.subjectAltNames[0].uri",
            ),
        ] {
            assert_eq!(check(validation, TARGET), Err(field.to_owned()), "{validation}");
        }
        let system = "hostname: a.test, wellKnownCACertificates: System";
        let by_port = "{group: '', kind: Service, name: cart, sectionName: web}";
        assert_eq!(check(system, &format!("{TARGET}, {TARGET}")), Err("spec.targetRefs[1]".to_owned()));
        assert_eq!(check(system, &format!("{TARGET}, {by_port}")), Err("spec.targetRefs".to_owned()));
        assert!(check("wellKnownCACertificates: System", TARGET).is_err(), "a host name is needed");
    }

    #[test]
    fn one_that_cannot_be_read_closes_what_it_names() {
        let read = |text: &str| BackendTlsPolicy::stand_in(&serde_yaml_ng::from_str::<Value>(text).unwrap());
        let broken = "metadata: {name: a, namespace: shop}\nspec: {targetRefs: [{group: '', kind: Service, name: cart}, 7], validation: 3}";
        let policy = read(broken).unwrap();
        assert!(policy.closed && policy.spec.target_refs.len() == 1);
        assert!(read("metadata: {name: a}\nspec: {targetRefs: []}").is_none());
    }
}
