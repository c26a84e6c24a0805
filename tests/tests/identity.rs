//! Certificates of real agents: from an authority's files, and from a controller that signs for each node's own pods.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};
use mesh_agent::lab::{
    Agent, NamespaceObject, Object, PodObject, Running, Topology, eventually, own_address,
};
use mesh_tests::http1::Client;
use mesh_tests::pki::signing_authority;
use mesh_tests::{PATIENCE, SOON, agent_binary, need_agent};
use serde_json::Value;

/// Two nodes with a pod each; the accounts are called after the pods.
fn two_nodes(name: &str) -> (Topology, [mesh_agent::lab::Node; 2]) {
    let topology = Topology::new(name).unwrap();
    let nodes = [topology.node("node-a").unwrap(), topology.node("node-b").unwrap()];
    let pods = [nodes[0].pod("web").unwrap(), nodes[1].pod("cart").unwrap()];
    let mut objects = vec![Object::from(NamespaceObject::new("shop").enabled())];
    objects.extend(pods.iter().map(|pod| PodObject::of(pod, "shop").service_account(pod.name()).into()));
    topology.mesh().write("00.yaml", objects).unwrap();
    (topology, nodes)
}

/// The certificate of an account, once there is a row for it in that state.
fn certificate(agent: &Agent, account: &str, state: &str) -> Result<Value> {
    eventually(SOON, || {
        let rows = agent.cli_json(&["get", "certs"])?;
        let row = rows.as_array().into_iter().flatten().find(|row| row["name"] == account);
        ensure!(row.is_some_and(|row| row["state"] == state), "{account} isn't {state}: {rows}");
        Ok(row.cloned().unwrap_or_default())
    })
}

