//! `status`: how the agent is, in a few lines; the exit code says whether something is broken.

use std::fmt::Write;
use std::time::Duration;

use super::output::{Out, TextFormat, age, count, document, utc};
use super::style::{Mark, Style};
use super::{AgentArgs, Exit, Failure, Outcome, watch};
use crate::admin::api::{ApiServer, Config, Identity, Kernel, PodState, Status};

/// As the kernel's hooks see it: an older heartbeat is stale.
const STALE_MS: u64 = 900;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    agent: AgentArgs,
    /// Output format
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: TextFormat,
    /// Print again whenever something changes
    #[arg(short, long, conflicts_with = "wait")]
    watch: bool,
    /// Wait until the agent is ready, at most this many seconds (60)
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "60")]
    wait: Option<u64>,
}

pub(super) fn run(args: &Args, out: &mut Out<'_>) -> Outcome {
    let first = ask(args)?;
    let exit = if worst(&first) == Mark::Bad || (args.wait.is_some() && !first.agent.ready) {
        Exit::Failed
    } else {
        Exit::Ok
    };
    let style = out.style;
    let client = args.agent.client()?;
    let mut first = Some(first);
    watch::show(args.watch, out, || {
        let status = match first.take() {
            Some(status) => status,
            None => client.get("/v1/status")?,
        };
        document(args.output, &status, |status| text(status, style)).map(Some)
    })?;
    Ok(exit)
}

/// Asks once, or with `--wait` until the agent is there and ready or the time is over.
fn ask(args: &Args) -> Result<Status, Failure> {
    const PAUSE: Duration = Duration::from_millis(100);
    let client = args.agent.client()?;
    let mut left = Duration::from_secs(args.wait.unwrap_or(0));
    loop {
        match client.get::<Status>("/v1/status") {
            answer if left.is_zero() => return answer,
            Ok(status) if status.agent.ready => return Ok(status),
            _ => left = left.saturating_sub(PAUSE),
        }
        std::thread::sleep(PAUSE);
    }
}

fn worst(status: &Status) -> Mark {
    let marks = [agent_mark(status), kernel_mark(status.kernel.as_ref())];
    marks.into_iter().max().unwrap_or(Mark::Good)
}

/// One line a component: name, state, figures.
pub(super) fn text(status: &Status, style: Style) -> String {
    let mut out = String::new();
    line(&mut out, style, "Agent", agent_mark(status), &agent(status));
    line(&mut out, style, "Configuration", config_mark(status), &config(status));
    line(&mut out, style, "Kernel", kernel_mark(status.kernel.as_ref()), &kernel(status.kernel.as_ref()));
    line(&mut out, style, "Pods", pods_mark(status), &pods(status));
    if let Some(identity) = &status.identity {
        line(&mut out, style, "Identity", identity_mark(identity), &identity_text(identity));
    }
    line(&mut out, style, "Traffic", Mark::Good, &traffic(status));
    out
}

fn line(out: &mut String, style: Style, name: &str, mark: Mark, text: &str) {
    let word = match mark {
        Mark::Good => "OK  ",
        Mark::Warn => "WARN",
        Mark::Bad => "FAIL",
    };
    let mut lines = text.lines();
    let first = lines.next().unwrap_or_default();
    // Writing to a String can't fail.
    let _ = writeln!(out, "{:<15}{}   {first}", format!("{name}:"), style.paint(mark, word));
    for more in lines {
        let _ = writeln!(out, "{:<22}{more}", "");
    }
}

fn agent_mark(status: &Status) -> Mark {
    match (&status.agent.trouble, status.agent.ready) {
        (Some(_), _) => Mark::Bad,
        (None, false) => Mark::Warn,
        (None, true) => Mark::Good,
    }
}

fn agent(status: &Status) -> String {
    let a = &status.agent;
    let up = age(a.started.elapsed().unwrap_or_default());
    let mut text = format!(
        "v{}   node {}   up {up}   pid {}   {}",
        a.version,
        a.node,
        a.pid,
        count(a.workers, "worker")
    );
    if !a.ready {
        let _ = write!(text, "\nwaiting for: {}", a.waiting_for.join(", "));
    }
    if let Some(trouble) = &a.trouble {
        let _ = write!(text, "\n{trouble}");
    }
    text
}

fn config_mark(status: &Status) -> Mark {
    let Config { warnings, rollback, api_server, .. } = &status.config;
    let away = api_server.as_ref().is_some_and(|server| !server.unwatched.is_empty());
    if *warnings > 0 || rollback.is_some() || away { Mark::Warn } else { Mark::Good }
}

