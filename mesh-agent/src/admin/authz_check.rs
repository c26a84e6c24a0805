//! `authz check`: whether somebody may do something, said by the judge that the data path asks.
//!
//! Gathers the facts of a question as `proxy::access` gathers those of traffic, and asks the policies in force. Sends nothing.

mod question;
mod token;

use std::sync::Arc;

use thiserror::Error;

use self::question::{Asked, Meant};
use super::api::{AuthzAnswer, AuthzQuestion, AuthzRule, AuthzTarget};
use crate::authz::{
    Compiled, Considered, Facts, Judged, Readings, RequestFacts, RuleName, Verdict, remote_address,
};
use crate::model::{Snapshot, Workload};
use crate::objects::Action;

/// Why a question can't be answered.
#[derive(Debug, Error)]
pub enum Refusal {
    /// It can't be understood.
    #[error("{0}")]
    Question(String),
    /// Something that it names isn't known.
    #[error("{0}")]
    Unknown(String),
}

/// Whether what `question` is about is let in.
///
/// # Errors
/// If it can't be understood, or names what isn't there.
pub fn answer(snapshot: &Snapshot, question: &AuthzQuestion) -> Result<AuthzAnswer, Refusal> {
    let asked = Asked::new(snapshot, question)?;
    let targets = asked.meant.iter().map(|meant| target(snapshot, &asked, meant));
    let targets = targets.collect::<Result<Vec<_>, _>>()?;
    Ok(AuthzAnswer {
        allowed: targets.iter().all(|target| target.allowed),
        from: asked.from,
        identity: asked.identity.unwrap_or_default(),
        address: asked.source.to_string(),
        asked: asked.shown,
        targets,
        notes: asked.notes,
    })
}

fn target(snapshot: &Snapshot, asked: &Asked, meant: &Meant) -> Result<AuthzTarget, Refusal> {
    let (port, mut token, mut claims) = (meant.address.port(), None, None);
    match asked.token.as_ref().map(|token| token.judge(snapshot, &meant.workload, port)) {
        None => {}
        Some(token::Judged::Holds(said, words)) => (token, claims) = (Some(words), Some(said)),
        Some(token::Judged::Ignored) => {
            token = Some("no RequestAuthentication selects the pod: nobody looks at it".to_owned());
        }
        Some(token::Judged::Refused(words)) => {
            return Ok(AuthzTarget {
                allowed: false,
                reason: "its token doesn't hold".to_owned(),
                token: Some(words),
                ..shown(meant, Verdict::Allowed(None), None, Vec::new())
            });
        }
    }
    let Some(compiled) = policies(snapshot, &meant.workload, port) else {
        return Ok(AuthzTarget {
            reason: "no policy selects it".to_owned(),
            token,
            ..shown(meant, Verdict::Allowed(None), None, Vec::new())
        });
    };
    let mut readings = Readings::default();
    let request = match &asked.head {
        None => None,
        Some(head) => {
            let options = &snapshot.authorization.options;
            readings.read(head.uri.path(), options.normalization).map_err(|_| {
                Refusal::Question("a path with a NUL is no request's: it is answered with 400".to_owned())
            })?;
            Some(RequestFacts {
                method: head.method.as_str(),
                host: asked.host.as_deref(),
                path: &readings,
                headers: &head.headers,
                remote: remote_address(&head.headers, asked.source, options.trusted_hops),
                claims: claims.as_deref(),
            })
        }
    };
    let address = (meant.address.ip(), meant.address.port());
    let facts = Facts::new(asked.identity.as_deref(), asked.source, address);
    let facts = request.map_or(facts, |request| facts.asking(request));
    let judged = compiled.judge(&facts);
    let rules = compiled.explain(&facts);
    Ok(AuthzTarget { token, ..shown(meant, judged.verdict, Some((&compiled, &judged)), rules) })
}

/// Those in force where the agent has compiled them, else as they would be.
fn policies(snapshot: &Snapshot, workload: &Workload, port: u16) -> Option<Arc<Compiled>> {
    if let Some(policies) = snapshot.authorization_of(workload) {
        return Some(policies.at(port).clone());
    }
    let selected = snapshot.policies_selecting(workload);
    let policies =
        (!selected.is_empty()).then(|| selected.compile(|policies| Arc::new(Compiled::new(policies))))?;
    Some(policies.at(port).clone())
}

fn shown(
    meant: &Meant,
    verdict: Verdict<'_>,
    by: Option<(&Arc<Compiled>, &Judged<'_>)>,
    rules: Vec<Considered>,
) -> AuthzTarget {
    let custom = by.and_then(|(_, judged)| judged.custom);
    let decides = |rule: &Arc<RuleName>| verdict.rule().is_some_and(|decides| Arc::ptr_eq(decides, rule));
    let rule = |one: Considered| AuthzRule {
        policy: one.rule.policy.to_string(),
        rule: one.rule.rule,
        action: one.rule.action.name().to_owned(),
        dry_run: one.rule.dry_run,
        fits: one.fits,
        decides: decides(&one.rule),
        why_not: one.why_not,
    };
    AuthzTarget {
        workload: meant.workload.name.to_string(),
        address: meant.address.to_string(),
        allowed: !verdict.is_denied(),
        reason: reason(verdict, by.map(|(compiled, _)| &**compiled)),
        policy: verdict.rule().map(|rule| rule.policy.to_string()).unwrap_or_default(),
        rule: verdict.rule().map(|rule| rule.rule),
        token: None,
        asks: custom.map(|rule| {
            let provider = rule.provider.as_deref().unwrap_or_default();
            format!("{provider}, by AuthorizationPolicy {}, rule {}", rule.policy, rule.rule)
        }),
        dry_run: by.and_then(|(_, judged)| judged.dry_run).map(|dry_run| {
            let what = if dry_run.is_denied() { "denied" } else { "allowed" };
            match dry_run.rule() {
                Some(rule) => format!("{what} by AuthorizationPolicy {}, rule {}", rule.policy, rule.rule),
                None => format!("{what}: no rule decides"),
            }
        }),
        rules: rules.into_iter().map(rule).collect(),
    }
}

fn reason(verdict: Verdict<'_>, compiled: Option<&Compiled>) -> String {
    match verdict {
        Verdict::Allowed(Some(rule)) | Verdict::Denied(Some(rule)) => {
            format!("{} by AuthorizationPolicy {}, rule {}", rule.action.name(), rule.policy, rule.rule)
        }
        Verdict::Allowed(None) => {
            "no rule denies it, and no policy with action ALLOW selects the pod".to_owned()
        }
        Verdict::Denied(None) => {
            let of_allow = |compiled: &Compiled| {
                let allow = compiled
                    .policies()
                    .iter()
                    .filter(|policy| policy.action == Action::Allow && !policy.dry_run);
                allow.map(|policy| policy.name.to_string()).collect::<Vec<_>>().join(", ")
            };
            format!(
                "no rule of the policies that allow matches ({})",
                compiled.map(of_allow).unwrap_or_default()
            )
        }
    }
}

#[cfg(test)]
mod tests;
