//! One of a ServiceEntry's `endpoints` (Istio reference, WorkloadEntry).

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Deserialize;

use super::is_host;
use crate::objects::FieldError;
use crate::objects::field::{PortNumber, nullable, parse_ip};

/// An endpoint, by address or by name.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EntryEndpoint {
    address: String,
    /// Its ports by the name of one of the entry's, where they differ.
    #[serde(default, deserialize_with = "nullable")]
    pub ports: BTreeMap<String, PortNumber>,
    #[serde(default, deserialize_with = "nullable")]
    locality: String,
    #[serde(default, deserialize_with = "nullable")]
    weight: u32,
}

impl EntryEndpoint {
    /// Its address, if it has one.
    pub fn ip(&self) -> Option<IpAddr> {
        parse_ip(&self.address).ok()
    }

    /// Its name, if it has to be resolved.
    pub fn name(&self) -> Option<&str> {
        self.address.parse::<IpAddr>().is_err().then_some(self.address.as_str())
    }

    /// Its share, in relation to the others'; 1 where none is given.
    pub fn weight(&self) -> u32 {
        self.weight.max(1)
    }

    /// Zone of `region/zone/subzone`.
    pub fn zone(&self) -> Option<&str> {
        self.locality.split('/').nth(1).filter(|zone| !zone.is_empty())
    }

    pub(super) fn validate(&self, names: bool) -> Result<(), FieldError> {
        if self.address.starts_with("unix:") {
            return Err(FieldError::new("address", "a Unix socket can't be an endpoint here"));
        }
        match self.name() {
            Some(name) if names && is_host(name) && !name.starts_with('*') => Ok(()),
            Some(_) if names => {
                let message = format!("{:?} is neither an address nor a host name", self.address);
                Err(FieldError::new("address", message))
            }
            _ => parse_ip(&self.address).map(drop).map_err(|message| FieldError::new("address", message)),
        }
    }
}
