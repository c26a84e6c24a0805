//! Session persistence (GEP-1619), as v1.6 writes it (`sessionName`, `cookieConfig`) and as later versions do (`cookie`,
//! `header`). Either may leave everything to the defaults.

use serde::Deserialize;

use super::super::field::nullable;
use super::FieldError;
use super::duration::GatewayDuration;
use super::list::Bounded;
use super::text::FieldName;

/// SessionPersistence.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionPersistence {
    /// `type`.
    #[serde(rename = "type", default, deserialize_with = "nullable")]
    pub kind: SessionPersistenceKind,
    /// The session ends so long after it began.
    #[serde(default)]
    pub absolute_timeout: Option<GatewayDuration>,
    /// In versions that have it, the session ends after so long without a request.
    #[serde(default)]
    pub idle_timeout: Option<GatewayDuration>,
    #[serde(default)]
    session_name: Option<Bounded<0, 128>>,
    #[serde(default)]
    cookie_config: Option<CookieConfig>,
    #[serde(default)]
    cookie: Option<Cookie>,
    #[serde(default)]
    header: Option<Header>,
}

/// Where the session is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum SessionPersistenceKind {
    /// In a cookie.
    #[default]
    Cookie,
    /// In a header.
    Header,
}

/// How long a cookie lives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum LifetimeKind {
    /// Until the client's session ends.
    #[default]
    Session,
    /// As long as the absolute timeout.
    Permanent,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Cookie {
    #[serde(default)]
    name: Option<FieldName>,
    #[serde(default)]
    path: Option<Bounded<0, 1024>>,
    #[serde(default, deserialize_with = "nullable")]
    lifetime_type: LifetimeKind,
}

/// `cookieConfig` of versions up to v1.6.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct CookieConfig {
    #[serde(default, deserialize_with = "nullable")]
    lifetime_type: LifetimeKind,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct Header {
    name: FieldName,
}

impl SessionPersistence {
    /// Name of the cookie or header, if one is given.
    pub fn name(&self) -> Option<&str> {
        let named = match self.kind {
            SessionPersistenceKind::Cookie => self.cookie.as_ref().and_then(|cookie| cookie.name.as_deref()),
            SessionPersistenceKind::Header => self.header.as_ref().map(|header| &*header.name),
        };
        named.or(self.session_name.as_deref()).filter(|name| !name.is_empty())
    }

    /// Path of the cookie, if one is given.
    pub fn path(&self) -> Option<&str> {
        self.cookie.as_ref().and_then(|cookie| cookie.path.as_deref())
    }

    /// How long the cookie lives.
    pub fn lifetime(&self) -> LifetimeKind {
        let old = self.cookie_config.as_ref().map(|config| config.lifetime_type);
        self.cookie.as_ref().map(|cookie| cookie.lifetime_type).or(old).unwrap_or_default()
    }

    /// The parts go with the type; a permanent cookie needs an end.
    pub fn validate(&self) -> Result<(), FieldError> {
        let cookie = self.kind == SessionPersistenceKind::Cookie;
        let foreign = |field: &str| {
            Err(FieldError::new(
                field,
                format!("doesn't go with type {:?}: remove it or change the type", self.kind),
            ))
        };
        if !cookie && self.cookie.is_some() {
            return foreign("cookie");
        }
        if !cookie && self.lifetime() == LifetimeKind::Permanent {
            return foreign("cookieConfig");
        }
        if cookie && self.header.is_some() {
            return foreign("header");
        }
        if self.lifetime() == LifetimeKind::Permanent && self.absolute_timeout.is_none() {
            let message =
                "missing for lifetimeType Permanent, which lasts as long as it: add it, or change the type";
            return Err(FieldError::new("absoluteTimeout", message));
        }
        Ok(())
    }
}
