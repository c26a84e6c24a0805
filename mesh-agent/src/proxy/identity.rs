//! Who the client of a connection is, as far as that is proven: the one place that says so.
//!
//! Asked by `gate` for rate limits by identity. What is proven: the pod in whose network namespace the agent accepted the
//! connection, since the kernel hands it nobody else's. What isn't: whoever comes in from elsewhere in plain text. A source
//! address is no proof, for a host between the two, or a pod with CAP_NET_RAW, can send from any. Mutual TLS will prove the
//! clients of inbound connections, by their certificates, here.

use super::context::{Connection, Direction};

/// What clients are called whose identity isn't proven. No SPIFFE id is spelled so.
pub const UNPROVEN: &str = "unproven";

impl Connection {
    /// True if another agent is at the other end, as its certificate says: of a pod that it serves.
    pub fn is_from_agent(&self) -> bool {
        self.direction == Direction::Inbound && self.proven_identity().is_some()
    }

    /// SPIFFE id of the connection's client. None: nothing proves who it is. Made once for a connection, when first asked.
    pub(super) fn proven_identity(&self) -> Option<&str> {
        let identity = self.identity.get_or_init(|| match self.direction {
            Direction::Outbound => {
                let workload = self.pod.workload.borrow();
                Some(self.pod.worker.telemetry.metrics.principal(&workload).into())
            }
            Direction::Inbound => None,
        });
        identity.as_deref()
    }
}
