// The picture: nodes, links and their signs as SVG. Nodes keep their places for as long as the same things talk to each other.

import { h, keyed, s, set, text } from "./dom.js";
import { createDots } from "./dots.js";
import { HEALTH_WORDS, SECURITY_WORDS, healthSign, kindSign, lockSign } from "./icons.js";
import { duration, part, percent, rate } from "./format.js";
import { shape } from "./graph-model.js";
import { NODE_HEIGHT, curve, layout, nodeWidth } from "./layout.js";
import { createViewport } from "./viewport.js";

/** A picture; `choose(id)` is called with a node's or a link's id, or null. */
export function createGraph(choose) {
  const layers = Object.fromEntries(["links", "dots", "signs", "nodes"].map((name) => [name, s("g", { class: name })]));
  const world = s("g", {}, Object.values(layers));
  const svg = s("svg", { class: "graph", role: "group", "aria-label": "Service graph" }, world);
  const viewport = createViewport(svg, world);
  const element = h("div", { class: "graph-box" }, svg, viewport.controls);
  const dots = createDots(layers.dots);
  let model = { nodes: new Map(), links: new Map() };
  let placed = null;
  let laidOut = null;
  let focused = null;
  let chosen = null;

  svg.addEventListener("click", (event) => {
    if (viewport.wasDragged()) return;
    const found = event.target.closest("[data-id]");
    choose(found?.dataset.id ?? null);
  });
  svg.addEventListener("keydown", (event) => {
    const id = event.target.dataset?.id;
    if (!id) return;
    if (event.key === "Enter" || event.key === " ") choose(id);
    else if (!walk(id, event.key)) return;
    event.preventDefault();
  });
  svg.addEventListener("focusin", (event) => {
    if (!event.target.dataset?.id) return;
    focused = event.target.dataset.id;
    reachable();
    viewport.show(at(focused));
  });

  /** Arrow keys go along links, from a node to a link's sign and on, and up and down among what is above each other. */
  function walk(id, key) {
    const here = at(id);
    if (!here) return false;
    const link = model.links.get(id);
    const node = model.nodes.get(id);
    const column = [...(link ? placed.links : placed.nodes)].filter(([, it]) => Math.abs(it.x - here.x) < 20);
    const candidates = {
      ArrowLeft: link ? [link.from] : node.calledBy.map((it) => it.id),
      ArrowRight: link ? [link.to] : node.callsTo.map((it) => it.id),
      ArrowUp: column.filter(([, it]) => it.y < here.y).map(([other]) => other),
      ArrowDown: column.filter(([, it]) => it.y > here.y).map(([other]) => other),
    }[key];
    if (!candidates) return false;
    const away = (other) => Math.hypot(at(other).x - here.x, at(other).y - here.y);
    const next = candidates.filter((other) => other !== id && at(other)).sort((a, b) => away(a) - away(b))[0];
    if (next) find(next)?.focus();
    return true;
  }

  const at = (id) => placed?.nodes.get(id) ?? placed?.links.get(id);
  const find = (id) => focusable().find((it) => it.dataset.id === id);
  const focusable = () => [...layers.nodes.children, ...layers.signs.children];

  /** One of them is in the order of Tab; arrow keys lead to the others. */
  function reachable() {
    const all = focusable();
    const one = all.find((it) => it.dataset.id === focused) ?? all[0];
    for (const it of all) set(it, "tabindex", it === one ? "0" : "-1");
  }

  function update(next, selected) {
    model = next;
    const wanted = shape(next);
    if (wanted !== laidOut) {
      placed = layout(next);
      laidOut = wanted;
      viewport.content(placed);
    }
    const links = [...next.links.values()].filter((it) => placed.links.has(it.id));
    keyed(layers.links, links, (it) => it.id, makeLink, (it, link) => updateLink(it, link, selected));
    keyed(layers.signs, links, (it) => it.id, makeSign, (it, link) => updateSign(it, link, selected));
    const nodes = [...next.nodes.values()].sort((a, b) => order(placed.nodes.get(a.id), placed.nodes.get(b.id)));
    keyed(layers.nodes, nodes, (it) => it.id, makeNode, (it, node) => updateNode(it, node, selected));
    reachable();
    if (selected !== chosen && (!selected || at(selected))) {
      chosen = selected;
      viewport.show(at(selected));
    }
    dots.set(links.map((link) => dotsOf(link, layers.links)).filter(Boolean));
  }

  function updateLink(element, link, selected) {
    const { points } = placed.links.get(link.id);
    const [line, arrow] = element.children;
    const end = points.at(-1);
    set(line, "d", curve(points));
    set(line, "stroke-width", (1.4 + Math.min(3.2, Math.log10(1 + link.figures.rps) * 1.1)).toFixed(2));
    set(arrow, "d", `M${end.x + 7} ${end.y} l-9 -4.5 v9 Z`);
    set(element, "class", `link ${link.health}${isNear(link, selected) ? " near" : ""}`);
  }

  function updateSign(element, link, selected) {
    const { x, y } = placed.links.get(link.id);
    set(element, "transform", `translate(${x} ${y})`);
    set(element, "class", `sign ${link.role} ${link.health}${link.id === selected ? " selected" : ""}`);
    const [, lock, first, second, title] = element.children;
    if (lock.dataset.security !== link.security) {
      lock.dataset.security = link.security;
      lock.replaceChildren(lockSign(link.security));
    }
    const [above, below] = words(link);
    text(first, above);
    text(second, below);
    set(first, "x", link.security === "unknown" ? 0 : 9);
    text(title, describe(link));
    set(element, "aria-pressed", link.id === selected ? "true" : "false");
    set(element, "aria-label", `from ${nameOf(link.from)} to ${nameOf(link.to)}: ${describe(link).replace("\n", ", ")}`);
  }

  function updateNode(element, node, selected) {
    const { x, y } = placed.nodes.get(node.id);
    const width = nodeWidth(node);
    set(element, "transform", `translate(${x - width / 2} ${y - NODE_HEIGHT / 2})`);
    set(element, "class", `node ${node.kind} ${node.health}${node.id === selected ? " selected" : ""}`);
    set(element, "aria-pressed", node.id === selected ? "true" : "false");
    set(element, "aria-label", `${node.kind} ${node.name}, ${nodeWords(node)}`);
    const [, , , sign, second] = element.children;
    if (sign.dataset.health !== node.health) {
      sign.dataset.health = node.health;
      sign.replaceChildren(healthSign(node.health));
    }
    text(second, under(node));
  }

  const nameOf = (id) => model.nodes.get(id)?.name ?? id;
  const isNear = (link, selected) => selected && [link.id, link.from, link.to].includes(selected);

  return { element, update, end: dots.end };
}

