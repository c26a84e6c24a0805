//! What the suites share: hosts whose sockets a test holds itself, small servers and clients, and the shop topology.
//!
//! Namespaces, cgroups, processes and the agent come from `mesh_agent::lab`; here is what only tests need. The suites
//! are black-box: they assert on what clients and servers saw, on /metrics, on the access log and on the CLI.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod charts;
pub mod cluster;
pub mod collector;
pub mod controllers;
pub mod corpus;
pub mod daemons;
pub mod dns;
pub mod filter;
pub mod forged;
pub mod h2raw;
pub mod hbone;
pub mod http1;
pub mod http2;
pub mod kube;
pub mod kube_agent;
pub mod nodes;
pub mod peers;
pub mod pki;
pub mod policy;
pub mod prometheus;
pub mod pty;
pub mod routes;
pub mod server;
pub mod shop;
pub mod sockets;
pub mod tls;
pub mod tokens;

pub use mesh_agent::lab;

use std::path::PathBuf;
use std::time::Duration;

use lab::AgentOptions;

/// How long anything that should happen at once may take on a busy machine.
pub const SOON: Duration = Duration::from_secs(20);
/// Below the shortest of the agent's deadlines that would show (5 s for a connect) and above a busy machine's stalls:
/// what took less didn't wait for one.
pub const AT_ONCE: Duration = Duration::from_secs(4);
/// How long a client waits before a hang is called one.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// How to start agents here, or `None` with the reason printed where they can't run.
///
/// # Panics
/// They can't run and `MESH_TESTS_REQUIRE_KERNEL=1` says that they must; or there is no binary.
pub fn agent_options() -> Option<AgentOptions> {
    if let Some(why) = lab::missing() {
        assert!(
            std::env::var("MESH_TESTS_REQUIRE_KERNEL").as_deref() != Ok("1"),
            "can't be skipped here: {why}"
        );
        println!("SKIPPED: {why}");
        return None;
    }
    corpus::observe();
    Some(AgentOptions::built().expect("the agent's binary"))
}

/// The agent's binary, for commands that need no running agent.
///
/// # Errors
/// It isn't built.
pub fn agent_binary() -> anyhow::Result<PathBuf> {
    Ok(AgentOptions::built()?.binary().to_owned())
}

/// Leaves the test where agents can't run; otherwise gives their options.
#[macro_export]
macro_rules! need_agent {
    () => {
        match $crate::agent_options() {
            Some(options) => options,
            None => return,
        }
    };
}

/// Leaves the test where there is no API server; otherwise gives one: `shared`, or one that may be disturbed,
/// `in_turn` or, for what takes long, the test's `own`.
#[macro_export]
macro_rules! need_kube {
    ($which:ident) => {
        match $crate::kube::Cluster::$which() {
            Some(cluster) => cluster,
            None => return,
        }
    };
}
