// What is wrong with the configuration in force.

import { h } from "./dom.js";
import { createTable } from "./table.js";

/** The list, as the agent has it. */
export function createWarnings() {
  const column = (name, label, show) => ({ name, label, sort: show, show });
  const table = createTable({
    label: "Warnings",
    columns: [
      column("code", "Code", (row) => row.code),
      column("object", "Object", (row) => row.object || "–"),
      column("field", "Field", (row) => row.field || "–"),
      column("message", "What, and what to do", (row) => row.message),
      column("origin", "From", (row) => row.origin || "–"),
    ],
    key: (row) => JSON.stringify([row.code, row.object, row.field, row.origin, row.message]),
    empty: "Nothing is wrong with the configuration.",
  });
  const element = h("div", { class: "page" }, h("h2", {}, "Warnings"), h("div", { class: "card-box wrap" }, table.element));
  return { element, update: ({ data }) => table.update(data.warnings ?? []), end() {} };
}
