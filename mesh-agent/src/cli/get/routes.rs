//! `get routes`: a line for each route and parent, with the conditions of the Gateway API.

use super::InNamespace;
use crate::admin::api::{Condition, Route};
use crate::cli::output::Row;

impl Row for Route {
    const HEADER: &'static [&'static str] =
        &["NAMESPACE", "NAME", "KIND", "PARENT", "RULES", "ACCEPTED", "RESOLVED-REFS", "ROLE", "MESSAGE"];
    const PLAIN: usize = 7;

    fn cells(&self) -> Vec<String> {
        vec![
            self.namespace.clone(),
            self.name.clone(),
            self.kind.clone(),
            self.parent.clone(),
            self.rules.to_string(),
            accepted(self),
            self.resolved_refs.as_ref().map(shown).unwrap_or_default(),
            self.role.clone(),
            message(self),
        ]
    }

    fn name(&self) -> String {
        format!("{}/{}/{}", self.kind, self.namespace, self.name)
    }
}

impl InNamespace for Route {
    fn namespace(&self) -> &str {
        &self.namespace
    }
}

/// One of whose rules some can't be served is accepted all the same.
fn accepted(route: &Route) -> String {
    match (&route.accepted, &route.partially_invalid) {
        (Some(Condition { status: true, .. }), Some(_)) => "True(PartiallyInvalid)".to_owned(),
        (condition, _) => condition.as_ref().map(shown).unwrap_or_default(),
    }
}

/// The reason only where it tells more than the status.
fn shown(condition: &Condition) -> String {
    if condition.status { "True".to_owned() } else { format!("False({})", condition.reason) }
}

fn message(route: &Route) -> String {
    let conditions = [&route.accepted, &route.partially_invalid, &route.resolved_refs].into_iter().flatten();
    let messages: Vec<_> = conditions.map(|c| c.message.as_str()).filter(|text| !text.is_empty()).collect();
    messages.join("; ")
}
