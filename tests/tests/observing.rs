//! What happened: flows as they end and the last failures, by `observe`, `tap`, `describe` and the admin socket; the access log
//! by a template; and that no secret is in any of it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{HeaderMap, Request, Response};
use mesh_tests::http2::{H2Server, collect, whole, with_client};
use mesh_tests::lab::{Running, eventually};
use mesh_tests::server::Server;
use mesh_tests::shop::{NAMESPACE, Service, Shop};
use mesh_tests::{SOON, need_shop, shared_shop};
use serde_json::Value;

const TEMPLATE: &str = r#"{"from": "%MESH_SOURCE_POD%", "to": "%UPSTREAM_HOST%", "what": "%REQ(:METHOD)% %REQ(X-ORIGINAL?:PATH)% %PROTOCOL%", "code": "%RESPONSE_CODE%", "flags": "%RESPONSE_FLAGS%", "agent": "%REQ(USER-AGENT):6%", "server": "%RESP(X-SERVED-BY)%", "cluster": "%UPSTREAM_CLUSTER%", "at": "%START_TIME(%s)%"}"#;

/// The shared shop's access log, in whose place old ones are, too.
fn log_file() -> PathBuf {
    static DIR: OnceLock<tempfile::TempDir> = OnceLock::new();
    DIR.get_or_init(|| tempfile::tempdir().expect("a directory")).path().join("access.log")
}

shared_shop!(
    "observing",
    "access-log" = format!("template:{}", log_file().display()),
    "access-log-template" = TEMPLATE,
    "access-log-rotate" = "64Ki:1000",
    "redact-headers" = "X-Plan"
);

/// All lines of the access log, also those in files that were moved away.
fn logged() -> String {
    let files = std::fs::read_dir(log_file().parent().unwrap()).unwrap();
    files.filter_map(|file| std::fs::read_to_string(file.ok()?.path()).ok()).collect()
}

/// One test at a time: they count observers, and look at the last failures of the same pods.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A command that goes on, against the shop's agent, once it observes beside `others`.
fn following(shop: &Shop, others: usize, args: &[&str]) -> Result<Running> {
    // Those of the test before are gone once the agent has noticed.
    observe(shop, others)?;
    let mut command = Command::new(mesh_tests::agent_binary()?);
    command.args(args).env("MESH_AGENT_STATE_DIR", shop.agent.state_dir());
    let mut running = Running::start(command)?;
    observe(shop, others + 1).with_context(|| running.stderr())?;
    ensure!(running.try_wait().is_none(), "{}", running.stderr());
    Ok(running)
}

/// Waits until so many observe.
fn observe(shop: &Shop, count: usize) -> Result<()> {
    shop.metrics_show(|metrics| {
        let observers = metrics.sum("mesh_agent_flow_observers", &[]);
        ensure!(observers == count as f64, "{observers} observe, not {count}");
        Ok(())
    })
}

/// Waits for a line of JSON that satisfies `check`.
fn shows(running: &Running, what: &str, check: impl Fn(&Value) -> bool) -> Result<Value> {
    eventually(SOON, || {
        let said = running.stdout();
        let mut lines = said.lines().filter_map(|line| serde_json::from_str(line).ok());
        lines.find(|line| check(line)).with_context(|| format!("no line with {what} in {said}"))
    })
}

/// A server that answers every request with headers of its own, a secret among them.
fn served(shop: &Shop, name: &str, answer: &'static str) -> Result<(Server, Service)> {
    let port = shop.port();
    let server = Server::new(shop.carts[0].listen(port)?, move |stream, _| {
        let mut out = stream.try_clone().unwrap();
        let mut lines = BufReader::new(stream).lines();
        while let Some(Ok(line)) = lines.next() {
            if line.is_empty() && out.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    });
    Ok((server, shop.expose(name, "http", port, &[&shop.carts[0]])?))
}

async fn call(request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
    if collect(request.into_body()).await.is_err() {
        return;
    }
    let response = Response::builder().header("content-type", "application/grpc").body(()).unwrap();
    let Ok(mut stream) = respond.send_response(response, false) else { return };
    let _ =
        stream.send_trailers(HeaderMap::from_iter([("grpc-status".parse().unwrap(), "7".parse().unwrap())]));
}

/// Puts a policy in force that denies GET below /private, and waits until it is.
fn deny(shop: &Shop, service: &Service) -> Result<()> {
    let name = &service.name;
    let text = format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}, namespace: {NAMESPACE}}}\n\
         spec:\n  targetRefs: [{{group: '', kind: Service, name: {name}}}]\n  action: DENY\n  \
         rules: [{{to: [{{operation: {{paths: ['/private*']}}}}]}}]\n"
    );
    shop.topology.mesh().write_text(&format!("authz-{name}.yaml"), &text)?;
    eventually(SOON, || {
        ensure!(shop.get(service, "/private/first")?.status() == 403);
        Ok(())
    })
}

