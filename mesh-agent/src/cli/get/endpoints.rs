//! `get endpoints`.

use super::InNamespace;
use crate::admin::api::Endpoint;
use crate::cli::output::Row;

impl Row for Endpoint {
    const HEADER: &'static [&'static str] = &[
        "NAMESPACE",
        "SERVICE",
        "PORT",
        "ADDRESS",
        "WORKLOAD",
        "STATE",
        "IN-FLIGHT",
        "LATENCY",
        "USED",
        "NODE",
        "ZONE",
    ];
    const PLAIN: usize = 8;

    fn cells(&self) -> Vec<String> {
        vec![
            self.namespace.clone(),
            self.service.clone(),
            self.port.to_string(),
            self.address.to_string(),
            self.workload.clone().unwrap_or_default(),
            state(self),
            self.in_flight.to_string(),
            self.latency_ms.map(|ms| format!("{ms:.2}ms")).unwrap_or_default(),
            if self.available { "yes" } else { "no" }.to_owned(),
            self.node.clone().unwrap_or_default(),
            self.zone.clone().unwrap_or_default(),
        ]
    }

    fn name(&self) -> String {
        format!("{}/{}:{}/{}", self.namespace, self.service, self.port, self.address)
    }
}

/// With why, where health checks say so.
fn state(endpoint: &Endpoint) -> String {
    match &endpoint.unhealthy {
        Some(why) => format!("{}: {why}", endpoint.state),
        None => endpoint.state.clone(),
    }
}

impl InNamespace for Endpoint {
    fn namespace(&self) -> &str {
        &self.namespace
    }
}
