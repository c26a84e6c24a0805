//! ConfigMap, of which authorities' certificates are read.

use serde::{Deserialize, Deserializer};

use super::Metadata;

/// What is read of a ConfigMap.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ConfigMap {
    /// Metadata.
    pub metadata: Metadata,
    /// Of `data`.
    #[serde(default)]
    pub data: Option<ConfigMapData>,
}

/// What is read of `data`; the rest isn't even kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct ConfigMapData {
    /// `ca.crt`: certificates in PEM.
    #[serde(default, rename = "ca.crt", deserialize_with = "text")]
    pub authorities: Option<Box<str>>,
}

/// YAML has numbers and booleans where a ConfigMap can only have text; of an object that nobody may have meant for the mesh
/// they are no error.
fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Box<str>>, D::Error> {
    let value = serde_yaml_ng::Value::deserialize(deserializer)?;
    Ok(value.as_str().map(Into::into))
}

impl ConfigMap {
    /// `ca.crt`.
    pub fn authorities(&self) -> Option<&str> {
        self.data.as_ref()?.authorities.as_deref()
    }
}
