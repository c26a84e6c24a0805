//! RequestAuthentication: tokens where requests arrive, on one node and from outside it, with keys inline and fetched.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::io::{BufReader, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};

use anyhow::{Context, Result, ensure};
use http::Request;
use mesh_tests::http1::{Client, Message};
use mesh_tests::http2::{Answer, whole, with_client};
use mesh_tests::lab::{Object, eventually};
use mesh_tests::server::Server;
use mesh_tests::shop::{HttpService, NAMESPACE, Shop};
use mesh_tests::tokens::{Issuer, now};
use mesh_tests::{SOON, need_shop, shared_shop};
use serde_json::{Value, json};

shared_shop!("request-authentication");

/// A policy of this kind for the service's port alone.
fn policy(kind: &str, service: &str, mut spec: Value) -> Object {
    spec["targetRefs"] = json!([{"kind": "Service", "name": service}]);
    let metadata = json!({"name": service, "namespace": NAMESPACE});
    Object(json!({"apiVersion": "security.istio.io/v1", "kind": kind, "metadata": metadata, "spec": spec}))
}

fn tokens(service: &str, rule: &Value) -> Object {
    policy("RequestAuthentication", service, json!({"jwtRules": [rule]}))
}

/// Only requests with a token of anybody.
fn authenticated_alone(service: &str) -> Object {
    let rules = json!([{"from": [{"source": {"requestPrincipals": ["*"]}}]}]);
    policy("AuthorizationPolicy", service, json!({"action": "ALLOW", "rules": rules}))
}

/// An HTTP service under these policies.
fn service_under(shop: &Shop, name: &str, policies: impl IntoIterator<Item = Object>) -> Result<HttpService> {
    shop.topology.mesh().write(&format!("policy-{name}.yaml"), policies)?;
    shop.http(name, "http", 1)
}

fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}")
}

