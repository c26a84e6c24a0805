//! The CORS filter (GEP-1767).

use serde::Deserialize;

use super::super::field::nullable;
use super::list::List;
use super::text::{CorsOrigin, FieldName};
use super::{FieldError, unique};

/// HTTPCORSFilter.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cors {
    /// Who may ask.
    #[serde(default, deserialize_with = "nullable")]
    pub allow_origins: List<CorsOrigin, 0, 64>,
    /// With cookies and credentials.
    #[serde(default, deserialize_with = "nullable")]
    pub allow_credentials: bool,
    /// Methods.
    #[serde(default, deserialize_with = "nullable")]
    pub allow_methods: List<AllowMethod, 0, 9>,
    /// Request headers.
    #[serde(default, deserialize_with = "nullable")]
    pub allow_headers: List<FieldName, 0, 64>,
    /// Response headers that a script may see.
    #[serde(default, deserialize_with = "nullable")]
    pub expose_headers: List<FieldName, 0, 64>,
    /// Seconds for which an answer to a preflight holds; at least 1, default 5.
    #[serde(default = "five")]
    pub max_age: i32,
}

fn five() -> i32 {
    5
}

/// A method, or all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
#[expect(missing_docs, reason = "methods by their names")]
pub enum AllowMethod {
    Get,
    Head,
    Post,
    Put,
    Delete,
    Connect,
    Options,
    Trace,
    Patch,
    /// Every method.
    #[serde(rename = "*")]
    Any,
}

impl AllowMethod {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
            Self::Options => "OPTIONS",
            Self::Trace => "TRACE",
            Self::Patch => "PATCH",
            Self::Any => "*",
        }
    }
}

impl Cors {
    /// `*` stands alone; nothing twice, letter by letter.
    pub fn validate(&self) -> Result<(), FieldError> {
        unique("allowOrigins", &self.allow_origins, "", |origin| Some(origin.to_string()))?;
        unique("allowMethods", &self.allow_methods, "", |method| Some(*method))?;
        unique("allowHeaders", &self.allow_headers, "", |name| Some(name.to_string()))?;
        unique("exposeHeaders", &self.expose_headers, "", |name| Some(name.to_string()))?;
        for (field, count, any) in [
            ("allowOrigins", self.allow_origins.len(), self.allow_origins.iter().any(|o| &**o == "*")),
            ("allowMethods", self.allow_methods.len(), self.allow_methods.contains(&AllowMethod::Any)),
            ("allowHeaders", self.allow_headers.len(), self.allow_headers.iter().any(|name| &**name == "*")),
        ] {
            if any && count > 1 {
                return Err(FieldError::new(field, "* stands for all: remove the others, or it"));
            }
        }
        if self.max_age < 1 {
            return Err(FieldError::new(
                "maxAge",
                format!("{} isn't a time: expected 1 or more seconds", self.max_age),
            ));
        }
        Ok(())
    }
}
