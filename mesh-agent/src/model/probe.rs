//! What kubelet sends to a pod's ports, as the data path recognises it.
//!
//! Made of the Pod object by `objects::pod`; asked by `proxy::probe` for connections that come from the node itself.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A probe and the port that it goes to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PortProbe {
    /// Of the pod.
    pub port: u16,
    /// What comes there.
    pub probe: Probe,
}

/// One kind of probe.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Probe {
    /// `GET` with exactly this target, its query included, and no body.
    #[serde(rename_all = "camelCase")]
    Http {
        /// As it stands in the request line.
        target: String,
    },
    /// A request over TLS of the application's own, which can't be looked into.
    Https,
    /// A connection on which nothing is said.
    Tcp,
    /// A call of `grpc.health.v1.Health/Check`.
    Grpc,
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http { target } => write!(f, "GET {target}"),
            Self::Https => f.write_str("https"),
            Self::Tcp => f.write_str("tcp connection"),
            Self::Grpc => f.write_str("grpc health check"),
        }
    }
}

impl fmt::Display for PortProbe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.port, self.probe)
    }
}
