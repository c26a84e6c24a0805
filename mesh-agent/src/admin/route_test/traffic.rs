//! What TrafficPolicies say of a request that is slow or fails, in words: retries, hedges, fallback.
//!
//! Found as `proxy::plan` finds it: of the rule, else of the service port that the request goes to. Where backends differ
//! each is named.

use std::sync::Arc;

use crate::admin::api::RouteAnswer;
use crate::admin::views::rules;
use crate::model::{ServicePort, Snapshot};
use crate::policy::traffic::{Fallback, FallbackTo, Hedge, Layers};
use crate::route::Rule;

/// Says what holds for a request by `rule` to one of `ports`.
pub(super) fn say<'p>(
    snapshot: &Snapshot,
    rule: Option<&Rule>,
    ports: impl Iterator<Item = &'p Arc<ServicePort>>,
    answer: &mut RouteAnswer,
) {
    let of_rule = rule.and_then(|rule| snapshot.rule_traffic(&rule.name)).cloned();
    let layers: Vec<_> = ports
        .map(|port| {
            let layers = Layers { rule: of_rule.clone(), service: snapshot.traffic_of(port).cloned() };
            (port.service.name.to_string(), layers)
        })
        .collect();
    let words = |of: &dyn Fn(&Layers) -> Option<String>| {
        let said: Vec<_> = layers.iter().map(|(name, layers)| (name, of(layers))).collect();
        let same = said.windows(2).all(|two| two[0].1 == two[1].1);
        let line = |(name, text): (&String, Option<String>)| {
            text.map(|text| if same { text } else { format!("{text} (to {name})") })
        };
        let mut lines: Vec<String> = said.into_iter().filter_map(line).collect();
        lines.dedup();
        lines
    };
    answer.retries = words(&|layers| layers.retry().map(|retry| rules::retry(&retry.policy)));
    answer.hedges = words(&|layers| layers.hedge().map(|it| hedge(it)));
    answer.fallback = words(&|layers| layers.fallback().map(|it| fallback(it)));
}

fn hedge(hedge: &Hedge) -> String {
    format!("after {:?}, at most {} more", hedge.after, hedge.max)
}

fn fallback(fallback: &Fallback) -> String {
    let on = [
        (fallback.no_endpoint, "noEndpoint"),
        (fallback.circuit_open, "circuitOpen"),
        (fallback.error_5xx, "error5xx"),
        (fallback.timeout, "timeout"),
    ];
    let on: Vec<_> = on.into_iter().filter(|(set, _)| *set).map(|(_, name)| name).collect();
    let to = match &fallback.to {
        FallbackTo::Answer(answer) => format!("answer {}", answer.status.as_u16()),
        FallbackTo::Service(name, port) => format!("Service {name} port {port}"),
    };
    format!("{to} on {}", on.join(", "))
}
