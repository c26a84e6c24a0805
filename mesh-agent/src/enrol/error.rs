//! Why a pod can't be captured now.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use thiserror::Error;

use crate::kernel::KernelError;

/// Why a pod can't be captured now.
#[derive(Debug, Error)]
pub enum EnrolError {
    /// A directory's pod without the annotation, or an API server's without a uid.
    #[error(
        "its object says nothing of its network namespace (a directory's Pod names it by the annotation mesh-agent.dev/netns)"
    )]
    NoNetns,
    /// The path doesn't lead to a network namespace.
    #[error("network namespace {} can't be opened", path.display())]
    Open {
        /// As the annotation says.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The host's processes can't be listed.
    #[error("the host's processes can't be looked through at {} (--proc-dir must name the host's /proc)", path.display())]
    Processes {
        /// As in `--proc-dir`.
        path: PathBuf,
        /// Why.
        source: Arc<io::Error>,
    },
    /// Kubelet hasn't started it yet.
    #[error("none of its processes is found in {} (is that the host's /proc? see --proc-dir)", path.display())]
    NoProcess {
        /// As in `--proc-dir`.
        path: PathBuf,
    },
    /// Its first process is about to enter its namespace.
    #[error("its processes are in the node's network namespace")]
    OnNode,
    /// For want of a capability.
    #[error("the network namespaces of its processes can't be opened (CAP_SYS_PTRACE is needed)")]
    Closed(#[source] io::Error),
    /// setns(2) failed.
    #[error("network namespace can't be entered")]
    Enter(#[source] io::Error),
    /// socket(2), bind(2) or listen(2) failed inside the pod.
    #[error(
        "the agent's ports {outbound}, {inbound} and {hbone} can't be listened on inside the pod (does the pod use them itself?)"
    )]
    Listen {
        /// Outbound port.
        outbound: u16,
        /// Inbound port.
        inbound: u16,
        /// Port for HBONE.
        hbone: u16,
        /// Why.
        source: io::Error,
    },
    /// It is the agent's own.
    #[error("its network namespace is the agent's own (a host-network pod can't be enrolled)")]
    HostNetwork,
    /// Programs or maps.
    #[error("the kernel can't be told of it")]
    Kernel(#[from] KernelError),
}

impl EnrolError {
    /// True if the pod's first process may just not be there yet.
    pub fn is_early(&self) -> bool {
        matches!(self, Self::NoProcess { .. } | Self::OnNode)
    }
}
