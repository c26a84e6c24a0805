//! Other meshes and networks of the cluster, as far as they and mesh-agent would be in each other's way.
//!
//! They are known by the names that their own installers give.

use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::ListParams;
use kube::core::PartialObjectMeta;
use kube::{Api, Client};

use super::{PAGE, unasked};
use crate::cli::check::local::{check, ok};
use crate::cli::check::{Check, CheckResult};

/// What the API server says of others.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Names of DaemonSets.
    pub daemons: Vec<String>,
    /// Names of webhooks that change pods.
    pub webhooks: Vec<String>,
    /// Data of Cilium's ConfigMap.
    pub cilium: Option<std::collections::BTreeMap<String, String>>,
}

pub(super) async fn checks(client: &Client) -> Vec<Check> {
    match look(client).await {
        Ok(found) => judge(&found),
        Err(error) => vec![unasked("no other mesh is in the way", &error)],
    }
}

async fn look(client: &Client) -> Result<Found, kube::Error> {
    let some = ListParams::default().limit(PAGE);
    let daemons = Api::<DaemonSet>::all(client.clone()).list_metadata(&some).await?;
    let webhooks = Api::<MutatingWebhookConfiguration>::all(client.clone()).list_metadata(&some).await?;
    let (daemons, webhooks) = (names(daemons.items), names(webhooks.items));
    let mut cilium = None;
    if daemons.iter().any(|name| name == "cilium") {
        let all = Api::<ConfigMap>::all(client.clone());
        let config = all.list(&ListParams::default().fields("metadata.name=cilium-config")).await?;
        cilium = config.items.into_iter().next().and_then(|config| config.data);
    }
    Ok(Found { daemons, webhooks, cilium })
}

fn names<K>(objects: Vec<PartialObjectMeta<K>>) -> Vec<String> {
    objects.into_iter().filter_map(|object| object.metadata.name).collect()
}

/// What that means.
pub(super) fn judge(found: &Found) -> Vec<Check> {
    let daemon = |wanted: &str| found.daemons.iter().any(|name| name == wanted);
    let webhook = |wanted: &str| found.webhooks.iter().any(|name| name.starts_with(wanted));
    vec![
        sidecars("Istio sidecars", webhook("istio-sidecar-injector"), "istio-injection"),
        sidecars("Linkerd sidecars", webhook("linkerd-proxy-injector"), "linkerd.io/inject"),
        ambient(daemon("ztunnel") || daemon("istio-cni-node")),
        cilium(found, daemon("cilium")),
    ]
}

fn sidecars(name: &str, there: bool, label: &str) -> Check {
    let name = format!("{name} aren't injected");
    if !there {
        return ok(name, "");
    }
    let hint = format!(
        "enrol no pod that has one: keep {label} and mesh-agent.dev/dataplane-mode on different namespaces"
    );
    check(CheckResult::Warn, name, "the injector is installed", hint)
}

fn ambient(there: bool) -> Check {
    let name = "Istio's ambient mode isn't installed";
    if !there {
        return ok(name, "");
    }
    let hint = "no pod can be in both: keep istio.io/dataplane-mode and mesh-agent.dev/dataplane-mode on different namespaces; \
                they reach each other by HBONE";
    check(CheckResult::Warn, name, "ztunnel or istio-cni is installed", hint)
}

/// Where Cilium balances at connect(2) itself, the agent would see the endpoint that it chose in place of the service.
fn cilium(found: &Found, there: bool) -> Check {
    let name = "Cilium leaves connect(2) in pods alone";
    let value = |key: &str| found.cilium.as_ref().and_then(|data| data.get(key)).map(String::as_str);
    if !there {
        return ok(name, "Cilium isn't installed");
    }
    let balances = value("bpf-lb-sock") == Some("true") || value("kube-proxy-replacement") == Some("true");
    match (balances, value("bpf-lb-sock-hostns-only")) {
        (false, _) => ok(name, "its socket load balancing is off"),
        (true, Some("true")) => ok(name, "socketLB.hostNamespaceOnly"),
        (true, _) => check(
            CheckResult::Fail,
            name,
            "its socket load balancing replaces service addresses before the agent sees them",
            "set socketLB.hostNamespaceOnly=true in Cilium's Helm values",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results(found: &Found) -> Vec<CheckResult> {
        judge(found).iter().map(|check| check.result).collect()
    }

    #[test]
    fn a_cluster_without_others_is_well() {
        assert_eq!(results(&Found::default()), [CheckResult::Ok; 4]);
    }

    #[test]
    fn each_other_mesh_is_told_by_its_name() {
        let found = Found {
            daemons: vec!["ztunnel".into(), "kube-proxy".into()],
            webhooks: vec![
                "istio-sidecar-injector-1-24".into(),
                "linkerd-proxy-injector-webhook-config".into(),
            ],
            cilium: None,
        };
        assert_eq!(results(&found)[..3], [CheckResult::Warn; 3]);
    }

    #[test]
    fn cilium_is_fine_where_it_leaves_pods_connections_alone() {
        let with = |data: &[(&str, &str)]| {
            let cilium = data.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
            results(&Found { daemons: vec!["cilium".into()], webhooks: vec![], cilium: Some(cilium) })[3]
        };
        assert_eq!(with(&[]), CheckResult::Ok);
        assert_eq!(with(&[("kube-proxy-replacement", "false")]), CheckResult::Ok);
        assert_eq!(with(&[("kube-proxy-replacement", "true")]), CheckResult::Fail);
        assert_eq!(with(&[("bpf-lb-sock", "true"), ("bpf-lb-sock-hostns-only", "false")]), CheckResult::Fail);
        let both = [("kube-proxy-replacement", "true"), ("bpf-lb-sock-hostns-only", "true")];
        assert_eq!(with(&both), CheckResult::Ok);
    }
}
