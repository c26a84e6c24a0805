//! Collectors that hang, refuse, are busy, die and come back: requests go on, and what is lost is counted.

use anyhow::{Result, ensure};
use mesh_tests::SOON;
use mesh_tests::collector::Collector;
use mesh_tests::lab::{MetricsText, eventually};
use mesh_tests::shop::{HttpService, Shop};

/// A shop whose collector can be spoiled.
struct Lab {
    shop: Shop,
    service: HttpService,
    collector: Collector,
}

impl Lab {
    fn start(name: &str, protocol: &str, timeout: &str, collector: Collector) -> Option<Self> {
        let options = mesh_tests::agent_options()?.flag("trace-sampling", "1").flag("trace-limit", "0");
        let options = collector.flags(options, protocol).flag("otlp-timeout", timeout);
        let shop = Shop::start(name, options).unwrap();
        let service = shop.http("plain", "http", 1).unwrap();
        Some(Self { shop, service, collector })
    }

    /// One request goes well.
    fn ask(&self, id: &str) {
        let head = format!("GET / HTTP/1.1\r\nHost: a\r\nX-Request-Id: {id}\r\n\r\n");
        assert_eq!(self.shop.client(&self.service).unwrap().ask(head).unwrap().status(), 200, "{id}");
    }

    fn shows(&self, family: &str, result: &str, least: f64) {
        let check = |metrics: &MetricsText| -> Result<()> {
            let now = metrics.sum(family, &[("result", result)]);
            ensure!(now >= least, "{family} {result}: {now}, not {least}");
            Ok(())
        };
        self.shop.metrics_show(check).unwrap();
    }

    fn spans(&self, result: &str) -> f64 {
        let of = [("result", result)];
        self.shop.agent.metrics().unwrap().sum("mesh_agent_trace_spans_total", &of)
    }

    /// While the collector answers so, requests go on and it is asked ever again, and once it is well it has all of them.
    fn survives(&self, mode: &str) {
        let asked = self.collector.requests().unwrap();
        self.collector.answer(mode).unwrap();
        self.ask(mode);
        eventually(SOON, || {
            let now = self.collector.requests()?;
            ensure!(now >= asked + 2, "asked {} times while {mode}", now - asked);
            Ok(())
        })
        .unwrap();
        self.collector.answer("ok").unwrap();
        self.collector.wait(mode, 2).unwrap();
    }

    /// What it says no to is counted and not sent again.
    fn loses(&self, mode: &str, rejected: f64) {
        let before = self.spans("rejected");
        self.collector.answer(mode).unwrap();
        self.ask(mode);
        self.shows("mesh_agent_trace_spans_total", "rejected", before + rejected);
        self.collector.answer("ok").unwrap();
        assert_eq!(self.spans("rejected"), before + rejected, "{mode}");
    }
}

#[test]
fn over_grpc_a_collector_in_trouble_costs_spans_at_most() {
    let Some(lab) = Lab::start("tracegrpc", "grpc", "500ms", Collector::start().unwrap()) else { return };
    lab.survives("busy");
    lab.survives("away");
    lab.loses("refuse", 2.0);
    lab.loses("partial", 1.0);
    lab.ask("well");
    lab.collector.wait("well", 2).unwrap();
    lab.shows("mesh_agent_trace_exports_total", "retry", 2.0);
    lab.shows("mesh_agent_trace_exports_total", "partial", 1.0);
    lab.shows("mesh_agent_trace_exports_total", "refused", 1.0);
}

#[test]
fn over_http_a_collector_in_trouble_costs_spans_at_most() {
    let Some(lab) = Lab::start("tracehttp", "http", "500ms", Collector::start().unwrap()) else { return };
    lab.survives("busy");
    lab.survives("away");
    lab.loses("refuse", 2.0);
    lab.loses("partial", 1.0);
}

#[test]
fn a_collector_that_is_away_or_hangs_is_given_up_and_found_again() {
    let Some(mut lab) = Lab::start("traceaway", "grpc", "500ms", Collector::absent().unwrap()) else {
        return;
    };
    lab.ask("nobody");
    lab.shows("mesh_agent_trace_spans_total", "unavailable", 2.0);
    lab.collector.revive().unwrap();
    lab.ask("there");
    lab.collector.wait("there", 2).unwrap();
    lab.collector.answer("hang").unwrap();
    lab.ask("hang");
    lab.shows("mesh_agent_trace_spans_total", "unavailable", 4.0);
    lab.collector.die();
    lab.ask("dead");
    lab.collector.revive().unwrap();
    lab.ask("again");
    lab.collector.wait("again", 2).unwrap();
    let log = lab.shop.agent.log();
    assert!(log.contains("traces can't be exported") && log.contains("traces are exported again"), "{log}");
}

#[test]
fn behind_a_collector_that_stands_still_spans_are_dropped_and_counted_and_requests_go_on() {
    let Some(lab) = Lab::start("tracefull", "grpc", "60s", Collector::start().unwrap()) else { return };
    lab.collector.answer("hang").unwrap();
    const AT_ONCE: usize = 128;
    let heads = "GET / HTTP/1.1\r\nHost: a\r\n\r\n".repeat(AT_ONCE);
    let mut client = lab.shop.client(&lab.service).unwrap();
    // Each has two spans, and room is for 16384.
    let full = (0..2 * 16384 / AT_ONCE).position(|_| {
        client.send(&heads).unwrap();
        for _ in 0..AT_ONCE {
            assert_eq!(client.read().unwrap().unwrap().status(), 200);
        }
        lab.spans("queue_full") > 0.0
    });
    assert!(full.is_some(), "nothing was dropped: {}", lab.shop.log_tail());
    assert_eq!(lab.spans("exported"), 0.0);
    lab.ask("still-served");
}
