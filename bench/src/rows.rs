//! One row: a client, an address, the processes whose time counts; measured in turn with all others, several times.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use anyhow::Result;
use mesh_agent::lab::Pod;

use crate::cpu;
use crate::load::{self, Answered, Work};
use crate::peers::{Captured, Peer};
use crate::policies::{PORT, VIP_FAST, VIP_POLICIES, VIP_SLOW};
use crate::scene::{HTTP1, HTTP2, Scene, VIP_HTTP1, VIP_HTTP2, VIP_KERNEL, VIP_TCP, vip};

/// Name of the agent's own rows.
pub const AGENT: &str = "mesh-agent";
/// Name of the rows past the agent, of a service that needs nothing of it.
pub const KERNEL: &str = "mesh-agent, balanced in the kernel";
/// Name of the rows without a proxy.
pub const DIRECT: &str = "direct";
/// Name of the row with iptables.
pub const REDIRECT: &str = "iptables REDIRECT, tokio copy";
/// Name of the row with our hooks in front of the same proxy.
pub const HOOKED: &str = "our hooks, tokio copy";
/// Name of the agent's row without what the row beside it has.
pub const PLAIN: &str = "mesh-agent, no policy";
/// The same of Envoy's.
pub const PLAIN_ENVOY: &str = "Envoy, no policy";
/// Name of the agent's row without the slow endpoint.
pub const FAST: &str = "mesh-agent, the two fast ones";
/// Name of the row with iptables and Envoy.
pub const REDIRECT_ENVOY: &str = "iptables REDIRECT, Envoy";

/// A way from a client to the server.
pub struct Row {
    pub work: Work,
    pub name: String,
    client: Pod,
    address: SocketAddr,
    pids: Vec<u32>,
    samples: Vec<Sample>,
}

struct Sample {
    answered: Answered,
    proxy_micros: f64,
    machine_micros: f64,
}

/// Medians of a row's rounds, but errors, which are summed.
#[derive(Clone, Debug)]
pub struct Figures {
    pub per_second: f64,
    pub p50_micros: f64,
    pub p99_micros: f64,
    /// CPU of the proxy for each request or connection.
    pub proxy_micros: f64,
    /// CPU of everything on the machine for each.
    pub machine_micros: f64,
    /// Largest and smallest of `proxy_micros`, as a share of the median.
    pub spread: f64,
    pub errors: u64,
}

/// Every row that can be had.
pub fn all(scene: &Scene, peers: &[Peer], captured: &[Captured]) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut add = |work, name: &str, client: &Pod, address, pids: &[u32]| {
        rows.push(Row::new(work, name, client, address, pids));
    };
    let server = |port| SocketAddr::from((scene.server.v4(), port));
    let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    add(Work::Http1, DIRECT, &scene.client, server(HTTP1), &[]);
    add(Work::Http2, DIRECT, &scene.client, server(HTTP2), &[]);
    add(Work::Tcp, DIRECT, &scene.client, server(HTTP1), &[]);
    add(Work::Connect, DIRECT, &scene.client, server(HTTP1), &[]);
    for peer in peers {
        let pids = [peer.running.pid()];
        for (work, port) in [(Work::Http1, peer.http1), (Work::Http2, peer.http2), (Work::Tcp, peer.tcp)] {
            if let Some(port) = port {
                add(work, peer.name, &scene.client, local(port), &pids);
            }
        }
        if let (Some(policies), Some(plain)) = (peer.policies, peer.http1) {
            add(Work::Policies, PLAIN_ENVOY, &scene.client, local(plain), &pids);
            add(Work::Policies, peer.name, &scene.client, local(policies), &pids);
        }
    }
    for captured in captured {
        add(Work::Connect, captured.name, &captured.client, server(captured.port), &[captured.running.pid()]);
    }
    if let Some(mesh) = &scene.mesh {
        let pids = [mesh.agent.pid()];
        add(Work::Http1, AGENT, &mesh.client, vip(VIP_HTTP1), &pids);
        add(Work::Http2, AGENT, &mesh.client, vip(VIP_HTTP2), &pids);
        add(Work::Tcp, AGENT, &mesh.client, vip(VIP_TCP), &pids);
        add(Work::Connect, AGENT, &mesh.client, vip(VIP_TCP), &pids);
        add(Work::Tcp, KERNEL, &mesh.client, (VIP_KERNEL, HTTP1).into(), &pids);
        add(Work::Connect, KERNEL, &mesh.client, (VIP_KERNEL, HTTP1).into(), &pids);
        add(Work::Policies, PLAIN, &mesh.client, vip(VIP_HTTP1), &pids);
        add(Work::Policies, AGENT, &mesh.client, (VIP_POLICIES, PORT).into(), &pids);
        add(Work::Slow, FAST, &mesh.client, (VIP_FAST, PORT).into(), &pids);
        add(Work::Slow, AGENT, &mesh.client, (VIP_SLOW, PORT).into(), &pids);
    }
    rows
}

