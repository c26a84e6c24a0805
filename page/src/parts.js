// Pieces that several views share: figures in tiles, commands to copy, links to a service or a workload.

import { h, keyed, set, text } from "./dom.js";
import { HEALTH_WORDS, healthIcon, lockIcon } from "./icons.js";
import { duration, percent, rate } from "./format.js";
import { OUTSIDE } from "./edges.js";

/** Health as sign and word. */
export function healthBadge(health) {
  return h("span", { class: `badge ${health}` }, healthIcon(health), HEALTH_WORDS[health] ?? health);
}

/** Tiles with a figure each; `update([{ label, value, title? }])`. */
export function createTiles() {
  const element = h("dl", { class: "tiles" });
  const make = () => h("div", { class: "tile" }, h("dt"), h("dd"));
  const fill = (tile, { label, value, title, tone }) => {
    text(tile.children[0], label);
    text(tile.children[1], value);
    set(tile, "title", title);
    set(tile, "class", `tile ${tone ?? ""}`.trim());
    set(tile, "data-of", label.toLowerCase());
  };
  return { element, update: (tiles) => keyed(element, tiles, ({ label }) => label, make, fill) };
}

/** The four figures of requests. */
export function requestTiles(figures) {
  const tone = figures.success == null ? "" : figures.success < 0.9 ? "bad" : figures.success < 0.99 ? "warn" : "";
  return [
    { label: "Requests", value: rate(figures.rps) },
    { label: "Success", value: percent(figures.success), tone },
    { label: "p50", value: duration(figures.p50_ms) },
    { label: "p99", value: duration(figures.p99_ms) },
  ];
}

/** Commands that show the same, each with a button that copies it; `update(commands)`. */
export function createCommands() {
  const list = h("ul", {});
  const element = h("aside", { class: "commands", "aria-label": "The same in a terminal" }, list);
  const make = () => {
    const code = h("code");
    const button = h("button", { type: "button", class: "copy" }, "Copy");
    button.addEventListener("click", () => copy(code.textContent, button));
    return h("li", {}, h("span", { class: "prompt", "aria-hidden": "true" }, "$"), code, button);
  };
  const fill = (item, command) => {
    const [, code, button] = item.children;
    text(code, command);
    set(button, "aria-label", `Copy: ${command}`);
  };
  return { element, update: (commands) => keyed(list, commands, (command) => command, make, fill) };
}

async function copy(command, button) {
  const said = await navigator.clipboard.writeText(command).then(
    () => "Copied",
    () => "Not allowed",
  );
  button.textContent = said;
  setTimeout(() => (button.textContent = "Copy"), 1_500);
}

/** Columns of figures, for any row with `figures`. */
export const FIGURES = [
  { name: "rps", label: "Requests", number: true, sort: (row) => row.figures.rps, show: (row) => rate(row.figures.rps) },
  {
    name: "success",
    label: "Success",
    number: true,
    sort: (row) => row.figures.success,
    show: (row) => percent(row.figures.success),
  },
  { name: "p50", label: "p50", number: true, sort: (row) => row.figures.p50_ms, show: (row) => duration(row.figures.p50_ms) },
  { name: "p99", label: "p99", number: true, sort: (row) => row.figures.p99_ms, show: (row) => duration(row.figures.p99_ms) },
];

/** A column with a lock. */
export const LOCK = {
  name: "security",
  label: "mTLS",
  sort: (row) => row.security,
  show: (row) => (row.security === "unknown" ? "–" : lockIcon(row.security)),
};

/** A column with a sign of health. */
export const HEALTH = {
  name: "health",
  label: "Health",
  sort: (row) => ["failing", "degraded", "healthy", "idle"].indexOf(row.health),
  show: (row) => healthBadge(row.health),
};

/** What a service is called, or what stands for none. */
export const serviceName = (name) => OUTSIDE[name] ?? name;
