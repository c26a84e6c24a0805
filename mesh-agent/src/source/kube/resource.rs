//! Which resources are watched, in which of their versions, and what of each is wanted.
//!
//! `objects::registry` says what an apiVersion and kind mean; here is how they are asked for. Versions stand newest first. A
//! resource of a CRD may not be installed; what is built into the API server is always there.

use crate::objects::Kind;

/// A resource of the API.
#[derive(Debug, PartialEq, Eq)]
pub struct Resource {
    /// Empty for the core group.
    pub group: &'static str,
    /// Those that are read, the newest first.
    pub versions: &'static [&'static str],
    /// As in the path of a request.
    pub plural: &'static str,
    /// As in `kind:`.
    pub kind: &'static str,
    /// What its objects are here; none where only their being there is told of, since they have no effect.
    pub reads: Option<Kind>,
    /// True for what is no CRD.
    pub built_in: bool,
}

const GATEWAY: &str = "gateway.networking.k8s.io";

const fn built_in(group: &'static str, plural: &'static str, kind: Kind) -> Resource {
    Resource { group, versions: &["v1"], plural, kind: kind.name(), reads: Some(kind), built_in: true }
}

const fn custom(
    group: &'static str,
    versions: &'static [&'static str],
    plural: &'static str,
    kind: Kind,
) -> Resource {
    Resource { group, versions, plural, kind: kind.name(), reads: Some(kind), built_in: false }
}

const fn without_effect(
    group: &'static str,
    versions: &'static [&'static str],
    plural: &'static str,
    kind: &'static str,
) -> Resource {
    Resource { group, versions, plural, kind, reads: None, built_in: false }
}

/// Pods, which are watched in two parts.
static PODS: Resource = built_in("", "pods", Kind::Pod);

/// ConfigMaps, which are watched by name.
static CONFIG_MAPS: Resource = built_in("", "configmaps", Kind::ConfigMap);

/// Every other. No ServiceAccounts: nothing depends on their objects.
static OTHERS: [Resource; 18] = [
    built_in("", "namespaces", Kind::Namespace),
    built_in("", "nodes", Kind::Node),
    built_in("", "services", Kind::Service),
    built_in("discovery.k8s.io", "endpointslices", Kind::EndpointSlice),
    custom(GATEWAY, &["v1", "v1beta1"], "httproutes", Kind::HttpRoute),
    custom(GATEWAY, &["v1"], "grpcroutes", Kind::GrpcRoute),
    custom(GATEWAY, &["v1", "v1alpha3", "v1alpha2"], "tlsroutes", Kind::TlsRoute),
    custom(GATEWAY, &["v1", "v1alpha2"], "tcproutes", Kind::TcpRoute),
    custom(GATEWAY, &["v1", "v1beta1"], "referencegrants", Kind::ReferenceGrant),
    without_effect(GATEWAY, &["v1", "v1alpha2"], "udproutes", "UDPRoute"),
    custom(GATEWAY, &["v1", "v1alpha3"], "backendtlspolicies", Kind::BackendTlsPolicy),
    custom(
        "gateway.networking.x-k8s.io",
        &["v1alpha1"],
        "xbackendtrafficpolicies",
        Kind::BackendTrafficPolicy,
    ),
    custom("security.istio.io", &["v1", "v1beta1"], "authorizationpolicies", Kind::AuthorizationPolicy),
    custom("security.istio.io", &["v1", "v1beta1"], "requestauthentications", Kind::RequestAuthentication),
    custom("security.istio.io", &["v1", "v1beta1"], "peerauthentications", Kind::PeerAuthentication),
    custom("networking.istio.io", &["v1", "v1beta1", "v1alpha3"], "destinationrules", Kind::DestinationRule),
    custom("networking.istio.io", &["v1", "v1beta1", "v1alpha3"], "serviceentries", Kind::ServiceEntry),
    custom("mesh-agent.dev", &["v1alpha1"], "trafficpolicies", Kind::TrafficPolicy),
];

impl Resource {
    /// `PLURAL.GROUP`, or `PLURAL` of the core group: as `kubectl get` takes it.
    pub fn name(&self) -> String {
        if self.group.is_empty() { self.plural.to_owned() } else { format!("{}.{}", self.plural, self.group) }
    }

    /// As in `apiVersion:`.
    pub fn api_version(&self, version: &str) -> String {
        if self.group.is_empty() { version.to_owned() } else { format!("{}/{version}", self.group) }
    }

    /// Of its collection in a namespace, or over all of them.
    pub fn path(&self, version: &str, namespace: Option<&str>) -> String {
        let root = if self.group.is_empty() { "api" } else { "apis" };
        let namespace = namespace.map(|namespace| format!("/namespaces/{namespace}")).unwrap_or_default();
        format!("/{root}/{}{namespace}/{}", self.api_version(version), self.plural)
    }
}

