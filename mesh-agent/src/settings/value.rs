//! What each setting's text may be.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use rustls::pki_types::ServerName;
use serde::{Serialize, Serializer};

use crate::authz::Normalization;
use crate::kernel::KernelServices;
use crate::model::FailMode;
use crate::proxy::client_cert::ForwardClientCert;
use crate::source::Source;
use crate::telemetry::{AccessLogMode, LabelProfile};
use crate::trace;

/// Destinations that nothing knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum OutboundTrafficPolicy {
    /// Passed through untouched.
    #[default]
    AllowAny,
    /// Refused.
    RegistryOnly,
}

/// How pods of one node talk to each other (DESIGN 7).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum SameNode {
    /// In plain text across the node's own links.
    #[default]
    Direct,
    /// As between nodes: through the agent twice, in mutual TLS.
    Mtls,
}

/// What an agent does once another one has taken its place and its own connections are gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum WhenReplaced {
    /// It ends.
    #[default]
    Exit,
    /// It waits for a signal, and ends by itself only when nobody serves any more.
    Wait,
}

/// Who signs certificates.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Ca {
    /// A root that the agents of this machine share, for trying out.
    #[default]
    Dev,
    /// The chain and key of an authority, in cert-manager's layout.
    Files(PathBuf),
    /// Istio's CSR protocol at this HOST:PORT.
    Istio(String),
    /// The SPIFFE Workload API on this socket.
    Spiffe(PathBuf),
}

impl fmt::Display for Ca {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dev => f.write_str("dev"),
            Self::Files(dir) => write!(f, "files:{}", dir.display()),
            Self::Istio(authority) => write!(f, "istio:https://{authority}"),
            Self::Spiffe(socket) => write!(f, "spiffe:{}", socket.display()),
        }
    }
}

type Parsed<T> = Result<T, String>;

pub fn node_name(text: &str) -> Parsed<String> {
    let ok = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    if text.is_empty() || text.len() > 253 || !text.chars().all(ok) {
        return Err(format!("{text:?} isn't a node name: give the name that pods have as spec.nodeName"));
    }
    Ok(text.to_owned())
}

pub fn namespace(text: &str) -> Parsed<String> {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let edge = |b: Option<&u8>| b.is_some_and(|b| *b != b'-');
    let bytes = text.as_bytes();
    if bytes.len() > 63 || !bytes.iter().all(|b| inner(*b)) || !edge(bytes.first()) || !edge(bytes.last()) {
        return Err(format!("{text:?} isn't a namespace: expected at most 63 of a-z, 0-9 and '-'"));
    }
    Ok(text.to_owned())
}

/// This machine's.
pub fn host_name() -> String {
    nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_default()
}

/// Host names and addresses with commas between, at least one.
pub fn host_names(text: &str) -> Parsed<Vec<String>> {
    let name = |name: &str| match ServerName::try_from(name) {
        Ok(_) => Ok(name.to_owned()),
        Err(_) => Err(format!("{name:?} isn't a host name or an address")),
    };
    let names: Vec<_> = text.split(',').map(str::trim).map(name).collect::<Result<_, _>>()?;
    if names.is_empty() { Err("at least one name is needed".to_owned()) } else { Ok(names) }
}

/// `kube` inside a cluster; outside there is none.
pub fn default_source(in_cluster: bool) -> String {
    if in_cluster { "kube".into() } else { String::new() }
}

pub fn source(text: &str) -> Parsed<Source> {
    match text.split_once(':') {
        Some(("dir", "")) => Err("dir: needs a path, as in dir:/etc/mesh-agent/objects".into()),
        Some(("dir", path)) => Ok(Source::Dir(path.into())),
        _ if text == "kube" => Ok(Source::Kube),
        _ if text.is_empty() => {
            Err("no source is given: give dir:PATH, a directory of YAML files, or kube, the API server"
                .into())
        }
        _ => Err(format!("{text:?} isn't a source: expected dir:PATH or kube")),
    }
}

pub fn absolute(text: &str) -> Parsed<PathBuf> {
    let path = PathBuf::from(text);
    if path.is_absolute() { Ok(path) } else { Err(format!("{text:?} isn't an absolute path")) }
}

pub fn address(text: &str) -> Parsed<SocketAddr> {
    text.parse().map_err(|_| {
        format!("{text:?} isn't an address: expected IP:PORT, as in 0.0.0.0:15020 or [::]:15020")
    })
}

pub fn port(text: &str) -> Parsed<u16> {
    text.parse()
        .ok()
        .filter(|port| *port != 0)
        .ok_or_else(|| format!("{text:?} isn't a port: expected 1 to 65535"))
}

pub fn workers(text: &str) -> Parsed<usize> {
    let count = text.parse().ok().filter(|count| (1..=256).contains(count));
    count.ok_or_else(|| format!("{text:?} isn't a number of threads: expected 1 to 256"))
}

pub fn fail_mode(text: &str) -> Parsed<FailMode> {
    match text {
        "closed" => Ok(FailMode::Closed),
        "open" => Ok(FailMode::Open),
        _ => Err(unknown(text, "closed or open")),
    }
}

