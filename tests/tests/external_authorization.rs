//! AuthorizationPolicies with action CUSTOM: providers by gRPC and HTTP in pods of the mesh, what they decide and change, and
//! what happens without them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::io::{BufReader, Write};
use std::sync::{Arc, Mutex};

use anyhow::{Result, ensure};
use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::Response;
use mesh_agent::ext_authz::message::{
    AttributeContext, CheckRequest, CheckResponse, DeniedHttpResponse, HeaderValue, HeaderValueOption,
    HttpResponse, HttpStatus, OkHttpResponse, Status,
};
use mesh_tests::http1::{Client, read_message};
use mesh_tests::http2::{H2Server, collect};
use mesh_tests::lab::{Object, eventually};
use mesh_tests::server::Server;
use mesh_tests::shop::{HttpService, NAMESPACE, Shop};
use mesh_tests::{SOON, agent_options};
use prost::Message;
use serde_json::json;

/// The configuration file's part. Ports are those of the Services.
const PROVIDERS: &str = r#"
extensionProviders:
  - name: by-grpc
    envoyExtAuthzGrpc: {service: shop/ext-grpc.shop.svc.cluster.local, port: 80, timeout: 1s}
  - name: by-http
    envoyExtAuthzHttp:
      service: ext-http.shop
      port: 80
      timeout: 1s
      pathPrefix: /check
      includeRequestHeadersInCheck: [x-user, x-mode]
      includeAdditionalHeadersInCheck: {x-asked-by: mesh}
      headersToUpstreamOnAllow: [x-team]
      headersToDownstreamOnDeny: [x-why]
      headersToDownstreamOnAllow: [x-note]
  - name: nowhere
    envoyExtAuthzHttp: {service: nowhere.shop, port: 80, timeout: 500ms, statusOnError: "503"}
  - name: nowhere-open
    envoyExtAuthzGrpc: {service: nowhere.shop, port: 80, timeout: 500ms, failOpen: true}
"#;

fn shop() -> Option<&'static Shop> {
    static SHOP: std::sync::OnceLock<Option<(Shop, tempfile::NamedTempFile)>> = std::sync::OnceLock::new();
    let kept = SHOP.get_or_init(|| {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), PROVIDERS).unwrap();
        let options = agent_options()?.flag("config", file.path().to_str().unwrap());
        let shop = Shop::start("external-authorization", options).expect("the shared topology");
        // Both providers answer for as long as the file's tests run.
        std::mem::forget(grpc_provider(&shop).unwrap());
        std::mem::forget(http_provider(&shop).unwrap());
        Some((shop, file))
    });
    kept.as_ref().map(|(shop, _)| shop)
}

macro_rules! need_shop {
    () => {
        match shop() {
            Some(shop) => shop,
            None => return,
        }
    };
}

type Asked = Arc<Mutex<Vec<CheckRequest>>>;

fn asked() -> &'static Asked {
    static ASKED: std::sync::OnceLock<Asked> = std::sync::OnceLock::new();
    ASKED.get_or_init(Asked::default)
}

fn of_path(path: &str) -> Option<AttributeContext> {
    let all = asked().lock().unwrap();
    let attributes = all.iter().filter_map(|asked| asked.attributes.clone());
    attributes.into_iter().find(|attributes| path_of(attributes) == path)
}

fn path_of(attributes: &AttributeContext) -> String {
    let http = attributes.request.as_ref().and_then(|request| request.http.as_ref());
    http.map(|http| http.path.clone()).unwrap_or_default()
}

fn option(name: &str, value: &str) -> HeaderValueOption {
    let header = HeaderValue { key: name.into(), value: value.into(), raw_value: Vec::new() };
    HeaderValueOption { header: Some(header), append: None, append_action: 0 }
}

