// What the page knows: each feed is asked for again and again while the view needs it and somebody looks.
//
// An agent that is away takes nothing from the page but its freshness: the last answers stay, and asking goes on.

import { get } from "./api.js";

/** `path` gives a feed's question at a place, or null where it isn't needed there. */
const FEEDS = {
  about: { every: 60_000, path: () => "about" },
  status: { every: 4_000, path: () => "v1/status" },
  edges: { every: 2_000, path: (at) => (at.name === "warnings" ? null : `v1/live/edges?window=${at.window}`) },
  services: { every: 10_000, path: () => "v1/services" },
  workloads: { every: 10_000, path: () => "v1/workloads" },
  history: { every: 5_000, path: (at) => (hasCharts(at) ? `v1/live/history?window=${chartWindow(at)}` : null) },
  ruleRates: { every: 4_000, path: (at) => (hasCharts(at) ? `v1/live/routes?window=${at.window}` : null) },
  routes: { every: 10_000, path: (at) => (hasCharts(at) ? "v1/routes" : null) },
  policies: { every: 10_000, path: (at) => (hasCharts(at) ? "v1/policies" : null) },
  warnings: { every: 5_000, path: (at) => (at.name === "warnings" ? "v1/warnings" : null) },
};

/** Charts show ten minutes at least: six points are no course. */
const CHART_SECONDS = 600;
export const chartWindow = ({ window }) => Math.max(window, CHART_SECONDS);

const hasCharts = (at) => Boolean(at.of || at.selected);

/** `changed` is called after every answer and failure. */
export function createStore(changed) {
  const state = { trouble: null, since: null, answered: null, missing: new Set() };
  const running = new Map();
  let place = null;

  function go(next) {
    place = next;
    for (const [name, feed] of Object.entries(FEEDS)) {
      const path = feed.path(place);
      if (running.get(name)?.path === path) continue;
      clearTimeout(running.get(name)?.timer);
      running.delete(name);
      if (path) {
        const run = { path, timer: null, isAsking: false };
        running.set(name, run);
        poll(name, feed, run);
      }
    }
  }

  async function poll(name, feed, run) {
    const current = () => running.get(name) === run;
    run.isAsking = true;
    if (!document.hidden) {
      try {
        const answer = await get(run.path);
        if (!current()) return;
        state[name] = answer;
        state.missing.delete(name);
        answered();
      } catch (trouble) {
        if (!current()) return;
        failed(name, trouble);
      }
    }
    run.isAsking = false;
    const wait = state.trouble ? Math.min(feed.every, 2_000) : feed.every;
    if (state.trouble?.kind !== "locked") run.timer = setTimeout(() => poll(name, feed, run), wait);
  }

  function answered() {
    Object.assign(state, { trouble: null, since: null, answered: Date.now() });
    changed();
  }

  function failed(name, trouble) {
    if (trouble.kind === "missing") state.missing.add(name);
    else Object.assign(state, { trouble, since: state.since ?? Date.now() });
    changed();
  }

  document.addEventListener("visibilitychange", () => {
    if (document.hidden) return;
    for (const [name, run] of running) {
      if (run.isAsking) continue;
      clearTimeout(run.timer);
      poll(name, FEEDS[name], run);
    }
  });

  return { state, go };
}
