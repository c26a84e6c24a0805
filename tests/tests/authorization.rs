//! AuthorizationPolicies on real connections: who gets in, what a refused client and its server see, how changes bite, and that
//! nothing goes around them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;

use anyhow::{Result, ensure};
use mesh_tests::http1::Client;
use mesh_tests::lab::eventually;
use mesh_tests::server::Server;
use mesh_tests::shop::{HttpService, NAMESPACE, Service, Shop};
use mesh_tests::sockets::Host;
use mesh_tests::{SOON, need_shop, shared_shop};
use serde_json::json;

shared_shop!("authorization");

/// Puts a policy of this name in force for the pods behind the service of the same name, and waits until it is.
fn policy(shop: &Shop, service: &str, annotations: &str, spec: &str) -> Result<()> {
    let spec: String = spec.lines().map(|line| format!("  {line}\n")).collect();
    let text = format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
         metadata: {{name: {service}, namespace: {NAMESPACE}, annotations: {{{annotations}}}}}\n\
         spec:\n  targetRefs: [{{group: '', kind: Service, name: {service}}}]\n{spec}"
    );
    write(shop, service, &text)
}

/// Writes the policy of this name, and waits for the generation that has it.
fn write(shop: &Shop, name: &str, text: &str) -> Result<()> {
    let before = last_change(shop, name)?;
    shop.topology.mesh().write_text(&format!("authz-{name}.yaml"), text)?;
    eventually(SOON, || {
        ensure!(last_change(shop, name)? > before, "{name} is as of generation {before}");
        Ok(())
    })
}

/// The newest generation that changed the policy of this name.
fn last_change(shop: &Shop, name: &str) -> Result<u64> {
    let history = shop.agent.cli(&["config", "history", "-o", "json"])?.success()?.stdout;
    let history: Vec<serde_json::Value> = serde_json::from_str(&history)?;
    let object = format!("AuthorizationPolicy {NAMESPACE}/{name}");
    let changes = |entry: &serde_json::Value| {
        let changes = entry["changes"].as_array().cloned().unwrap_or_default();
        changes.iter().any(|change| change["object"] == object.as_str())
    };
    let changed = history.iter().filter(|entry| changes(entry));
    Ok(changed.filter_map(|entry| entry["generation"].as_u64()).max().unwrap_or_default())
}

/// An HTTP service with one endpoint, and a policy for it.
fn http_under(shop: &Shop, name: &str, port_name: &str, spec: &str) -> Result<HttpService> {
    let service = shop.http(name, port_name, 1)?;
    policy(shop, name, "", spec)?;
    Ok(service)
}

fn status(from: &Host, service: &Service, line: &str) -> Result<u16> {
    let mut client = Client::new(from.connect(service.at())?);
    Ok(client.ask(format!("{line} HTTP/1.1\r\nHost: p\r\n\r\n"))?.status())
}

/// A server that says what it hears, and a service over it.
fn echo(shop: &Shop, name: &str, port_name: &str) -> Result<(Server, Service)> {
    let port = shop.port();
    let server = Server::new(shop.carts[0].listen(port)?, |mut stream, _| {
        let mut bytes = [0; 64];
        while let Ok(read @ 1..) = stream.read(&mut bytes) {
            if stream.write_all(&bytes[..read]).is_err() {
                return;
            }
        }
    });
    let service = shop.expose(name, port_name, port, &[&shop.carts[0]])?;
    Ok((server, service))
}

fn says(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.write_all(b"hello")?;
    stream.read_exact(&mut [0; 5])
}

fn denied(shop: &Shop, service: &str, kind: &str) -> f64 {
    let policy = format!("{NAMESPACE}/{service}");
    let metrics = shop.agent.metrics().unwrap();
    metrics.sum("mesh_agent_authorization_denied_total", &[("policy", policy.as_str()), ("kind", kind)])
}

/// What `authz check` says: the exit code is 0 or 3.
fn check(shop: &Shop, args: &[&str]) -> Result<(bool, String)> {
    let run = shop.agent.cli(&[&["authz", "check"], args].concat())?;
    ensure!(run.code == 0 || run.code == 3, "{} {}", run.code, run.stderr);
    Ok((run.code == 0, run.stdout))
}

