//! References: to parents, to backends, to anything.

use serde::Deserialize;

use super::super::field::{PortNumber, nullable};
use super::list::List;
use super::text::{DottedName, GroupName, KindName, NamespaceName, RefName};
use super::{FieldError, RouteFilter, each};

const GATEWAY_GROUP: &str = "gateway.networking.k8s.io";

/// One of `parentRefs`: what a route attaches to.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ParentRef {
    /// See [`Self::group`].
    #[serde(default)]
    group: Option<GroupName>,
    /// See [`Self::kind`].
    #[serde(default)]
    kind: Option<KindName>,
    /// Name.
    pub name: RefName,
    /// The route's own where absent.
    #[serde(default)]
    pub namespace: Option<NamespaceName>,
    /// All ports of a Service where absent.
    #[serde(default)]
    pub port: Option<PortNumber>,
    /// A listener of a Gateway; of a Service a port's name.
    #[serde(default)]
    pub section_name: Option<DottedName>,
}

impl ParentRef {
    /// API group; `gateway.networking.k8s.io` where absent.
    pub fn group(&self) -> &str {
        self.group.as_deref().unwrap_or(GATEWAY_GROUP)
    }

    /// Kind; `Gateway` where absent.
    pub fn kind(&self) -> &str {
        self.kind.as_deref().unwrap_or("Gateway")
    }

    fn same_object(&self, other: &Self) -> bool {
        (self.group(), self.kind(), &self.name, &self.namespace)
            == (other.group(), other.kind(), &other.name, &other.namespace)
    }
}

/// Two references to one parent must both name a port, or both a section, and not the same.
pub fn check_parents(parents: &List<ParentRef, 0, 32>) -> Result<(), FieldError> {
    for (index, this) in parents.iter().enumerate() {
        for other in parents[..index].iter().filter(|other| this.same_object(other)) {
            let alike = this.port.is_some() == other.port.is_some()
                && this.section_name.is_some() == other.section_name.is_some();
            let different = this.port != other.port || this.section_name != other.section_name;
            if !(alike && different) {
                let message = format!(
                    "{} {} is a parent already: give each reference to it a port of its own, or remove one",
                    this.kind(),
                    &*this.name
                );
                return Err(FieldError::new(format!("parentRefs[{index}]"), message));
            }
        }
    }
    Ok(())
}

/// What a backendRef names, without weight and filters.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct BackendTargetRef {
    #[serde(default)]
    group: Option<GroupName>,
    #[serde(default)]
    kind: Option<KindName>,
    /// Name.
    pub name: RefName,
    /// The route's own where absent.
    #[serde(default)]
    pub namespace: Option<NamespaceName>,
    /// Required for a Service.
    #[serde(default)]
    pub port: Option<PortNumber>,
}

impl BackendTargetRef {
    /// API group; core (empty) where absent.
    pub fn group(&self) -> &str {
        self.group.as_deref().unwrap_or_default()
    }

    /// Kind; `Service` where absent.
    pub fn kind(&self) -> &str {
        self.kind.as_deref().unwrap_or("Service")
    }

    /// A Service needs a port.
    pub fn validate(&self) -> Result<(), FieldError> {
        if self.group().is_empty() && self.kind() == "Service" && self.port.is_none() {
            let message = format!("Service {} is named without its port: add one", &*self.name);
            return Err(FieldError::new("port", message));
        }
        Ok(())
    }
}

/// One of `backendRefs`. Filters are allowed for HTTPRoute and GRPCRoute only.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendRef {
    #[serde(default)]
    group: Option<GroupName>,
    #[serde(default)]
    kind: Option<KindName>,
    name: RefName,
    #[serde(default)]
    namespace: Option<NamespaceName>,
    #[serde(default)]
    port: Option<PortNumber>,
    #[serde(default)]
    weight: Option<i64>,
    /// Filters of this backend alone.
    #[serde(default, deserialize_with = "nullable")]
    pub filters: List<RouteFilter, 0, 16>,
}

impl BackendRef {
    /// What it names.
    pub fn target(&self) -> BackendTargetRef {
        BackendTargetRef {
            group: self.group.clone(),
            kind: self.kind.clone(),
            name: self.name.clone(),
            namespace: self.namespace.clone(),
            port: self.port,
        }
    }

    /// Share, 0 to 1000000; 1 where absent.
    pub fn weight(&self) -> u32 {
        self.weight.and_then(|weight| u32::try_from(weight).ok()).unwrap_or(1)
    }

    /// Port, weight and filters; `filter` checks what the route's kind allows of a filter.
    pub fn validate(
        &self,
        filters: impl Fn(&[RouteFilter]) -> Result<(), FieldError>,
    ) -> Result<(), FieldError> {
        self.target().validate()?;
        if let Some(weight) = self.weight
            && !(0..=1_000_000).contains(&weight)
        {
            return Err(FieldError::new("weight", format!("{weight} isn't a weight: expected 0 to 1000000")));
        }
        filters(&self.filters)
    }
}

/// Group, kind and name: an ExtensionRef, a policy's target.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ObjectRef {
    /// API group.
    pub group: GroupName,
    /// Kind.
    pub kind: KindName,
    /// Name.
    pub name: RefName,
}

/// Backends of a stream route: no filters there.
pub(in crate::objects) fn check_stream_backends(backends: &[BackendRef]) -> Result<(), FieldError> {
    let none = |filters: &[RouteFilter]| match filters {
        [] => Ok(()),
        _ => Err(FieldError::new("filters", "a stream has no requests to filter: remove it")),
    };
    each("backendRefs", backends, |backend| backend.validate(none))
}
