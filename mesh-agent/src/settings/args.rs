//! The flags of `mesh-agent run`, which are the keys of the configuration file too.

use std::fmt;
use std::path::PathBuf;

use serde::Deserialize;
use serde::de::{Deserializer, Error, Visitor};

use crate::ext_authz::ExtensionProvider;

/// Flags of `run`. Each is also a key of the configuration file (camelCase) and an environment variable
/// (MESH_AGENT_ and the flag in capitals): a flag beats the environment, the environment beats the file.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RunArgs {
    /// Configuration file [default: /etc/mesh-agent/config.yaml if it is there]
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    pub config: Option<PathBuf>,

    /// Whose pods this agent serves [default: the host's name]
    #[arg(long, value_name = "NAME")]
    #[serde(deserialize_with = "scalar")]
    pub node_name: Option<String>,

    /// Where the objects come from: dir:PATH, a directory of YAML files, or kube, the API server [default: kube in a cluster]
    #[arg(long, value_name = "SOURCE")]
    #[serde(deserialize_with = "scalar")]
    pub source: Option<String>,

    /// Directory of the admin socket, one per agent [default: /run/mesh-agent]
    #[arg(long, value_name = "DIR")]
    #[serde(deserialize_with = "scalar")]
    pub state_dir: Option<String>,

    /// Where maps and links are pinned, one per agent [default: /sys/fs/bpf/mesh-agent]
    #[arg(long, value_name = "DIR")]
    #[serde(deserialize_with = "scalar")]
    pub bpffs_dir: Option<String>,

    /// Subtree at which the programs attach [default: the cgroup2 root]
    #[arg(long, value_name = "PATH")]
    #[serde(deserialize_with = "scalar")]
    pub cgroup: Option<String>,

    /// The host's /proc, in which pods' processes are found [default: /proc]
    #[arg(long, value_name = "DIR")]
    #[serde(deserialize_with = "scalar")]
    pub proc_dir: Option<String>,

    /// Address of /metrics, /livez and /readyz [default: 0.0.0.0:15020]
    #[arg(long, value_name = "IP:PORT")]
    #[serde(deserialize_with = "scalar")]
    pub metrics_address: Option<String>,

    /// Data path threads [default: one per core, at most 4]
    #[arg(long, value_name = "N")]
    #[serde(deserialize_with = "scalar")]
    pub workers: Option<String>,

    /// What pods without the annotation do while no agent serves: closed or open [default: closed]
    #[arg(long, value_name = "MODE")]
    #[serde(deserialize_with = "scalar")]
    pub fail_mode: Option<String>,

    /// Destinations that nothing knows: allowAny or registryOnly [default: allowAny]
    #[arg(long, value_name = "POLICY")]
    #[serde(deserialize_with = "scalar")]
    pub outbound_traffic_policy: Option<String>,

    /// Servers that are asked for the names of ServiceEntries [default: /etc/resolv.conf]
    #[arg(long, value_name = "FILE")]
    #[serde(deserialize_with = "scalar")]
    pub resolv_conf: Option<String>,

    /// Passwords that TrafficPolicies name: a directory for each namespace, a file for each password [default: /etc/mesh-agent/secrets]
    #[arg(long, value_name = "DIR")]
    #[serde(deserialize_with = "scalar")]
    pub secrets_dir: Option<String>,

    /// Between pods of this node: direct (the agent stands between, in plain text) or mtls [default: direct]
    #[arg(long, value_name = "HOW")]
    #[serde(deserialize_with = "scalar")]
    pub same_node: Option<String>,

    /// Whose connections to services that need no agent are balanced in the kernel: enrolled pods', all processes' of the node, or nobody's (off) [default: enrolled]
    #[arg(long, value_name = "WHOSE")]
    #[serde(deserialize_with = "scalar")]
    pub kernel_services: Option<String>,

    /// How AuthorizationPolicies read paths: NONE, BASE, MERGE_SLASHES or DECODE_AND_MERGE_SLASHES [default: BASE]
    #[arg(long, value_name = "HOW")]
    #[serde(deserialize_with = "scalar")]
    pub path_normalization: Option<String>,

    /// Proxies before the client whose X-Forwarded-For is believed, for remoteIpBlocks [default: 0]
    #[arg(long, value_name = "N")]
    #[serde(deserialize_with = "scalar")]
    pub trusted_hops: Option<String>,

    /// Header X-Forwarded-Client-Cert: SANITIZE (clients' own is dropped) or SANITIZE_SET (and the agent's comes instead) [default: SANITIZE]
    #[arg(long, value_name = "HOW")]
    #[serde(deserialize_with = "scalar")]
    pub forward_client_cert_details: Option<String>,

    /// Namespace whose policies are the mesh's, as in Istio's meshConfig [default: istio-system]
    #[arg(long, value_name = "NAME")]
    #[serde(deserialize_with = "scalar")]
    pub root_namespace: Option<String>,

    /// Trust domain of SPIFFE identities [default: cluster.local]
    #[arg(long, value_name = "NAME")]
    #[serde(deserialize_with = "scalar")]
    pub trust_domain: Option<String>,

    /// Other trust domains whose identities count as those of the own one, with commas between
    #[arg(long, value_name = "NAMES")]
    #[serde(deserialize_with = "list")]
    pub trust_domain_aliases: Option<String>,

    /// Who signs certificates: dev, files:DIR, istio:https://HOST:PORT or spiffe:SOCKET [default: dev]
    #[arg(long, value_name = "CA")]
    #[serde(deserialize_with = "scalar")]
    pub ca: Option<String>,

    /// For how long certificates are asked; who signs may give less [default: 24h]
    #[arg(long, value_name = "DURATION")]
    #[serde(deserialize_with = "scalar")]
    pub certificate_lifetime: Option<String>,

    /// With ca istio: this node's bearer token [default: /var/run/secrets/tokens/istio-token]
    #[arg(long, value_name = "FILE", hide_short_help = true)]
    #[serde(deserialize_with = "scalar")]
    pub istio_token_file: Option<String>,

    /// With ca istio: roots of the server and of the mesh [default: /var/run/secrets/istio/root-cert.pem]
    #[arg(long, value_name = "FILE", hide_short_help = true)]
    #[serde(deserialize_with = "scalar")]
    pub istio_root_cert_file: Option<String>,

    /// With ca istio: Istio's name of this node's cluster [default: Kubernetes]
    #[arg(long, value_name = "NAME", hide_short_help = true)]
    #[serde(deserialize_with = "scalar")]
    pub istio_cluster_id: Option<String>,

    /// Access log: off, otlp, or text, json or template, with :FILE for another place than stdout [default: text]
    #[arg(long, value_name = "FORMAT")]
    #[serde(deserialize_with = "scalar")]
    pub access_log: Option<String>,

    /// With --access-log template: a line in Envoy's command operators
    #[arg(long, value_name = "TEMPLATE")]
    #[serde(deserialize_with = "scalar")]
    pub access_log_template: Option<String>,

    /// Log only what any of these is true of: status>=N, duration>=DURATION, flagged, with commas between
    #[arg(long, value_name = "FILTER")]
    #[serde(deserialize_with = "scalar")]
    pub access_log_filter: Option<String>,

    /// Share of what went well that is logged, from 0 to 1; failures always are [default: 1]
    #[arg(long, value_name = "SHARE")]
    #[serde(deserialize_with = "scalar")]
    pub access_log_sample: Option<String>,

    /// Move the access log's file away when it is as large, and keep so many, such as 100Mi:5 [default: never]
    #[arg(long, value_name = "SIZE:COUNT")]
    #[serde(deserialize_with = "scalar")]
    pub access_log_rotate: Option<String>,

    /// More headers that are secrets, with commas between: never logged, never shown
    #[arg(long, value_name = "NAMES", hide_short_help = true)]
    #[serde(deserialize_with = "list")]
    pub redact_headers: Option<String>,

    /// Labels of Istio's metrics: full, or lean without principals and histograms of bytes [default: full]
    #[arg(long, value_name = "PROFILE")]
    #[serde(deserialize_with = "scalar")]
    pub metrics_labels: Option<String>,

    /// Collector that traces, and the access log if it is otlp, are sent to: http://HOST:PORT or https://HOST:PORT [default: none, no tracing]
    #[arg(long, value_name = "URL")]
    #[serde(deserialize_with = "scalar")]
    pub otlp_endpoint: Option<String>,

    /// What is spoken with it: grpc or http [default: grpc]
    #[arg(long, value_name = "PROTOCOL")]
    #[serde(deserialize_with = "scalar")]
    pub otlp_protocol: Option<String>,

    /// With https: authorities of the collector's certificate, as PEM [default: the system's]
    #[arg(long, value_name = "FILE", hide_short_help = true)]
    #[serde(deserialize_with = "scalar")]
    pub otlp_ca: Option<String>,

    /// How long the collector may take for a request [default: 10s]
    #[arg(long, value_name = "DURATION", hide_short_help = true)]
    #[serde(deserialize_with = "scalar")]
    pub otlp_timeout: Option<String>,

    /// How many of the traces that begin here are recorded, from 0 to 1; a Service may say otherwise [default: 0.01]
    #[arg(long, value_name = "RATIO")]
    #[serde(deserialize_with = "scalar")]
    pub trace_sampling: Option<String>,

    /// At most so many of them a second, 0 for no limit [default: 100]
    #[arg(long, value_name = "N")]
    #[serde(deserialize_with = "scalar")]
    pub trace_limit: Option<String>,

    /// What is recorded though it wasn't sampled: errors, what is slower than a duration (errors,2s), or off [default: errors]
    #[arg(long, value_name = "WHAT")]
    #[serde(deserialize_with = "scalar")]
    pub trace_keep: Option<String>,

    /// Providers of external authorization; in the file alone.
    #[arg(skip)]
    pub extension_providers: Vec<ExtensionProvider>,

    /// How long connections may go on after SIGTERM, such as 25s, 500ms or 1m [default: 25s]
    #[arg(long, value_name = "DURATION")]
    #[serde(deserialize_with = "scalar")]
    pub drain_time: Option<String>,

    /// Once another agent has taken over and connections are gone: exit, or wait for SIGTERM where what ends is restarted [default: exit]
    #[arg(long, value_name = "WHAT", hide_short_help = true)]
    #[serde(deserialize_with = "scalar")]
    pub when_replaced: Option<String>,

    /// Log filter, such as info or mesh_agent::source=debug [default: info]
    #[arg(long, value_name = "FILTER")]
    #[serde(deserialize_with = "scalar")]
    pub log: Option<String>,

    /// In-pod port of the outbound listener [default: 15001]
    #[arg(long, value_name = "PORT", hide_short_help = true)]
    #[serde(deserialize_with = "scalar")]
    pub outbound_port: Option<String>,

    /// In-pod port of the inbound listener [default: 15006]
    #[arg(long, value_name = "PORT", hide_short_help = true)]
    #[serde(deserialize_with = "scalar")]
    pub inbound_port: Option<String>,

    /// In-pod port of the HBONE listener, and where pods that speak it are called [default: 15008]
    #[arg(long, value_name = "PORT", hide_short_help = true)]
    #[serde(deserialize_with = "scalar")]
    pub hbone_port: Option<String>,
}

