//! `describe`: one page about one thing. A page is made of sections; a section without anything to say is left out.
//!
//! Here the page of a service; `pod` has that of a pod.

mod failures;
mod pod;
mod policy;
mod route;
mod why;

use std::fmt::Write;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::edges::Pair;
use super::live::merge::Edge;
use super::output::{Out, TextFormat, document};
use super::table::Table;
use super::{AgentArgs, Exit, Failure, Outcome, get};
use crate::admin::api::flow::Flow;
use crate::admin::api::{
    Dump, Endpoint, LiveEdges, Port, PortPolicy, RouteBackend, RouteRule, Service, Warning, Workload,
};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// A service: addresses, ports, endpoints, routes, pods, and what is wrong with it
    #[command(visible_aliases = ["svc", "services"])]
    Service(NamedArgs),
    /// A pod: addresses, identity, which connections it accepts, probes, and what is wrong with it
    #[command(visible_aliases = ["pods", "workload"])]
    Pod(NamedArgs),
    /// A route: where it is attached, whether it holds there, its rules and their figures, and what is wrong with it
    #[command(visible_alias = "routes")]
    Route(NamedArgs),
    /// A policy: what it is for, what of it holds where, and what is wrong with it
    #[command(visible_alias = "policies")]
    Policy(NamedArgs),
}

#[derive(Debug, Args)]
pub(super) struct NamedArgs {
    #[command(flatten)]
    agent: AgentArgs,
    /// NAMESPACE/NAME, or NAME in the namespace `default`
    #[arg(value_name = "NAMESPACE/NAME")]
    name: String,
    /// Output format
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: TextFormat,
    /// Read a file that `config dump` wrote instead of asking the agent
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
}

impl NamedArgs {
    fn dump(&self) -> Result<Dump, Failure> {
        Ok(match &self.file {
            Some(path) => get::read_dump(path)?,
            None => self.agent.client()?.get("/v1/config")?,
        })
    }

    /// What the running agent saw in the last minute; none off line.
    fn live<T: DeserializeOwned>(&self, what: &str) -> Result<Option<T>, Failure> {
        match self.file {
            Some(_) => Ok(None),
            // An older agent has nothing to say; one that isn't there has failed before.
            None => Ok(self.agent.client()?.get(&format!("/v1/live/{what}?window=60")).ok()),
        }
    }

    fn object(&self) -> (&str, &str) {
        self.name.split_once('/').unwrap_or(("default", &self.name))
    }
}

pub(super) fn run(command: &Command, out: &mut Out<'_>) -> Outcome {
    match command {
        Command::Service(args) => service(args, out),
        Command::Pod(args) => pod::run(args, out),
        Command::Route(args) => route::run(args, out),
        Command::Policy(args) => policy::run(args, out),
    }
}

fn service(args: &NamedArgs, out: &mut Out<'_>) -> Outcome {
    let (dump, (namespace, name)) = (args.dump()?, args.object());
    let live = args.live("edges")?;
    let mut page = Page::new(dump, live, namespace, name).ok_or_else(|| {
        Failure::message(Exit::Failed, format!("there is no service {namespace}/{name}"))
            .hint("`mesh-agent get services` lists those that the agent knows")
    })?;
    page.failures = failures::of(args, failures::Of::Service)?;
    out.data(&document(args.output, &page, Page::text)?)?;
    Ok(Exit::Ok)
}

/// All about one service.
#[derive(Serialize)]
struct Page {
    service: Service,
    endpoints: Vec<Endpoint>,
    /// Rules in force on its ports, in order of precedence.
    routes: Vec<RouteRule>,
    /// What policies come to on its ports.
    policies: Vec<PortPolicy>,
    /// Pods behind the endpoints.
    workloads: Vec<Workload>,
    /// Of the service, its slices and its pods.
    warnings: Vec<Warning>,
    /// The last that the agent keeps.
    failures: Vec<Flow>,
    /// What passed in the last minute; of the running agent alone.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    traffic: Vec<Pair>,
}

