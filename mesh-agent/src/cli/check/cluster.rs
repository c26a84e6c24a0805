//! Checks of a cluster before mesh-agent is installed: API server, CRDs, the kernel of each node, and who would be in the way.
//!
//! Asks the API server and nobody else; changes nothing. What it may not ask is a warning of its own.

mod others;

use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::ListParams;
use kube::{Api, Client};

use super::local::{check, ok};
use super::{Check, CheckResult, Section};
use crate::cli::cluster::{ClusterArgs, refused};
use crate::cli::{Exit, Failure};
use crate::kernel;
use crate::kube as server;

/// The oldest server that is supported.
const OLDEST: (u32, u32) = (1, 30);
/// What may be asked for at once.
const PAGE: u32 = 500;

/// CRDs that configure the mesh: name, what it is missing without.
const CRDS: [(&str, &str); 11] = [
    ("httproutes.gateway.networking.k8s.io", "routes of HTTP"),
    ("grpcroutes.gateway.networking.k8s.io", "routes of gRPC"),
    ("tcproutes.gateway.networking.k8s.io", "routes of TCP"),
    ("tlsroutes.gateway.networking.k8s.io", "routes of TLS"),
    ("referencegrants.gateway.networking.k8s.io", "routes to other namespaces"),
    ("authorizationpolicies.security.istio.io", "who may call what"),
    ("peerauthentications.security.istio.io", "where mutual TLS is required"),
    ("requestauthentications.security.istio.io", "tokens"),
    ("destinationrules.networking.istio.io", "balancing, pools, outlier detection"),
    ("serviceentries.networking.istio.io", "services outside of the cluster"),
    ("trafficpolicies.mesh-agent.dev", "rate limits, faults, fallbacks, circuit breaking"),
];

/// Everything that can be said from outside.
///
/// # Errors
/// There is no cluster, or it doesn't answer.
pub(super) fn sections(args: &ClusterArgs) -> Result<Vec<Section>, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let config = server::config_of(args.context.as_deref()).await?;
        let client = server::client(&config)?;
        let all = async {
            Ok(vec![
                Section::new("api server", vec![version(&client).await?]),
                Section::new("nodes", nodes(&client).await),
                Section::new("kinds", kinds(&client).await),
                Section::new("others", others::checks(&client).await),
            ])
        };
        let silent = |_| Failure::message(Exit::Unreachable, "the API server didn't answer in time");
        tokio::time::timeout(server::DEADLINE, all).await.map_err(silent)?
    })
}

async fn version(client: &Client) -> Result<Check, Failure> {
    let version = client.apiserver_version().await;
    let version = version.map_err(|error| refused("the API server's version can't be asked", error))?;
    let found = kernel::parse_release(&format!("{}.{}", version.major, version.minor));
    let name = "API server is Kubernetes 1.30 or newer";
    Ok(match found.is_some_and(|found| found >= OLDEST) {
        true => ok(name, version.git_version),
        false => {
            let hint = "older servers aren't tested: topology hints, traffic distribution and admission policies may be missing";
            check(CheckResult::Warn, name, version.git_version, hint)
        }
    })
}

async fn nodes(client: &Client) -> Vec<Check> {
    let listed = Api::<Node>::all(client.clone()).list(&ListParams::default().limit(PAGE)).await;
    match listed {
        Ok(nodes) => nodes.items.into_iter().map(node).collect(),
        Err(error) => vec![unasked("nodes run Linux 6.1 or newer", &error)],
    }
}

fn node(node: Node) -> Check {
    let name = node.metadata.name.unwrap_or_default();
    let Some(info) = node.status.and_then(|status| status.node_info) else {
        return check(
            CheckResult::Warn,
            format!("node {name}"),
            "says nothing of itself",
            "is its kubelet up?",
        );
    };
    let detail =
        format!("{} {}, {}", info.operating_system, info.kernel_version, info.container_runtime_version);
    if info.operating_system != "linux" {
        let hint = "no agent runs there; its pods are reached in plain text";
        return check(CheckResult::Warn, format!("node {name}"), detail, hint);
    }
    match kernel::parse_release(&info.kernel_version).is_some_and(|found| found >= kernel::OLDEST) {
        true => ok(format!("node {name}"), detail),
        false => check(CheckResult::Fail, format!("node {name}"), detail, kernel::NEEDED_VERSION),
    }
}

async fn kinds(client: &Client) -> Vec<Check> {
    let crds = Api::<CustomResourceDefinition>::all(client.clone());
    let listed = crds.list_metadata(&ListParams::default()).await;
    let names: Vec<String> = match listed {
        Ok(list) => list.items.into_iter().filter_map(|crd| crd.metadata.name).collect(),
        Err(error) => return vec![unasked("kinds that configure the mesh", &error)],
    };
    let one = |(name, what): (&str, &str)| match names.iter().any(|have| have == name) {
        true => ok(name, what),
        false => {
            let hint = "fine if you don't need it; installed later it is read at once, without a restart";
            check(CheckResult::Warn, name, format!("not installed: {what}"), hint)
        }
    };
    CRDS.into_iter().map(one).collect()
}

/// A question that the API server doesn't answer.
fn unasked(name: &str, error: &kube::Error) -> Check {
    let why = server::Failure::of(error).describe();
    check(
        CheckResult::Warn,
        name,
        format!("not known: {why}"),
        "ask as somebody who may list it in all namespaces",
    )
}
