// Which part of the picture is seen: all of it at first, then what was dragged, zoomed or reached by the keyboard.

import { h, set } from "./dom.js";

const SMALLEST = 0.2;
const LARGEST = 2.5;
/** A small graph isn't blown up, and of a large one not all is shown before it can't be read. */
const LARGEST_FIT = 1.1;
const SMALLEST_FIT = 0.72;
const STEP = 1.25;
/** So far the pointer has to go before it drags. */
const DRAG = 4;

/** Moves and scales `world` within `svg`. */
export function createViewport(svg, world) {
  let size = { width: 0, height: 0 };
  let at = { x: 0, y: 0, k: 1 };
  let isOwn = false;
  let shown;
  let drag = null;
  let dragged = false;

  const button = (label, sign, act) =>
    h("button", { type: "button", class: "quiet", "aria-label": label, title: label, onclick: act }, sign);
  const controls = h(
    "div",
    { class: "zoom", role: "group", "aria-label": "Zoom" },
    button("Zoom in", "+", () => zoom(STEP)),
    button("Zoom out", "−", () => zoom(1 / STEP)),
    button("Show all", "⤢", () => {
      isOwn = false;
      fit();
    }),
  );

  new ResizeObserver(() => !isOwn && fit()).observe(svg);
  svg.addEventListener(
    "wheel",
    (event) => {
      event.preventDefault();
      const { left, top } = svg.getBoundingClientRect();
      zoom(Math.exp(-event.deltaY * 0.0015), event.clientX - left, event.clientY - top);
    },
    { passive: false },
  );
  svg.addEventListener("pointerdown", (event) => {
    drag = { id: event.pointerId, x: event.clientX - at.x, y: event.clientY - at.y, begin: [event.clientX, event.clientY] };
    dragged = false;
  });
  svg.addEventListener("pointermove", (event) => {
    if (drag?.id !== event.pointerId) return;
    if (!dragged && Math.hypot(event.clientX - drag.begin[0], event.clientY - drag.begin[1]) < DRAG) return;
    // From now on it is no click, and nothing under the pointer gets it.
    if (!dragged) svg.setPointerCapture(drag.id);
    dragged = true;
    isOwn = true;
    apply({ ...at, x: event.clientX - drag.x, y: event.clientY - drag.y });
  });
  for (const end of ["pointerup", "pointercancel"]) svg.addEventListener(end, () => (drag = null));

  function apply(next) {
    at = next;
    set(world, "transform", `translate(${at.x.toFixed(1)} ${at.y.toFixed(1)}) scale(${at.k.toFixed(4)})`);
  }

  function fit() {
    const { clientWidth: width, clientHeight: height } = svg;
    if (!width || !size.width) return;
    const k = Math.max(SMALLEST_FIT, Math.min(LARGEST_FIT, width / size.width, height / size.height));
    // What doesn't fit begins at the left and at the top.
    const middle = (room, content) => Math.max(0, (room - content * k) / 2);
    apply({ k, x: middle(width, size.width), y: middle(height, size.height) });
    show(shown);
  }

  function zoom(by, x = svg.clientWidth / 2, y = svg.clientHeight / 2) {
    const k = Math.max(SMALLEST, Math.min(LARGEST, at.k * by));
    isOwn = true;
    apply({ k, x: x - ((x - at.x) * k) / at.k, y: y - ((y - at.y) * k) / at.k });
  }

  /** Brings a place into view that lies outside of it. */
  function show(place) {
    shown = place;
    if (!place) return;
    const [x, y] = [place.x * at.k + at.x, place.y * at.k + at.y];
    const { clientWidth: width, clientHeight: height } = svg;
    const off = (value, most, edge) => (value < edge ? edge - value : value > most - edge ? most - edge - value : 0);
    const [dx, dy] = [off(x, width, 140), off(y, height, 60)];
    if (dx || dy) apply({ ...at, x: at.x + dx, y: at.y + dy });
  }

  return {
    controls,
    show,
    /** The picture has another size now. */
    content(next) {
      size = next;
      if (!isOwn) fit();
    },
    /** The click that comes now ended a drag. */
    wasDragged: () => dragged,
  };
}
