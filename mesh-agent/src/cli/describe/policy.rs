//! `describe policy`: what a policy is for, what of it holds where, and why not elsewhere.

use serde::Serialize;

use super::{NamedArgs, section, warning_section, why};
use crate::admin::api::{Dump, Policy, PolicyState, PortPolicy, Warning};
use crate::cli::output::{Out, document};
use crate::cli::{Exit, Failure, Outcome};

pub(super) fn run(args: &NamedArgs, out: &mut Out<'_>) -> Outcome {
    let (dump, (namespace, name)) = (args.dump()?, args.object());
    let page = Page::new(dump, namespace, name).ok_or_else(|| {
        Failure::message(Exit::Failed, format!("there is no policy {namespace}/{name} in force"))
            .hint("`mesh-agent get policies` lists those that are, and `mesh-agent analyze` what is wrong with others")
    })?;
    out.data(&document(args.output, &page, Page::text)?)?;
    Ok(Exit::Ok)
}

/// All about the policies of one name: of several kinds each is there.
#[derive(Serialize)]
struct Page {
    /// A line for each target.
    targets: Vec<Policy>,
    /// What they come to on service ports.
    in_force: Vec<PortPolicy>,
    /// Pods of the agent's node that they select.
    pods: Vec<String>,
    warnings: Vec<Warning>,
}

impl Page {
    fn new(dump: Dump, namespace: &str, name: &str) -> Option<Self> {
        let mut targets = dump.policies;
        targets.retain(|policy| policy.namespace == namespace && policy.name == name);
        if targets.is_empty() {
            return None;
        }
        let objects: Vec<String> =
            targets.iter().map(|policy| format!("{} {namespace}/{name}", policy.kind)).collect();
        let mut in_force = dump.port_policies;
        in_force.retain(|line| objects.contains(&line.holds.from));
        let selected =
            dump.workloads.iter().filter(|pod| pod.policies.iter().any(|policy| objects.contains(policy)));
        let pods = selected.map(|pod| format!("{}/{}", pod.namespace, pod.name)).collect();
        let mut warnings = dump.warnings;
        warnings.retain(|warning| objects.contains(&warning.object));
        Some(Self { targets, in_force, pods, warnings })
    }

    fn text(&self) -> String {
        let short: Vec<String> = self.targets.iter().map(sentence).collect();
        let sections = [
            self.head(),
            why::in_short(&short),
            self.ports(),
            self.selected(),
            warning_section(&self.warnings),
        ];
        sections.into_iter().filter(|section| !section.is_empty()).collect::<Vec<_>>().join("\n")
    }

    fn head(&self) -> String {
        let mut kinds: Vec<&str> = self.targets.iter().map(|policy| policy.kind.as_str()).collect();
        kinds.dedup();
        let name = self.targets.first().map(|policy| format!("{}/{}", policy.namespace, policy.name));
        format!("Policy:     {}\nKind:       {}\n", name.unwrap_or_default(), kinds.join(", "))
    }

    fn ports(&self) -> String {
        let header = ["SERVICE", "CLIENTS", "RULE", "WHAT", "HOW"];
        let rows = self.in_force.iter().map(|line| {
            vec![
                format!("{}/{}:{}", line.namespace, line.service, line.port),
                if line.clients.is_empty() { "all" } else { &line.clients }.to_owned(),
                line.rule.clone(),
                line.holds.what.clone(),
                line.holds.how.clone(),
            ]
        });
        section("In force", &header, rows)
    }

    fn selected(&self) -> String {
        section("Pods of this node", &["POD"], self.pods.iter().map(|pod| vec![pod.clone()]))
    }
}

/// Whether it holds for one target.
fn sentence(policy: &Policy) -> String {
    let groups = policy.groups.join(", ");
    let what = if groups.is_empty() { String::new() } else { format!(" ({groups})") };
    let message = if policy.message.is_empty() { String::new() } else { format!(": {}", policy.message) };
    let by = if policy.by.is_empty() { "others".to_owned() } else { policy.by.join(", ") };
    match policy.state {
        PolicyState::Attached => format!("It holds for {}{what}{message}.", policy.target),
        PolicyState::Partly => {
            format!("Part of it holds for {}{message}; {by} holds in place of the rest.", policy.target)
        }
        PolicyState::Shadowed => format!("It doesn't hold for {}: {by} holds in its place.", policy.target),
        PolicyState::TargetMissing => {
            format!("It holds for nothing: {} isn't there{message}.", policy.target)
        }
    }
}
