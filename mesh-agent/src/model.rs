//! The validated configuration: what the data path reads, immutable once published.
//!
//! `source` reads raw objects, `model::build` turns them into one [`Snapshot`], `kernel` and `enrol` follow its
//! differences, and every connection resolves its destination in it. Nothing here does I/O.

mod authentication;
mod authorization;
pub mod build;
mod dump;
mod need;
mod policy_object;
mod probe;
mod route_status;
pub mod security;
mod service;
mod snapshot;
mod warning;
mod workload;

pub use authentication::{Authentications, TokenPolicy, WorkloadTokens};
pub use authorization::{Authorization, Selected};
pub use dump::{Dump, DumpEndpoint, DumpPort, DumpService};
pub use need::Need;
pub use policy_object::{PolicyObject, PolicyTarget};
pub use probe::{PortProbe, Probe};
pub use route_status::{Condition, ParentStatus, RouteStatus};
pub use security::{Decided, Modes, MtlsMode, Scopes, Security};
pub use service::{
    AppProtocol, Endpoint, EndpointSet, External, LoadBalancer, LoadState, ProtocolFrom, RetryAllowance,
    Service, ServiceMeta, ServicePort, Subset, Variant,
};
pub use snapshot::{Snapshot, SnapshotHandle, Target};
pub use warning::{Severity, Warning, WarningCode};
pub use workload::{Enrolment, FailMode, Netns, ObjectName, Workload};
