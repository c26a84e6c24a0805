// Connections that the agent carries now, for an agent that tells of no flows.

import { h } from "./dom.js";
import { age, bytes, count, seconds } from "./format.js";
import { createTable } from "./table.js";

/** `update(connections, namespace)`. */
export function createConnections() {
  const column = (name, label, show, more = {}) => ({ name, label, sort: show, show, ...more });
  const table = createTable({
    label: "Connections",
    columns: [
      column("workload", "Pod", (row) => row.workload),
      column("direction", "Direction", (row) => row.direction),
      column("service", "Service", (row) => row.service ?? row.destination),
      column("endpoint", "Endpoint", (row) => row.endpoint ?? "–"),
      column("protocol", "Protocol", (row) => row.protocol),
      column("requests", "Requests", (row) => row.requests, { number: true, show: (row) => count(row.requests) }),
      column("sent", "Sent", (row) => row.sentBytes, { number: true, show: (row) => bytes(row.sentBytes) }),
      column("age", "Open for", (row) => seconds(row.since), { number: true, show: (row) => age(Date.now() / 1000 - seconds(row.since)) }),
    ],
    key: (row) => row.id,
    empty: "Nothing is open.",
  });
  const element = h("div", {}, table.element);
  return {
    element,
    update: (list, namespace) =>
      table.update(list.filter((row) => !namespace || row.workload.startsWith(`${namespace}/`))),
  };
}
