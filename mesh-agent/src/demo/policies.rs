//! The phases that put routes and policies in force while the clients go on: canary, retries, ejection, rate limit.
//!
//! Each writes objects as users write them and waits until they are in force; `phases` has the order.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::load::Tally;
use super::phases::{figures, until_back, watch, watch_for};
use super::show::{Outcome, Show};
use super::stage::{NAMESPACE, SERVICE_PORT, Server, Stage};
use crate::lab::{DestinationRuleObject, HttpRouteObject, Object, TrafficPolicyObject, eventually};

/// Answers to judge a share by: five standard deviations of chance are at most 50 of them.
const ENOUGH: u64 = 400;
/// So much longer than the ejected endpoint is watched: it is repaired before it is used again.
const EJECTED: Duration = Duration::from_secs(3);
/// How soon a failing endpoint is ejected at the latest.
const NOTICED: Duration = Duration::from_secs(10);
/// How long the balancer remembers at the most, and how many answers make it forget.
const FORGOTTEN: Duration = Duration::from_secs(30);
const SOME: u64 = 12;
/// Requests a minute that may go to /checkout, all of them at once if they like.
const LIMIT: u64 = 20;
const BURST: u64 = 60;
/// The limiter gives one request back in this time.
const EARNS: Duration = Duration::from_secs(60 / LIMIT);

/// A rule's backend.
pub(super) fn backend(service: &str, weight: u64) -> Value {
    json!({"name": service, "port": SERVICE_PORT, "weight": weight})
}

/// The rule under which the failing endpoint's requests go.
fn retried() -> Value {
    let retry = json!({"codes": [503], "attempts": 2, "backoff": "5ms"});
    json!({"retry": retry, "backendRefs": [backend("cart", 1)]})
}

/// The whole cart's, without rules.
pub(super) fn route() -> HttpRouteObject {
    HttpRouteObject::new(NAMESPACE, "cart", "cart")
}

pub(super) fn canary(stage: &mut Stage, show: &Show, time: Duration) -> Result<Outcome> {
    let mut outcome = Outcome::new("canary", json!({}));
    for (v1, v2) in [(90, 10), (50, 50)] {
        let split = json!({"backendRefs": [backend("cart-v1", v1), backend("cart-v2", v2)]});
        stage.put_in_force(vec![route().rule(split).into()])?;
        let (web, batch) = watch_for(stage, show, time / 2, ENOUGH)?;
        let total = web.ok() + batch.ok();
        let seen = web.of_version("v2") + batch.of_version("v2");
        let share = 100.0 * seen as f64 / total.max(1) as f64;
        let want = (total * v2) as f64 / 100.0;
        show.row(&format!("v2 of {v1}/{v2}"), seen as f64, &format!("requests, {share:.1} % of {total}"));
        let deviation = (want * v1 as f64 / 100.0).sqrt();
        let within = total >= ENOUGH && (seen as f64 - want).abs() <= 5.0 * deviation;
        outcome.check(within, &format!("v2 gets {v2} % of the requests, but for chance"));
        outcome.check(web.failures() + batch.failures() == 0, "no request fails by the change");
        let mut found = figures(&web, &batch);
        found["v2Percent"] = json!(share);
        outcome.figures[format!("{v1}/{v2}")] = found;
    }
    // What follows is about all three endpoints again.
    stage.put_in_force(vec![route().rule(json!({"backendRefs": [backend("cart", 1)]})).into()])?;
    Ok(outcome)
}

fn failing(stage: &Stage) -> Result<&Server> {
    stage.servers.get(1).context("no second server")
}

fn failures(web: &Tally, batch: &Tally) -> u64 {
    web.failures() + batch.failures()
}

