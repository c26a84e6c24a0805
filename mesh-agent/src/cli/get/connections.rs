//! `get connections`.

use super::InNamespace;
use crate::admin::api::Connection;
use crate::cli::output::{Row, age, bytes};

impl Row for Connection {
    const HEADER: &'static [&'static str] = &[
        "WORKLOAD",
        "DIRECTION",
        "CLIENT",
        "DESTINATION",
        "SERVICE",
        "ENDPOINT",
        "PROTOCOL",
        "AGE",
        "REQUESTS",
        "RECEIVED",
        "SENT",
        "SERVER-NAME",
        "PEER",
        "ID",
    ];
    const PLAIN: usize = 8;

    fn cells(&self) -> Vec<String> {
        vec![
            self.workload.clone(),
            self.direction.clone(),
            self.client.to_string(),
            self.destination.to_string(),
            self.service.clone().unwrap_or_default(),
            self.endpoint.map(|e| e.to_string()).unwrap_or_default(),
            self.protocol.clone(),
            age(self.since.elapsed().unwrap_or_default()),
            self.requests.to_string(),
            bytes(self.received_bytes),
            bytes(self.sent_bytes),
            self.server_name.clone(),
            self.peer.clone(),
            self.id.to_string(),
        ]
    }

    fn name(&self) -> String {
        self.id.to_string()
    }
}

impl InNamespace for Connection {
    fn namespace(&self) -> &str {
        self.workload.split_once('/').map_or("", |(namespace, _)| namespace)
    }
}
