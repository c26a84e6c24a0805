// One flow as it is shown, and what a filter says of it. Pure.

const name = (end) => {
  if (!end) return "–";
  const what = end.pod || end.workload;
  if (what && what !== "unknown") return end.namespace ? `${end.namespace}/${what}` : what;
  return end.ip || "unknown";
};

/** The agent's flow in words. `tone` is `good`, `warn` or `bad`. */
export function describe(flow) {
  const l7 = flow.l7 ?? {};
  const verdict = String(flow.verdict ?? "FORWARDED");
  const status = l7.grpcStatus != null ? `grpc ${l7.grpcStatus}` : l7.status ? String(l7.status) : "";
  const flag = flow.flag && flow.flag !== "-" ? flow.flag : "";
  const isBad = verdict !== "FORWARDED" || Number(l7.status) >= 500 || (l7.grpcStatus ?? 0) > 0;
  return {
    time: flow.time,
    verdict: verdict.toLowerCase(),
    tone: verdict !== "FORWARDED" ? "bad" : isBad ? "warn" : "good",
    from: name(flow.source),
    to: flow.service ? `${flow.service.name} → ${name(flow.destination)}` : name(flow.destination),
    namespaces: [flow.source, flow.destination, flow.service].map((it) => it?.namespace).filter(Boolean),
    what: [l7.method, l7.path].filter(Boolean).join(" ") || flow.serverName || flow.protocol,
    status,
    flag,
    duration: flow.durationMs ?? null,
    security: flow.security ?? "unknown",
    details: [flow.details, flow.policy && `policy ${flow.policy}`, flow.route && `route ${flow.route}`, flow.reporter]
      .filter(Boolean)
      .join(" · "),
  };
}

/** Every word of the filter has to be somewhere in the line; `5xx` is a class of status. */
export function matches(flow, filter, namespace) {
  if (namespace && !flow.namespaces.includes(namespace)) return false;
  const line = [flow.from, flow.to, flow.what, flow.status, flow.flag, flow.verdict, flow.details].join(" ").toLowerCase();
  return filter
    .toLowerCase()
    .split(/\s+/)
    .filter(Boolean)
    .every((word) => (/^[1-5]xx$/.test(word) ? flow.status.startsWith(word[0]) : line.includes(word)));
}
