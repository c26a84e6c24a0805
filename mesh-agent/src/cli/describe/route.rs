//! `describe route`: where a route is attached, whether it holds there, its rules, and what went by them.

use serde::Serialize;

use super::{NamedArgs, backend, section, warning_section, why};
use crate::admin::api::{Condition, Dump, LiveRoutes, Policy, Route, RouteRule, Warning};
use crate::cli::live::sum::{Shown, Sum};
use crate::cli::output::{Out, count, document};
use crate::cli::{Exit, Failure, Outcome};

pub(super) fn run(args: &NamedArgs, out: &mut Out<'_>) -> Outcome {
    let (dump, (namespace, name)) = (args.dump()?, args.object());
    let live = args.live("routes")?;
    let page = Page::new(dump, live, namespace, name).ok_or_else(|| {
        Failure::message(Exit::Failed, format!("there is no route {namespace}/{name}"))
            .hint("`mesh-agent get routes` lists those that the agent knows")
    })?;
    out.data(&document(args.output, &page, Page::text)?)?;
    Ok(Exit::Ok)
}

/// All about the routes of one name: of several kinds each is there.
#[derive(Serialize)]
struct Page {
    /// A line for each parent.
    parents: Vec<Route>,
    rules: Vec<Rule>,
    policies: Vec<Policy>,
    warnings: Vec<Warning>,
}

/// One rule on one port.
#[derive(Serialize)]
struct Rule {
    #[serde(flatten)]
    rule: RouteRule,
    /// Of the last minute; of the running agent alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    figures: Option<Shown>,
}

impl Page {
    fn new(dump: Dump, live: Option<LiveRoutes>, namespace: &str, name: &str) -> Option<Self> {
        let mut parents = dump.routes;
        parents.retain(|route| route.namespace == namespace && route.name == name);
        let kinds: Vec<String> = parents.iter().map(|route| route.kind.clone()).collect();
        if kinds.is_empty() {
            return None;
        }
        let full = format!("{namespace}/{name}");
        let objects: Vec<String> = kinds.iter().map(|kind| format!("{kind} {full}")).collect();
        let mine =
            dump.route_rules.into_iter().filter(|rule| rule.route == full && kinds.contains(&rule.kind));
        let rules =
            mine.map(|rule| Rule { figures: live.as_ref().map(|live| figures(live, &rule)), rule }).collect();
        let mut policies = dump.policies;
        policies.retain(|policy| {
            objects.iter().any(|object| {
                policy.target == *object
                    || policy.target.strip_prefix(object).is_some_and(|rest| rest.starts_with(':'))
            })
        });
        let mut warnings = dump.warnings;
        warnings.retain(|warning| objects.contains(&warning.object));
        Some(Self { parents, rules, policies, warnings })
    }

    fn text(&self) -> String {
        let short: Vec<String> = self.parents.iter().map(sentence).collect();
        let sections = [
            self.head(),
            why::in_short(&short),
            self.rule_table(),
            self.policy_table(),
            warning_section(&self.warnings),
        ];
        sections.into_iter().filter(|section| !section.is_empty()).collect::<Vec<_>>().join("\n")
    }

    fn head(&self) -> String {
        let mut kinds: Vec<&str> = self.parents.iter().map(|route| route.kind.as_str()).collect();
        kinds.dedup();
        let name = self.parents.first().map(|route| format!("{}/{}", route.namespace, route.name));
        format!("Route:      {}\nKind:       {}\n", name.unwrap_or_default(), kinds.join(", "))
    }

    fn rule_table(&self) -> String {
        let header = [
            "SERVICE",
            "CLIENTS",
            "RULE",
            "MATCHES",
            "BACKENDS",
            "FILTERS",
            "SUCCESS",
            "RPS",
            "LATENCY_P50",
            "LATENCY_P99",
        ];
        let rows = self.rules.iter().map(|Rule { rule, figures }| {
            let backends: Vec<String> = rule.backends.iter().map(backend).collect();
            let mut row = vec![
                format!("{}/{}:{}", rule.namespace, rule.service, rule.port),
                if rule.clients.is_empty() { "all" } else { &rule.clients }.to_owned(),
                rule.rule.clone(),
                rule.matches.join(" or "),
                backends.join(", "),
                rule.filters.join("; "),
            ];
            match figures {
                Some(figures) => {
                    let [p50, _, p99] = figures.latencies();
                    row.extend([figures.success_text(), figures.rps_text(), p50, p99]);
                }
                None => row.extend(std::iter::repeat_n(String::new(), 4)),
            }
            row
        });
        section("Rules", &header, rows)
    }

    fn policy_table(&self) -> String {
        let header = ["POLICY", "TARGET", "GROUPS", "STATE"];
        let rows = self.policies.iter().map(|policy| {
            vec![
                format!("{} {}/{}", policy.kind, policy.namespace, policy.name),
                policy.target.clone(),
                policy.groups.join(","),
                policy.state.label().to_owned(),
            ]
        });
        section("Policies", &header, rows)
    }
}

/// What went by a rule to its Service: ports and clients aren't told apart.
fn figures(live: &LiveRoutes, rule: &RouteRule) -> Shown {
    let mut sum = Sum::default();
    let mine = live.routes.iter().filter(|seen| {
        (&seen.kind, &seen.route, &seen.rule) == (&rule.kind, &rule.route, &rule.rule)
            && (&seen.service_namespace, &seen.service) == (&rule.namespace, &rule.service)
    });
    mine.for_each(|seen| sum.add_route(seen));
    sum.shown()
}

/// Whether it holds at one parent, and for whom.
fn sentence(route: &Route) -> String {
    if route.parent.is_empty() {
        return format!("The {} names no Service as its parent: nothing goes by it.", route.kind);
    }
    let holds = |condition: &Option<Condition>| condition.as_ref().is_none_or(|condition| condition.status);
    let why = |condition: &Option<Condition>| {
        condition
            .as_ref()
            .map(|condition| format!("{}: {}", condition.reason, condition.message))
            .unwrap_or_default()
    };
    let clients = match route.role.as_str() {
        "producer" => "for clients of every namespace that has no routes of its own for it".to_owned(),
        _ => format!("for clients of namespace {}", route.namespace),
    };
    let rules = count(route.rules, "rule");
    match (holds(&route.accepted), holds(&route.resolved_refs)) {
        (false, _) => format!("Service {} doesn't take it: {}.", route.parent, why(&route.accepted)),
        (true, false) => format!(
            "Service {} takes its {rules}, {clients}; but not all backends can be used: {}.",
            route.parent,
            why(&route.resolved_refs)
        ),
        (true, true) => format!("Service {} takes its {rules}, {clients}.", route.parent),
    }
}
