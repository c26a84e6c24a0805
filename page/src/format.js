// How figures are written, the same in every view. Pure.

const NONE = "–";

/** Requests or connections a second: `0.4/s`, `12.3/s`, `421/s`, `1.2k/s`. */
export function rate(perSecond) {
  if (perSecond == null) return NONE;
  if (perSecond === 0) return "0/s";
  if (perSecond < 0.095) return "<0.1/s";
  return `${short(perSecond)}/s`;
}

/** A share as percent. Never rounded up to 100: what failed once is not all well. */
export function percent(share) {
  if (share == null) return NONE;
  if (share >= 1) return "100%";
  return `${(Math.floor(share * 1000) / 10).toFixed(1)}%`;
}

/** A share without decimals, for splits. */
export function part(share) {
  if (share == null) return NONE;
  if (share > 0 && share < 0.01) return "<1%";
  return `${Math.round(share * 100)}%`;
}

/** Milliseconds: `0.4 ms`, `12 ms`, `1.4 s`. */
export function duration(ms) {
  if (ms == null) return NONE;
  if (ms < 9.95) return `${trim(ms.toFixed(1))} ms`;
  if (ms < 999.5) return `${Math.round(ms)} ms`;
  return `${trim((ms / 1000).toFixed(1))} s`;
}

/** Bytes in binary units: `12 B`, `3.4 KiB`. */
export function bytes(count) {
  if (count == null) return NONE;
  let value = count;
  for (const unit of ["B", "KiB", "MiB", "GiB"]) {
    if (value < 1024) return `${unit === "B" ? Math.round(value) : value.toFixed(1)} ${unit}`;
    value /= 1024;
  }
  return `${value.toFixed(1)} TiB`;
}

/** A whole number with separators: `12,345`. */
export function count(number) {
  return number == null ? NONE : Math.round(number).toLocaleString("en-US");
}

/** `1 warning`, `2 warnings`. */
export function plural(number, noun) {
  return `${count(number)} ${noun}${number === 1 ? "" : "s"}`;
}

/** A time span in at most two units, as the command line has it: `3d4h`, `5m12s`, `7s`. */
export function age(seconds) {
  const s = Math.max(0, Math.floor(seconds));
  if (s < 60) return `${s}s`;
  if (s < 3600) return `${Math.floor(s / 60)}m${s % 60}s`;
  if (s < 86400) return `${Math.floor(s / 3600)}h${Math.floor((s / 60) % 60)}m`;
  return `${Math.floor(s / 86400)}d${Math.floor((s / 3600) % 24)}h`;
}

/** A window of time: `30 s`, `5 min`. */
export function span(seconds) {
  return seconds % 60 === 0 ? `${seconds / 60} min` : `${seconds} s`;
}

/** The time of day of an instant, to the second, or with milliseconds. */
export function clock(instant, fine = false) {
  const at = new Date(instant);
  if (Number.isNaN(at.getTime())) return NONE;
  const pad = (number, width = 2) => String(number).padStart(width, "0");
  const time = [at.getHours(), at.getMinutes(), at.getSeconds()].map((n) => pad(n)).join(":");
  return fine ? `${time}.${pad(at.getMilliseconds(), 3)}` : time;
}

/** An instant of the agent's, in seconds: RFC 3339, or serde's `{secs_since_epoch}`. */
export function seconds(instant) {
  if (instant == null) return null;
  if (typeof instant === "object") return instant.secs_since_epoch + instant.nanos_since_epoch / 1e9;
  return new Date(instant).getTime() / 1000;
}

function short(value) {
  if (value < 9.95) return trim(value.toFixed(1));
  if (value < 999.5) return String(Math.round(value));
  if (value < 9950) return `${trim((value / 1000).toFixed(1))}k`;
  return `${Math.round(value / 1000)}k`;
}

function trim(text) {
  return text.replace(/\.0$/, "");
}
