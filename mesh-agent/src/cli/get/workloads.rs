//! `get workloads`.

use super::InNamespace;
use crate::admin::api::Workload;
use crate::cli::output::Row;

impl Row for Workload {
    const HEADER: &'static [&'static str] = &[
        "NAMESPACE",
        "NAME",
        "ADDRESS",
        "NODE",
        "CAPTURE",
        "FAIL-MODE",
        "SERVICE-ACCOUNT",
        "VERSION",
        "REASON",
    ];
    const PLAIN: usize = 6;

    fn cells(&self) -> Vec<String> {
        let addresses: Vec<_> = self.addresses.iter().map(ToString::to_string).collect();
        vec![
            self.namespace.clone(),
            self.name.clone(),
            addresses.join(","),
            self.node.clone(),
            self.capture.label().to_owned(),
            self.fail_mode.clone(),
            self.service_account.clone(),
            self.version.clone(),
            self.reason.clone(),
        ]
    }

    fn name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

impl InNamespace for Workload {
    fn namespace(&self) -> &str {
        &self.namespace
    }
}
