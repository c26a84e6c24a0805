//! A question for `authz check` as the facts that a judge asks for.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use http::header::HOST;
use http::{HeaderName, HeaderValue, Method, Request, Uri, request};

use super::Refusal;
use super::token::Token;
use crate::admin::api::AuthzQuestion;
use crate::model::{ObjectName, ServicePort, Snapshot, Workload};

/// A question that makes sense.
#[derive(Debug)]
pub struct Asked {
    /// Who, in words.
    pub from: String,
    /// Its proven identity.
    pub identity: Option<String>,
    /// Its address.
    pub source: IpAddr,
    /// None for a connection.
    pub head: Option<request::Parts>,
    /// The request's host.
    pub host: Option<String>,
    /// The request's token.
    pub token: Option<Token>,
    /// What is asked for, in words.
    pub shown: String,
    /// The pods.
    pub meant: Vec<Meant>,
    /// What else matters.
    pub notes: Vec<String>,
}

/// A pod that is asked.
#[derive(Debug)]
pub struct Meant {
    /// Which.
    pub workload: Arc<Workload>,
    /// Where.
    pub address: SocketAddr,
    /// Its port is declared to carry bytes.
    opaque: bool,
}

impl Asked {
    /// Takes a question apart.
    pub fn new(snapshot: &Snapshot, question: &AuthzQuestion) -> Result<Self, Refusal> {
        let mut notes = Vec::new();
        let meant = meant(snapshot, question)?;
        for meant in meant.iter().filter(|meant| !meant.workload.is_enrolled()) {
            notes.push(format!(
                "pod {} isn't captured: nothing is enforced there, whatever policies say",
                meant.workload.name
            ));
        }
        let (from, identity, source) = client(snapshot, &question.from, &mut notes)?;
        let about_requests = question.method.is_some()
            || question.path.is_some()
            || question.host.is_some()
            || question.jwt.is_some()
            || !question.headers.is_empty();
        let opaque = !about_requests && meant.iter().all(|meant| meant.opaque);
        let usual = usual_host(&question.to);
        let host = question.host.clone().or(usual).filter(|_| !opaque);
        let head = (!opaque).then(|| head(question, host.as_deref())).transpose()?;
        let token = question.jwt.as_deref().map(Token::new).transpose().map_err(Refusal::Question)?;
        if matches!(token, Some(Token::Claims(_))) {
            notes
                .push("the claims are taken for those of a valid token: nobody has verified them".to_owned());
        }
        let shown = match &head {
            Some(head) => format!("{} {} of {}", head.method, head.uri, host.as_deref().unwrap_or("no host")),
            None => "a connection that carries no requests".to_owned(),
        };
        Ok(Self { from, identity, source, head, host, token, shown, meant, notes })
    }
}

fn usual_host(to: &str) -> Option<String> {
    to.rsplit('/').next().map(str::to_owned)
}

/// `KIND/NAMESPACE/NAME`, or `KIND/NAME` in the namespace `default`.
fn named<'t>(text: &'t str, kinds: &[&str]) -> Option<(&'t str, ObjectName)> {
    let parts: Vec<&str> = text.split('/').collect();
    let (kind, name) = match parts.as_slice() {
        [kind, namespace, name] => (*kind, ObjectName::new(*namespace, *name)),
        [kind, name] => (*kind, ObjectName::new("default", *name)),
        _ => return None,
    };
    (kinds.contains(&kind) && !name.name.is_empty()).then_some((kind, name))
}

/// Who asks: in words, its identity as far as the agent takes it for proven, its address.
fn client(
    snapshot: &Snapshot,
    from: &str,
    notes: &mut Vec<String>,
) -> Result<(String, Option<String>, IpAddr), Refusal> {
    let domain = snapshot.authorization.options.trust_domains.first().map_or("cluster.local", String::as_str);
    if let Ok(ip) = from.parse::<IpAddr>() {
        return Ok(match snapshot.workload_at(ip) {
            Some(workload) => of_pod(snapshot, workload, domain, Some(ip), notes),
            None => {
                notes.push("nothing proves who uses this address: it has no identity".to_owned());
                (ip.to_string(), None, ip)
            }
        });
    }
    let what = || {
        let message =
            format!("{from:?} is nobody: expected pod/NAMESPACE/NAME, sa/NAMESPACE/NAME or an address");
        Refusal::Question(message)
    };
    let (kind, name) = named(from, &["pod", "sa"]).ok_or_else(what)?;
    if kind == "sa" {
        notes.push("a service account alone has no address: ipBlocks are compared with 0.0.0.0".to_owned());
        let identity = format!("spiffe://{domain}/ns/{}/sa/{}", name.namespace, name.name);
        return Ok((format!("service account {name}"), Some(identity), Ipv4Addr::UNSPECIFIED.into()));
    }
    let pod = snapshot.workloads.get(&name);
    let pod =
        pod.ok_or_else(|| Refusal::Unknown(format!("there is no pod {name}: `mesh-agent get workloads`")))?;
    Ok(of_pod(snapshot, pod, domain, None, notes))
}

