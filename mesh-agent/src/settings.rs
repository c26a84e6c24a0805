//! The agent's settings: flags over environment over file over defaults, resolved once at start.
//!
//! Every setting is text until it is resolved, whichever way it came, so that one parser judges all three and every
//! complaint names the key and where its value came from.

pub(crate) mod args;
pub(crate) mod layers;
pub(crate) mod value;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

pub use args::RunArgs;
pub use layers::Origin;
pub use value::{Ca, OutboundTrafficPolicy, SameNode, WhenReplaced, duration};

use self::layers::Layers;
use crate::authz;
use crate::ext_authz::ExtensionProvider;
use crate::kernel::KernelServices;
use crate::model::FailMode;
use crate::model::build::{BuildOptions, ROOT_NAMESPACE};
use crate::proxy::client_cert::ForwardClientCert;
use crate::source::Source;
use crate::telemetry::{
    AccessLogMode, Filter, Format, LabelProfile, LogOptions, Output, Redact, Rotation, Share, Template,
};
use crate::trace;

/// Read if it is there and `--config` names no other.
pub const DEFAULT_CONFIG: &str = "/etc/mesh-agent/config.yaml";
/// Default of `--state-dir`; the CLI's too.
pub const DEFAULT_STATE_DIR: &str = "/run/mesh-agent";

/// Everything that `mesh-agent run` can be told, valid.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Settings {
    /// The configuration file that was read.
    pub config: Option<PathBuf>,
    /// Whose pods this agent serves.
    pub node_name: String,
    /// Where the objects come from.
    #[serde(serialize_with = "value::as_text")]
    pub source: Source,
    /// Admin socket and state.
    pub state_dir: PathBuf,
    /// Pinned maps and links.
    pub bpffs_dir: PathBuf,
    /// Subtree at which the programs attach; none for the root.
    pub cgroup: Option<PathBuf>,
    /// The host's /proc, in which pods' processes are found.
    pub proc_dir: PathBuf,
    /// `/metrics`, `/livez`, `/readyz`.
    pub metrics_address: SocketAddr,
    /// Data path threads.
    pub workers: usize,
    /// For pods without the annotation.
    pub fail_mode: FailMode,
    /// For destinations that nothing knows.
    pub outbound_traffic_policy: OutboundTrafficPolicy,
    /// Which servers are asked for the names of ServiceEntries.
    pub resolv_conf: PathBuf,
    /// Passwords that policies name.
    pub secrets_dir: PathBuf,
    /// How pods of one node talk to each other.
    pub same_node: SameNode,
    /// Whose connections to services that need no agent are balanced in the kernel.
    pub kernel_services: KernelServices,
    /// Whose policies are the mesh's.
    pub root_namespace: String,
    /// What Istio's own reading of a path undoes, for AuthorizationPolicies.
    pub path_normalization: authz::Normalization,
    /// Proxies before the client whose X-Forwarded-For is believed.
    pub trusted_hops: usize,
    /// What applications are told of their clients' certificates.
    pub forward_client_cert_details: ForwardClientCert,
    /// Whom AuthorizationPolicies with action CUSTOM may ask.
    pub extension_providers: Vec<ExtensionProvider>,
    /// Of SPIFFE identities.
    pub trust_domain: String,
    /// Trust domains that count as the own one.
    pub trust_domain_aliases: Vec<String>,
    /// Who signs certificates.
    #[serde(serialize_with = "value::as_text")]
    pub ca: Ca,
    /// For how long certificates are asked.
    #[serde(serialize_with = "value::as_duration")]
    pub certificate_lifetime: Duration,
    /// `ca: istio:`, the node's token.
    pub istio_token_file: PathBuf,
    /// `ca: istio:`, who may have signed the server's certificate.
    pub istio_root_cert_file: PathBuf,
    /// `ca: istio:`, the cluster's name.
    pub istio_cluster_id: String,
    /// Access log.
    pub access_log: AccessLogMode,
    /// What its lines look like, for `template`.
    pub access_log_template: Option<Template>,
    /// What it has lines for.
    pub access_log_filter: Option<Filter>,
    /// How much of what went well.
    pub access_log_sample: Share,
    /// When its file is moved away.
    pub access_log_rotate: Option<Rotation>,
    /// Headers that are secrets, beside those that are built in.
    pub redact_headers: Vec<String>,
    /// Labels of Istio's metrics.
    pub metrics_labels: LabelProfile,
    /// Where traces are sent; none: nothing is traced.
    pub otlp_endpoint: Option<trace::Endpoint>,
    /// What is spoken there.
    pub otlp_protocol: trace::Protocol,
    /// Authorities of the collector's certificate; none: the system's.
    pub otlp_ca: Option<PathBuf>,
    /// For one request to the collector.
    #[serde(serialize_with = "value::as_duration")]
    pub otlp_timeout: Duration,
    /// How many of the traces that begin here are recorded.
    pub trace_sampling: trace::Ratio,
    /// At most so many a second.
    pub trace_limit: u32,
    /// What is recorded though it wasn't sampled.
    #[serde(serialize_with = "value::as_text")]
    pub trace_keep: trace::Keep,
    /// How long connections may go on after SIGTERM.
    #[serde(serialize_with = "value::as_duration")]
    pub drain_time: Duration,
    /// What it does once another agent has taken its place.
    pub when_replaced: WhenReplaced,
    /// `tracing`'s filter.
    pub log: String,
    /// In-pod listener for outbound connections.
    pub outbound_port: u16,
    /// In-pod listener for inbound connections.
    pub inbound_port: u16,
    /// In-pod listener for HBONE.
    pub hbone_port: u16,
}

