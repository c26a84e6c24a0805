// Small drawings: health, locks, the mark of the project. Each says by its shape what its colour says.

import { s } from "./dom.js";

const HEALTH = {
  healthy: () => s("circle", { r: 5 }),
  degraded: () => s("path", { d: "M0 -6 L6.2 5 H-6.2 Z" }),
  failing: () => s("path", { d: "M0 -6.6 L6.6 0 L0 6.6 L-6.6 0 Z" }),
  idle: () => s("circle", { r: 4, class: "hollow" }),
};

/** The words for people. */
export const HEALTH_WORDS = {
  healthy: "healthy",
  degraded: "degraded",
  failing: "failing",
  idle: "no requests",
};

/** The sign of a health, around the origin: circle, triangle, diamond, ring. */
export function healthSign(health) {
  return s("g", { class: `health ${health}` }, (HEALTH[health] ?? HEALTH.idle)());
}

/** The same as a picture of its own. */
export function healthIcon(health) {
  const label = HEALTH_WORDS[health] ?? health;
  return s("svg", { class: "icon", viewBox: "-8 -8 16 16", role: "img", "aria-label": label }, healthSign(health));
}

/** The words for people. */
export const SECURITY_WORDS = {
  mutual_tls: "mutual TLS",
  none: "plain text",
  mixed: "partly plain text",
  unknown: "not known",
};

/** A closed lock, an open one, a half closed one, or nothing; 12 wide, around the origin. */
export function lockSign(security) {
  const shackle = {
    mutual_tls: "M-3 -1 V-3.4 A3 3 0 0 1 3 -3.4 V-1",
    none: "M-3 -1 V-3.4 A3 3 0 0 1 2.6 -4.9",
    mixed: "M-3 -1 V-3.4 A3 3 0 0 1 2.6 -4.9",
  }[security];
  const group = s("g", { class: `lock ${security}` });
  if (shackle) {
    group.append(
      s("path", { class: "shackle", d: shackle }),
      s("rect", { class: "body", x: -4.6, y: -1, width: 9.2, height: 7, rx: 1.8 }),
    );
  }
  return group;
}

/** The same as a picture of its own. */
export function lockIcon(security) {
  const label = SECURITY_WORDS[security] ?? security;
  return s("svg", { class: "icon", viewBox: "-8 -8 16 16", role: "img", "aria-label": label }, lockSign(security));
}

/** The project's mark: three nodes of a mesh. */
export function mark() {
  return s(
    "svg",
    { class: "mark", viewBox: "0 0 28 28", "aria-hidden": "true" },
    s("path", { d: "M7 8 L21 8 L14 21 Z", class: "wires" }),
    s("circle", { cx: 7, cy: 8, r: 4 }),
    s("circle", { cx: 21, cy: 8, r: 4 }),
    s("circle", { cx: 14, cy: 21, r: 4 }),
  );
}

/** A service's or a workload's sign in the picture. */
export function kindSign(kind) {
  const lines = {
    service: "M-5 0 H5 M0 -5 V5 M-5 -5 H5 V5 H-5 Z",
    workload: "M-5.5 -3 L0 -6 L5.5 -3 V3 L0 6 L-5.5 3 Z M-5.5 -3 L0 0 L5.5 -3 M0 0 V6",
    outside: "M0 -6 A6 6 0 1 0 0.01 -6 M-6 0 H6 M0 -6 C-4 -2 -4 2 0 6 C4 2 4 -2 0 -6",
  };
  return s("path", { class: "kind", d: lines[kind] ?? lines.outside });
}
