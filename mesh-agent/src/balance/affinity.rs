//! Client affinity by rendezvous hashing: every endpoint scores the client, the highest score has it.
//!
//! Used by `balance` for `sessionAffinity: ClientIP`. An endpoint that goes moves only its own clients; one that
//! comes takes an equal share from each. Nothing is remembered, so agents and workers agree without talking.

use std::sync::Arc;

use super::Candidates;
use crate::addr::{EndpointAddr, to_map};
use crate::model::Endpoint;
use crate::policy::hash::mix;

pub(super) fn choose<'a>(candidates: &Candidates<'a, '_>, client: u64) -> Option<&'a Arc<Endpoint>> {
    candidates.iter().max_by_key(|endpoint| score(client, endpoint.addr))
}

fn score(client: u64, endpoint: EndpointAddr) -> u64 {
    mix(mix(client) ^ address_hash(endpoint))
}

/// The same for an address in every agent.
pub(super) fn address_hash(endpoint: EndpointAddr) -> u64 {
    let address = u128::from_be_bytes(mesh_common::octets(to_map(endpoint.ip())));
    (address >> 64) as u64 ^ mix(address as u64 ^ u64::from(endpoint.port()) << 48)
}