#[test]
fn requests_calls_and_connections_are_shown_as_they_end() {
    let _alone = alone();
    let shop = need_shop!();
    let http = shop.http("seen-http", "http", 1).unwrap();
    let port = shop.port();
    let _calls = H2Server::new(shop.carts[1].listen(port).unwrap(), None, call);
    let grpc = shop.expose("seen-grpc", "grpc", port, &[&shop.carts[1]]).unwrap();
    let tcp = shop.http("seen-tcp", "tcp", 1).unwrap();
    let base = ["observe", "-f", "-o", "json", "--to-service", "shop/seen"];
    let all = following(shop, 0, &base).unwrap();
    let more = ["--not", "--http-path", "^/status", "--cel-expression", "_flow.l7.status == 200"];
    let some = following(shop, 1, &[&base[..], &more].concat()).unwrap();
    assert_eq!(shop.get(&http, "/status/404").unwrap().status(), 404);
    assert_eq!(shop.get(&http, "/fine?page=2&token=marker").unwrap().status(), 200);
    let called = with_client(shop.web.connect(grpc.at()).unwrap(), async |client| {
        let call = Request::post("http://any/pay.Till/Charge").header("content-type", "application/grpc");
        let call = call.header("te", "trailers").body(())?;
        whole(client.ready().await?.send_request(call, true)?.0.await?).await
    });
    assert_eq!(called.unwrap().head.status, 200);
    assert_eq!(shop.get(&tcp, "/bytes").unwrap().status(), 200);

    let seen = shows(&all, "/status/404", |flow| flow["l7"]["path"] == "/status/404").unwrap();
    let cart = &http.backends[0].host;
    for (field, expected) in [
        ("/verdict", "FORWARDED"),
        ("/node", "node-a"),
        ("/reporter", "source"),
        ("/protocol", "http"),
        ("/source/namespace", "shop"),
        ("/source/pod", "web"),
        ("/destination/pod", "cart-1"),
        ("/service/name", "seen-http"),
        ("/endpoint", cart.at(http.target).to_string().as_str()),
        ("/dialled", http.at().to_string().as_str()),
        ("/l7/method", "GET"),
        ("/flag", "-"),
        ("/security", "none"),
    ] {
        assert_eq!(seen.pointer(field).and_then(Value::as_str), Some(expected), "{field} of {seen}");
    }
    assert_eq!(seen["l7"]["status"], 404);
    assert!(seen["l7"]["requestHeaders"].is_null(), "headers are for tap: {seen}");
    let fine = shows(&some, "/fine", |flow| flow["service"]["name"] == "seen-http").unwrap();
    assert_eq!(fine["l7"]["path"], "/fine?page=2&token=[redacted]");
    let call = shows(&all, "the call", |flow| flow["protocol"] == "grpc").unwrap();
    assert_eq!((&call["l7"]["grpcStatus"], &call["l7"]["path"]), (&7.into(), &"/pay.Till/Charge".into()));
    let bytes = shows(&all, "the connection", |flow| flow["protocol"] == "tcp").unwrap();
    assert!(bytes["bytesSent"].as_u64() > Some(0) && bytes["l7"].is_null(), "{bytes}");
    assert!(!some.stdout().contains("/status/404"), "{}", some.stdout());
}

