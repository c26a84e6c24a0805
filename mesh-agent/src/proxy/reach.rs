//! How an endpoint is reached: in plain text, in TLS as a rule says, in the mesh's own mutual TLS, or by HBONE.
//!
//! Decided here when `backend` makes an `upstream`, which never changes it; a workload or policy that changes makes
//! another. What must be encrypted has no way back to plain text.

use std::sync::Arc;

use super::context::Pod;
use crate::identity::SpiffeId;
use crate::model::{MtlsMode, Snapshot, Workload};
use crate::policy::{ClusterPolicy, MeshTls};
use crate::tls::Origination;

/// The way to one endpoint.
#[derive(Clone, Debug, Default)]
pub enum Reach {
    /// In plain text.
    #[default]
    Plain,
    /// In TLS, as a DestinationRule says.
    Tls(Arc<Origination>),
    /// Mutual TLS to the endpoint's own port, with its agent, which must prove that the endpoint runs as this.
    Mesh(SpiffeId),
    /// HBONE: CONNECT over mutual TLS to its pod's port for that, with whatever stands there for the endpoint, which must
    /// prove that it runs as this.
    Hbone(SpiffeId),
    /// A rule wants the mesh's mutual TLS, and nothing says who the endpoint runs as: nothing is sent.
    Nowhere,
}

/// The same without what takes making: compared for every pick.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Way<'p> {
    Plain,
    Tls(&'p Arc<Origination>),
    Mesh,
    Hbone,
    Nowhere,
}

impl<'p> Way<'p> {
    /// From `pod` to an endpoint of `workload`, under `policy` if the endpoint is a service's. `disabled`: its
    /// PeerAuthentication takes no mutual TLS.
    pub(super) fn of(
        pod: &Pod,
        policy: Option<&'p ClusterPolicy>,
        workload: Option<&Workload>,
        disabled: bool,
    ) -> Self {
        Self::between(&pod.workload.borrow(), pod.worker.same_node_mtls, policy, workload, disabled)
    }

    /// The same from a pod of this node that is `own`, for what isn't a connection of its own: `crate::health` asks as requests go.
    pub(crate) fn between(
        own: &Workload,
        same_node_mtls: bool,
        policy: Option<&'p ClusterPolicy>,
        workload: Option<&Workload>,
        disabled: bool,
    ) -> Self {
        if let Some(tls) = policy.and_then(|policy| policy.tls.as_ref()) {
            return Self::Tls(tls);
        }
        let wanted = policy.map(|policy| policy.mesh_tls).unwrap_or_default();
        match (wanted, workload) {
            (MeshTls::Never, _) => Self::Plain,
            (MeshTls::Always, None) => Self::Nowhere,
            (MeshTls::Auto, None) => Self::Plain,
            (_, Some(workload)) => {
                let is_here = workload.node == own.node;
                // What goes to the pod's own address stays on its loopback.
                let is_near = is_here && (!same_node_mtls || workload.name == own.name);
                match wanted {
                    _ if is_near && workload.is_enrolled() => Self::Plain,
                    MeshTls::Always if workload.speaks_hbone() => Self::Hbone,
                    MeshTls::Always => Self::Mesh,
                    _ if workload.is_enrolled() && !disabled => Self::Mesh,
                    _ if workload.speaks_hbone() && !disabled => Self::Hbone,
                    _ => Self::Plain,
                }
            }
        }
    }

    /// Made, with who has to be there.
    pub(super) fn reach(self, pod: &Pod, workload: Option<&Workload>) -> Reach {
        match (self, workload) {
            (Self::Plain, _) => Reach::Plain,
            (Self::Tls(tls), _) => Reach::Tls(tls.clone()),
            (Self::Mesh, Some(workload)) => Reach::Mesh(account_of(pod, workload)),
            (Self::Hbone, Some(workload)) => Reach::Hbone(account_of(pod, workload)),
            (Self::Mesh | Self::Hbone | Self::Nowhere, _) => Reach::Nowhere,
        }
    }
}

fn account_of(pod: &Pod, workload: &Workload) -> SpiffeId {
    let identity = pod.identity.borrow();
    SpiffeId::new(identity.id().trust_domain(), &workload.name.namespace, &workload.service_account)
}

impl Reach {
    /// True if it is still this way. Who has to be there is the workload's, and another upstream with it.
    pub(super) fn is(&self, way: Way<'_>) -> bool {
        match (self, way) {
            (Self::Plain, Way::Plain)
            | (Self::Mesh(_), Way::Mesh)
            | (Self::Hbone(_), Way::Hbone)
            | (Self::Nowhere, Way::Nowhere) => true,
            (Self::Tls(one), Way::Tls(other)) => Arc::ptr_eq(one, other),
            _ => false,
        }
    }

