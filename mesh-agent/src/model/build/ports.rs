//! What a service port is declared to speak, and how its endpoints are chosen.

use std::time::Duration;

use super::service_key;
use crate::model::{AppProtocol, LoadBalancer, ObjectName, ProtocolFrom, Warning, WarningCode};
use crate::objects::{Service, ServicePortSpec};
use crate::trace::{BadRatio, Ratio};

/// Annotation of a Service.
pub const LOAD_BALANCER: &str = "mesh-agent.dev/load-balancer";
/// Annotation of Services: a ratio from 0 to 1.
pub const TRACE_SAMPLING: &str = "mesh-agent.dev/trace-sampling";

/// `appProtocol`, else the port name's prefix (Istio, "Protocol selection"), else detection; and which of them it was.
pub fn protocol(
    service: &ObjectName,
    port: &ServicePortSpec,
    warnings: &mut Vec<Warning>,
) -> (AppProtocol, ProtocolFrom) {
    if let Some(declared) = port.app_protocol.as_deref().filter(|declared| !declared.is_empty()) {
        if let Some(protocol) = from_app_protocol(declared) {
            return (protocol, ProtocolFrom::AppProtocol);
        }
        let message = format!(
            "{declared:?} isn't known here: expected http, http2, grpc, https, tls, tcp or kubernetes.io/h2c; the port's \
             name decides, else the first bytes do"
        );
        let field = format!("spec.ports[{}].appProtocol", port.port.0);
        warnings.push(Warning::new(WarningCode::UnknownValue, service_key(service), field, message));
    }
    match from_name(&port.name) {
        Some(protocol) => (protocol, ProtocolFrom::PortName),
        None => (AppProtocol::default(), ProtocolFrom::Detection),
    }
}

/// Values of `appProtocol` in any case, as Istio reads them; the kubernetes.io ones are KEP-3726's.
pub fn from_app_protocol(value: &str) -> Option<AppProtocol> {
    let value = value.to_ascii_lowercase();
    Some(match value.strip_prefix("kubernetes.io/").unwrap_or(&value) {
        "http" | "ws" => AppProtocol::Http,
        "http2" | "h2c" => AppProtocol::Http2,
        "grpc" => AppProtocol::Grpc,
        "grpc-web" => AppProtocol::Http,
        "https" | "tls" | "wss" => AppProtocol::Tls,
        "tcp" | "mongo" | "redis" | "mysql" | "postgres" | "postgresql" | "kafka" | "amqp" => {
            AppProtocol::Tcp
        }
        _ => return None,
    })
}

/// `PREFIX` or `PREFIX-anything`.
pub fn from_name(name: &str) -> Option<AppProtocol> {
    let name = name.to_ascii_lowercase();
    if name == "grpc-web" || name.starts_with("grpc-web-") {
        return Some(AppProtocol::Http);
    }
    Some(match name.split('-').next().unwrap_or_default() {
        "http" => AppProtocol::Http,
        "http2" => AppProtocol::Http2,
        "grpc" => AppProtocol::Grpc,
        "https" | "tls" => AppProtocol::Tls,
        "tcp" | "mongo" | "redis" | "mysql" => AppProtocol::Tcp,
        _ => return None,
    })
}

/// The annotation, else the default.
pub fn load_balancer(name: &ObjectName, service: &Service, warnings: &mut Vec<Warning>) -> LoadBalancer {
    match service.metadata.annotation(LOAD_BALANCER) {
        None | Some("PEAK_EWMA") => LoadBalancer::PeakEwma,
        Some("LEAST_REQUEST") => LoadBalancer::LeastRequest,
        Some("ROUND_ROBIN") => LoadBalancer::RoundRobin,
        Some("RANDOM") => LoadBalancer::Random,
        Some(value) => {
            let message = format!(
                "{value:?} means nothing: expected PEAK_EWMA, LEAST_REQUEST, ROUND_ROBIN or RANDOM; PEAK_EWMA is used"
            );
            let field = format!("metadata.annotations[{LOAD_BALANCER}]");
            warnings.push(Warning::new(WarningCode::UnknownValue, service_key(name), field, message));
            LoadBalancer::PeakEwma
        }
    }
}

/// The annotation, if it is a ratio.
pub fn trace_sampling(name: &ObjectName, service: &Service, warnings: &mut Vec<Warning>) -> Option<Ratio> {
    let value = service.metadata.annotation(TRACE_SAMPLING)?;
    let refuse = |error: BadRatio| {
        let message = format!("{error}; traces of its requests are sampled as the agent's setting says");
        let field = format!("metadata.annotations[{TRACE_SAMPLING}]");
        warnings.push(Warning::new(WarningCode::UnknownValue, service_key(name), field, message));
    };
    value.parse().map_err(refuse).ok()
}

/// `sessionAffinity: ClientIP` with its timeout.
pub fn affinity(service: &Service) -> Option<Duration> {
    service.affinity_seconds().map(|seconds| Duration::from_secs(seconds.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_names_declare_protocols_by_prefix() {
        fn check(name: &str, want: Option<AppProtocol>) {
            assert_eq!(from_name(name), want, "{name}");
        }
        check("http", Some(AppProtocol::Http));
        check("http-admin", Some(AppProtocol::Http));
        check("http2-x", Some(AppProtocol::Http2));
        check("grpc", Some(AppProtocol::Grpc));
        check("grpc-web-x", Some(AppProtocol::Http));
        check("https", Some(AppProtocol::Tls));
        check("tls-x", Some(AppProtocol::Tls));
        check("mysql", Some(AppProtocol::Tcp));
        check("httpx", None);
        check("web", None);
        check("", None);
    }

    #[test]
    fn app_protocol_is_read_in_any_case() {
        fn check(value: &str, want: Option<AppProtocol>) {
            assert_eq!(from_app_protocol(value), want, "{value}");
        }
        check("HTTP", Some(AppProtocol::Http));
        check("kubernetes.io/h2c", Some(AppProtocol::Http2));
        check("kubernetes.io/ws", Some(AppProtocol::Http));
        check("kubernetes.io/wss", Some(AppProtocol::Tls));
        check("https", Some(AppProtocol::Tls));
        check("example.com/own", None);
    }
}
