// Dots that run along links, as many as there are requests, up to what an eye can follow. Those of failed requests are red
// and square. For whoever asked for less motion they stand still.

import { s } from "./dom.js";

/** Pixels a second. */
const SPEED = 85;
/** Between two dots of a link. */
const LONGEST_MS = 4_000;
/** Points at which a path is measured once, rather than in every frame. */
const SAMPLES = 48;
/** What a browser that was busy makes up for at most. */
const LONGEST_FRAME_MS = 100;

/** Dots in `layer`. `set(links)` says on which paths, how often (`rps`) and which share of them failed. */
export function createDots(layer) {
  const calm = matchMedia("(prefers-reduced-motion: reduce)");
  const tracks = new Map();
  let last = null;
  let frame = null;

  function set(links) {
    const gone = new Set(tracks.keys());
    for (const link of links) {
      gone.delete(link.id);
      const track = tracks.get(link.id);
      if (track && track.d === link.d) Object.assign(track, { rps: link.rps, failed: link.failed });
      else {
        track?.dots.forEach(({ element }) => element.remove());
        tracks.set(link.id, { ...link, ...measure(link.path), dots: [], wait: 0, debt: 0 });
      }
    }
    for (const id of gone) {
      tracks.get(id).dots.forEach(({ element }) => element.remove());
      tracks.delete(id);
    }
    if (calm.matches) still();
    else start();
  }

  function start() {
    if (frame == null) {
      last = null;
      frame = requestAnimationFrame(step);
    }
  }

  function stop() {
    cancelAnimationFrame(frame);
    frame = null;
  }

  function step(now) {
    const passed = Math.min(LONGEST_FRAME_MS, last == null ? 0 : now - last);
    last = now;
    for (const track of tracks.values()) move(track, passed);
    frame = requestAnimationFrame(step);
  }

  function move(track, passed) {
    for (const dot of track.dots) dot.at += (SPEED * passed) / 1000;
    while (track.dots.length > 0 && track.dots[0].at >= track.length) track.dots.shift().element.remove();
    track.wait -= passed;
    if (track.rps > 0 && track.wait <= 0) {
      add(track, 0);
      track.wait = Math.min(LONGEST_MS, 1000 / dotsPerSecond(track.rps));
    }
    track.dots.forEach((dot) => place(track, dot));
  }

  function add(track, at) {
    // Every dot owes its share of failures; a whole one is shown as such.
    track.debt += track.failed;
    const isFailed = track.debt >= 1;
    if (isFailed) track.debt -= 1;
    const element = isFailed
      ? s("rect", { class: "dot failed", x: -3.2, y: -3.2, width: 6.4, height: 6.4 })
      : s("circle", { class: "dot", r: 2.6 });
    layer.append(element);
    track.dots.push({ element, at });
  }

  function place(track, { element, at }) {
    const where = Math.min(SAMPLES - 1, (at / track.length) * (SAMPLES - 1));
    const from = track.points[Math.floor(where)];
    const to = track.points[Math.ceil(where)];
    const part = where - Math.floor(where);
    const [x, y] = [from.x + (to.x - from.x) * part, from.y + (to.y - from.y) * part];
    element.setAttribute("transform", `translate(${x.toFixed(1)} ${y.toFixed(1)})`);
  }

  /** More dots for more requests, evenly over the link. */
  function still() {
    stop();
    for (const track of tracks.values()) {
      const count = track.rps > 0 ? Math.min(7, 1 + Math.round(Math.log2(1 + track.rps))) : 0;
      if (track.dots.length === count) continue;
      track.dots.splice(0).forEach(({ element }) => element.remove());
      for (let n = 0; n < count; n += 1) {
        add(track, (track.length * (n + 1)) / (count + 1));
        place(track, track.dots.at(-1));
      }
    }
  }

  const changed = () => {
    for (const track of tracks.values()) track.dots.splice(0).forEach(({ element }) => element.remove());
    if (calm.matches) still();
    else start();
  };
  calm.addEventListener("change", changed);

  return {
    set,
    end() {
      stop();
      calm.removeEventListener("change", changed);
    },
  };
}

/** One for each request up to one a second; from there on one more for every doubling, or they would run into each other. */
function dotsPerSecond(rps) {
  return rps <= 1 ? rps : 1 + Math.log2(rps) * 0.75;
}

function measure(path) {
  const length = path.getTotalLength();
  const points = Array.from({ length: SAMPLES }, (_, n) => path.getPointAtLength((length * n) / (SAMPLES - 1)));
  return { length, points };
}
