// From what the agent reports of edges to one edge for each pair, and figures put together. Pure.
//
// Where client and server are on this agent's node, an edge comes twice: by its source reporter and by its destination
// reporter. It is one edge of the picture. Latency, rate and success are the source's, which is what the client felt, with
// retries and the way included; whether it was mutual TLS is the destination's word, who alone sees how it was reached.

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
  return pairs(reported).map((pair) => {
    const told = pick(pair);
    const { source, destination, protocol } = told[0];
    return { key: pair.key, source, destination, protocol, security: security(pair), ...sum(told) };
  });
}

/** Of all that is reported, what counts: of each pair one reporter's edges. */
export function told(reported) {
  return pairs(reported).flatMap(pick);
}

function pick({ source, destination }) {
  return source.length > 0 ? source : destination;
}

function pairs(reported) {
  const found = new Map();
  for (const edge of reported) {
    const { source, destination: to, protocol } = edge;
    const names = [source.namespace, source.workload, to.namespace, to.workload, to.service, to.service_namespace];
    const key = JSON.stringify([...names, protocol]);
    if (!found.has(key)) found.set(key, { key, source: [], destination: [] });
    found.get(key)[edge.reporter === "destination" ? "destination" : "source"].push(edge);
  }
  return [...found.values()];
}

/** `mutual_tls`, `none`, `mixed` or `unknown`. */
function security({ source, destination }) {
  const said = new Set(destination.map((edge) => edge.security).filter(known));
  if (said.size === 0) source.forEach((edge) => said.add(ofSource(edge)));
  said.delete(UNKNOWN);
  if (said.size > 1) return "mixed";
  return [...said][0] ?? UNKNOWN;
}

/** A source reporter names both principals exactly where they were proven. */
function ofSource(edge) {
  if (known(edge.security)) return edge.security;
  return known(edge.source.principal) && known(edge.destination.principal) ? "mutual_tls" : UNKNOWN;
}

const ADDED = ["requests", "failures", "rps", "retries", "timeouts", "connections_open", "connections_opened"];
const BYTES = ["sent_bytes", "received_bytes"];

/** Figures of several edges together. A quantile of several is the highest of them, never less than what was seen. */
export function sum(edges) {
  const total = { p50_ms: null, p95_ms: null, p99_ms: null, flags: {} };
  for (const name of [...ADDED, ...BYTES]) {
    total[name] = edges.reduce((all, edge) => all + (edge[name] ?? 0), 0);
  }
  for (const edge of edges) {
    for (const name of ["p50_ms", "p95_ms", "p99_ms"]) {
      if (edge[name] != null) total[name] = Math.max(total[name] ?? 0, edge[name]);
    }
    for (const [flag, times] of Object.entries(edge.flags ?? {})) {
      total.flags[flag] = (total.flags[flag] ?? 0) + times;
    }
  }
  total.success = total.requests > 0 ? 1 - total.failures / total.requests : null;
  return total;
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
