//! Agents on two nodes of a real Kubernetes, with real pods: how these get into the mesh, and what they say to each other there.
//! One cluster for all tests, since starting it takes longer than most of them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

/// Leaves the test where there is no cluster with nodes; otherwise gives one: `beside_others`, or `alone`, where the test stops a
/// part of it.
macro_rules! need_nodes {
    ($how:ident) => {
        match mesh_tests::cluster::Nodes::$how() {
            Some(nodes) => nodes,
            None => return,
        }
    };
}

#[path = "kube_nodes/enrolment.rs"]
mod enrolment;
#[path = "kube_nodes/traffic.rs"]
mod traffic;
