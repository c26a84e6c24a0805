// The picture's nodes and links, from merged edges: client workload -> service -> server workload. Pure.

import { OUTSIDE, health, known, sum, together } from "./edges.js";

/** Id of a workload's node. */
export const workloadId = (namespace, name) => `workload/${namespace}/${name}`;
/** True of the id of a link; Kubernetes has no such sign in names. */
export const isLink = (id) => id.includes(">");
/** Id of a service's node. */
export const serviceId = (namespace, name) => `service/${namespace}/${name}`;

/**
 * Nodes and links by id. `services` is what the agent lists, for ports and endpoints.
 * An edge to a service makes two links: to the service, and on to the workload that answered. A service that one workload of
 * its own name answers for is one node with it, unless they are to be `apart`.
 */
export function graph(edges, services = [], { apart = false } = {}) {
  const nodes = new Map();
  const links = new Map();
  const same = apart ? new Map() : oneAndTheSame(edges);
  const at = (id) => same.get(id) ?? id;
  for (const edge of edges) {
    const from = end(nodes, edge.source, at);
    const service = serviceNode(nodes, edge.destination);
    const to = known(edge.destination.workload) ? end(nodes, edge.destination, at) : null;
    if (service) {
      link(links, from, service, edge, "call");
      if (to && to !== service) link(links, service, to, edge, "answer");
    } else {
      link(links, from, to ?? outside(nodes, edge.destination), edge, "call");
    }
  }
  const listed = new Map(services.map((it) => [serviceId(it.namespace, it.name), it]));
  for (const node of nodes.values()) finishNode(node, links, listed.get(node.id));
  for (const each of links.values()) finishLink(each, nodes);
  for (const node of nodes.values()) {
    node.calledBy = [...links.values()].filter((it) => it.to === node.id);
    node.callsTo = [...links.values()].filter((it) => it.from === node.id);
  }
  const idOf = (id) => (isLink(id) ? id.split(">").map(at).join(">") : at(id));
  return { nodes, links, idOf };
}

/** From the ids of workloads to those of the services with which they are one. */
function oneAndTheSame(edges) {
  const answering = new Map();
  for (const { destination } of edges) {
    const { namespace, workload, service, service_namespace: of } = destination;
    if (!known(service) || service in OUTSIDE || !known(workload)) continue;
    const id = serviceId(of, service);
    answering.set(id, (answering.get(id) ?? new Set()).add(workloadId(namespace, workload)));
  }
  const same = new Map();
  for (const [service, workloads] of answering) {
    const [only] = workloads;
    if (workloads.size === 1 && only === service.replace(/^service/, "workload")) same.set(only, service);
  }
  return same;
}

function end(nodes, { namespace, workload }, at) {
  if (!known(workload)) return outside(nodes, { service: "unknown" });
  const id = at(workloadId(namespace, workload));
  const kind = id.startsWith("service/") ? "service" : "workload";
  return put(nodes, { id, kind, namespace, name: workload });
}

function serviceNode(nodes, { service, service_namespace: namespace }) {
  if (!known(service) || service in OUTSIDE) return null;
  return put(nodes, { id: serviceId(namespace, service), kind: "service", namespace, name: service });
}

function outside(nodes, { service }) {
  const name = OUTSIDE[service] ?? "unknown";
  return put(nodes, { id: `outside/${service ?? name}`, kind: "outside", namespace: "", name });
}

function put(nodes, node) {
  if (!nodes.has(node.id)) nodes.set(node.id, node);
  return node.id;
}

function link(links, from, to, edge, role) {
  const id = `${from}>${to}`;
  const found = links.get(id) ?? { id, from, to, role, edges: [] };
  found.edges.push(edge);
  links.set(id, found);
}

function finishNode(node, links, listed) {
  const all = [...links.values()];
  const edgesOf = (end) => [...new Set(all.filter((it) => it[end] === node.id).flatMap((it) => it.edges))];
  node.inbound = sum(edgesOf("to"));
  node.outbound = sum(edgesOf("from"));
  node.health = health(node.inbound);
  if (listed) {
    // Of its ports the one that is worst off.
    const ports = listed.ports.filter((port) => port.protocol !== "udp");
    const worst = ports.sort((a, b) => a.available - b.available)[0];
    node.endpoints = worst && { available: worst.available, total: worst.total };
    if (worst && worst.total > 0 && worst.available === 0) node.health = "failing";
  }
}

function finishLink(each, nodes) {
  each.figures = sum(each.edges);
  each.security = together(each.edges.map((edge) => edge.security));
  each.protocols = [...new Set(each.edges.map((edge) => edge.protocol))].sort();
  each.health = health(each.figures);
  const whole = nodes.get(each.from).outbound;
  // Of a service's requests, or of its connections where it has no requests: how much goes this way.
  const base = whole.requests > 0 ? "requests" : "connections_opened";
  each.share = each.role === "answer" && whole[base] > 0 ? each.figures[base] / whole[base] : null;
}

/** What decides how the picture is laid out: while it stays the same, nodes stay where they are. */
export function shape({ nodes, links }) {
  return [...nodes.keys()].sort().join(" ") + "|" + [...links.keys()].sort().join(" ");
}
