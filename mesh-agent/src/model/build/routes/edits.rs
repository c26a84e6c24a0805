//! Filters of a rule or backend to those of `crate::route`.

use std::sync::Arc;

use http::header::{HeaderName, HeaderValue};
use http::{Method, StatusCode};

use crate::objects::gateway::{
    AllowMethod, Cors as CorsSpec, HeaderLine, HeaderModifier, PathModifier, RedirectScheme, RequestMirror,
    RequestRedirect, RouteFilter, UrlRewrite, encoded,
};
use crate::route::{
    BackendTarget, Cors, Filters, HeaderEdits, Mirror, OriginPattern, PathRewrite, Redirect, Rewrite,
};

/// All filters of one list.
pub fn filters(specs: &[RouteFilter], target: &mut impl FnMut() -> BackendTarget) -> Filters {
    let mut filters = Filters::default();
    for spec in specs {
        if let Some(edits) = &spec.request_header_modifier {
            filters.request = header_edits(edits);
        }
        if let Some(edits) = &spec.response_header_modifier {
            filters.response = header_edits(edits);
        }
        if let Some(redirect_spec) = &spec.request_redirect {
            filters.redirect = Some(redirect(redirect_spec));
        }
        if let Some(rewrite_spec) = &spec.url_rewrite {
            filters.rewrite = Some(rewrite(rewrite_spec));
        }
        if let Some(cors_spec) = &spec.cors {
            filters.cors = Some(Arc::new(cors(cors_spec)));
        }
        if let Some(spec) = &spec.request_mirror
            && let BackendTarget::Service(target) = target()
        {
            filters.mirrors.push(mirror(spec, target));
        }
    }
    filters
}

/// Fields that belong to the message's framing or to one hop (RFC 9110, 7.6.1; RFC 9112, 6), and Host: changing them by
/// name would make what is forwarded another message than what was received.
const UNTOUCHABLE: [&str; 10] = [
    "connection",
    "content-length",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "http2-settings",
];

/// Each line of a header modifier that names a field which no filter may change: path of the name, and the name.
pub fn untouchable(spec: &RouteFilter) -> Vec<(String, &str)> {
    let modifiers = [
        ("requestHeaderModifier", &spec.request_header_modifier),
        ("responseHeaderModifier", &spec.response_header_modifier),
    ];
    let mut found = Vec::new();
    for (field, modifier) in modifiers {
        let Some(modifier) = modifier else { continue };
        for (list, lines) in [("set", &modifier.set), ("add", &modifier.add)] {
            for (index, line) in lines.iter().enumerate() {
                found.push((format!("{field}.{list}[{index}].name"), &*line.name));
            }
        }
        for (index, name) in modifier.remove.iter().enumerate() {
            found.push((format!("{field}.remove[{index}]"), &**name));
        }
    }
    found.retain(|(_, name)| UNTOUCHABLE.iter().any(|other| other.eq_ignore_ascii_case(name)));
    found
}

fn header_edits(spec: &HeaderModifier) -> HeaderEdits {
    HeaderEdits {
        set: lines(&spec.set),
        add: lines(&spec.add),
        remove: spec.remove.iter().filter_map(|name| HeaderName::from_bytes(name.as_bytes()).ok()).collect(),
    }
}

/// Of several lines for one name, in whatever case, the first counts (HTTPHeader.name: "Subsequent entries with an
/// equivalent header name MUST be ignored").
fn lines(specs: &[HeaderLine]) -> Vec<(HeaderName, HeaderValue)> {
    let mut lines: Vec<(HeaderName, HeaderValue)> = Vec::new();
    for spec in specs {
        let name = HeaderName::from_bytes(spec.name.as_bytes());
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_str(&spec.value))
            && !lines.iter().any(|(earlier, _)| *earlier == name)
        {
            lines.push((name, value));
        }
    }
    lines
}

fn redirect(spec: &RequestRedirect) -> Redirect {
    let scheme = spec.scheme.map(|scheme| match scheme {
        RedirectScheme::Http => "http".to_owned(),
        RedirectScheme::Https => "https".to_owned(),
    });
    Redirect {
        scheme,
        hostname: spec.hostname.as_deref().map(str::to_owned),
        path: spec.path.as_ref().and_then(path),
        port: spec.port.map(|port| port.0),
        status: StatusCode::from_u16(spec.status_code.0).unwrap_or(StatusCode::FOUND),
    }
}

fn rewrite(spec: &UrlRewrite) -> Rewrite {
    Rewrite {
        hostname: spec.hostname.as_deref().and_then(|host| HeaderValue::from_str(host).ok()),
        path: spec.path.as_ref().and_then(path),
    }
}

/// What no path has is sent percent-encoded: a `?` would begin a query, and a blank end the request's target.
fn path(spec: &PathModifier) -> Option<PathRewrite> {
    let full = spec.replace_full_path.as_deref().map(|path| PathRewrite::Full(encoded(path)));
    let prefix = spec.replace_prefix_match.as_deref().map(|path| PathRewrite::Prefix(encoded(path)));
    full.or(prefix)
}

fn mirror(spec: &RequestMirror, target: usize) -> Mirror {
    let share = |number: i32| u32::try_from(number).unwrap_or(0);
    let (numerator, denominator) = match (spec.percent, spec.fraction) {
        (Some(percent), _) => (share(percent), 100),
        (None, Some(fraction)) => (share(fraction.numerator), share(fraction.denominator).max(1)),
        (None, None) => (1, 1),
    };
    Mirror { target, numerator, denominator }
}

fn cors(spec: &CorsSpec) -> Cors {
    let any_method = spec.allow_methods.contains(&AllowMethod::Any);
    let any_header = spec.allow_headers.iter().any(|name| &**name == "*");
    let methods = || spec.allow_methods.iter().filter_map(|m| Method::from_bytes(m.as_str().as_bytes()).ok());
    let headers = || spec.allow_headers.iter().filter_map(|n| HeaderName::from_bytes(n.as_bytes()).ok());
    let expose: Vec<&str> = spec.expose_headers.iter().map(|name| &**name).collect();
    Cors {
        origins: spec.allow_origins.iter().map(|origin| origin_pattern(origin)).collect(),
        credentials: spec.allow_credentials,
        methods: (!any_method).then(|| methods().collect()),
        headers: (!any_header).then(|| headers().collect()),
        expose: (!expose.is_empty()).then(|| HeaderValue::from_str(&expose.join(", ")).ok()).flatten(),
        max_age: u32::try_from(spec.max_age).unwrap_or(5),
    }
}

fn origin_pattern(origin: &str) -> OriginPattern {
    if origin == "*" {
        return OriginPattern::Any;
    }
    match origin.split_once("://*") {
        Some((scheme, rest)) => {
            OriginPattern::Suffix { scheme: format!("{scheme}://"), rest: rest.to_owned() }
        }
        None => OriginPattern::Exact(origin.to_owned()),
    }
}
