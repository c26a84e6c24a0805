//! `get services`.

use super::InNamespace;
use crate::admin::api::{Port, Service};
use crate::cli::output::Row;

impl Row for Service {
    const HEADER: &'static [&'static str] =
        &["NAMESPACE", "NAME", "ADDRESS", "PORTS", "ENDPOINTS", "LB", "AFFINITY", "PATH", "HOST"];
    const PLAIN: usize = 5;

    fn cells(&self) -> Vec<String> {
        let addresses: Vec<_> = self.addresses.iter().map(ToString::to_string).collect();
        let affinity = self.ports.iter().any(|p| p.client_ip_affinity);
        vec![
            self.namespace.clone(),
            self.name.clone(),
            if self.headless { "headless".to_owned() } else { addresses.join(",") },
            per_port(self, |p| format!("{}/{}", p.port, p.protocol)),
            per_port(self, |p| format!("{}/{}", p.available, p.total)),
            per_port(self, |p| p.load_balancer.clone()),
            if affinity { "ClientIP".to_owned() } else { String::new() },
            per_port(self, |p| p.path.clone()),
            self.host.clone(),
        ]
    }

    fn name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

impl InNamespace for Service {
    fn namespace(&self) -> &str {
        &self.namespace
    }
}

fn per_port(service: &Service, show: impl Fn(&Port) -> String) -> String {
    service.ports.iter().map(show).collect::<Vec<_>>().join(",")
}
