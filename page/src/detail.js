// One service, workload or link: its figures, its course, who calls it and whom it calls. Beside the map, or as a page.

import { h, set, swap, text } from "./dom.js";
import { HEALTH_WORDS, SECURITY_WORDS, healthIcon, lockIcon } from "./icons.js";
import { bytes, count, part, plural, span } from "./format.js";
import { sum } from "./edges.js";
import { isLink } from "./graph-model.js";
import { createCharts } from "./charts.js";
import { FIGURES, LOCK, createTiles, requestTiles } from "./parts.js";
import { createFacts } from "./facts.js";
import { createTable } from "./table.js";
import { series } from "./history.js";

const WORDS = { service: "Service", workload: "Workload", outside: "Outside", link: "Connection" };

/** What is to be shown of `id`; `address(id)` is where a node is shown. */
export function createDetail(address) {
  const sign = h("span", { class: "sign-of" });
  const kind = h("p", { class: "kind-word" });
  const name = h("h2", { tabindex: "-1" });
  const state = h("p", { class: "state" });
  const tiles = createTiles();
  const totals = h("p", { class: "totals" });
  const flags = h("p", { class: "flags" });
  const charts = h("div");
  const calls = table("Called by", address, "from", "Caller");
  const onward = table("Calls", address, "to", "Destination");
  const facts = createFacts();
  const open = h("a", { class: "button" }, "Details");
  const head = h("header", { class: "detail-head" }, sign, h("div", {}, kind, name), state, open);
  const element = h("section", { class: "detail" }, head, tiles.element, totals, flags, charts, calls.element,
    onward.element, facts.element);
  let drawn = null;

  function update(id, model, data, window, isPage) {
    const node = model.nodes.get(id);
    const link = model.links.get(id);
    const what = subject(id, node, link);
    text(kind, what.kind === "link" ? WORDS.link : `${WORDS[what.kind]}${what.namespace ? ` · ${what.namespace}` : ""}`);
    text(name, what.name);
    set(open, "hidden", isPage || !["service", "workload"].includes(what.kind));
    set(open, "href", address(id, true));
    header(what);
    tiles.update(requestTiles(what.figures));
    text(totals, sentence(what.figures, window));
    text(flags, Object.entries(what.figures.flags).map(([flag, times]) => `${flag} × ${count(times)}`).join("   "));
    set(flags, "title", "Response flags, as Envoy has them");
    set(flags, "hidden", flags.textContent === "");
    course(id, what, data.history);
    calls.update(what.inbound, what.kind !== "link");
    onward.update(what.outbound, what.kind !== "link", what.outbound.some(({ role }) => role === "answer"));
    facts.update(what, data);
  }

  function header(what) {
    swap(sign, what.kind === "link" ? what.security : what.health, () =>
      what.kind === "link" ? lockIcon(what.security) : healthIcon(what.health),
    );
    const words = what.kind === "link" ? SECURITY_WORDS[what.security] : HEALTH_WORDS[what.health];
    text(state, words);
    set(state, "class", `state ${what.kind === "link" ? what.security : what.health}`);
  }

  function course(id, what, history) {
    const isTcp = what.figures.requests === 0 && what.figures.sent_bytes > 0;
    const wanted = isTcp ? ["bytes"] : ["rate", "success", "latency"];
    if (drawn?.id !== id || drawn.wanted.join() !== wanted.join()) {
      drawn?.charts.end();
      drawn = { id, wanted, charts: createCharts(wanted) };
      charts.replaceChildren(drawn.charts.element);
    }
    if (history) drawn.charts.update(series(history, belongs(what)));
  }

  return {
    element,
    update,
    focus: () => name.focus(),
    end: () => drawn?.charts.end(),
  };
}

/** Node or link in one form; what isn't in the picture now has figures of nothing. */
function subject(id, node, link) {
  if (isLink(id)) {
    const name = id.split(">").map((end) => end.split("/").at(-1)).join(" → ");
    const { figures = sum([]), security = "unknown", edges = [], health = "idle" } = link ?? {};
    return { kind: "link", id, name, figures, security, edges, health, inbound: [], outbound: [] };
  }
  const [kind, namespace, ...rest] = id.split("/");
  if (!node) {
    const name = rest.join("/") || id;
    return { kind, id, namespace, name, figures: sum([]), health: "idle", inbound: [], outbound: [] };
  }
  // A workload that only asks is shown by what it asks.
  const asks = node.inbound.requests === 0 && node.inbound.connections_opened === 0;
  return { ...node, figures: asks && node.kind !== "service" ? node.outbound : node.inbound,
    asks, inbound: node.calledBy, outbound: node.callsTo };
}

/** Which edges of the history belong to it. */
function belongs(what) {
  const same = (edge, side, namespace, name) => edge[side].namespace === namespace && edge[side].workload === name;
  if (what.kind === "service") {
    return ({ destination }) =>
      destination.service === what.name && destination.service_namespace === what.namespace;
  }
  if (what.kind === "workload") {
    return (edge) => same(edge, what.asks ? "source" : "destination", what.namespace, what.name);
  }
  const keys = new Set((what.edges ?? []).map((edge) => names(edge)));
  return (edge) => keys.has(names(edge));
}

function names({ source, destination, protocol }) {
  const { namespace, workload, service, service_namespace: of } = destination;
  return [source.namespace, source.workload, namespace, workload, service, of, protocol].join(" ");
}

function sentence(figures, window) {
  const asked = `${plural(figures.requests, "request")}, ${count(figures.failures)} failed, in the last ${span(window)}`;
  const more = [
    figures.retries > 0 && plural(figures.retries, "retry").replace(/retrys$/, "retries"),
    figures.timeouts > 0 && plural(figures.timeouts, "timeout"),
    figures.connections_open > 0 && `${plural(figures.connections_open, "connection")} open`,
    figures.sent_bytes + figures.received_bytes > 0 && bytes(figures.sent_bytes + figures.received_bytes),
  ];
  return [asked, ...more.filter(Boolean)].join(" · ");
}

/** Nodes at the other ends of a node's links. */
function table(title, address, end, label) {
  const heading = h("h3", {}, title);
  const share = { name: "share", label: "Share", number: true, sort: (row) => row.share, show: (row) => part(row.share) };
  const columns = [{ name: "name", label, sort: (row) => row.name, show: (row) => row.name }, LOCK, ...FIGURES];
  const plain = createTable({ label: title, columns, key: (row) => row.id, address: (row) => address(row[end]),
    order: { name: "rps", down: true } });
  const shared = createTable({ label: title, columns: [columns[0], share, ...columns.slice(1)], key: (row) => row.id,
    address: (row) => address(row[end]), order: { name: "share", down: true } });
  const element = h("div", { class: "block" }, heading, plain.element, shared.element);
  function update(links, wanted, hasShares = false) {
    set(element, "hidden", !wanted || links.length === 0);
    text(heading, hasShares ? "Answered by" : title);
    set(plain.element, "hidden", hasShares);
    set(shared.element, "hidden", !hasShares);
    const rows = links.map((link) => ({ ...link, name: link[end].split("/").slice(2).join("/") || link[end].split("/").at(-1) }));
    (hasShares ? shared : plain).update(rows);
  }
  return { element, update };
}
