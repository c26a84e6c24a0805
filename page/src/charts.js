// Charts of the last minutes, drawn by uPlot in the page's colours.

import uPlot from "./vendor/uplot.js";
import { bytes, clock, duration, rate } from "./format.js";
import { h } from "./dom.js";

const HEIGHT = 112;

/** What is drawn of a history's series. */
const CHARTS = {
  rate: {
    title: "Requests",
    note: "a second; failed ones in red",
    lines: [
      { of: "rps", label: "requests", color: "--accent", fill: true },
      { of: "failures", label: "failed", color: "--bad", fill: true },
    ],
    write: rate,
    least: 1,
  },
  success: {
    title: "Success",
    note: "percent of requests",
    lines: [{ of: "success", label: "success", color: "--good", points: true }],
    write: (value) => (value == null ? "–" : `${Math.floor(value * 10) / 10}%`),
    range: (low) => [Math.max(0, Math.min(low ?? 100, 95) - 2), 100.5],
  },
  latency: {
    title: "Latency",
    note: "median and 99th percentile",
    lines: [
      { of: "p99", label: "p99", color: "--accent-2", points: true },
      { of: "p50", label: "p50", color: "--accent", points: true },
    ],
    write: duration,
    least: 1,
  },
  bytes: {
    title: "Bytes",
    note: "a second, both ways",
    lines: [{ of: "bytes", label: "bytes", color: "--accent", fill: true }],
    write: (value) => `${bytes(value)}/s`,
    least: 1024,
  },
};

/** Charts by name below each other or beside each other; `update(series)` draws. */
export function createCharts(names) {
  const boxes = names.map((name) => ({ ...CHARTS[name], name, ...figure(CHARTS[name]) }));
  const element = h("div", { class: "charts" }, boxes.map((box) => box.figure));
  const dark = matchMedia("(prefers-color-scheme: dark)");
  let shown = null;

  // Colours are drawn, not styled: with another scheme everything is drawn anew.
  const redraw = () => {
    for (const box of boxes) {
      box.chart?.destroy();
      box.chart = null;
    }
    if (shown) update(shown);
  };
  dark.addEventListener("change", redraw);
  const resized = new ResizeObserver(() => {
    for (const { chart, plot } of boxes) {
      if (chart && plot.clientWidth) chart.setSize({ width: plot.clientWidth, height: HEIGHT });
    }
  });
  resized.observe(element);

  function update(series) {
    shown = series;
    for (const box of boxes) {
      const data = [series.at, ...box.lines.map((line) => values(series[line.of], line))];
      if (box.chart) box.chart.setData(data);
      else if (box.plot.clientWidth && series.at.length > 0) box.chart = draw(box, data);
      last(box, series);
    }
  }

  return {
    element,
    update,
    end() {
      dark.removeEventListener("change", redraw);
      resized.disconnect();
      boxes.forEach(({ chart }) => chart?.destroy());
    },
  };
}

function figure({ title, note }) {
  const plot = h("div", { class: "plot" });
  const values = h("span", { class: "values" });
  const caption = h("figcaption", {}, h("b", {}, title), h("span", { class: "faint" }, note), values);
  return { plot, values, figure: h("figure", {}, caption, plot) };
}

/** Where nothing ever failed there is no line of failures. */
function values(column, line) {
  return line.of === "failures" && column.every((value) => value === 0) ? column.map(() => null) : column;
}

/** Beside the title stands the newest value, or that under the pointer. */
function last(box, series, index = series.at.length - 1) {
  const when = index < series.at.length - 1 ? `${clock(series.at[index] * 1000)}  ` : "";
  const there = box.lines.filter((line) => series[line.of][index] != null);
  const written = there.map((line) => box.write(series[line.of][index])).join(" · ");
  box.values.textContent = series.at.length > 0 ? when + written : "";
}

function draw(box, data) {
  const style = getComputedStyle(document.documentElement);
  const color = (name) => style.getPropertyValue(name).trim();
  const axis = {
    stroke: color("--faint"),
    font: `11px ${color("--sans")}`,
    grid: { stroke: color("--grid"), width: 1 },
    ticks: { show: false },
  };
  const range = (_, low, high) => box.range?.(low, high) ?? [0, Math.max(box.least, (high ?? 0) * 1.15)];
  const options = {
    width: box.plot.clientWidth,
    height: HEIGHT,
    padding: [8, 8, 0, 0],
    legend: { show: false },
    cursor: { y: false, points: { size: 6 }, drag: { setScale: false }, sync: { key: "page" } },
    scales: { y: { range } },
    axes: [
      { ...axis, space: 70, size: 26, values: (_, ticks) => ticks.map((at) => clock(at * 1000).slice(0, 5)) },
      { ...axis, size: 52, space: 34, values: (_, ticks) => ticks.map((value) => box.write(value)) },
    ],
    series: [
      {},
      ...box.lines.map((line) => ({
        label: line.label,
        stroke: color(line.color),
        width: 1.75,
        fill: line.fill ? `${color(line.color)}22` : undefined,
        // Between two buckets without requests a single one would leave no line.
        points: { show: Boolean(line.points), size: 4, fill: color(line.color) },
        spanGaps: false,
      })),
    ],
    hooks: {
      setCursor: [
        (chart) => {
          const [at, ...columns] = chart.data;
          const under = Object.fromEntries(box.lines.map((line, n) => [line.of, columns[n]]));
          last(box, { at, ...under }, chart.cursor.idx ?? at.length - 1);
        },
      ],
    },
  };
  return new uPlot(options, data, box.plot);
}
