//! Routes over HTTP/2: GRPCRoutes for calls, and HTTPRoutes for clients with prior knowledge.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use anyhow::Result;
use bytes::Bytes;
use h2::RecvStream;
use h2::client::SendRequest;
use h2::server::SendResponse;
use http::{HeaderMap, Request, Response, request};
use mesh_tests::http2::{Answer, H2Server, collect, get, whole, with_client};
use mesh_tests::routes::to;
use mesh_tests::shop::{NAMESPACE, Service, Shop};
use mesh_tests::{need_shop, shared_shop};

shared_shop!("grpc");

/// Every request that a server received, with the server's name.
type Seen = Arc<Mutex<Vec<(&'static str, request::Parts)>>>;

/// A service and its two versions over HTTP/2. The servers answer calls and other requests alike: with their name as
/// header `x-server` and as body, then `grpc-status: 0`.
struct Versions {
    service: Service,
    seen: Seen,
    _servers: Vec<H2Server>,
}

fn versions(shop: &Shop, name: &str, port_name: &str) -> Versions {
    let seen = Seen::default();
    let mut servers = Vec::new();
    let mut one = |name: &str, version: &'static str, cart: usize| {
        let (port, seen) = (shop.port(), seen.clone());
        let handle = move |request, respond| answer(version, seen.clone(), request, respond);
        servers.push(H2Server::new(shop.carts[cart].listen(port).unwrap(), None, handle));
        shop.expose(name, port_name, port, &[&shop.carts[cart]]).unwrap()
    };
    one(&format!("{name}-v1"), "v1", 1);
    one(&format!("{name}-v2"), "v2", 2);
    let service = one(name, "own", 0);
    Versions { service, seen, _servers: servers }
}

async fn answer(
    name: &'static str,
    seen: Seen,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) {
    let (head, body) = request.into_parts();
    seen.lock().unwrap().push((name, head));
    if collect(body).await.is_err() {
        return;
    }
    let response = Response::builder().header("content-type", "application/grpc").header("x-server", name);
    let Ok(mut stream) = respond.send_response(response.body(()).unwrap(), false) else { return };
    let _ = stream.send_data(Bytes::from_static(name.as_bytes()), false);
    let _ =
        stream.send_trailers(HeaderMap::from_iter([("grpc-status".parse().unwrap(), "0".parse().unwrap())]));
}

impl Versions {
    fn client<T, R: Future<Output = Result<T>>>(
        &self,
        shop: &Shop,
        work: impl FnOnce(SendRequest<Bytes>) -> R,
    ) -> T {
        with_client(shop.web.connect(self.service.at()).unwrap(), work).unwrap()
    }

    /// The last request for this path.
    fn received(&self, path: &str) -> (&'static str, request::Parts) {
        let seen = self.seen.lock().unwrap();
        seen.iter().rev().find(|(_, head)| head.uri.path() == path).expect("a request for it").clone()
    }
}

/// A call without messages.
async fn call(client: &SendRequest<Bytes>, path: &str, headers: &[(&str, &str)]) -> Result<Answer> {
    let mut request = Request::post(format!("http://any{path}")).header("content-type", "application/grpc");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.header("te", "trailers").body(())?;
    whole(client.clone().ready().await?.send_request(request, true)?.0.await?).await
}

/// Who answered a call, or the status of one that nobody did.
fn outcome(answer: &Answer) -> String {
    let status =
        |headers: &HeaderMap| headers.get("grpc-status").map(|status| status.to_str().unwrap().to_owned());
    match answer.head.headers.get("x-server") {
        Some(name) => {
            assert_eq!(answer.trailers.as_ref().and_then(status).as_deref(), Some("0"));
            name.to_str().unwrap().to_owned()
        }
        None => {
            assert!(answer.trailers.is_none() && answer.body.is_empty(), "trailers only: {answer:?}");
            assert_eq!(answer.head.status, 200);
            status(&answer.head.headers).unwrap()
        }
    }
}