/// What the gRPC provider does is in the request's `x-mode`; connections pass if they come from `web`.
fn decide(asked: &CheckRequest) -> Option<CheckResponse> {
    let attributes = asked.attributes.as_ref()?;
    let status = |code| Some(Status { code, message: "not for clients".into() });
    let Some(http) = attributes.request.as_ref().and_then(|request| request.http.as_ref()) else {
        let principal = &attributes.source.as_ref()?.principal;
        let code = if principal.ends_with("/sa/web") { 0 } else { 7 };
        return Some(CheckResponse { status: status(code), http_response: None });
    };
    match http.headers.get("x-mode").map(String::as_str) {
        Some("allow") => {
            let ok = OkHttpResponse {
                headers: vec![option("x-team", "admins")],
                headers_to_remove: vec!["x-secret".into()],
                response_headers_to_add: vec![option("x-note", "seen")],
                ..OkHttpResponse::default()
            };
            Some(CheckResponse { status: status(0), http_response: Some(HttpResponse::Ok(ok)) })
        }
        Some("login") => {
            let denied = DeniedHttpResponse {
                status: Some(HttpStatus { code: 401 }),
                headers: vec![option("x-why", "log in"), option("content-length", "1")],
                body: "please log in".into(),
            };
            Some(CheckResponse { status: status(16), http_response: Some(HttpResponse::Denied(denied)) })
        }
        Some("hang") => None,
        _ => Some(CheckResponse { status: status(7), http_response: None }),
    }
}

async fn check(request: http::Request<RecvStream>, mut respond: SendResponse<Bytes>) {
    let path = request.uri().path().to_owned();
    let (bytes, _) = collect(request.into_body()).await.unwrap();
    let question = CheckRequest::decode(&bytes[5..]).unwrap();
    assert_eq!(path, "/envoy.service.auth.v3.Authorization/Check");
    let answer = decide(&question);
    asked().lock().unwrap().push(question);
    let Some(answer) = answer else { return std::future::pending().await };
    let mut body = vec![0];
    body.extend(u32::try_from(answer.encoded_len()).unwrap().to_be_bytes());
    answer.encode(&mut body).unwrap();
    let head = Response::builder().header("content-type", "application/grpc").body(()).unwrap();
    let Ok(mut stream) = respond.send_response(head, false) else { return };
    let _ = stream.send_data(body.into(), false);
    let _ =
        stream.send_trailers([("grpc-status".parse().unwrap(), "0".parse().unwrap())].into_iter().collect());
}

fn grpc_provider(shop: &Shop) -> Result<H2Server> {
    let port = shop.port();
    let server = H2Server::new(shop.carts[1].listen(port)?, None, check);
    shop.expose("ext-grpc", "grpc", port, &[&shop.carts[1]])?;
    Ok(server)
}

