//! TrafficPolicy: rate limits, by whom they are counted, and how policies come, change and go.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::net::SocketAddr;
use std::process::Command;

use anyhow::{Context, ensure};
use http::Request;
use mesh_tests::http1::{Client, Message, echo_server};
use mesh_tests::http2::{Answer, H2Server, answer, whole, with_client};
use mesh_tests::lab::{MetricsText, Object, PodObject, Running, eventually, own_address};
use mesh_tests::policy::traffic_policy;
use mesh_tests::shop::{NAMESPACE, Service, Shop};
use mesh_tests::sockets::Host;
use mesh_tests::{PATIENCE, SOON, agent_options, need_shop, shared_shop};

// One worker, so that each agent has one connection to Redis.
shared_shop!("policies", "workers" = "1", "secrets-dir" = SECRETS);

/// Where agents find the password of Redis.
const SECRETS: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/secrets");

/// Three at once, and not another one while a test runs.
const THREE: &str = "rateLimit: {local: [{name: all, requests: 1, per: 1h, burst: 3}]}";

/// Statuses of `count` requests on one connection.
fn statuses(client: &mut Client, count: usize) -> Vec<u16> {
    (0..count).map(|_| client.get("p", "/").unwrap().status()).collect()
}

/// So many of the service's requests were refused for a rate limit, by one reporter.
fn refused(metrics: &MetricsText, service: &str, reporter: &str) -> f64 {
    let labels = [("destination_service_name", service), ("response_flags", "RL"), ("reporter", reporter)];
    metrics.sum("istio_requests_total", &labels)
}

#[test]
fn a_burst_passes_and_the_next_request_is_told_when_to_come_again() {
    let shop = need_shop!();
    let service = shop.http_under_policy("burst", 2, THREE).unwrap();
    let mut client = shop.client(&service).unwrap();
    assert_eq!(statuses(&mut client, 3), [200, 200, 200]);
    let refusal = client.get("p", "/refused").unwrap();
    assert_eq!(refusal.status(), 429, "{}", refusal.head);
    let field = |name: &str| refusal.header(name).unwrap_or_else(|| panic!("no {name} in {}", refusal.head));
    let wait: u64 = field("retry-after").parse().unwrap();
    assert!((3000..=3600).contains(&wait), "{wait}");
    assert_eq!(field("ratelimit-policy"), "\"all\";q=1;w=3600");
    assert!(field("ratelimit").starts_with("\"all\";r=0;t=3"), "{}", refusal.head);
    assert_eq!((field("x-ratelimit-limit"), field("x-ratelimit-remaining")), ("1", "0"));
    assert_eq!(statuses(&mut client, 2), [429, 429], "the connection goes on");
    assert_eq!(service.counts().iter().sum::<usize>(), 3, "refused requests reach nobody");
    let line = shop.log_shows("/refused", |line| line["path"] == "/refused").unwrap();
    assert_eq!((&line["response_flags"], &line["response_code"]), (&"RL".into(), &429.into()), "{line}");
    shop.metrics_show(|metrics| {
        let decisions =
            metrics.sum("mesh_agent_traffic_policy_decisions_total", &[("decision", "rate_limited")]);
        ensure!(decisions >= 3.0, "{decisions} decisions");
        ensure!(refused(metrics, "burst", "source") == 3.0);
        Ok(())
    })
    .unwrap();
}