/// Waits until the failing endpoint has its share again: the balancer prefers others for a while to one that was killed, or
/// whose answers came late, as they do on a machine that is busy with something else. Some answers in time clear its name.
fn until_asked(stage: &Stage) -> Result<()> {
    let failing = failing(stage)?;
    let begin = failing.refused();
    // What comes after counts its requests, and says so if there still are none.
    let _ = eventually(FORGOTTEN, || {
        anyhow::ensure!(failing.refused() >= begin + SOME, "the failing endpoint is hardly asked");
        Ok(())
    });
    Ok(())
}

pub(super) fn retries(stage: &mut Stage, show: &Show, time: Duration) -> Result<Outcome> {
    failing(stage)?.fail()?;
    until_asked(stage)?;
    let (web, batch) = watch_for(stage, show, time / 2, ENOUGH / 4)?;
    let without = failures(&web, &batch);
    let mut outcome = Outcome::new("retries", json!({"without": figures(&web, &batch)}));
    show.row("without retries", without as f64, "503s that clients saw");
    outcome.check(without > 5, "without a retry rule clients see the endpoint's 503s");
    let retried_until = |stage: &Stage| -> Result<f64> {
        Ok(stage.agent.metrics()?.sum("mesh_agent_upstream_retries_total", &[("reason", "status")]))
    };
    let before = retried_until(stage)?;
    stage.put_in_force(vec![route().rule(retried()).into()])?;
    let (web, batch) = watch(stage, show, time)?;
    let (with, retries) = (failures(&web, &batch), retried_until(stage)? - before);
    show.row("with retries", with as f64, "503s that clients saw");
    show.row("retried", retries, "mesh_agent_upstream_retries_total{reason=\"status\"}");
    // Each client may have had a request under way when the rule came into force.
    outcome.check(with <= 2 && web.ok() + batch.ok() > 0, "with it no client sees one");
    outcome.check(retries > 5.0, "because the agent asked another endpoint");
    outcome.figures["with"] = figures(&web, &batch);
    outcome.figures["retries"] = json!(retries);
    Ok(outcome)
}

pub(super) fn ejection(stage: &mut Stage, show: &Show, time: Duration) -> Result<Outcome> {
    until_asked(stage)?;
    let begin = failing(stage)?.refused();
    watch_for(stage, show, time / 2, ENOUGH / 4)?;
    let before = failing(stage)?.refused() - begin;
    show.row("before", before as f64, "requests that reached cart-2, which failed them");
    let ejections = |stage: &Stage| -> Result<f64> {
        let labels = [("reason", "consecutive_5xx")];
        Ok(stage.agent.metrics()?.sum("mesh_agent_outlier_ejections_total", &labels))
    };
    let ejections_before = ejections(stage)?;
    let base = format!("{}s", (time + EJECTED).as_secs());
    let rule = json!({"outlierDetection": {
        "consecutive5xxErrors": 5, "baseEjectionTime": base, "maxEjectionPercent": 50,
    }});
    let rule = DestinationRuleObject::new(NAMESPACE, "cart", &rule);
    stage.put_in_force(vec![route().rule(retried()).into(), rule.into()])?;
    let ejected = eventually(NOTICED, || {
        let ejected = stage.agent.metrics()?.sum("mesh_agent_outlier_ejected_endpoints", &[]);
        anyhow::ensure!(ejected > 0.0, "no endpoint is ejected");
        Ok(ejected)
    });
    let ejected = ejected.unwrap_or(0.0);
    let begin = failing(stage)?.refused();
    let (web, batch) = watch(stage, show, time)?;
    let after = failing(stage)?.refused() - begin;
    failing(stage)?.recover()?;
    let ejections = ejections(stage)? - ejections_before;
    show.row("after", after as f64, "requests that reached it");
    show.row("ejections", ejections, "mesh_agent_outlier_ejections_total{reason=\"consecutive_5xx\"}");
    let mut outcome = Outcome::new("ejection", figures(&web, &batch));
    outcome.check(before > 5, "retries hide an endpoint that fails, and go on asking it");
    outcome.check(ejected == 1.0 && ejections >= 1.0, "outlier detection ejects it, and it alone");
    // Each client may have had a request under way at it.
    outcome.check(after <= 2, "an ejected endpoint is asked no more");
    outcome.check(failures(&web, &batch) == 0 && web.ok() > 0, "the two others serve everybody");
    let back = until_back(stage, "cart-2")?;
    outcome.check(back.is_some(), "its time over, and well again, it is used as before");
    let millis = back.map_or(0, |back| back.as_millis() as u64);
    show.row("cart-2 is back", millis as f64, "ms after it was repaired");
    for (name, value) in
        [("reachedBefore", before), ("reachedAfter", after), ("backAfterMilliseconds", millis)]
    {
        outcome.figures[name] = json!(value);
    }
    outcome.figures["ejections"] = json!(ejections);
    Ok(outcome)
}