/// Requests over one node, and from outside to the pod's own address.
fn clients(shop: &Shop, service: &HttpService) -> Result<[(&'static str, Client); 2]> {
    let pod = (service.backends[0].host.v4(), service.target).into();
    let outside = Client::new(shop.outside.connect(pod)?);
    Ok([("web", shop.client(service)?), ("outside", outside)])
}

#[test]
fn a_request_without_a_token_passes_and_one_that_does_not_hold_never_does() {
    let shop = need_shop!();
    let issuer = Issuer::new("https://id.test");
    let rule = json!({"issuer": issuer.name(), "audiences": ["cart"], "jwks": issuer.jwks()});
    let service = service_under(shop, "tokens", [tokens("tokens", &rule)]).unwrap();
    let good = issuer.token_with("alice", &json!({"aud": ["x", "cart"]}));
    for (who, mut client) in clients(shop, &service).unwrap() {
        let mut get = |path: &str, header: &str| client.get_with("tokens.shop", path, header).unwrap();
        assert_eq!(get("/", "X: 1").status(), 200, "{who}");
        assert_eq!(get("/", &bearer(&good)).status(), 200, "{who}");
        assert_eq!(get(&format!("/?access_token={good}"), "X: 1").status(), 200, "{who}");
        for (bad, body) in [
            (format!("{good}x"), "Jwt is not in the form"),
            (
                Issuer::new(issuer.name()).token_with("alice", &json!({"aud": "cart"})),
                "Jwt verification fails",
            ),
            (Issuer::new("https://other.test").token("alice"), "Jwt issuer is not configured"),
            (issuer.token_with("alice", &json!({"aud": "cart", "exp": now() - 120})), "Jwt is expired"),
            ("none".to_owned(), "Jwt is not in the form"),
        ] {
            let refused = get("/bad", &bearer(&bad));
            assert_eq!(refused.status(), 401, "{who} {bad}: {}", refused.head);
            let told = refused.header("www-authenticate").unwrap();
            assert_eq!(told, "Bearer realm=\"http://tokens.shop/bad\", error=\"invalid_token\"");
            assert!(refused.text().starts_with(body), "{}", refused.text());
        }
        assert_eq!(get("/bad", &bearer(&issuer.token("alice"))).status(), 403, "{who}: of another audience");
    }
    assert!(
        service.seen().all().iter().all(|request| !request.head.contains("/bad")),
        "refused requests reach nobody"
    );
    let line = shop.log_shows("jwt_expired", |line| line["response_code_details"] == "jwt_expired").unwrap();
    assert_eq!((&line["response_flags"], &line["response_code"]), (&"DENY".into(), &401.into()), "{line}");
    assert!(!shop.agent.log().contains(&good), "no token is logged");
    shop.metrics_show(|metrics| {
        for (outcome, least) in [("none", 2.0), ("accepted", 4.0), ("expired", 2.0), ("audience", 2.0)] {
            let counted = metrics.sum("mesh_agent_jwt_authentications_total", &[("outcome", outcome)]);
            ensure!(counted >= least, "{outcome}: {counted}");
        }
        Ok(())
    })
    .unwrap();
}

#[test]
fn claims_decide_and_the_application_sees_them_and_no_forgery() {
    let shop = need_shop!();
    let issuer = Issuer::new("https://claims.test");
    let rule = json!({
        "issuer": issuer.name(), "jwks": issuer.jwks(),
        "outputPayloadToHeader": "x-payload",
        "outputClaimToHeaders": [{"header": "x-user", "claim": "sub"}],
    });
    let allow = json!([{
        "from": [{"source": {"requestPrincipals": [format!("{}/*", issuer.name())]}}],
        "when": [{"key": "request.auth.claims[scope]", "values": ["cart.write"]}],
    }, {"to": [{"operation": {"paths": ["/open/*"]}}]}]);
    let authorization = policy("AuthorizationPolicy", "claims", json!({"action": "ALLOW", "rules": allow}));
    let service = service_under(shop, "claims", [tokens("claims", &rule), authorization]).unwrap();
    let writer = issuer.token_with("alice", &json!({"scope": "cart.read cart.write"}));
    let reader = issuer.token_with("bob", &json!({"scope": "cart.read"}));
    for (who, mut client) in clients(shop, &service).unwrap() {
        let mut ask = |path: &str, headers: &[&str]| {
            let lines: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
            client.ask(format!("GET {path} HTTP/1.1\r\nHost: claims\r\n{lines}\r\n")).unwrap()
        };
        let forged = "X-User: root";
        assert_eq!(ask("/head/1", &[forged]).status(), 403, "{who}");
        assert_eq!(ask("/head/2", &[forged, &bearer(&reader)]).status(), 403, "{who}");
        let passed = ask("/head/3", &[forged, "x-payload: e30", &bearer(&writer)]);
        assert_eq!(passed.status(), 200, "{who}: {}", passed.head);
        let seen = Message { head: passed.text(), ..Message::default() };
        assert_eq!(seen.headers("x-user"), ["alice"], "{who}");
        assert_eq!(seen.headers("x-payload"), [writer.split('.').nth(1).unwrap()], "{who}");
        assert!(seen.header("authorization").is_none(), "{who}: {}", seen.head);
        // Without a token nobody can send them either.
        let open = ask("/open/head", &[forged, "x-payload: e30"]);
        assert_eq!(open.status(), 200, "{who}");
        let seen = service.request("/open/head").unwrap();
        assert!(seen.header("x-user").is_none() && seen.header("x-payload").is_none(), "{}", seen.head);
    }
}

#[test]
fn over_grpc_a_refusal_is_unauthenticated() {
    let shop = need_shop!();
    let issuer = Issuer::new("https://grpc.test");
    let rule = json!({"issuer": issuer.name(), "jwks": issuer.jwks()});
    let port = shop.port();
    let _server = mesh_tests::http2::H2Server::new(
        shop.carts[0].listen(port).unwrap(),
        None,
        |_request, mut respond| async move {
            let trailers = [("grpc-status".parse().unwrap(), "0".parse().unwrap())].into_iter().collect();
            mesh_tests::http2::answer(&mut respond, "", Some(trailers));
        },
    );
    shop.topology
        .mesh()
        .write("policy-grpctokens.yaml", [tokens("grpctokens", &rule), authenticated_alone("grpctokens")])
        .unwrap();
    let service = shop.expose("grpctokens", "grpc", port, &[&shop.carts[0]]).unwrap();
    let good = issuer.token("alice");
    let answers: Vec<Answer> = with_client(shop.web.connect(service.at()).unwrap(), async |client| {
        let mut answers = Vec::new();
        for token in [Some(good.clone()), Some("broken".to_owned()), None] {
            let mut request =
                Request::post("http://grpctokens/pkg.Svc/Do").header("content-type", "application/grpc");
            if let Some(token) = token {
                request = request.header("authorization", format!("Bearer {token}"));
            }
            let (response, _) = client.clone().ready().await?.send_request(request.body(())?, true)?;
            answers.push(whole(response.await?).await?);
        }
        Ok(answers)
    })
    .unwrap();
    let [passed, broken, missing] = &answers[..] else { panic!("{answers:?}") };
    assert_eq!(passed.trailers.as_ref().unwrap()["grpc-status"], "0");
    assert_eq!(
        (broken.head.status.as_u16(), &broken.head.headers["grpc-status"]),
        (200, &"16".parse().unwrap())
    );
    assert!(broken.head.headers.contains_key("www-authenticate"), "{:?}", broken.head);
    assert_eq!(missing.head.headers["grpc-status"], "7", "nobody's, and authorization wants somebody's");
}

/// A server of key sets.
fn key_server(listener: TcpListener, jwks: String) -> Server {
    Server::new(listener, move |stream, _| {
        let Ok(mut out) = stream.try_clone() else { return };
        let mut reader = BufReader::new(stream);
        while let Ok(Some(_)) = mesh_tests::http1::read_message(&mut reader, false) {
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", jwks.len());
            if out.write_all((head + &jwks).as_bytes()).is_err() {
                return;
            }
        }
    })
}

/// An address of the network namespace that the agent is in, which pods' addresses can't be reached from here.
fn own_address() -> Result<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    // Sends nothing.
    socket.connect("192.0.2.254:9").context("a machine with a default route")?;
    Ok(socket.local_addr()?.ip())
}

