//! Which watches fail, and what people are told of it: once when the API server is lost, once when it is back. Pure.

use std::collections::BTreeMap;

use super::resource::Feed;
use crate::kube::Failure;
use crate::model::{Warning, WarningCode};

/// The state of all watches.
#[derive(Debug, Default)]
pub struct Link {
    failing: BTreeMap<usize, Failure>,
    /// What was first seen of the API server's being away.
    away: Option<Failure>,
}

impl Link {
    /// Watch `at` failed; true if there is something new to tell.
    pub fn fail(&mut self, at: usize, failure: Failure) -> bool {
        let told = self.failing.insert(at, failure);
        if is_away(failure) && self.away.is_none() {
            self.away = Some(failure);
        }
        self.settle();
        told.map(is_away) != Some(is_away(failure)) || (!is_away(failure) && told != Some(failure))
    }

    /// Watch `at` works; true if there is something new to tell.
    pub fn work(&mut self, at: usize) -> bool {
        let told = self.failing.remove(&at).is_some();
        self.settle();
        told
    }

    fn settle(&mut self) {
        if !self.failing.values().copied().any(is_away) {
            self.away = None;
        }
    }

    /// What is wrong now.
    pub fn warnings(&self, server: &str, feeds: &[Feed]) -> Vec<Warning> {
        let mut warnings = Vec::new();
        if let Some(failure) = self.away {
            let message = format!(
                "can't be watched ({}): what it said last stays in force, and it is tried again until it answers; look at the API \
                 server, the network to it and the agent's access to it",
                failure.describe()
            );
            warnings
                .push(Warning::new(WarningCode::ApiServerUnavailable, "", "", message).at(server.to_owned()));
        }
        for (at, failure) in &self.failing {
            let Some(feed) = feeds.get(*at).filter(|_| !is_away(*failure)) else { continue };
            let name = feed.resource.name();
            let message = match failure {
                Failure::Forbidden => format!(
                    "the agent may not list and watch {name}: grant its service account list and watch on them in a \
                     ClusterRole; until then what was read of them stays in force, and an agent that has read nothing of them \
                     doesn't get ready"
                ),
                _ => format!(
                    "the API server doesn't serve {name} in {}: an agent that has read nothing of them doesn't get ready; \
                     Kubernetes 1.30 or newer is needed",
                    feed.resource.api_version(feed.resource.versions[0])
                ),
            };
            warnings
                .push(Warning::new(WarningCode::ResourceUnavailable, "", "", message).at(server.to_owned()));
        }
        warnings.dedup();
        warnings
    }
}

/// True for what concerns the API server, and not one resource of it.
const fn is_away(failure: Failure) -> bool {
    !matches!(failure, Failure::Forbidden | Failure::NotFound)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::kube::resource::feeds;

    fn said(link: &Link) -> Vec<String> {
        link.warnings("https://api", &feeds("a")).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn however_many_watches_fail_the_api_server_is_lost_once_and_back_once() {
        let mut link = Link::default();
        assert!(link.fail(0, Failure::Unreachable));
        let first = said(&link);
        assert!(
            first.len() == 1 && first[0].contains("https://api") && first[0].contains("no connection"),
            "{first:?}"
        );
        link.fail(1, Failure::Timeout);
        assert!(!link.fail(1, Failure::Refused) && !link.fail(0, Failure::Timeout));
        assert_eq!(said(&link), first);
        link.work(0);
        assert_eq!(said(&link), first);
        assert!(link.work(1) && !link.work(1));
        assert!(said(&link).is_empty());
    }

    #[test]
    fn what_the_agent_may_not_read_is_named() {
        let mut link = Link::default();
        assert!(link.fail(0, Failure::Forbidden) && !link.fail(0, Failure::Forbidden));
        let text = said(&link).join("\n");
        assert!(text.contains("pods") && text.contains("grant its service account list and watch"), "{text}");
        assert!(link.fail(0, Failure::NotFound));
        assert!(said(&link).join("\n").contains("doesn't serve pods in v1"));
        link.work(0);
        assert!(said(&link).is_empty());
    }
}
