//! What is shown, in order. Each phase watches the clients' figures, judges them, and gives what it found.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use mesh_common::Reason;
use serde_json::{Value, json};

use super::load::{Load, Tally};
use super::show::{Outcome, Show};
use super::stage::{Server, Stage};
use super::{pause, policies, security};
use crate::lab::eventually;

/// DESIGN: new connections follow the fail mode within one second of the agent's end.
const AWAY: Duration = Duration::from_secs(1);
/// The longest that anything else may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// Between two looks at what clients say.
const STEP: Duration = Duration::from_millis(50);

type Run = fn(&mut Stage, &Show, Duration) -> Result<Outcome>;

/// One phase.
pub(super) struct Phase {
    pub(super) name: &'static str,
    pub(super) what: &'static str,
    pub(super) run: Run,
}

/// All of them.
pub(super) const ALL: [Phase; 15] = [
    Phase {
        name: "interception",
        what: "what the kernel programs did with the clients' connections",
        run: interception,
    },
    Phase { name: "balancing", what: "one service address, three endpoints of two versions", run: balancing },
    Phase {
        name: "canary",
        what: "an HTTPRoute sends 90/10 to the versions v1 and v2, then 50/50",
        run: policies::canary,
    },
    Phase {
        name: "outside",
        what: "a server that is in no mesh: called by a pod, and calling one",
        run: outside,
    },
    Phase {
        name: "endpoint killed",
        what: "SIGKILL to the server in cart-2, under load",
        run: endpoint_killed,
    },
    Phase {
        name: "retries",
        what: "cart-2 answers 503 to everything; then the HTTPRoute says to retry",
        run: policies::retries,
    },
    Phase {
        name: "ejection",
        what: "cart-2 still fails, unseen but in use; then a DestinationRule detects outliers",
        run: policies::ejection,
    },
    Phase {
        name: "rate limit",
        what: "a TrafficPolicy lets 20 requests a minute go to /checkout; batch sends 60 at once",
        run: policies::rate_limit,
    },
    Phase {
        name: "mutual TLS",
        what: "web and batch call the vault on the second node; somebody listens in between",
        run: security::mutual_tls,
    },
    Phase {
        name: "stranger",
        what: "outside calls the vault; then a PeerAuthentication says STRICT",
        run: security::stranger,
    },
    Phase {
        name: "denied",
        what: "an AuthorizationPolicy keeps batch from the vault's /admin",
        run: security::denied,
    },
    Phase { name: "metrics", what: "what the agent counted, against what the clients saw", run: metrics },
    Phase {
        name: "fail closed",
        what: "SIGKILL to the agent: web fails closed, its connections are refused",
        run: fail_closed,
    },
    Phase {
        name: "fail open",
        what: "still no agent: batch fails open, straight to the endpoints",
        run: fail_open,
    },
    Phase {
        name: "return",
        what: "the agent starts again and takes over what the kernel kept",
        run: comes_back,
    },
];

/// Watches both clients for a while, showing figures as they grow.
pub(super) fn watch(stage: &mut Stage, show: &Show, time: Duration) -> Result<(Tally, Tally)> {
    watch_for(stage, show, time, 0)
}

/// The same, but longer if it takes longer to see so many answers.
pub(super) fn watch_for(
    stage: &mut Stage,
    show: &Show,
    time: Duration,
    answers: u64,
) -> Result<(Tally, Tally)> {
    stage.skip();
    let (mut web, mut batch) = (Tally::default(), Tally::default());
    let (begin, longest) = (Instant::now(), time + PATIENCE);
    while begin.elapsed() < time || (web.ok() + batch.ok() < answers && begin.elapsed() < longest) {
        pause(STEP, || {
            stage.web.take(&mut web);
            stage.batch.take(&mut batch);
            show.live(&[("web", web.line()), ("batch", batch.line())]);
            Ok(())
        })?;
    }
    show.settle(&[("web", web.line()), ("batch", batch.line())]);
    Ok((web, batch))
}

/// Waits until a server answers one of web's requests; how long that took, if it did.
pub(super) fn until_back(stage: &mut Stage, name: &str) -> Result<Option<Duration>> {
    let (mut back, begin) = (Tally::default(), Instant::now());
    stage.skip();
    while back.by(name) == 0 && begin.elapsed() < PATIENCE {
        pause(STEP, || {
            stage.web.take(&mut back);
            Ok(())
        })?;
    }
    Ok((back.by(name) > 0).then(|| begin.elapsed()))
}

/// What both clients saw, for the report.
pub(super) fn figures(web: &Tally, batch: &Tally) -> Value {
    let one = |tally: &Tally| {
        let by = tally.answered.iter().map(|((name, _), count)| (name.clone(), json!(count)));
        json!({
            "answered": tally.ok(), "failed": tally.failed, "medianMicroseconds": tally.median(),
            "byEndpoint": by.collect::<serde_json::Map<_, _>>(),
        })
    };
    json!({"web": one(web), "batch": one(batch)})
}

