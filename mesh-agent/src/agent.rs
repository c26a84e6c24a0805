//! The daemon: puts the parts together, keeps them together, and takes them apart again in order.
//!
//! Everything here runs on the control thread: the source publishes snapshots, the kernel and the workers are made to
//! follow them, the two admin servers answer. The data path has threads of its own (`proxy::worker`).

mod control;
mod handover;
mod notify;
mod replaced;
mod servers;
mod start;
mod view;

pub use start::{AgentError, run};
