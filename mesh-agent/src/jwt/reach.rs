//! Where a host of a key source is: an address as it stands, a Service of the snapshot, or a name that the node resolves.
//!
//! Used by `fetch`. A Service's name leads straight to its endpoints, so that it works without cluster DNS and without
//! kube-proxy. Addresses of the node itself are left out.

use std::io;
use std::net::{IpAddr, SocketAddr};

use tokio::net::lookup_host;

use crate::model::{ObjectName, Snapshot, SnapshotHandle};
use crate::objects::usable_address;
use crate::tls::Trust;

/// Why a host isn't connected to.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReachError {
    #[error("{0} can't be resolved")]
    Unresolved(String, #[source] io::Error),
    #[error(
        "{0} has only addresses of the node itself or link-local ones, which aren't connected to for keys"
    )]
    Forbidden(String),
}

/// How hosts are reached.
#[derive(Clone, Debug)]
pub(super) struct Reach {
    snapshot: SnapshotHandle,
    cluster_domain: String,
    /// Whose certificates count, and whether loopback may be connected to: other than usual in tests alone.
    #[cfg(test)]
    pub(super) for_tests: Option<Trust>,
}

impl Reach {
    pub(super) fn new(snapshot: SnapshotHandle, cluster_domain: String) -> Self {
        Self {
            snapshot,
            cluster_domain,
            #[cfg(test)]
            for_tests: None,
        }
    }

    /// Whose certificates count.
    pub(super) fn trust(&self) -> Trust {
        #[cfg(test)]
        if let Some(trust) = &self.for_tests {
            return trust.clone();
        }
        Trust::System
    }

    fn usable(&self, ip: IpAddr) -> Option<IpAddr> {
        #[cfg(test)]
        if self.for_tests.is_some() {
            return Some(ip);
        }
        usable_address(ip)
    }

    /// Addresses of a host, in the order in which they are tried.
    pub(super) async fn addresses(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, ReachError> {
        let found = if let Ok(ip) = host.parse::<IpAddr>() {
            vec![SocketAddr::new(ip, port)]
        } else if let Some(name) = ObjectName::of_host(host, &self.cluster_domain)
            && let Some(endpoints) = endpoints(&self.snapshot.load(), &name, port)
        {
            endpoints
        } else {
            let resolved = lookup_host((host, port)).await;
            resolved.map_err(|error| ReachError::Unresolved(host.to_owned(), error))?.collect()
        };
        let usable = |at: SocketAddr| Some(SocketAddr::new(self.usable(at.ip())?, at.port()));
        let usable: Vec<_> = found.into_iter().filter_map(usable).collect();
        if usable.is_empty() { Err(ReachError::Forbidden(host.to_owned())) } else { Ok(usable) }
    }
}

/// The endpoints of a Service's port, beginning anywhere; None without such a Service or an endpoint of it.
fn endpoints(snapshot: &Snapshot, name: &ObjectName, port: u16) -> Option<Vec<SocketAddr>> {
    let service = snapshot.services.get(name)?;
    let port = service.ports.iter().find(|own| own.port == port && own.external.is_none())?;
    let mut found: Vec<_> = port.endpoints.available.iter().map(|at| at.addr.socket_addr()).collect();
    if found.is_empty() {
        return None;
    }
    let first = fastrand::usize(..found.len());
    found.rotate_left(first);
    Some(found)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn the_node_itself_is_never_connected_to() {
        let reach = Reach::new(SnapshotHandle::default(), "cluster.local".to_owned());
        for host in
            ["127.0.0.1", "::1", "0.0.0.0", "169.254.169.254", "fe80::1", "::ffff:127.0.0.1", "localhost"]
        {
            let got = reach.addresses(host, 80).await;
            assert!(matches!(got, Err(ReachError::Forbidden(_))), "{host}: {got:?}");
        }
        assert_eq!(reach.addresses("192.0.2.1", 80).await.unwrap(), ["192.0.2.1:80".parse().unwrap()]);
    }
}
