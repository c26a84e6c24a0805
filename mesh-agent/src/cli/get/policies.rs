//! `get policies`: a line for each policy and target, with whether it holds there.

use super::InNamespace;
use crate::admin::api::Policy;
use crate::cli::output::Row;

impl Row for Policy {
    const HEADER: &'static [&'static str] =
        &["NAMESPACE", "NAME", "KIND", "TARGET", "GROUPS", "STATE", "VERSION", "BY", "MESSAGE"];
    const PLAIN: usize = 7;

    fn cells(&self) -> Vec<String> {
        vec![
            self.namespace.clone(),
            self.name.clone(),
            self.kind.clone(),
            self.target.clone(),
            self.groups.join(","),
            self.state.label().to_owned(),
            if self.last_valid { "last-valid" } else { "newest" }.to_owned(),
            self.by.join(","),
            self.message.clone(),
        ]
    }

    fn name(&self) -> String {
        format!("{}/{}/{}", self.kind, self.namespace, self.name)
    }
}

impl InNamespace for Policy {
    fn namespace(&self) -> &str {
        &self.namespace
    }
}
