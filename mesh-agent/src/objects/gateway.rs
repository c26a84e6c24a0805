//! What the Gateway API's kinds share: text that must have a form, bounded lists, references, filters, sessions.
//!
//! Holds what the CRD schemas and their CEL rules hold (kubernetes-sigs/gateway-api, experimental channel, v1.6), so that
//! an object that the API server would refuse is refused from a directory too. Forms are checked while a field is
//! parsed; rules between fields by `validate`, with the path of the field.

mod cors;
mod duration;
mod filter;
mod header;
mod list;
mod path;
mod reference;
mod session;
mod text;

pub use cors::{AllowMethod, Cors};
pub use duration::GatewayDuration;
pub use filter::{
    ExternalAuth, FilterKind, Fraction, RedirectScheme, RedirectStatus, RequestMirror, RequestRedirect,
    RouteFilter, UrlRewrite,
};
pub use header::{HeaderLine, HeaderMatch, HeaderModifier, MatchKind, QueryMatch};
pub use list::{Bounded, List};
pub use path::{PathMatch, PathMatchKind, PathModifier, PathModifierKind, encoded};
pub use reference::{BackendRef, BackendTargetRef, ObjectRef, ParentRef, check_parents};
pub use session::{LifetimeKind, SessionPersistence, SessionPersistenceKind};
pub use text::{
    CorsOrigin, DottedName, FieldName, FieldValue, GroupName, HostPattern, Hostname, KindName, NamespaceName,
    RefName, SectionName,
};

pub(super) use filter::check_filters;
pub(super) use header::{check_headers, check_pattern, check_query};
pub(super) use reference::check_stream_backends;

use super::FieldError;

/// Checks every element; the error's path starts with `field[INDEX]`.
pub(super) fn each<T>(
    field: &str,
    items: &[T],
    check: impl Fn(&T) -> Result<(), FieldError>,
) -> Result<(), FieldError> {
    for (index, item) in items.iter().enumerate() {
        check(item).map_err(|error| error.within(&format!("{field}[{index}]")))?;
    }
    Ok(())
}

/// Checks a field that may be absent; the error's path starts with `field`.
pub(super) fn given<T>(
    field: &str,
    item: Option<&T>,
    check: impl Fn(&T) -> Result<(), FieldError>,
) -> Result<(), FieldError> {
    item.map_or(Ok(()), |item| check(item).map_err(|error| error.within(field)))
}

/// Refuses a key that stands twice, as `x-kubernetes-list-type: map` and `set` do.
pub(super) fn unique<T, K: PartialEq + std::fmt::Debug>(
    field: &str,
    items: &[T],
    part: &str,
    key: impl Fn(&T) -> Option<K>,
) -> Result<(), FieldError> {
    for (index, item) in items.iter().enumerate() {
        let Some(this) = key(item) else { continue };
        if items[..index].iter().any(|earlier| key(earlier).as_ref() == Some(&this)) {
            let path = format!("{field}[{index}]{part}");
            return Err(FieldError::new(path, format!("{this:?} stands here twice: expected it once")));
        }
    }
    Ok(())
}
