//! What a judgement costs. Ignored: figures say something on a quiet machine and an optimized build only.
//!
//! `cargo test --release -p mesh-agent --lib -- --ignored --nocapture authz::tests::speed`

use std::hint::black_box;
use std::time::Instant;

use super::*;

const POLICIES: usize = 1000;
const RULES: usize = 10;
const ROUNDS: u32 = 20_000;

/// `POLICIES` with `RULES` each, all of which select the workload.
fn many(action: &str, rule: &dyn Fn(usize) -> String) -> Compiled {
    let policies: Vec<_> = (0..POLICIES)
        .map(|at| {
            let rules: Vec<_> = (0..RULES).map(|number| rule(at * RULES + number)).collect();
            policy(&format!("p{at}"), &format!("{{action: {action}, rules: [{}]}}", rules.join(", ")))
        })
        .collect();
    compile(&policies)
}

fn measure(what: &str, compiled: &Compiled, traffic: &Traffic) {
    let head = traffic.head.as_ref().unwrap();
    let mut readings = Readings::default();
    let begun = Instant::now();
    for _ in 0..ROUNDS {
        // As the data path does: the readings are part of it.
        readings.read(black_box(head.uri.path()), Normalization::Base).unwrap();
        let request = RequestFacts {
            method: head.method.as_str(),
            host: head.headers.get("host").and_then(|host| host.to_str().ok()),
            path: &readings,
            headers: &head.headers,
            remote: "10.1.0.1".parse().unwrap(),
            claims: None,
        };
        let facts = Facts::new(
            traffic.identity.as_deref(),
            "10.1.0.1".parse().unwrap(),
            ("10.1.0.2".parse().unwrap(), 8080),
        );
        black_box(compiled.judge(&facts.asking(request)));
    }
    let each = begun.elapsed() / ROUNDS;
    println!("{what}: {} ns", each.as_nanos());
}

#[test]
#[ignore = "figures"]
fn a_request_among_ten_thousand_rules() {
    let last = POLICIES * RULES - 1;
    let line = format!("GET /api/v1/items-{last}/42");
    let get = request(&line, &["x-user: u9999", "accept: */*", "user-agent: speed", "host: cart.shop:8080"]);
    let odd = request(&format!("GET /api/v1/../v1/Items-{last}/4%2F2"), &[]);
    let web = |at: usize| format!("cluster.local/ns/shop/sa/web-{at}");
    let get = get.from(Some(&format!("spiffe://{}", web(last))));
    let by_principal = |at: usize| format!("{{from: [{{source: {{principals: [{:?}]}}}}]}}", web(at));
    let by_path = |at: usize| format!("{{to: [{{operation: {{paths: [\"/api/v1/items-{at}/*\"]}}}}]}}");
    let by_network = |at: usize| {
        format!("{{from: [{{source: {{ipBlocks: [\"10.{}.{}.0/24\"]}}}}]}}", 1 + at / 250, at % 250)
    };
    let mixed = |at: usize| {
        format!(
            "{{from: [{{source: {{namespaces: [shop]}}}}, {{source: {{principals: [{:?}]}}}}], to: [{{operation: {{methods: [GET], \
             paths: [\"/api/v1/items-{at}/{{*}}\"], ports: [\"8080\"]}}}}], when: [{{key: \"request.headers[x-user]\", values: [u{at}]}}]}}",
            web(at)
        )
    };
    let no_path = |at: usize| {
        format!(
            "{{from: [{{source: {{principals: [{:?}]}}}}], to: [{{operation: {{notPaths: [\"/x-{at}\"]}}}}]}}",
            web(at)
        )
    };
    measure("ALLOW by principal, the last", &many("ALLOW", &by_principal), &get);
    measure("ALLOW by path prefix, the last", &many("ALLOW", &by_path), &get);
    measure("ALLOW by address", &many("ALLOW", &by_network), &get);
    measure("ALLOW by all of it, the last", &many("ALLOW", &mixed), &get);
    measure("ALLOW by all of it, none", &many("ALLOW", &mixed), &request("GET /none", &[]));
    measure("DENY by all of it, none", &many("DENY", &mixed), &request("GET /none", &[]));
    measure("DENY by principal and no path, none", &many("DENY", &no_path), &request("GET /none", &[]));
    measure("DENY by path prefix, a path with many readings", &many("DENY", &by_path), &odd);
    let begun = Instant::now();
    black_box(many("ALLOW", &mixed));
    println!("compiled with parsing: {} ms", begun.elapsed().as_millis());
}
