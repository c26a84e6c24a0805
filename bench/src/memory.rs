//! Resident memory: idle, and for each connection that is open and does nothing.
//!
//! Measured before any load, in fresh processes, because what an allocator keeps after load would hide growth.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use mesh_agent::lab::{Pod, eventually};

use crate::cpu;
use crate::load::CLIENT_CORE;
use crate::peers::Peer;
use crate::rows::AGENT;
use crate::scene::{Mesh, Scene, VIP_HTTP1, VIP_TCP, pin, tool, vip};

/// Enough that a page more or less doesn't show.
const CONNECTIONS: usize = 2000;

/// Memory of one proxy.
pub struct Memory {
    pub name: String,
    pub idle: u64,
    /// What the connections carry, and the bytes that each takes.
    pub per_connection: Vec<(&'static str, f64)>,
}

/// Of the agent with its ten pods, then of every peer.
pub fn measure(scene: &mut Scene, peers: &[Peer]) -> Result<Vec<Memory>> {
    let mut memories = Vec::new();
    if let Some(mesh) = &mut scene.mesh {
        memories.push(agent(mesh).context("memory of the agent")?);
    }
    for peer in peers {
        let pid = peer.running.pid();
        let idle = settled(pid)?;
        let ports = [("HTTP/1.1", peer.http1), ("TCP", peer.tcp.filter(|_| peer.http1.is_none()))];
        let mut per_connection = Vec::new();
        for (what, port) in ports {
            if let Some(port) = port {
                let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
                let bytes =
                    each(&scene.client, address, pid).with_context(|| format!("memory of {}", peer.name))?;
                per_connection.push((what, bytes));
            }
        }
        if !per_connection.is_empty() {
            memories.push(Memory { name: peer.name.to_owned(), idle, per_connection });
        }
    }
    Ok(memories)
}

fn agent(mesh: &mut Mesh) -> Result<Memory> {
    let idle = settled(mesh.agent.pid())?;
    let mut per_connection = Vec::new();
    for (what, port) in [("HTTP/1.1", VIP_HTTP1), ("TCP", VIP_TCP)] {
        settled(mesh.agent.pid())?;
        per_connection.push((what, each(&mesh.client, vip(port), mesh.agent.pid())?));
        // A fresh process for what comes next.
        mesh.agent.restart()?;
        pin(mesh.agent.pid())?;
    }
    Ok(Memory { name: AGENT.to_owned(), idle, per_connection })
}

fn each(client: &Pod, address: SocketAddr, pid: u32) -> Result<f64> {
    let before = cpu::resident(&[pid])?;
    let args = ["hold", &address.to_string(), "--connections", &CONNECTIONS.to_string()];
    let holder = tool(client, CLIENT_CORE, &args)?;
    let after = settled(pid)?;
    drop(holder);
    Ok(after.saturating_sub(before) as f64 / CONNECTIONS as f64)
}

/// Resident memory once it hasn't grown for half a second.
fn settled(pid: u32) -> Result<u64> {
    let mut last = (0, Instant::now());
    eventually(Duration::from_secs(10), || {
        let now = cpu::resident(&[pid])?;
        if now != last.0 {
            last = (now, Instant::now());
        }
        anyhow::ensure!(last.1.elapsed() > Duration::from_millis(500), "memory still changes");
        Ok(now)
    })
}
