//! The one ExtensionRef that is known: `group: mesh-agent.dev, kind: Subset` at a backendRef of an HTTPRoute or GRPCRoute.
//!
//! It sends the backend's share to a subset of the DestinationRule in force for the backend's host, which no field of the
//! Gateway API can name. Every other ExtensionRef makes its rule or backend unusable, as the API demands.

use crate::objects::gateway::{BackendRef, FilterKind, ObjectRef, RouteFilter};

const GROUP: &str = "mesh-agent.dev";
const KIND: &str = "Subset";

/// Where a filter stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Below `filters` of a rule.
    Rule,
    /// Below `filters` of a backendRef.
    Backend,
}

/// The subset that a backendRef asks for.
pub fn subset(backend: &BackendRef) -> Option<&str> {
    let refs = backend.filters.iter().filter_map(|filter| filter.extension_ref.as_ref());
    refs.filter(|reference| names_subset(reference)).map(|reference| &*reference.name).next()
}

/// Why the filter number `index` of `filters` can't be had; None if it can.
pub fn complaint(filters: &[RouteFilter], index: usize, place: Place) -> Option<String> {
    let filter = &filters[index];
    match (filter.kind, &filter.extension_ref) {
        (FilterKind::ExternalAuth, _) => Some("ExternalAuth is not supported by this version".to_owned()),
        (_, Some(reference)) if !names_subset(reference) => Some(format!(
            "{} ({}) is no filter that is known here: only {KIND} of group {GROUP} is, at a backendRef",
            &*reference.kind, &*reference.group
        )),
        (_, Some(_)) if place == Place::Rule => {
            Some(format!("a {KIND} is one of a backend's: write the filter below backendRefs"))
        }
        (_, Some(_)) if earlier(filters, index) => {
            Some(format!("the backend has a {KIND} already: name each in a backendRef of its own"))
        }
        _ => None,
    }
}

/// True if one of `filters` can't be had.
pub fn is_unknown(filters: &[RouteFilter], place: Place) -> bool {
    (0..filters.len()).any(|index| complaint(filters, index, place).is_some())
}

fn names_subset(reference: &ObjectRef) -> bool {
    &*reference.group == GROUP && &*reference.kind == KIND
}

fn earlier(filters: &[RouteFilter], index: usize) -> bool {
    filters[..index].iter().any(|filter| filter.extension_ref.as_ref().is_some_and(names_subset))
}