#[test]
fn a_denied_request_never_reaches_the_application() {
    let shop = need_shop!();
    let spec = "action: DENY\nrules: [{to: [{operation: {paths: ['/admin*']}}]}]";
    let service = http_under(shop, "deny", "http", spec).unwrap();
    let mut client = shop.client(&service).unwrap();
    assert_eq!(client.get("p", "/ok").unwrap().status(), 200);
    let refusal = client.get("p", "/admin").unwrap();
    assert_eq!((refusal.status(), refusal.text().as_str()), (403, "RBAC: access denied"));
    for path in ["/x/..%2fadmin", "//admin", "/ADMIN", "/admin;x=1", "/%61dmin", "/x/%252e%252e/admin"] {
        assert_eq!(status(&shop.web, &service, &format!("GET {path}")).unwrap(), 403, "{path}");
    }
    assert_eq!(client.get("p", "/ok2").unwrap().status(), 200, "the connection goes on");
    assert_eq!(service.counts(), [2]);
    let line = shop.log_shows("/admin", |line| line["path"] == "/admin").unwrap();
    assert_eq!((&line["response_flags"], &line["response_code"]), (&"DENY".into(), &403.into()), "{line}");
    let details = "rbac_access_denied_matched_policy[ns[shop]-policy[deny]-rule[0]]";
    assert_eq!(line["response_code_details"], details, "{line}");
    assert!(denied(shop, "deny", "request") >= 7.0);
    let log = shop.agent.log();
    assert!(log.contains("shop/deny") && log.contains("spiffe://cluster.local/ns/shop/sa/web"), "{log}");
}

#[test]
fn only_whoever_is_allowed_gets_in() {
    let shop = need_shop!();
    let spec = "rules: [{from: [{source: {serviceAccounts: [web]}}], to: [{operation: {methods: [GET]}}]}]";
    let service = http_under(shop, "allow", "http", spec).unwrap();
    assert_eq!(status(&shop.web, &service, "GET /").unwrap(), 200);
    assert_eq!(status(&shop.web, &service, "DELETE /").unwrap(), 403);
    assert_eq!(status(&shop.batch, &service, "GET /").unwrap(), 403);
    assert_eq!(service.counts(), [1]);
    for (from, method, want) in [("web", "GET", true), ("web", "DELETE", false), ("batch", "GET", false)] {
        let from = format!("pod/shop/{from}");
        let args = ["--from", &from, "--to", "svc/shop/allow", "--method", method];
        let (allowed, text) = check(shop, &args).unwrap();
        assert_eq!(allowed, want, "{text}");
        assert!(text.contains("shop/allow"), "{text}");
    }
}

#[test]
fn a_pod_that_is_not_enrolled_cannot_speak_for_one_that_is() {
    let shop = need_shop!();
    let spec = "rules: [{from: [{source: {serviceAccounts: [web]}}]}]";
    let service = http_under(shop, "strangers", "http", spec).unwrap();
    let direct = shop.carts[0].at(service.target);
    let mut client = Client::new(shop.outside.connect(direct).unwrap());
    let claims = "GET / HTTP/1.1\r\nHost: p\r\nX-Forwarded-Client-Cert: URI=spiffe://cluster.local/ns/shop/sa/web\r\n\r\n";
    assert_eq!(client.ask(claims).unwrap().status(), 403);
    assert_eq!(service.counts(), [0]);
    // The agent's own ports in the pod lead nowhere, whatever is said to them.
    for port in [15001, 15006, 15008] {
        // Only that for HBONE takes connections, of those who prove who they are.
        assert_eq!(shop.outside.connect(shop.carts[0].at(port)).is_ok(), port == 15008, "{port}");
        for from in [&shop.outside, &shop.web] {
            if let Ok(stream) = from.connect(shop.carts[0].at(port)) {
                assert!(Client::new(stream).ask(claims).map_or(0, |answer| answer.status()) != 200, "{port}");
            }
        }
    }
    assert_eq!(service.counts(), [0]);
}

