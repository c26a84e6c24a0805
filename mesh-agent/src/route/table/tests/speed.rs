//! What a look-up costs. Ignored: it prints and judges nothing. Run with `--release -- --ignored --nocapture`.

use std::hint::black_box;
use std::time::{Duration, Instant};

use super::*;

/// In a round; short enough that some rounds are never interrupted.
const LOOK_UPS: u32 = 500;
const ROUNDS: usize = 400;

fn measure(name: &str, entries: Vec<RouteEntry>, head: &request::Parts, expected: usize) {
    let count = entries.len();
    let table = RouteTable::new(entries);
    assert_eq!(table.find(head).unwrap().rule.name.index, expected, "{name}");
    let round = || -> Duration {
        let start = Instant::now();
        for _ in 0..LOOK_UPS {
            black_box(table.find(black_box(head)));
        }
        start.elapsed() / LOOK_UPS
    };
    let best = (0..ROUNDS).map(|_| round()).min().unwrap();
    println!("{name}, {count} entries: {} ns", best.as_nanos());
}

#[test]
#[ignore = "prints figures; nothing to fail"]
fn how_long_a_look_up_takes() {
    let usual = [
        ("host", "shop.default.svc"),
        ("user-agent", "curl/8.5"),
        ("accept", "*/*"),
        ("x-request-id", "4bf92f3577b34da6a3ce929d0e0e4736"),
        ("x-version", "v7"),
    ];
    for count in [1, 100, 1000] {
        let table = |words: &dyn Fn(usize) -> String| -> Vec<RouteEntry> {
            (0..count).map(|index| entry("r", index, vec![asks(&words(index))])).collect()
        };
        let last = count - 1;
        let deep = head(&format!("GET /api/v1/items-{last}/42/detail?page=3"), &usual);
        measure("prefixes", table(&|i| format!("/api/v1/items-{i} h:x-version=v7")), &deep, last);
        let exact = head(&format!("GET /api/v1/items-{last}"), &usual);
        measure("exact paths", table(&|i| format!("=/api/v1/items-{i} h:x-version=v7")), &exact, last);
        let words = |i: usize| format!("/api h:x-version=v{}", if i == last { 7 } else { i + 10 });
        measure("one path, other header values, the last", table(&words), &deep, last);
        let call = head("POST /shop.Cart/Add", &usual);
        let words = |i: usize| {
            let service = if i == last { "shop.Cart".into() } else { format!("shop.Other{i}") };
            format!("grpc:{service}/ h:x-version=v7")
        };
        measure("gRPC services", table(&words), &call, last);
    }
}
