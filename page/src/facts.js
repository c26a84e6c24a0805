// What the configuration says of a service or a workload: ports, routes and their rules, policies, pods.

import { h, set, text } from "./dom.js";
import { known } from "./edges.js";
import { FIGURES } from "./parts.js";
import { createTable } from "./table.js";

const name = (row) => `${row.namespace}/${row.name}`;
const column = (key, label, show, more) => ({ name: key, label, sort: show, show, ...more });

const TABLES = {
  ports: {
    title: "Ports",
    key: (row) => `${row.port}/${row.protocol}`,
    columns: [
      column("port", "Port", (row) => row.port),
      column("protocol", "Protocol", (row) => row.protocol),
      column("endpoints", "Endpoints", (row) => `${row.available}/${row.total}`, { number: true }),
      column("path", "Goes by", (row) => row.path || "–"),
      column("lb", "Balancing", (row) => row.loadBalancer ?? "–"),
    ],
    rows: (what, { services }) => (what.kind === "service" ? (find(services, what)?.ports ?? []) : []),
  },
  rules: {
    title: "Rules of routes",
    key: (row) => `${row.kind} ${row.route} ${row.rule} ${row.service_namespace}/${row.service}`,
    columns: [column("route", "Route", (row) => row.route), column("rule", "Rule", (row) => row.rule), ...FIGURES],
    rows: (what, { ruleRates }) =>
      (ruleRates?.routes ?? [])
        .filter((rule) => rule.service === what.name && rule.service_namespace === what.namespace)
        .map((rule) => ({ ...rule, figures: rule })),
  },
  routes: {
    title: "Routes",
    key: (row) => `${row.kind} ${name(row)} ${row.parent}`,
    columns: [
      column("route", "Route", name),
      column("kind", "Kind", (row) => row.kind),
      column("accepted", "Accepted", (row) => condition(row.accepted)),
      column("rules", "Rules", (row) => row.rules, { number: true }),
    ],
    rows: (what, { routes }) => (routes ?? []).filter((route) => parent(route) === name(what)),
  },
  policies: {
    title: "Policies",
    key: (row) => `${row.kind} ${name(row)} ${row.target}`,
    columns: [
      column("policy", "Policy", name),
      column("kind", "Kind", (row) => row.kind),
      column("state", "Holds", (row) => row.state ?? "–"),
    ],
    rows: (what, { policies, services }) => (policies ?? []).filter((policy) => isFor(policy, what, find(services, what))),
  },
  pods: {
    title: "Pods",
    key: name,
    columns: [
      column("pod", "Pod", (row) => row.name),
      column("node", "Node", (row) => row.node),
      column("capture", "Captured", (row) => (row.reason ? `${row.capture}: ${row.reason}` : row.capture)),
      column("account", "Account", (row) => row.serviceAccount),
      column("version", "Version", (row) => row.version || "–"),
    ],
    rows: (what, { workloads }) => {
      const all = what.kind === "workload" ? (workloads ?? []) : [];
      return all.filter((pod) => pod.namespace === what.namespace && pod.workload === what.name);
    },
  },
};

/** Tables of all of it; those without a row aren't shown. */
export function createFacts() {
  const tables = Object.values(TABLES).map((it) => {
    const table = createTable({ ...it, label: it.title });
    return { ...it, table, element: h("div", { class: "block" }, h("h3", {}, it.title), table.element) };
  });
  const host = h("p", { class: "host" });
  const element = h("div", { class: "facts" }, host, tables.map((it) => it.element));
  return {
    element,
    update(what, data) {
      const service = what.kind === "service" ? find(data.services, what) : null;
      const line = service ? [service.host, ...service.addresses].join("   ") : proven(what);
      text(host, line);
      set(host, "hidden", line === "");
      for (const it of tables) {
        const rows = ["service", "workload"].includes(what.kind) ? it.rows(what, data) : [];
        set(it.element, "hidden", rows.length === 0);
        it.table.update(rows);
      }
    },
  };
}

/** Of a link: who both ends have proven to be. */
function proven({ edges = [] }) {
  const ends = (side) => [...new Set(edges.map((edge) => edge[side].principal).filter(known))].join(", ");
  const [from, to] = [ends("source"), ends("destination")];
  return from || to ? `${from || "unknown"} → ${to || "unknown"}` : "";
}

function find(services, what) {
  return services?.find((it) => it.namespace === what.namespace && it.name === what.name);
}

/** `NAMESPACE/SERVICE` of a parent that may name a port. */
function parent(route) {
  return (route.parent ?? "").split(":")[0];
}

function condition(it) {
  if (!it) return "–";
  return it.status ? "yes" : `no: ${it.reason}`;
}

/** A policy names its target by kind and name, a DestinationRule by a host. */
function isFor({ kind, namespace, target }, what, service) {
  const [of, named = ""] = target.split(" ");
  if (of === "Service") return named.split(":")[0] === name(what);
  if (of !== "host" || kind !== "DestinationRule") return false;
  return named === service?.host || (named === what.name && namespace === what.namespace);
}
