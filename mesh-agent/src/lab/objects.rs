//! Kubernetes objects for the directory source, from typed builders, and the directory itself.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::pod::Pod;

/// One document of a file.
#[derive(Clone, Debug)]
pub struct Object(pub Value);

/// Told a file's name and text.
pub type Observer = fn(&str, &str);

static OBSERVER: OnceLock<Observer> = OnceLock::new();

/// A directory of YAML files that agents watch.
pub struct MeshDir {
    path: PathBuf,
}

impl MeshDir {
    /// Has `observer` told, before agents are, of every file that this process writes to any of them. The first one stays.
    pub fn observe(observer: Observer) {
        let _ = OBSERVER.set(observer);
    }

    pub(super) fn create(path: PathBuf) -> Result<Self> {
        fs::create_dir_all(&path).with_context(|| format!("making {}", path.display()))?;
        Ok(Self { path })
    }

    /// As in `--source dir:PATH`.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes one file with these objects, atomically.
    pub fn write(&self, file: &str, objects: impl IntoIterator<Item = Object>) -> Result<()> {
        let mut text = String::new();
        for object in objects {
            text.push_str("---\n");
            text.push_str(&serde_yaml_ng::to_string(&object.0).context("writing YAML")?);
        }
        self.write_text(file, &text)
    }

    /// Writes one file with this text, atomically.
    pub fn write_text(&self, file: &str, text: &str) -> Result<()> {
        static WRITTEN: AtomicU64 = AtomicU64::new(0);
        if let Some(observer) = OBSERVER.get() {
            observer(file, text);
        }
        let path = self.path.join(file);
        // The dot and the ending keep the source from reading it before it is whole; the number, two
        // threads that write the same file from taking each other's.
        let number = WRITTEN.fetch_add(1, Ordering::Relaxed);
        let partial = self.path.join(format!(".{file}.{number}.partial"));
        fs::write(&partial, text)
            .and_then(|()| fs::rename(&partial, &path))
            .with_context(|| format!("writing {}", path.display()))
    }

    /// Removes one file.
    pub fn remove(&self, file: &str) -> Result<()> {
        fs::remove_file(self.path.join(file)).with_context(|| format!("removing {file}"))
    }
}

macro_rules! builder {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug)]
        pub struct $name(Value);

        impl From<$name> for Object {
            fn from(object: $name) -> Self {
                Object(object.0)
            }
        }

        impl $name {
            /// Adds a label.
            pub fn label(mut self, key: &str, value: &str) -> Self {
                self.0["metadata"]["labels"][key] = value.into();
                self
            }

            /// Adds an annotation.
            pub fn annotation(mut self, key: &str, value: &str) -> Self {
                self.0["metadata"]["annotations"][key] = value.into();
                self
            }
        }
    };
}

builder! {
    /// A Namespace.
    NamespaceObject
}
builder! {
    /// A Node.
    NodeObject
}
builder! {
    /// A Pod.
    PodObject
}
builder! {
    /// A Service.
    ServiceObject
}
builder! {
    /// An EndpointSlice.
    SliceObject
}
builder! {
    /// An HTTPRoute.
    HttpRouteObject
}
builder! {
    /// A DestinationRule.
    DestinationRuleObject
}
builder! {
    /// A TrafficPolicy.
    TrafficPolicyObject
}

impl NamespaceObject {
    /// Without labels: its pods aren't enrolled.
    pub fn new(name: &str) -> Self {
        Self(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}))
    }

    /// Enrols its pods.
    pub fn enabled(self) -> Self {
        self.label("mesh-agent.dev/dataplane-mode", "enabled")
    }
}

impl NodeObject {
    /// A Node with its name only.
    pub fn new(name: &str) -> Self {
        Self(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}))
    }

    /// One of `status.addresses`.
    pub fn address(mut self, address: impl Into<IpAddr>) -> Self {
        let address = json!({"type": "InternalIP", "address": address.into()});
        push(&mut self.0["status"]["addresses"], address);
        self
    }
}

