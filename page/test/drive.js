// Drives Chromium through the page of a running `mesh-agent dashboard`: `node drive.js URL DIRECTORY EXPECTED`, where EXPECTED is
// JSON of what the metrics say. Pictures go to DIRECTORY. On standard output a line says when the agent shall be killed (`kill`)
// and started (`start`), and an empty line on standard input that it was. What isn't as it should be ends this with an exit code.

import assert from "node:assert/strict";
import { once } from "node:events";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { chromium } from "playwright-core";

const [url, directory, expectation] = process.argv.slice(2);
const expected = JSON.parse(expectation);
/** For anything on a busy machine. */
const PATIENCE_MS = 30_000;
/** Everything that happened in this test lies in it. */
const WINDOW = "window=900";

const FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"];

const input = createInterface({ input: process.stdin });
const browser = await chromium.launch({ executablePath: "/usr/bin/chromium", args: FLAGS });
const complaints = [];
let expectsTrouble = false;

/** Opens the page as a user with these settings would. */
async function visit(settings = {}) {
  const context = await browser.newContext({ viewport: { width: 1366, height: 820 }, ...settings });
  context.setDefaultTimeout(PATIENCE_MS);
  await context.addInitScript(() => {
    globalThis.violations = [];
    addEventListener("securitypolicyviolation", (event) => globalThis.violations.push(event.violatedDirective));
  });
  const page = await context.newPage();
  page.on("pageerror", (error) => complaints.push(error.stack));
  page.on("console", (message) => {
    const isKnown = expectsTrouble || message.location().url.includes("/v1/flows");
    if (message.type() === "error" && !isKnown) complaints.push(`${message.text()} at ${message.location().url}`);
  });
  page.on("request", (request) => {
    const isOwn = new URL(request.url()).host === new URL(url).host;
    if (!isOwn && !request.url().startsWith("data:")) complaints.push(`asks ${request.url()}`);
  });
  await page.goto(url);
  await page.waitForSelector(".node");
  return { context, page };
}

/** Waits until `read` gives what `check` accepts; its last complaint is the failure. */
async function eventually(read, check) {
  const end = Date.now() + PATIENCE_MS;
  for (;;) {
    try {
      return check(await read());
    } catch (error) {
      if (Date.now() > end) throw error;
      await new Promise((done) => setTimeout(done, 100));
    }
  }
}

const at = (page, hash) => page.evaluate((to) => void (location.hash = to), hash);
const text = (page, selector) => page.locator(selector).first().innerText();
const shot = (page, name) => page.screenshot({ path: join(directory, `${name}.png`) });

await step("the token leaves the address for a cookie that scripts don't see", async () => {
  const { context, page } = await visit();
  assert.ok(!page.url().includes("token"), page.url());
  const [cookie, ...more] = await context.cookies();
  assert.deepEqual([more.length, cookie.httpOnly, cookie.sameSite], [0, true, "Strict"]);
  assert.ok(cookie.path.length > 10 && page.url().includes(cookie.path));
  assert.equal(await page.evaluate(() => document.cookie), "");
  const stranger = await browser.newContext();
  const without = await stranger.newPage();
  await without.goto(page.url());
  await without.waitForSelector(".trouble:not([hidden])");
  assert.match(await text(without, ".trouble"), /needs the key/);
  await stranger.close();
  await context.close();
});

const { context, page } = await visit({ permissions: ["clipboard-read", "clipboard-write"] });

await step("the map says what the agent says, and locks are where mutual TLS is", async () => {
  await at(page, `#/map?${WINDOW}`);
  await eventually(() => page.evaluate(compare), ({ shown, said }) => {
    assert.deepEqual(shown, said);
    assert.ok(Object.keys(shown).length >= expected.links.length);
  });
  const found = Object.fromEntries(
    await page.locator(".sign").evaluateAll((all) =>
      all.map((it) => [it.dataset.id, it.querySelector("[data-security]").dataset.security])),
  );
  for (const [id, security] of expected.links) assert.equal(found[id], security, `${id} of ${JSON.stringify(found)}`);
  for (const [id, health] of expected.health) {
    const node = page.locator(`.node[data-id="${id}"]`);
    assert.match(await node.getAttribute("class"), new RegExp(`\\b${health}\\b`), id);
  }
  // Not by colour alone: what fails is a diamond, what is well a circle.
  assert.equal(await page.locator(".node.failing .health.failing path").count() > 0, true);
  assert.equal(await page.locator(".node.healthy .health.healthy circle").count() > 0, true);
  await shot(page, "map-light");
});

await step("a service's page has the totals of the metrics", async () => {
  for (const { namespace, name, requests, failures } of expected.services) {
    await at(page, `#/service/${namespace}/${name}?${WINDOW}`);
    const wanted = `${requests.toLocaleString("en-US")} request${requests === 1 ? "" : "s"}, ${failures} failed, in the last 15 min`;
    await eventually(() => text(page, ".totals"), (shown) => assert.ok(shown.startsWith(wanted), `${name}: ${shown}, not ${wanted}`));
    assert.equal(await text(page, ".detail h2"), name);
    await page.waitForSelector("figure canvas");
  }
  await shot(page, "service");
});

