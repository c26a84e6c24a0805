//! What a provider's answer means, by gRPC and by HTTP: pass with these changes, or this refusal. Pure.
//!
//! After Envoy's ext_authz filters. A header that the agent can't put on the wire, or that says where a message ends, is left
//! out; an answer that isn't one is none, and for the provider's `failOpen` to decide.

use std::borrow::Cow;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::uri::PathAndQuery;
use http::{StatusCode, Uri, request};

use super::headers::{HeaderList, is_framing};
use super::message::{
    CheckResponse, DeniedHttpResponse, HeaderValueOption, HttpResponse, OkHttpResponse, QueryParameter,
};

/// Names headers that are taken out of the request, in the answer of an HTTP provider.
const TO_REMOVE: &str = "x-envoy-auth-headers-to-remove";

/// What was decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It passes.
    Allowed(Box<Allowed>),
    /// It doesn't.
    Denied(Box<Denied>),
    /// There is no answer; the text says why.
    Unanswered(Cow<'static, str>),
}

/// What changes in a request that passes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allowed {
    remove: Vec<HeaderName>,
    lines: Vec<(How, HeaderName, HeaderValue)>,
    set_params: Vec<(String, String)>,
    remove_params: Vec<String>,
    /// For the response to the client.
    pub response: Vec<(HeaderName, HeaderValue)>,
}

/// What a client is told that doesn't pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denied {
    /// 403 unless the provider says otherwise.
    pub status: StatusCode,
    /// Beside content type and length.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// As the provider wrote it.
    pub body: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    Set,
    SetIfThere,
    Append,
    AddIfAbsent,
}

impl Allowed {
    /// True if nothing of the request changes.
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty()
            && self.lines.is_empty()
            && self.set_params.is_empty()
            && self.remove_params.is_empty()
    }

    /// Makes the changes; true if the target is another one now.
    pub fn apply(&self, head: &mut request::Parts) -> bool {
        for name in &self.remove {
            head.headers.remove(name);
        }
        for (how, name, value) in &self.lines {
            let there = head.headers.contains_key(name);
            match how {
                How::Append => drop(head.headers.append(name, value.clone())),
                How::Set => drop(head.headers.insert(name, value.clone())),
                How::SetIfThere if there => drop(head.headers.insert(name, value.clone())),
                How::AddIfAbsent if !there => drop(head.headers.insert(name, value.clone())),
                How::SetIfThere | How::AddIfAbsent => {}
            }
        }
        match self.target(&head.uri) {
            Some(target) => {
                head.uri = target;
                true
            }
            None => false,
        }
    }

    fn target(&self, uri: &Uri) -> Option<Uri> {
        if self.set_params.is_empty() && self.remove_params.is_empty() {
            return None;
        }
        let name = |param: &str| param.split('=').next().unwrap_or_default().to_owned();
        let own = uri.query().unwrap_or_default().split('&').filter(|param| !param.is_empty());
        let gone = |param: &&str| {
            let name = name(param);
            self.remove_params.contains(&name) || self.set_params.iter().any(|(set, _)| *set == name)
        };
        let set = self.set_params.iter().map(|(name, value)| format!("{name}={value}"));
        let params: Vec<String> = own.filter(|param| !gone(param)).map(str::to_owned).chain(set).collect();
        let target = match params.is_empty() {
            true => uri.path().to_owned(),
            false => format!("{}?{}", uri.path(), params.join("&")),
        };
        let mut parts = uri.clone().into_parts();
        parts.path_and_query = Some(PathAndQuery::try_from(target).ok()?);
        Uri::from_parts(parts).ok()
    }
}

/// The answer of a gRPC provider.
pub fn of_grpc(answer: CheckResponse) -> Verdict {
    let Some(status) = answer.status else { return Verdict::Unanswered("the answer has no status".into()) };
    match (status.code, answer.http_response) {
        (0, Some(HttpResponse::Ok(ok))) => Verdict::Allowed(Box::new(allowed(ok))),
        // Allowed and denied at once: the stricter counts.
        (0, Some(HttpResponse::Denied(denied))) => Verdict::Denied(Box::new(self::denied(denied))),
        (0, None) => Verdict::Allowed(Box::default()),
        (_, Some(HttpResponse::Denied(denied))) => Verdict::Denied(Box::new(self::denied(denied))),
        (_, _) => Verdict::Denied(Box::new(self::denied(DeniedHttpResponse::default()))),
    }
}