impl PodObject {
    /// The pod as its agent needs it: netns, node, addresses; label `app` from its name.
    pub fn of(pod: &Pod, namespace: &str) -> Self {
        let ips: Vec<_> = pod.addresses().iter().map(|ip| json!({"ip": ip})).collect();
        Self(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": pod.name(), "namespace": namespace, "labels": {"app": pod.name()},
                "annotations": {"mesh-agent.dev/netns": pod.netns().path()},
            },
            "spec": {"nodeName": pod.node_name(), "containers": [{"name": "main", "image": "none"}]},
            "status": {"phase": "Running", "podIP": pod.v4(), "podIPs": ips},
        }))
    }

    /// `spec.serviceAccountName`
    pub fn service_account(mut self, name: &str) -> Self {
        self.0["spec"]["serviceAccountName"] = name.into();
        self
    }

    /// A named container port.
    pub fn port(mut self, name: &str, port: u16) -> Self {
        push(&mut self.0["spec"]["containers"][0]["ports"], json!({"name": name, "containerPort": port}));
        self
    }

    /// A field of its container.
    pub fn container(mut self, field: &str, value: Value) -> Self {
        self.0["spec"]["containers"][0][field] = value;
        self
    }

    /// `spec.hostNetwork: true`
    pub fn host_network(mut self) -> Self {
        self.0["spec"]["hostNetwork"] = true.into();
        self
    }

    /// `status.phase`
    pub fn phase(mut self, phase: &str) -> Self {
        self.0["status"]["phase"] = phase.into();
        self
    }

    /// Enrols it, or with `false` keeps it out, whatever its namespace says.
    pub fn enabled(self, yes: bool) -> Self {
        self.label("mesh-agent.dev/dataplane-mode", if yes { "enabled" } else { "none" })
    }

    /// `open` or `closed`.
    pub fn fail_mode(self, mode: &str) -> Self {
        self.annotation("mesh-agent.dev/fail-mode", mode)
    }
}

impl ServiceObject {
    /// Without addresses and ports.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self(json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": namespace},
            "spec": {"selector": {"app": name}},
        }))
    }

    /// Adds a cluster address.
    pub fn vip(mut self, vip: impl Into<IpAddr>) -> Self {
        let vip = json!(vip.into());
        if self.0["spec"]["clusterIP"].is_null() {
            self.0["spec"]["clusterIP"] = vip.clone();
        }
        push(&mut self.0["spec"]["clusterIPs"], vip);
        self
    }

    /// `clusterIP: None`
    pub fn headless(mut self) -> Self {
        self.0["spec"]["clusterIP"] = "None".into();
        self
    }

    /// Adds a port whose slice port has the same name.
    pub fn port(mut self, name: &str, port: u16) -> Self {
        push(&mut self.0["spec"]["ports"], json!({"name": name, "port": port, "protocol": "TCP"}));
        self
    }

    /// Adds a UDP port whose slice port has the same name.
    pub fn udp_port(mut self, name: &str, port: u16) -> Self {
        push(&mut self.0["spec"]["ports"], json!({"name": name, "port": port, "protocol": "UDP"}));
        self
    }

    /// `appProtocol` of the port added last.
    pub fn app_protocol(mut self, protocol: &str) -> Self {
        self.last_port()["appProtocol"] = protocol.into();
        self
    }

    /// `targetPort` of the port added last: a number or a container port's name.
    pub fn target_port(mut self, port: impl Into<Value>) -> Self {
        self.last_port()["targetPort"] = port.into();
        self
    }

    /// `sessionAffinity: ClientIP`
    pub fn client_ip_affinity(mut self) -> Self {
        self.0["spec"]["sessionAffinity"] = "ClientIP".into();
        self
    }

    /// For how long a quiet client keeps its endpoint, in seconds.
    pub fn affinity_timeout(mut self, seconds: u32) -> Self {
        self.0["spec"]["sessionAffinityConfig"] = json!({"clientIP": {"timeoutSeconds": seconds}});
        self
    }

    /// How endpoints are chosen, as the annotation names it.
    pub fn load_balancer(self, policy: &str) -> Self {
        self.annotation("mesh-agent.dev/load-balancer", policy)
    }

    fn last_port(&mut self) -> &mut Value {
        let ports = &mut self.0["spec"]["ports"];
        let last = ports.as_array().map_or(0, Vec::len).saturating_sub(1);
        if ports.is_null() {
            *ports = json!([{}]);
        }
        &mut ports[last]
    }
}

