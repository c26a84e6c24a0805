// What the page makes of the agent's answers, without a browser.

import assert from "node:assert/strict";
import test from "node:test";

import { commands, quote } from "../../src/commands.js";
import { health, merge, quantile, sum, within } from "../../src/edges.js";
import { age, bytes, duration, part, percent, rate } from "../../src/format.js";
import { graph, shape } from "../../src/graph-model.js";
import { series } from "../../src/history.js";
import { describe, matches } from "../../src/flow.js";
import { format, parse } from "../../src/place.js";

function edge(client, server, more = {}) {
  const [service, workload = service] = server.split("=");
  const { reporter = "source", security = "unknown", principal = "unknown", requests = 10, failures = 0, ...figures } = more;
  return {
    reporter,
    source: { namespace: "shop", workload: client, service: client, principal },
    destination: { namespace: "shop", workload, service, service_namespace: "shop", principal },
    security,
    protocol: "http",
    requests,
    failures,
    rps: requests / 10,
    success: requests ? 1 - failures / requests : null,
    latency: [0, 0, requests],
    flags: {},
    connections_open: 0,
    connections_opened: 0,
    sent_bytes: 0,
    received_bytes: 0,
    ...figures,
  };
}

test("an edge that both sides report is one: figures of the source, security of the destination", () => {
  const merged = merge([
    edge("web", "cart", { failures: 3 }),
    edge("web", "cart", { reporter: "destination", security: "none" }),
  ]);
  assert.equal(merged.length, 1);
  assert.deepEqual([merged[0].requests, merged[0].failures, merged[0].security], [10, 3, "none"]);
});

test("whoever has seen more is believed, tries being requests at the server", () => {
  const server = edge("web", "cart", { reporter: "destination", security: "none", requests: 12 });
  assert.equal(merge([edge("web", "cart"), server])[0].requests, 12);
  assert.equal(merge([edge("web", "cart", { retries: 2 }), server])[0].requests, 10);
});

test("another name of the service at the destination is the same edge still", () => {
  const [one, ...more] = merge([
    edge("web", "cart-v1=cart"),
    edge("web", "cart=cart", { reporter: "destination", security: "mutual_tls" }),
  ]);
  assert.deepEqual([more.length, one.destination.service, one.security], [0, "cart-v1", "mutual_tls"]);
});

test("what one side alone reports is taken from there", () => {
  const [far] = merge([edge("web", "cart", { principal: "spiffe://a" })]);
  assert.equal(far.security, "mutual_tls");
  const [near] = merge([edge("web", "cart", { reporter: "destination", security: "mutual_tls" })]);
  assert.deepEqual([near.security, near.requests], ["mutual_tls", 10]);
  const [unknown] = merge([edge("web", "cart")]);
  assert.equal(unknown.security, "unknown");
  const [both] = merge([
    edge("web", "cart", { reporter: "destination", security: "mutual_tls" }),
    edge("web", "cart", { reporter: "destination", security: "none" }),
  ]);
  assert.equal(both.security, "mixed");
});

test("figures are added, and quantiles are those of Prometheus over all requests", () => {
  const total = sum([
    edge("a", "x", { flags: { UF: 2 }, failures: 1, latency: [10] }),
    edge("b", "x", { flags: { UF: 1 }, latency: [0, 0, 10] }),
  ]);
  assert.deepEqual([total.requests, total.failures, total.success, total.flags.UF], [20, 1, 0.95, 3]);
  assert.deepEqual([total.p50_ms, total.p95_ms], [0.5, 4.6]);
  assert.deepEqual([sum([]).requests, sum([]).success, sum([]).p99_ms], [0, null, null]);
  assert.equal(quantile([0, 0, 0, 4], 0.5), 7.5);
  assert.equal(quantile([...Array(19).fill(0), 1], 0.99), 3_600_000);
});

test("health has bounds", () => {
  const of = (success) => health({ success, connections_open: 0, connections_opened: 0 });
  assert.deepEqual([1, 0.99, 0.9899, 0.9, 0.8999, null].map(of), [
    "healthy", "healthy", "degraded", "degraded", "failing", "idle",
  ]);
  assert.equal(health({ success: null, connections_open: 1 }), "healthy");
});

test("a service with two workloads shows their shares, one with its own is one node", () => {
  const picture = graph(merge([
    edge("web", "cart=cart-v1", { requests: 90 }),
    edge("web", "cart=cart-v2", { requests: 10, failures: 5 }),
    edge("cart-v1", "pay", { requests: 3 }),
  ]));
  assert.deepEqual([...picture.nodes.keys()].sort(), [
    "service/shop/cart", "service/shop/pay", "workload/shop/cart-v1", "workload/shop/cart-v2", "workload/shop/web",
  ]);
  const answer = picture.links.get("service/shop/cart>workload/shop/cart-v2");
  assert.deepEqual([answer.share, answer.health, answer.role], [0.1, "failing", "answer"]);
  const call = picture.links.get("workload/shop/web>service/shop/cart");
  assert.deepEqual([call.figures.requests, call.figures.success, call.health], [100, 0.95, "degraded"]);
  const cart = picture.nodes.get("service/shop/cart");
  assert.deepEqual(cart.callsTo.map(({ to }) => to).sort(), ["workload/shop/cart-v1", "workload/shop/cart-v2"]);
  assert.deepEqual(cart.calledBy.map(({ from }) => from), ["workload/shop/web"]);
  assert.equal(picture.nodes.get("workload/shop/web").health, "idle");
  assert.equal(picture.idOf("workload/shop/pay"), "service/shop/pay");
  assert.ok(graph(merge([edge("cart-v1", "pay")]), [], { apart: true }).nodes.has("workload/shop/pay"));
});