#[test]
fn the_last_failures_and_denials_are_kept_with_their_reasons() {
    let _alone = alone();
    let shop = need_shop!();
    let denied = shop.http("kept-denied", "http", 1).unwrap();
    deny(shop, &denied).unwrap();
    assert_eq!(shop.get(&denied, "/private/x").unwrap().status(), 403);
    assert_eq!(shop.get(&denied, "/fine").unwrap().status(), 200);
    // Nobody listens there.
    let broken = shop.expose("kept-broken", "http", shop.port(), &[&shop.carts[1]]).unwrap();
    assert_eq!(shop.get(&broken, "/broken").unwrap().status(), 503);
    let ask = |args: &[&str]| {
        let all =
            shop.agent.cli(&[&["observe", "--last", "100", "--to-service", "shop/kept"], args].concat());
        all.unwrap().success().unwrap()
    };
    let lines = ask(&["-o", "json", "--verdict", "DENIED", "--http-path", "/private/x"]).stdout;
    let flow: Value = serde_json::from_str(lines.trim()).unwrap();
    for (field, expected) in [
        ("/verdict", "DROPPED"),
        ("/flag", "DENY"),
        ("/policy", "shop/kept-denied"),
        ("/details", "rbac_access_denied_matched_policy[ns[shop]-policy[kept-denied]-rule[0]]"),
        ("/source/pod", "web"),
        ("/destination/pod", "cart-1"),
    ] {
        assert_eq!(flow.pointer(field).and_then(Value::as_str), Some(expected), "{field} of {flow}");
    }
    let compact = ask(&["--verdict", "ERROR"]).stdout;
    assert!(compact.contains("shop/web:") && compact.contains("ERROR (HTTP/1.1 GET "), "{compact}");
    assert!(compact.contains(" UF connect_failed") && !compact.contains("/fine"), "{compact}");
    let nothing = ask(&["--verdict", "FORWARDED"]);
    assert!(nothing.stdout.is_empty() && nothing.stderr.contains("no failures"), "{nothing:?}");
    assert_eq!(shop.agent.cli(&["observe", "--http-status", "x"]).unwrap().code, 65);
    assert_eq!(shop.agent.cli(&["observe", "--cel-expression", "("]).unwrap().code, 64);

    for (args, expected) in [
        (["describe", "service", "shop/kept-denied"], "shop/kept-denied"),
        (["describe", "service", "shop/kept-broken"], "connect_failed"),
        (["describe", "pod", "shop/web"], "connect_failed"),
        (["describe", "pod", "shop/cart-1"], "rbac_access_denied_matched_policy"),
    ] {
        let page = shop.agent.cli(&args).unwrap().success().unwrap().stdout;
        let part = page.split_once("Last failures and denials:").expect("a section of failures").1;
        assert!(part.contains(expected), "{args:?}: {page}");
    }
}

#[test]
fn a_reader_that_stands_still_holds_up_nobody_and_is_told_what_it_lost() {
    const REQUESTS: u64 = 10_000;
    let _alone = alone();
    let shop = need_shop!();
    let service = shop.http("burst", "http", 1).unwrap();
    let mut admin = UnixStream::connect(shop.agent.state_dir().join("admin.sock")).unwrap();
    admin.set_read_timeout(Some(SOON)).unwrap();
    // HTTP/1.0: the lines come as they are.
    admin.write_all(b"GET /v1/flows?follow=true&to-service=shop/burst HTTP/1.0\r\n\r\n").unwrap();
    // The head of the answer: from here on every flow counts.
    let mut head = [0; 15];
    admin.read_exact(&mut head).unwrap();
    assert_eq!(&head, b"HTTP/1.0 200 OK");
    let mut client = shop.client(&service).unwrap();
    for _ in 0..REQUESTS / 100 {
        client.send("GET /bytes/1 HTTP/1.1\r\nHost: b\r\n\r\n".repeat(100)).unwrap();
        for _ in 0..100 {
            assert_eq!(client.read().unwrap().expect("an answer").status(), 200);
        }
    }
    let (mut got, mut lost) = (0, 0);
    let mut lines = BufReader::new(admin).lines();
    while got + lost < REQUESTS {
        let line = lines.next().expect("the stream goes on").unwrap();
        let Ok(line) = serde_json::from_str::<Value>(&line) else { continue };
        match line["lost"].as_u64() {
            Some(more) => lost += more,
            None => got += 1,
        }
    }
    assert_eq!(got + lost, REQUESTS);
    assert!(lost > 0 && got >= 4096, "{got} came, {lost} were lost");
    assert!(shop.agent.metrics().unwrap().sum("mesh_agent_flows_lost_total", &[]) >= lost as f64);
    eventually(SOON, || {
        let log = logged();
        let lines = log.lines().filter(|line| line.contains("GET /bytes/1 HTTP/1.1")).count() as u64;
        // What the log's thread was too slow for is counted too.
        let dropped = shop.agent.metrics()?.sum("mesh_agent_access_log_dropped_total", &[]) as u64;
        ensure!(lines + dropped >= REQUESTS, "{lines} lines, {dropped} dropped");
        ensure!(log.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()), "a line was cut");
        Ok(())
    })
    .unwrap();
    let files = std::fs::read_dir(log_file().parent().unwrap()).unwrap().count();
    assert!(files > 2, "the log was never moved away: {files}");
}