impl Page {
    fn new(dump: Dump, live: Option<LiveEdges>, namespace: &str, name: &str) -> Option<Self> {
        let service = dump.services.into_iter().find(|s| s.namespace == namespace && s.name == name)?;
        let mut endpoints = dump.endpoints;
        endpoints.retain(|e| e.namespace == namespace && e.service == name);
        let mut routes = dump.route_rules;
        routes.retain(|rule| rule.namespace == namespace && rule.service == name);
        let mut policies = dump.port_policies;
        policies.retain(|line| line.namespace == namespace && line.service == name);
        let mut workloads = dump.workloads;
        workloads.retain(|w| {
            let full = format!("{}/{}", w.namespace, w.name);
            endpoints.iter().any(|e| e.workload.as_ref() == Some(&full))
        });
        // In force or not.
        let parent = format!("{namespace}/{name}");
        let attached = dump.routes.iter().filter(|route| {
            route.parent.strip_prefix(&parent).is_some_and(|port| port.is_empty() || port.starts_with(':'))
        });
        let objects: Vec<String> = std::iter::once(format!("Service {namespace}/{name}"))
            .chain(attached.map(|route| format!("{} {}/{}", route.kind, route.namespace, route.name)))
            .chain(policies.iter().map(|line| line.holds.from.clone()))
            .chain(workloads.iter().map(|w| format!("Pod {}/{}", w.namespace, w.name)))
            .collect();
        let mut warnings = dump.warnings;
        // Any object may speak of the service by name: a slice, another Service that claims its address.
        let word = format!("{namespace}/{name}");
        warnings.retain(|w| objects.contains(&w.object) || mentions(&w.message, &word));
        let to = |edge: &Edge| {
            let to = &edge.key.destination;
            to.service_namespace == namespace && to.service == name
        };
        let traffic = why::traffic(live, to);
        let failures = Vec::new();
        Some(Self { service, endpoints, routes, policies, workloads, warnings, failures, traffic })
    }

    /// The sections in their order; each writes its heading if it has something below it. What decides about a request
    /// goes between endpoints and pods, in the order in which it does: routes, then policies.
    fn text(&self) -> String {
        let (routes, policies) = (self.routes(), self.policies());
        let (health, endpoints) = (self.health(), self.endpoint_table());
        let (pods, warnings) = (self.pods(), warning_section(&self.warnings));
        let short = why::in_short(&why::service(&self.service, &self.routes));
        let (traffic, failures) = (why::traffic_section(&self.traffic), failures::table(&self.failures));
        let (head, ports) = (self.head(), self.ports());
        let sections =
            [head, short, ports, health, endpoints, routes, policies, pods, traffic, failures, warnings];
        sections.into_iter().filter(|section| !section.is_empty()).collect::<Vec<_>>().join("\n")
    }

    fn head(&self) -> String {
        let s = &self.service;
        let addresses: Vec<String> = s.addresses.iter().map(ToString::to_string).collect();
        let addresses = match (s.headless, addresses.is_empty()) {
            (true, _) => "headless: its endpoints' own".to_owned(),
            (false, true) => "none".to_owned(),
            (false, false) => addresses.join(", "),
        };
        format!("Service:    {}/{}\nHost:       {}\nAddresses:  {addresses}\n", s.namespace, s.name, s.host)
    }

    fn ports(&self) -> String {
        let header = ["NAME", "PORT", "PROTOCOL", "DECIDED BY", "BALANCER", "AFFINITY", "AVAILABLE"];
        let rows = self.service.ports.iter().map(|p| {
            let affinity = if p.client_ip_affinity { "ClientIP" } else { "" };
            vec![
                p.name.clone(),
                p.port.to_string(),
                p.protocol.clone(),
                decided_by(p).to_owned(),
                p.load_balancer.clone(),
                affinity.to_owned(),
                format!("{}/{}", p.available, p.total),
            ]
        });
        section("Ports", &header, rows)
    }

    /// What TrafficPolicies say of the health of endpoints.
    fn health(&self) -> String {
        let header = ["PORT", "CHECK", "INTERVAL", "TIMEOUT", "HEALTHY", "UNHEALTHY", "CHECKED", "PANIC"];
        let told =
            self.service.ports.iter().filter(|p| p.health_check.is_some() || p.panic_threshold.is_some());
        let rows = told.map(|p| {
            let panic = p.panic_threshold.map(|percent| format!("below {percent}%")).unwrap_or_default();
            let mut row = vec![p.port.to_string()];
            match &p.health_check {
                Some(check) => row.extend([
                    check.asks.clone(),
                    format!("{:?}", Duration::from_millis(check.interval_ms)),
                    format!("{:?}", Duration::from_millis(check.timeout_ms)),
                    format!("after {}", check.healthy_threshold),
                    format!("after {}", check.unhealthy_threshold),
                    if check.active { "yes" } else { "no captured pod here" }.to_owned(),
                ]),
                None => row.extend(std::iter::repeat_n(String::new(), 6)),
            }
            row.push(panic);
            row
        });
        section("Health", &header, rows)
    }

    fn endpoint_table(&self) -> String {
        let header = ["PORT", "ADDRESS", "STATE", "USED", "IN-FLIGHT", "LATENCY", "POD", "NODE", "ZONE"];
        let rows = self.endpoints.iter().map(|e| {
            vec![
                e.port.to_string(),
                e.address.to_string(),
                state(e),
                if e.available { "yes" } else { "no" }.to_owned(),
                e.in_flight.to_string(),
                e.latency_ms.map(|ms| format!("{ms:.2}ms")).unwrap_or_default(),
                e.workload.clone().unwrap_or_default(),
                e.node.clone().unwrap_or_default(),
                e.zone.clone().unwrap_or_default(),
            ]
        });
        section("Endpoints", &header, rows)
    }

