//! What answers of providers mean.
#![allow(clippy::unwrap_used, clippy::panic)]
use http::Request;

use super::*;
use crate::ext_authz::message::{BoolValue, HeaderValue as Line, HttpStatus, Status};

fn status(code: i32) -> Option<Status> {
    Some(Status { code, message: "internal detail".into() })
}

fn option(name: &str, value: &str, append: Option<bool>, action: i32) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(Line { key: name.into(), value: value.into(), raw_value: Vec::new() }),
        append: append.map(|value| BoolValue { value }),
        append_action: action,
    }
}

fn head(uri: &str, headers: &[(&str, &str)]) -> request::Parts {
    let mut request = Request::builder().uri(uri);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

fn lines(head: &request::Parts) -> Vec<(String, String)> {
    let line = |(n, v): (&HeaderName, &HeaderValue)| (n.to_string(), v.to_str().unwrap().to_owned());
    let mut lines: Vec<_> = head.headers.iter().map(line).collect();
    lines.sort_unstable();
    lines
}

fn texts(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn a_grpc_answer_passes_only_with_status_ok() {
    let denied = |answer| match of_grpc(answer) {
        Verdict::Denied(denied) => *denied,
        other => panic!("{other:?}"),
    };
    assert_eq!(
        of_grpc(CheckResponse { status: status(0), http_response: None }),
        Verdict::Allowed(Box::default())
    );
    assert!(matches!(of_grpc(CheckResponse::default()), Verdict::Unanswered(_)));
    for code in [1, 7, 16, -1, 99] {
        let plain = denied(CheckResponse { status: status(code), http_response: None });
        assert_eq!((plain.status.as_u16(), &*plain.body, plain.headers.len()), (403, "", 0), "{code}");
        // An answer that says no and means yes is a no.
        let ok = Some(HttpResponse::Ok(OkHttpResponse::default()));
        assert_eq!(denied(CheckResponse { status: status(code), http_response: ok }), plain);
    }
    let contradiction = Some(HttpResponse::Denied(DeniedHttpResponse::default()));
    assert_eq!(denied(CheckResponse { status: status(0), http_response: contradiction }).status, 403);
}

#[test]
fn a_refusal_has_the_providers_status_headers_and_body() {
    let answer = |code, headers| {
        let denied = DeniedHttpResponse { status: Some(HttpStatus { code }), headers, body: "log in".into() };
        match of_grpc(CheckResponse { status: status(7), http_response: Some(HttpResponse::Denied(denied)) })
        {
            Verdict::Denied(denied) => *denied,
            other => panic!("{other:?}"),
        }
    };
    let headers = vec![
        option("Location", "/login", None, 0),
        option("content-length", "5", None, 0),
        option("transfer-encoding", "chunked", None, 0),
        option("bad name", "x", None, 0),
        option("x-bad", "a\r\nb: c", None, 0),
        option(":status", "200", None, 0),
    ];
    let denied = answer(302, headers);
    assert_eq!((denied.status.as_u16(), &*denied.body), (302, "log in"));
    assert_eq!(denied.headers, [(http::header::LOCATION, HeaderValue::from_static("/login"))]);
    for (code, want) in [(401, 401), (0, 403), (100, 403), (101, 403), (999, 403), (-1, 403)] {
        assert_eq!(answer(code, Vec::new()).status.as_u16(), want, "{code}");
    }
}

#[test]
fn what_a_grpc_provider_changes_is_changed() {
    let ok = OkHttpResponse {
        headers: vec![
            option("x-set", "new", None, 0),
            option("x-set-false", "new", Some(false), 0),
            option("x-append", "new", Some(true), 2),
            option("x-absent", "new", None, 1),
            option("x-there", "new", None, 1),
            option("x-over", "new", None, 3),
            option("x-over-absent", "new", None, 3),
            option("host", "evil", None, 0),
            option("content-length", "0", None, 0),
        ],
        headers_to_remove: vec!["X-Gone".into(), "host".into(), ":path".into(), "content-length".into()],
        response_headers_to_add: vec![option("x-told", "1", None, 0)],
        query_parameters_to_set: vec![QueryParameter { key: "a".into(), value: "x&y =".into() }],
        query_parameters_to_remove: vec!["b".into()],
    };
    let answer = CheckResponse { status: status(0), http_response: Some(HttpResponse::Ok(ok)) };
    let Verdict::Allowed(allowed) = of_grpc(answer) else { panic!() };
    let mut request = head(
        "/p?a=1&b=2&c=3",
        &[
            ("host", "h"),
            ("content-length", "5"),
            ("x-set", "old"),
            ("x-set", "older"),
            ("x-set-false", "old"),
            ("x-append", "old"),
            ("x-there", "old"),
            ("x-over", "old"),
            ("x-gone", "1"),
        ],
    );
    assert!(allowed.apply(&mut request));
    assert_eq!(request.uri, "/p?c=3&a=x%26y%20%3D");
    let want = [
        ("content-length", "5"),
        ("host", "h"),
        ("x-absent", "new"),
        ("x-append", "new"),
        ("x-append", "old"),
        ("x-over", "new"),
        ("x-set", "new"),
        ("x-set-false", "new"),
        ("x-there", "old"),
    ];
    assert_eq!(lines(&request), texts(&want));
    assert_eq!(allowed.response, [(HeaderName::from_static("x-told"), HeaderValue::from_static("1"))]);
    assert!(Allowed::default().is_empty() && !allowed.is_empty());
}

#[test]
fn an_http_answer_passes_only_with_200() {
    let list = |names: &[&str]| HeaderList::new(&names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>());
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("x-user", "alice"),
        ("x-group", "a"),
        ("x-group", "b"),
        ("x-other", "1"),
        ("location", "/login"),
        ("content-type", "text/html"),
        ("content-length", "5"),
        ("connection", "close"),
        ("x-envoy-auth-headers-to-remove", "x-gone, Authorization,, host"),
    ] {
        headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    let judge = |code: u16, on_deny: &[&str]| {
        let status = StatusCode::from_u16(code).unwrap();
        of_http(
            status,
            &headers,
            b"sorry",
            &list(&["x-user", "x-group", "connection"]),
            &list(on_deny),
            &list(&["x-other"]),
        )
    };
    let Verdict::Allowed(allowed) = judge(200, &[]) else { panic!() };
    let mut request = head(
        "/",
        &[
            ("host", "h"),
            ("x-user", "root"),
            ("x-group", "wheel"),
            ("x-gone", "1"),
            ("authorization", "x"),
            ("x-other", "mine"),
        ],
    );
    assert!(!allowed.apply(&mut request));
    let want = [("host", "h"), ("x-group", "a"), ("x-group", "b"), ("x-other", "mine"), ("x-user", "alice")];
    assert_eq!(lines(&request), texts(&want));
    assert_eq!(allowed.response, [(HeaderName::from_static("x-other"), HeaderValue::from_static("1"))]);
    for code in [500, 502, 503, 599] {
        assert!(matches!(judge(code, &[]), Verdict::Unanswered(_)), "{code}");
    }
    for code in [201, 204, 302, 400, 401, 403, 404] {
        let Verdict::Denied(denied) = judge(code, &[]) else { panic!("{code}") };
        assert_eq!((denied.status.as_u16(), &*denied.body), (code, "sorry"));
        let names: Vec<_> = denied.headers.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names.len(), 6, "{names:?}");
    }
    let Verdict::Denied(denied) = judge(401, &["x-user"]) else { panic!() };
    let mut names: Vec<_> = denied.headers.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["content-type", "location", "x-user"]);
    let Verdict::Denied(denied) = judge(999, &[]) else { panic!() };
    assert_eq!(denied.status, 403);
}
