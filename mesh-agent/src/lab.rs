//! Nodes and pods on one machine, for the demo, the tests and the bench: one harness for all three.
//!
//! A [`Topology`] is a bridge in a network namespace of its own; its [`Node`]s are cgroup subtrees; its [`Pod`]s are
//! network namespaces on the bridge with a cgroup below their node's. Everything is a guard, and everything is named
//! after the process, so that runs in parallel can't meet and [`reaper`] can clean up after a process that was killed.
//! Nothing of this is on a connection's way; the agent is run as a child process, as anybody would run it.

mod agent;
mod loopback;
mod metrics;
mod netns;
mod objects;
mod pod;
mod process;
mod reaper;
mod topology;
mod wait;
mod wire;

pub use agent::{Agent, AgentOptions};
pub use loopback::own_address;
pub use metrics::{MetricsText, Sample};
pub use netns::Netns;
pub use objects::{
    DestinationRuleObject, EndpointObject, HttpRouteObject, MeshDir, NamespaceObject, NodeObject, Object,
    PodObject, ServiceObject, SliceObject, TrafficPolicyObject,
};
pub use pod::{Pod, PodCommand};
pub use process::{Finished, Output, Running};
pub use reaper::{Root, missing};
pub use topology::{Node, Topology};
pub use wait::{eventually, eventually_some};
pub use wire::Wire;