impl Row {
    /// Not yet measured.
    pub fn new(work: Work, name: &str, client: &Pod, address: SocketAddr, pids: &[u32]) -> Self {
        let (name, client, pids) = (name.to_owned(), client.clone(), pids.to_vec());
        Self { work, name, client, address, pids, samples: Vec::new() }
    }

    /// One round of so many seconds.
    pub fn measure(&mut self, seconds: u32, scratch: &Path) -> Result<()> {
        let before = (cpu::of_processes(&self.pids)?, cpu::of_machine()?);
        let answered = load::run(&self.client, self.work, self.address, seconds, scratch)?;
        let after = (cpu::of_processes(&self.pids)?, cpu::of_machine()?);
        let each = |micros: u64| micros as f64 / answered.count.max(1) as f64;
        let (proxy_micros, machine_micros) =
            (each(after.0 - before.0), each(after.1.saturating_sub(before.1)));
        self.samples.push(Sample { answered, proxy_micros, machine_micros });
        Ok(())
    }

    /// Load that isn't counted: pools fill, code is paged in.
    pub fn warm_up(&self, scratch: &Path) -> Result<()> {
        let answered = load::run(&self.client, self.work, self.address, 1, scratch)?;
        anyhow::ensure!(answered.count > 0, "no answer, {} errors", answered.errors);
        Ok(())
    }

    /// Medians, once measured.
    pub fn figures(&self) -> Option<Figures> {
        if self.samples.is_empty() {
            return None;
        }
        let of = |figure: fn(&Sample) -> f64| median(self.samples.iter().map(figure).collect());
        let proxy_micros = of(|sample| sample.proxy_micros);
        let widest = |pick: fn(f64, f64) -> f64| {
            self.samples.iter().map(|s| s.proxy_micros).reduce(pick).unwrap_or(0.0)
        };
        let spread =
            if proxy_micros > 0.0 { (widest(f64::max) - widest(f64::min)) / proxy_micros } else { 0.0 };
        Some(Figures {
            per_second: of(|sample| sample.answered.per_second),
            p50_micros: of(|sample| sample.answered.p50_micros),
            p99_micros: of(|sample| sample.answered.p99_micros),
            proxy_micros,
            machine_micros: of(|sample| sample.machine_micros),
            spread,
            errors: self.samples.iter().map(|sample| sample.answered.errors).sum(),
        })
    }
}

/// The middle one; of an even number the mean of the middle two.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match (values.len(), values.get(values.len() / 2)) {
        (0, _) | (_, None) => 0.0,
        (count, Some(upper)) if count % 2 == 0 => (values[count / 2 - 1] + upper) / 2.0,
        (_, Some(middle)) => *middle,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_of_odd_even_and_none() {
        assert!((median(vec![3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!((median(vec![4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < 1e-9);
        assert!(median(Vec::new()).abs() < 1e-9);
    }
}
