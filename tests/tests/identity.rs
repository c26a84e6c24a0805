//! Certificates of real agents: from an authority's files, and from a controller that signs for each node's own pods.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Result, ensure};
use mesh_agent::lab::{
    Agent, NamespaceObject, Object, PodObject, Running, Topology, eventually, own_address,
};
use mesh_tests::http1::{Client, echo_server};
use mesh_tests::nodes::{Nodes, Wire};
use mesh_tests::pki::signing_authority;
use mesh_tests::{AT_ONCE, PATIENCE, SOON, agent_binary, need_agent};
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

/// Who signs is gone: what was issued serves to its end, then nothing does, and nothing goes in plain text instead.
#[test]
fn without_its_issuer_a_node_serves_until_its_certificates_end_and_then_refuses() {
    const SECRET: &[u8] = b"3714-4963-secret-of-issuers";
    let options = need_agent!();
    let topology = Topology::new("idgone").unwrap();
    let scratch = topology.scratch().to_owned();
    let (ca, tokens) = (scratch.join("ca"), scratch.join("tokens"));
    signing_authority(&ca, "mesh").unwrap();
    fs::write(&tokens, "node-a node-a-0123456789abcdef\nnode-b node-b-0123456789abcdef\n").unwrap();
    let mut server = controller(&topology, &ca, &tokens).unwrap();
    let nodes = Nodes::on(topology, |node| {
        let token = scratch.join(format!("token-{node}"));
        fs::write(&token, format!("{node}-0123456789abcdef")).unwrap();
        options
            .clone()
            .flag("ca", format!("istio:https://{}", server.address))
            .flag("istio-token-file", token.display().to_string())
            .flag("istio-root-cert-file", ca.join("ca.crt").display().to_string())
            .flag("certificate-lifetime", "10s")
    });
    let nodes = nodes.unwrap();
    let port = nodes.port();
    let (_server, seen) = echo_server(nodes.cart.listen(port).unwrap(), "cart");
    let service = nodes.expose("cart", "http", port, &[&nodes.cart]).unwrap();
    let path = format!("/{}", String::from_utf8_lossy(SECRET));
    let ask = || Client::new(nodes.web.connect(service)?).get("c", &path);
    assert_eq!(ask().unwrap().status(), 200);
    let wire = Wire::listen(&nodes.topology).unwrap();
    server.running.kill();
    // For some seconds yet, and said when half of what was left is over.
    eventually(SOON, || {
        assert_eq!(ask()?.status(), 200, "before anybody was warned");
        ensure!(codes(&nodes.near).contains(&"MESH0202".to_owned()), "no warning");
        Ok(())
    })
    .unwrap();
    certificate(&nodes.near, "web", "late").unwrap();
    assert!(nodes.near.log().contains("the certificate can't be renewed"), "{}", nodes.near.log());
    assert_eq!(ask().unwrap().status(), 200);
    certificate(&nodes.near, "web", "expired").unwrap();
    certificate(&nodes.far, "cart", "expired").unwrap();
    assert!(codes(&nodes.near).contains(&"MESH0203".to_owned()));
    // Connections that are open outlive their certificates; no other is made.
    let heard = seen.count();
    let begun = Instant::now();
    let refused = Client::new(nodes.web.connect(nodes.till.at(port)).unwrap()).get("t", &path);
    assert!(refused.map_or(true, |answer| answer.status() == 503));
    assert!(begun.elapsed() < AT_ONCE, "it took {:?}", begun.elapsed());
    let line = Nodes::log_shows(&nodes.near, "no identity", |line| {
        line["response_code_details"] == "no_identity" && line["response_flags"] == "UF"
    });
    assert_eq!(line.unwrap()["destination_address"], nodes.till.at(port).to_string());
    assert!(Nodes::handshakes(&nodes.near, "outbound", "without_certificate") >= 1.0);
    assert_eq!(seen.count(), heard);
    assert!(wire.frames() > 10 && wire.count(SECRET) == 0);
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