fn config(status: &Status) -> String {
    let c = &status.config;
    let [workloads, services, endpoints] =
        [(c.workloads, "workload"), (c.services, "service"), (c.endpoints, "endpoint")]
            .map(|(n, noun)| count(n, noun));
    let mut text =
        format!("generation {}   {}   {workloads}   {services}   {endpoints}", c.generation, c.source);
    if let Some(server) = &c.api_server {
        let _ = write!(text, "\n{}", api_server(server));
    }
    if let Some(rollback) = &c.rollback {
        let _ = write!(
            text,
            "\nrolled back to generation {} at {}, until the source changes: end it with `mesh-agent config rollback --release`",
            rollback.generation,
            utc(rollback.since)
        );
    }
    if c.warnings > 0 {
        let _ = write!(text, "\n{}: see `mesh-agent config warnings`", count(c.warnings, "warning"));
    }
    text
}

fn api_server(server: &ApiServer) -> String {
    let ApiServer { server, heard_ms, unwatched } = server;
    let heard = match heard_ms {
        Some(ms) => format!("heard {} ago", age(Duration::from_millis(*ms))),
        None => "never heard".to_owned(),
    };
    match unwatched.as_slice() {
        [] => format!("{server} watched, {heard}"),
        some => format!("{server} not watched for {}: {heard}; what it said stays in force", some.join(", ")),
    }
}

fn kernel_mark(kernel: Option<&Kernel>) -> Mark {
    match kernel.and_then(|k| k.heartbeat_age_ms) {
        Some(age) if age < STALE_MS => Mark::Good,
        _ => Mark::Bad,
    }
}

fn kernel(kernel: Option<&Kernel>) -> String {
    let Some(k) = kernel else { return "the agent's control loop doesn't answer".to_owned() };
    let beat = match k.heartbeat_age_ms {
        Some(age) if age < STALE_MS => format!("heartbeat {age}ms ago"),
        Some(age) => format!("heartbeat {age}ms ago: pods follow their fail mode"),
        None => "no heartbeat: pods follow their fail mode".to_owned(),
    };
    let (programs, maps) = (count(k.programs.len(), "program"), count(k.maps.len(), "map"));
    format!("Linux {}   {programs}   {maps}   {beat}", k.release)
}

fn pods_mark(status: &Status) -> Mark {
    let all = status.pods.iter().all(|pod| pod.state == PodState::Captured);
    if all { Mark::Good } else { Mark::Warn }
}

fn pods(status: &Status) -> String {
    let captured = status.pods.iter().filter(|pod| pod.state == PodState::Captured).count();
    let mut text = format!("{captured}/{} captured", status.pods.len());
    for pod in &status.pods {
        let (state, why) = match &pod.state {
            PodState::Captured => continue,
            PodState::Pending(why) => ("pending", why),
            PodState::Refused(why) => ("refused", why),
        };
        let _ = write!(text, "\n{}/{} {state}: {why}", pod.namespace, pod.name);
    }
    text
}

/// A dead issuer is no failure of the agent: what was issued serves. Whoever lacks a certificate is told of.
fn identity_mark(identity: &Identity) -> Mark {
    let well = identity.problem.is_none() && identity.last_failure.is_none() && !identity.development;
    if well && identity.valid == identity.certificates { Mark::Good } else { Mark::Warn }
}

fn identity_text(identity: &Identity) -> String {
    let Identity { issuer, trust_domain, valid, certificates, .. } = identity;
    let roots = count(identity.roots.len(), "root");
    let mut text = format!(
        "{valid}/{certificates} certificates valid   trust domain {trust_domain}   issuer {issuer}   {roots}"
    );
    if identity.development {
        text += "\nthe development root lies on this machine's disk and no other machine trusts it: for trying out only";
    }
    if let Some(problem) = &identity.problem {
        let _ = write!(text, "\nthe issuer can't be used as it is: {problem}");
    }
    if let (Some(at), Some(error)) = (identity.last_failure, &identity.last_error) {
        let _ = write!(text, "\nlast request failed at {}: {error}", utc(at));
    }
    if !identity.without.is_empty() {
        let _ = write!(text, "\nwithout a certificate: {}", identity.without.join(", "));
    }
    text
}

fn traffic(status: &Status) -> String {
    let t = &status.traffic;
    let mut text = format!(
        "{} outbound and {} inbound connections   {} requests under way",
        t.outbound, t.inbound, t.requests
    );
    if t.access_log_dropped > 0 {
        let _ = write!(text, "\n{} access-log lines dropped", t.access_log_dropped);
    }
    text
}
