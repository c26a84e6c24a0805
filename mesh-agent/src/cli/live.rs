//! What `stat`, `edges`, `routes` and `top` share: which agents are asked, for which window, and what is left out.
//!
//! They ask all nodes themselves, unlike other commands: what two nodes say of one edge is put together by `merge`.

pub(super) mod fleet;
pub(super) mod merge;
pub(super) mod sum;

use std::time::Duration;

use clap::Args;

use super::AgentArgs;
use merge::Edge;

/// Arguments of all of them.
#[derive(Clone, Debug, Args)]
pub(super) struct LiveArgs {
    #[command(flatten)]
    pub agent: AgentArgs,
    /// Over the last while, such as 30s or 10m; at most half an hour
    #[arg(short = 't', long, value_name = "TIME", default_value = "1m", value_parser = duration)]
    pub window: Duration,
    /// Only this namespace
    #[arg(short, long, value_name = "NAME", conflicts_with = "all_namespaces")]
    pub namespace: Option<String>,
    /// All namespaces, which is what holds without -n
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
    /// Only traffic from this workload: NAME or NAMESPACE/NAME
    #[arg(long, value_name = "WORKLOAD")]
    pub from: Option<Name>,
    /// Only traffic to this service or workload: NAME or NAMESPACE/NAME
    #[arg(long, value_name = "NAME")]
    pub to: Option<Name>,
}

impl LiveArgs {
    /// Everything over this window.
    pub(super) fn over(window: Duration) -> Self {
        Self { agent: AgentArgs::here(), window, namespace: None, all_namespaces: true, from: None, to: None }
    }

    /// With its window.
    pub(super) fn path(&self, what: &str) -> String {
        format!("/v1/live/{what}?window={}", self.window.as_secs())
    }

    /// By --from and --to.
    pub(super) fn takes(&self, edge: &Edge) -> bool {
        let (source, destination) = (&edge.key.source, &edge.key.destination);
        let from = |name: &Name| {
            name.is(&source.namespace, &source.workload) || name.is(&source.namespace, &source.service)
        };
        let to = |name: &Name| {
            name.is(&destination.service_namespace, &destination.service)
                || name.is(&destination.namespace, &destination.workload)
        };
        self.from.as_ref().is_none_or(from) && self.to.as_ref().is_none_or(to)
    }

    /// By --namespace.
    pub(super) fn has(&self, namespace: &str) -> bool {
        self.namespace.as_deref().is_none_or(|wanted| wanted == namespace)
    }
}

/// A name, with or without its namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Name {
    namespace: Option<String>,
    name: String,
}

impl Name {
    pub(super) fn is(&self, namespace: &str, name: &str) -> bool {
        self.name == name && self.namespace.as_deref().is_none_or(|wanted| wanted == namespace)
    }
}

impl std::str::FromStr for Name {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (namespace, name) = match text.split_once('/') {
            Some((namespace, name)) => (Some(namespace.to_owned()), name),
            None => (None, text),
        };
        Ok(Self { namespace, name: name.to_owned() })
    }
}

/// `30s`, `10m`, `1h`; a bare number is seconds.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let factor = match unit {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err("say it in seconds, minutes or hours: 30s, 10m, 1h".to_owned()),
    };
    let number: u64 = number.parse().map_err(|_| "a number has to be there: 30s, 10m, 1h".to_owned())?;
    Ok(Duration::from_secs(number.saturating_mul(factor)))
}

#[cfg(test)]
mod tests;
