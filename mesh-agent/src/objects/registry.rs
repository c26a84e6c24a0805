//! Which apiVersion and kind mean what: read, known but not supported yet, or unknown.
//!
//! A security object without effect must never look as if it had one, so each says what its absence means.

use super::{Kind, traffic_policy};

/// What an apiVersion and kind are to this version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// Read.
    Read(Kind),
    /// A list of objects under `items`.
    List,
    /// Will be supported; until then the text says what happens.
    NotYet(&'static str),
    /// A kind that is read, in an API version that isn't; the text is the one to use.
    OtherVersion(&'static str),
    /// Other controllers' business; the text says whose.
    Foreign(&'static str),
    /// None of ours.
    Unknown,
}

const ROUTING: &str = "requests go to the service's own endpoints as if it didn't exist";
const GATEWAY: &str = "gateway.networking.k8s.io";

/// What `api_version` and `kind` stand for.
pub fn kind_of(api_version: &str, kind: &str) -> Known {
    let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
    match (group, kind) {
        ("", "Namespace") => read(version, Kind::Namespace),
        ("", "Node") => read(version, Kind::Node),
        ("", "ServiceAccount") => read(version, Kind::ServiceAccount),
        ("", "ConfigMap") => read(version, Kind::ConfigMap),
        ("", "Pod") => read(version, Kind::Pod),
        ("", "Service") => read(version, Kind::Service),
        ("discovery.k8s.io", "EndpointSlice") if version == "v1" => Known::Read(Kind::EndpointSlice),
        ("discovery.k8s.io", "EndpointSlice") => Known::OtherVersion("discovery.k8s.io/v1"),
        (
            "",
            "List" | "NamespaceList" | "NodeList" | "ServiceAccountList" | "ConfigMapList" | "PodList"
            | "ServiceList",
        )
        | ("discovery.k8s.io", "EndpointSliceList") => Known::List,
        ("security.istio.io", "AuthorizationPolicy") => match version {
            "v1" | "v1beta1" => Known::Read(Kind::AuthorizationPolicy),
            _ => Known::OtherVersion("security.istio.io/v1"),
        },
        ("security.istio.io", "RequestAuthentication") => match version {
            "v1" | "v1beta1" => Known::Read(Kind::RequestAuthentication),
            _ => Known::OtherVersion("security.istio.io/v1"),
        },
        ("security.istio.io", "AuthorizationPolicyList" | "RequestAuthenticationList") => Known::List,
        ("security.istio.io", "PeerAuthentication") => match version {
            "v1" | "v1beta1" => Known::Read(Kind::PeerAuthentication),
            _ => Known::OtherVersion("security.istio.io/v1"),
        },
        ("security.istio.io", "PeerAuthenticationList") => Known::List,
        (GATEWAY, "HTTPRoute") => read_of(version, &["v1", "v1beta1"], Kind::HttpRoute),
        (GATEWAY, "GRPCRoute") => read_of(version, &["v1"], Kind::GrpcRoute),
        (GATEWAY, "TLSRoute") => read_of(version, &["v1", "v1alpha2", "v1alpha3"], Kind::TlsRoute),
        (GATEWAY, "TCPRoute") => read_of(version, &["v1", "v1alpha2"], Kind::TcpRoute),
        (GATEWAY, "ReferenceGrant") => read_of(version, &["v1", "v1beta1"], Kind::ReferenceGrant),
        (GATEWAY, "UDPRoute") => Known::NotYet(ROUTING),
        (
            GATEWAY,
            "HTTPRouteList"
            | "GRPCRouteList"
            | "TLSRouteList"
            | "TCPRouteList"
            | "ReferenceGrantList"
            | "BackendTLSPolicyList",
        )
        | ("gateway.networking.x-k8s.io", "XBackendTrafficPolicyList") => Known::List,
        (GATEWAY, "Gateway" | "GatewayClass") => Known::Foreign("a Gateway's own controller"),
        (GATEWAY, "BackendTLSPolicy") => read_of(version, &["v1", "v1alpha3"], Kind::BackendTlsPolicy),
        ("gateway.networking.x-k8s.io", "XBackendTrafficPolicy") if version == "v1alpha1" => {
            Known::Read(Kind::BackendTrafficPolicy)
        }
        ("gateway.networking.x-k8s.io", "XBackendTrafficPolicy") => {
            Known::OtherVersion("gateway.networking.x-k8s.io/v1alpha1")
        }
        ("networking.istio.io", "DestinationRule") => match version {
            "v1" | "v1beta1" | "v1alpha3" => Known::Read(Kind::DestinationRule),
            _ => Known::OtherVersion("networking.istio.io/v1"),
        },
        ("networking.istio.io", "ServiceEntry") => match version {
            "v1" | "v1beta1" | "v1alpha3" => Known::Read(Kind::ServiceEntry),
            _ => Known::OtherVersion("networking.istio.io/v1"),
        },
        ("networking.istio.io", "DestinationRuleList" | "ServiceEntryList") => Known::List,
        ("mesh-agent.dev", "TrafficPolicy") if version == "v1alpha1" => Known::Read(Kind::TrafficPolicy),
        ("mesh-agent.dev", "TrafficPolicy") => Known::OtherVersion(traffic_policy::API_VERSION),
        ("mesh-agent.dev", "TrafficPolicyList") => Known::List,
        _ => Known::Unknown,
    }
}

fn read(version: &str, kind: Kind) -> Known {
    if version == "v1" { Known::Read(kind) } else { Known::OtherVersion("v1") }
}

/// A kind of the Gateway API, in any version that has the fields as they are read.
fn read_of(version: &str, versions: &[&str], kind: Kind) -> Known {
    if versions.contains(&version) {
        Known::Read(kind)
    } else {
        Known::OtherVersion("gateway.networking.k8s.io/v1")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_told_apart_by_group_and_version() {
        fn check(api_version: &str, kind: &str, want: Known) {
            assert_eq!(kind_of(api_version, kind), want, "{api_version} {kind}");
        }
        check("v1", "Pod", Known::Read(Kind::Pod));
        check("v2", "Pod", Known::OtherVersion("v1"));
        check("serving.knative.dev/v1", "Service", Known::Unknown);
        check("discovery.k8s.io/v1", "EndpointSlice", Known::Read(Kind::EndpointSlice));
        check("discovery.k8s.io/v1beta1", "EndpointSlice", Known::OtherVersion("discovery.k8s.io/v1"));
        check("mesh-agent.dev/v1alpha1", "TrafficPolicy", Known::Read(Kind::TrafficPolicy));
        check("mesh-agent.dev/v1", "TrafficPolicy", Known::OtherVersion("mesh-agent.dev/v1alpha1"));
        for version in ["v1", "v1beta1", "v1alpha3"] {
            let api_version = format!("networking.istio.io/{version}");
            check(&api_version, "DestinationRule", Known::Read(Kind::DestinationRule));
            check(&api_version, "ServiceEntry", Known::Read(Kind::ServiceEntry));
        }
        check("networking.istio.io/v2", "DestinationRule", Known::OtherVersion("networking.istio.io/v1"));
        check("v1", "List", Known::List);
        check("v1", "ConfigMap", Known::Read(Kind::ConfigMap));
        check("v1", "Secret", Known::Unknown);
        check("gateway.networking.k8s.io/v1alpha3", "BackendTLSPolicy", Known::Read(Kind::BackendTlsPolicy));
        check(
            "gateway.networking.k8s.io/v1alpha2",
            "BackendTLSPolicy",
            Known::OtherVersion("gateway.networking.k8s.io/v1"),
        );
        check("gateway.networking.k8s.io/v1beta1", "HTTPRoute", Known::Read(Kind::HttpRoute));
        check("gateway.networking.k8s.io/v1alpha2", "TCPRoute", Known::Read(Kind::TcpRoute));
        check(
            "gateway.networking.k8s.io/v1alpha2",
            "GRPCRoute",
            Known::OtherVersion("gateway.networking.k8s.io/v1"),
        );
        for kind in ["Gateway", "GatewayClass"] {
            check("gateway.networking.k8s.io/v1", kind, Known::Foreign("a Gateway's own controller"));
        }
        for version in ["v1", "v1beta1"] {
            let api_version = format!("security.istio.io/{version}");
            check(&api_version, "AuthorizationPolicy", Known::Read(Kind::AuthorizationPolicy));
            check(&api_version, "RequestAuthentication", Known::Read(Kind::RequestAuthentication));
            check(&api_version, "PeerAuthentication", Known::Read(Kind::PeerAuthentication));
        }
        check("security.istio.io/v2", "AuthorizationPolicy", Known::OtherVersion("security.istio.io/v1"));
    }
}
