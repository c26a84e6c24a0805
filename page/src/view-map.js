// The map: the graph, or the same as a table, and beside it what is selected.

import { h, set, swap } from "./dom.js";
import { HEALTH_WORDS, healthIcon, lockIcon } from "./icons.js";
import { createDetail } from "./detail.js";
import { createGraph } from "./graph.js";
import { sum } from "./edges.js";
import { FIGURES, LOCK, createTiles, requestTiles, serviceName } from "./parts.js";
import { part } from "./format.js";
import { createTable } from "./table.js";

/** `go(change)` changes the place, `address(id)` is where a node is shown. */
export function createMap({ go, address }) {
  const tiles = createTiles();
  const graph = createGraph((id) => go({ selected: id }));
  const table = edgeTable(address);
  const choice = asChoice(go);
  const head = h("div", { class: "map-head" }, tiles.element, choice.element);
  const nothing = h("div", { class: "nothing", hidden: true });
  const legend = createLegend();
  const stage = h("div", { class: "stage" }, graph.element, table.element, nothing, legend);
  const detail = createDetail(address);
  const close = h("button", { type: "button", class: "quiet close", "aria-label": "Close", title: "Close (Esc)" }, "×");
  close.addEventListener("click", () => go({ selected: null }));
  const panel = h("aside", { class: "panel", "aria-label": "Selected", hidden: true }, close, detail.element);
  const element = h("div", { class: "map" }, h("div", { class: "main-part" }, head, stage), panel);
  element.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || panel.hidden) return;
    const id = panel.dataset.of;
    go({ selected: null });
    graph.element.querySelector(`[data-id="${CSS.escape(id)}"]`)?.focus();
  });

  function update({ place, data, model, edges }) {
    tiles.update(headline(edges));
    const isTable = place.as === "table";
    choice.update(place.as);
    const isEmpty = edges.length === 0;
    set(graph.element, "hidden", isTable || isEmpty);
    set(legend, "hidden", isTable || isEmpty);
    set(table.element, "hidden", !isTable || isEmpty);
    set(nothing, "hidden", !isEmpty);
    if (isEmpty) empty(nothing, place, data);
    const selected = place.selected && model.idOf(place.selected);
    if (isTable) table.update(edges);
    else graph.update(model, selected);
    set(panel, "hidden", !selected);
    if (!selected) return;
    panel.dataset.of = selected;
    detail.update(selected, model, data, place.window, false);
  }

  return {
    element,
    update,
    end() {
      graph.end();
      detail.end();
    },
  };
}

function headline(edges) {
  const figures = requestTiles(sum(edges));
  const secure = { label: "Mutual TLS", value: part(secured(edges)), title: "Share of the requests and connections of which it is known" };
  return [...figures, secure];
}

/** Of what is known of: how much is mutual TLS. By requests and connections. */
function secured(edges) {
  const weight = (edge) => edge.requests + edge.connections_opened;
  const all = edges.filter((edge) => edge.security !== "unknown");
  const total = all.reduce((whole, edge) => whole + weight(edge), 0);
  const of = all.filter((edge) => edge.security === "mutual_tls").reduce((whole, edge) => whole + weight(edge), 0);
  return total > 0 ? of / total : null;
}

function asChoice(go) {
  const make = (as, label) =>
    h("button", { type: "button", "aria-pressed": "false", onclick: () => go({ as }) }, label);
  const buttons = { graph: make("graph", "Graph"), table: make("table", "Table") };
  const element = h("div", { class: "segments", role: "group", "aria-label": "Show as" }, Object.values(buttons));
  return {
    element,
    update(as) {
      for (const [name, button] of Object.entries(buttons)) set(button, "aria-pressed", String(name === as));
    },
  };
}

function createLegend() {
  const health = Object.entries(HEALTH_WORDS).map(([name, words]) => h("li", {}, healthIcon(name), words));
  const locks = [
    ["mutual_tls", "mutual TLS"],
    ["none", "plain text"],
  ].map(([name, words]) => h("li", {}, lockIcon(name), words));
  return h("ul", { class: "legend", "aria-label": "Legend" }, health, locks);
}

function empty(element, place, data) {
  const known = data.edges ? `quiet ${place.namespace}` : "waiting";
  const what = data.missing.has("edges") ? "missing" : known;
  swap(element, what, () => {
    if (what === "waiting") return h("p", {}, "Asking the agent …");
    if (what === "missing") {
      return h("p", {}, "This agent doesn't tell of its edges: it is older than this command.");
    }
    const where = place.namespace ? ` in ${place.namespace}` : "";
    return [
      h("h2", {}, `No traffic${where}`),
      h("p", {}, "As soon as a captured pod calls another one, it shows here. ", h("a", { href: "#/workloads" }, "Which pods are captured?")),
    ];
  });
}

function edgeTable(address) {
  const name = (side, of) => (row) => row[side][of];
  const columns = [
    { name: "source", label: "Client", sort: name("source", "workload"), show: name("source", "workload") },
    { name: "sns", label: "Namespace", sort: name("source", "namespace"), show: name("source", "namespace") },
    { name: "service", label: "Service", sort: name("destination", "service"), show: (row) => serviceName(row.destination.service) },
    { name: "to", label: "Answered by", sort: name("destination", "workload"), show: name("destination", "workload") },
    { name: "dns", label: "Namespace", sort: name("destination", "namespace"), show: name("destination", "namespace") },
    { name: "protocol", label: "Protocol", sort: (row) => row.protocol, show: (row) => row.protocol },
    LOCK,
    ...FIGURES,
  ];
  const table = createTable({
    label: "Edges",
    columns,
    key: (row) => row.key,
    address: (row) => address(`workload/${row.source.namespace}/${row.source.workload}`),
    order: { name: "rps", down: true },
  });
  return { element: table.element, update: (edges) => table.update(edges.map((edge) => ({ ...edge, figures: edge }))) };
}