/// An HTTP provider that passes `x-user: alice`, and does what `x-mode` says.
fn http_provider(shop: &Shop) -> Result<Server> {
    let port = shop.port();
    let server = Server::new(shop.carts[2].listen(port)?, |stream, _| {
        let Ok(mut out) = stream.try_clone() else { return };
        let mut reader = BufReader::new(stream);
        while let Ok(Some(request)) = read_message(&mut reader, false) {
            let told = request.head.replace("\r\n", "|");
            let answer = match request.header("x-mode") {
                Some("hang") => return std::thread::park(),
                Some("broken") => "HTTP/1.1 500 x\r\nContent-Length: 0\r\n\r\n".to_owned(),
                _ if request.header("x-user") == Some("alice") => format!(
                    "HTTP/1.1 200 OK\r\nX-Team: admins\r\nX-Note: {told}\r\nX-Other: 1\r\nContent-Length: 2\r\n\r\nok"
                ),
                _ => "HTTP/1.1 418 no\r\nX-Why: stranger\r\nX-Other: 1\r\nContent-Length: 4\r\n\r\nsorr"
                    .to_owned(),
            };
            if out.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    });
    shop.expose("ext-http", "http", port, &[&shop.carts[2]])?;
    Ok(server)
}

fn custom(service: &str, provider: &str, rules: serde_json::Value) -> Object {
    let spec = json!({
        "targetRefs": [{"kind": "Service", "name": service}],
        "action": "CUSTOM", "provider": {"name": provider}, "rules": rules,
    });
    let metadata = json!({"name": service, "namespace": NAMESPACE});
    Object(
        json!({"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy", "metadata": metadata, "spec": spec}),
    )
}

/// A service of which everything below /admin is asked about.
fn asked_about(shop: &Shop, name: &str, provider: &str) -> HttpService {
    let rules = json!([{"to": [{"operation": {"paths": ["/head/admin*", "/admin*"]}}]}]);
    shop.topology.mesh().write(&format!("policy-{name}.yaml"), [custom(name, provider, rules)]).unwrap();
    shop.http(name, "http", 1).unwrap()
}

/// Requests over one node, and from outside to the pod's own address.
fn clients(shop: &Shop, service: &HttpService) -> [(&'static str, Client); 2] {
    let pod = (service.backends[0].host.v4(), service.target).into();
    [("web", shop.client(service).unwrap()), ("outside", Client::new(shop.outside.connect(pod).unwrap()))]
}

#[test]
fn a_grpc_provider_decides_and_changes_what_it_says() {
    let shop = need_shop!();
    let service = asked_about(shop, "grpcasked", "by-grpc");
    for (who, mut client) in clients(shop, &service) {
        let path = |end: &str| format!("/head/admin-{who}-{end}");
        let mut ask = |path: &str, mode: &str| {
            client
                .ask(format!("GET {path} HTTP/1.1\r\nHost: grpcasked\r\nX-Mode: {mode}\r\nX-Team: me\r\nX-Secret: 1\r\n\r\n"))
                .unwrap()
        };
        assert_eq!(ask("/", "deny").status(), 200, "{who}: not asked about");
        let passed = ask(&path("allow?q=1"), "allow");
        assert_eq!(passed.status(), 200, "{who}: {}", passed.head);
        assert_eq!(passed.header("x-note"), Some("seen"), "{who}: {}", passed.head);
        let seen = service.request(&path("allow?q=1")).unwrap();
        assert_eq!((seen.headers("x-team"), seen.header("x-secret")), (vec!["admins"], None), "{who}");
        let denied = ask(&path("deny"), "deny");
        assert_eq!((denied.status(), &*denied.text()), (403, ""), "{who}: {}", denied.head);
        let login = ask(&path("login"), "login");
        assert_eq!(
            (login.status(), login.header("x-why"), &*login.text()),
            (401, Some("log in"), "please log in"),
            "{who}"
        );
        let late = ask(&path("hang"), "hang");
        assert_eq!(late.status(), 403, "{who}: {}", late.head);
        assert_eq!(ask(&path("again"), "allow").status(), 200, "{who}: the connection goes on");
        for end in ["deny", "login", "hang"] {
            assert!(service.request(&path(end)).is_none(), "{who} {end} reaches nobody");
        }
        let told = of_path(&path("allow?q=1")).unwrap();
        let http = told.request.unwrap().http.unwrap();
        assert_eq!((&*http.method, &*http.host, &*http.headers["x-secret"]), ("GET", "grpcasked", "1"));
        let principal = told.source.unwrap().principal;
        match who {
            "web" => assert_eq!(principal, "spiffe://cluster.local/ns/shop/sa/web"),
            _ => assert_eq!(principal, "", "nothing proves who comes in plain text"),
        }
        assert_eq!(told.destination.unwrap().principal, "spiffe://cluster.local/ns/shop/sa/cart");
    }
    let line =
        shop.log_shows("UAEX", |line| line["response_flags"] == "UAEX" && line["response_code"] == 401);
    line.unwrap();
    shop.metrics_show(|metrics| {
        let count = |outcome| {
            metrics.sum("mesh_agent_ext_authz_total", &[("provider", "by-grpc"), ("outcome", outcome)])
        };
        ensure!(count("allowed") >= 4.0 && count("denied") >= 4.0 && count("error") >= 2.0);
        Ok(())
    })
    .unwrap();
}

#[test]
fn an_http_provider_decides_and_changes_what_it_says() {
    let shop = need_shop!();
    let service = asked_about(shop, "httpasked", "by-http");
    for (who, mut client) in clients(shop, &service) {
        let mut ask = |path: &str, headers: &str| {
            client
                .ask(format!(
                    "POST {path} HTTP/1.1\r\nHost: httpasked\r\n{headers}Content-Length: 4\r\n\r\nbody"
                ))
                .unwrap()
        };
        let passed = ask("/admin?q=1", "X-User: alice\r\nX-Team: me\r\nX-Hidden: 1\r\n");
        assert_eq!(passed.status(), 200, "{who}: {}", passed.head);
        let told = passed.header("x-note").unwrap();
        assert!(told.starts_with("POST /check/admin?q=1 HTTP/1.1|"), "{told}");
        assert!(told.contains("host: httpasked|") && told.contains("x-asked-by: mesh|"), "{told}");
        assert!(told.contains("content-length: 0|") && !told.contains("x-hidden"), "{told}");
        assert!(passed.header("x-other").is_none());
        let seen = service.request("/admin?q=1").unwrap();
        assert_eq!(
            (seen.headers("x-team"), seen.body.as_slice()),
            (vec!["admins"], b"body".as_slice()),
            "{who}"
        );
        let denied = ask("/admin/denied", "X-User: bob\r\n");
        assert_eq!(
            (denied.status(), denied.header("x-why"), &*denied.text()),
            (418, Some("stranger"), "sorr"),
            "{who}"
        );
        assert!(denied.header("x-other").is_none());
        for mode in ["broken", "hang"] {
            let refused = ask("/admin/denied", &format!("X-User: alice\r\nX-Mode: {mode}\r\n"));
            assert_eq!(refused.status(), 403, "{who} {mode}: {}", refused.head);
        }
        assert!(service.request("/admin/denied").is_none(), "{who}");
    }
}

#[test]
fn without_an_answer_it_is_refused_unless_the_provider_says_otherwise() {
    let shop = need_shop!();
    let closed = asked_about(shop, "closed", "nowhere");
    let open = asked_about(shop, "open", "nowhere-open");
    let unknown = asked_about(shop, "unknown", "no-such-provider");
    let status = |service: &HttpService| shop.get(service, "/admin/x").unwrap().status();
    assert_eq!((status(&closed), status(&open), status(&unknown)), (503, 200, 403));
    let down = shop.expose("nowhere", "http", shop.port(), &[&shop.carts[1]]).unwrap();
    assert_eq!((status(&closed), status(&open)), (503, 200), "nobody listens at {}", down.at());
    eventually(SOON, || {
        let report = shop.agent.cli(&["analyze"])?.stdout;
        ensure!(report.contains("no-such-provider"), "{report}");
        Ok(())
    })
    .unwrap();
    shop.metrics_show(|metrics| {
        let count = |outcome| metrics.sum("mesh_agent_ext_authz_total", &[("outcome", outcome)]);
        ensure!(count("failed_open") >= 2.0 && count("error") >= 3.0);
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_connection_is_asked_about_once_before_it_is_made() {
    let shop = need_shop!();
    for (name, provider) in [("bytes", "by-grpc"), ("bytes-http", "by-http")] {
        let rules = json!([{}]);
        shop.topology.mesh().write(&format!("policy-{name}.yaml"), [custom(name, provider, rules)]).unwrap();
        let service = shop.http(name, "tcp", 1).unwrap();
        let passes = |from: &mesh_tests::sockets::Host| {
            from.connect(service.at()).ok().is_some_and(|stream| Client::new(stream).get(name, "/").is_ok())
        };
        // Connections are asked about by gRPC alone.
        assert_eq!((passes(&shop.web), passes(&shop.batch)), (provider == "by-grpc", false), "{provider}");
        assert_eq!(service.seen().count(), usize::from(provider == "by-grpc"), "{provider}");
    }
}
