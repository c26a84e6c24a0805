//! The flags of `mesh-agent controller`, which are keys of its own configuration file too.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::identity::Tls;
use crate::model::build::BuildOptions;
use crate::settings::args::{list, scalar};
use crate::settings::layers::{Fallback, Flags, Layers};
use crate::settings::{Ca, SettingsError, value};
use crate::source::Source;

/// Flags of `controller`. Each is also a key of its configuration file (camelCase) and an environment variable
/// (MESH_AGENT_CONTROLLER_ and the flag in capitals): a flag beats the environment, the environment beats the file.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ControllerArgs {
    /// Configuration file [default: /etc/mesh-agent/controller.yaml if it is there]
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    pub config: Option<PathBuf>,

    /// Where agents ask for certificates [default: 0.0.0.0:15012]
    #[arg(long, value_name = "IP:PORT")]
    #[serde(deserialize_with = "scalar")]
    pub listen: Option<String>,

    /// Which pods run where: the API server, kube, or a directory of YAML files, dir:PATH
    #[arg(long, value_name = "SOURCE")]
    #[serde(deserialize_with = "scalar")]
    pub source: Option<String>,

    /// Whose key signs: dev, files:DIR, or secret:NAME of the own namespace [default: dev]
    #[arg(long, value_name = "CA")]
    #[serde(deserialize_with = "scalar")]
    pub ca: Option<String>,

    /// Who agents are: kube (their service account's tokens, by TokenReview), or a file with a node, a blank and its token on each line
    #[arg(long, value_name = "FILE")]
    #[serde(deserialize_with = "scalar")]
    pub tokens: Option<String>,

    /// With kube: the namespace of controller and agents [default: the kubeconfig's, or the pod's own]
    #[arg(long, value_name = "NAME")]
    #[serde(deserialize_with = "scalar")]
    pub namespace: Option<String>,

    /// With kube: the agents' service account [default: mesh-agent]
    #[arg(long, value_name = "NAME")]
    #[serde(deserialize_with = "scalar")]
    pub agent_account: Option<String>,

    /// Trust domain of the identities [default: cluster.local]
    #[arg(long, value_name = "NAME")]
    #[serde(deserialize_with = "scalar")]
    pub trust_domain: Option<String>,

    /// No certificate lives longer, whatever is asked for [default: 24h]
    #[arg(long, value_name = "DURATION")]
    #[serde(deserialize_with = "scalar")]
    pub max_certificate_lifetime: Option<String>,

    /// With secret: how long a root lives that the controller makes; it is renewed at half of it [default: 87600h]
    #[arg(long, value_name = "DURATION")]
    #[serde(deserialize_with = "scalar")]
    pub root_lifetime: Option<String>,

    /// The controller's own certificate, with --tls-key [default: signed by its own authority]
    #[arg(long, value_name = "FILE")]
    #[serde(deserialize_with = "scalar")]
    pub tls_cert: Option<String>,

    /// The key of --tls-cert
    #[arg(long, value_name = "FILE")]
    #[serde(deserialize_with = "scalar")]
    pub tls_key: Option<String>,

    /// Names and addresses of the certificate that its own authority signs, with commas between [default: the host's name]
    #[arg(long, value_name = "NAMES")]
    #[serde(deserialize_with = "list")]
    pub tls_names: Option<String>,

    /// Address of /metrics, /livez and /readyz [default: 0.0.0.0:15022]
    #[arg(long, value_name = "IP:PORT")]
    #[serde(deserialize_with = "scalar")]
    pub metrics_address: Option<String>,

    /// Log filter, such as info or mesh_agent::controller=debug [default: info]
    #[arg(long, value_name = "FILTER")]
    #[serde(deserialize_with = "scalar")]
    pub log: Option<String>,
}

impl Flags for ControllerArgs {
    const PREFIX: &'static str = "MESH_AGENT_CONTROLLER_";
    const DEFAULT_CONFIG: &'static str = "/etc/mesh-agent/controller.yaml";

    fn config(&self) -> Option<&Path> {
        self.config.as_deref()
    }
}

/// Whose key signs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub enum ControllerCa {
    /// This machine's development root.
    #[default]
    Dev,
    /// An authority's chain and key.
    Files(PathBuf),
    /// The same in a Secret of the own namespace, made if there is none.
    Secret(String),
}

