//! How much memory a large cluster takes, and how soon a change in it is in force. Minutes long: `cargo test -- --ignored`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use http::Request;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use mesh_tests::kube::{Cluster, crd, pod, service, slice};
use mesh_tests::lab::{Agent, Topology, eventually};
use mesh_tests::{need_agent, need_kube};
use serde_json::{Value, json};
use tokio::task::JoinSet;

const NAMESPACES: usize = 20;
const PODS: usize = 10_000;
const SERVICES: usize = 2_000;
const ROUTES: usize = 500;
/// Requests under way at a time.
const AT_ONCE: usize = 32;
/// Of its own: beside it stand 23 MB of a release binary (50 of a debug one), 120 MB together.
const MOST_MEMORY: u64 = 90_000_000;
/// From the API server's event to its being in force.
const SOONEST: f64 = 0.2;
const LONG: Duration = Duration::from_secs(300);

async fn client(cluster: &Cluster) -> Result<Client> {
    let config = Kubeconfig::read_from(cluster.kubeconfig())?;
    let config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}

async fn send(client: Client, method: &str, path: String, body: Value) -> Result<()> {
    let request = Request::builder().method(method).uri(&path).header("content-type", "application/json");
    let request = request.body(body.to_string().into_bytes())?;
    client.request_text(request).await.map(drop).with_context(|| format!("{method} {path}"))
}

