// From what the agent reports of edges to one edge for each pair, and figures put together. Pure.
//
// Where client and server are on this agent's node, an edge comes twice: by its source reporter and by its destination
// reporter. It is one edge of the picture. Latency, rate and success are the source's, which is what the client felt, with
// retries and the way included, unless the destination has seen more: a client outside of the mesh has nobody to report for it.
// Whether it was mutual TLS is the destination's word, who alone sees how it was reached. The command line does the same.

const UNKNOWN = "unknown";

/** Names that stand for a destination which is no service. */
export const OUTSIDE = {
  PassthroughCluster: "outside the mesh",
  BlackHoleCluster: "refused: not registered",
  InboundPassthroughCluster: "no service",
};

/** True of a name that says something. */
export function known(name) {
  return Boolean(name) && name !== UNKNOWN;
}

/** One edge for each pair of workloads, service and protocol. */
export function merge(reported) {
  return pairs(reported).flatMap((pair) => {
    const services = new Map();
    for (const edge of pick(pair)) {
      const { service, service_namespace: namespace } = edge.destination;
      const key = JSON.stringify([pair.key, namespace, service]);
      services.set(key, [...(services.get(key) ?? []), edge]);
    }
    return [...services].map(([key, edges]) => {
      const { source, destination, protocol } = edges[0];
      return { key, source, destination, protocol, security: security(edges, pair), ...sum(edges) };
    });
  });
}

/** Of all that is reported, what counts: of each pair one reporter's edges. */
export function told(reported) {
  return pairs(reported).flatMap(pick);
}

function pick({ source, destination }) {
  if (source.length === 0 || destination.length === 0) return [...source, ...destination];
  const [mine, theirs] = [seen(source), seen(destination)];
  return mine[0] > theirs[0] || (mine[0] === theirs[0] && mine[1] >= theirs[1]) ? source : destination;
}

/** Requests, of which each try is one at the server; and connections. A history has its figures in buckets. */
function seen(edges) {
  const all = edges.flatMap((edge) => edge.buckets ?? [edge]);
  const add = (...names) => all.reduce((total, it) => total + names.reduce((sum, name) => sum + (it[name] ?? 0), 0), 0);
  return [add("requests", "retries"), add("connections_opened", "connections_open")];
}

function pairs(reported) {
  const found = new Map();
  for (const edge of reported) {
    const { source, destination, protocol, reporter } = edge;
    const names = [source.namespace, source.workload, destination.namespace, destination.workload, protocol];
    const key = JSON.stringify(names);
    if (!found.has(key)) found.set(key, { key, source: [], destination: [] });
    found.get(key)[reporter === "destination" ? "destination" : "source"].push(edge);
  }
  return [...found.values()];
}

/** `mutual_tls`, `none`, `mixed` or `unknown`: of the same service if the destination names it too. */
function security(edges, { destination }) {
  const { service, service_namespace: namespace } = edges[0].destination;
  const same = destination.filter(({ destination: it }) => it.service === service && it.service_namespace === namespace);
  const said = (same.length > 0 ? same : destination).map((edge) => edge.security);
  return together(said.some(known) ? said : edges.map(ofSource));
}

/** A source reporter names both principals exactly where they were proven. */
function ofSource(edge) {
  if (known(edge.security)) return edge.security;
  return known(edge.source.principal) && known(edge.destination.principal) ? "mutual_tls" : UNKNOWN;
}

const ADDED = ["requests", "failures", "rps", "retries", "timeouts", "connections_open", "connections_opened"];
const BYTES = ["sent_bytes", "received_bytes"];

/** Upper bounds of the buckets of `istio_request_duration_milliseconds`. */
const BOUNDS = [
  0.5, 1, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 30_000, 60_000, 300_000, 600_000, 1_800_000, 3_600_000,
];

/** Figures of several edges together; quantiles are of all their requests. */
export function sum(edges) {
  const total = { flags: {} };
  const latency = [];
  for (const name of [...ADDED, ...BYTES]) {
    total[name] = edges.reduce((all, edge) => all + (edge[name] ?? 0), 0);
  }
  for (const edge of edges) {
    edge.latency?.forEach((times, n) => (latency[n] = (latency[n] ?? 0) + times));
    for (const [flag, times] of Object.entries(edge.flags ?? {})) {
      total.flags[flag] = (total.flags[flag] ?? 0) + times;
    }
  }
  const [p50_ms, p95_ms, p99_ms] = [0.5, 0.95, 0.99].map((share) => quantile(latency, share));
  const success = total.requests > 0 ? 1 - total.failures / total.requests : null;
  return { ...total, latency, success, p50_ms, p95_ms, p99_ms };
}

/** As Prometheus' `histogram_quantile`: by a straight line within a bucket, the last bound for what is above all. */
export function quantile(buckets, share) {
  const all = buckets.reduce((total, times) => total + times, 0);
  let below = 0;
  let lower = 0;
  for (const [n, bound] of BOUNDS.entries()) {
    const times = buckets[n] ?? 0;
    if (times > 0 && below + times >= share * all) {
      return lower + ((bound - lower) * (share * all - below)) / times;
    }
    below += times;
    lower = bound;
  }
  return all > 0 ? lower : null;
}

/** Of the securities of several edges: the one they share, or `mixed`. */
export function together(securities) {
  const said = new Set([...securities].filter(known));
  if (said.size === 0) return UNKNOWN;
  return said.size === 1 ? [...said][0] : "mixed";
}

/** From here on something is degraded; from the second on it is failing. */
export const LIMITS = { degraded: 0.99, failing: 0.9 };

/** `healthy`, `degraded`, `failing` or `idle`. */
export function health(figures) {
  const { success } = figures;
  if (success == null) {
    return figures.connections_open > 0 || figures.connections_opened > 0 ? "healthy" : "idle";
  }
  if (success < LIMITS.failing) return "failing";
  return success < LIMITS.degraded ? "degraded" : "healthy";
}

/** Edges that a namespace has to do with; all without one. */
export function within(edges, namespace) {
  if (!namespace) return edges;
  return edges.filter(({ source, destination }) =>
    [source.namespace, destination.namespace, destination.service_namespace].includes(namespace),
  );
}
