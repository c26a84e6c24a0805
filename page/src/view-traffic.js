// What passes now: a line for each request and connection, newest first, while somebody looks.

import { follow, get } from "./api.js";
import { h, keyed, set, text } from "./dom.js";
import { lockIcon } from "./icons.js";
import { clock, count, duration } from "./format.js";
import { createConnections } from "./connections.js";
import { describe, matches } from "./flow.js";

/** Lines that are kept, and of which at most so many are shown at once. */
const KEPT = 500;
/** Lines come in bursts; they are shown together. */
const SHOW_MS = 250;
const AGAIN_MS = 1_500;
const CONNECTIONS_MS = 2_000;

/** Follows for as long as it is shown. */
export function createTraffic() {
  let flows = [];
  let number = 0;
  let lost = 0;
  let paused = false;
  let place = { namespace: "" };
  const ending = new AbortController();

  const search = h("input", { type: "search", placeholder: "Filter: cart, 5xx, GET /path, denied …", "aria-label": "Filter", oninput: draw });
  const pause = h("button", { type: "button", "aria-pressed": "false", onclick: () => hold(!paused) }, "Pause");
  const note = h("p", { class: "faint", role: "status" });
  const body = h("tbody");
  const heads = ["Time", "Verdict", "From", "To", "", "What", "Status", "Took"];
  const table = h("table", { "aria-label": "Flows", class: "flows" }, h("thead", {}, h("tr", {}, heads.map((it) => h("th", { scope: "col" }, it)))), body);
  const connections = createConnections();
  const flowBox = h("div", { class: "card-box" }, h("div", { class: "table" }, table));
  const connectionBox = h("div", { class: "card-box", hidden: true }, connections.element);
  const element = h(
    "div",
    { class: "page" },
    h("div", { class: "page-head" }, h("h2", {}, "Traffic"), search, pause, note),
    flowBox,
    connectionBox,
  );

  function hold(wanted) {
    paused = wanted;
    set(pause, "aria-pressed", String(paused));
    text(pause, paused ? "Go on" : "Pause");
    draw();
  }

  function take(line) {
    if (line.lost != null) lost += line.lost;
    else if (!paused) flows.unshift({ ...describe(line), number: (number += 1) });
    if (flows.length > KEPT * 2) flows = flows.slice(0, KEPT);
  }

  function draw() {
    const shown = flows.filter((flow) => matches(flow, search.value, place.namespace)).slice(0, KEPT);
    keyed(body, shown, (flow) => flow.number, row, () => {});
    const drops = lost > 0 ? ` · ${count(lost)} more than could be shown` : "";
    text(note, paused ? `Paused${drops}` : `${count(shown.length)} shown${drops}`);
  }

  async function run() {
    while (!ending.signal.aborted) {
      try {
        await follow("v1/flows?follow=true&last=50", ending.signal, take, () => (element.dataset.shows = "flows"));
      } catch (error) {
        if (ending.signal.aborted) return;
        if (error.kind === "missing") return fallBack();
      }
      // The agent ends a stream by and by, or is away for a moment.
      await new Promise((done) => setTimeout(done, AGAIN_MS));
    }
  }

  /** An agent without flows still knows what is open. */
  async function fallBack() {
    set(flowBox, "hidden", true);
    set(connectionBox, "hidden", false);
    set(search, "hidden", true);
    set(pause, "hidden", true);
    text(note, "This agent doesn't tell of flows. These are the connections that it carries now.");
    element.dataset.shows = "connections";
    while (!ending.signal.aborted) {
      const list = await get("v1/connections").catch(() => null);
      if (list) connections.update(list, place.namespace);
      await new Promise((done) => setTimeout(done, CONNECTIONS_MS));
    }
  }

  const timer = setInterval(() => !paused && !document.hidden && element.dataset.shows === "flows" && draw(), SHOW_MS);
  run();

  return {
    element,
    /** Which command shows the same; none before it is known what the agent has. */
    command: () => ({ flows: "traffic", connections: "connections" })[element.dataset.shows] ?? "none",
    update(all) {
      place = all.place;
    },
    end() {
      ending.abort();
      clearInterval(timer);
    },
  };
}

function row(flow) {
  const cell = (value, name) => h("td", { class: name }, value);
  return h(
    "tr",
    { class: `flow ${flow.tone}`, title: flow.details },
    cell(clock(flow.time, true), "mono"),
    cell(h("span", { class: `verdict ${flow.tone}` }, flow.verdict)),
    cell(flow.from),
    cell(flow.to),
    cell(flow.security === "unknown" ? "" : lockIcon(flow.security)),
    cell(flow.what, "mono what"),
    cell([flow.status, flow.flag && h("span", { class: "flag" }, flow.flag)], "mono"),
    cell(duration(flow.duration), "number"),
  );
}
