//! `GET /v1/flows`: one request or opaque connection a line, as JSON. What `observe`, `tap` and `describe` show.
//!
//! Names are Hubble's where Hubble has the thing. A field without a value is left out.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::telemetry::Reporter;

/// What became of it, as far as the mesh is concerned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Verdict {
    /// It reached an endpoint, and what that said came back: also that it failed.
    #[default]
    Forwarded,
    /// Configuration didn't let it through: authorization, a rate limit, an unknown destination.
    #[serde(alias = "DENIED")]
    Dropped,
    /// Something went wrong on the way.
    Error,
}

impl Verdict {
    /// As it is spelled.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Forwarded => "FORWARDED",
            Self::Dropped => "DROPPED",
            Self::Error => "ERROR",
        }
    }
}

/// A line of the answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum FlowLine {
    /// So many flows aren't there, since the reader was behind.
    Lost {
        /// How many.
        lost: u64,
    },
    /// A flow.
    Flow(Box<Flow>),
}

/// One request or opaque connection that has ended.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Flow {
    /// When it began, RFC 3339 in UTC with milliseconds.
    pub time: String,
    /// Whose agent tells.
    pub node: String,
    /// What became of it.
    pub verdict: Verdict,
    /// Whose view: the client's side or the server's.
    pub reporter: Option<Reporter>,
    /// `http`, `grpc`, `tcp` or `tls`.
    pub protocol: String,
    /// Who asked.
    pub source: FlowPeer,
    /// Who was asked; its address is what was dialled where no endpoint was chosen.
    pub destination: FlowPeer,
    /// What the client dialled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dialled: Option<SocketAddr>,
    /// The service that this stands for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<FlowService>,
    /// Where it was sent, if it came so far.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<SocketAddr>,
    /// Of requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub l7: Option<FlowL7>,
    /// Of a TLS connection of the application's own.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub server_name: String,
    /// The response flag; `-` for none.
    pub flag: String,
    /// Why, in a word.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub details: String,
    /// The AuthorizationPolicy that refused it, NAMESPACE/NAME.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub policy: String,
    /// The rule of a route that it went by.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub route: String,
    /// First byte to last, in milliseconds.
    pub duration_ms: f64,
    /// From the client.
    pub bytes_received: u64,
    /// To the client.
    pub bytes_sent: u64,
    /// `mutual_tls`, or `none`.
    pub security: String,
    /// `hbone` where it was that.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub transport: String,
    /// Of the trace that it belongs to.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub trace_id: String,
    /// `x-request-id`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub request_id: String,
}

/// One end.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FlowPeer {
    /// Of the pod; empty where it is none that is known, as the next two.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// Its name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub pod: String,
    /// What it belongs to, such as a Deployment's name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub workload: String,
    /// Address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip: Option<IpAddr>,
    /// Port.
    pub port: u16,
    /// SPIFFE id, where mutual TLS proved it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub principal: String,
}

/// A service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FlowService {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its host name.
    pub host: String,
}

/// What is known of a request.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FlowL7 {
    /// `HTTP/1.1`, `HTTP/2`, ...
    pub version: String,
    /// Its method; `-` for what couldn't be read.
    pub method: String,
    /// Its target, without the secrets of its query.
    pub path: String,
    /// Host or `:authority`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub authority: String,
    /// What the client was sent; 0 for nothing.
    pub status: u16,
    /// Of a gRPC call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grpc_status: Option<u16>,
    /// To the head of the response, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream_ms: Option<f64>,
    /// How often it was sent.
    pub attempts: u32,
    /// `tap` alone: as the client sent them, without secrets.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub request_headers: BTreeMap<String, Vec<String>>,
    /// The same of the endpoint's response.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub response_headers: BTreeMap<String, Vec<String>>,
}

impl FlowPeer {
    /// NAMESPACE/POD, or the address where there is none, with the port.
    pub fn name(&self) -> String {
        match (self.pod.is_empty(), self.ip) {
            (false, _) => format!("{}/{}:{}", self.namespace, self.pod, self.port),
            (true, Some(ip)) => SocketAddr::new(ip, self.port).to_string(),
            (true, None) => "unknown".to_owned(),
        }
    }
}