#[test]
fn no_secret_is_in_anything_that_is_logged_observed_or_described() {
    let _alone = alone();
    let shop = need_shop!();
    let answer = "HTTP/1.1 500 Failed\r\nContent-Length: 0\r\nX-Served-By: one\r\nSet-Cookie: s=MARKER-1\r\n\
                  X-Auth-Token: MARKER-2\r\nLocation: http://a/?token=MARKER-3\r\n\r\n";
    let (_server, service) = served(shop, "secrets", answer).unwrap();
    let tap = following(shop, 0, &["tap", "svc/shop/secrets", "-o", "json"]).unwrap();
    let text = following(shop, 1, &["tap", "pod/shop/web", "--to-service", "shop/secrets"]).unwrap();
    let dict = following(shop, 2, &["observe", "-f", "-o", "dict", "--to-service", "shop/secrets"]).unwrap();
    let request = "GET /secret?id=7&access_token=MARKER-4&sig=MARKER-5&x=eyJMARKER-6 HTTP/1.1\r\nHost: secrets\r\n\
         User-Agent: plainly-me\r\nAuthorization: Bearer MARKER-7\r\nProxy-Authorization: MARKER-8\r\n\
         Cookie: a=MARKER-9\r\nX-Api-Key: MARKER-10\r\nX-Forwarded-Client-Cert: Cert=MARKER-11\r\n\
         X-Plan: MARKER-12\r\nX-Other: eyJMARKER-13.a.b\r\nReferer: http://b/?password=MARKER-14\r\n\
         X-Shown: plainly\r\n\r\n";
    assert_eq!(shop.client(&service).unwrap().ask(request).unwrap().status(), 500);
    let flow = shows(&tap, "the request", |flow| !flow["l7"].is_null()).unwrap();
    let (request, response) = (&flow["l7"]["requestHeaders"], &flow["l7"]["responseHeaders"]);
    assert_eq!(
        (&request["x-shown"][0], &response["x-served-by"][0]),
        (&"plainly".into(), &"one".into()),
        "{flow}"
    );
    for header in ["authorization", "proxy-authorization", "cookie", "x-api-key", "x-plan"] {
        assert_eq!(request[header][0], "[redacted]", "{header} of {flow}");
    }
    assert_eq!(response["set-cookie"][0], "[redacted]", "{flow}");
    eventually(SOON, || {
        ensure!(text.stdout().contains("> x-shown: plainly"), "{}", text.stdout());
        ensure!(dict.stdout().contains("SUMMARY: HTTP/1.1 GET"), "{}", dict.stdout());
        ensure!(logged().contains("/secret?id=7"), "not logged");
        Ok(())
    })
    .unwrap();
    let line = logged().lines().find(|line| line.contains("/secret?")).unwrap().to_owned();
    let line: Value = serde_json::from_str(&line).unwrap();
    let cart = shop.carts[0].at(service.target).to_string();
    for (field, expected) in [
        ("from", "shop/web"),
        ("to", cart.as_str()),
        ("code", "500"),
        ("flags", "-"),
        ("agent", "plainl"),
        ("server", "one"),
        ("cluster", "outbound|80||secrets.shop.svc.cluster.local"),
    ] {
        assert_eq!(line[field], expected, "{field} of {line}");
    }

    let mut said = vec![tap.stdout(), tap.stderr(), text.stdout(), dict.stdout(), logged(), shop.agent.log()];
    for args in [
        &["describe", "service", "shop/secrets"][..],
        &["describe", "pod", "shop/web", "-o", "json"],
        &["observe", "--last", "1000", "-o", "json"],
        &["config", "dump"],
        &["get", "connections", "-o", "json"],
    ] {
        said.push(shop.agent.cli(args).unwrap().success().unwrap().stdout);
    }
    said.push(shop.agent.get("/metrics").unwrap().1);
    assert!(said[6].contains("/secret?id=7"), "the page has the request: {}", said[6]);
    for text in said {
        let at = text.find("MARKER");
        assert!(at.is_none(), "{}", &text[at.unwrap_or(0).saturating_sub(300)..]);
    }
}
