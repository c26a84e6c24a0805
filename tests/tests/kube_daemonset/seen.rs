//! What agents of two nodes saw, asked from a machine beside the cluster: through the API server, and put together.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use mesh_tests::agent_binary;
use mesh_tests::cluster::BY_AND_BY;
use mesh_tests::daemons::Daemons;
use mesh_tests::lab::{Running, eventually};
use serde_json::Value;

use crate::get;

/// One that goes on until it is ended.
fn follow(daemons: &Daemons, args: &[&str]) -> Result<Running> {
    let mut command = Command::new(agent_binary()?);
    command.env("KUBECONFIG", daemons.cluster.kubeconfig()).args(args);
    Running::start(command)
}

/// Of every node together, by every command that can.
pub fn from_outside(daemons: &Daemons, address: &str) {
    figures(daemons);
    flows(daemons, address);
    report(daemons);
    page(daemons);
}

fn figures(daemons: &Daemons) {
    eventually(BY_AND_BY, || {
        let told = daemons
            .cli_here(&["edges", "-n", "shop", "--all-nodes", "-t", "10m", "-o", "json"])?
            .success()?;
        let edges: Value = serde_json::from_str(&told.stdout)?;
        let rows = edges.as_array().context("no rows")?;
        // Requests from before there were certificates are rows of their own.
        let is_locked = |row: &&Value| {
            row["source"] == "web" && row["destination"] == "cart" && row["security"] == "mutual_tls"
        };
        let locked = rows.iter().filter(is_locked).count();
        ensure!(locked == 1, "both nodes saw it, and it is one edge: {edges:#}");
        Ok(())
    })
    .unwrap();
    let told = daemons.cli_here(&["stat", "svc", "cart", "-n", "shop", "--all-nodes", "-t", "10m"]).unwrap();
    let told = told.success().unwrap().stdout;
    let row = told.lines().find(|line| line.split_whitespace().nth(1) == Some("cart"));
    assert!(row.is_some_and(|row| row.contains("1/1") && row.contains('%')), "{told}");
}

fn flows(daemons: &Daemons, address: &str) {
    let observed =
        follow(daemons, &["observe", "-f", "--all-nodes", "-o", "json", "--to-service", "shop/cart"]);
    let observed = observed.unwrap();
    let names = daemons.names();
    // Requests until both agents were heard of one: streams begin when they do.
    eventually(BY_AND_BY, || {
        get(daemons, "web", address)?;
        let said = observed.stdout();
        let whole = said.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let nodes: Vec<_> = whole.map(|flow| flow["node"].clone()).collect();
        for name in names {
            ensure!(
                nodes.iter().any(|node| node == name),
                "nothing of {name} in {said}: {}",
                observed.stderr()
            );
        }
        Ok(())
    })
    .unwrap();
}

fn report(daemons: &Daemons) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().display().to_string();
    daemons.cli_here(&["bugreport", "--all-nodes", "--directory", &path]).unwrap().success().unwrap();
    let archive = dir.path().read_dir().unwrap().next().unwrap().unwrap().path();
    let listed = Command::new("tar").arg("tzf").arg(&archive).output().unwrap();
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    for name in daemons.names() {
        assert!(listed.lines().any(|line| line.contains(&format!("{name}/"))), "nothing of {name}: {listed}");
    }
}

/// One agent's, though a browser is none of this suite's business.
fn page(daemons: &Daemons) {
    let [_, node] = daemons.names();
    let dashboard = follow(daemons, &["dashboard", "--no-open", "--node", node]).unwrap();
    let url = eventually(BY_AND_BY, || {
        let said = dashboard.stdout();
        let line = said.lines().next().filter(|_| said.contains('\n'));
        Ok(line.with_context(|| format!("no address: {}", dashboard.stderr()))?.to_owned())
    })
    .unwrap();
    // The token is exchanged for a cookie, with which the agent is asked.
    let jar = tempfile::NamedTempFile::new().unwrap();
    let fetch = |url: &str| {
        let mut curl = Command::new("curl");
        curl.args(["-sSfL", "--compressed", "--cookie-jar"])
            .arg(jar.path())
            .arg("--cookie")
            .arg(jar.path())
            .arg(url);
        Running::start(curl)?.finish(BY_AND_BY)?.success()
    };
    let page = fetch(&url).unwrap().stdout;
    assert!(page.contains("<html"), "{page}");
    let base = url.split("?token=").next().unwrap();
    let status: Value = serde_json::from_str(&fetch(&format!("{base}v1/status")).unwrap().stdout).unwrap();
    assert_eq!(status["agent"]["node"], node.as_str(), "{status}");
}
