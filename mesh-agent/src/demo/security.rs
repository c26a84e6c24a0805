//! The phases about who is who: mutual TLS between nodes, a stranger who is refused, a path that is denied.
//!
//! Each calls the vault on the second node; what policies they need stays in force. `phases` has the order.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::load::Tally;
use super::show::{Outcome, Show};
use super::stage::{NAMESPACE, Stage};
use crate::lab::{Agent, Finished, Object, Pod, eventually};

/// Requests of each client.
const TIMES: u64 = 20;
/// What nobody else is to read.
const SECRET: &str = "/balance?card=4111-1111";
const DENIED: &str = "/admin/keys";
/// Certificates come a moment after their pods.
const ISSUED: Duration = Duration::from_secs(10);

/// Requests of `pod` by a client of its own.
fn ask(pod: &Pod, to: SocketAddr, path: &str) -> Result<Tally> {
    let own = std::env::current_exe().context("finding this executable")?;
    let command = pod.command(own).arg("demo-client").args(["--to", &to.to_string(), "--path", path]);
    let finished =
        command.args(["--every", "1", "--count", &TIMES.to_string()]).run(Duration::from_secs(60))?;
    Ok(Tally::of(&finished.success()?.stdout))
}

pub(super) fn security_object(kind: &str, name: &str, spec: &Value) -> Object {
    let metadata = json!({"name": name, "namespace": NAMESPACE});
    let api = "security.istio.io/v1";
    Object(json!({"apiVersion": api, "kind": kind, "metadata": metadata, "spec": spec}))
}

fn of_vault(mut spec: Value) -> Value {
    spec["selector"] = json!({"matchLabels": {"app": "vault"}});
    spec
}

fn strict() -> Object {
    security_object("PeerAuthentication", "vault", &of_vault(json!({"mtls": {"mode": "STRICT"}})))
}

pub(super) fn mutual_tls(stage: &mut Stage, show: &Show, _time: Duration) -> Result<Outcome> {
    let certificates = until_certified(stage)?;
    let wire = stage.listen()?;
    let web = ask(&stage.web_pod, stage.far.vip, SECRET)?;
    let batch = ask(&stage.batch_pod, stage.far.vip, SECRET)?;
    show.settle(&[("web to vault", web.line()), ("batch to vault", batch.line())]);
    let (read, near) = (wire.count(SECRET.as_bytes()), wire.count(b"GET / HTTP/1.1"));
    show.row("read on the wire", read as f64, "packets with the secret that these requests carry");
    show.row("the same ear", near as f64, "packets with requests that stay on the first node, in plain text");
    let edges = edges(stage)?;
    show.lines(edges.iter().map(Edge::line));
    show.command("mesh-agent get certs, on the first node", &certs(&stage.agent)?.stdout);
    show.command("and on the second", &certs(&stage.far.agent)?.stdout);
    let valid = certificates.iter().filter(|found| found["state"] == "valid").count();
    let locked = |source: &str| {
        let mut of = edges.iter().filter(|edge| edge.from == source && edge.to == "vault");
        of.next().is_some_and(|edge| edge.how == How::MutualTls) && of.next().is_none()
    };
    let figures = json!({
        "web": web.ok(), "batch": batch.ok(), "readOnTheWire": read, "readOnTheNode": near,
        "certificates": certificates.len(), "valid": valid,
        "edges": edges.iter().map(Edge::json).collect::<Vec<_>>(),
    });
    let mut outcome = Outcome::new("mutual TLS", figures);
    outcome.check(web.ok() == TIMES && batch.ok() == TIMES, "both clients reach the vault, unchanged");
    outcome.check(read == 0 && near > 0, "nobody between the nodes can read what they say");
    outcome.check(locked("web") && locked("batch"), "each edge to the other node has its lock");
    let client = stage.web_pod.v4().to_string();
    outcome.check(web.seen_as.keys().all(|seen| *seen == client), "the vault sees the client's own address");
    outcome.check(valid == certificates.len(), "every service account has a certificate that is valid");
    Ok(outcome)
}

pub(super) fn stranger(stage: &mut Stage, show: &Show, _time: Duration) -> Result<Outcome> {
    let refused = |stage: &Stage| -> Result<f64> {
        let reason = [("reason", "plain_text_refused")];
        Ok(stage.far.agent.metrics()?.sum("mesh_agent_connections_refused_total", &reason))
    };
    let vault = stage.far.vault.address();
    let welcome = ask(&stage.outside.pod, vault, "/")?;
    stage.guard(vec![strict()])?;
    let before = refused(stage)?;
    let turned_away = ask(&stage.outside.pod, vault, "/")?;
    let web = ask(&stage.web_pod, stage.far.vip, "/")?;
    let counted = refused(stage)? - before;
    show.settle(&[
        ("outside, before", welcome.line()),
        ("outside, STRICT", turned_away.line()),
        ("web, STRICT", web.line()),
    ]);
    show.row("refused", counted, "mesh_agent_connections_refused_total{reason=\"plain_text_refused\"}");
    let figures = json!({
        "before": welcome.ok(), "strict": turned_away.ok(), "refused": counted, "web": web.ok(),
    });
    let mut outcome = Outcome::new("stranger", figures);
    outcome.check(welcome.ok() == TIMES, "by default a pod takes plain text from who is in no mesh");
    outcome.check(turned_away.ok() == 0, "under STRICT it doesn't: the stranger is reset");
    outcome.check(counted == TIMES as f64, "and counted, with the reason");
    outcome.check(web.ok() == TIMES, "who has a certificate notices nothing");
    Ok(outcome)
}

