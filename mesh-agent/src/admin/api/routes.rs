//! What the admin API says of routes' rules: those in force, and what becomes of a request.

use serde::{Deserialize, Serialize};

use super::{Endpoint, InForce, Warning};

views! {
    /// A rule in force on one port of one Service, in order of precedence.
    RouteRule {
        /// Namespace of the Service.
        namespace: String,
        /// Service.
        service: String,
        /// Its port.
        port: u16,
        /// Namespace whose clients it holds for; empty for those of every namespace.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        clients: String,
        /// `producer` for a rule of the Service's own namespace, else `consumer`.
        role: String,
        /// `HTTPRoute`, `GRPCRoute`, `TLSRoute` or `TCPRoute`.
        kind: String,
        /// `NAMESPACE/NAME` of the route.
        route: String,
        /// Its name, or else its place from 0.
        rule: String,
        /// Any of these, in short.
        matches: Vec<String>,
        /// What is done to request and response.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        filters: Vec<String>,
        /// Deadlines as the rule has them; a policy may cut them.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        timeouts: Vec<String>,
        /// When a request is sent again, as the rule has it; a policy may say otherwise. Empty for never after an endpoint
        /// may have seen it.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        retry: String,
        /// What keeps a client at its endpoint.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        session: String,
        /// Where requests go.
        backends: Vec<RouteBackend>,
    }
    /// A backend of a rule.
    RouteBackend {
        /// `NAMESPACE/NAME`; empty where it names nothing that may be used.
        service: String,
        /// Port of the Service.
        port: u16,
        /// Subset of the DestinationRule in force; empty for the whole Service.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        subset: String,
        /// Its share is this of the sum of all weights.
        weight: u32,
        /// What is done beside the rule's filters.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        filters: Vec<String>,
        /// Why its share can't be served.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        problem: String,
        /// In a test: what holds for the request there, the rule's word included, and from which object.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        in_force: Vec<InForce>,
        /// In a test: the request as it is sent there.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        request: Option<RequestHead>,
        /// In a test: its endpoints.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        endpoints: Vec<Endpoint>,
    }
    /// `POST /v1/routes/test`: what would become of this request?
    RouteQuestion {
        /// `pod/NAMESPACE/NAME`, or without namespace one of `default`.
        from: String,
        /// What is asked for. The host is an address or a Service as the pod would name it.
        url: String,
        /// GET unless it is given, or POST for a gRPC call.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        method: Option<String>,
        /// `name: value`.
        #[serde(default)]
        headers: Vec<String>,
        /// A gRPC call: HTTP/2, with its content type.
        #[serde(default)]
        grpc: bool,
    }
    /// What becomes of a request.
    RouteAnswer {
        /// `NAMESPACE/NAME` of the pod.
        from: String,
        /// What the pod dials; empty where no Service has the name.
        address: String,
        /// What that stands for.
        destination: String,
        /// What happens.
        outcome: RouteOutcome,
        /// The same in a sentence.
        message: String,
        /// The request as the pod sends it.
        request: RequestHead,
        /// The rule that it goes by.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rule: Option<RouteRule>,
        /// What of the rule matched.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        matched: String,
        /// What the agent answers itself.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        answer: Option<OwnAnswer>,
        /// Where it may go.
        backends: Vec<RouteBackend>,
        /// Every match on this port, in order of precedence.
        considered: Vec<ConsideredMatch>,
        /// What else is worth knowing.
        notes: Vec<String>,
        /// Warnings of routes that name the Service.
        warnings: Vec<Warning>,
    }
    /// A request's head.
    RequestHead {
        /// Method.
        method: String,
        /// Path and query.
        path: String,
        /// `name: value`.
        headers: Vec<String>,
    }
    /// An answer of the agent's own.
    OwnAnswer {
        /// HTTP status.
        status: u16,
        /// `name: value`.
        headers: Vec<String>,
    }
    /// One match and how it stands to the request.
    ConsideredMatch {
        /// `KIND NAMESPACE/NAME`.
        route: String,
        /// Rule's name, or else its place from 0.
        rule: String,
        /// The match, in short.
        asks: String,
        /// `taken`, `later` (another goes before it) or `no`.
        verdict: String,
        /// Parts that don't hold.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        misfits: Vec<String>,
    }
}

/// What happens to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RouteOutcome {
    /// It goes where a rule says.
    Routed,
    /// The agent answers it.
    Answered,
    /// The Service has routes and none matches.
    NoMatch,
    /// No route: it goes to any endpoint of the Service.
    Balanced,
    /// To a pod's own address, which isn't routed.
    Direct,
    /// To an address that nothing knows, as it is.
    PassedThrough,
    /// The connection is refused.
    Refused,
}
