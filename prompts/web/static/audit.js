// The audit: filters, which the address keeps, records page by page, and those that come.

import { $, el, rows, told } from "./dom.js";
import { auditHash, download, record } from "./records.js";
import { of, say } from "./main.js";
import { Refused, ask } from "./wire.js";

const NAMES = ["since", "until", "app", "user", "host", "port", "proto", "link", "decision", "rule", "by", "reason"];
const PRESETS = ["", "1h", "today", "7d", "30d"];
const LOOK_MS = 2000;
const form = $("filters");
let filters = {};
let shown = []; // the newest first
let newer = []; // those that have come, and wait for a moment when nobody is disturbed
let turn = 0; // of answers, only that to the last question counts
let seen = null; // the record after which to look for new ones
let looked = 0;
let begun = false;
let busy = false;

/** The page is looked at, with these filters of its address. */
export function showAudit(query) {
  const given = new URLSearchParams(query);
  const wanted = Object.fromEntries(NAMES.filter((name) => given.get(name)).map((name) => [name, given.get(name)]));
  if (begun && JSON.stringify(wanted) === JSON.stringify(filters)) return; // somebody may be typing
  fill(wanted);
  $("filter-words").textContent = Object.entries(wanted).map(([name, text]) => `${name} ${text}`).join(", ");
  filters = wanted;
  begin();
}

function fill(wanted) {
  for (const name of NAMES) form.elements[name].value = wanted[name] || "";
  const since = wanted.since || "";
  form.elements.preset.value = PRESETS.includes(since) ? since : "other";
  other();
}

const other = () => { form.querySelector(".since").hidden = form.elements.preset.value !== "other"; };

async function begin() {
  const mine = ++turn;
  begun = true;
  shown = [];
  newer = [];
  seen = null;
  busy = true;
  $("audit-count").textContent = "looking …";
  told($("audit-problem"), "");
  draw();
  await answered(mine, ask("audit", { filters }), first);
}

function first(reply) {
  shown = reply.rows;
  seen = reply.seen;
  $("audit-older").hidden = !reply.more;
}

/** The reply to a question, if it is still wanted; what was refused is said. */
async function answered(mine, question, take) {
  let reply = null;
  try {
    reply = await question;
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    if (mine === turn) told($("audit-problem"), error.message);
  }
  if (mine !== turn) return;
  busy = false;
  looked = performance.now();
  if (reply) {
    told($("audit-problem"), "");
    take(reply);
  }
  draw();
}

function draw() {
  rows($("records"), shown, (x) => x.id, record);
  const live = filters.until ? "" : ", live";
  if (!busy) $("audit-count").textContent = !$("audit-problem").hidden ? "" : shown.length ? `${shown.length} records${live}` : `no record is as asked${live}`;
  const count = newer.length;
  $("audit-newer").textContent = count ? `Show ${count} newer` : "Newer ones";
  $("audit-newer").disabled = !count;
  for (const id of ["audit-csv", "audit-json"]) $(id).disabled = !shown.length;
  if (!shown.length) $("audit-older").hidden = true;
}

/** Nobody points at a record, reads one that is open, or is at one by keyboard. */
const atRest = () =>
  !$("records").matches(":hover") && !$("records").contains(document.activeElement) &&
  !$("records").querySelector("details[open]") && scrollY < 400;

/** Look for what has come; called every second while the page is to be seen. */
export async function lookAudit() {
  const names = of("link").map(([name]) => name).join("\n");
  if ($("linknames").dataset.print !== names) {
    $("linknames").dataset.print = names;
    $("linknames").replaceChildren(...names.split("\n").map((value) => el("option", { value })));
  }
  if (newer.length && atRest()) merge();
  if (busy || filters.until || performance.now() - looked < LOOK_MS) return;
  busy = true;
  const mine = turn;
  if (seen === null) {
    await answered(mine, ask("audit", { filters }), first);
    return;
  }
  await answered(mine, ask("audit", { filters, after: seen }), (reply) => {
    seen = reply.seen;
    const known = new Set([...newer, ...shown].map((x) => x.id));
    newer = [...reply.rows.filter((x) => !known.has(x.id)).reverse(), ...newer];
    if (atRest()) merge();
  });
}

function merge() {
  shown = [...newer, ...shown];
  newer = [];
  draw();
}

$("audit-newer").addEventListener("click", () => { merge(); scrollTo({ top: 0 }); });
$("audit-older").addEventListener("click", async () => {
  if (!shown.length) return;
  busy = true;
  $("audit-count").textContent = "looking …";
  const place = shown.length;
  await answered(++turn, ask("audit", { filters, before: shown.at(-1).id }), (reply) => {
    shown = [...shown, ...reply.rows];
    $("audit-older").hidden = !reply.more;
  });
  $("records").children[place]?.querySelector("summary").focus();
});
$("audit-csv").addEventListener("click", () => download(shown.map((x) => x.record), "csv"));
$("audit-json").addEventListener("click", () => download(shown.map((x) => x.record), "json"));

/** The filters become the address: it can be loaded again, kept, and gone back to. */
function apply() {
  const wanted = Object.fromEntries(NAMES.map((name) => [name, form.elements[name].value.trim()]));
  const preset = form.elements.preset.value;
  if (preset !== "other") wanted.since = preset;
  const hash = auditHash(wanted);
  if (hash === location.hash || (hash === "#audit" && location.hash === "#audit?")) say(begin());
  else location.hash = hash;
}

$("filter-box").open = innerWidth > 736; // on a phone the records come first
form.addEventListener("submit", (event) => { event.preventDefault(); apply(); });
form.addEventListener("change", (event) => {
  other();
  if (event.target.name === "preset" && event.target.value === "other") form.elements.since.focus();
  else if (event.target.tagName === "SELECT") apply();
});
form.addEventListener("reset", () => { setTimeout(apply); });
