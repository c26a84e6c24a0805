//! What it costs to judge a request among ten thousand rules, all of which select its pod: the judge alone, as the data path asks it.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};
use http::{Request, request};
use mesh_agent::authz::{Compiled, Facts, Normalization, Options, Policy, Readings, RequestFacts};
use mesh_agent::objects::AuthorizationPolicy;
use serde_json::{Value, json};

const POLICIES: usize = 1000;
const RULES: usize = 10;
const LAST: usize = POLICIES * RULES - 1;
/// Judgements of one round.
const TIMES: u32 = 20_000;
const ROUNDS: usize = 5;

/// One kind of rules, and a request.
pub struct Judged {
    pub what: &'static str,
    /// Of one request, median of the rounds.
    pub nanos: f64,
}

/// Every kind.
pub fn measure() -> Result<Vec<Judged>> {
    let (last, none) = (get(&format!("/api/v1/items-{LAST}/42"))?, get("/none")?);
    let odd = get(&format!("/api/v1/../v1/Items-{LAST}/4%2F2"))?;
    let (by_principal, by_path) = (many("ALLOW", by_principal)?, many("ALLOW", by_path)?);
    let (by_network, mixed) = (many("ALLOW", by_network)?, many("ALLOW", mixed)?);
    Ok(vec![
        judged("ALLOW by principal, the last", &by_principal, &last)?,
        judged("ALLOW by path prefix, the last", &by_path, &last)?,
        judged("ALLOW by address", &by_network, &last)?,
        judged("ALLOW by principal, method, path, port and header, the last", &mixed, &last)?,
        judged("the same, none of them", &mixed, &none)?,
        judged("DENY by principal and excluded path, none of them", &many("DENY", no_path)?, &none)?,
        judged(
            "DENY by path prefix, a path that can be read in many ways",
            &many("DENY", self::by_path)?,
            &odd,
        )?,
    ])
}

fn web(at: usize) -> String {
    format!("cluster.local/ns/shop/sa/web-{at}")
}

fn by_principal(at: usize) -> Value {
    json!({"from": [{"source": {"principals": [web(at)]}}]})
}

fn by_path(at: usize) -> Value {
    json!({"to": [{"operation": {"paths": [format!("/api/v1/items-{at}/*")]}}]})
}

fn by_network(at: usize) -> Value {
    json!({"from": [{"source": {"ipBlocks": [format!("10.{}.{}.0/24", 1 + at / 250, at % 250)]}}]})
}

fn mixed(at: usize) -> Value {
    json!({
        "from": [{"source": {"namespaces": ["shop"]}}, {"source": {"principals": [web(at)]}}],
        "to": [{"operation": {"methods": ["GET"], "paths": [format!("/api/v1/items-{at}/{{*}}")], "ports": ["8080"]}}],
        "when": [{"key": "request.headers[x-user]", "values": [format!("u{at}")]}],
    })
}

fn no_path(at: usize) -> Value {
    json!({
        "from": [{"source": {"principals": [web(at)]}}],
        "to": [{"operation": {"notPaths": [format!("/x-{at}")]}}],
    })
}

fn many(action: &str, rule: fn(usize) -> Value) -> Result<Compiled> {
    let policy = |at: usize| -> Result<Arc<Policy>> {
        let rules: Vec<Value> = (0..RULES).map(|number| rule(at * RULES + number)).collect();
        let object: AuthorizationPolicy = serde_json::from_value(json!({
            "metadata": {"name": format!("p{at}"), "namespace": "shop"}, "spec": {"action": action, "rules": rules},
        }))?;
        Ok(Arc::new(Policy::new(&object, &Options::default())))
    };
    Ok(Compiled::new((0..POLICIES).map(policy).collect::<Result<_>>()?))
}

fn get(path: &str) -> Result<request::Parts> {
    let user = format!("u{LAST}");
    let request = Request::builder().uri(path).header("host", "cart.shop:8080").header("x-user", user);
    Ok(request.header("accept", "*/*").header("user-agent", "bench").body(())?.into_parts().0)
}

fn judged(what: &'static str, compiled: &Compiled, head: &request::Parts) -> Result<Judged> {
    let identity = format!("spiffe://{}", web(LAST));
    let (source, destination) = ("10.1.0.1".parse()?, ("10.1.0.2".parse()?, 8080));
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        let mut readings = Readings::default();
        let begin = Instant::now();
        for _ in 0..TIMES {
            // As the data path does: the readings are part of it.
            let read = readings.read(black_box(head.uri.path()), Normalization::Base);
            read.ok().context("a path with a NUL")?;
            let request = RequestFacts {
                method: head.method.as_str(),
                host: head.headers.get("host").and_then(|host| host.to_str().ok()),
                path: &readings,
                headers: &head.headers,
                remote: source,
                claims: None,
            };
            black_box(compiled.judge(&Facts::new(Some(&identity), source, destination).asking(request)));
        }
        rounds.push(begin.elapsed().as_nanos() as f64 / f64::from(TIMES));
    }
    Ok(Judged { what, nanos: crate::rows::median(rounds) })
}