pub(super) fn denied(stage: &mut Stage, show: &Show, _time: Duration) -> Result<Outcome> {
    let principal = |account: &str| format!("cluster.local/ns/{NAMESPACE}/sa/{account}");
    let from = |accounts: &[&str]| {
        let principals: Vec<_> = accounts.iter().map(|account| principal(account)).collect();
        json!([{"source": {"principals": principals}}])
    };
    let rules = json!([
        {"from": from(&["web", "batch"]), "to": [{"operation": {"methods": ["GET"], "paths": ["/balance", "/"]}}]},
        {"from": from(&["web"]), "to": [{"operation": {"paths": ["/admin/*"]}}]},
    ]);
    let policy = of_vault(json!({"action": "ALLOW", "rules": rules}));
    stage.guard(vec![strict(), security_object("AuthorizationPolicy", "vault", &policy)])?;
    let web = ask(&stage.web_pod, stage.far.vip, DENIED)?;
    let batch = ask(&stage.batch_pod, stage.far.vip, DENIED)?;
    let balance = ask(&stage.batch_pod, stage.far.vip, SECRET)?;
    show.settle(&[
        ("web /admin/keys", web.line()),
        ("batch /admin/keys", batch.line()),
        ("batch /balance", balance.line()),
    ]);
    let pod = |name: &str| format!("pod/{NAMESPACE}/{name}");
    let (batch_pod, vault_pod) = (pod("batch"), pod("vault"));
    let question = ["authz", "check", "--from", &batch_pod, "--to", &vault_pod, "--path", DENIED];
    let why = stage.far.agent.cli(&question)?;
    show.command(&format!("mesh-agent {}", question.join(" ")), &why.stdout);
    let forbidden = batch.failed.get("status-403").copied().unwrap_or(0);
    let figures = json!({
        "web": web.ok(), "batch": batch.ok(), "forbidden": forbidden, "balance": balance.ok(), "checkExitCode": why.code,
    });
    let mut outcome = Outcome::new("denied", figures);
    outcome.check(web.ok() == TIMES, "web may ask for it");
    outcome.check(forbidden == TIMES && batch.ok() == 0, "batch may not: 403");
    outcome.check(balance.ok() == TIMES, "what batch may, it still does");
    outcome.check(
        why.code == 3 && why.stdout.contains("shop/vault"),
        "`authz check` names the policy that decided",
    );
    Ok(outcome)
}

fn certs(agent: &Agent) -> Result<Finished> {
    agent.cli(&["get", "certs"])?.success()
}

/// Waits until every service account has its certificate; those that the agents hold.
pub(super) fn until_certified(stage: &Stage) -> Result<Vec<Value>> {
    eventually(ISSUED, || {
        let both = certificates(stage)?;
        let accounts: BTreeSet<_> = both.iter().filter_map(|found| found["name"].as_str()).collect();
        let wanted = ["batch", "cart", "vault", "web"].iter().all(|name| accounts.contains(name));
        anyhow::ensure!(wanted, "certificates of {accounts:?} only");
        Ok(both)
    })
}

/// Certificates that either agent holds.
fn certificates(stage: &Stage) -> Result<Vec<Value>> {
    let mut found = Vec::new();
    for agent in [&stage.agent, &stage.far.agent] {
        let listed = agent.cli_json(&["get", "certs"])?;
        found.extend(listed.as_array().cloned().unwrap_or_default());
    }
    Ok(found)
}

/// Who calls whom, as the destinations' side counts it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Edge {
    from: String,
    to: String,
    how: How,
    requests: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum How {
    MutualTls,
    /// One agent stands between both.
    OnOneNode,
    PlainText,
}

impl Edge {
    fn line(&self) -> String {
        let (lock, how) = match self.how {
            How::MutualTls => ("\u{1f512}", "mutual TLS, each end proven by its certificate"),
            How::OnOneNode => ("\u{1f512}", "never leaves the node, whose agent knows both ends"),
            How::PlainText => ("  ", "plain text, from who knows whom"),
        };
        format!("  {lock} {:>7} -> {:<8} {:>6} requests  {how}", self.from, self.to, self.requests)
    }

    fn json(&self) -> Value {
        let how = match self.how {
            How::MutualTls => "mutual_tls",
            How::OnOneNode => "one_node",
            How::PlainText => "plain_text",
        };
        json!({"from": self.from, "to": self.to, "how": how, "requests": self.requests})
    }
}

fn edges(stage: &Stage) -> Result<Vec<Edge>> {
    let mut found: Vec<Edge> = Vec::new();
    for (agent, own) in [(&stage.agent, &["web", "batch"][..]), (&stage.far.agent, &[])] {
        let metrics = agent.metrics()?;
        for sample in metrics.find("istio_requests_total", &[("reporter", "destination")]) {
            let label = |name: &str| sample.labels.get(name).cloned().unwrap_or_default();
            let (from, to) = (label("source_workload"), label("destination_workload"));
            let how = match label("connection_security_policy").as_str() {
                "mutual_tls" => How::MutualTls,
                _ if own.contains(&from.as_str()) => How::OnOneNode,
                _ => How::PlainText,
            };
            let from = if from == "unknown" { "outside".to_owned() } else { from };
            match found.iter_mut().find(|edge| (&edge.from, &edge.to, edge.how) == (&from, &to, how)) {
                Some(edge) => edge.requests += sample.value as u64,
                None => found.push(Edge { from, to, how, requests: sample.value as u64 }),
            }
        }
    }
    found.sort();
    Ok(found)
}
