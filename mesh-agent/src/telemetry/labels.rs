//! The labels of an edge, by Istio's standard metrics (istio.io, reference/config/metrics): every label on every
//! series, `unknown` for what isn't known.

use std::sync::Arc;

use super::{EdgeAbout, EdgeKey, Reporter, Security};
use crate::model::Workload;

const UNKNOWN: &str = "unknown";
const OVERFLOW: &str = "overflow";

/// `--metrics-labels`: how much the edges' series tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub enum LabelProfile {
    /// Istio's whole label set.
    #[default]
    Full,
    /// Without principals and without the histograms of bytes: less than half. What principals told of the client's side,
    /// whether it is in mutual TLS, `connection_security_policy` says there too.
    Lean,
}

/// What the labels need beyond the edge itself.
#[derive(Clone, Debug)]
pub(super) struct LabelContext {
    pub(super) trust_domain: String,
    pub(super) cluster: String,
    pub(super) profile: LabelProfile,
}

impl LabelContext {
    /// Labels of `key` in exposition form, without braces.
    pub(super) fn render(&self, key: &EdgeKey) -> String {
        let mut labels = Labels(String::with_capacity(1024));
        labels.add("reporter", key.reporter.label());
        let proven = key.proven.as_ref().map(|id| id.as_str());
        self.peer(&mut labels, &SOURCE, key.source.as_deref(), key.security, proven);
        self.peer(&mut labels, &DESTINATION, key.destination.as_deref(), key.security, None);
        service(&mut labels, key);
        labels.add("connection_security_policy", self.security_policy(key));
        labels.0
    }

    /// Labels of what exceeds the cap: one edge per reporter.
    pub(super) fn overflow(&self, reporter: Reporter) -> String {
        let overflow = OVERFLOW;
        let mut labels = Labels(String::with_capacity(1024));
        labels.add("reporter", reporter.label());
        for names in [&SOURCE, &DESTINATION] {
            for name in names.all() {
                if self.profile == LabelProfile::Full || name != names.principal {
                    labels.add(name, overflow);
                }
            }
        }
        for name in SERVICE {
            labels.add(name, overflow);
        }
        labels.add("connection_security_policy", UNKNOWN);
        labels.0
    }

    /// The same in words, for [`EdgeAbout`].
    pub(super) fn about(&self, key: &EdgeKey) -> EdgeAbout {
        let of = |peer: &Option<Arc<Workload>>, value: fn(&Workload) -> &str| {
            peer.as_deref().map(value).filter(|v| !v.is_empty()).unwrap_or(UNKNOWN).to_owned()
        };
        let principal = |peer: &Option<Arc<Workload>>, proven: Option<&str>| {
            self.principal(peer.as_deref(), key.security, proven).unwrap_or_else(|| UNKNOWN.to_owned())
        };
        let namespace = || key.destination.as_ref().map_or(UNKNOWN, |w| &w.name.namespace);
        EdgeAbout {
            reporter: key.reporter,
            security: match key.security {
                Security::MutualTls => "mutual_tls",
                Security::None => "none",
            },
            source_namespace: of(&key.source, |w| &w.name.namespace),
            source_workload: of(&key.source, |w| &w.workload_name),
            source_service: of(&key.source, |w| &w.canonical_name),
            source_principal: principal(&key.source, key.proven.as_ref().map(|id| id.as_str())),
            destination_namespace: of(&key.destination, |w| &w.name.namespace),
            destination_workload: of(&key.destination, |w| &w.workload_name),
            destination_principal: principal(&key.destination, None),
            service: key.service.as_ref().map_or(key.fallback_service, |s| &s.name.name).to_owned(),
            service_namespace: key.service.as_ref().map_or_else(namespace, |s| &s.name.namespace).to_owned(),
        }
    }

    /// What exceeds the cap, in words.
    pub(super) fn about_overflow(reporter: Reporter) -> EdgeAbout {
        let overflow = || OVERFLOW.to_owned();
        EdgeAbout {
            reporter,
            security: UNKNOWN,
            source_namespace: overflow(),
            source_workload: overflow(),
            source_service: overflow(),
            source_principal: overflow(),
            destination_namespace: overflow(),
            destination_workload: overflow(),
            destination_principal: overflow(),
            service: overflow(),
            service_namespace: overflow(),
        }
    }

