//! On a real Kubernetes of two nodes: how soon a new pod's first connection is captured, and how long requests go on to an endpoint
//! that was taken out of its EndpointSlice. Needs the cluster that the suites use (`tests/src/kube.rs` says how it is found).
//!
//! What is measured is read off the agent's log and its access log, which stand beside the clock that starts each sample.

mod page;

use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ::kube::config::{KubeConfigOptions, Kubeconfig};
use ::kube::{Client, Config};
use anyhow::{Context, Result, ensure};
use http::Request;
use k8s_openapi::jiff::Timestamp;
use mesh_agent::lab::{AgentOptions, eventually};
use mesh_tests::cluster::{BY_AND_BY, Nodes, PORT, deployment, pod, service};
use mesh_tests::kube;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

pub use self::page::{table, write};

/// How long an endpoint is away, and how long it is back.
const AWAY: Duration = Duration::from_millis(400);
const BACK: Duration = Duration::from_millis(300);
/// More requests than there is time for.
const ENDLESS: &str = "10000000";

/// One thing that was measured many times.
pub struct Times {
    pub what: &'static str,
    /// From when to when.
    pub how: &'static str,
    /// Milliseconds, sorted.
    pub millis: Vec<f64>,
}

/// All of them.
pub struct Measured {
    pub times: Vec<Times>,
    /// Requests while endpoints came and went, and those of them that failed.
    pub requests: usize,
    pub failed: usize,
}

impl Times {
    fn new(what: &'static str, how: &'static str, mut millis: Vec<f64>) -> Self {
        millis.sort_by(f64::total_cmp);
        Self { what, how, millis }
    }

    /// The smallest figure that so many per cent aren't above.
    pub fn percentile(&self, percent: usize) -> f64 {
        let rank = (self.millis.len() * percent).div_ceil(100).max(1);
        self.millis.get(rank - 1).copied().unwrap_or_default()
    }
}

/// Why it can't be measured here.
pub fn missing() -> Option<&'static str> {
    kube::Cluster::missing_nodes()
}

/// Starts the cluster, measures, and takes it down.
pub fn measure(agent: &Path, samples: usize) -> Result<Measured> {
    let nodes = Nodes::start(&AgentOptions::new(agent))?;
    let api = Api::new(&nodes)?;
    let mut times = first_connections(&nodes, &api, samples)?;
    let (removed, requests, failed) = removals(&nodes, &api, samples)?;
    times.push(removed);
    Ok(Measured { times, requests, failed })
}

/// The API server without the time that starting kubectl takes.
struct Api {
    client: Client,
    runtime: Runtime,
}

impl Api {
    fn new(nodes: &Nodes) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let config = Kubeconfig::read_from(nodes.kubeconfig())?;
        let client = runtime.block_on(async {
            let config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await?;
            anyhow::Ok(Client::try_from(config)?)
        })?;
        Ok(Self { client, runtime })
    }

    /// When it was sent: milliseconds since the epoch.
    fn send(&self, method: &str, path: &str, content: &str, body: &Value) -> Result<f64> {
        let request = Request::builder().method(method).uri(path).header("content-type", content);
        let request = request.body(body.to_string().into_bytes())?;
        let sent = now();
        let answer = self.runtime.block_on(self.client.request_text(request));
        answer.map(|_| sent).with_context(|| format!("{method} {path}"))
    }
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64() * 1e3
}

fn millis_of(time: &str) -> Result<f64> {
    let time: Timestamp = time.parse().with_context(|| format!("no time: {time}"))?;
    Ok(time.as_microsecond() as f64 / 1e3)
}

/// A server on each node.
fn servers(nodes: &Nodes, namespace: &str) -> Result<Vec<Value>> {
    nodes.namespace(namespace, true)?;
    nodes.apply(&[deployment(namespace, "server", 2, &["serve", &PORT.to_string()], |spec| {
        spec["topologySpreadConstraints"] = json!([{
            "maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": {"matchLabels": {"app": "server"}},
        }]);
    })])?;
    let pods = nodes.wait_ready(namespace, "server", 2)?;
    pods.iter().try_for_each(|pod| nodes.wait_capture(pod, "captured"))?;
    Ok(pods)
}