/// Sends all of them, some at a time.
async fn send_all(client: &Client, requests: impl Iterator<Item = (&'static str, String, Value)>) {
    let mut under_way: JoinSet<Result<()>> = JoinSet::new();
    for (method, path, body) in requests {
        if under_way.len() >= AT_ONCE {
            under_way.join_next().await.unwrap().unwrap().unwrap();
        }
        under_way.spawn(send(client.clone(), method, path, body));
    }
    while let Some(done) = under_way.join_next().await {
        done.unwrap().unwrap();
    }
}

fn namespace(number: usize) -> String {
    format!("ns-{}", number % NAMESPACES)
}

fn address(number: usize) -> String {
    format!("10.{}.{}.{}", 128 + number / 62_500, number / 250 % 250, number % 250 + 1)
}

/// As a Deployment's pods are, with what nobody reads.
fn full_pod(number: usize) -> Value {
    let (ns, name) = (namespace(number), format!("app-{}-7d4b9c6f5d-{number}", number / 5));
    let mut pod = pod(&ns, &name, &format!("node-{}", number / 100));
    let app = format!("app-{}", number / 5);
    pod["metadata"]["labels"] = json!({"app": app, "version": "v1", "pod-template-hash": "7d4b9c6f5d", "app.kubernetes.io/part-of": "shop"});
    pod["metadata"]["annotations"] = json!({"example.com/config-checksum": "0123456789abcdef".repeat(16)});
    let env: Vec<_> =
        (0..20).map(|i| json!({"name": format!("SETTING_{i}"), "value": "x".repeat(60)})).collect();
    pod["spec"]["containers"][0]["env"] = json!(env);
    pod["spec"]["containers"][0]["readinessProbe"] = json!({"httpGet": {"path": "/ready", "port": "http"}});
    pod
}

fn pods() -> impl Iterator<Item = (&'static str, String, Value)> {
    (0..PODS).map(|n| ("POST", format!("/api/v1/namespaces/{}/pods", namespace(n)), full_pod(n)))
}

fn statuses() -> impl Iterator<Item = (&'static str, String, Value)> {
    (0..PODS).map(|n| {
        let mut pod = full_pod(n);
        let name = pod["metadata"]["name"].as_str().unwrap().to_owned();
        let ip = address(n);
        pod["status"] = json!({"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]});
        ("PUT", format!("/api/v1/namespaces/{}/pods/{name}/status", namespace(n)), pod)
    })
}

fn services() -> impl Iterator<Item = (&'static str, String, Value)> {
    (0..SERVICES).flat_map(|n| {
        let (ns, name) = (namespace(n), format!("app-{n}"));
        let addresses: Vec<_> = (n * 5..n * 5 + 5).map(address).collect();
        let addresses: Vec<_> = addresses.iter().map(String::as_str).collect();
        [
            ("POST", format!("/api/v1/namespaces/{ns}/services"), service(&ns, &name, 80)),
            (
                "POST",
                format!("/apis/discovery.k8s.io/v1/namespaces/{ns}/endpointslices"),
                slice(&ns, &name, &addresses),
            ),
        ]
    })
}

fn routes() -> impl Iterator<Item = (&'static str, String, Value)> {
    (0..ROUTES).map(|n| {
        let (ns, name) = (namespace(n), format!("app-{n}"));
        let route = json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
            "metadata": {"name": name, "namespace": ns},
            "spec": {
                "parentRefs": [{"group": "", "kind": "Service", "name": name}],
                "rules": [
                    {"matches": [{"path": {"type": "PathPrefix", "value": "/api"}}], "backendRefs": [{"name": name, "port": 80}]},
                    {"backendRefs": [{"name": name, "port": 80, "weight": 9}]},
                ],
            },
        });
        ("POST", format!("/apis/gateway.networking.k8s.io/v1/namespaces/{ns}/httproutes"), route)
    })
}

/// Bytes of a line of /proc/PID/status.
fn memory(agent: &Agent, line: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", agent.pid())).unwrap();
    let found = status.lines().find_map(|text| text.strip_prefix(line)).unwrap();
    found.trim_start_matches(':').trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

fn resident(agent: &Agent) -> String {
    let [now, most, own, file] =
        ["VmRSS", "VmHWM", "RssAnon", "RssFile"].map(|line| memory(agent, line) / 1_000_000);
    format!("{now} MB resident ({own} of its own, {file} of files), at most {most}")
}

#[test]
#[ignore = "fills an API server for minutes"]
fn a_cluster_of_ten_thousand_pods_fits_and_a_change_in_it_is_in_force_at_once() {
    let (options, cluster) = (need_agent!(), need_kube!(own));
    let topology = Topology::new("kube-scale").unwrap();
    let node = topology.node("node-1").unwrap();
    let kubeconfig = cluster.kubeconfig().display().to_string();
    let options = options.source("kube").env("KUBECONFIG", kubeconfig);
    let empty = node.agent(options.clone()).unwrap();
    println!("of an empty cluster: {}", resident(&empty));
    drop(empty);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let client = runtime.block_on(async {
        for number in 0..NAMESPACES {
            cluster.namespace(&namespace(number), &json!({})).unwrap();
        }
        cluster.apply(&[crd("gateway.networking.k8s.io", &["v1"], "httproutes", "HTTPRoute")]).unwrap();
        let client = client(&cluster).await.unwrap();
        eventually(LONG, || {
            cluster.kubectl(&["get", "--raw", "/apis/gateway.networking.k8s.io/v1/httproutes"], "")
        })
        .unwrap();
        let began = Instant::now();
        send_all(&client, pods().chain(services()).chain(routes())).await;
        send_all(&client, statuses()).await;
        println!("filled in {:?}", began.elapsed());
        client
    });
    let began = Instant::now();
    let agent = node.agent(options).unwrap();
    println!("ready after {:?}", began.elapsed());
    let config = agent.cli_json(&["status"]).unwrap()["config"].clone();
    assert!(config["workloads"] == PODS && config["endpoints"] == SERVICES * 5, "{config}");
    println!("{}", resident(&agent));
    let now = memory(&agent, "RssAnon");
    assert!(now < MOST_MEMORY, "{} MB of its own", now / 1_000_000);

    let before = agent.metrics().unwrap();
    runtime.block_on(async {
        for n in 0..50 {
            let (ns, name) = (namespace(n), format!("app-{n}"));
            let path = format!("/apis/discovery.k8s.io/v1/namespaces/{ns}/endpointslices/{name}-1");
            let got = client.request_text(Request::get(&path).body(Vec::new()).unwrap()).await.unwrap();
            let mut slice: Value = serde_json::from_str(&got).unwrap();
            slice["endpoints"].as_array_mut().unwrap().pop();
            send(client.clone(), "PUT", path, slice).await.unwrap();
        }
    });
    eventually(LONG, || {
        let endpoints = agent.cli_json(&["status"])?["config"]["endpoints"].clone();
        ensure!(endpoints == SERVICES * 5 - 50, "{endpoints}");
        Ok(())
    })
    .unwrap();
    let after = agent.metrics().unwrap();
    let sum = |name: &str, labels: &[(&str, &str)]| after.sum(name, labels) - before.sum(name, labels);
    let (all, soon) = (
        sum("mesh_agent_config_apply_seconds_count", &[]),
        sum("mesh_agent_config_apply_seconds_bucket", &[("le", "0.25")]),
    );
    let mean = sum("mesh_agent_config_apply_seconds_sum", &[]) / all;
    println!("{all} changes in force, {soon} of them within 250 ms, {mean:.4} s on average");
    assert!(all > 0.0 && mean < SOONEST, "{mean} s on average");
    println!("after that: {}", resident(&agent));
}
