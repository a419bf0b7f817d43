// Runs steps in a real Chromium: JSON lines in, JSON lines out. tests/harness/browser.py is the other end.
//
//     {"method": "fill", "args": ["#token", "tt-kp-..."]}   ->   {"result": null}   or   {"error": "..."}

import { createInterface } from "node:readline";
import { chromium } from "playwright-core";

const [, , executablePath, userData, ...extra] = process.argv;
const STEP_MS = 30_000;

const flags = [
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
  "--disable-features=OptimizationHints,MediaRouter,Translate",
  "--autoplay-policy=no-user-gesture-required",
  "--use-fake-ui-for-media-stream",
  "--use-fake-device-for-media-stream",
  ...extra,
];

const context = await chromium.launchPersistentContext(userData, {
  executablePath,
  headless: true,
  args: flags,
  ignoreHTTPSErrors: true,
  viewport: { width: 1280, height: 900 },
});
const page = context.pages()[0] ?? (await context.newPage());
page.setDefaultTimeout(STEP_MS);

const seen = { requests: [], console: [], errors: [], violations: [] };

page.on("request", (request) => seen.requests.push(request.url()));
page.on("websocket", (socket) => seen.requests.push(socket.url()));
page.on("pageerror", (error) => seen.errors.push(String(error)));
page.on("console", (message) => {
  if (message.type() === "error" || message.type() === "warning") seen.console.push(message.text());
});
await page.exposeBinding("keypoolViolation", (_source, violation) => seen.violations.push(violation));
await page.addInitScript(() => {
  addEventListener("securitypolicyviolation", (event) =>
    window.keypoolViolation(`${event.violatedDirective} ${event.blockedURI} ${event.sample}`),
  );
});

const steps = {
  open: async (url) => {
    await page.goto("about:blank"); // or a page that differs only in its fragment would not be loaded again
    return (await page.goto(url, { waitUntil: "load" }))?.status() ?? null;
  },
  click: (selector) => page.locator(selector).first().click(),
  fill: (selector, value) => page.locator(selector).first().fill(value),
  choose: (selector, value) => page.locator(selector).first().selectOption(value).then(() => null),
  attach: (selector, path) => page.locator(selector).first().setInputFiles(path),
  wait: (selector, state = "visible") => page.locator(selector).first().waitFor({ state }),
  waitForText: (selector, text) =>
    page.waitForFunction(
      ([where, what]) => [...document.querySelectorAll(where)].some((element) => element.textContent.includes(what)),
      [selector, text],
    ).then(() => null),
  text: (selector) => page.locator(selector).first().innerText(),
  count: (selector) => page.locator(selector).count(),
  evaluate: (source) => page.evaluate(source),
  viewport: (width, height) => page.setViewportSize({ width, height }),
  scheme: (colorScheme) => page.emulateMedia({ colorScheme }),
  screenshot: (path, whole = false) => page.screenshot({ path, fullPage: whole }).then(() => null),
  seen: () => seen,
};

for await (const line of createInterface({ input: process.stdin })) {
  const { method, args } = JSON.parse(line);
  let answer;
  try {
    answer = { result: (await steps[method](...args)) ?? null };
  } catch (error) {
    answer = { error: String(error.message ?? error) };
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
await context.close();