/// The Service `keys`, whose endpoint is at this address.
fn keys_at(address: SocketAddr) -> [Object; 2] {
    let metadata = json!({"name": "keys", "namespace": NAMESPACE});
    let slice =
        json!({"name": "keys-1", "namespace": NAMESPACE, "labels": {"kubernetes.io/service-name": "keys"}});
    [
        Object(json!({
            "apiVersion": "v1", "kind": "Service", "metadata": metadata,
            "spec": {"clusterIP": "None", "ports": [{"name": "http", "port": 80}]},
        })),
        Object(json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": slice, "addressType": "IPv4",
            "endpoints": [{"addresses": [address.ip()], "conditions": {"ready": true}}],
            "ports": [{"name": "http", "port": address.port()}],
        })),
    ]
}

#[test]
fn keys_are_fetched_from_a_service_and_tokens_wait_for_none() {
    let shop = need_shop!();
    let issuer = Issuer::new("https://fetched.test");
    let uri = "http://keys.shop.svc.cluster.local/jwks.json";
    let rule = json!({"issuer": issuer.name(), "jwksUri": uri, "timeout": "1s"});
    let service = service_under(shop, "fetched", [tokens("fetched", &rule)]).unwrap();
    let get = |token: &str| -> Result<u16> {
        Ok(shop.client(&service)?.get_with("fetched", "/", &bearer(token))?.status())
    };
    let good = issuer.token("alice");
    // There is no such service yet.
    assert_eq!(get(&good).unwrap(), 401);
    eventually(SOON, || {
        let report = shop.agent.cli(&["analyze"])?.stdout;
        ensure!(report.contains(uri) && report.contains("refused until they are"), "{report}");
        Ok(())
    })
    .unwrap();
    let listener = TcpListener::bind((own_address().unwrap(), 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let _server = key_server(listener, issuer.jwks());
    shop.topology.mesh().write("keys.yaml", keys_at(address)).unwrap();
    eventually(SOON, || {
        let status = get(&good)?;
        ensure!(status == 200, "{status}, keys at {address}");
        Ok(())
    })
    .unwrap();
    assert_eq!(get(&Issuer::new(issuer.name()).token("alice")).unwrap(), 401);
    shop.metrics_show(|metrics| {
        ensure!(metrics.sum("mesh_agent_jwks_fetches_total", &[("outcome", "fetched")]) >= 1.0);
        let age = metrics.sum("mesh_agent_jwks_age_seconds", &[("source", uri)]);
        ensure!((0.0..60.0).contains(&age), "{age}");
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_change_of_rules_holds_for_the_next_request_of_an_open_connection() {
    let shop = need_shop!();
    let (old, new) = (Issuer::new("https://change.test"), Issuer::new("https://change.test"));
    let rule = |issuer: &Issuer| json!({"issuer": issuer.name(), "jwks": issuer.jwks()});
    let service = service_under(shop, "change", [tokens("change", &rule(&old))]).unwrap();
    let token = old.token("alice");
    let mut open = clients(shop, &service).unwrap();
    for (who, client) in &mut open {
        assert_eq!(client.get_with("change", "/", &bearer(&token)).unwrap().status(), 200, "{who}");
    }
    shop.change_policies("change", [tokens("change", &rule(&new))]).unwrap();
    for (who, client) in &mut open {
        assert_eq!(client.get_with("change", "/", &bearer(&token)).unwrap().status(), 401, "{who}");
        assert_eq!(
            client.get_with("change", "/", &bearer(&new.token("alice"))).unwrap().status(),
            200,
            "{who}"
        );
    }
}

#[test]
fn a_broken_policy_lets_no_token_hold_and_no_header_be_forged() {
    let shop = need_shop!();
    let issuer = Issuer::new("https://broken.test");
    let rule = json!({
        "issuer": issuer.name(), "jwks": "no keys",
        "outputClaimToHeaders": [{"header": "x-user", "claim": "sub"}],
    });
    let service = service_under(shop, "broken", [tokens("broken", &rule)]).unwrap();
    for (who, mut client) in clients(shop, &service).unwrap() {
        assert_eq!(
            client.get_with("broken", "/", &bearer(&issuer.token("alice"))).unwrap().status(),
            401,
            "{who}"
        );
        assert_eq!(client.get_with("broken", "/forged", "X-User: root").unwrap().status(), 200, "{who}");
    }
    let seen = service.request("/forged").unwrap();
    assert!(seen.header("x-user").is_none(), "{}", seen.head);
}

#[test]
fn authz_check_judges_a_token_as_the_data_path_does() {
    let shop = need_shop!();
    let issuer = Issuer::new("https://check.test");
    let rule = json!({"issuer": issuer.name(), "jwks": issuer.jwks()});
    let service =
        service_under(shop, "check", [tokens("check", &rule), authenticated_alone("check")]).unwrap();
    let port = service.target.to_string();
    let file = tempfile::NamedTempFile::new().unwrap();
    let at = format!("@{}", file.path().display());
    let check = |token: &str| {
        std::fs::write(file.path(), format!("{token}\n")).unwrap();
        let to = format!("pod/{NAMESPACE}/cart-1");
        let from = format!("pod/{NAMESPACE}/web");
        let args = ["authz", "check", "--from", &from, "--to", &to, "--port", &port, "--jwt", &at];
        shop.agent.cli(&args).unwrap()
    };
    let good = check(&issuer.token("alice"));
    assert_eq!(good.code, 0, "{}{}", good.stdout, good.stderr);
    assert!(good.stdout.contains("https://check.test/alice"), "{}", good.stdout);
    let bad = check(&Issuer::new(issuer.name()).token("alice"));
    assert_eq!(bad.code, 3, "{}{}", bad.stdout, bad.stderr);
    assert!(bad.stdout.contains("signature"), "{}", bad.stdout);
}

#[test]
fn an_echo_of_the_request_shows_what_a_cookie_or_parameter_left_behind() {
    let shop = need_shop!();
    let issuer = Issuer::new("https://places.test");
    let rule = json!({
        "issuer": issuer.name(), "jwks": issuer.jwks(), "fromCookies": ["session"], "fromParams": ["t"],
    });
    let service =
        service_under(shop, "places", [tokens("places", &rule), authenticated_alone("places")]).unwrap();
    let token = issuer.token("alice");
    for (who, mut client) in clients(shop, &service).unwrap() {
        let cookie = format!("Cookie: a=1; session={token}; b=2");
        let passed = client.get_with("places", "/head/cookie", &cookie).unwrap();
        assert_eq!(passed.status(), 200, "{who}");
        let seen = service.request("/head/cookie").context("the request").unwrap();
        assert_eq!(seen.headers("cookie"), ["a=1; b=2"], "{who}");
        let passed = client.get("places", &format!("/head/param?a=1&t={token}&b=2")).unwrap();
        assert_eq!(passed.status(), 200, "{who}");
        assert!(service.request("/head/param?a=1&b=2").is_some(), "{who}: {:?}", service.seen().all().last());
        assert_eq!(
            client.get_with("places", "/", &bearer(&token)).unwrap().status(),
            403,
            "{who}: not a place of the rule"
        );
    }
}