    /// Istio leaves it to the server's side: the client's says `unknown`, unless nothing else would tell.
    fn security_policy(&self, key: &EdgeKey) -> &'static str {
        match (key.reporter, key.security) {
            (Reporter::Source, _) if self.profile == LabelProfile::Full => UNKNOWN,
            (_, Security::MutualTls) => "mutual_tls",
            (_, Security::None) => "none",
        }
    }

    /// SPIFFE id, where mutual TLS has proven it.
    fn principal(&self, peer: Option<&Workload>, security: Security, proven: Option<&str>) -> Option<String> {
        match (security, proven, peer) {
            (Security::MutualTls, Some(proven), _) => Some(proven.to_owned()),
            (Security::MutualTls, None, Some(w)) => Some(w.spiffe_id(&self.trust_domain)),
            _ => None,
        }
    }

    fn peer(
        &self,
        labels: &mut Labels,
        names: &PeerNames,
        peer: Option<&Workload>,
        security: Security,
        proven: Option<&str>,
    ) {
        let of = |value: fn(&Workload) -> &str| peer.map(value).filter(|v| !v.is_empty()).unwrap_or(UNKNOWN);
        labels.add(names.workload, of(|w| &w.workload_name));
        labels.add(names.namespace, of(|w| &w.name.namespace));
        if self.profile == LabelProfile::Full {
            let principal = self.principal(peer, security, proven);
            labels.add(names.principal, principal.as_deref().unwrap_or(UNKNOWN));
        }
        labels.add(names.app, of(|w| &w.app));
        labels.add(names.version, of(|w| &w.version));
        labels.add(names.cluster, if peer.is_some() { &self.cluster } else { UNKNOWN });
        labels.add(names.canonical_service, of(|w| &w.canonical_name));
        // Istio: a known workload without a revision is `latest`.
        labels.add(names.canonical_revision, of(|w| &w.canonical_revision));
    }
}

fn service(labels: &mut Labels, key: &EdgeKey) {
    let [host, name, namespace] = SERVICE;
    match &key.service {
        Some(service) => {
            labels.add(host, &service.host);
            labels.add(name, &service.name.name);
            labels.add(namespace, &service.name.namespace);
        }
        None => {
            labels.add(host, UNKNOWN);
            labels.add(name, key.fallback_service);
            labels.add(namespace, key.destination.as_ref().map_or(UNKNOWN, |w| &w.name.namespace));
        }
    }
}

const SERVICE: [&str; 3] =
    ["destination_service", "destination_service_name", "destination_service_namespace"];

struct PeerNames {
    workload: &'static str,
    namespace: &'static str,
    principal: &'static str,
    app: &'static str,
    version: &'static str,
    cluster: &'static str,
    canonical_service: &'static str,
    canonical_revision: &'static str,
}

impl PeerNames {
    fn all(&self) -> [&'static str; 8] {
        [
            self.workload,
            self.namespace,
            self.principal,
            self.app,
            self.version,
            self.cluster,
            self.canonical_service,
            self.canonical_revision,
        ]
    }
}

const SOURCE: PeerNames = PeerNames {
    workload: "source_workload",
    namespace: "source_workload_namespace",
    principal: "source_principal",
    app: "source_app",
    version: "source_version",
    cluster: "source_cluster",
    canonical_service: "source_canonical_service",
    canonical_revision: "source_canonical_revision",
};

const DESTINATION: PeerNames = PeerNames {
    workload: "destination_workload",
    namespace: "destination_workload_namespace",
    principal: "destination_principal",
    app: "destination_app",
    version: "destination_version",
    cluster: "destination_cluster",
    canonical_service: "destination_canonical_service",
    canonical_revision: "destination_canonical_revision",
};

/// Labels under way, comma-separated.
struct Labels(String);

impl Labels {
    fn add(&mut self, name: &str, value: &str) {
        if !self.0.is_empty() {
            self.0.push(',');
        }
        self.0.push_str(name);
        self.0.push_str("=\"");
        for c in value.chars() {
            match c {
                '\\' => self.0.push_str("\\\\"),
                '"' => self.0.push_str("\\\""),
                '\n' => self.0.push_str("\\n"),
                c => self.0.push(c),
            }
        }
        self.0.push('"');
    }
}
