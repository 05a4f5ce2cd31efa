// An app's page: what records tell of it since some time, the rules about it, what it does now.

import { $, clock, el, rows, told } from "./dom.js";
import { connection, number } from "./live.js";
import { auditHash, record } from "./records.js";
import { Refused, ask } from "./wire.js";

const LOOK_MS = 10000;
let app = { id: null, since: "" };
let looked = 0;
let turn = 0;
let rules = null; // what names it: asked for once while its page is open

/** The page of this app is looked at. */
export function turnToApp(id, query) {
  const given = new URLSearchParams(query);
  const since = given.has("since") ? given.get("since") : "30d";
  if (app.id === id && app.since === since) return;
  app = { id, since };
  looked = 0;
  rules = null;
  $("app-since").value = since;
  $("app-name").textContent = "an app";
  $("app-id").textContent = id;
  $("app-sum").textContent = "looking …";
  told($("app-problem"), "");
  for (const part of ["places", "links", "rules", "flows", "records"]) $(`app-${part}`).replaceChildren();
  $("app-audit").href = auditHash({ app: id, since });
}

$("app-since").addEventListener("change", (event) => {
  location.hash = `#app/${encodeURIComponent(app.id)}?since=${encodeURIComponent(event.target.value)}`;
});

/** Called every second while it is to be seen. */
export async function showApp() {
  const { id } = app;
  const [known, { rows: flows }] = await Promise.all([ask("app", { id }), ask("connections", { app: id, any_app: false })]);
  if (app.id !== id) return;
  $("app-name").textContent = known ? known.name : id.split(/[/:]/).at(-1) || id || "no known program";
  $("app-id").textContent = known ? known.shown : id;
  rows($("app-flows"), flows.filter((x) => x.runs), (x) => x.id, (x) => connection(x, false));
  if (looked && performance.now() - looked < LOOK_MS) return;
  looked = performance.now();
  await showRecords(known);
}

/** Without records, what was seen since the console runs is better than nothing. */
function showPlaces(places) {
  const { id, since } = app;
  rows($("app-places"), places, (x) => `${x.address} ${x.where} ${x.link}`, (x) => el("tr", {},
    el("td", {}, x.host ? el("a", { href: auditHash({ app: id, host: x.host, since }) }, x.where) : x.where),
    el("td", {}, x.where.includes(x.address) ? "" : x.address),
    number(x.connections), number(x.refused), number(x.sent), number(x.received), el("td", {}, clock(x.last))));
}

async function showRecords(known) {
  const { id, since } = app;
  const mine = ++turn;
  rules ||= tried(ask("rules"));
  const [found, named] = await Promise.all([tried(ask("app/records", { id, since: since || null })), rules]);
  if (mine !== turn || app.id !== id || app.since !== since) return;
  const problem = [found.problem, named.problem || named.value?.problem].filter(Boolean);
  told($("app-problem"), [...new Set(problem)].join("; "));
  const decided = found.value ? found.value.rules : [];
  const theirs = named.value ? named.value.rows.filter((rule) => rule.app === id) : [];
  rows($("app-rules"), ruleLines(theirs, decided), (x) => x.key, (x) => el("li", {},
    x.rule && el("code", {}, x.rule), x.rule ? " " : "",
    x.filter ? el("a", { href: auditHash({ rule: x.filter, app: id, since }) }, x.words) : x.words));
  if (!$("app-rules").children.length) $("app-rules").replaceChildren(el("li", { "data-key": "none" }, "None."));
  if (!found.value) {
    $("app-sum").textContent = "";
    showPlaces(known ? known.places : []);
    return;
  }
  const { places, links, decisions, last, more } = found.value;
  $("app-sum").textContent = decisions.length ? decisions.map(([name, count]) => `${name}: ${count}`).join(", ") : "no record of it in this time";
  showPlaces(places);
  rows($("app-links"), links, (x) => x.link, (x) => el("tr", {}, el("td", {}, x.link || (x.refused === x.connections ? "none: refused" : "no link of a name")),
    number(x.connections), number(x.refused), number(x.sent), number(x.received), number(x.cost)));
  rows($("app-records"), last, (x) => x.id, record);
  $("app-audit").textContent = more ? "All its records" : "In the audit";
}

/** Rules that name it, with how often each decided; then others that decided for it. */
function ruleLines(theirs, decided) {
  const times = new Map(decided.map(([filter, words, count]) => [filter, { words, count }]));
  const often = (count) => (count === 1 ? "decided once" : `decided ${count} times`);
  const lines = theirs.map((rule) => {
    const used = times.get(String(rule.id));
    times.delete(String(rule.id));
    return { key: rule.id, rule: rule.rule, filter: used && String(rule.id), words: used ? often(used.count) : "decided nothing in this time" };
  });
  for (const [filter, { words, count }] of times) lines.push({ key: filter, rule: "", filter, words: `${words} ${often(count)}` });
  return lines;
}

/** What was refused is said on the page: the rest of it is shown. */
async function tried(question) {
  try {
    return { value: await question, problem: "" };
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    return { value: null, problem: error.message };
  }
}
