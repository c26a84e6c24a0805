//! What is told of a judgement: figures by policy and rule, and a line for what was denied, audited, or would have been denied.
//!
//! Lines are bounded by worker and second, so that a flood of refused requests floods no log; the figures count all, and the
//! access log has a line for each. A client is never told more than that it was refused.

use std::cell::Cell;
use std::sync::Arc;

use http::request;

use super::Arrival;
use crate::authz::{Judged, RuleName, Verdict};
use crate::clock;
use crate::proxy::context::Connection;
use crate::proxy::identity::UNPROVEN;

/// Lines that a worker writes in a second.
const MOST_LINES: u32 = 50;
const SECOND_NS: u64 = 1_000_000_000;

thread_local! {
    /// Begin of this second, lines in it, lines left out since the last one.
    static LINES: Cell<(u64, u32, u64)> = const { Cell::new((0, 0, 0)) };
}

/// What was judged.
pub(super) struct Subject<'a> {
    pub(super) arrival: &'a Arrival,
    /// Of a request.
    pub(super) head: Option<&'a request::Parts>,
}

impl Subject<'_> {
    fn kind(&self) -> &'static str {
        if self.head.is_some() { "request" } else { "connection" }
    }
}

/// Traffic was denied.
pub(super) fn denied(conn: &Connection, subject: &Subject<'_>, verdict: Verdict<'_>) {
    let metrics = &conn.pod.worker.telemetry.metrics;
    let [policy, rule] = metrics.authorization().labels(labels(verdict.rule()));
    metrics.agent().authorization_denied.with_label_values(&[policy, rule, subject.kind()]).inc();
    let reason = match verdict.rule() {
        Some(rule) => rule.action.name(),
        None => "no ALLOW rule matches",
    };
    line(conn, subject, "denied", reason, verdict.rule());
}

/// Traffic was judged: what is to be noted of it whatever becomes of it.
pub(super) fn noted(conn: &Connection, subject: &Subject<'_>, judged: &Judged<'_>) {
    let metrics = &conn.pod.worker.telemetry.metrics;
    if let Some(rule) = judged.audit {
        let [policy, number] = metrics.authorization().labels(labels(Some(rule)));
        metrics.agent().authorization_audited.with_label_values(&[policy, number]).inc();
        line(conn, subject, "audited", "AUDIT", Some(rule));
    }
    let Some(dry_run) = judged.dry_run else { return };
    let [policy, number] = metrics.authorization().labels(labels(dry_run.rule()));
    let verdict = if dry_run.is_denied() { "denied" } else { "allowed" };
    metrics.agent().authorization_dry_run.with_label_values(&[policy, number, verdict]).inc();
    if dry_run.is_denied() && !judged.verdict.is_denied() {
        let reason = dry_run.rule().map_or("no ALLOW rule matches", |rule| rule.action.name());
        line(conn, subject, "would be denied (dry run)", reason, dry_run.rule());
    }
}

fn labels(rule: Option<&Arc<RuleName>>) -> [&str; 2] {
    rule.map_or(["none", "none"], |rule| [&*rule.policy_label, &*rule.rule_label])
}

fn line(
    conn: &Connection,
    subject: &Subject<'_>,
    what: &'static str,
    reason: &str,
    rule: Option<&Arc<RuleName>>,
) {
    let Some(left_out) = may_write() else { return };
    let [policy, rule] = labels(rule);
    let metrics = &conn.pod.worker.telemetry.metrics;
    let destination = metrics.principal(&subject.arrival.workload);
    tracing::info!(
        target: "mesh_agent::authorization",
        reason,
        policy,
        rule,
        kind = subject.kind(),
        source = conn.proven_identity().unwrap_or(UNPROVEN),
        source_address = %conn.client,
        destination,
        destination_address = %subject.arrival.address,
        method = subject.head.map(|head| head.method.as_str()),
        path = subject.head.map(|head| tracing::field::debug(head.uri.path())),
        left_out,
        "{what}"
    );
}

/// How many lines were left out before this one; None: it is left out too.
fn may_write() -> Option<u64> {
    let now = clock::now_ns();
    let (begin, written, left_out) = LINES.get();
    if now.saturating_sub(begin) >= SECOND_NS {
        LINES.set((now, 1, 0));
        return Some(left_out);
    }
    if written >= MOST_LINES {
        LINES.set((begin, written, left_out + 1));
        return None;
    }
    LINES.set((begin, written + 1, 0));
    Some(left_out)
}
