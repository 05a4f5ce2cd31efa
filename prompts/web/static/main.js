// The frame: login, news, pages, the header. The wording is the console's; nothing is decided here.

import { $, clock, el, rows, toast } from "./dom.js";
import { Refused, ask, login, news } from "./wire.js";
import { lookAudit, showAudit } from "./audit.js";
import { showApp, turnToApp } from "./app.js";
import { showApps, showConnections } from "./live.js";
import { drawLinks, showUsage } from "./links.js";
import { showRules } from "./rules.js";
import { asksChanged } from "./asks.js";

export const views = new Map();
const PAGES = ["questions", "connections", "apps", "app", "links", "rules", "audit"];
let page = "questions";
let stop = "";

export const of = (kind) =>
  [...views].filter(([key]) => key.startsWith(`${kind}:`)).map(([key, view]) => [key.slice(kind.length + 1), view]);

function header() {
  const me = views.get("me");
  $("controls").hidden = !me;
  if (!me) return;
  $("state").textContent = me.state;
  $("state").className = me.connected ? (me.learning ? "learning" : "") : "lost";
  $("quiet").checked = me.quiet;
  $("wake").hidden = !me.snoozed;
  const snoozes = JSON.stringify(me.snoozes);
  if ($("snooze").dataset.print !== snoozes) {
    $("snooze").dataset.print = snoozes;
    $("snooze").replaceChildren($("snooze").options[0], ...me.snoozes.map(([key, words]) => el("option", { value: key }, words)));
  }
  rows($("alerts"), me.alerts.map((text, id) => ({ id, text })), (x) => x.id, (x) => el("li", {}, x.text));
  const open = of("ask").length;
  $("count").hidden = !open;
  $("count").textContent = open;
  document.title = open && !me.quiet ? `(${open}) Arbiter` : "Arbiter";
}

function log() {
  const entries = of("log").map(([, view]) => view).sort((a, b) => b.id - a.id);
  rows($("log"), entries, (x) => x.id, (x) =>
    el("li", { class: x.kind }, el("time", {}, clock(x.time)), " ", x.text,
      x.by && ` (${x.by})`,
      x.undone && " — taken back",
      x.undo !== null && el("button", { type: "button", onclick: () => say(ask("undo", { rule_id: x.undo })) }, "Undo")));
}

export async function say(promise) {
  try {
    return await promise;
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    toast(error.message);
    return null;
  }
}

function told(line) {
  const before = new Set(views.keys());
  for (const [key, view] of Object.entries(line.set)) {
    views.set(key, view);
    const loud = ["refused", "notice", "undone"];
    if (key.startsWith("log:") && !before.has(key) && before.has("me") && loud.includes(view.kind)) toast(view.text);
  }
  for (const key of line.gone) views.delete(key);
  header();
  log();
  asksChanged();
  if (page === "links") drawLinks();
}

async function live() {
  for (let wait = 200; ; wait = Math.min(wait * 2, 5000)) {
    try {
      let first = true;
      for await (const line of news()) {
        if (first) views.clear();
        first = false;
        wait = 200;
        told(line);
      }
    } catch (error) {
      if (error instanceof Refused) {
        stop = error.message;
        $("state").textContent = stop;
        $("state").className = "lost";
        return;
      }
    }
    $("state").textContent = "the console does not answer: is `arbiter prompt web` still running? Trying again";
    $("state").className = "lost";
    for (const key of [...views.keys()]) if (/^(ask|clock):/.test(key)) views.delete(key);
    asksChanged();
    await new Promise((done) => setTimeout(done, wait));
  }
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text; // an address that somebody typed
  }
}

let place = "";

/** Another page begins at its top, and at its beginning for whoever goes on by keyboard. */
function arrive(path) {
  if (place && place !== path) {
    scrollTo(0, 0);
    const at = document.activeElement;
    if (at === document.body || !at.checkVisibility()) $("content").focus({ preventScroll: true });
  }
  place = path;
}

function turn() {
  const [path, query = ""] = location.hash.slice(1).split(/\?(.*)/s);
  const [name, ...rest] = path.split("/");
  page = PAGES.includes(name) ? name : "questions";
  for (const each of PAGES) $(each).hidden = each !== page;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#${page}` || (page === "app" && link.hash === "#apps")) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.querySelector("nav [aria-current]")?.scrollIntoView({ block: "nearest", inline: "nearest" });
  arrive(path || page);
  if (page === "app") turnToApp(decoded(rest.join("/")), query);
  look();
  if (page === "rules") say(showRules());
  if (page === "links") { drawLinks(); say(showUsage()); }
}

function look() {
  if (stop || document.hidden || !views.has("me")) return;
  if (page === "connections") say(showConnections());
  if (page === "apps") say(showApps());
  if (page === "app") say(showApp());
  if (page === "audit") {
    showAudit(location.hash.slice(1).split(/\?(.*)/s)[1] || "");
    say(lookAudit());
  }
}

// A list that is looked through by keyboard changes with every key: only the button begins a snooze.
$("snooze").addEventListener("change", (event) => { $("doze").disabled = !event.target.value; });
$("doze").addEventListener("click", () => {
  const key = $("snooze").value;
  $("snooze").value = "";
  $("doze").disabled = true;
  if (key) say(ask("snooze", { key }));
});
$("wake").addEventListener("click", () => say(ask("snooze", { key: "0" })));
$("quiet").addEventListener("change", (event) => say(ask("disturb", { away: event.target.checked })));
// A key that is held down, or repeats by itself, presses no button.
document.addEventListener("keydown", (event) => {
  if (event.repeat && event.target instanceof HTMLButtonElement) event.preventDefault();
}, true);
$("filter").addEventListener("input", () => look());
window.addEventListener("hashchange", () => {
  if (/^#[\w-]{40,}$/.test(location.hash)) { start(); return; }
  turn();
});

async function start() {
  try {
    await login();
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    $("state").textContent = error.message;
    $("state").className = "lost";
    return;
  }
  stop = "";
  turn();
  live();
}

setInterval(look, 1000);
start();