impl SliceObject {
    /// An IPv4 slice of a service, without ports and endpoints. `name` tells slices of one service apart.
    pub fn new(namespace: &str, service: &str, name: &str) -> Self {
        Self(json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {
                "name": name, "namespace": namespace, "labels": {"kubernetes.io/service-name": service},
            },
            "addressType": "IPv4", "ports": [], "endpoints": [],
        }))
    }

    /// Makes it an IPv6 slice; to be called before endpoints are added.
    pub fn v6(mut self) -> Self {
        self.0["addressType"] = "IPv6".into();
        self
    }

    /// Adds a port.
    pub fn port(mut self, name: &str, port: u16) -> Self {
        push(&mut self.0["ports"], json!({"name": name, "port": port, "protocol": "TCP"}));
        self
    }

    /// Adds a UDP port.
    pub fn udp_port(mut self, name: &str, port: u16) -> Self {
        push(&mut self.0["ports"], json!({"name": name, "port": port, "protocol": "UDP"}));
        self
    }

    /// Adds an endpoint.
    pub fn endpoint(mut self, endpoint: EndpointObject) -> Self {
        push(&mut self.0["endpoints"], endpoint.0);
        self
    }

    /// Adds these pods as ready endpoints.
    pub fn pods<'a>(self, namespace: &str, pods: impl IntoIterator<Item = &'a Pod>) -> Self {
        let v6 = self.0["addressType"] == "IPv6";
        pods.into_iter().fold(self, |slice, pod| slice.endpoint(EndpointObject::of(pod, namespace, v6)))
    }
}

/// One endpoint of a slice.
#[derive(Clone, Debug)]
pub struct EndpointObject(Value);

impl EndpointObject {
    /// An address that no Pod object stands behind.
    pub fn address(ip: impl Into<IpAddr>) -> Self {
        Self(json!({"addresses": [ip.into()], "conditions": {"ready": true}}))
    }

    /// A pod, ready.
    pub fn of(pod: &Pod, namespace: &str, v6: bool) -> Self {
        let mut endpoint = Self::address(pod.addresses()[usize::from(v6)]);
        endpoint.0["targetRef"] = json!({"kind": "Pod", "namespace": namespace, "name": pod.name()});
        if let Some(node) = pod.node_name() {
            endpoint.0["nodeName"] = node.into();
        }
        endpoint
    }

    /// Sets all three conditions.
    pub fn conditions(mut self, ready: bool, serving: bool, terminating: bool) -> Self {
        self.0["conditions"] = json!({"ready": ready, "serving": serving, "terminating": terminating});
        self
    }
}

impl HttpRouteObject {
    /// For every port of a Service of its namespace; without rules.
    pub fn new(namespace: &str, name: &str, service: &str) -> Self {
        Self(json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"parentRefs": [{"group": "", "kind": "Service", "name": service}]},
        }))
    }

    /// Adds a rule, as the API spells it.
    pub fn rule(mut self, rule: Value) -> Self {
        push(&mut self.0["spec"]["rules"], rule);
        self
    }
}

impl DestinationRuleObject {
    /// For a host, with its `trafficPolicy`.
    pub fn new(namespace: &str, host: &str, traffic_policy: &Value) -> Self {
        Self(json!({
            "apiVersion": "networking.istio.io/v1", "kind": "DestinationRule",
            "metadata": {"name": host, "namespace": namespace},
            "spec": {"host": host, "trafficPolicy": traffic_policy},
        }))
    }
}

impl TrafficPolicyObject {
    /// For one of `targetRefs`; without any policy.
    pub fn new(namespace: &str, name: &str, target: &Value) -> Self {
        Self(json!({
            "apiVersion": "mesh-agent.dev/v1alpha1", "kind": "TrafficPolicy",
            "metadata": {"name": name, "namespace": namespace}, "spec": {"targetRefs": [target]},
        }))
    }

    /// Sets one group of the policy, as the API spells it.
    pub fn group(mut self, name: &str, group: Value) -> Self {
        self.0["spec"][name] = group;
        self
    }
}

fn push(list: &mut Value, item: Value) {
    match list.as_array_mut() {
        Some(items) => items.push(item),
        None => *list = json!([item]),
    }
}
