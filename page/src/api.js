// Questions to the agent, by way of the command that serves this page. Paths are relative: the page's own address is random.

/** Longer than the command waits for the agent. */
const PATIENCE_MS = 30_000;

/** Why there is no answer. `kind` is `locked` (no key), `missing` (the agent has no such path), `away` or `failed`. */
export class Trouble extends Error {
  constructor(kind, message) {
    super(message);
    this.kind = kind;
  }
}

/** One answer, in JSON. */
export async function get(path) {
  const response = await ask(path, { signal: AbortSignal.timeout(PATIENCE_MS) });
  try {
    return await response.json();
  } catch {
    throw new Trouble("away", "the answer was cut short");
  }
}

/** Lines of JSON as they come, until the stream or `signal` ends it; `begun` is called when there will be some. */
export async function follow(path, signal, take, begun) {
  const response = await ask(path, { signal });
  begun();
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines.filter(Boolean)) take(JSON.parse(line));
  }
}

async function ask(path, options) {
  let response;
  try {
    response = await fetch(path, { ...options, cache: "no-store", redirect: "error" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Trouble("gone", "`mesh-agent dashboard` has ended");
  }
  if (response.ok) return response;
  const said = await response.json().catch(() => ({}));
  const message = said.error ?? `answered ${response.status}`;
  const kind = { 401: "locked", 403: "locked", 404: "missing", 502: "away", 503: "away", 504: "away" };
  throw new Trouble(kind[response.status] ?? "failed", message);
}
