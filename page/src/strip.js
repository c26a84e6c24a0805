// The line at the bottom: how the agent is, as `mesh-agent status` has it.

import { h, set, swap, text } from "./dom.js";
import { healthIcon } from "./icons.js";
import { age, clock, plural, seconds } from "./format.js";

/** A heartbeat older than this is stale to the kernel's programs. */
const STALE_MS = 900;

/** `update(state)`. */
export function createStrip() {
  const part = (label) => {
    const value = h("span", { class: "value" });
    return { value, element: h("span", { class: "part", "data-of": label }, h("span", { class: "label" }, label), value) };
  };
  const sign = h("span", { class: "sign-of" });
  const agent = h("span", { class: "part", "data-of": "agent" }, sign, h("span", { class: "value" }));
  const parts = Object.fromEntries(
    ["node", "version", "generation", "pods", "certificates", "up"].map((label) => [label, part(label)]),
  );
  const warnings = h("a", { class: "part", "data-of": "warnings", href: "#/warnings" });
  const fresh = h("span", { class: "part fresh" });
  const all = Object.values(parts).map((it) => it.element);
  const element = h("footer", { class: "strip", "aria-label": "Agent" }, agent, all, warnings, fresh);

  function update({ status, trouble, answered }) {
    const [health, words] = condition(status, trouble);
    swap(sign, health, () => healthIcon(health));
    text(agent.lastElementChild, words);
    text(fresh, answered && !trouble ? `as of ${clock(answered)}` : "");
    if (!status) return;
    const { agent: it, config, pods, identity } = status;
    text(parts.node.value, it.node);
    text(parts.version.value, it.version);
    text(parts.generation.value, config.generation);
    const captured = pods.filter((pod) => pod.state === "captured").length;
    text(parts.pods.value, `${captured}/${pods.length} captured`);
    text(parts.certificates.value, identity ? `${identity.valid}/${identity.certificates} valid` : "–");
    text(parts.up.value, age(Date.now() / 1000 - seconds(it.started)));
    text(warnings, plural(config.warnings, "warning"));
    set(warnings, "class", config.warnings > 0 ? "part warn" : "part");
  }

  return { element, update };
}

function condition(status, trouble) {
  if (trouble) return ["failing", "unreachable"];
  if (!status) return ["idle", "asking"];
  if (status.agent.trouble) return ["failing", status.agent.trouble];
  const beat = status.kernel?.heartbeatAgeMs;
  if (beat == null || beat >= STALE_MS) return ["failing", "no heartbeat: pods follow their fail mode"];
  if (!status.agent.ready) return ["degraded", `waiting for ${status.agent.waitingFor.join(", ")}`];
  return ["healthy", "ready"];
}