#[test]
fn a_denied_connection_is_reset_and_counted_and_the_application_hears_nothing() {
    let shop = need_shop!();
    let (server, service) = echo(shop, "bytes", "tcp").unwrap();
    policy(shop, "bytes", "", "rules: [{from: [{source: {serviceAccounts: [web]}}]}]").unwrap();
    says(&mut shop.web.connect(service.at()).unwrap()).unwrap();
    let accepted = server.accepted();
    // The reset may come before connect(2) has returned.
    let error = shop.batch.connect(service.at()).and_then(|mut stream| says(&mut stream)).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{error}");
    assert_eq!(server.accepted(), accepted);
    let line = shop.log_shows("bytes", |line| {
        line["response_flags"] == "DENY" && line["destination_service"] == "bytes.shop.svc.cluster.local"
    });
    assert_eq!(line.unwrap()["response_code_details"], "rbac_access_denied_matched_policy[none]");
    let metrics = shop.agent.metrics().unwrap();
    let none =
        metrics.sum("mesh_agent_authorization_denied_total", &[("policy", "none"), ("kind", "connection")]);
    assert!(none >= 1.0);
    let args = ["--from", "pod/shop/batch", "--to", "svc/shop/bytes"];
    let (allowed, text) = check(shop, &args).unwrap();
    assert!(!allowed && text.contains("a connection that carries no requests"), "{text}");
}

#[test]
fn where_nothing_is_declared_requests_may_be_let_in_though_bytes_are_not() {
    let shop = need_shop!();
    let spec = "rules: [{to: [{operation: {methods: [GET]}}]}]";
    let service = http_under(shop, "detected", "", spec).unwrap();
    assert_eq!(status(&shop.web, &service, "GET /").unwrap(), 200);
    assert_eq!(status(&shop.web, &service, "POST /").unwrap(), 403);
    let (server, bytes) = echo(shop, "undeclared", "").unwrap();
    policy(shop, "undeclared", "", spec).unwrap();
    assert!(shop.web.connect(bytes.at()).and_then(|mut stream| says(&mut stream)).is_err());
    assert_eq!(server.accepted(), 0, "it isn't dialled before it is certain");
}

