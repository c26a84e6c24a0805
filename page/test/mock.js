// An agent for whoever works on the page: serves page/src as it is, and made-up traffic. `node test/mock.js [PORT]`.

import { createServer } from "node:http";
import { readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { gunzipSync } from "node:zlib";

const here = dirname(fileURLToPath(import.meta.url));
const TYPES = { html: "text/html", js: "text/javascript", css: "text/css", svg: "image/svg+xml" };
const POLICY =
  "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; frame-ancestors 'none'";

const to = (workload, service = workload, namespace = "shop") => ({
  namespace, workload, service, service_namespace: namespace, principal: "unknown",
});
const from = (workload, namespace = "shop") => ({ namespace, workload, service: workload, principal: "unknown" });

// Client, destination, requests a second, share of failures, median, security, protocol.
const TRAFFIC = [
  [from("web"), to("cart-v1", "cart"), 118, 0, 6.2, "mutual_tls", "http"],
  [from("web"), to("cart-v2", "cart"), 13, 0.04, 9.8, "mutual_tls", "http"],
  [from("web"), to("catalog"), 64, 0, 3.1, "none", "http"],
  [from("batch"), to("cart-v1", "cart"), 4.2, 0, 7.1, "mutual_tls", "http"],
  [from("cart-v1"), to("payments"), 21, 0.002, 31, "mutual_tls", "grpc"],
  [from("cart-v2"), to("payments"), 2.3, 0.002, 34, "mutual_tls", "grpc"],
  [from("payments"), to("ledger", "ledger", "bank"), 23, 0.17, 120, "mutual_tls", "http"],
  [from("catalog"), to("redis"), 0, 0, null, "none", "tcp"],
  [from("payments"), { ...to("unknown", "PassthroughCluster"), namespace: "unknown" }, 1.4, 0, 210, "unknown", "http"],
];

/** Requests in the buckets of latency: half below `median`, the rest with a tail. */
const BOUNDS = [0.5, 1, 5, 10, 25, 50, 100, 250, 500, 1000];
const spread = (requests, median) =>
  BOUNDS.map((bound, n) => {
    const share = (at) => (at === 0 || !median ? 0 : 1 - Math.exp(-(at / median) * Math.LN2));
    return Math.round(requests * (share(bound) - share(BOUNDS[n - 1] ?? 0)));
  });

const wave = (seconds, n) => 1 + 0.22 * Math.sin(seconds / 47 + n * 1.7) + 0.1 * Math.sin(seconds / 11 + n);

function key([source, destination, , , , security, protocol], reporter) {
  const known = reporter === "destination" ? security : "unknown";
  return { reporter, source, destination, security: known, protocol };
}

function edges(window) {
  return TRAFFIC.flatMap((row, n) => {
    const [, , rps, failed, p50, , protocol] = row;
    const now = rps * wave(Date.now() / 1000, n);
    const requests = Math.round(now * window);
    const failures = Math.round(requests * failed);
    const tcp = protocol === "tcp";
    const figures = {
      requests, failures, rps: now, success: requests ? 1 - failures / requests : null,
      latency: spread(requests, p50),
      flags: failures ? { URX: failures } : {}, retries: Math.round(failures / 2), timeouts: 0,
      connections_open: tcp ? 12 : 3, connections_opened: tcp ? 4 : 0,
      sent_bytes: requests * 900 + (tcp ? 4e6 : 0), received_bytes: requests * 300,
    };
    return ["source", "destination"].map((reporter) => ({ ...key(row, reporter), ...figures }));
  });
}

function history(window) {
  const now = Date.now() / 1000;
  const begin = Math.floor((now - window) / 10) * 10;
  const stamps = Array.from({ length: Math.ceil((now - begin) / 10) }, (_, n) => begin + n * 10);
  const iso = (at) => new Date(at * 1000).toISOString();
  const list = TRAFFIC.map((row, n) => {
    const [, , rps, failed, p50] = row;
    const buckets = stamps.map((at) => {
      const had = Math.min(10, now - at);
      const requests = Math.round(rps * wave(at, n) * had);
      const slow = 1 + 0.3 * Math.abs(Math.sin(at / 90 + n));
      return { at: iso(at), requests, failures: Math.round(requests * failed * slow), p50_ms: p50 && p50 * slow,
        p99_ms: p50 && p50 * 4 * slow, sent_bytes: requests * 900 + 4e5, received_bytes: requests * 300 };
    });
    return { ...key(row, "source"), buckets };
  });
  return { window_seconds: window, bucket_seconds: 10, from: iso(begin), at: iso(now), node: "worker-1", edges: list };
}

const services = [...new Set(TRAFFIC.map(([, it]) => `${it.service_namespace}/${it.service}`))]
  .filter((name) => !name.endsWith("Cluster"))
  .map((name) => {
    const [namespace, service] = name.split("/");
    const port = { name: "http", port: 80, protocol: "http", protocolFrom: "port-name", path: "agent", loadBalancer: "peak-ewma",
      clientIpAffinity: false, available: service === "ledger" ? 1 : 3, total: 3 };
    return { namespace, name: service, host: `${service}.${namespace}.svc.cluster.local`, addresses: ["10.96.0.10"],
      headless: false, ports: [port] };
  });
const pods = ["web", "batch", "cart-v1", "cart-v2", "catalog", "payments", "redis"].map((name, n) => ({
  namespace: "shop", name: `${name}-7d9f8c-${n}`, node: n % 3 ? "worker-1" : "worker-2", addresses: [`10.1.0.${n}`],
  serviceAccount: name, workload: name, app: name, version: "v1", capture: n % 3 ? "captured" : "other-node",
  failMode: "closed",
}));

let flow = 0;
function flowLine() {
  const [source, destination, , failed, p50, security, protocol] = TRAFFIC[(flow += 1) % TRAFFIC.length];
  const isBad = Math.sin(flow) * 0.5 + 0.5 < failed;
  return JSON.stringify({
    time: new Date().toISOString(), node: "worker-1", verdict: flow % 37 === 0 ? "DROPPED" : "FORWARDED", reporter: "source",
    source: { ...source, pod: `${source.workload}-7d9f8c-1` }, destination: { ...destination, pod: `${destination.workload}-1` },
    service: { namespace: destination.service_namespace, name: destination.service, host: "" }, protocol,
    l7: protocol === "tcp" ? undefined : { method: "GET", path: `/items/${flow % 90}`, status: isBad ? 503 : 200 },
    flag: isBad ? "URX" : "-", durationMs: p50 ?? 1.5, security,
  });
}

const started = { secs_since_epoch: Math.floor(Date.now() / 1000) - 93_000, nanos_since_epoch: 0 };
const ANSWERS = {
  "about": () => ({ arguments: [], version: "0.1.0" }),
  "v1/status": () => ({
    agent: { version: "0.1.0", node: "worker-1", pid: 1, started, workers: 4, ready: true, waitingFor: [], trouble: null },
    config: { source: "kube", generation: 418, workloads: 7, services: 6, endpoints: 18, warnings: 2 },
    pods: pods.map(({ namespace, name }) => ({ namespace, name, state: "captured" })),
    kernel: { release: "6.8.0", heartbeatAgeMs: 40, programs: [], maps: [], reasons: [] },
    identity: { certificates: 7, valid: 7 }, traffic: { outbound: 9, inbound: 9, requests: 3 },
  }),
  "v1/live/edges": (q) => ({ window_seconds: q, covered_seconds: q + 4, bucket_seconds: 10, at: new Date().toISOString(),
    node: "worker-1", edges: edges(q) }),
  "v1/live/history": (q) => history(q),
  "v1/live/routes": () => ({ routes: [] }),
  "v1/services": () => services,
  "v1/workloads": () => pods,
  "v1/routes": () => [{ namespace: "shop", name: "cart-canary", kind: "HTTPRoute", parent: "shop/cart", role: "producer",
    rules: 2, accepted: { status: true, reason: "Accepted", message: "" } }],
  "v1/policies": () => [{ namespace: "shop", name: "retries", kind: "TrafficPolicy", target: "Service shop/cart",
    groups: ["retry"], state: "in-force", message: "" }],
  "v1/warnings": () => [{ code: "MESH0102", object: "HTTPRoute shop/old", field: "spec.rules[0]", origin: "kube",
    message: "backend shop/gone isn't known: requests are answered 500" }],
  "v1/connections": () => [],
};

createServer((request, response) => {
  const url = new URL(request.url, "http://page");
  const path = url.pathname.slice(1) || "index.html";
  const head = (type) => response.writeHead(200, { "content-type": type, "content-security-policy": POLICY });
  if (path === "v1/flows") {
    head("application/x-ndjson");
    const timer = setInterval(() => response.write(`${flowLine()}\n`), 120);
    response.on("close", () => clearInterval(timer));
    return;
  }
  const answer = ANSWERS[path];
  if (answer) {
    head("application/json");
    response.end(JSON.stringify(answer(Number(url.searchParams.get("window") ?? 60))));
    return;
  }
  try {
    const content = path.startsWith("vendor/")
      ? gunzipSync(readFileSync(join(here, "../../target/page", `${path}.gz`)))
      : readFileSync(join(here, "../src", path.replaceAll("..", "")));
    head(TYPES[path.split(".").at(-1)] ?? "text/plain");
    response.end(content);
  } catch {
    response.writeHead(404).end("{}");
  }
}).listen(Number(process.argv[2] ?? 8123), "127.0.0.1", function listening() {
  console.log(`http://127.0.0.1:${this.address().port}/`);
});