#[test]
fn over_grpc_a_refusal_is_resource_exhausted() {
    let shop = need_shop!();
    let port = shop.port();
    let _server =
        H2Server::new(shop.carts[0].listen(port).unwrap(), None, |_request, mut respond| async move {
            answer(
                &mut respond,
                "",
                Some([("grpc-status".parse().unwrap(), "0".parse().unwrap())].into_iter().collect()),
            );
        });
    let policy = traffic_policy("grpclimit", THREE).unwrap();
    shop.topology.mesh().write("policy-grpclimit.yaml", [policy]).unwrap();
    let service = shop.expose("grpclimit", "grpc", port, &[&shop.carts[0]]).unwrap();
    let answers: Vec<Answer> = with_client(shop.web.connect(service.at()).unwrap(), async |client| {
        let mut answers = Vec::new();
        for content in
            ["application/grpc", "application/grpc", "application/grpc", "application/grpc", "text/plain"]
        {
            let request =
                Request::post("http://grpclimit/pkg.Svc/Do").header("content-type", content).body(())?;
            let (response, _) = client.clone().ready().await?.send_request(request, true)?;
            answers.push(whole(response.await?).await?);
        }
        Ok(answers)
    })
    .unwrap();
    let [.., passed, grpc, http] = &answers[..] else { panic!("{answers:?}") };
    assert_eq!(passed.trailers.as_ref().unwrap()["grpc-status"], "0");
    assert_eq!((grpc.head.status.as_u16(), &grpc.head.headers["grpc-status"]), (200, &"8".parse().unwrap()));
    assert!(grpc.head.headers.contains_key("retry-after"), "{:?}", grpc.head);
    assert_eq!(http.head.status.as_u16(), 429);
    let line = |line: &serde_json::Value| line["path"] == "/pkg.Svc/Do" && line["response_flags"] == "RL";
    shop.log_shows("RL", line).unwrap();
}

#[test]
fn keys_are_counted_apart() {
    let shop = need_shop!();
    let limit =
        |key: &str| format!("rateLimit: {{local: [{{requests: 1, per: 1h, burst: 2, key: [{key}]}}]}}");
    let service = shop.http_under_policy("bysource", 1, &limit("{type: sourceAddress}")).unwrap();
    for pod in [&shop.web, &shop.batch] {
        let mut client = Client::new(pod.connect(service.at()).unwrap());
        assert_eq!(statuses(&mut client, 3), [200, 200, 429], "{}", pod.name());
    }
    let service = shop.http_under_policy("byheader", 1, &limit("{type: header, name: x-user}")).unwrap();
    let mut client = shop.client(&service).unwrap();
    for header in ["X-User: ann", "X-User: bob", "X-Nobody: 1"] {
        let got: Vec<u16> = (0..3).map(|_| client.get_with("p", "/", header).unwrap().status()).collect();
        assert_eq!(got, [200, 200, 429], "{header}");
    }
    let service = shop.http_under_policy("bypath", 1, &limit("{type: path}")).unwrap();
    let mut client = shop.client(&service).unwrap();
    for path in ["/a?1", "/b"] {
        let got: Vec<u16> = (0..3).map(|_| client.get("p", path).unwrap().status()).collect();
        assert_eq!(got, [200, 200, 429], "{path}");
    }
}

#[test]
fn a_rule_of_a_route_has_a_limit_of_its_own() {
    let shop = need_shop!();
    let route = "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: ruled, namespace: shop}
spec:
  parentRefs: [{group: '', kind: Service, name: ruled}]
  rules:
  - name: tight
    matches: [{path: {value: /tight}}]
    backendRefs: [{name: ruled, port: 80}]
  - backendRefs: [{name: ruled, port: 80}]
---
apiVersion: mesh-agent.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: tight, namespace: shop}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: ruled, sectionName: tight}]
  rateLimit: {local: [{name: tight, requests: 1, per: 1h}]}
";
    shop.topology.mesh().write_text("route-ruled.yaml", route).unwrap();
    let service = shop.http_under_policy("ruled", 1, THREE).unwrap();
    let mut client = shop.client(&service).unwrap();
    let mut get = |path: &str| client.get("p", path).unwrap();
    assert_eq!(get("/tight").status(), 200);
    let refusal = get("/tight");
    assert_eq!((refusal.status(), refusal.header("ratelimit-policy")), (429, Some("\"tight\";q=1;w=3600")));
    // The service's limit counts what the rule let through, and everything else.
    assert_eq!([get("/").status(), get("/").status()], [200, 200]);
    let refusal = get("/");
    assert_eq!((refusal.status(), refusal.header("ratelimit-policy")), (429, Some("\"all\";q=1;w=3600")));
}