/// A list, which becomes text with commas between, or such text.
pub(crate) fn list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a list of names, or names with commas between")]
    enum List {
        Names(Vec<String>),
        Text(String),
    }
    Ok(Option::<List>::deserialize(deserializer)?.map(|list| match list {
        List::Names(names) => names.join(","),
        List::Text(text) => text,
    }))
}

/// A number or text; YAML reads `workers: 2` as one and `log: info` as the other.
pub(crate) fn scalar<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    struct Scalar;
    impl Visitor<'_> for Scalar {
        type Value = Option<String>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a single value")
        }
        fn visit_str<E: Error>(self, value: &str) -> Result<Self::Value, E> {
            Ok(Some(value.to_owned()))
        }
        fn visit_u64<E: Error>(self, value: u64) -> Result<Self::Value, E> {
            Ok(Some(value.to_string()))
        }
        fn visit_i64<E: Error>(self, value: i64) -> Result<Self::Value, E> {
            Ok(Some(value.to_string()))
        }
        fn visit_f64<E: Error>(self, value: f64) -> Result<Self::Value, E> {
            Ok(Some(value.to_string()))
        }
        // `accessLog: off` is text in YAML 1.2, but people who know 1.1 may write `false`.
        fn visit_bool<E: Error>(self, value: bool) -> Result<Self::Value, E> {
            Ok(Some(value.to_string()))
        }
        fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
            Ok(None)
        }
    }
    deserializer.deserialize_any(Scalar)
}
