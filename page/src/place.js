// Where the page is: the view, what is selected, namespace and window, all of it in the address behind the #. Pure.

/** Windows to choose from, in seconds. */
export const WINDOWS = [30, 60, 300, 900];
/** Views with an entry in the navigation. */
export const VIEWS = ["map", "services", "workloads", "traffic"];
const SINGLE = ["service", "workload"];

/** What an address says; what it doesn't say or says wrong is the default. */
export function parse(hash) {
  const [path, query] = hash.replace(/^#\/?/, "").split("?");
  const words = path.split("/").filter(Boolean).map(decode);
  const asked = new URLSearchParams(query ?? "");
  const window = Number(asked.get("window"));
  const place = {
    name: "map",
    of: null,
    selected: null,
    namespace: asked.get("ns") ?? "",
    window: WINDOWS.includes(window) ? window : 60,
    as: asked.get("as") === "table" ? "table" : "graph",
  };
  const [first, ...rest] = words;
  if (first === "map" && rest.length >= 2) return { ...place, selected: rest.join("/") };
  if (SINGLE.includes(first) && rest.length === 2) {
    return { ...place, name: first, of: { namespace: rest[0], name: rest[1] } };
  }
  return [...VIEWS, "warnings"].includes(first) ? { ...place, name: first } : place;
}

/** The address of a place. */
export function format({ name, of, selected, namespace, window, as }) {
  const words = [name];
  if (name === "map" && selected) words.push(...selected.split("/"));
  if (of) words.push(of.namespace, of.name);
  const query = new URLSearchParams();
  if (namespace) query.set("ns", namespace);
  if (window !== 60) query.set("window", String(window));
  if (as === "table") query.set("as", as);
  const text = query.toString();
  return `#/${words.map(encodeURIComponent).join("/")}${text ? `?${text}` : ""}`;
}

function decode(word) {
  try {
    return decodeURIComponent(word);
  } catch {
    return word;
  }
}