test("a service without an available endpoint fails, whatever was answered before", () => {
  const listed = [{ namespace: "shop", name: "cart", ports: [{ protocol: "http", available: 0, total: 2 }] }];
  assert.equal(graph(merge([edge("web", "cart")]), listed).nodes.get("service/shop/cart").health, "failing");
});

test("what is no service is a node outside", () => {
  const out = edge("web", "PassthroughCluster=unknown");
  const picture = graph(merge([out]));
  assert.ok(picture.nodes.has("outside/PassthroughCluster"));
  assert.equal(picture.links.size, 1);
});

test("the shape changes with nodes and links, not with figures", () => {
  const one = shape(graph(merge([edge("web", "cart")])));
  assert.equal(one, shape(graph(merge([edge("web", "cart", { requests: 99 })]))));
  assert.notEqual(one, shape(graph(merge([edge("web", "cart"), edge("batch", "cart")]))));
});

test("a namespace takes the edges that it has to do with", () => {
  const other = edge("web", "bank");
  other.destination.service_namespace = "bank";
  assert.equal(within(merge([edge("web", "cart"), other]), "bank").length, 1);
  assert.equal(within(merge([edge("web", "cart"), other]), "").length, 2);
});

test("a course has a value for each bucket, the newest by the time that it has had", () => {
  const at = (seconds) => new Date(1_700_000_000_000 + seconds * 1000).toISOString();
  const bucket = (seconds, requests, failures) => ({ at: at(seconds), requests, failures, p50_ms: 1, p99_ms: 2, sent_bytes: 5, received_bytes: 5 });
  const both = ["source", "destination"].map((reporter) => ({ ...edge("web", "cart", { reporter }), buckets: [bucket(0, 20, 5), bucket(20, 10, 0)] }));
  const course = series({ bucket_seconds: 10, from: at(0), at: at(25), edges: both }, () => true);
  assert.deepEqual(course.rps, [2, 0, 2]);
  assert.deepEqual(course.failures, [0.5, 0, 0]);
  assert.deepEqual(course.success, [75, null, 100]);
  assert.equal(series({ bucket_seconds: 10, from: at(0), at: at(21), edges: both }, () => true).rps.length, 2);
});

test("figures are short and never too good", () => {
  assert.deepEqual([0, 0.02, 0.42, 12.34, 421.4, 1234, 45_600].map(rate), ["0/s", "<0.1/s", "0.4/s", "12/s", "421/s", "1.2k/s", "46k/s"]);
  assert.deepEqual([1, 0.9999, 0.95, 0, null].map(percent), ["100%", "99.9%", "95.0%", "0.0%", "–"]);
  assert.deepEqual([0.4, 12.3, 999.6, 1450].map(duration), ["0.4 ms", "12 ms", "1 s", "1.4 s"]);
  assert.deepEqual([0.001, 0.104].map(part), ["<1%", "10%"]);
  assert.deepEqual([12, 3500, 5e9].map(bytes), ["12 B", "3.4 KiB", "4.7 GiB"]);
  assert.deepEqual([7, 312, 7260, 270_000].map(age), ["7s", "5m12s", "2h1m", "3d3h"]);
});

test("each view has the command that shows the same", () => {
  assert.deepEqual(commands("map", { namespace: "shop" }), ["mesh-agent edges -n shop -t 1m"]);
  assert.deepEqual(commands("traffic", { namespace: "shop" }), ["mesh-agent observe -f --namespace shop"]);
  const of = { namespace: "shop", name: "cart" };
  assert.deepEqual(commands("service", { of, window: 30, where: ["--node", "a b"] }), [
    "mesh-agent stat svc cart -n shop -t 30s --node 'a b'",
    "mesh-agent describe service shop/cart --node 'a b'",
  ]);
  assert.deepEqual(commands("nothing"), []);
  assert.equal(quote("it's; rm"), "'it'\\''s; rm'");
});

test("an address says where the page is, and nonsense is the map", () => {
  for (const hash of ["#/map", "#/services?ns=shop", "#/service/shop/cart?window=300", "#/map/service/shop/cart?ns=shop", "#/map?as=table"]) {
    assert.equal(format(parse(hash)), hash);
  }
  const odd = { namespace: "a/b", name: "c?d" };
  assert.deepEqual(parse(format({ ...parse("#/map"), name: "service", of: odd })).of, odd);
  for (const hash of ["", "#", "#/nowhere", "#/service/shop", "#/%", "#/map?window=7"]) {
    assert.deepEqual([parse(hash).name, parse(hash).window], ["map", 60]);
  }
});

test("a flow is found by what stands in its line", () => {
  const flow = describe({
    time: "2026-01-01T00:00:00Z", verdict: "FORWARDED", source: { namespace: "shop", pod: "web-1" },
    destination: { namespace: "shop", pod: "cart-1" }, service: { namespace: "shop", name: "cart" }, protocol: "http", l7: { method: "GET", path: "/a", status: 503 }, flag: "UF",
  });
  assert.deepEqual([flow.tone, flow.to, flow.what], ["warn", "cart → shop/cart-1", "GET /a"]);
  assert.equal(describe({ verdict: "DROPPED", source: { ip: "10.0.0.1" }, protocol: "tcp" }).tone, "bad");
  for (const filter of ["", "cart", "5xx", "get /A", "uf web"]) assert.ok(matches(flow, filter, ""), filter);
  for (const filter of ["4xx", "cart bank"]) assert.ok(!matches(flow, filter, ""), filter);
  assert.ok(matches(flow, "", "shop") && !matches(flow, "", "bank"));
});
