//! What kubelet asks a pod's containers: probes, and hooks that are requests.
//!
//! Read so that plain text is let in for exactly that where everything else must be mutual TLS; `model::probe` is what the
//! data path goes by. What kubelet can't send to the pod (another host, a port without that name) is left out.

use serde::Deserialize;

use super::Container;
use crate::model::{PortProbe, Probe};
use crate::objects::field::{PortOrName, nullable};

/// What is read of a probe, and of a hook, which has the same fields.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProbeSpec {
    /// A request.
    #[serde(default)]
    http_get: Option<HttpGet>,
    /// A connection.
    #[serde(default)]
    tcp_socket: Option<TcpSocket>,
    /// A call of the gRPC health protocol.
    #[serde(default)]
    grpc: Option<Grpc>,
}

/// What is read of `lifecycle`. Kubelet makes no connection for a hook's `tcpSocket`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Lifecycle {
    #[serde(default)]
    post_start: Option<ProbeSpec>,
    #[serde(default)]
    pre_stop: Option<ProbeSpec>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct HttpGet {
    #[serde(default, deserialize_with = "nullable")]
    path: String,
    port: PortOrName,
    #[serde(default, deserialize_with = "nullable")]
    host: String,
    #[serde(default, deserialize_with = "nullable")]
    scheme: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct TcpSocket {
    port: PortOrName,
    #[serde(default, deserialize_with = "nullable")]
    host: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct Grpc {
    port: PortOrName,
}

/// All that is sent to the ports of `containers`, each once.
pub(super) fn of<'c>(containers: impl Iterator<Item = &'c Container>) -> Vec<PortProbe> {
    let mut all: Vec<PortProbe> = containers.flat_map(of_container).collect();
    all.sort();
    all.dedup();
    all
}

fn of_container(container: &Container) -> Vec<PortProbe> {
    let probes = [&container.liveness_probe, &container.readiness_probe, &container.startup_probe];
    let probes = probes.into_iter().flatten();
    let hooks = container.lifecycle.iter().flat_map(|hooks| hooks.post_start.iter().chain(&hooks.pre_stop));
    let hooks = hooks.filter_map(|hook| http(hook.http_get.as_ref()?, container));
    probes.flat_map(|probe| sent_by(probe, container)).chain(hooks).collect()
}

fn sent_by(probe: &ProbeSpec, container: &Container) -> Vec<PortProbe> {
    let number = |port: &PortOrName| port.number(|name| container.port_named(name));
    let tcp = probe.tcp_socket.iter().filter(|tcp| tcp.host.is_empty());
    let tcp = tcp.filter_map(|tcp| Some(PortProbe { port: number(&tcp.port)?, probe: Probe::Tcp }));
    let grpc = probe.grpc.iter();
    let grpc = grpc.filter_map(|grpc| Some(PortProbe { port: number(&grpc.port)?, probe: Probe::Grpc }));
    let http = probe.http_get.iter().filter_map(|get| http(get, container));
    tcp.chain(grpc).chain(http).collect()
}

fn http(get: &HttpGet, container: &Container) -> Option<PortProbe> {
    // Else it goes to that host, which isn't the pod.
    let port = get.port.number(|name| container.port_named(name)).filter(|_| get.host.is_empty())?;
    let probe = match get.scheme.eq_ignore_ascii_case("https") {
        true => Probe::Https,
        false => Probe::Http { target: target(&get.path) },
    };
    Some(PortProbe { port, probe })
}

/// The request target that kubelet makes of a path: parsed as a URL, the fragment left out, and what may not stand in a
/// target percent-encoded (Go, `net/url`, `EscapedPath` and `RequestURI`).
fn target(path: &str) -> String {
    let path = path.split('#').next().unwrap_or_default();
    let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
    let mut target = String::with_capacity(path.len() + 1);
    if path.is_empty() {
        target.push('/');
    }
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~$&+,/:;=@!'()*[]%".contains(&byte) {
            target.push(char::from(byte));
        } else {
            target.push_str(&format!("%{byte:02X}"));
        }
    }
    if let Some(query) = query.filter(|query| !query.is_empty()) {
        target.push('?');
        target.push_str(query);
    }
    target
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn probes(containers: &str) -> Vec<String> {
        let containers: Vec<Container> = serde_yaml_ng::from_str(containers).unwrap();
        of(containers.iter()).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn probes_are_found_wherever_kubelet_makes_them() {
        let text = "
- ports: [{name: web, containerPort: 8080}, {name: dns, containerPort: 53, protocol: UDP}]
  livenessProbe: {httpGet: {path: /live, port: web}, periodSeconds: 3}
  readinessProbe: {httpGet: {path: '/ready?full=1', port: 8081, httpHeaders: [{name: a, value: b}]}}
  startupProbe: {tcpSocket: {port: web}}
  lifecycle: {postStart: {httpGet: {path: /started, port: web}}, preStop: {exec: {command: [a]}}}
- livenessProbe: {grpc: {port: 9000, service: x}}
  readinessProbe: {httpGet: {path: /, port: 8443, scheme: HTTPS}}
  startupProbe: {exec: {command: [a]}}
";
        assert_eq!(
            probes(text),
            [
                "8080 GET /live",
                "8080 GET /started",
                "8080 tcp connection",
                "8081 GET /ready?full=1",
                "8443 https",
                "9000 grpc health check"
            ]
        );
    }

    #[test]
    fn what_does_not_reach_the_pod_is_left_out() {
        // A name is one of the same container.
        let text = "
- ports: [{name: web, containerPort: 8080}]
- livenessProbe: {httpGet: {port: web}}
  readinessProbe: {httpGet: {port: 80, host: 192.0.2.1}}
  startupProbe: {tcpSocket: {port: 80, host: example.test}}
  lifecycle: {preStop: {tcpSocket: {port: 80}}}
";
        assert_eq!(probes(text), [""; 0]);
        assert_eq!(
            probes(
                "[{livenessProbe: {tcpSocket: {port: '8080'}}}, {livenessProbe: {tcpSocket: {port: 8080}}}]"
            ),
            ["8080 tcp connection"]
        );
    }

    #[test]
    fn a_target_is_what_kubelet_sends() {
        for (path, want) in [
            ("", "/"),
            ("/", "/"),
            ("/a b", "/a%20b"),
            ("/a%20b", "/a%20b"),
            ("/h?x=1&y=a/b", "/h?x=1&y=a/b"),
            ("/h?", "/h"),
            ("/h#there", "/h"),
            ("?x", "/?x"),
            ("/caf\u{e9}", "/caf%C3%A9"),
        ] {
            assert_eq!(target(path), want, "{path}");
        }
    }
}