impl std::fmt::Display for ControllerCa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Dev => f.write_str("dev"),
            Self::Files(dir) => write!(f, "files:{}", dir.display()),
            Self::Secret(name) => write!(f, "secret:{name}"),
        }
    }
}

/// Who knows which node an agent is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tokens {
    /// The API server.
    Kube,
    /// A file.
    File(PathBuf),
}

impl Fallback for Tokens {
    fn fallback() -> Self {
        Self::Kube
    }
}

impl Fallback for ControllerCa {
    fn fallback() -> Self {
        Self::default()
    }
}

/// Everything that `mesh-agent controller` can be told, valid.
#[derive(Clone, Debug, PartialEq)]
pub struct ControllerSettings {
    /// Where agents ask.
    pub listen: SocketAddr,
    /// Which pods run where.
    pub source: Source,
    /// Whose key signs.
    pub ca: ControllerCa,
    /// Nodes and their tokens.
    pub tokens: Tokens,
    /// Of controller and agents; none for the client's own.
    pub namespace: Option<String>,
    /// Of the agents.
    pub agent_account: String,
    /// Of the identities.
    pub trust_domain: String,
    /// The longest life of a certificate.
    pub max_certificate_lifetime: Duration,
    /// Life of a root of its own.
    pub root_lifetime: Duration,
    /// What agents are shown.
    pub tls: Tls,
    /// `/metrics`, `/livez`, `/readyz`.
    pub metrics_address: SocketAddr,
    /// `tracing`'s filter.
    pub log: String,
}

impl ControllerSettings {
    /// From flags, the process's environment and the file.
    ///
    /// # Errors
    /// Names every key that is wrong and where it came from.
    pub fn resolve(flags: &ControllerArgs) -> Result<Self, SettingsError> {
        Self::resolve_with(flags, |name| std::env::var(name).ok())
    }

