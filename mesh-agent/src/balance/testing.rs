//! Sets of endpoints for the tests of the balancer's parts.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use crate::addr::EndpointAddr;
use crate::model::{Endpoint, EndpointSet, LoadState};

/// 10.0.0.NUMBER:8080
pub(crate) fn endpoint(number: u8) -> Arc<Endpoint> {
    Arc::new(Endpoint {
        addr: EndpointAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, number)), 8080),
        workload: None,
        node: None,
        zone: None,
        ready: true,
        serving: true,
        terminating: false,
        load: Arc::new(LoadState::default()),
    })
}

/// So many that may be chosen, then so many that may not.
pub(crate) fn set(available: u8, unavailable: u8) -> EndpointSet {
    let all: Vec<_> = (0..available + unavailable).map(endpoint).collect();
    EndpointSet { available: all[..usize::from(available)].to_vec(), all, ..EndpointSet::default() }
}