await step("lists have every service and workload", async () => {
  await at(page, "#/services");
  for (const { name } of expected.services) await page.getByRole("link", { name, exact: true }).waitFor();
  await page.getByRole("button", { name: "Requests" }).click();
  assert.equal(await page.locator("th[aria-sort=descending]").count(), 1);
  await at(page, "#/workloads");
  await page.getByRole("link", { name: "web", exact: true }).waitFor();
  await at(page, `#/map?as=table&${WINDOW}`);
  await page.getByRole("table", { name: "Edges" }).waitFor();
  await at(page, "#/warnings");
  await page.getByRole("heading", { name: "Warnings" }).waitFor();
});

await step("traffic is what ends now, or what is open", async () => {
  await at(page, `#/traffic?${WINDOW}`);
  await page.waitForSelector(".page[data-shows]");
  const isFlows = (await page.locator(".page").getAttribute("data-shows")) === "flows";
  const rows = page.getByRole("table", { name: isFlows ? "Flows" : "Connections" }).locator("tbody tr");
  // Of what has ended the agent has kept what failed; open is the connection that nobody uses.
  const wanted = isFlows ? /500/ : /store/;
  await eventually(() => rows.allInnerTexts(), (all) => assert.ok(all.some((row) => wanted.test(row)), all.join("\n")));
  if (isFlows) {
    await page.getByRole("searchbox", { name: "Filter" }).fill("till 5xx");
    await eventually(() => rows.allInnerTexts(), (all) => assert.ok(all.length > 0 && all.every((row) => /till/.test(row))));
  }
});

await step("the line at the bottom is the agent's status", async () => {
  const part = (name) => text(page, `.strip [data-of="${name}"]`);
  await eventually(() => part("agent"), (shown) => assert.equal(shown, "ready"));
  assert.match(await part("node"), new RegExp(`${expected.node}$`));
  assert.match(await part("generation"), /\d+$/);
  assert.match(await part("warnings"), /^\d+ warnings?$/);
});

const commands = new Set();
await step("each view names the command that shows the same, and copies it", async () => {
  const places = ["map", "map?as=table", "services", "workloads", "traffic", "warnings", "service/shop/till", "workload/shop/web"];
  for (const place of places) {
    await at(page, `#/${place}`);
    const shown = await eventually(() => page.locator(".commands code").allInnerTexts(), (all) => {
      assert.ok(all.length > 0 && all.every((it) => it.startsWith("mesh-agent ")), `${place}: ${all}`);
      return all;
    });
    shown.forEach((it) => commands.add(it));
  }
  await page.locator(".copy").first().click();
  await page.getByText("Copied").waitFor();
  assert.equal(await page.evaluate(() => navigator.clipboard.readText()), await text(page, ".commands code"));
});

await step("a namespace narrows the map", async () => {
  await at(page, `#/map?${WINDOW}`);
  await page.waitForSelector(".node");
  await page.getByRole("combobox", { name: "Namespace" }).selectOption("shop");
  await eventually(() => page.url(), (where) => assert.match(where, /ns=shop/));
  await page.waitForSelector(".node");
  await at(page, `#/map?ns=nowhere&${WINDOW}`);
  await page.getByRole("heading", { name: "No traffic in nowhere" }).waitFor();
});

await step("the keyboard reaches everything, and one sees where it is", async () => {
  await at(page, `#/map?${WINDOW}`);
  await page.waitForSelector(".node");
  await page.evaluate(() => document.activeElement?.blur());
  const focused = () => page.evaluate(() => document.activeElement?.dataset?.id ?? null);
  const reached = new Set();
  for (let presses = 0; presses < 40 && !(await focused()); presses += 1) {
    await page.keyboard.press("Tab");
    reached.add(await page.evaluate(() => document.activeElement.getAttribute("aria-label") ?? document.activeElement.textContent));
  }
  for (const name of ["Services", "Namespace", "Window"]) assert.ok(reached.has(name), `${name} of ${[...reached]}`);
  await page.locator('.node[data-id="workload/shop/web"]').focus();
  await page.keyboard.press("ArrowRight");
  const link = await focused();
  assert.match(link, /^workload\/shop\/web>/);
  const outline = await page.locator(`[data-id="${link}"] .plate`).evaluate((it) => getComputedStyle(it).strokeWidth);
  assert.ok(parseFloat(outline) >= 2, outline);
  await page.keyboard.press("ArrowRight");
  const node = await focused();
  assert.equal(link, `workload/shop/web>${node}`);
  await page.keyboard.press("Enter");
  await page.waitForSelector(".panel:not([hidden])");
  assert.ok(page.url().includes(`#/map/${node}`), page.url());
  await page.keyboard.press("Escape");
  await page.waitForSelector(".panel", { state: "hidden" });
  assert.equal(await focused(), node);
  await page.locator(`[data-id="${node}"]`).click();
  await page.waitForSelector(".panel figure canvas");
});