#[test]
fn a_refused_request_costs_its_client_the_connection_only_if_its_body_is_long() {
    let shop = need_shop!();
    let none = "rateLimit: {local: [{requests: 1, per: 1h, burst: 1}]}";
    let service = shop.http_under_policy("bodies", 1, none).unwrap();
    assert_eq!(shop.get(&service, "/").unwrap().status(), 200);
    let post = |framing: &str, body: &str| format!("POST / HTTP/1.1\r\nHost: b\r\n{framing}\r\n\r\n{body}");
    let mut client = shop.client(&service).unwrap();
    for (framing, body) in [
        ("Content-Length: 5".to_owned(), "hello".to_owned()),
        ("Content-Length: 50000".to_owned(), "x".repeat(50000)),
        ("Transfer-Encoding: chunked".to_owned(), "3\r\nabc\r\n0\r\n\r\n".to_owned()),
    ] {
        let refusal = client.ask(post(&framing, &body)).unwrap();
        assert_eq!((refusal.status(), refusal.header("connection")), (429, None), "{framing}");
    }
    let refusal = client.ask(post("Content-Length: 5000000", "the first of many")).unwrap();
    assert_eq!((refusal.status(), refusal.header("connection")), (429, Some("close")));
    assert!(client.closes_within(PATIENCE));
}

#[test]
fn a_policy_that_changes_elsewhere_keeps_its_counts_and_one_that_goes_lets_go() {
    let shop = need_shop!();
    let service = shop.http_under_policy("changed", 1, THREE).unwrap();
    let mut client = shop.client(&service).unwrap();
    assert_eq!(statuses(&mut client, 4), [200, 200, 200, 429]);
    let more = format!("{THREE}\ntimeout: 20s\nfallback: {{answer: {{status: 418}}}}");
    shop.change_policies("changed", [traffic_policy("changed", &more).unwrap()]).unwrap();
    assert_eq!(statuses(&mut client, 1), [429], "a change is no new burst");
    let wider = THREE.replace("burst: 3", "burst: 2");
    shop.change_policies("changed", [traffic_policy("changed", &wider).unwrap()]).unwrap();
    assert_eq!(statuses(&mut client, 3), [200, 200, 429], "another limit begins anew");
    shop.change_policies("changed", []).unwrap();
    assert_eq!(statuses(&mut client, 10), [200; 10]);
    shop.change_policies("changed", [traffic_policy("changed", THREE).unwrap()]).unwrap();
    assert_eq!(statuses(&mut client, 4), [200, 200, 200, 429], "on the same connection");
}

#[test]
fn an_invalid_policy_leaves_the_last_valid_one_in_force() {
    let shop = need_shop!();
    let service = shop.http_under_policy("invalid", 1, THREE).unwrap();
    let mut client = shop.client(&service).unwrap();
    assert_eq!(statuses(&mut client, 4), [200, 200, 200, 429]);
    let broken = THREE.replace("requests: 1", "requests: 0");
    let listed = || {
        let rows = shop.agent.cli_json(&["get", "policies", "-n", NAMESPACE])?;
        let of_it = |row: &&serde_json::Value| row["target"] == format!("Service {NAMESPACE}/invalid");
        let row = rows.as_array().context("no list")?.iter().find(of_it).context("not listed")?;
        anyhow::Ok((row["state"].clone(), row["lastValid"].clone()))
    };
    assert_eq!(listed().unwrap(), ("attached".into(), false.into()));
    shop.change_policies("invalid", [traffic_policy("invalid", &broken).unwrap()]).unwrap();
    assert_eq!(statuses(&mut client, 1), [429]);
    eventually(SOON, || {
        let found = listed()?;
        ensure!(found == ("attached".into(), true.into()), "{found:?}");
        Ok(())
    })
    .unwrap();
}

