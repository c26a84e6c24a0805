//! The mesh's node agent: configuration in, traffic through, figures out.
//!
//! ARCHITECTURE.md has the map and the life of a connection; each module's head says what comes before and after it.

pub mod addr;
pub mod admin;
pub mod agent;
pub mod announce;
pub mod authz;
pub mod balance;
pub mod cli;
pub mod clock;
pub mod controller;
pub mod demo;
#[cfg(test)]
mod docs;
pub mod enrol;
pub mod ext_authz;
pub mod flags;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
pub mod grpc;
pub mod health;
pub mod heartbeat;
pub mod history;
pub mod http1;
pub mod http2;
pub mod identity;
pub mod jwt;
pub mod kernel;
pub mod kube;
pub mod lab;
pub mod manifests;
pub mod model;
pub mod names;
pub mod objects;
pub mod policy;
pub mod proxy;
pub mod redis;
pub mod report;
pub mod route;
pub mod settings;
pub mod sever;
pub mod source;
pub mod telemetry;
pub mod tls;
pub mod trace;