/// One watch: of a resource, or of a part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Feed {
    /// Of what.
    pub resource: &'static Resource,
    /// Which part of it; all if none.
    pub fields: Option<String>,
    /// In which namespace; in all if none.
    pub namespace: Option<String>,
    /// The pods in it are those of the agent's own node.
    pub here: bool,
    /// Label of metrics: the plural, or what part of it.
    pub name: &'static str,
}

/// All watches of an agent of `node`; an empty name is no node's.
pub fn feeds(node: &str) -> Vec<Feed> {
    let pods = |fields: String, here: bool, name: &'static str| Feed {
        resource: &PODS,
        fields: Some(fields),
        namespace: None,
        here,
        name,
    };
    let mut feeds = match node {
        // Those without a node have no address and run nothing.
        "" => vec![pods("spec.nodeName!=".to_owned(), false, "pods")],
        node => vec![
            pods(format!("spec.nodeName={node}"), true, "pods"),
            pods(format!("spec.nodeName!={node},spec.nodeName!="), false, "pods_elsewhere"),
        ],
    };
    feeds.extend(OTHERS.iter().map(whole));
    feeds.push(config_maps());
    feeds
}

/// The place of the ConfigMaps; each of them is a part of it.
pub fn config_maps() -> Feed {
    whole(&CONFIG_MAPS)
}

fn whole(resource: &'static Resource) -> Feed {
    Feed { resource, fields: None, namespace: None, here: false, name: resource.plural }
}

impl Feed {
    /// True for what is watched by name, by a watch for each.
    pub fn is_named(&self) -> bool {
        self.resource.reads == Some(Kind::ConfigMap)
    }

    /// Path of what is watched.
    pub fn path(&self, version: &str) -> String {
        self.resource.path(version, self.namespace.as_deref())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::panic)]
    use std::collections::BTreeSet;

    use super::*;
    use crate::model::ObjectName;
    use crate::objects::{Known, kind_of};

    #[test]
    fn every_version_that_is_asked_for_is_one_that_is_read() {
        for Feed { resource, .. } in feeds("node-a") {
            for version in resource.versions {
                let known = kind_of(&resource.api_version(version), resource.kind);
                match resource.reads {
                    Some(kind) => assert_eq!(known, Known::Read(kind), "{} {version}", resource.name()),
                    None => assert!(matches!(known, Known::NotYet(_)), "{} {version}", resource.name()),
                }
            }
        }
    }

    #[test]
    fn every_kind_with_an_effect_is_watched() {
        let watched: BTreeSet<_> = feeds("").iter().filter_map(|feed| feed.resource.reads).collect();
        let all = Kind::ALL.iter().filter(|kind| **kind != Kind::ServiceAccount);
        assert_eq!(watched.iter().collect::<Vec<_>>(), all.collect::<Vec<_>>());
    }

    #[test]
    fn paths_are_those_of_the_api() {
        fn check(plural: &str, version: &str, path: &str, name: &str) {
            let found = feeds("n").into_iter().find(|feed| feed.resource.plural == plural);
            let Some(feed) = found else { panic!("{plural} isn't watched") };
            assert_eq!((feed.path(version).as_str(), feed.resource.name().as_str()), (path, name));
        }
        check("pods", "v1", "/api/v1/pods", "pods");
        check(
            "httproutes",
            "v1beta1",
            "/apis/gateway.networking.k8s.io/v1beta1/httproutes",
            "httproutes.gateway.networking.k8s.io",
        );
        let one = Feed::config_map(&ObjectName::new("shop", "ca"));
        assert_eq!(one.path("v1"), "/api/v1/namespaces/shop/configmaps");
        assert_eq!(one.fields.as_deref(), Some("metadata.name=ca"));
    }

    #[test]
    fn the_documented_permissions_are_what_is_watched() {
        let text = include_str!("../../../../docs/kube-source.md");
        let rules = text.split("- apiGroups: [").skip(1).filter_map(|rule| rule.split_once(']'));
        let granted: BTreeSet<(String, String)> = rules
            .flat_map(|(group, rest)| {
                let group = group.trim_matches('"').to_owned();
                let listed = rest.split_once("resources: [").and_then(|(_, rest)| rest.split_once(']'));
                let listed = listed.map(|(listed, _)| listed).unwrap_or_default();
                listed.split(", ").map(|plural| (group.clone(), plural.to_owned())).collect::<Vec<_>>()
            })
            .collect();
        let asked = feeds("a").into_iter().map(|feed| feed.resource);
        let asked: BTreeSet<_> = asked.map(|r| (r.group.to_owned(), r.plural.to_owned())).collect();
        assert_eq!(granted, asked);
    }

    #[test]
    fn the_two_parts_of_the_pods_leave_none_out_and_have_none_in_common() {
        let of = |node: &str| -> Vec<_> { feeds(node).into_iter().filter_map(|feed| feed.fields).collect() };
        assert_eq!(of("a"), ["spec.nodeName=a", "spec.nodeName!=a,spec.nodeName!="]);
        assert_eq!(of(""), ["spec.nodeName!="]);
        let names: BTreeSet<_> = feeds("a").iter().map(|feed| feed.name).collect();
        assert_eq!(names.len(), feeds("a").len());
    }
}
