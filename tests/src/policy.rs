//! Policies for the services of a [`Shop`], written as YAML, and the wait until they are in force.
//!
//! A policy is written before its service, or together with a Service of no other use, so that what shows the one shows
//! the other: counts aren't spent on finding out.

use anyhow::{Context, Result};
use mesh_agent::lab::{Object, ServiceObject};
use serde_json::{Value, json};

use crate::shop::{HttpService, NAMESPACE, Shop};

/// A TrafficPolicy of the service's name. Without `targetRefs` in `spec` it is attached to the service.
pub fn traffic_policy(service: &str, spec: &str) -> Result<Object> {
    let mut spec = yaml(spec)?;
    if spec["targetRefs"].is_null() {
        spec["targetRefs"] = json!([{"kind": "Service", "name": service}]);
    }
    let metadata = json!({"name": service, "namespace": NAMESPACE});
    let api = "mesh-agent.dev/v1alpha1";
    Ok(Object(json!({"apiVersion": api, "kind": "TrafficPolicy", "metadata": metadata, "spec": spec})))
}

/// A DestinationRule of the service's name for its host, in `namespace`; `policy` is its `trafficPolicy`.
pub fn destination_rule(namespace: &str, service: &str, policy: &str) -> Result<Object> {
    let metadata = json!({"name": service, "namespace": namespace});
    let host = format!("{service}.{NAMESPACE}.svc.cluster.local");
    let spec = json!({"host": host, "trafficPolicy": yaml(policy)?});
    let api = "networking.istio.io/v1";
    Ok(Object(json!({"apiVersion": api, "kind": "DestinationRule", "metadata": metadata, "spec": spec})))
}

fn yaml(text: &str) -> Result<Value> {
    serde_yaml_ng::from_str(text).with_context(|| format!("reading {text:?}"))
}

impl Shop {
    /// [`Shop::http`] under a TrafficPolicy with this `spec`.
    pub fn http_under_policy(&self, name: &str, count: usize, spec: &str) -> Result<HttpService> {
        self.topology.mesh().write(&format!("policy-{name}.yaml"), [traffic_policy(name, spec)?])?;
        self.http(name, "http", count)
    }

    /// [`Shop::http`] under a DestinationRule with this `trafficPolicy`.
    pub fn http_under_rule(
        &self,
        name: &str,
        port_name: &str,
        count: usize,
        policy: &str,
    ) -> Result<HttpService> {
        let rule = destination_rule(NAMESPACE, name, policy)?;
        self.topology.mesh().write(&format!("policy-{name}.yaml"), [rule])?;
        self.http(name, port_name, count)
    }

    /// Writes the file of the service's policies anew, and waits until the agent goes by it.
    pub fn change_policies(&self, service: &str, objects: impl IntoIterator<Item = Object>) -> Result<()> {
        let marker = format!("{service}-{}", self.port());
        let marked = Object::from(ServiceObject::new(NAMESPACE, &marker).headless().port("http", 80));
        let objects = objects.into_iter().chain([marked]);
        self.topology.mesh().write(&format!("policy-{service}.yaml"), objects)?;
        self.wait_known(&marker)
    }
}
