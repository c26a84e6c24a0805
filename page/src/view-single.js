// One service or one workload as a page of its own.

import { h } from "./dom.js";
import { createDetail } from "./detail.js";

/** What the place is of. */
export function createSingle({ address }) {
  const detail = createDetail(address);
  const back = h("a", { class: "back" }, "← Map");
  const element = h("div", { class: "page single" }, back, h("div", { class: "card-box" }, detail.element));
  return {
    element,
    update({ place, data, model }) {
      const id = `${place.name}/${place.of.namespace}/${place.of.name}`;
      back.setAttribute("href", address(id));
      detail.update(id, model, data, place.window, true);
    },
    end: detail.end,
  };
}