fn interception(stage: &mut Stage, show: &Show, time: Duration) -> Result<Outcome> {
    let before = stage.reasons()?;
    let (web, batch) = watch(stage, show, time)?;
    let after = stage.reasons()?;
    let deltas: Vec<(Reason, f64)> = Reason::ALL
        .iter()
        .map(|reason| (*reason, after.reason(reason.label()) - before.reason(reason.label())))
        .filter(|(_, delta)| *delta > 0.0)
        .collect();
    for (reason, delta) in &deltas {
        show.row(reason.label(), *delta, meaning(*reason));
    }
    let of =
        |wanted: Reason| deltas.iter().find(|(reason, _)| *reason == wanted).map_or(0.0, |(_, delta)| *delta);
    let ok = web.ok() + batch.ok();
    let mut outcome = Outcome::new("interception", figures(&web, &batch));
    outcome.figures["reasons"] = deltas.iter().map(|(r, d)| (r.label().to_owned(), json!(d))).collect();
    outcome.check(ok > 0 && web.failures() + batch.failures() == 0, "every request is answered");
    // The scrape and the clients' last lines are not of one instant.
    outcome
        .check(of(Reason::Captured) >= ok as f64 * 0.9, "every connection is captured by the connect hook");
    outcome
        .check(of(Reason::InboundAgentFlow) > 0.0, "the agent's own flows are let through at the endpoints");
    let true_client = web.seen_as.keys().all(|address| *address == stage.web_pod.v4().to_string());
    outcome.check(true_client, "servers see the client's own address");
    let dialled = web.dialled.keys().all(|address| *address == stage.vip.to_string());
    outcome.check(dialled, "getpeername(2) answers with the service's address");
    Ok(outcome)
}

fn meaning(reason: Reason) -> &'static str {
    match reason {
        Reason::Captured => "connect(2) handed to the agent inside the pod",
        Reason::AgentSocket => "the agent's own sockets, never captured",
        Reason::Published => "original destination told to the agent within the handshake",
        Reason::FlowPublished => "the agent's flow told to the endpoint's pod",
        Reason::InboundAgentFlow => "let through to the application at the endpoint",
        Reason::InboundLoopback => "the pod's own loopback, where the agent's listeners are",
        Reason::InboundCaptured => "from outside the mesh, handed to the agent inside the pod",
        Reason::PeerOriginal => "getpeername(2): the address that was dialled",
        Reason::PeerClient => "accept(2): the true client",
        _ => "",
    }
}

fn balancing(stage: &mut Stage, show: &Show, time: Duration) -> Result<Outcome> {
    const NAMES: [&str; 3] = ["cart-1", "cart-2", "cart-3"];
    let share_of = |(web, batch): &(Tally, Tally), name: &str| web.by(name) + batch.by(name);
    let begin = Instant::now();
    // An endpoint whose first answer was slow is asked again when that is forgotten, which takes seconds.
    let seen = loop {
        let seen = watch(stage, show, time)?;
        if NAMES.iter().all(|name| share_of(&seen, name) > 1) || begin.elapsed() >= PATIENCE {
            break seen;
        }
    };
    let (web, batch) = &seen;
    let mut outcome = Outcome::new("balancing", figures(web, batch));
    let total = web.ok() + batch.ok();
    for name in NAMES {
        let share = share_of(&seen, name);
        show.row(name, share as f64, "requests");
        // The balancer follows measured latency, so that equal shares aren't to be expected, but nobody is left out.
        outcome.check(share * 100 >= total, &format!("{name} has a share of the requests"));
    }
    outcome.check(web.failures() + batch.failures() == 0, "no request fails");
    Ok(outcome)
}

/// Twenty requests from `pod` by a client of its own.
fn twenty(pod: &crate::lab::Pod, to: &Server) -> Result<Tally> {
    let own = std::env::current_exe().context("finding this executable")?;
    let command = pod.command(own).arg("demo-client").args(["--to", &to.address().to_string()]);
    let finished = command.args(["--every", "1", "--count", "20"]).run(Duration::from_secs(20))?;
    Ok(Tally::of(&finished.success()?.stdout))
}

fn outside(stage: &mut Stage, show: &Show, _time: Duration) -> Result<Outcome> {
    let before = stage.reasons()?;
    let out = twenty(&stage.web_pod, &stage.outside)?;
    let cart = stage.servers.first().context("no server")?;
    let inward = twenty(&stage.outside.pod, cart)?;
    show.settle(&[("web to outside", out.line()), ("outside to cart-1", inward.line())]);
    let captured = eventually(AWAY, || {
        Ok(stage.reasons()?.reason("inbound_captured") - before.reason("inbound_captured"))
    })?;
    show.row("inbound_captured", captured, meaning(Reason::InboundCaptured));
    let figures = json!({"out": out.ok(), "in": inward.ok(), "inboundCaptured": captured});
    let mut outcome = Outcome::new("outside", figures);
    outcome.check(out.ok() == 20, "what no service knows passes through");
    outcome.check(inward.ok() == 20, "a client outside the mesh reaches a pod");
    let address = stage.outside.pod.v4().to_string();
    outcome.check(
        inward.seen_as.keys().all(|seen| *seen == address),
        "the pod sees the outside client's own address",
    );
    outcome.check(captured >= 20.0, "what comes from outside is captured by sk_lookup");
    Ok(outcome)
}