/// A pod of another node with a client and a server in it.
fn elsewhere(shop: &Shop, name: &str) -> (mesh_tests::lab::Agent, Host) {
    let node = shop.topology.node(&format!("node-{name}")).unwrap();
    let host = Host::new(&shop.topology, node.pod(name).unwrap()).unwrap();
    let object = Object::from(PodObject::of(&host, NAMESPACE).service_account(name));
    shop.topology.mesh().write(&format!("pod-{name}.yaml"), [object]).unwrap();
    let options = agent_options().unwrap().flag("workers", "1").flag("secrets-dir", SECRETS);
    let agent = node.agent(options).unwrap();
    (agent, host)
}

/// Waits until `agent` knows the service too.
fn known_to(agent: &mesh_tests::lab::Agent, service: &Service) {
    eventually(SOON, || {
        let listed = agent.cli(&["get", "services", "-o", "name"])?.success()?.stdout;
        ensure!(listed.lines().any(|line| line.trim().ends_with(&format!("/{}", service.name))), "{listed}");
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_service_is_counted_once_and_by_the_agent_of_the_endpoints_node() {
    let shop = need_shop!();
    let (agent, far) = elsewhere(shop, "far");
    let port = shop.port();
    let (_server, seen) = echo_server(far.listen(port).unwrap(), "far");
    let policy = traffic_policy("twonodes", THREE).unwrap();
    shop.topology.mesh().write("policy-twonodes.yaml", [policy]).unwrap();
    let service = shop.expose("twonodes", "http", port, &[&far]).unwrap();
    known_to(&agent, &service);
    // From another node, from this one, and from a host in no mesh that dials the pod itself: one count.
    let ask = |from: &Host, to| Client::new(from.connect(to).unwrap()).get("p", "/").unwrap().status();
    let near = ask(&shop.web, service.at());
    let own = ask(&far, service.at());
    let outside = ask(&shop.outside, far.at(port));
    assert_eq!([near, own, outside], [200, 200, 200]);
    assert_eq!([ask(&shop.web, service.at()), ask(&shop.outside, far.at(port))], [429, 429]);
    assert_eq!(seen.count(), 3);
    agent
        .wait_metrics(SOON, |metrics| {
            let count = refused(metrics, "twonodes", "destination");
            ensure!(count == 2.0, "{count} refused at the endpoint's node");
            Ok(())
        })
        .unwrap();
    let near = refused(&shop.agent.metrics().unwrap(), "twonodes", "source");
    assert_eq!(near, 0.0, "the client's agent only passes the answer on");
}

#[test]
fn identities_are_counted_apart_wherever_they_are_and_strangers_share_a_bucket() {
    let shop = need_shop!();
    let (agent, far) = elsewhere(shop, "stranger");
    let spec = "rateLimit: {local: [{requests: 1, per: 1h, burst: 2, key: [{type: sourceIdentity}]}]}";
    let service = shop.http_under_policy("byidentity", 1, spec).unwrap();
    known_to(&agent, &service);
    let ask = |from: &Host, to| Client::new(from.connect(to).unwrap()).get("p", "/").unwrap().status();
    for pod in [&shop.web, &shop.batch] {
        let got: Vec<u16> = (0..3).map(|_| ask(pod, service.at())).collect();
        assert_eq!(got, [200, 200, 429], "{}", pod.name());
    }
    // Two pods of one service account are one identity.
    let carts = [&shop.carts[1], &shop.carts[2], &shop.carts[1]].map(|pod| ask(pod, service.at()));
    assert_eq!(carts, [200, 200, 429]);
    // Its certificate proves who comes from another node.
    let direct = shop.carts[0].at(service.target);
    assert_eq!([0; 3].map(|_| ask(&far, service.at())), [200, 200, 429]);
    // Nothing proves who this is, and who else is like it.
    assert_eq!([0; 3].map(|_| ask(&shop.outside, direct)), [200, 200, 429]);
}

/// redis-server beside the agents, with a password.
struct Redis {
    running: Running,
    address: SocketAddr,
}

impl Redis {
    fn start() -> Self {
        let address = own_address();
        Self { running: Self::run(address), address }
    }

    fn run(address: SocketAddr) -> Running {
        let mut command = Command::new("redis-server");
        command.args([
            "--port",
            &address.port().to_string(),
            "--bind",
            &address.ip().to_string(),
            "--save",
            "",
            "--appendonly",
            "no",
            "--requirepass",
            "of-the-suite",
        ]);
        let secrets = std::path::Path::new(SECRETS).join(NAMESPACE);
        std::fs::create_dir_all(&secrets).unwrap();
        std::fs::write(secrets.join("redis"), "of-the-suite\n").unwrap();
        let running = Running::start(command).unwrap();
        eventually(PATIENCE, || std::net::TcpStream::connect(address).map(drop).context("no Redis")).unwrap();
        running
    }
}

fn global(name: &str, redis: SocketAddr, more: &str) -> String {
    format!(
        "rateLimit: {{global: [{{name: {name}, requests: 1, per: 1h, burst: 4, \
         redis: {{address: '{redis}', passwordFile: redis, timeout: 5s{more}}}}}]}}"
    )
}

#[test]
fn agents_share_a_global_limit_and_follow_on_unavailable_without_redis() {
    let shop = need_shop!();
    let mut redis = Redis::start();
    let (agent, other) = elsewhere(shop, "other");
    let service = shop.http_under_policy("shared", 1, &global("shared", redis.address, "")).unwrap();
    let open = ["allow", "deny", "local"].map(|what| {
        let name = format!("without-{what}");
        let spec = global(&name, redis.address, &format!(", onUnavailable: {what}"));
        shop.http_under_policy(&name, 1, &spec).unwrap()
    });
    known_to(&agent, &open[2]);
    let get = |from: &Host, service: &Service| -> Message {
        Client::new(from.connect(service.at()).unwrap()).get("p", "/").unwrap()
    };
    // An agent connects with the first request that needs it; until then `deny` refuses.
    let [allow, deny, local] = &open;
    for from in [&shop.web, &other] {
        eventually(PATIENCE, || {
            let status = get(from, deny).status();
            ensure!(status == 200, "{status} with Redis");
            Ok(())
        })
        .unwrap();
    }
    let ask =
        |from: &Host, count: usize| (0..count).map(|_| get(from, &service).status()).collect::<Vec<_>>();
    assert_eq!(
        [ask(&shop.web, 2), ask(&other, 3), ask(&shop.web, 1)].concat(),
        [200, 200, 200, 200, 429, 429]
    );
    let refusal = get(&other, &service);
    assert_eq!(refusal.header("ratelimit-policy"), Some("\"shared\";q=1;w=3600"), "{}", refusal.head);

    redis.running.kill();
    assert_eq!((0..10).map(|_| get(&shop.web, allow).status()).collect::<Vec<_>>(), [200; 10]);
    assert_eq!((0..3).map(|_| get(&shop.web, deny).status()).collect::<Vec<_>>(), [429; 3]);
    let statuses: Vec<u16> = (0..6).map(|_| get(&shop.web, local).status()).collect();
    assert_eq!(statuses, [200, 200, 200, 200, 429, 429], "the same limit, on this node alone");
    shop.metrics_show(|metrics| {
        let label = [("decision", "global_limit_unavailable")];
        ensure!(metrics.sum("mesh_agent_traffic_policy_decisions_total", &label) >= 19.0);
        Ok(())
    })
    .unwrap();

    redis.running = Redis::run(redis.address);
    eventually(PATIENCE, || {
        let status = get(&shop.web, deny).status();
        ensure!(status == 200, "{status} with Redis back");
        Ok(())
    })
    .unwrap();
}
