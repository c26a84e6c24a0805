// Tables that keep their rows while figures change, and sort by any column.

import { h, keyed, set, text } from "./dom.js";

/**
 * `columns` are `{ name, label, number?, sort(row), show(row) }`: `show` gives text or an element. `key(row)` tells rows apart,
 * `address(row)` makes a row's first cell a link.
 */
export function createTable({ label, columns, key, address, order, empty }) {
  let by = order ?? { name: columns[0].name, down: false };
  let rows = [];
  const body = h("tbody");
  const heads = columns.map((column) => {
    const head = h("button", { type: "button", class: "sort", onclick: () => sortBy(column) }, column.label);
    return h("th", { scope: "col", class: column.number ? "number" : null }, column.sort ? head : column.label);
  });
  const nothing = h("p", { class: "empty", hidden: true }, empty ?? "Nothing here.");
  const table = h("table", { "aria-label": label }, h("thead", {}, h("tr", {}, heads)), body);
  const element = h("div", { class: "table" }, table, nothing);

  function sortBy(column) {
    const down = by.name === column.name ? !by.down : Boolean(column.number);
    by = { name: column.name, down };
    update(rows);
  }

  function update(next) {
    rows = next;
    const column = columns.find(({ name }) => name === by.name);
    const sorted = column?.sort ? [...rows].sort((a, b) => compare(column.sort(a), column.sort(b), by.down)) : rows;
    columns.forEach((it, n) => {
      const direction = by.down ? "descending" : "ascending";
      set(heads[n], "aria-sort", it.sort && it.name === by.name ? direction : null);
    });
    keyed(body, sorted, key, make, fill);
    set(nothing, "hidden", rows.length > 0);
    set(table, "hidden", rows.length === 0);
  }

  function make(row) {
    const cells = columns.map((column, n) => {
      const cell = h("td", { class: column.number ? "number" : null });
      if (n === 0 && address) cell.append(h("a", { href: address(row) }));
      return cell;
    });
    return h("tr", {}, cells);
  }

  function fill(element, row) {
    columns.forEach((column, n) => {
      const cell = element.children[n];
      show(n === 0 && address ? cell.firstElementChild : cell, column.show(row));
      if (n === 0 && address) set(cell.firstElementChild, "href", address(row));
    });
  }

  return { element, update };
}

function show(cell, value) {
  if (!(value instanceof Node)) return text(cell, value ?? "–");
  // Icons are small: made anew only if they differ.
  const wanted = value.outerHTML;
  if (cell.dataset.shown !== wanted) {
    cell.dataset.shown = wanted;
    cell.replaceChildren(value);
  }
}

/** Nothing comes last, whichever the direction. */
function compare(a, b, down) {
  if (a == null || b == null) return (a == null) - (b == null);
  const ordered = typeof a === "string" ? a.localeCompare(b) : a - b;
  return down ? -ordered : ordered;
}
