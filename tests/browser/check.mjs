// HTML reports in a real browser: node check.mjs [--texts FILE] [--shots FOLDER] PAGE...
//
// Every page, wide and narrow, light and dark: no violation that axe-core finds, nothing wider than the screen,
// nothing loaded from elsewhere, no dialog, no error; the keyboard reaches things and shows where it is; filters and
// copy buttons work, and the page is whole without scripts. --texts: a JSON list of texts that some page must show as
// they stand, whatever markup they imitate. --shots: where to leave pictures. Exit status 1 if something is wrong.
import { mkdirSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { basename, join, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { parseArgs } from "node:util";
import { chromium } from "playwright-core";

const { values: options, positionals: pages } = parseArgs({
  allowPositionals: true,
  options: { texts: { type: "string" }, shots: { type: "string" } },
});
const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const texts = options.texts ? JSON.parse(readFileSync(options.texts, "utf8")) : [];
const shown = new Set();
let wrong = 0;

function expect(condition, where, what) {
  if (!condition) {
    wrong += 1;
    console.log(`WRONG ${where}: ${what}`);
  }
}

const executablePath = process.env.CHROMIUM ?? "/usr/bin/chromium";
const browser = await chromium.launch({ executablePath, args: ["--no-sandbox", "--disable-gpu"] });

/** A page that reports dialogs, errors and whatever it loads besides itself. */
async function opened(file, context, where) {
  const page = await context.newPage();
  const url = pathToFileURL(resolve(file)).href;
  page.on("dialog", (dialog) => { expect(false, where, `a dialog: ${dialog.message()}`); dialog.dismiss(); });
  page.on("pageerror", (error) => expect(false, where, `an error: ${error.message}`));
  page.on("console", (message) => expect(message.type() !== "error", where, `on the console: ${message.text()}`));
  page.on("request", (request) => expect(request.url() === url, where, `it loads ${request.url()}`));
  await page.goto(url);
  return page;
}

async function accessible(page, where) {
  await page.evaluate(axe); // past the content security policy, as a person's tools are
  const { violations } = await page.evaluate(() => axe.run(document, { resultTypes: ["violations"] }));
  for (const { id, help, nodes } of violations) {
    expect(false, where, `axe ${id}: ${help} (${nodes.length}, first ${nodes[0].target})`);
  }
}

/** What a hostile result could have smuggled in: our own markup has none of it. */
async function inert(page, where) {
  const found = await page.evaluate(() => ({
    foreign: [...document.querySelectorAll("img, iframe, object, embed, form, base, link, svg:not(.plot), [style]")].length,
    scripts: document.scripts.length,
    handlers: [...document.querySelectorAll("*")].filter((e) => [...e.attributes].some((a) => a.name.startsWith("on"))).length,
    links: [...document.links].map((a) => a.protocol).filter((p) => !["file:", "https:", "http:", "mailto:"].includes(p)),
    lost: [...document.querySelectorAll('a[href^="#"]')].filter((a) => !document.getElementById(a.hash.slice(1))).map((a) => a.hash),
    doubled: [...document.querySelectorAll("[id]")].map((e) => e.id).filter((id, i, all) => all.indexOf(id) !== i),
    body: document.body.textContent,
  }));
  expect(found.foreign === 0 && found.handlers === 0, where, "elements or attributes that no template writes");
  expect(found.scripts === 1, where, `${found.scripts} scripts`);
  expect(found.links.length === 0, where, `links to ${found.links}`);
  expect(found.lost.length === 0, where, `links that lead nowhere: ${found.lost}`);
  expect(found.doubled.length === 0, where, `ids used twice: ${found.doubled}`);
  for (const text of texts.filter((text) => found.body.includes(text))) shown.add(text);
}

/** The first of the Tab key's stops, the skip link, and some more: each can be seen to have the focus. */
async function keyboard(page, where) {
  for (let stop = 0; stop < 25; stop += 1) {
    await page.keyboard.press("Tab");
    const at = await page.evaluate(() => {
      const element = document.activeElement;
      const { outlineStyle, outlineWidth } = getComputedStyle(element);
      return { name: element.textContent.trim().slice(0, 40), end: element === document.body,
               outlined: outlineStyle !== "none" && parseFloat(outlineWidth) >= 2 };
    });
    if (at.end) break;
    if (stop === 0) expect(at.name.startsWith("Skip"), where, `the first stop is "${at.name}"`);
    expect(at.outlined, where, `no outline on "${at.name}"`);
  }
}

async function filters(page, where) {
  for (const group of await page.locator(".filtered").all()) {
    const rows = group.locator("tr[data-mark]");
    const all = await rows.count();
    for (const radio of await group.locator("input[type=radio]").all()) {
      await radio.check();
      const mark = await radio.getAttribute("value");
      const marks = await rows.evaluateAll((found) => found.filter((row) => row.checkVisibility()).map((row) => row.dataset.mark));
      const right = mark === "all" ? marks.length === all : marks.length > 0 && marks.every((each) => each === mark);
      expect(right, where, `the filter ${mark} shows ${marks.length} of ${all} rows`);
    }
    await group.locator("input[value=all]").check();
  }
}

async function copying(page, where) {
  for (const summary of await page.locator("summary").all()) await summary.click();
  for (const button of (await page.locator("button[data-copies]").all()).slice(0, 4)) {
    await button.click();
    const got = await button.evaluate(async (element) => ({
      copied: await navigator.clipboard.readText(),
      source: document.getElementById(element.dataset.copies).textContent,
      status: element.parentElement.querySelector("[role=status]").textContent,
    }));
    expect(got.copied === got.source && got.status === "Copied", where, `the copy of "${got.source}" is "${got.copied}"`);
  }
}

if (options.shots) mkdirSync(options.shots, { recursive: true });
for (const file of pages) {
  for (const [size, width, height] of [["wide", 1280, 1600], ["narrow", 390, 1400]]) {
    for (const colorScheme of ["light", "dark"]) {
      const where = `${basename(file)} ${size} ${colorScheme}`;
      const context = await browser.newContext({ viewport: { width, height }, colorScheme });
      await context.grantPermissions(["clipboard-read", "clipboard-write"]);
      const page = await opened(file, context, where);
      await inert(page, where);
      if (options.shots) {
        await page.screenshot({ path: join(options.shots, `${basename(file, ".html")}-${size}-${colorScheme}.png`) });
      }
      const excess = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
      expect(excess <= 0, where, `${excess} pixels wider than the screen`);
      await keyboard(page, where);
      if (colorScheme === "light") {
        await filters(page, where);
        await copying(page, where);
      }
      await accessible(page, where);
      await context.close();
    }
  }
  const bare = await browser.newContext({ javaScriptEnabled: false });
  const page = await opened(file, bare, `${basename(file)} without scripts`);
  expect(await page.locator("button:visible").count() === 0, file, "a button that does nothing without scripts");
  await bare.close();
}
await browser.close();
for (const text of texts) expect(shown.has(text), "all pages", `not shown: ${JSON.stringify(text.slice(0, 80))}`);
console.log(`${pages.length} pages, ${wrong} wrong`);
process.exitCode = wrong ? 1 : 0;
