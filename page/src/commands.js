// For each view the command that shows the same in a terminal. Pure.

/**
 * `view` is what is shown and `of` the one thing that it is about; of `namespace` alone if one is chosen, over `window` seconds.
 * `where` are the words that name this page's agent on the command line: `--node`, `worker-2`.
 */
export function commands(view, { of, namespace = "", window = 60, where = [] } = {}) {
  const time = window % 60 === 0 ? `${window / 60}m` : `${window}s`;
  const narrowed = namespace ? ["-n", quote(namespace)] : [];
  const over = ["-t", time];
  const all = {
    map: () => [["edges", ...narrowed, ...over]],
    edges: () => [["edges", "-o", "wide", ...narrowed, ...over]],
    services: () => [["stat", "svc", ...narrowed, ...over]],
    workloads: () => [["stat", "workload", ...narrowed, ...over]],
    traffic: () => [["observe", "-f", ...(namespace ? ["--namespace", quote(namespace)] : [])]],
    connections: () => [["get", "connections", ...narrowed]],
    warnings: () => [["config", "warnings"]],
    service: () => [
      ["stat", "svc", quote(of.name), "-n", quote(of.namespace), ...over],
      ["describe", "service", quote(`${of.namespace}/${of.name}`)],
    ],
    workload: () => [["stat", "workload", quote(of.name), "-n", quote(of.namespace), ...over]],
  };
  const made = all[view]?.() ?? [];
  return made.map((words) => ["mesh-agent", ...words, ...where.map(quote)].join(" "));
}

/** A word as a shell takes it. */
export function quote(word) {
  return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`;
}