    /// Who the endpoint has to prove to run as, and so does wherever something was sent.
    pub fn expected(&self) -> Option<&SpiffeId> {
        match self {
            Self::Mesh(expected) | Self::Hbone(expected) => Some(expected),
            Self::Plain | Self::Tls(_) | Self::Nowhere => None,
        }
    }

    /// True if another agent of ours is at the other end.
    pub fn is_mesh(&self) -> bool {
        matches!(self, Self::Mesh(_))
    }

    /// True if what is there speaks HBONE.
    pub fn is_hbone(&self) -> bool {
        matches!(self, Self::Hbone(_))
    }

    /// True if it is mutual TLS of the mesh, with whomever.
    pub fn is_mutual(&self) -> bool {
        self.expected().is_some()
    }
}

impl Snapshot {
    /// True if the PeerAuthentication of `workload` says DISABLE for this port, so that nobody may speak mutual TLS to it.
    pub(crate) fn takes_no_mutual_tls(&self, workload: &Workload, port: u16) -> bool {
        self.mtls_mode(&workload.name, port) == MtlsMode::Disable
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::model::Enrolment;
    use crate::proxy::{Limits, testing};
    use crate::telemetry::Telemetry;

    fn workload(name: &str, node: &str, enrolled: bool) -> Workload {
        let mut workload = testing::workload();
        workload.name.name = name.into();
        workload.node = node.into();
        workload.service_account = name.into();
        if !enrolled {
            workload.enrolment = Enrolment::NotRequested;
        }
        workload
    }

    fn way(mesh_tls: MeshTls, to: Option<&Workload>, disabled: bool) -> String {
        let pod = testing::pod(Limits::default(), Telemetry::quiet());
        let policy = ClusterPolicy { mesh_tls, ..ClusterPolicy::default() };
        match Way::of(&pod, Some(&policy), to, disabled).reach(&pod, to) {
            Reach::Plain => "plain".into(),
            Reach::Mesh(expected) => expected.to_string(),
            Reach::Hbone(expected) => format!("hbone {expected}"),
            Reach::Nowhere => "nowhere".into(),
            Reach::Tls(_) => "tls".into(),
        }
    }

    #[test]
    fn what_is_enrolled_elsewhere_is_reached_in_mutual_tls_as_its_account() {
        let far = workload("cart", "other", true);
        let cart = "spiffe://cluster.local/ns/test/sa/cart";
        assert_eq!(way(MeshTls::Auto, Some(&far), false), cart);
        assert_eq!(way(MeshTls::Auto, Some(&far), true), "plain", "its PeerAuthentication says DISABLE");
        assert_eq!(way(MeshTls::Never, Some(&far), false), "plain", "the client's rule says DISABLE");
        assert_eq!(way(MeshTls::Always, Some(&far), true), cart, "the client's rule says ISTIO_MUTUAL");
    }

    #[test]
    fn what_nothing_is_known_of_is_reached_in_plain_text_unless_a_rule_forbids_it() {
        let stranger = workload("old", "other", false);
        for to in [Some(&stranger), None] {
            assert_eq!(way(MeshTls::Auto, to, false), "plain");
        }
        assert_eq!(way(MeshTls::Always, None, false), "nowhere");
        assert_eq!(way(MeshTls::Always, Some(&stranger), false), "spiffe://cluster.local/ns/test/sa/old");
    }

    #[test]
    fn what_says_that_it_speaks_hbone_is_reached_so_unless_an_agent_captures_it() {
        let hbone = |node: &str, enrolled: bool| Workload { hbone: true, ..workload("cart", node, enrolled) };
        let cart = "spiffe://cluster.local/ns/test/sa/cart";
        let by_hbone = format!("hbone {cart}");
        for node in ["other", "node"] {
            let far = hbone(node, false);
            assert_eq!(way(MeshTls::Auto, Some(&far), false), by_hbone);
            assert_eq!(
                way(MeshTls::Always, Some(&far), true),
                by_hbone,
                "the client's rule says ISTIO_MUTUAL"
            );
            assert_eq!(way(MeshTls::Auto, Some(&far), true), "plain", "its PeerAuthentication says DISABLE");
            assert_eq!(way(MeshTls::Never, Some(&far), false), "plain", "the client's rule says DISABLE");
        }
        assert_eq!(way(MeshTls::Auto, Some(&hbone("other", true)), false), cart);
        let on_the_host = Workload { host_network: true, ..hbone("other", false) };
        assert_eq!(way(MeshTls::Auto, Some(&on_the_host), false), "plain", "its address is the node's");
    }

    #[test]
    fn on_one_node_the_agent_itself_stands_between() {
        let near = workload("cart", "node", true);
        for mesh_tls in [MeshTls::Auto, MeshTls::Always] {
            assert_eq!(way(mesh_tls, Some(&near), false), "plain");
        }
    }
}