fn codes(agent: &Agent) -> Vec<String> {
    let warnings = agent.cli(&["config", "warnings", "-o", "json"]).unwrap().stdout;
    let warnings: Vec<Value> = serde_json::from_str(&warnings).unwrap();
    warnings.iter().map(|warning| warning["code"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn an_authority_in_files_signs_and_its_successor_takes_over() {
    let options = need_agent!();
    let (topology, [node, _]) = two_nodes("idfiles");
    let ca = topology.scratch().join("ca");
    signing_authority(&ca, "first").unwrap();
    let agent = node
        .agent(options.flag("ca", format!("files:{}", ca.display())).flag("certificate-lifetime", "1h"))
        .unwrap();
    let web = certificate(&agent, "web", "valid").unwrap();
    assert_eq!(web["id"], "spiffe://cluster.local/ns/shop/sa/web");
    assert_eq!(web["root"], "CN=first");
    assert_eq!(web["issuer"], format!("files:{}", ca.display()));
    assert!(agent.cli_json(&["get", "certs"]).unwrap().as_array().unwrap().len() == 1, "cart runs elsewhere");

    let table = agent.cli(&["get", "certs"]).unwrap().success().unwrap().stdout;
    assert!(table.starts_with("NAMESPACE") && table.contains("valid"), "{table}");
    let wide = agent.cli(&["get", "certs", "-o", "wide"]).unwrap().success().unwrap().stdout;
    assert!(wide.contains("spiffe://cluster.local/ns/shop/sa/web") && wide.contains("CN=first"), "{wide}");
    assert_eq!(agent.cli(&["get", "certs", "-o", "name"]).unwrap().stdout, "shop/web\n");
    let status = agent.cli(&["status", "--color", "never"]).unwrap().stdout;
    assert!(status.contains("1/1 certificates valid"), "{status}");
    let metrics = agent.metrics().unwrap();
    let expiry = metrics.sum(
        "mesh_agent_certificate_expiry_timestamp_seconds",
        &[("identity", "spiffe://cluster.local/ns/shop/sa/web")],
    );
    assert!(expiry > 0.0);
    assert_eq!(metrics.sum("mesh_agent_certificate_issuer_failing", &[]), 0.0);

    // What is broken leaves the former in force, and is said by name.
    fs::write(ca.join("tls.key"), "nonsense").unwrap();
    eventually(SOON, || {
        ensure!(codes(&agent).contains(&"MESH0201".to_owned()), "no warning");
        Ok(())
    })
    .unwrap();
    assert_eq!(certificate(&agent, "web", "valid").unwrap()["serial"], web["serial"]);

    signing_authority(&ca, "second").unwrap();
    let renewed = eventually(PATIENCE, || {
        let now = certificate(&agent, "web", "valid")?;
        ensure!(now["root"] == "CN=second", "still {now}");
        Ok(now)
    })
    .unwrap();
    assert_ne!(renewed["serial"], web["serial"]);
    assert!(codes(&agent).iter().all(|code| !code.starts_with("MESH02")));
    let log = agent.log();
    assert!(!log.contains("PRIVATE KEY"), "{log}");
}

/// A controller with an authority of its own.
struct Controller {
    running: Running,
    address: SocketAddr,
    metrics: SocketAddr,
}

fn controller(topology: &Topology, ca: &Path, tokens: &Path) -> Result<Controller> {
    let (address, metrics) = (own_address(), own_address());
    let mut command = Command::new(agent_binary()?);
    command.arg("controller");
    for (flag, value) in [
        ("--listen", address.to_string()),
        ("--metrics-address", metrics.to_string()),
        ("--source", format!("dir:{}", topology.mesh().path().display())),
        ("--ca", format!("files:{}", ca.display())),
        ("--tokens", tokens.display().to_string()),
        ("--tls-names", address.ip().to_string()),
    ] {
        command.args([flag, &value]);
    }
    let mut running = Running::start(command)?;
    running.wait_for_line("ready", SOON)?;
    Ok(Controller { running, address, metrics })
}

#[test]
fn a_controller_signs_for_each_node_s_own_pods_and_its_absence_is_told() {
    let options = need_agent!();
    let (topology, [a, b]) = two_nodes("idctl");
    let scratch = topology.scratch();
    let (ca, tokens) = (scratch.join("ca"), scratch.join("tokens"));
    signing_authority(&ca, "mesh").unwrap();
    let (token_a, token_b) = ("a-0123456789abcdef", "b-0123456789abcdef");
    fs::write(&tokens, format!("node-a {token_a}\nnode-b {token_b}\n")).unwrap();
    fs::write(scratch.join("token-a"), token_a).unwrap();
    fs::write(scratch.join("token-b"), token_b).unwrap();
    let mut server = controller(&topology, &ca, &tokens).unwrap();
    let with = |token: &str| {
        options
            .clone()
            .flag("ca", format!("istio:https://{}", server.address))
            .flag("istio-token-file", scratch.join(token).display().to_string())
            .flag("istio-root-cert-file", ca.join("ca.crt").display().to_string())
    };
    let agent_a = a.agent(with("token-a")).unwrap();
    // An agent that claims to be node-b with node-a's token: node-b's pods are none of node-a's.
    let mut agent_b = b.agent(with("token-a")).unwrap();
    assert_eq!(certificate(&agent_a, "web", "valid").unwrap()["root"], "CN=mesh");
    let cart = certificate(&agent_b, "cart", "refused").unwrap();
    assert!(cart["reason"].as_str().unwrap().contains("PERMISSION_DENIED"), "{cart}");
    assert!(codes(&agent_b).contains(&"MESH0203".to_owned()));
    let status = agent_b.cli(&["status", "--color", "never"]).unwrap().stdout;
    assert!(status.contains("without a certificate: shop/cart"), "{status}");
    let (ready, _) = agent_b.get("/readyz").unwrap();
    assert_eq!(ready, 200, "an agent without certificates serves what needs none");
    let log = server.running.stderr();
    assert!(log.contains("not_on_node") && !log.contains(token_a), "{log}");
    let scraped =
        Client::new(TcpStream::connect(server.metrics).unwrap()).get("controller", "/metrics").unwrap();
    let refused = scraped.text();
    assert!(refused.contains("mesh_agent_controller_requests_total{outcome=\"signed\"} 1"), "{refused}");

    agent_b.kill();
    let agent_b = b.agent(with("token-b")).unwrap();
    certificate(&agent_b, "cart", "valid").unwrap();

    // The controller goes away: what was issued serves, and what comes new is told that it has nothing.
    server.running.kill();
    let pod = a.pod("late").unwrap();
    let object = PodObject::of(&pod, "shop").service_account("late");
    topology.mesh().write("10-late.yaml", [object.into()]).unwrap();
    let late = eventually(SOON, || {
        let row = certificate(&agent_a, "late", "pending")?;
        ensure!(row["reason"] != "", "no reason yet: {row}");
        Ok(row)
    })
    .unwrap();
    assert_eq!(late["serial"], "");
    certificate(&agent_a, "web", "valid").unwrap();
    assert_eq!(agent_a.metrics().unwrap().sum("mesh_agent_certificate_issuer_failing", &[]), 1.0);
    assert_eq!(agent_a.get("/readyz").unwrap().0, 200);
}
