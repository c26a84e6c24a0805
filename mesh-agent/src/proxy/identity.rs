//! Who the client of a connection is, as far as that is proven: the one place that says so.
//!
//! Asked by `gate` for rate limits by identity. What is proven: the pod in whose network namespace the agent accepted the
//! connection, since the kernel hands it nobody else's; and the client of an inbound connection over mutual TLS, by its
//! certificate. What isn't: whoever comes in from elsewhere in plain text. A source address is no proof, for a host between
//! the two, or a pod with CAP_NET_RAW, can send from any.

use super::context::{Connection, Direction};

/// What clients are called whose identity isn't proven. No SPIFFE id is spelled so.
pub const UNPROVEN: &str = "unproven";

impl Connection {
    /// SPIFFE id of the connection's client. None: nothing proves who it is. Made once for a connection, when first asked.
    pub(super) fn proven_identity(&self) -> Option<&str> {
        if let Some(peer) = self.peer.get() {
            return Some(peer.as_str());
        }
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