pub(super) fn rate_limit(stage: &mut Stage, show: &Show, _time: Duration) -> Result<Outcome> {
    let checkout = json!({
        "name": "checkout", "matches": [{"path": {"type": "Exact", "value": "/checkout"}}],
        "backendRefs": [backend("cart", 1)],
    });
    let target = json!({
        "group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "name": "cart", "sectionName": "checkout",
    });
    let limit = json!({"local": [{"name": "checkout", "requests": LIMIT, "per": "1m"}]});
    let policy = TrafficPolicyObject::new(NAMESPACE, "checkout", &target).group("rateLimit", limit);
    // These stay in force, for whoever looks around at the end.
    let objects: Vec<Object> = vec![route().rule(checkout).rule(retried()).into(), policy.into()];
    stage.put_in_force(objects)?;
    stage.skip();
    let begin = Instant::now();
    let burst = burst(stage)?;
    let earned = begin.elapsed().as_millis() as u64 / EARNS.as_millis() as u64 + 1;
    let mut web = Tally::default();
    stage.web.take(&mut web);
    let list = |said: &BTreeMap<String, u64>| {
        said.iter().map(|(said, count)| format!("{said} ({count} times)")).collect::<Vec<_>>().join(", ")
    };
    show.settle(&[
        ("batch /checkout", burst.line()),
        ("Retry-After", list(&burst.retry_after)),
        ("RateLimit-Policy", list(&burst.limits)),
        ("web", web.line()),
    ]);
    let limited = burst.failed.get("status-429").copied().unwrap_or(0);
    let told: u64 = burst.retry_after.values().sum();
    let seconds = burst.retry_after.keys().all(|said| said.parse::<u64>().is_ok_and(|seconds| seconds > 0));
    let policies = burst.limits.keys().all(|said| said.contains(&format!(";q={LIMIT};w=60")));
    let figures = json!({
        "sent": BURST, "passed": burst.ok(), "limited": limited,
        "retryAfter": burst.retry_after, "rateLimitPolicy": burst.limits, "webFailures": web.failed,
    });
    let mut outcome = Outcome::new("rate limit", figures);
    outcome.check((LIMIT..=LIMIT + earned).contains(&burst.ok()), "as many pass as the limit allows");
    outcome.check(limited > 0 && limited + burst.ok() == BURST, "the others are answered with 429");
    outcome.check(told == limited && seconds, "which says in Retry-After when to come again");
    outcome.check(policies && burst.limits.len() == 1, "and in RateLimit-Policy what the limit is");
    outcome.check(web.failures() == 0, "web, which asks for something else, is not limited");
    Ok(outcome)
}

/// A burst of requests to /checkout from batch's pod, one after the other without a pause.
fn burst(stage: &Stage) -> Result<Tally> {
    let own = std::env::current_exe().context("finding this executable")?;
    let command = stage.batch_pod.command(own).arg("demo-client").args(["--to", &stage.vip.to_string()]);
    let command = command.args(["--every", "0", "--path", "/checkout", "--count", &BURST.to_string()]);
    Ok(Tally::of(&command.run(Duration::from_secs(60))?.success()?.stdout))
}
