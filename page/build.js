// Puts the page together: its own files and those of its packages, each compressed, into target/page/ (or the directory that
// is given). What stays the same isn't written again, so that nothing is built anew for it.

import { mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";

const here = dirname(fileURLToPath(import.meta.url));
const target = process.argv[2] ?? join(here, "../target/page");
const modules = join(here, "node_modules");
const text = (...path) => readFileSync(join(...path), "utf8");
const noMap = (source) => source.replace(/^\/\/# sourceMappingURL=.*$/m, "");

// Its smallest build is for classic scripts; the last line makes it a module.
const uplot = `${text(modules, "uplot/dist/uPlot.iife.min.js")}\nexport default uPlot;\n`;
const licences = ["uplot", "@dagrejs/dagre", "@dagrejs/graphlib"].map(
  (name) => `${name}\n\n${text(modules, name, "LICENSE")}`,
);
const files = {
  "licences.txt": licences.join("\n\n"),
  "vendor/dagre.js": noMap(text(modules, "@dagrejs/dagre/dist/dagre.esm.js")),
  "vendor/uplot.css": text(modules, "uplot/dist/uPlot.min.css"),
  "vendor/uplot.js": uplot,
};
for (const name of readdirSync(join(here, "src"))) files[name] = text(here, "src", name);

let total = 0;
for (const [name, content] of Object.entries(files)) {
  const path = join(target, `${name}.gz`);
  const packed = gzipSync(content, { level: 9 });
  total += packed.length;
  mkdirSync(dirname(path), { recursive: true });
  if (!same(path, packed)) writeFileSync(path, packed);
}
for (const name of readdirSync(target, { recursive: true })) {
  if (name.endsWith(".gz") && !(name.slice(0, -3) in files)) rmSync(join(target, name));
}
console.log(`${Object.keys(files).length} files, ${total} bytes compressed`);

function same(path, packed) {
  try {
    return readFileSync(path).equals(packed);
  } catch {
    return false;
  }
}