#[test]
fn mesh_grpc_route_matches_service_and_method() {
    let shop = need_shop!();
    let v = versions(shop, "calls", "grpc");
    let rule = |asks: &str, to: &str| {
        format!("{{matches: [{asks}], backendRefs: [{{name: calls-{to}, port: 80}}]}}")
    };
    let rules = [
        rule("{method: {service: pay.Till}}", "v1"),
        rule("{method: {service: pay.Till, method: Refund}}", "v2"),
        rule("{method: {type: RegularExpression, service: 'stock[.].*', method: 'Get.+'}}", "v2"),
        rule("{method: {method: Ping}}", "v1"),
        rule(
            "{headers: [{name: X-Beta, value: 'yes'}]}, {headers: [{name: x-lane, type: RegularExpression, value: '[ab]'}]}",
            "v2",
        ),
    ];
    shop.route_of("GRPCRoute", &v.service, &rules.join(",")).unwrap();
    v.client(shop, async |client| {
        for (path, headers, expected) in [
            ("/pay.Till/Charge", &[][..], "v1"),
            ("/pay.Till/Refund", &[], "v2"),
            ("/pay.Tills/Charge", &[], "12"),
            ("/stock.v1.Shelf/GetAll", &[], "v2"),
            ("/stock.v1.Shelf/Get", &[], "12"),
            ("/stockroom/GetAll", &[], "12"),
            ("/any.Thing/Ping", &[], "v1"),
            ("/any.Thing/ping", &[], "12"),
            ("/any.Thing/Other", &[("x-beta", "yes")], "v2"),
            ("/any.Thing/Other", &[("x-lane", "b")], "v2"),
            ("/any.Thing/Other", &[("x-lane", "c")], "12"),
            ("/pay.Till/Charge", &[("x-beta", "yes")], "v1"),
        ] {
            assert_eq!(outcome(&call(&client, path, headers).await?), expected, "{path} {headers:?}");
        }
        Ok(())
    });
    let line = shop.log_shows("/stockroom/GetAll", |line| line["path"] == "/stockroom/GetAll").unwrap();
    assert_eq!(
        (line["response_flags"].as_str(), line["grpc_status"].as_i64()),
        (Some("NR"), Some(12)),
        "{line}"
    );
}

#[test]
fn mesh_grpc_route_weights_and_what_cannot_be_used() {
    let shop = need_shop!();
    let v = versions(shop, "callweights", "grpc");
    let rules = |second: &str| {
        format!(
            "{{backendRefs: [{{name: callweights-v1, port: 80, weight: 9}}, {{name: {second}, port: 80}}]}}"
        )
    };
    for (second, other) in [("callweights-v2", "v2"), ("nowhere", "14")] {
        shop.route_of("GRPCRoute", &v.service, &rules(second)).unwrap();
        let counts = v.client(shop, async |client| {
            let mut counts = BTreeMap::new();
            for _ in 0..1000 {
                *counts.entry(outcome(&call(&client, "/a.B/C", &[]).await?)).or_insert(0_usize) += 1;
            }
            Ok(counts)
        });
        assert!(counts.len() == 2 && counts["v1"].abs_diff(900) <= 50, "{counts:?}");
        assert!(counts.contains_key(other), "{counts:?}");
    }
}

#[test]
fn mesh_grpc_route_header_modifiers_on_rule_and_backend() {
    let shop = need_shop!();
    let v = versions(shop, "callheads", "grpc");
    let rule = "{filters: [\
        {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-Set, value: rule}], add: [{name: x-add, value: more}], remove: [x-gone]}},\
        {type: ResponseHeaderModifier, responseHeaderModifier: {add: [{name: x-by, value: route}], remove: [x-none]}}],\
        backendRefs: [{name: callheads-v1, port: 80, filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-for, value: v1}]}}]}]}";
    shop.route_of("GRPCRoute", &v.service, rule).unwrap();
    let back = v.client(shop, async |client| {
        call(&client, "/heads.H/Go", &[("x-set", "a"), ("x-add", "one"), ("x-gone", "b")]).await
    });
    assert_eq!((outcome(&back).as_str(), back.head.headers["x-by"].to_str().unwrap()), ("v1", "route"));
    let (_, head) = v.received("/heads.H/Go");
    let lines =
        |name: &str| head.headers.get_all(name).iter().map(|v| v.to_str().unwrap()).collect::<Vec<_>>();
    assert_eq!(
        (lines("x-set"), lines("x-add"), lines("x-gone")),
        (vec!["rule"], vec!["one", "more"], vec![])
    );
    assert_eq!((lines("x-for"), lines("te")), (vec!["v1"], vec!["trailers"]));
}

