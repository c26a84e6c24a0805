//! Who is asked: `extensionProviders` of the configuration file, in the shape of Istio's MeshConfig.
//!
//! Only the two kinds that authorize; what can't be carried out is refused when the agent starts, by name, so that no policy
//! counts on it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, StatusCode};
use serde::{Deserialize, Serialize};

use super::headers::{HeaderList, is_framing};
use crate::objects::GoDuration;

/// As the configuration file has it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExtensionProvider {
    /// What policies call it.
    pub name: String,
    /// Asked by gRPC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub envoy_ext_authz_grpc: Option<GrpcProvider>,
    /// Asked by HTTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub envoy_ext_authz_http: Option<HttpProvider>,
}

/// `envoyExtAuthzGrpc`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct GrpcProvider {
    /// `[NAMESPACE/]HOST`.
    pub service: String,
    /// Its port.
    pub port: u16,
    /// For an answer; 600 s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
    /// Requests pass while it gives no answer.
    pub fail_open: bool,
    /// What clients are told while it gives no answer; 403.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status_on_error: Option<String>,
    /// Routes were decided by the client's agent before: true means nothing here.
    pub clear_route_cache: bool,
    /// Refused: bodies aren't sent.
    #[serde(skip_serializing)]
    pub include_request_body_in_check: Option<serde_json::Value>,
}

/// `envoyExtAuthzHttp`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct HttpProvider {
    /// `[NAMESPACE/]HOST`.
    pub service: String,
    /// Its port.
    pub port: u16,
    /// For an answer; 600 s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
    /// Before the request's own path.
    pub path_prefix: String,
    /// Requests pass while it gives no answer.
    pub fail_open: bool,
    /// What clients are told while it gives no answer; 403.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status_on_error: Option<String>,
    /// Routes were decided by the client's agent before: true means nothing here.
    pub clear_route_cache: bool,
    /// Headers of the request that it is told.
    #[serde(alias = "includeHeadersInCheck")]
    pub include_request_headers_in_check: Vec<String>,
    /// Headers that it is told of every request.
    pub include_additional_headers_in_check: BTreeMap<String, String>,
    /// Refused: bodies aren't sent.
    #[serde(skip_serializing)]
    pub include_request_body_in_check: Option<serde_json::Value>,
    /// Headers of its answer that the application gets.
    pub headers_to_upstream_on_allow: Vec<String>,
    /// Headers of its answer that a refused client gets; none for all.
    pub headers_to_downstream_on_deny: Vec<String>,
    /// Headers of its answer that an allowed client gets.
    pub headers_to_downstream_on_allow: Vec<String>,
}

/// Who is asked, valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provider {
    /// What policies call it.
    pub name: String,
    /// `HOST`, or `NAMESPACE/HOST`.
    pub service: String,
    /// Its port.
    pub port: u16,
    /// For connecting, asking and the answer.
    pub timeout: Duration,
    /// Requests pass while it gives no answer.
    pub fail_open: bool,
    /// What clients are told while it gives no answer.
    pub status_on_error: StatusCode,
    /// How it is asked.
    pub protocol: Protocol,
}

/// How a provider is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// `envoy.service.auth.v3.Authorization/Check`.
    Grpc,
    /// The request's head once more, to another path.
    Http {
        /// Before the request's own path.
        prefix: String,
        /// Headers of the request that it is told.
        told: HeaderList,
        /// Headers that it is told of every request.
        more: Vec<(HeaderName, HeaderValue)>,
        /// Headers of its answer that the application gets.
        upstream: HeaderList,
        /// Headers of its answer that a refused client gets; empty for all.
        on_deny: HeaderList,
        /// Headers of its answer that an allowed client gets.
        on_allow: HeaderList,
    },
}

/// Istio's default, which leaves the limit to others.
const TIMEOUT: Duration = Duration::from_secs(600);

/// All providers, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Providers(Arc<HashMap<String, Arc<Provider>>>);

impl Providers {
    /// Of the configuration file's list.
    ///
    /// # Errors
    /// What is wrong with which of them.
    pub fn new(list: &[ExtensionProvider]) -> Result<Self, String> {
        let mut all = HashMap::new();
        for (at, written) in list.iter().enumerate() {
            let provider = written
                .read()
                .map_err(|message| format!("extensionProviders[{at}] ({}): {message}", written.name))?;
            if all.insert(provider.name.clone(), Arc::new(provider)).is_some() {
                return Err(format!("extensionProviders[{at}]: {:?} is given twice", written.name));
            }
        }
        Ok(Self(Arc::new(all)))
    }