function makeNode(node) {
  const width = nodeWidth(node);
  const longest = Math.floor((width - 78) / 8);
  const name = node.name.length > longest ? `${node.name.slice(0, longest - 1)}…` : node.name;
  return s(
    "g",
    { "data-id": node.id, role: "button", tabindex: "-1" },
    s("rect", { class: "card", width, height: NODE_HEIGHT, rx: node.kind === "service" ? 29 : 12 }),
    s("g", { transform: "translate(25 29)" }, s("circle", { class: "kind-back", r: 13 }), kindSign(node.kind)),
    s("text", { class: "name", x: 46, y: 26 }, name),
    s("g", { transform: `translate(${width - 20} 21)` }),
    s("text", { class: "under", x: 46, y: 43 }),
    s("title", {}, `${node.kind} ${node.namespace ? `${node.namespace}/` : ""}${node.name}`),
  );
}

function makeLink(link) {
  return s("g", { "data-id": link.id }, s("path", { class: "line" }), s("path", { class: "arrow" }));
}

function makeSign(link) {
  const call = link.role === "call";
  const [width, height] = call ? [104, 36] : [68, 24];
  return s(
    "g",
    { "data-id": link.id, role: "button", tabindex: "-1" },
    s("rect", { class: "plate", x: -width / 2, y: -height / 2, width, height, rx: call ? 10 : 12 }),
    s("g", { transform: `translate(${-width / 2 + 14} ${call ? -6 : -0.5})` }),
    s("text", { class: "first", y: call ? -3 : 4 }),
    s("text", { class: "second", y: 12 }),
    s("title"),
  );
}

/** What stands on a link: its rate, then how well it goes; or its share. */
function words(link) {
  const { figures } = link;
  const tcp = figures.requests === 0 && link.protocols.includes("tcp");
  if (link.role === "answer") return [part(link.share), ""];
  if (tcp) return [`${figures.connections_open} open`, "TCP"];
  return [rate(figures.rps), `${percent(figures.success)} · ${duration(figures.p99_ms)}`];
}

function describe(link) {
  const { figures } = link;
  return [
    `${link.protocols.join(", ")}, ${SECURITY_WORDS[link.security]}`,
    `${rate(figures.rps)}, ${percent(figures.success)} success, p99 ${duration(figures.p99_ms)}`,
  ].join("\n");
}

function nodeWords(node) {
  const figures = node.inbound.requests > 0 ? node.inbound : node.outbound;
  return `${HEALTH_WORDS[node.health]}, ${rate(figures.rps)}, ${percent(figures.success)} success`;
}

/** Below a node's name: what it gets, or what it sends if it gets nothing. */
function under(node) {
  const { inbound, outbound, endpoints } = node;
  const few = endpoints && endpoints.available < endpoints.total;
  if (few && endpoints.available === 0) return "no endpoint is ready";
  if (inbound.requests > 0 && !few) return `${rate(inbound.rps)} · ${percent(inbound.success)}`;
  if (few) return `${rate(inbound.rps)} · ${endpoints.available}/${endpoints.total} ready`;
  if (inbound.connections_open > 0) return `${inbound.connections_open} open`;
  return outbound.requests > 0 ? `sends ${rate(outbound.rps)}` : "quiet";
}

function dotsOf(link, layer) {
  const path = [...layer.children].find((it) => it.dataset.key === link.id)?.firstElementChild;
  if (!path) return null;
  const { figures } = link;
  const failed = figures.requests > 0 ? figures.failures / figures.requests : 0;
  // An opaque connection that is open has something to move along, too.
  const rps = figures.rps > 0 ? figures.rps : figures.connections_open > 0 ? 0.5 : 0;
  return { id: link.id, path, d: path.getAttribute("d"), rps, failed };
}

function order(a, b) {
  return a.x - b.x || a.y - b.y;
}