#[test]
fn a_change_of_policy_closes_open_connections_that_it_no_longer_allows() {
    let shop = need_shop!();
    let (_server, service) = echo(shop, "closing", "tcp").unwrap();
    let (mut web, mut batch) =
        (shop.web.connect(service.at()).unwrap(), shop.batch.connect(service.at()).unwrap());
    for stream in [&mut web, &mut batch] {
        says(stream).unwrap();
    }
    policy(shop, "closing", "", "rules: [{from: [{source: {serviceAccounts: [web]}}]}]").unwrap();
    let error = batch.read(&mut [0]).expect_err("the connection is reset, not ended");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    says(&mut web).unwrap();
    policy(shop, "closing", "", "rules: []").unwrap();
    assert_eq!(web.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[test]
fn each_request_of_a_kept_connection_is_judged_anew() {
    let shop = need_shop!();
    let service = shop.http("anew", "http", 1).unwrap();
    let mut client = shop.client(&service).unwrap();
    assert_eq!(client.get("p", "/").unwrap().status(), 200);
    policy(shop, "anew", "", "rules: []").unwrap();
    assert_eq!(client.get("p", "/").unwrap().status(), 403);
    policy(shop, "anew", "", "rules: [{}]").unwrap();
    assert_eq!(client.get("p", "/").unwrap().status(), 200);
}

#[test]
fn a_dry_run_is_counted_and_enforced_nowhere() {
    let shop = need_shop!();
    let service = shop.http("dry", "http", 1).unwrap();
    policy(shop, "dry", "istio.io/dry-run: 'true'", "action: DENY\nrules: [{}]").unwrap();
    assert_eq!(status(&shop.web, &service, "GET /").unwrap(), 200);
    shop.metrics_show(|metrics| {
        let labels = [("policy", "shop/dry"), ("verdict", "denied")];
        ensure!(metrics.sum("mesh_agent_authorization_dry_run_total", &labels) == 1.0);
        ensure!(metrics.sum("mesh_agent_authorization_denied_total", &[("policy", "shop/dry")]) == 0.0);
        Ok(())
    })
    .unwrap();
    let (allowed, text) = check(shop, &["--from", "pod/shop/web", "--to", "svc/shop/dry"]).unwrap();
    assert!(allowed && text.contains("denied by AuthorizationPolicy shop/dry, rule 0"), "{text}");
}

#[test]
fn an_invalid_version_leaves_the_last_valid_one_in_force_and_without_one_nothing_passes() {
    let shop = need_shop!();
    let service =
        http_under(shop, "versions", "http", "rules: [{to: [{operation: {methods: [GET]}}]}]").unwrap();
    assert_eq!(status(&shop.web, &service, "GET /").unwrap(), 200);
    let broken = |name: &str| {
        format!(
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}, namespace: shop}}\n\
             spec: {{targetRefs: [{{kind: Service, name: {name}}}], rules: [{{from: []}}]}}\n"
        )
    };
    let warns = |object: &str, code: &str| {
        eventually(SOON, || {
            let warnings = shop.agent.cli(&["config", "warnings", "-o", "json"])?.stdout;
            ensure!(warnings.contains(object) && warnings.contains(code), "{warnings}");
            Ok(())
        })
    };
    shop.topology.mesh().write_text("authz-versions.yaml", &broken("versions")).unwrap();
    warns("AuthorizationPolicy shop/versions", "MESH0109").unwrap();
    assert_eq!(status(&shop.web, &service, "GET /").unwrap(), 200);
    assert_eq!(status(&shop.web, &service, "POST /").unwrap(), 403);
    let never = shop.http("never", "http", 1).unwrap();
    assert_eq!(status(&shop.web, &never, "GET /").unwrap(), 200);
    shop.topology.mesh().write_text("authz-never.yaml", &broken("never")).unwrap();
    warns("AuthorizationPolicy shop/never", "MESH0144").unwrap();
    assert_eq!(status(&shop.web, &never, "GET /").unwrap(), 403);
}

#[test]
fn policies_are_listed_with_whom_they_select() {
    let shop = need_shop!();
    http_under(shop, "listed", "http", "rules: [{}]").unwrap();
    let listed = shop.agent.cli(&["get", "policies", "-o", "json"]).unwrap().success().unwrap().stdout;
    let listed: Vec<serde_json::Value> = serde_json::from_str(&listed).unwrap();
    let row = listed.iter().find(|row| row["name"] == "listed").unwrap();
    assert_eq!(
        (&row["kind"], &row["target"]),
        (&json!("AuthorizationPolicy"), &json!("Service shop/listed"))
    );
    assert_eq!((&row["groups"], &row["state"]), (&json!(["ALLOW"]), &json!("attached")), "{row}");
}

#[test]
fn a_selector_finds_pods_by_their_labels() {
    let shop = need_shop!();
    let (server, service) = echo(shop, "labelled", "tcp").unwrap();
    says(&mut shop.batch.connect(service.at()).unwrap()).unwrap();
    let of = |app: &str| {
        format!(
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: labelled, namespace: shop}}\n\
             spec:\n  selector: {{matchLabels: {{app: {app}}}}}\n  action: DENY\n  rules:\n\
             \x20 - {{from: [{{source: {{serviceAccounts: [batch]}}}}], to: [{{operation: {{ports: ['{}']}}}}]}}\n",
            service.target
        )
    };
    write(shop, "labelled", &of("other")).unwrap();
    says(&mut shop.batch.connect(service.at()).unwrap()).unwrap();
    let accepted = server.accepted();
    write(shop, "labelled", &of("cart")).unwrap();
    assert!(shop.batch.connect(service.at()).and_then(|mut stream| says(&mut stream)).is_err());
    says(&mut shop.web.connect(service.at()).unwrap()).unwrap();
    assert_eq!(server.accepted(), accepted + 1);
}