fn allowed(ok: OkHttpResponse) -> Allowed {
    let lines = ok.headers.iter().filter_map(|option| {
        let (name, value) = line(option)?;
        Some((how(option), name, value))
    });
    let remove = ok.headers_to_remove.iter().filter_map(|name| HeaderName::try_from(name).ok());
    Allowed {
        lines: lines.collect(),
        remove: remove.filter(|name| !is_framing(name)).collect(),
        set_params: ok.query_parameters_to_set.iter().map(param).collect(),
        remove_params: ok.query_parameters_to_remove,
        response: ok.response_headers_to_add.iter().filter_map(line).collect(),
    }
}

/// Neither name nor value can end the parameter, or the request's first line.
fn param(param: &QueryParameter) -> (String, String) {
    let escaped = |text: &str| {
        let mut out = String::with_capacity(text.len());
        for byte in text.bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                    out.push(char::from(byte))
                }
                other => out.push_str(&format!("%{other:02X}")),
            }
        }
        out
    };
    (escaped(&param.key), escaped(&param.value))
}

fn denied(denied: DeniedHttpResponse) -> Denied {
    let code = denied.status.and_then(|status| u16::try_from(status.code).ok());
    let status = code.and_then(|code| StatusCode::from_u16(code).ok()).filter(is_refusal);
    Denied {
        status: status.unwrap_or(StatusCode::FORBIDDEN),
        headers: denied.headers.iter().filter_map(line).collect(),
        body: denied.body,
    }
}

/// A refusal may be a redirect to a log-in page, or a page of its own; it is never half an answer.
fn is_refusal(status: &StatusCode) -> bool {
    (200..600).contains(&status.as_u16())
}

/// `append` where it is said, else `append_action`, whose unset value is that of this message's older meaning: in place of
/// others, so that what a client sent under the name is never beside it.
fn how(option: &HeaderValueOption) -> How {
    match (option.append, option.append_action) {
        (Some(append), _) if append.value => How::Append,
        (Some(_), _) => How::Set,
        (None, 1) => How::AddIfAbsent,
        (None, 3) => How::SetIfThere,
        (None, _) => How::Set,
    }
}

fn line(option: &HeaderValueOption) -> Option<(HeaderName, HeaderValue)> {
    let header = option.header.as_ref()?;
    let name = HeaderName::try_from(&header.key).ok().filter(|name| !is_framing(name))?;
    let bytes = if header.raw_value.is_empty() { header.value.as_bytes() } else { &header.raw_value };
    Some((name, HeaderValue::from_bytes(bytes).ok()?))
}

/// The answer of an HTTP provider: 200 passes, 5xx is none, everything else is a refusal.
pub fn of_http(
    status: StatusCode,
    headers: &HeaderMap,
    body: &[u8],
    upstream: &HeaderList,
    on_deny: &HeaderList,
    on_allow: &HeaderList,
) -> Verdict {
    let of = |has: &dyn Fn(&HeaderName) -> bool| -> Vec<_> {
        let lines =
            headers.iter().filter(|(name, _)| !is_framing(name) && name.as_str() != TO_REMOVE && has(name));
        lines.map(|(name, value)| (name.clone(), value.clone())).collect()
    };
    if status == StatusCode::OK {
        let named = headers.get_all(TO_REMOVE).iter().filter_map(|value| value.to_str().ok());
        let named = named.flat_map(|list| list.split(',')).filter_map(|name| name.trim().parse().ok());
        let mut lines: Vec<(How, HeaderName, HeaderValue)> = Vec::new();
        for (name, value) in of(&|name| upstream.has(name)) {
            // The first line of a name takes the place of the client's, the next stand beside it.
            let how = if lines.iter().any(|(_, other, _)| *other == name) { How::Append } else { How::Set };
            lines.push((how, name, value));
        }
        return Verdict::Allowed(Box::new(Allowed {
            lines,
            remove: named.filter(|name: &HeaderName| !is_framing(name)).collect(),
            response: of(&|name| on_allow.has(name)),
            ..Allowed::default()
        }));
    }
    if status.is_server_error() {
        return Verdict::Unanswered(format!("the provider answers {}", status.as_u16()).into());
    }
    let always =
        |name: &HeaderName| matches!(name.as_str(), "location" | "www-authenticate" | "content-type");
    let headers = of(&|name| on_deny.is_empty() || on_deny.has(name) || always(name));
    Verdict::Denied(Box::new(Denied {
        status: if is_refusal(&status) { status } else { StatusCode::FORBIDDEN },
        headers,
        body: String::from_utf8_lossy(body).into_owned(),
    }))
}

#[cfg(test)]
mod tests;