    /// The one with this name.
    pub fn get(&self, name: &str) -> Option<&Arc<Provider>> {
        self.0.get(name)
    }

    /// Their names, sorted.
    pub fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.0.keys().map(String::as_str).collect();
        names.sort_unstable();
        names
    }
}

impl ExtensionProvider {
    fn read(&self) -> Result<Provider, String> {
        if self.name.is_empty() {
            return Err("needs a name".to_owned());
        }
        match (&self.envoy_ext_authz_grpc, &self.envoy_ext_authz_http) {
            (Some(grpc), None) => self.grpc(grpc),
            (None, Some(http)) => self.http(http),
            _ => Err("expected one of envoyExtAuthzGrpc and envoyExtAuthzHttp".to_owned()),
        }
    }

    fn grpc(&self, written: &GrpcProvider) -> Result<Provider, String> {
        no_body(written.include_request_body_in_check.as_ref())?;
        Ok(Provider {
            name: self.name.clone(),
            service: service(&written.service)?,
            port: port(written.port)?,
            timeout: timeout(written.timeout.as_deref())?,
            fail_open: written.fail_open,
            status_on_error: status(written.status_on_error.as_deref())?,
            protocol: Protocol::Grpc,
        })
    }

    fn http(&self, written: &HttpProvider) -> Result<Provider, String> {
        no_body(written.include_request_body_in_check.as_ref())?;
        let prefix = written.path_prefix.clone();
        let bad = |c: char| !c.is_ascii_graphic() || matches!(c, '?' | '#');
        if !(prefix.is_empty() || prefix.starts_with('/')) || prefix.contains(bad) {
            return Err(format!("pathPrefix {prefix:?}: expected a path that begins with /"));
        }
        let mut more = Vec::new();
        for (name, value) in &written.include_additional_headers_in_check {
            let header = HeaderName::try_from(name).ok().filter(|name| !is_framing(name));
            match (header, HeaderValue::try_from(value)) {
                (Some(name), Ok(value)) => more.push((name, value)),
                _ => {
                    return Err(format!(
                        "includeAdditionalHeadersInCheck: {name:?} can't be sent as a header"
                    ));
                }
            }
        }
        Ok(Provider {
            name: self.name.clone(),
            service: service(&written.service)?,
            port: port(written.port)?,
            timeout: timeout(written.timeout.as_deref())?,
            fail_open: written.fail_open,
            status_on_error: status(written.status_on_error.as_deref())?,
            protocol: Protocol::Http {
                prefix,
                told: HeaderList::new(&written.include_request_headers_in_check),
                more,
                upstream: HeaderList::new(&written.headers_to_upstream_on_allow),
                on_deny: HeaderList::new(&written.headers_to_downstream_on_deny),
                on_allow: HeaderList::new(&written.headers_to_downstream_on_allow),
            },
        })
    }
}

fn no_body(written: Option<&serde_json::Value>) -> Result<(), String> {
    match written {
        None | Some(serde_json::Value::Null) => Ok(()),
        Some(_) => {
            Err("includeRequestBodyInCheck is not supported by this version: the provider would decide \
                        without the body that it asks for; remove the field if it can"
                .to_owned())
        }
    }
}

fn service(text: &str) -> Result<String, String> {
    let parts: Vec<&str> = text.split('/').collect();
    let ok = |part: &&str| {
        !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_'))
    };
    if parts.len() <= 2 && parts.iter().all(ok) {
        return Ok(text.to_ascii_lowercase());
    }
    Err(format!(
        "service {text:?}: expected HOST or NAMESPACE/HOST, such as ext-authz.shop.svc.cluster.local"
    ))
}

fn port(port: u16) -> Result<u16, String> {
    if port == 0 { Err("port: expected 1 to 65535".to_owned()) } else { Ok(port) }
}

fn timeout(text: Option<&str>) -> Result<Duration, String> {
    let Some(text) = text else { return Ok(TIMEOUT) };
    let parsed: Result<GoDuration, serde_json::Error> =
        GoDuration::deserialize(serde_json::Value::String(text.to_owned()));
    match parsed {
        Ok(duration) if duration.0 >= Duration::from_millis(1) && duration.0 <= TIMEOUT * 6 => Ok(duration.0),
        _ => Err(format!("timeout {text:?}: expected a duration of at least 1ms, such as 500ms or 2s")),
    }
}