    fn routes(&self) -> String {
        let header = ["PORT", "CLIENTS", "ROUTE", "RULE", "MATCHES", "BACKENDS", "FILTERS", "ROLE"];
        let rows = self.routes.iter().map(|rule| {
            let clients = if rule.clients.is_empty() { "all" } else { &rule.clients };
            let backends: Vec<String> = rule.backends.iter().map(backend).collect();
            vec![
                rule.port.to_string(),
                clients.to_owned(),
                format!("{} {}", rule.kind, rule.route),
                rule.rule.clone(),
                rule.matches.join(" or "),
                backends.join(", "),
                rule.filters.join("; "),
                rule.role.clone(),
            ]
        });
        section("Routes", &header, rows)
    }

    fn policies(&self) -> String {
        let header = ["PORT", "CLIENTS", "RULE", "WHAT", "HOW", "FROM"];
        let rows = self.policies.iter().map(|line| {
            vec![
                line.port.to_string(),
                if line.clients.is_empty() { "all" } else { &line.clients }.to_owned(),
                line.rule.clone(),
                line.holds.what.clone(),
                line.holds.how.clone(),
                line.holds.from.clone(),
            ]
        });
        section("Policies", &header, rows)
    }

    fn pods(&self) -> String {
        let header = ["POD", "NODE", "ADDRESS", "SERVICE-ACCOUNT", "VERSION", "CAPTURE", "REASON"];
        let rows = self.workloads.iter().map(|w| {
            let addresses: Vec<String> = w.addresses.iter().map(ToString::to_string).collect();
            vec![
                format!("{}/{}", w.namespace, w.name),
                w.node.clone(),
                addresses.join(","),
                w.service_account.clone(),
                w.version.clone(),
                w.capture.label().to_owned(),
                w.reason.clone(),
            ]
        });
        section("Pods", &header, rows)
    }
}

/// Warnings under their heading; nothing without any.
pub(super) fn warning_section(warnings: &[Warning]) -> String {
    let header = ["CODE", "OBJECT", "FIELD", "ORIGIN", "MESSAGE"];
    let rows = warnings
        .iter()
        .map(|w| [&w.code, &w.object, &w.field, &w.origin, &w.message].map(Clone::clone).to_vec());
    section("Warnings", &header, rows)
}

/// `shop/cart:80 90`, or `shop/cart:80 subset v2 90`: with its weight.
fn backend(backend: &RouteBackend) -> String {
    let RouteBackend { service, port, subset, weight, problem, .. } = backend;
    let part = if subset.is_empty() { String::new() } else { format!(" subset {subset}") };
    match problem.as_str() {
        "" => format!("{service}:{port}{part} {weight}"),
        problem if service.is_empty() => format!("({problem}) {weight}"),
        problem => format!("{service}:{port}{part} {weight} ({problem})"),
    }
}

/// An indented table under its title; nothing without rows.
pub(super) fn section(title: &str, header: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let (mut table, mut any) = (Table::new(header), false);
    for row in rows {
        table.row(row);
        any = true;
    }
    let mut out = String::new();
    if any {
        // Writing to a String can't fail.
        let _ = writeln!(out, "{title}:");
        for line in table.render().lines() {
            let _ = writeln!(out, "  {line}");
        }
    }
    out
}

/// Where the port's protocol comes from, in words.
fn decided_by(port: &Port) -> &str {
    match port.protocol_from.as_str() {
        "app-protocol" => "appProtocol",
        "port-name" => "port name",
        "" => "",
        _ => "first bytes",
    }
}

fn state(endpoint: &Endpoint) -> String {
    match (endpoint.state.as_str(), endpoint.serving) {
        (state, _) if endpoint.unhealthy.is_some() => {
            format!("{state}: {}", endpoint.unhealthy.as_deref().unwrap_or_default())
        }
        ("terminating", true) => "serving, terminating".to_owned(),
        (state, _) => state.to_owned(),
    }
}

/// `word` as a whole in `text`.
fn mentions(text: &str, word: &str) -> bool {
    let part = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '/';
    text.match_indices(word).any(|(at, _)| {
        let (before, after) = (text[..at].chars().next_back(), text[at + word.len()..].chars().next());
        !before.is_some_and(part) && !after.is_some_and(part)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_mentioned_by_its_whole_name_only() {
        fn check(text: &str, want: bool) {
            assert_eq!(mentions(text, "shop/cart"), want, "{text}");
        }
        check("there is no Service shop/cart: its endpoints", true);
        check("shop/cart", true);
        check("belongs to Service shop/cart, which keeps it", true);
        check("shop/cart-2 is", false);
        check("workshop/cart is", false);
    }
}