#[test]
fn a_grpc_route_wins_over_an_http_route_of_the_same_port() {
    let shop = need_shop!();
    let v = versions(shop, "kinds", "grpc");
    let spec = |to: &str| {
        format!(
            "parentRefs: [{{group: \"\", kind: Service, name: kinds}}], rules: [{{backendRefs: [{{name: kinds-{to}, port: 80}}]}}]"
        )
    };
    let who = || v.client(shop, async |client| Ok(outcome(&call(&client, "/a.B/C", &[]).await?)));
    shop.attach("kinds-http", "HTTPRoute", NAMESPACE, &spec("v1")).unwrap();
    assert_eq!(who(), "v1", "an HTTPRoute holds for calls as well");
    shop.attach("kinds-grpc", "GRPCRoute", NAMESPACE, &spec("v2")).unwrap();
    assert_eq!(who(), "v2");
    shop.detach("kinds-grpc").unwrap();
    assert_eq!(who(), "v1");
}

#[test]
fn an_http_route_holds_for_http2_with_prior_knowledge() {
    let shop = need_shop!();
    let v = versions(shop, "prior", "http2");
    let rules = [
        "{matches: [{path: {value: /split}}], backendRefs: [{name: prior-v1, port: 80, weight: 3}, {name: prior-v2, port: 80, weight: 1}]}".to_owned(),
        format!("{{matches: [{{headers: [{{name: host, value: beta.test}}]}}, {{queryParams: [{{name: v, value: '2'}}], method: GET}}], {}}}", to("prior-v2")),
        format!(
            "{{matches: [{{path: {{value: /old}}}}], filters: [{{type: URLRewrite, urlRewrite: {{hostname: in.test, path: {{type: ReplacePrefixMatch, replacePrefixMatch: /new}}}}}}, {{type: RequestHeaderModifier, requestHeaderModifier: {{set: [{{name: x-set, value: a}}]}}}}, {{type: ResponseHeaderModifier, responseHeaderModifier: {{set: [{{name: x-server, value: hidden}}]}}}}], {}}}",
            to("prior-v1")
        ),
        "{matches: [{path: {value: /away}}], filters: [{type: RequestRedirect, requestRedirect: {hostname: o.test, scheme: https, statusCode: 308, path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}]}".to_owned(),
    ];
    shop.route(&v.service, &rules.join(",")).unwrap();
    v.client(shop, async |client| {
        let mut counts = BTreeMap::new();
        for _ in 0..1000 {
            *counts.entry(get(&client, "a", "/split").await?.body).or_insert(0_usize) += 1;
        }
        assert!(counts.len() == 2 && counts[&b"v1"[..]].abs_diff(750) <= 60, "{counts:?}");
        assert_eq!(get(&client, "beta.test", "/x").await?.body, b"v2");
        assert_eq!(get(&client, "a", "/x?v=2").await?.body, b"v2");
        let none = get(&client, "a", "/x?v=1").await?;
        assert_eq!((none.head.status.as_u16(), none.body.as_slice()), (404, &b"no route\n"[..]));
        let rewritten = get(&client, "a", "/old/x/?q=1").await?;
        assert_eq!(
            (rewritten.body.as_slice(), &rewritten.head.headers["x-server"]),
            (&b"v1"[..], &"hidden".parse()?)
        );
        let away = get(&client, "a", "/away/x?q").await?;
        assert_eq!(
            (away.head.status.as_u16(), &away.head.headers["location"]),
            (308, &"https://o.test/x?q".parse()?)
        );
        Ok(())
    });
    let (_, head) = v.received("/new/x/");
    assert_eq!(
        (head.uri.to_string().as_str(), head.headers.get("host").is_none()),
        ("http://in.test/new/x/?q=1", true),
        "{head:?}"
    );
    assert_eq!(head.headers["x-set"], "a");
}

#[test]
fn a_route_that_changes_holds_for_the_next_stream_of_a_kept_connection() {
    let shop = need_shop!();
    let v = versions(shop, "streamkept", "http2");
    v.client(shop, async |client| {
        for expected in ["own", "v1", "v2", "own"] {
            match expected {
                "own" => {
                    let _ = shop.detach("streamkept");
                }
                version => {
                    drop(shop.route(&v.service, &format!("{{{}}}", to(&format!("streamkept-{version}"))))?)
                }
            }
            assert_eq!(get(&client, "a", "/").await?.body, expected.as_bytes());
        }
        Ok(())
    });
}