    /// [`Self::resolve`] with another environment.
    ///
    /// # Errors
    /// As [`Self::resolve`].
    pub fn resolve_with(
        flags: &ControllerArgs,
        env: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, SettingsError> {
        let mut layers: Layers<'_, ControllerArgs> = Layers::read(flags, &env)?;
        let certificate = layers.optional("tlsCert", |a| &a.tls_cert, value::absolute);
        let key = layers.optional("tlsKey", |a| &a.tls_key, value::absolute);
        let names = layers.get("tlsNames", |a| &a.tls_names, value::host_name, value::host_names);
        let tls = match (certificate, key) {
            (Some(certificate), Some(key)) => Tls::Files { certificate, key },
            (None, None) => Tls::Own(names),
            (Some(_), None) => {
                layers.complain("tlsKey", |a| &a.tls_key, "tlsCert needs the key that belongs to it".into());
                Tls::Own(names)
            }
            (None, Some(_)) => {
                layers.complain("tlsCert", |a| &a.tls_cert, "tlsKey needs its certificate".into());
                Tls::Own(names)
            }
        };
        let settings = Self {
            listen: layers.get("listen", |a| &a.listen, || "0.0.0.0:15012".into(), value::address),
            source: layers.get(
                "source",
                |a| &a.source,
                || value::default_source(env("KUBERNETES_SERVICE_HOST").is_some()),
                value::source,
            ),
            ca: layers.get("ca", |a| &a.ca, || "dev".into(), ca),
            tokens: layers.get("tokens", |a| &a.tokens, String::new, tokens),
            namespace: layers.optional("namespace", |a| &a.namespace, value::namespace),
            agent_account: layers.get(
                "agentAccount",
                |a| &a.agent_account,
                || "mesh-agent".into(),
                value::namespace,
            ),
            trust_domain: layers.get(
                "trustDomain",
                |a| &a.trust_domain,
                || "cluster.local".into(),
                value::trust_domain,
            ),
            max_certificate_lifetime: layers.get(
                "maxCertificateLifetime",
                |a| &a.max_certificate_lifetime,
                || "24h".into(),
                value::lifetime,
            ),
            root_lifetime: layers.get(
                "rootLifetime",
                |a| &a.root_lifetime,
                || "87600h".into(),
                value::root_lifetime,
            ),
            tls,
            metrics_address: layers.get(
                "metricsAddress",
                |a| &a.metrics_address,
                || "0.0.0.0:15022".into(),
                value::address,
            ),
            log: layers.get("log", |a| &a.log, || "info".into(), value::log_filter),
        };
        layers.finish(settings)
    }

    /// Whether anything of it needs the API server.
    pub fn needs_kube(&self) -> bool {
        self.tokens == Tokens::Kube || matches!(self.ca, ControllerCa::Secret(_)) || self.writes()
    }

    /// Whether status and trust bundles are written: where the objects come from the API server.
    pub fn writes(&self) -> bool {
        !matches!(self.source, Source::Dir(_))
    }

    /// Pods of every node.
    pub fn build_options(&self) -> BuildOptions {
        let netns_annotation = matches!(self.source, Source::Dir(_));
        BuildOptions { netns_annotation, serves: false, ..BuildOptions::default() }
    }
}

fn ca(text: &str) -> Result<ControllerCa, String> {
    if let Some(name) = text.strip_prefix("secret:") {
        return value::namespace(name).map(ControllerCa::Secret).map_err(|_| {
            format!("{name:?} isn't the name of a Secret: expected at most 63 of a-z, 0-9 and '-'")
        });
    }
    match value::ca(text)? {
        Ca::Dev => Ok(ControllerCa::Dev),
        Ca::Files(dir) => Ok(ControllerCa::Files(dir)),
        Ca::Istio(_) | Ca::Spiffe(_) => Err(format!(
            "{text:?} has no key that the controller could sign with: expected dev, files:DIR or secret:NAME"
        )),
    }
}

fn tokens(text: &str) -> Result<Tokens, String> {
    match text {
        "" => Err("no file of tokens is given, nor kube: nobody could ask for a certificate".to_owned()),
        "kube" => Ok(Tokens::Kube),
        path => value::absolute(path).map(Tokens::File),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use clap::Parser;

    use super::*;
    use crate::identity::issuer::ROOT_LIFE;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: ControllerArgs,
    }

    fn resolve(flags: &str, file: &str) -> Result<ControllerSettings, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("controller.yaml");
        std::fs::write(&path, file).unwrap();
        let words = format!("x {flags} --config {}", path.display());
        let cli = Cli::try_parse_from(words.split_whitespace()).unwrap();
        ControllerSettings::resolve_with(&cli.args, |_| None).map_err(|error| error.to_string())
    }

    const LEAST: &str = "--source dir:/objects --tokens /etc/tokens";

    #[test]
    fn flags_and_file_are_read_like_the_agent_s() {
        let settings = resolve(LEAST, "tlsNames: [ca.mesh, 10.0.0.1]\nmaxCertificateLifetime: 1h\n").unwrap();
        assert_eq!(settings.listen, "0.0.0.0:15012".parse().unwrap());
        assert_eq!(settings.ca, ControllerCa::Dev);
        assert_eq!(settings.tls, Tls::Own(vec!["ca.mesh".into(), "10.0.0.1".into()]));
        assert_eq!(settings.max_certificate_lifetime, Duration::from_secs(3600));
        assert_eq!(settings.root_lifetime, ROOT_LIFE);
        let settings = resolve(&format!("{LEAST} --tls-cert /a --tls-key /b --ca files:/ca"), "").unwrap();
        assert_eq!(settings.tls, Tls::Files { certificate: "/a".into(), key: "/b".into() });
        assert_eq!(settings.ca, ControllerCa::Files("/ca".into()));
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        for (flags, file, wanted) in [
            ("--source dir:/x", "", "no file of tokens"),
            ("--tokens /x", "", "no source is given"),
            (LEAST, "tlsCert: /a\n", "tlsCert needs the key"),
            (LEAST, "ca: istio:https://ca:1\n", "no key that the controller could sign with"),
            (LEAST, "tlsNames: a b\n", "isn't a host name"),
            (LEAST, "rootLifetime: 300000h\n", "at most 262800h"),
            (LEAST, "token: a\n", "unknown field `token`"),
        ] {
            let error = resolve(flags, file).unwrap_err();
            assert!(error.contains(wanted), "{error}");
        }
    }
}
