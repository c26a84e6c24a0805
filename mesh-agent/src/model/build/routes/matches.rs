//! Matches of HTTPRoute and GRPCRoute to those of `crate::route`.
//!
//! Names and expressions were checked when the object was parsed; what can't be made of them matches nothing.

use http::Method;
use http::header::{ACCESS_CONTROL_REQUEST_METHOD, HeaderName, ORIGIN};

use crate::objects::gateway::{HeaderMatch as HeaderSpec, MatchKind, PathMatchKind};
use crate::objects::{GrpcMatch as GrpcSpec, HttpMatch as HttpSpec};
use crate::route::{GrpcMatch, HeaderMatch, Match, PathMatch, Pattern, QueryMatch, ValueMatch};

/// HTTPRouteMatch.
pub fn http(spec: &HttpSpec) -> Match {
    let value = &*spec.path.value;
    let path = match spec.path.kind {
        PathMatchKind::Exact => PathMatch::Exact(value.to_owned()),
        PathMatchKind::PathPrefix => PathMatch::prefix(value),
        PathMatchKind::RegularExpression => match Pattern::new(value) {
            Ok(pattern) => PathMatch::Regex(pattern),
            Err(_) => PathMatch::Exact(String::new()),
        },
    };
    let query = spec
        .query_params
        .iter()
        .map(|param| QueryMatch { name: param.name.to_string(), value: text(param.kind, &param.value) });
    Match {
        path,
        headers: headers(&spec.headers),
        query: query.collect(),
        method: spec.method.map(Into::into),
    }
}

/// The preflights of requests that `asks` matches by their method, which is not theirs: without this they would go by
/// another rule, or by none (GEP-1767: what has a CORS filter never passes a preflight on). A preflight says the method
/// of the request that it is for (Fetch, "CORS-preflight fetch"), and goes by the rule that this one will go by.
pub fn preflight(asks: &Match) -> Option<Match> {
    let method = asks.method.as_ref().filter(|method| **method != Method::OPTIONS)?;
    let mut preflight = Match { method: Some(Method::OPTIONS), ..asks.clone() };
    let origin = ValueMatch::Regex(Pattern::new(".*").ok()?);
    let asked = ValueMatch::Exact(method.as_str().to_owned());
    for (name, value) in [(ORIGIN, origin), (ACCESS_CONTROL_REQUEST_METHOD, asked)] {
        preflight.headers.push(HeaderMatch { name, value });
    }
    Some(preflight)
}

/// GRPCRouteMatch. Every call is a POST, but the rule isn't asked about anything else.
pub fn grpc(spec: &GrpcSpec) -> Match {
    let path = match &spec.method {
        None => PathMatch::prefix("/"),
        Some(method) => {
            let part =
                |part: Option<&str>| part.filter(|part| !part.is_empty()).map(|part| text(method.kind, part));
            PathMatch::Grpc(GrpcMatch {
                service: part(method.service.as_deref()),
                method: part(method.method.as_deref()),
            })
        }
    };
    Match { path, headers: headers(&spec.headers), ..Match::default() }
}

fn headers<V: std::ops::Deref<Target = str>>(specs: &[HeaderSpec<V>]) -> Vec<HeaderMatch> {
    let header = |spec: &HeaderSpec<V>| {
        let name = HeaderName::from_bytes(spec.name.as_bytes()).ok()?;
        Some(HeaderMatch { name, value: text(spec.kind, &spec.value) })
    };
    specs.iter().filter_map(header).collect()
}

fn text(kind: MatchKind, value: &str) -> ValueMatch {
    match kind {
        MatchKind::Exact => ValueMatch::Exact(value.to_owned()),
        MatchKind::RegularExpression => match Pattern::new(value) {
            Ok(pattern) => ValueMatch::Regex(pattern),
            // No value of a header or parameter contains a line break.
            Err(_) => ValueMatch::Exact("\n".to_owned()),
        },
    }
}
