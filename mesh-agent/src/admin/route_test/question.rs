//! A question for `route test` as the data path would meet it: which pod, which address, which head.

use std::net::{IpAddr, SocketAddr};

use http::header::{CONTENT_TYPE, HOST, HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, Method, Request, Uri, request};

use super::Refusal;
use crate::admin::api::RouteQuestion;
use crate::model::{ObjectName, Service, Snapshot};

/// A question that makes sense.
#[derive(Debug)]
pub struct Asked {
    /// The pod.
    pub from: ObjectName,
    /// `http`, `https` or `tcp`.
    pub scheme: String,
    /// Host of the URL, in lower case, an IPv6 address without brackets.
    pub host: String,
    /// Port of the URL.
    pub port: u16,
    /// The request.
    pub head: request::Parts,
}

/// What the pod's resolver makes of the host.
#[derive(Debug, PartialEq, Eq)]
pub enum Dialled {
    /// An address.
    Address(SocketAddr),
    /// A Service that has none, and no endpoint either.
    Nowhere(ObjectName),
    /// Nothing that the agent knows of.
    Unknown,
}

impl Asked {
    /// Takes a question apart.
    pub fn new(question: &RouteQuestion) -> Result<Self, Refusal> {
        let url = if question.url.contains("://") {
            question.url.clone()
        } else {
            format!("http://{}", question.url)
        };
        let bad = |what: &str| Refusal::Question(format!("{:?} is no URL to ask for: {what}", question.url));
        let uri: Uri = url.parse().map_err(|error: http::uri::InvalidUri| bad(&error.to_string()))?;
        let scheme = uri.scheme_str().unwrap_or_default().to_owned();
        let port = match (uri.port_u16(), scheme.as_str()) {
            (Some(port), "http" | "https" | "tcp") => port,
            (None, "http") => 80,
            (None, "https") => 443,
            (None, "tcp") => return Err(bad("tcp:// needs a port")),
            _ => return Err(bad("expected http://, https:// or tcp://")),
        };
        let authority = uri.authority().ok_or_else(|| bad("it has no host"))?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        let head = head(question, &uri, authority)?;
        Ok(Self { from: pod(&question.from)?, scheme, host, port, head })
    }

    /// What the host stands for in the pod, by the cluster's DNS.
    pub fn dial(&self, snapshot: &Snapshot) -> Dialled {
        if let Ok(ip) = self.host.parse::<IpAddr>() {
            return Dialled::Address(SocketAddr::new(ip, self.port));
        }
        let Some(service) = self.service(snapshot) else { return Dialled::Unknown };
        // A headless Service's name is its endpoints' addresses.
        let endpoints = service.ports.iter().flat_map(|port| &port.endpoints.available);
        let endpoint = endpoints.map(|endpoint| endpoint.addr.ip()).next();
        match service.vips.first().copied().or(endpoint) {
            Some(ip) => Dialled::Address(SocketAddr::new(ip, self.port)),
            None => Dialled::Nowhere(service.meta.name.clone()),
        }
    }

    fn service<'s>(&self, snapshot: &'s Snapshot) -> Option<&'s Service> {
        let host = self.host.trim_end_matches('.');
        let mut labels = host.splitn(3, '.');
        let (name, namespace) = (labels.next()?, labels.next().unwrap_or(&self.from.namespace));
        let service = snapshot.services.get(&ObjectName::new(namespace, name))?;
        let known = match labels.next() {
            None | Some("svc") => true,
            Some(_) => host == service.meta.host,
        };
        known.then_some(service)
    }
}

/// `pod/NAMESPACE/NAME`, `pod/NAME`; the word may be left out.
fn pod(text: &str) -> Result<ObjectName, Refusal> {
    let parts: Vec<&str> = text.split('/').collect();
    match parts.as_slice() {
        ["pod", namespace, name] => Ok(ObjectName::new(*namespace, *name)),
        ["pod", name] | [name] if !name.is_empty() => Ok(ObjectName::new("default", *name)),
        [namespace, name] if *namespace != "pod" => Ok(ObjectName::new(*namespace, *name)),
        _ => Err(Refusal::Question(format!("{text:?} names no pod: expected pod/NAMESPACE/NAME"))),
    }
}

/// As the data path has it: HTTP/1 with Host, a gRPC call with what HTTP/2 calls `:authority`.
fn head(question: &RouteQuestion, uri: &Uri, authority: &Authority) -> Result<request::Parts, Refusal> {
    let bad = |what: String| Refusal::Question(what);
    let usual = if question.grpc { Method::POST } else { Method::GET };
    let method = match &question.method {
        Some(method) => Method::from_bytes(method.as_bytes())
            .map_err(|_| bad(format!("{method:?} is no method of HTTP's")))?,
        None => usual,
    };
    let mut headers = HeaderMap::new();
    for line in &question.headers {
        let (name, value) = parse_header(line)
            .ok_or_else(|| bad(format!("{line:?} is no header: expected 'name: value'")))?;
        headers.append(name, value);
    }
    let path = uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    let host = headers.get(HOST).cloned();
    let target = if question.grpc {
        headers.entry(CONTENT_TYPE).or_insert(HeaderValue::from_static("application/grpc"));
        headers.remove(HOST);
        let named = host.as_ref().and_then(|host| Authority::try_from(host.as_bytes()).ok());
        let whole = Uri::builder().scheme("http").authority(named.unwrap_or_else(|| authority.clone()));
        whole.path_and_query(path).build()
    } else {
        if host.is_none() {
            let host = HeaderValue::try_from(authority.as_str());
            headers.insert(HOST, host.map_err(|error| bad(error.to_string()))?);
        }
        Uri::builder().path_and_query(path).build()
    };
    let target = target.map_err(|error| bad(error.to_string()))?;
    let request = Request::builder().method(method).uri(target).body(());
    let (mut head, ()) = request.map_err(|error| bad(error.to_string()))?.into_parts();
    head.headers = headers;
    Ok(head)
}

fn parse_header(line: &str) -> Option<(HeaderName, HeaderValue)> {
    let (name, value) = line.split_once(':')?;
    Some((name.trim().parse().ok()?, value.trim().parse().ok()?))
}
