//! `get certs`.

use std::time::SystemTime;

use super::InNamespace;
use crate::admin::api::Certificate;
use crate::cli::output::{Row, age, utc};

impl Row for Certificate {
    const HEADER: &'static [&'static str] = &[
        "NAMESPACE",
        "SERVICE-ACCOUNT",
        "STATE",
        "EXPIRES-IN",
        "RENEWED-IN",
        "ISSUER",
        "REASON",
        "SERIAL",
        "NOT-BEFORE",
        "NOT-AFTER",
        "ROOT",
        "IDENTITY",
    ];
    const PLAIN: usize = 7;

    fn cells(&self) -> Vec<String> {
        let moment = |at: Option<SystemTime>| at.map_or_else(String::new, utc);
        vec![
            self.namespace.clone(),
            self.name.clone(),
            self.state.label().to_owned(),
            until(self.not_after, "over"),
            until(self.next_renewal, "now"),
            self.issuer.clone(),
            self.reason.clone(),
            self.serial.clone(),
            moment(self.not_before),
            moment(self.not_after),
            self.root.clone(),
            self.id.clone(),
        ]
    }

    fn name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

impl InNamespace for Certificate {
    fn namespace(&self) -> &str {
        &self.namespace
    }
}

fn until(at: Option<SystemTime>, past: &str) -> String {
    match at.map(|at| at.duration_since(SystemTime::now())) {
        None => String::new(),
        Some(Ok(left)) => age(left),
        Some(Err(_)) => past.to_owned(),
    }
}
