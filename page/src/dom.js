// Elements, made and changed. Text is always text: nothing that the agent says is read as markup.

const SVG = "http://www.w3.org/2000/svg";

/** An HTML element. Attributes that are functions listen (`onclick`); null and false leave an attribute out. */
export function h(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

/** An element of SVG. */
export function s(name, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, name), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name.slice(2), value);
    else set(element, name, value);
  }
  element.append(...children.flat(Infinity).filter((child) => child != null && child !== false));
  return element;
}

/** Sets an attribute if that changes it. */
export function set(element, name, value) {
  if (value == null || value === false) {
    if (element.hasAttribute(name)) element.removeAttribute(name);
    return;
  }
  const text = value === true ? "" : String(value);
  if (element.getAttribute(name) !== text) element.setAttribute(name, text);
}

/** Sets an element's text if that changes it: what is selected in it stays selected. */
export function text(element, value) {
  const wanted = String(value ?? "");
  if (element.textContent !== wanted) element.textContent = wanted;
}

/**
 * Makes `parent` show `items` in their order: an element stays the same, with focus and all, for as long as its key does.
 * `make(item)` gives an element, `update(element, item)` brings it up to date.
 */
export function keyed(parent, items, key, make, update) {
  const have = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  let next = parent.firstElementChild;
  for (const item of items) {
    const name = String(key(item));
    let element = have.get(name);
    have.delete(name);
    if (!element) {
      element = make(item);
      element.dataset.key = name;
    }
    if (element === next) next = next.nextElementSibling;
    else parent.insertBefore(element, next);
    update(element, item);
  }
  for (const element of have.values()) element.remove();
}

/** Replaces what is in an element if it is of another kind than `what` now. True if it was. */
export function swap(parent, what, make) {
  if (parent.dataset.what === what) return false;
  parent.dataset.what = what;
  parent.replaceChildren(...[make()].flat());
  return true;
}
