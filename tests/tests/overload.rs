//! One pod takes all it can get: what is left for others, and for those who look after the agent.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::os::unix::fs::PermissionsExt;

use anyhow::ensure;
use mesh_tests::lab::{AgentOptions, eventually};
use mesh_tests::shop::Shop;
use mesh_tests::{SOON, need_agent};

#[test]
fn a_pod_with_too_many_connections_leaves_room_for_others_and_for_probes() {
    let binary = need_agent!().binary().to_owned();
    let dir = tempfile::tempdir().unwrap();
    let limited = dir.path().join("mesh-agent");
    let script = format!("#!/bin/sh\nulimit -n 400\nexec {} \"$@\"\n", binary.display());
    std::fs::write(&limited, script).unwrap();
    std::fs::set_permissions(&limited, std::fs::Permissions::from_mode(0o755)).unwrap();
    let options = AgentOptions::new(&limited).flag("workers", "1");
    let shop = Shop::start("crowd", options).unwrap();
    let service = shop.http("crowd", "tcp", 1).unwrap();
    // More than twice what the agent may have open.
    let held: Vec<_> = (0..400).filter_map(|_| shop.web.connect(service.at()).ok()).collect();
    shop.metrics_show(|metrics| {
        let refused =
            metrics.sum("mesh_agent_connections_refused_total", &[("reason", "too_many_connections")]);
        // Of 100 connections one pod alone gets half.
        ensure!(refused >= 300.0, "{refused} refused of {}", held.len());
        let starved = metrics.sum("mesh_agent_connections_refused_total", &[("reason", "accept_failed")]);
        ensure!(starved == 0.0, "{starved} times no descriptor was left");
        Ok(())
    })
    .unwrap();
    assert_eq!(shop.agent.get("/livez").unwrap().0, 200);
    shop.agent.cli(&["status"]).unwrap().success().unwrap();
    eventually(SOON, || shop.reaches(&shop.batch, &service)).unwrap();
    drop(held);
    eventually(SOON, || shop.reaches(&shop.web, &service)).unwrap();
}