await step("dots move along links, and for whoever asked for less motion they stand still", async () => {
  const first = (of) => of.evaluate(() => document.querySelector(".dot")?.getAttribute("transform") ?? null);
  await page.waitForSelector(".dot", { state: "attached" });
  const begin = await first(page);
  await eventually(() => first(page), (now) => assert.ok(now && now !== begin));
  const calm = await visit({ reducedMotion: "reduce" });
  await at(calm.page, `#/map?${WINDOW}`);
  await calm.page.waitForSelector(".dot", { state: "attached" });
  const places = () => calm.page.locator(".dot").evaluateAll((all) => all.map((it) => it.getAttribute("transform")));
  const before = await places();
  // So many frames would have moved them.
  await calm.page.evaluate(() => new Promise((done) => {
    let frames = 30;
    const next = () => ((frames -= 1) > 0 ? requestAnimationFrame(next) : done());
    next();
  }));
  assert.deepEqual(await places(), before);
  assert.equal(await calm.page.evaluate(() => document.getAnimations().length), 0);
  await calm.context.close();
});

await step("both colour schemes have their colours, which can be read", async () => {
  const seen = [];
  for (const colorScheme of ["light", "dark"]) {
    const { context: own, page: it } = await visit({ colorScheme });
    await at(it, `#/map?${WINDOW}`);
    await it.waitForSelector(".dot", { state: "attached" });
    const colors = await it.evaluate(() => {
      const style = getComputedStyle(document.documentElement);
      const of = (name) => style.getPropertyValue(name).trim();
      const light = (hex) => {
        const parts = [1, 3, 5].map((n) => parseInt(hex.slice(n, n + 2), 16) / 255);
        const linear = parts.map((c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
      };
      const contrast = (a, b) => (Math.max(light(a), light(b)) + 0.05) / (Math.min(light(a), light(b)) + 0.05);
      const inks = ["--text", "--muted", "--faint", "--accent", "--good", "--warn", "--bad"];
      const least = Math.min(...inks.flatMap((ink) => ["--card", "--back"].map((on) => contrast(of(ink), of(on)))));
      return { back: getComputedStyle(document.body).backgroundColor, least };
    });
    assert.ok(colors.least >= 4.5, `${colorScheme}: contrast ${colors.least}`);
    seen.push(colors.back);
    await shot(it, `map-${colorScheme}`);
    await own.close();
  }
  assert.notEqual(seen[0], seen[1]);
});

await step("all of it is small", async () => {
  const size = await page.evaluate(() =>
    [...performance.getEntriesByType("navigation"), ...performance.getEntriesByType("resource")]
      .filter((it) => !/\/v1\/|about$/.test(it.name))
      .reduce((all, it) => all + it.encodedBodySize, 0));
  assert.ok(size > 40_000 && size < 200_000, `${size} bytes compressed`);
});

await step("an agent that is away is said to be, and when it is back the page goes on by itself", async () => {
  await at(page, `#/map?${WINDOW}`);
  await page.waitForSelector(".node");
  expectsTrouble = true;
  await ask("kill");
  await page.waitForSelector(".trouble:not([hidden])");
  assert.match(await text(page, ".trouble"), /^Agent unreachable for .*(no agent answers|the agent has gone)/);
  assert.ok((await page.locator(".node").count()) > 0, "what was known stays");
  await shot(page, "unreachable");
  await ask("start");
  await page.waitForSelector(".trouble", { state: "hidden" });
  await eventually(() => text(page, '.strip [data-of="agent"]'), (shown) => assert.equal(shown, "ready"));
});

assert.deepEqual(await page.evaluate(() => globalThis.violations), []);
assert.deepEqual(complaints, []);
await context.close();
await browser.close();
console.log(`commands ${JSON.stringify([...commands])}`);
process.exit(0);

async function step(name, run) {
  try {
    await run();
  } catch (error) {
    console.error(`not as it should be: ${name}\n${error.stack}\n${complaints.join("\n")}`);
    process.exit(1);
  }
}

/** Has the test do something, and waits until it is done. */
async function ask(what) {
  console.log(what);
  await once(input, "line");
}

/** In the page: what stands on each link, and what should by the agent's answer of now. */
async function compare() {
  const [edges, model, write] = await Promise.all(["edges", "graph-model", "format"].map((it) => import(`${location.pathname}${it}.js`)));
  const get = async (path) => (await fetch(path)).json();
  const [live, services] = await Promise.all([get("v1/live/edges?window=900"), get("v1/services")]);
  const { links } = model.graph(edges.merge(live.edges), services);
  const said = {};
  for (const { id, role, figures, share } of links.values()) {
    const isTcp = figures.requests === 0;
    const call = isTcp ? `${figures.connections_open} open TCP`
      : `${write.rate(figures.rps)} ${write.percent(figures.success)} · ${write.duration(figures.p99_ms)}`;
    said[id] = role === "answer" ? write.part(share) : call;
  }
  const shown = {};
  for (const sign of document.querySelectorAll(".sign")) {
    shown[sign.dataset.id] = [...sign.querySelectorAll("text")].map((it) => it.textContent).join(" ").trim();
  }
  return { shown, said };
}