pub fn outbound_traffic_policy(text: &str) -> Parsed<OutboundTrafficPolicy> {
    match text {
        "allowAny" => Ok(OutboundTrafficPolicy::AllowAny),
        "registryOnly" => Ok(OutboundTrafficPolicy::RegistryOnly),
        _ => Err(unknown(text, "allowAny or registryOnly")),
    }
}

pub fn when_replaced(text: &str) -> Parsed<WhenReplaced> {
    match text {
        "exit" => Ok(WhenReplaced::Exit),
        "wait" => Ok(WhenReplaced::Wait),
        _ => Err(unknown(text, "exit or wait")),
    }
}

pub fn kernel_services(text: &str) -> Parsed<KernelServices> {
    match text {
        "enrolled" => Ok(KernelServices::Enrolled),
        "all" => Ok(KernelServices::All),
        "off" => Ok(KernelServices::Off),
        _ => Err(unknown(text, "enrolled, all or off")),
    }
}

pub fn metrics_labels(text: &str) -> Parsed<LabelProfile> {
    match text {
        "full" => Ok(LabelProfile::Full),
        "lean" => Ok(LabelProfile::Lean),
        _ => Err(unknown(text, "full or lean")),
    }
}

pub fn same_node(text: &str) -> Parsed<SameNode> {
    match text {
        "direct" => Ok(SameNode::Direct),
        "mtls" => Ok(SameNode::Mtls),
        _ => Err(unknown(text, "direct or mtls")),
    }
}

/// Istio's names.
pub fn path_normalization(text: &str) -> Parsed<Normalization> {
    match text {
        "NONE" => Ok(Normalization::None),
        "BASE" => Ok(Normalization::Base),
        "MERGE_SLASHES" => Ok(Normalization::MergeSlashes),
        "DECODE_AND_MERGE_SLASHES" => Ok(Normalization::DecodeAndMergeSlashes),
        _ => Err(unknown(text, "NONE, BASE, MERGE_SLASHES or DECODE_AND_MERGE_SLASHES")),
    }
}

pub fn trusted_hops(text: &str) -> Parsed<usize> {
    let hops = text.parse().ok().filter(|hops| *hops <= 64);
    hops.ok_or_else(|| format!("{text:?} isn't a number of proxies: expected 0 to 64"))
}

/// Envoy's names. The others pass on what clients say of themselves.
pub fn forward_client_cert(text: &str) -> Parsed<ForwardClientCert> {
    match text {
        "SANITIZE" => Ok(ForwardClientCert::Sanitize),
        "SANITIZE_SET" => Ok(ForwardClientCert::SanitizeSet),
        "FORWARD_ONLY" | "APPEND_FORWARD" | "ALWAYS_FORWARD_ONLY" => {
            Err(format!("{text} would let clients speak for others: expected SANITIZE or SANITIZE_SET"))
        }
        _ => Err(unknown(text, "SANITIZE or SANITIZE_SET")),
    }
}

/// A DNS name in lower case (SPIFFE ID, 2.1).
pub fn trust_domain(text: &str) -> Parsed<String> {
    let ok = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.' | '_');
    if text.is_empty() || text.len() > 255 || !text.chars().all(ok) {
        return Err(format!(
            "{text:?} isn't a trust domain: expected lower-case letters, digits, '.', '-' and '_'"
        ));
    }
    Ok(text.to_owned())
}

/// Trust domains with commas between.
pub fn trust_domains(text: &str) -> Parsed<Vec<String>> {
    let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
    names.map(trust_domain).collect()
}

pub fn ca(text: &str) -> Parsed<Ca> {
    let (kind, rest) = text.split_once(':').unwrap_or((text, ""));
    match kind {
        "dev" if text == "dev" => Ok(Ca::Dev),
        "files" => absolute(rest).map(Ca::Files),
        "istio" => authority(rest).map(Ca::Istio),
        // SPIFFE_ENDPOINT_SOCKET is written unix:///PATH.
        "spiffe" => absolute(rest.strip_prefix("unix://").unwrap_or(rest)).map(Ca::Spiffe),
        _ => Err(unknown(text, "dev, files:DIR, istio:https://HOST:PORT or spiffe:SOCKET")),
    }
}

/// `https://HOST:PORT`. Nothing else: a token would go over the wire in plain text.
fn authority(url: &str) -> Parsed<String> {
    let bad = || format!("{url:?} isn't the address of a certificate authority: expected https://HOST:PORT");
    let authority = url.strip_prefix("https://").map(|rest| rest.trim_end_matches('/')).ok_or_else(bad)?;
    let parsed: http::uri::Authority = authority.parse().map_err(|_| bad())?;
    let plain = !authority.contains('@') && !parsed.host().is_empty();
    if plain && parsed.port_u16().is_some_and(|port| port != 0) {
        Ok(authority.to_owned())
    } else {
        Err(bad())
    }
}

/// A name of a cluster, as it goes into a header.
pub fn cluster_id(text: &str) -> Parsed<String> {
    let ok = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | '/');
    if text.is_empty() || text.len() > 253 || !text.chars().all(ok) {
        return Err(format!(
            "{text:?} isn't the name of a cluster: expected letters, digits, '.', '-', '_' and '/'"
        ));
    }
    Ok(text.to_owned())
}