/// Why the agent doesn't start. Exit code 64 for flags and environment, 65 for the file.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file can't be read.
    #[error("can't read the configuration file {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file isn't valid YAML, or has a key that doesn't exist.
    #[error("{}: {message}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Which key or line, and what was expected.
        message: String,
    },
    /// One or more values are not acceptable.
    #[error("{}", complaints(.0))]
    Values(Vec<BadValue>),
}

/// One value that isn't acceptable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadValue {
    /// camelCase, as in the file.
    pub key: &'static str,
    /// Where the value came from.
    pub origin: Origin,
    /// What it is and what was expected.
    pub message: String,
}

impl std::fmt::Display for BadValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.origin, self.message)
    }
}

fn complaints(values: &[BadValue]) -> String {
    values.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

impl Settings {
    /// From flags, the process's environment and the file.
    ///
    /// # Errors
    /// Names every key that is wrong and where it came from.
    pub fn resolve(flags: &RunArgs) -> Result<Self, SettingsError> {
        Self::resolve_with(flags, |name| std::env::var(name).ok())
    }

    /// [`Settings::resolve`] with another environment.
    ///
    /// # Errors
    /// As [`Settings::resolve`].
    pub fn resolve_with(
        flags: &RunArgs,
        env: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, SettingsError> {
        let mut layers: Layers<'_, RunArgs> = Layers::read(flags, &env)?;
        let in_cluster = env("KUBERNETES_SERVICE_HOST").is_some();
        let settings = Self {
            config: layers.config(),
            node_name: layers.get("nodeName", |a| &a.node_name, value::host_name, value::node_name),
            source: layers.get("source", |a| &a.source, || value::default_source(in_cluster), value::source),
            state_dir: layers.get("stateDir", |a| &a.state_dir, || DEFAULT_STATE_DIR.into(), value::absolute),
            bpffs_dir: layers.get(
                "bpffsDir",
                |a| &a.bpffs_dir,
                || "/sys/fs/bpf/mesh-agent".into(),
                value::absolute,
            ),
            cgroup: layers.optional("cgroup", |a| &a.cgroup, value::absolute),
            proc_dir: layers.get("procDir", |a| &a.proc_dir, || "/proc".into(), value::absolute),
            metrics_address: layers.get(
                "metricsAddress",
                |a| &a.metrics_address,
                || "0.0.0.0:15020".into(),
                value::address,
            ),
            workers: layers.get("workers", |a| &a.workers, default_workers, value::workers),
            fail_mode: layers.get("failMode", |a| &a.fail_mode, || "closed".into(), value::fail_mode),
            outbound_traffic_policy: layers.get(
                "outboundTrafficPolicy",
                |a| &a.outbound_traffic_policy,
                || "allowAny".into(),
                value::outbound_traffic_policy,
            ),
            resolv_conf: layers.get(
                "resolvConf",
                |a| &a.resolv_conf,
                || "/etc/resolv.conf".into(),
                value::absolute,
            ),
            secrets_dir: layers.get(
                "secretsDir",
                |a| &a.secrets_dir,
                || "/etc/mesh-agent/secrets".into(),
                value::absolute,
            ),
            kernel_services: layers.get(
                "kernelServices",
                |a| &a.kernel_services,
                || "enrolled".into(),
                value::kernel_services,
            ),
            same_node: layers.get("sameNode", |a| &a.same_node, || "direct".into(), value::same_node),
            root_namespace: layers.get(
                "rootNamespace",
                |a| &a.root_namespace,
                || ROOT_NAMESPACE.into(),
                value::namespace,
            ),
            path_normalization: layers.get(
                "pathNormalization",
                |a| &a.path_normalization,
                || "BASE".into(),
                value::path_normalization,
            ),
            trusted_hops: layers.get("trustedHops", |a| &a.trusted_hops, || "0".into(), value::trusted_hops),
            forward_client_cert_details: layers.get(
                "forwardClientCertDetails",
                |a| &a.forward_client_cert_details,
                || "SANITIZE".into(),
                value::forward_client_cert,
            ),
            extension_providers: layers.providers(),
            trust_domain: layers.get(
                "trustDomain",
                |a| &a.trust_domain,
                || "cluster.local".into(),
                value::trust_domain,
            ),
            trust_domain_aliases: layers.get(
                "trustDomainAliases",
                |a| &a.trust_domain_aliases,
                String::new,
                value::trust_domains,
            ),
            ca: layers.get("ca", |a| &a.ca, || "dev".into(), value::ca),
            certificate_lifetime: layers.get(
                "certificateLifetime",
                |a| &a.certificate_lifetime,
                || "24h".into(),
                value::lifetime,
            ),
            istio_token_file: layers.get(
                "istioTokenFile",
                |a| &a.istio_token_file,
                || "/var/run/secrets/tokens/istio-token".into(),
                value::absolute,
            ),
            istio_root_cert_file: layers.get(
                "istioRootCertFile",
                |a| &a.istio_root_cert_file,
                || "/var/run/secrets/istio/root-cert.pem".into(),
                value::absolute,
            ),
            istio_cluster_id: layers.get(
                "istioClusterId",
                |a| &a.istio_cluster_id,
                || "Kubernetes".into(),
                value::cluster_id,
            ),
            access_log: layers.get("accessLog", |a| &a.access_log, || "text".into(), value::access_log),
            access_log_template: layers.optional(
                "accessLogTemplate",
                |a| &a.access_log_template,
                value::from_text,
            ),
            access_log_filter: layers.optional("accessLogFilter", |a| &a.access_log_filter, value::from_text),
            access_log_sample: layers.get(
                "accessLogSample",
                |a| &a.access_log_sample,
                || "1".into(),
                value::from_text,
            ),
            access_log_rotate: layers.optional("accessLogRotate", |a| &a.access_log_rotate, value::from_text),
            redact_headers: layers.get(
                "redactHeaders",
                |a| &a.redact_headers,
                String::new,
                value::header_names,
            ),
            metrics_labels: layers.get(
                "metricsLabels",
                |a| &a.metrics_labels,
                || "full".into(),
                value::metrics_labels,
            ),
            otlp_endpoint: layers.optional("otlpEndpoint", |a| &a.otlp_endpoint, value::otlp_endpoint),
            otlp_protocol: layers.get(
                "otlpProtocol",
                |a| &a.otlp_protocol,
                || "grpc".into(),
                value::otlp_protocol,
            ),
            otlp_ca: layers.optional("otlpCa", |a| &a.otlp_ca, value::absolute),
            otlp_timeout: layers.get(
                "otlpTimeout",
                |a| &a.otlp_timeout,
                || "10s".into(),
                value::otlp_timeout,
            ),
            trace_sampling: layers.get(
                "traceSampling",
                |a| &a.trace_sampling,
                || "0.01".into(),
                value::trace_sampling,
            ),
            trace_limit: layers.get("traceLimit", |a| &a.trace_limit, || "100".into(), value::trace_limit),
            trace_keep: layers.get("traceKeep", |a| &a.trace_keep, || "errors".into(), value::trace_keep),
            drain_time: layers.get("drainTime", |a| &a.drain_time, || "25s".into(), duration),
            when_replaced: layers.get(
                "whenReplaced",
                |a| &a.when_replaced,
                || "exit".into(),
                value::when_replaced,
            ),
            log: layers.get("log", |a| &a.log, || "info".into(), value::log_filter),
            outbound_port: layers.get(
                "outboundPort",
                |a| &a.outbound_port,
                || port(mesh_common::OUTBOUND_PORT),
                value::port,
            ),
            inbound_port: layers.get(
                "inboundPort",
                |a| &a.inbound_port,
                || port(mesh_common::INBOUND_PORT),
                value::port,
            ),
            hbone_port: layers.get(
                "hbonePort",
                |a| &a.hbone_port,
                || port(mesh_common::HBONE_PORT),
                value::port,
            ),
        };
        settings.check_ports(&mut layers);
        settings.check_access_log(&mut layers);
        settings.check_collector(&mut layers);
        layers.finish(settings)
    }

    /// What the builder needs of them.
    pub fn build_options(&self) -> BuildOptions {
        BuildOptions {
            node: self.node_name.clone(),
            fail_mode: self.fail_mode,
            root_namespace: self.root_namespace.clone(),
            netns_annotation: matches!(self.source, Source::Dir(_)),
            resolv_conf: self.resolv_conf.clone(),
            authorization: authz::Options {
                trust_domains: [&self.trust_domain]
                    .into_iter()
                    .chain(&self.trust_domain_aliases)
                    .cloned()
                    .collect(),
                normalization: self.path_normalization,
                trusted_hops: self.trusted_hops,
                root: self.root_namespace.clone(),
            },
            providers: Some(self.extension_providers.iter().map(|provider| provider.name.clone()).collect()),
            ..BuildOptions::default()
        }
    }

    /// What the access log is told beside its format and place.
    pub fn log_options(&self) -> LogOptions {
        LogOptions {
            template: self.access_log_template.clone(),
            filter: self.access_log_filter.clone().unwrap_or_default(),
            share: self.access_log_sample,
            rotation: self.access_log_rotate,
            collector: self.collector(),
        }
    }

    /// Which headers are secrets.
    pub fn redact(&self) -> Redact {
        // What is no name was said when the settings were read.
        Redact::new(self.redact_headers.iter().filter_map(|name| name.parse().ok()).collect())
    }

    fn check_access_log(&self, layers: &mut Layers) {
        let format = match &self.access_log {
            AccessLogMode::On(format, _) => Some(*format),
            AccessLogMode::Off | AccessLogMode::Otlp => None,
        };
        let off = self.access_log == AccessLogMode::Off;
        if self.access_log == AccessLogMode::Otlp && self.otlp_endpoint.is_none() {
            let message = "otlp needs a collector: otlpEndpoint: http://HOST:PORT".to_owned();
            layers.complain("accessLog", |a| &a.access_log, message);
        }
        let template: fn(&RunArgs) -> &Option<String> = |a| &a.access_log_template;
        match (format, &self.access_log_template) {
            (Some(Format::Template), None) => {
                let message = "is needed with accessLog: template".to_owned();
                layers.complain("accessLogTemplate", template, message);
            }
            (Some(Format::Text | Format::Json), Some(_)) | (None, Some(_)) if !off => {
                let message = "is for accessLog: template alone".to_owned();
                layers.complain("accessLogTemplate", template, message);
            }
            (_, Some(it)) => {
                if let Err(error) = it.check(&self.redact()) {
                    layers.complain("accessLogTemplate", template, error.to_string());
                }
            }
            _ => {}
        }
        let to_file = matches!(self.access_log, AccessLogMode::On(_, Output::File(_)));
        if self.access_log_rotate.is_some() && !to_file && !off {
            let message = "is for an access log in a file: accessLog: FORMAT:FILE".to_owned();
            layers.complain("accessLogRotate", |a| &a.access_log_rotate, message);
        }
    }

    /// What traces need; None: nothing is traced.
    pub fn tracing(&self) -> Option<trace::Options> {
        Some(trace::Options {
            remote: self.collector()?,
            ratio: self.trace_sampling,
            limit: self.trace_limit,
            keep: self.trace_keep,
        })
    }

    /// Where traces and the access log's records go, if anywhere.
    fn collector(&self) -> Option<trace::Remote> {
        Some(trace::Remote {
            endpoint: self.otlp_endpoint.clone()?,
            protocol: self.otlp_protocol,
            ca: self.otlp_ca.clone(),
            timeout: self.otlp_timeout,
        })
    }

    /// Authorities that nothing is held against would be taken for protection.
    fn check_collector(&self, layers: &mut Layers) {
        let secure = self.otlp_endpoint.as_ref().is_some_and(trace::Endpoint::is_secure);
        if self.otlp_ca.is_some() && !secure {
            let message = "a file of authorities means nothing without otlpEndpoint: https://HOST:PORT";
            layers.complain("otlpCa", |a| &a.otlp_ca, message.to_owned());
        }
    }

    fn check_ports(&self, layers: &mut Layers) {
        type Field = fn(&RunArgs) -> &Option<String>;
        let ports: [(&'static str, u16, Field); 3] = [
            ("outboundPort", self.outbound_port, |a| &a.outbound_port),
            ("inboundPort", self.inbound_port, |a| &a.inbound_port),
            ("hbonePort", self.hbone_port, |a| &a.hbone_port),
        ];
        for (i, (key, port, field)) in ports.iter().enumerate() {
            if let Some((other, ..)) = ports[..i].iter().find(|(_, taken, _)| taken == port) {
                let message = format!("{port} is {other} too: each listener needs a port of its own");
                layers.complain(key, field, message);
            }
        }
    }
}

fn default_workers() -> String {
    std::thread::available_parallelism().map_or(1, |cores| cores.get().min(4)).to_string()
}

fn port(port: u16) -> String {
    port.to_string()
}

#[cfg(test)]
mod tests;
