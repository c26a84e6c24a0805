//! Objects of the rows with policies: a service with a hundred routes by header, retries, outlier detection, limits and a
//! breaker; ten thousand routes of other services; services of two fast endpoints, and of these and a slow one.
//!
//! `peers` has the same hundred routes in Envoy's words.

use std::net::Ipv4Addr;

use mesh_agent::lab::{
    DestinationRuleObject, HttpRouteObject, Object, Pod, ServiceObject, SliceObject, TrafficPolicyObject,
};
use serde_json::json;

use crate::scene::{HTTP1, NAMESPACE};

/// The service under all policies; its routes' names begin so.
pub const NAME: &str = "policies";
/// What the names of other services begin with.
pub const OTHER: &str = "other";
/// Routes of a service.
pub const ROUTES: usize = 100;
/// The header that all routes ask for, each another value.
pub const HEADER: &str = "x-route";
/// The value that the last of them asks for.
pub const LAST: usize = ROUTES - 1;
/// More than any row has under way at a time, as in Envoy's configuration.
const LIMIT: u32 = 20_000;
/// Other services, each with as many routes.
const OTHERS: u8 = 100;

/// Its address.
pub const VIP_POLICIES: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 11);
/// Two endpoints, both fast.
pub const VIP_FAST: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 12);
/// The same two and a slow one.
pub const VIP_SLOW: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 13);
/// All of them listen on this one.
pub const PORT: u16 = 80;
/// How much slower the slow one is.
pub const DELAY_MS: u16 = 50;

fn service<'p>(name: &str, vip: Ipv4Addr, pods: impl IntoIterator<Item = &'p Pod>) -> [Object; 2] {
    let service = ServiceObject::new(NAMESPACE, name).vip(vip).port("http", PORT).app_protocol("http");
    let slice = SliceObject::new(NAMESPACE, name, &format!("{name}-1")).port("http", HTTP1);
    [service.into(), slice.pods(NAMESPACE, pods).into()]
}

/// Routes of one service in their order of precedence, which among equals is that of their names.
fn routes(service: &str) -> impl Iterator<Item = Object> {
    (0..ROUTES).map(move |number| {
        let route = HttpRouteObject::new(NAMESPACE, &format!("{service}-{number:03}"), service);
        let rule = json!({
            "matches": [{"headers": [{"name": HEADER, "value": number.to_string()}]}],
            "backendRefs": [{"name": service, "port": PORT}],
            "retry": {"codes": [503], "attempts": 2},
        });
        route.rule(rule).into()
    })
}

/// The service under all policies, and those of several endpoints.
pub fn objects(server: &Pod, fast: &[Pod], slow: &Pod) -> Vec<Object> {
    let mut objects = Vec::from(service(NAME, VIP_POLICIES, [server]));
    objects.extend(routes(NAME));
    let rule = json!({
        "connectionPool": {"tcp": {"maxConnections": LIMIT}, "http": {"http2MaxRequests": LIMIT}},
        "outlierDetection": {"consecutive5xxErrors": 5, "interval": "10s", "baseEjectionTime": "30s"},
    });
    objects.push(DestinationRuleObject::new(NAMESPACE, NAME, &rule).into());
    let breaker = TrafficPolicyObject::new(NAMESPACE, NAME, &json!({"kind": "Service", "name": NAME}))
        .group("circuitBreaker", json!({"errorRate": {"percent": 50}}));
    objects.push(breaker.into());
    objects.extend(service("fast", VIP_FAST, fast));
    objects.extend(service("slow", VIP_SLOW, fast.iter().chain([slow])));
    objects
}

/// Routes of services that nobody calls.
pub fn others() -> Vec<Object> {
    let of = |number: u8| {
        let name = format!("{OTHER}-{number}");
        let objects = service(&name, Ipv4Addr::new(10, 99, 0, number), []);
        objects.into_iter().chain(routes(&name)).collect::<Vec<_>>()
    };
    (0..OTHERS).flat_map(of).collect()
}

/// How many routes [`others`] has.
pub const OTHER_ROUTES: usize = OTHERS as usize * ROUTES;

/// The routes of the service under all policies, for Envoy.
pub fn envoy_routes() -> String {
    let route = |number: usize| {
        let headers = json!([{"name": HEADER, "string_match": {"exact": number.to_string()}}]);
        let retry = json!({
            "retry_on": "connect-failure,reset,retriable-status-codes", "retriable_status_codes": [503],
            "num_retries": 2,
        });
        json!({
            "match": {"prefix": "/", "headers": headers},
            "route": {"cluster": "policies", "retry_policy": retry},
        })
    };
    json!((0..ROUTES).map(route).collect::<Vec<_>>()).to_string()
}
