// All services, all workloads: those without traffic too.

import { h } from "./dom.js";
import { FIGURES, HEALTH, LOCK } from "./parts.js";
import { serviceId, workloadId } from "./graph-model.js";
import { health, known, sum, together } from "./edges.js";
import { duration } from "./format.js";
import { createTable } from "./table.js";

const P95 = {
  name: "p95",
  label: "p95",
  number: true,
  sort: (row) => row.figures.p95_ms,
  show: (row) => duration(row.figures.p95_ms),
};
const WITH_P95 = [...FIGURES.slice(0, 3), P95, FIGURES[3]];
const NAME = { name: "name", label: "Name", sort: (row) => row.name, show: (row) => row.name };
const NAMESPACE = { name: "namespace", label: "Namespace", sort: (row) => row.namespace, show: (row) => row.namespace };

/** Every service with its ports. */
export function createServices({ address }) {
  const endpoints = {
    name: "endpoints",
    label: "Endpoints",
    number: true,
    sort: (row) => row.available,
    show: (row) => `${row.available}/${row.total}`,
  };
  const ports = { name: "ports", label: "Ports", show: (row) => row.ports };
  const table = createTable({
    label: "Services",
    columns: [NAME, NAMESPACE, HEALTH, ...WITH_P95, LOCK, endpoints, ports],
    key: (row) => row.id,
    address: (row) => address(row.id),
    empty: "No service here.",
  });
  return page("Services", table, ({ place, data, edges }) => rows(place, data.services, edges));

  function rows(place, services = [], edges) {
    return services
      .filter(({ namespace }) => !place.namespace || namespace === place.namespace)
      .map(({ namespace, name, ports }) => {
        const own = edges.filter(({ destination: it }) => it.service === name && it.service_namespace === namespace);
        const worst = [...ports].sort((a, b) => a.available - b.available)[0];
        const isDown = worst && worst.total > 0 && worst.available === 0;
        const figures = sum(own);
        return {
          id: serviceId(namespace, name),
          namespace,
          name,
          figures,
          health: isDown ? "failing" : health(figures),
          security: together(own.map((edge) => edge.security)),
          available: worst?.available ?? 0,
          total: worst?.total ?? 0,
          ports: ports.map((port) => `${port.port}/${port.protocol}`).join(" "),
        };
      });
  }
}

/** Every workload: pods that belong together. */
export function createWorkloads({ address }) {
  const pods = {
    name: "pods",
    label: "Captured",
    number: true,
    sort: (row) => row.captured,
    show: (row) => `${row.captured}/${row.pods.length}`,
  };
  const nodes = { name: "nodes", label: "Nodes", show: (row) => [...new Set(row.pods.map((pod) => pod.node))].join(" ") };
  const sends = {
    name: "sends",
    label: "Sends",
    number: true,
    sort: (row) => row.sends.rps,
    show: (row) => FIGURES[0].show({ figures: row.sends }),
  };
  const table = createTable({
    label: "Workloads",
    columns: [NAME, NAMESPACE, HEALTH, ...WITH_P95, sends, LOCK, pods, nodes],
    key: (row) => row.id,
    address: (row) => address(row.id),
    empty: "No workload here.",
  });
  return page("Workloads", table, ({ place, data, edges }) => rows(place, data.workloads, edges));

  function rows(place, all = [], edges) {
    const found = new Map();
    for (const pod of all) {
      const name = known(pod.workload) ? pod.workload : pod.name;
      const id = workloadId(pod.namespace, name);
      if (place.namespace && pod.namespace !== place.namespace) continue;
      if (!found.has(id)) found.set(id, { id, namespace: pod.namespace, name, pods: [] });
      found.get(id).pods.push(pod);
    }
    const of = (side, { namespace, name }) =>
      edges.filter((edge) => edge[side].workload === name && edge[side].namespace === namespace);
    return [...found.values()].map((row) => {
      const own = of("destination", row);
      const figures = sum(own);
      return {
        ...row,
        figures,
        health: health(figures),
        security: together(own.map((edge) => edge.security)),
        sends: sum(of("source", row)),
        captured: row.pods.filter(({ capture }) => ["captured", "other-node"].includes(capture)).length,
      };
    });
  }
}

function page(title, table, rows) {
  const element = h("div", { class: "page" }, h("h2", {}, title), h("div", { class: "card-box" }, table.element));
  return { element, update: (all) => table.update(rows(all)), end() {} };
}
