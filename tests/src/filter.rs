//! What a pod's network lets through: a filter at the node's end of its device, where a NetworkPolicy would be enforced.
//!
//! A classic BPF program under tc (clsact, cls_bpf), on what goes towards the pod and, where all is to be lost, on what comes
//! from it. Gone with the guard.

use std::net::Ipv4Addr;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use mesh_agent::lab::{Pod, Topology};

// Offsets within a frame, and codes of classic BPF (Linux, Documentation/networking/filter.rst).
const ACCEPT: &str = "6 0 0 0";
const DROP: &str = "6 0 0 2";

/// A filter in force.
pub struct Filter {
    topology: Topology,
    veth: String,
}

impl Filter {
    /// Towards the pod only TCP from `source` to `port` passes, and ARP: a policy that names the application's port and who
    /// may come to it, and nothing of a mesh.
    pub fn allow_only(topology: &Topology, pod: &Pod, source: Ipv4Addr, port: u16) -> Result<Self> {
        let program = [
            "40 0 0 12".to_owned(),
            format!("21 8 0 {}", 0x0806),
            format!("21 0 8 {}", 0x0800),
            "48 0 0 23".to_owned(),
            "21 0 6 6".to_owned(),
            "32 0 0 26".to_owned(),
            format!("21 0 4 {}", u32::from(source)),
            "177 0 0 14".to_owned(),
            "72 0 0 16".to_owned(),
            format!("21 0 1 {port}"),
            ACCEPT.to_owned(),
            DROP.to_owned(),
        ];
        Self::apply(topology, pod, &["egress"], &program)
    }

    /// Nothing passes either way, and nobody is told: as when the node is gone.
    pub fn nothing(topology: &Topology, pod: &Pod) -> Result<Self> {
        Self::apply(topology, pod, &["egress", "ingress"], &[DROP.to_owned()])
    }

    fn apply(topology: &Topology, pod: &Pod, ways: &[&str], program: &[String]) -> Result<Self> {
        let filter = Self { topology: topology.clone(), veth: pod.veth().to_owned() };
        filter.tc(&["qdisc", "add", "dev", &filter.veth, "clsact"])?;
        let code = format!("{},{}", program.len(), program.join(","));
        for way in ways {
            filter.tc(&["filter", "add", "dev", &filter.veth, way, "bpf", "da", "bytecode", &code])?;
        }
        Ok(filter)
    }

    fn tc(&self, args: &[&str]) -> Result<()> {
        let fabric = self.topology.fabric().name();
        let output = Command::new("tc").args(["-n", fabric]).args(args).output().context("running tc")?;
        ensure!(output.status.success(), "tc {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }
}

impl Drop for Filter {
    fn drop(&mut self) {
        let _ = self.tc(&["qdisc", "del", "dev", &self.veth, "clsact"]);
    }
}