/// Pods one after another whose only work is one request to a service, which leads nowhere but through the mesh.
fn first_connections(nodes: &Nodes, api: &Api, samples: usize) -> Result<Vec<Times>> {
    let namespace = "first";
    servers(nodes, namespace)?;
    nodes.apply(&[service(namespace, "server")])?;
    let address = nodes.service_address(namespace, "server")?;
    let agent = &nodes.agents[0];
    let (mut enrolled, mut asked) = (Vec::new(), Vec::new());
    for n in 0..samples {
        let (name, path) = (format!("first-{n}"), format!("/first-{n}"));
        let object = pod(namespace, &name, &["get", &address, &path], |spec| {
            spec["restartPolicy"] = json!("Never");
            spec["nodeName"] = json!(agent.node());
        });
        let created =
            api.send("POST", &format!("/api/v1/namespaces/{namespace}/pods"), "application/json", &object)?;
        let line =
            agent.log_shows(&path, |line| line["path"] == path.as_str() && line["reporter"] == "source")?;
        ensure!(line["response_code"] == 200, "{name}'s request failed: {line}");
        asked.push(millis_of(line["start_time"].as_str().unwrap_or_default())? - created);
        let log = agent.log();
        let told = format!("pod={namespace}/{name} ");
        let said = log.lines().find(|line| line.contains("enrolled") && line.contains(&told));
        let time =
            said.and_then(|line| line.split_whitespace().next()).context("the agent's log has no time")?;
        enrolled.push(millis_of(time)? - created);
    }
    Ok(vec![
        Times::new(
            "New pod captured",
            "from sending the pod to the API server, on a node that it names, to its being captured",
            enrolled,
        ),
        Times::new(
            "First connection of a new pod",
            "from the same moment to its first request at the agent, sent by the first instruction of its only container",
            asked,
        ),
    ])
}

/// Two endpoints asked without a pause, of which one after the other is taken out and put back.
fn removals(nodes: &Nodes, api: &Api, samples: usize) -> Result<(Times, usize, usize)> {
    let namespace = "removed";
    let servers = servers(nodes, namespace)?;
    let ips: Vec<&str> = servers.iter().filter_map(|pod| pod["status"]["podIP"].as_str()).collect();
    let client = pod(namespace, "client", &["wait"], |spec| spec["nodeName"] = json!(nodes.names()[0]));
    let slice = |ips: &[&str]| kube::slice(namespace, "server", ips);
    // Of a service without a selector no controller writes endpoints.
    nodes.apply(&[client, kube::service(namespace, "server", 80), slice(&ips)])?;
    let client = nodes.wait_ready(namespace, "client", 1)?.remove(0);
    nodes.wait_capture(&client, "captured")?;
    let address = nodes.service_address(namespace, "server")?;
    eventually(BY_AND_BY, || nodes.ask(namespace, "client", &address, "/"))?;
    let load = nodes.spawn_peer(namespace, "client", &["get", &address, "/load", ENDLESS])?;
    let of_load = |line: &Value| line["path"] == "/load" && line["reporter"] == "source";
    nodes.agents[0].log_shows("the load", of_load)?;
    let path = format!("/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices/server-1");
    let patch = |ips: &[&str]| {
        let body = json!({"endpoints": slice(ips)["endpoints"]});
        api.send("PATCH", &path, "application/merge-patch+json", &body)
    };
    let mut windows = Vec::new();
    for n in 0..samples {
        let (gone, stays) = (ips[n % 2], ips[(n + 1) % 2]);
        let removed = patch(&[stays])?;
        sleep(AWAY);
        windows.push((format!("{gone}:{PORT}"), removed, patch(&ips)?));
        sleep(BACK);
    }
    drop(load);
    let lines: Vec<Value> = nodes.agents[0].access_log().into_iter().filter(of_load).collect();
    let requests = lines
        .iter()
        .map(|line| {
            Ok((line["upstream_host"].as_str(), millis_of(line["start_time"].as_str().unwrap_or_default())?))
        })
        .collect::<Result<Vec<_>>>()?;
    let last = |(gone, removed, back): &(String, f64, f64)| {
        let to_it = requests
            .iter()
            .filter(|(host, at)| *host == Some(gone.as_str()) && (removed..back).contains(&at));
        to_it.map(|(_, at)| at - removed).fold(0.0, f64::max)
    };
    let late = windows.iter().map(last).collect();
    let failed = lines.iter().filter(|line| line["response_code"] != 200).count();
    let how = "from sending the EndpointSlice without it to the API server to the start of the last request that was sent there";
    Ok((Times::new("Last request to an endpoint that was removed", how, late), lines.len(), failed))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn percentiles_are_figures_that_were_measured() {
        let times = Times::new("", "", (1..=60).rev().map(f64::from).collect());
        let of = [50, 90, 99, 100].map(|percent| times.percentile(percent));
        assert!(of.iter().zip([30.0, 54.0, 60.0, 60.0]).all(|(a, b)| (a - b).abs() < 1e-9), "{of:?}");
        assert!(Times::new("", "", Vec::new()).percentile(50).abs() < 1e-9);
    }

    #[test]
    fn times_are_read_from_logs() {
        let (a, b) = (
            millis_of("2026-11-30T08:43:14.973Z").unwrap(),
            millis_of("2026-11-30T08:43:14.973613Z").unwrap(),
        );
        assert!((b - a - 0.613).abs() < 1e-6, "{a} {b}");
        assert!(millis_of("ready").is_err());
    }
}