fn endpoint_killed(stage: &mut Stage, show: &Show, time: Duration) -> Result<Outcome> {
    let killed = stage.servers.get_mut(1).context("no second server")?;
    killed.kill();
    let (web, batch) = watch(stage, show, time)?;
    let mut outcome = Outcome::new("endpoint killed", figures(&web, &batch));
    outcome
        .check(web.failures() + batch.failures() <= 2, "connects that fail go to another endpoint unnoticed");
    outcome.check(web.ok() + batch.ok() > 0, "the other endpoints serve");
    stage.servers.get_mut(1).context("no second server")?.restart()?;
    let back = until_back(stage, "cart-2")?;
    outcome.check(back.is_some(), "an endpoint that is back is used again");
    let millis = back.unwrap_or(PATIENCE).as_millis() as u64;
    outcome.figures["backAfterMilliseconds"] = json!(millis);
    show.row("cart-2 is back", millis as f64, "ms until its first request after its restart");
    Ok(outcome)
}

fn metrics(stage: &mut Stage, show: &Show, _time: Duration) -> Result<Outcome> {
    // Without a client in between, both sides can be compared to the request.
    let web = std::mem::replace(&mut stage.web, Load::start(&stage.web_pod, stage.outside.address(), 1000)?);
    let requests = web.stop() as f64;
    // In the canary's time its versions' services were the destination.
    let services = ["cart", "cart-v1", "cart-v2"];
    let metrics = stage.agent.metrics()?;
    let counted = |further: &[(&str, &str)]| -> f64 {
        let of = |service| {
            let labels =
                [("reporter", "source"), ("source_workload", "web"), ("destination_service_name", service)];
            metrics.sum("istio_requests_total", &[&labels[..], further].concat())
        };
        services.into_iter().map(of).sum()
    };
    let found = counted(&[]);
    show.row("clients", requests, "requests that web made to cart");
    show.row(
        "agent",
        found,
        "istio_requests_total{source_workload=\"web\",destination_service_name=~\"cart.*\"}",
    );
    for version in ["v1", "v2"] {
        let count = counted(&[("destination_version", version)]);
        show.row(version, count, "of these, by destination_version");
    }
    let mut outcome = Outcome::new("metrics", json!({"clients": requests, "agent": found}));
    outcome.check((found - requests).abs() <= 1.0, "the agent counted what the client sent");
    let both = metrics
        .sum("istio_requests_total", &[("reporter", "destination"), ("destination_service_name", "cart")]);
    outcome.check(both > 0.0, "the destination's side reports too");
    stage.resume_clients()?;
    Ok(outcome)
}

fn fail_closed(stage: &mut Stage, show: &Show, time: Duration) -> Result<Outcome> {
    stage.agent.kill();
    pause(AWAY, || Ok(()))?;
    let (web, batch) = watch(stage, show, time)?;
    let mut outcome = Outcome::new("fail closed", figures(&web, &batch));
    outcome.check(web.ok() == 0 && web.failures() > 0, "web reaches nothing within a second");
    outcome.check(web.failed.keys().all(|what| what == "ECONNREFUSED"), "with ECONNREFUSED from connect(2)");
    Ok(outcome)
}

fn fail_open(stage: &mut Stage, show: &Show, time: Duration) -> Result<Outcome> {
    let (web, batch) = watch(stage, show, time)?;
    let mut outcome = Outcome::new("fail open", figures(&web, &batch));
    outcome.check(batch.ok() > 0 && batch.failures() == 0, "batch is served without an agent");
    outcome.check(batch.answered.len() == 3, "by all three endpoints, chosen in the kernel");
    let dialled = batch.dialled.keys().all(|address| *address == stage.vip.to_string());
    outcome.check(dialled, "getpeername(2) still answers with the service's address");
    Ok(outcome)
}

fn comes_back(stage: &mut Stage, show: &Show, time: Duration) -> Result<Outcome> {
    let started = Instant::now();
    stage.agent.restart()?;
    let took = started.elapsed();
    show.row("ready again", took.as_millis() as f64, "ms after its start");
    let before = stage.reasons()?.reason("captured");
    let (web, batch) = watch(stage, show, time)?;
    let captured = stage.reasons()?.reason("captured") - before;
    let mut outcome = Outcome::new("return", figures(&web, &batch));
    outcome.figures["readyAfterMilliseconds"] = json!(took.as_millis() as u64);
    outcome.check(web.ok() > 0 && web.failures() <= 1, "web is served again");
    outcome.check(batch.ok() > 0 && batch.failures() <= 1, "batch is served as before");
    outcome.check(captured > 0.0, "connections are captured again");
    Ok(outcome)
}