/// As the data path has it: proven are captured pods, those of this node by their network namespace and others by their
/// certificates.
fn of_pod(
    snapshot: &Snapshot,
    pod: &Workload,
    domain: &str,
    at: Option<IpAddr>,
    notes: &mut Vec<String>,
) -> (String, Option<String>, IpAddr) {
    let source = at.or_else(|| pod.addresses.first().copied()).unwrap_or(Ipv4Addr::UNSPECIFIED.into());
    let proven = pod.is_enrolled();
    if !proven {
        notes.push(format!(
            "nothing proves who pod {} is, since it isn't captured: it has no identity",
            pod.name
        ));
    } else if *pod.node != *snapshot.node {
        notes.push(format!(
            "pod {} is on another node: it proves who it is by mutual TLS, which a PeerAuthentication with DISABLE keeps it from",
            pod.name
        ));
    }
    (format!("pod {}", pod.name), proven.then(|| pod.spiffe_id(domain)), source)
}

fn meant(snapshot: &Snapshot, question: &AuthzQuestion) -> Result<Vec<Meant>, Refusal> {
    let what = || {
        let message = format!(
            "{:?} is nothing to call: expected pod/NAMESPACE/NAME or svc/NAMESPACE/NAME",
            question.to
        );
        Refusal::Question(message)
    };
    let (kind, name) = named(&question.to, &["pod", "svc"]).ok_or_else(what)?;
    if kind == "svc" {
        return of_service(snapshot, &name, question.port);
    }
    let pod = snapshot.workloads.get(&name);
    let pod =
        pod.ok_or_else(|| Refusal::Unknown(format!("there is no pod {name}: `mesh-agent get workloads`")))?;
    let ip = pod.addresses.first().copied();
    let ip = ip.ok_or_else(|| Refusal::Unknown(format!("pod {name} has no address yet")))?;
    let behind = snapshot.by_endpoint.iter().filter(|(address, _)| address.ip() == ip);
    let behind: Vec<_> = behind.map(|(address, port)| (address.port(), port)).collect();
    let number = match (question.port, behind.as_slice()) {
        (Some(port), _) => port,
        (None, [(port, _)]) => *port,
        (None, _) => return Err(Refusal::Question(format!("which port of pod {name}? Give --port"))),
    };
    let opaque = behind.iter().any(|(port, behind)| *port == number && is_opaque(behind));
    Ok(vec![Meant { workload: pod.clone(), address: SocketAddr::new(ip, number), opaque }])
}

fn of_service(snapshot: &Snapshot, name: &ObjectName, port: Option<u16>) -> Result<Vec<Meant>, Refusal> {
    let service = snapshot.services.get(name);
    let service = service.ok_or_else(|| Refusal::Unknown(format!("there is no Service {name}")))?;
    let found = match (port, service.ports.as_slice()) {
        (Some(number), ports) => ports.iter().find(|port| port.port == number),
        (None, [only]) => Some(only),
        (None, _) => None,
    };
    let port =
        found.ok_or_else(|| Refusal::Question(format!("which port of Service {name}? Give --port")))?;
    let pods = port.endpoints.all.iter().filter_map(|endpoint| {
        let workload = endpoint.workload.clone()?;
        Some(Meant { workload, address: endpoint.addr.socket_addr(), opaque: is_opaque(port) })
    });
    let meant: Vec<_> = pods.collect();
    if meant.is_empty() {
        return Err(Refusal::Unknown(format!("no pod is behind Service {name} port {}", port.port)));
    }
    Ok(meant)
}

fn is_opaque(port: &ServicePort) -> bool {
    use crate::model::AppProtocol::{Tcp, Tls};
    matches!(port.protocol, Tcp | Tls)
}

fn head(question: &AuthzQuestion, host: Option<&str>) -> Result<request::Parts, Refusal> {
    let bad = |what: String| Refusal::Question(what);
    let method = question.method.as_deref().unwrap_or("GET");
    let method = Method::from_bytes(method.as_bytes())
        .map_err(|_| bad(format!("{method:?} is no method of HTTP's")))?;
    let path = question.path.as_deref().unwrap_or("/");
    let uri: Uri = path.parse().map_err(|error| bad(format!("{path:?} is no path: {error}")))?;
    let (mut head, ()) = Request::new(()).into_parts();
    (head.method, head.uri) = (method, uri);
    for line in &question.headers {
        let parsed = line.split_once(':').and_then(|(name, value)| {
            let name: HeaderName = name.trim().parse().ok()?;
            let value: HeaderValue = value.trim().parse().ok()?;
            Some((name, value))
        });
        let (name, value) =
            parsed.ok_or_else(|| bad(format!("{line:?} is no header: expected 'name: value'")))?;
        head.headers.append(name, value);
    }
    if let Some(host) = host {
        let host = HeaderValue::try_from(host).map_err(|_| bad(format!("{host:?} is no host")))?;
        head.headers.entry(HOST).or_insert(host);
    }
    Ok(head)
}