/// How long certificates live. Below ten seconds their renewal would be all that the agent does.
pub fn lifetime(text: &str) -> Parsed<Duration> {
    let lifetime = duration(text)?;
    match lifetime < Duration::from_secs(10) {
        true => Err(format!("{text:?} is too short for a certificate: at least 10s")),
        false => Ok(lifetime),
    }
}

/// A collector's URL.
pub fn otlp_endpoint(text: &str) -> Parsed<trace::Endpoint> {
    text.parse().map_err(|error: trace::BadEndpoint| error.to_string())
}

pub fn otlp_protocol(text: &str) -> Parsed<trace::Protocol> {
    match text {
        "grpc" => Ok(trace::Protocol::Grpc),
        "http" | "http/protobuf" => Ok(trace::Protocol::Http),
        _ => Err(format!("{text:?} isn't a protocol of OTLP: expected grpc or http")),
    }
}

/// A time that something can be done in.
pub fn otlp_timeout(text: &str) -> Parsed<Duration> {
    let timeout = duration(text)?;
    let fits = (Duration::from_millis(100)..=Duration::from_secs(60)).contains(&timeout);
    if fits { Ok(timeout) } else { Err(format!("{text:?} isn't from 100ms to 60s")) }
}

pub fn trace_sampling(text: &str) -> Parsed<trace::Ratio> {
    text.parse().map_err(|error: trace::BadRatio| error.to_string())
}

pub fn trace_limit(text: &str) -> Parsed<u32> {
    text.parse().map_err(|_| format!("{text:?} isn't a number of traces a second: expected 0 or more"))
}

/// `off`, or `errors`, or a duration, or both with a comma between.
pub fn trace_keep(text: &str) -> Parsed<trace::Keep> {
    let mut keep = trace::Keep::default();
    // `traceKeep: off` is `false` for YAML 1.1.
    if matches!(text, "off" | "false") {
        return Ok(keep);
    }
    for word in text.split(',').map(str::trim) {
        match word {
            "errors" => keep.errors = true,
            bound => keep.slow = Some(duration(bound).map_err(|_| {
                format!("{word:?} is neither errors nor a duration: expected errors, a duration such as 2s, errors,2s or off")
            })?),
        }
    }
    Ok(keep)
}

pub fn access_log(text: &str) -> Parsed<AccessLogMode> {
    // What `off` is called by parsers of YAML 1.1.
    let text = if text == "false" { "off" } else { text };
    text.parse().map_err(|error: crate::telemetry::ParseModeError| error.to_string())
}

/// For types that say themselves what is wrong with a text.
pub fn from_text<T: std::str::FromStr<Err: fmt::Display>>(text: &str) -> Parsed<T> {
    text.parse().map_err(|error: T::Err| error.to_string())
}

/// Names of headers with commas between; none is fine.
pub fn header_names(text: &str) -> Parsed<Vec<String>> {
    let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
    let name = |name: &str| match name.parse::<http::HeaderName>() {
        Ok(name) => Ok(name.as_str().to_owned()),
        Err(_) => Err(format!("{name:?} isn't the name of a header")),
    };
    names.map(name).collect()
}

pub fn log_filter(text: &str) -> Parsed<String> {
    match tracing_subscriber::EnvFilter::try_new(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(format!(
            "{text:?} isn't a log filter ({error}): expected, for example, info or mesh_agent=debug"
        )),
    }
}

/// A number and one of `ms`, `s`, `m`, `h`; at most a day.
///
/// # Errors
/// Says what was expected.
pub fn duration(text: &str) -> Parsed<Duration> {
    duration_up_to(text, 24)
}

/// Of a root certificate.
pub fn root_lifetime(text: &str) -> Parsed<Duration> {
    // Thirty years.
    let lifetime = duration_up_to(text, 30 * 365 * 24)?;
    match lifetime < Duration::from_secs(10) {
        true => Err(format!("{text:?} is too short for a root: at least 10s")),
        false => Ok(lifetime),
    }
}

fn duration_up_to(text: &str, hours: u32) -> Parsed<Duration> {
    let bad = || format!("{text:?} isn't a duration: expected a number with ms, s, m or h, as in 25s");
    let unit = text.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(bad)?;
    let (number, unit) = text.split_at(unit);
    let seconds = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(bad()),
    } * number.parse::<f64>().map_err(|_| bad())?;
    if seconds > 3600.0 * f64::from(hours) {
        return Err(format!("{text:?} is too long: at most {hours}h"));
    }
    Duration::try_from_secs_f64(seconds).map_err(|_| bad())
}

/// For `config dump`.
pub fn as_text<T: std::fmt::Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

/// In the form that [`duration`] reads.
pub fn as_duration<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    if value.subsec_millis() == 0 {
        serializer.collect_str(&format_args!("{}s", value.as_secs()))
    } else {
        serializer.collect_str(&format_args!("{}ms", value.as_millis()))
    }
}

fn unknown(text: &str, expected: &str) -> String {
    format!("{text:?} means nothing: expected {expected}")
}
