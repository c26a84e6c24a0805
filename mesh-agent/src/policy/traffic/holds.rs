//! What holds for a request where a route's rule and TrafficPolicies both say something, and what is left of either.
//!
//! The one place that decides it: `proxy::plan` and `proxy::retry` ask it for each request, `admin` to show it. Pure; costs
//! no look-up and no allocation.

use std::time::Duration;

use super::Layers;
use crate::model::ServicePort;
use crate::policy::budget::Budget;
use crate::route::{RetryPolicy, Rule};

/// No policy says anything.
pub static NONE: Layers = Layers { rule: None, service: None };

impl Layers {
    /// When a request by `rule` is sent again: a policy's `retry` takes the place of the rule's.
    pub fn retry_by<'a>(&'a self, rule: Option<&'a Rule>) -> Option<&'a RetryPolicy> {
        self.retry().map(|retry| &retry.policy).or_else(|| rule?.retry.as_ref())
    }

    /// What bounds the retries and hedges of a request by `rule` to `port`: the budget of the policy that gives `retry`,
    /// else the port's. None: their number alone, none are made, or it goes to no service.
    pub fn budget_by<'a>(
        &'a self,
        rule: Option<&'a Rule>,
        port: Option<&'a ServicePort>,
    ) -> Option<&'a Budget> {
        let own = self.retry().map(|retry| &*retry.budget);
        let asked = || self.retry_by(rule).is_some() || self.hedge().is_some();
        let of_port = || port?.retries.as_ref().filter(|_| asked()).map(|retries| &retries.budget);
        own.or_else(of_port)
    }

    /// The longest that a request by `rule` may take as a whole: a policy's `timeout` and the rule's both hold.
    pub fn limit_by(&self, rule: Option<&Rule>) -> Option<Duration> {
        let of_rule = rule.and_then(|rule| rule.timeouts.request);
        of_rule.into_iter().chain(self.timeout().map(|timeout| **timeout)).min()
    }

    /// The longest that one try may take: the rule's `backendRequest`, else what goes with the retries.
    pub fn try_limit_by(&self, rule: Option<&Rule>) -> Option<Duration> {
        let of_rule = rule.and_then(|rule| rule.timeouts.backend_request);
        of_rule.or_else(|| self.retry_by(rule)?.per_try)
    }
}