fn status(text: Option<&str>) -> Result<StatusCode, String> {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(StatusCode::FORBIDDEN) };
    let code = text.parse().ok().and_then(|code| StatusCode::from_u16(code).ok());
    let code = code.filter(|code| (400..600).contains(&code.as_u16()));
    code.ok_or_else(|| format!("statusOnError {text:?}: expected an HTTP status from \"400\" to \"599\""))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn read(text: &str) -> Result<Providers, String> {
        let list: Vec<ExtensionProvider> =
            serde_yaml_ng::from_str(text).map_err(|error| error.to_string())?;
        Providers::new(&list)
    }

    #[test]
    fn providers_are_read_in_the_shape_of_meshconfig() {
        let all = read(
            r#"
- name: by-grpc
  envoyExtAuthzGrpc: {service: shop/ext-authz.shop.svc.cluster.local, port: 9000}
- name: by-http
  envoyExtAuthzHttp:
    service: Ext-Authz.shop.svc.cluster.local
    port: 8000
    timeout: 250ms
    pathPrefix: /check
    failOpen: true
    statusOnError: "503"
    clearRouteCache: true
    includeRequestHeadersInCheck: [x-user, cookie]
    includeAdditionalHeadersInCheck: {x-from: mesh}
    headersToUpstreamOnAllow: [x-id]
    headersToDownstreamOnDeny: ["set-*"]
    headersToDownstreamOnAllow: [x-note]
"#,
        )
        .unwrap();
        assert_eq!(all.names(), ["by-grpc", "by-http"]);
        let grpc = all.get("by-grpc").unwrap();
        assert_eq!((grpc.timeout, grpc.fail_open, grpc.status_on_error.as_u16()), (TIMEOUT, false, 403));
        assert_eq!(grpc.protocol, Protocol::Grpc);
        let http = all.get("by-http").unwrap();
        assert_eq!(
            (http.timeout, http.fail_open, http.status_on_error.as_u16()),
            (Duration::from_millis(250), true, 503)
        );
        assert_eq!((&*http.service, http.port), ("ext-authz.shop.svc.cluster.local", 8000));
        assert!(all.get("other").is_none());
    }

    #[test]
    fn what_cannot_be_carried_out_is_refused_by_name() {
        fn check(text: &str, want: &str) {
            let error = read(text).unwrap_err();
            assert!(error.contains(want), "{text}: {error}");
        }
        let grpc =
            |fields: &str| format!("[{{name: a, envoyExtAuthzGrpc: {{service: s.n, port: 1{fields}}}}}]");
        let http =
            |fields: &str| format!("[{{name: a, envoyExtAuthzHttp: {{service: s.n, port: 1{fields}}}}}]");
        assert!(read(&grpc("")).is_ok() && read(&http("")).is_ok());
        check("[{name: a}]", "expected one of");
        check("[{name: a, prometheus: {}}]", "prometheus");
        check("[{name: '', envoyExtAuthzGrpc: {service: s.n, port: 1}}]", "needs a name");
        check("[{name: a, envoyExtAuthzGrpc: {port: 1}}]", "service");
        check("[{name: a, envoyExtAuthzGrpc: {service: a/b/c, port: 1}}]", "service");
        check("[{name: a, envoyExtAuthzGrpc: {service: s.n}}]", "port");
        check(&grpc(", unknown: 1"), "unknown");
        check(&grpc(", timeout: soon"), "timeout");
        check(&grpc(", timeout: 0s"), "timeout");
        check(&grpc(", statusOnError: '200'"), "statusOnError");
        check(&grpc(", statusOnError: Forbidden"), "statusOnError");
        check(&grpc(", includeRequestBodyInCheck: {maxRequestBytes: 100}"), "includeRequestBodyInCheck");
        check(&http(", includeRequestBodyInCheck: {maxRequestBytes: 100}"), "includeRequestBodyInCheck");
        check(&http(", pathPrefix: check"), "pathPrefix");
        check(&http(", pathPrefix: '/a b'"), "pathPrefix");
        check(&http(", includeAdditionalHeadersInCheck: {content-length: '1'}"), "content-length");
        check(&http(", includeAdditionalHeadersInCheck: {'a b': '1'}"), "a b");
        check(&format!("[{0}, {0}]", &grpc("")[1..grpc("").len() - 1]), "given twice");
    }
}
