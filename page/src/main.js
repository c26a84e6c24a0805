// The page: what is asked, where it is, which view shows it. Everything below is put together here.

import { commands } from "./commands.js";
import { createMap } from "./view-map.js";
import { createServices, createWorkloads } from "./view-lists.js";
import { createSingle } from "./view-single.js";
import { createTraffic } from "./view-traffic.js";
import { createWarnings } from "./view-warnings.js";
import { createCommands } from "./parts.js";
import { createStore } from "./store.js";
import { createStrip } from "./strip.js";
import { h, keyed, set, text } from "./dom.js";
import { merge, within } from "./edges.js";
import { graph, isLink } from "./graph-model.js";
import { mark } from "./icons.js";
import { age, span } from "./format.js";
import { VIEWS, WINDOWS, format, parse } from "./place.js";

const TITLES = { map: "Map", services: "Services", workloads: "Workloads", traffic: "Traffic" };
const MAKE = {
  map: createMap,
  services: createServices,
  workloads: createWorkloads,
  service: createSingle,
  workload: createSingle,
  traffic: createTraffic,
  warnings: createWarnings,
};

const store = createStore(schedule);
const strip = createStrip();
const shown = createCommands();
const parts = frame();
let place = parse(location.hash);
let view = null;
let drawing = false;

/** Another place, by what changes. */
function go(change) {
  location.hash = format({ ...place, ...change });
}

/** Where a node is shown: beside the map while that is up, else, or if `whole`, as a page. */
function address(id, whole = false) {
  const [kind, namespace, ...rest] = id.split("/");
  const isPage = ["service", "workload"].includes(kind) && place.name !== "map";
  if (place.name === "map" && !whole) return format({ ...place, selected: id });
  if (isPage && [place.name, place.of?.namespace, place.of?.name].join("/") === id) {
    return format({ ...place, name: "map", of: null, selected: id });
  }
  return format({ ...place, name: kind, of: { namespace, name: rest.join("/") }, selected: null });
}

function frame() {
  const links = VIEWS.map((name) => h("a", { "data-view": name }, TITLES[name]));
  const namespaces = h("select", { "aria-label": "Namespace", onchange: (event) => go({ namespace: event.target.value }) });
  const windows = h(
    "select",
    { "aria-label": "Window", onchange: (event) => go({ window: Number(event.target.value) }) },
    WINDOWS.map((seconds) => h("option", { value: seconds }, `last ${span(seconds)}`)),
  );
  const node = h("span", { class: "node-name" });
  const header = h(
    "header",
    { class: "top" },
    h("a", { class: "brand", href: "#/map", "aria-label": "mesh-agent: map" }, mark(), h("span", {}, "mesh-agent")),
    node,
    h("nav", { "aria-label": "Views" }, links),
    h("div", { class: "filters" }, namespaces, windows),
  );
  const trouble = h("div", { class: "trouble", role: "alert", hidden: true });
  const main = h("main", { id: "view", tabindex: "-1" });
  document.body.append(header, trouble, main, shown.element, strip.element);
  return { links, namespaces, windows, node, trouble, main };
}

/** Several answers that come together are drawn once. */
function schedule() {
  if (drawing) return;
  drawing = true;
  queueMicrotask(() => {
    drawing = false;
    draw();
  });
}

function move() {
  const next = parse(location.hash);
  if (!view || next.name !== place.name || (next.of && format({ ...next, window: 60 }) !== format({ ...place, window: 60 }))) {
    view?.end();
    view = MAKE[next.name]({ go, address });
    parts.main.replaceChildren(view.element);
  }
  place = next;
  store.go(place);
  draw();
}

function draw() {
  const { state } = store;
  const edges = within(merge(state.edges?.edges ?? []), place.namespace);
  const model = graph(edges, state.services ?? [], { apart: place.name !== "map" });
  bar(state);
  warn(state);
  strip.update(state);
  view?.update({ place, data: state, edges, model });
  const name = view?.command?.() ?? (place.name === "map" && place.as === "table" ? "edges" : place.name);
  const about = selectedOf() ?? { view: name, of: place.of };
  shown.update(commands(about.view, { ...place, of: about.of, where: state.about?.arguments ?? [] }));
}

/** What is beside the map has a command of its own. */
function selectedOf() {
  const [view, namespace, ...rest] = (place.selected ?? "").split("/");
  if (isLink(place.selected ?? "")) return null;
  return ["service", "workload"].includes(view) ? { view, of: { namespace, name: rest.join("/") } } : null;
}

function bar(state) {
  const current = { service: "services", workload: "workloads" }[place.name] ?? place.name;
  for (const link of parts.links) {
    const name = link.dataset.view;
    set(link, "href", format({ ...place, name, of: null, selected: null, as: "graph" }));
    set(link, "aria-current", name === current ? "page" : null);
  }
  const node = state.status?.agent.node ?? "";
  text(parts.node, node);
  const title = [place.of?.name ?? TITLES[place.name] ?? "Warnings", node, "mesh-agent"].filter(Boolean).join(" · ");
  if (document.title !== title) document.title = title;
  const names = new Set([...(state.services ?? []), ...(state.workloads ?? [])].map(({ namespace }) => namespace));
  if (place.namespace) names.add(place.namespace);
  const make = (name) => h("option", { value: name }, name || "all namespaces");
  keyed(parts.namespaces, ["", ...[...names].sort()], (name) => `=${name}`, make, () => {});
  if (parts.namespaces.value !== place.namespace) parts.namespaces.value = place.namespace;
  if (parts.windows.value !== String(place.window)) parts.windows.value = String(place.window);
}

function warn({ trouble, since }) {
  set(document.body, "data-away", Boolean(trouble));
  set(parts.trouble, "hidden", !trouble);
  if (!trouble) return;
  const words = {
    locked: "This address needs the key that `mesh-agent dashboard` has printed: open that one, whole.",
    gone: "`mesh-agent dashboard` has ended. Start it again, and open the address that it prints.",
  };
  const away = `Agent unreachable for ${age((Date.now() - since) / 1000)}: ${trouble.message}. Asking again …`;
  text(parts.trouble, words[trouble.kind] ?? away);
}

window.addEventListener("hashchange", move);
// How long the agent has been away stands in the page.
setInterval(() => store.state.trouble && warn(store.state), 1_000);
move();
