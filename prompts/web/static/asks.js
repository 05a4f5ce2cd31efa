// The questions. Rows keep their place; buttons work only after the question was to be seen.

import { $, el, rows, toast } from "./dom.js";
import { ask as request } from "./wire.js";
import { of, say, views } from "./main.js";

const ARMED_MS = 500;
const ENDED_MS = 8000;
const list = new Map(); // id → {view, ended: time or 0}, in the order in which they came
const chosen = new Map(); // id → {scope, lifetime, via, later, touched, went, preview, wanted}
let current = null;
let shown = ""; // what the pane shows: id and subject
let seen = 0; // since when it can be read, performance.now(); 0: it cannot, Infinity: it waits for paint
let looks = 0; // how often that began anew
let pane = {};

const key = (view) => `${view.id} ${view.subject}`;

export function asksChanged() {
  const now = performance.now();
  const open = new Map(of("ask").map(([id, view]) => [Number(id), view]));
  for (const [id, view] of [...open].sort(([a], [b]) => a - b)) {
    const item = list.get(id);
    list.set(id, { view, ended: 0 });
    if (!chosen.has(id) || (item && item.view.subject !== view.subject)) choose(view);
    else refit(view);
  }
  for (const [id, item] of list) if (!open.has(id) && !item.ended) item.ended = now;
  tidyEnded(now);
  if (!list.has(current) || list.get(current).ended) {
    // The last one stays to be seen for a while: nothing moves up under the pointer.
    const next = upcoming();
    if (next !== null || !list.has(current)) show(next);
  } else makeWay();
  draw();
}

/** A question that nobody chose or touched, and for which nothing waits, goes for one that waits. */
function makeWay() {
  const choice = chosen.get(current);
  if (!list.get(current).view.stale || choice.touched || choice.went) return;
  const [id] = held();
  if (id === undefined) return;
  show(id);
  draw();
  const row = $("asks").querySelector("[aria-current]").getBoundingClientRect();
  const edge = $("list").getBoundingClientRect();
  $("list").scrollTop += Math.max(0, row.bottom - edge.bottom) + Math.min(0, row.top - edge.top);
}

/** What ended at the end of the list goes: nothing beneath it can move. */
function tidyEnded(now) {
  for (const [id, item] of [...list].reverse()) {
    if (!item.ended || now - item.ended < ENDED_MS) break;
    list.delete(id);
    chosen.delete(id);
  }
}

/** Choices as they begin, and again when the question becomes another. */
function choose(view) {
  const { scope, lifetime } = view.first;
  chosen.set(view.id, { scope, lifetime, via: [], later: false, touched: false, went: false, preview: view.first, wanted: 0 });
}

/** The last lifetime is the next default, for what nobody has touched. */
function refit(view) {
  const choice = chosen.get(view.id);
  if (!choice.touched && JSON.stringify(choice.preview) !== JSON.stringify(view.first)) {
    choice.lifetime = view.first.lifetime;
    choice.preview = view.first;
    if (view.id === current) shown = "";
  }
}

const waiting = () => [...list].filter(([id, x]) => !x.ended && !chosen.get(id).later).map(([id]) => id);

/** Those of them for which a packet is held. */
const held = () => waiting().filter((id) => !list.get(id).view.stale);

/** What is shown after the current one: first what waits. */
function upcoming() {
  const ids = held().filter((id) => id !== current);
  return following(1, ids.length ? ids : undefined);
}

function following(step, among = waiting()) {
  const ids = among.filter((id) => id !== current);
  if (!ids.length) return null;
  const order = [...list.keys()];
  const place = order.indexOf(current);
  const after = ids.filter((id) => order.indexOf(id) > place);
  const before = ids.filter((id) => order.indexOf(id) < place);
  return step > 0 ? (after[0] ?? ids[0]) : (before.at(-1) ?? ids.at(-1));
}

function show(id) {
  current = id;
  shown = "";
}

/** The person goes to a question: its heading has the focus, never a button. */
function go(id) {
  if (id === null) { toast("no other question waits"); return; }
  chosen.get(id).later = false;
  show(id);
  draw();
  pane.heading.focus();
  pane.heading.scrollIntoView({ block: "nearest" });
}

/** As `go`, by the person's own choice: nothing else takes its place. */
function visit(id) {
  if (id !== null) chosen.get(id).went = true;
  go(id);
}

function draw() {
  const items = [...list].map(([id, { view, ended }]) => ({
    id, ended: Boolean(ended), program: view.program, where: view.where,
    current: id === current, later: chosen.get(id).later, loud: view.warnings.length > 0,
  }));
  rows($("asks"), items, (x) => x.id, row);
  for (const node of $("asks").children) {
    const clock = views.get(`clock:${node.dataset.key}`) || "";
    node.querySelector(".clock").textContent = list.get(Number(node.dataset.key)).ended ? "over" : clock;
  }
  $("none").hidden = waiting().length > 0 || !views.get("me")?.connected;
  const item = list.get(current);
  $("ask").hidden = !item;
  if (!item) { pane = {}; shown = ""; return; }
  $("ask").classList.toggle("over", Boolean(item.ended));
  if (item.ended) {
    pane.clock.textContent = "";
    pane.sent.textContent = "over: see what happened, below";
    arm();
    return;
  }
  if (shown !== key(item.view)) {
    const again = pane.id === current && pane.subject !== item.view.subject;
    const inside = $("ask").contains(document.activeElement);
    build(item.view, again);
    // The focus stays in the pane, and leaves whatever button it was on.
    if (inside) pane.heading.focus();
  }
  pane.clock.textContent = views.get(`clock:${current}`) || "";
  pane.sent.textContent = item.view.sent ? `your answer, ${item.view.sent}, is on its way` : "";
  pane.stale.hidden = !item.view.stale;
  arm();
}

function row(x) {
  const state = x.ended ? "ended" : x.later ? "later" : "";
  const button = el("button", {
    type: "button", class: "row", "aria-current": x.current ? "true" : null, disabled: x.ended,
    onclick: () => visit(x.id),
  }, el("b", {}, x.program), " ", el("span", {}, x.where), " ", el("i", { class: "clock" }));
  return el("li", { class: `${state}${x.loud ? " loud" : ""}` }, button);
}

function build(view, again) {
  const choice = chosen.get(view.id);
  shown = key(view);
  seen = 0;
  pane = { id: view.id, subject: view.subject };
  pane.heading = el("h2", { tabindex: "-1", id: "question" }, `${view.question[0]} `, el("span", { class: "to" }, view.question[1]));
  pane.clock = el("p", { class: "clock" });
  pane.sent = el("p", { class: "sent", role: "status" });
  pane.stale = el("p", { class: "stale" }, "nothing waits any more; an answer serves the next try");
  pane.rules = el("dl", { class: "rules" });
  const radio = (name, value, on, ...words) => el("label", { class: "choice" },
    el("input", { type: "radio", name, value, checked: on, onchange: () => pick({ [name]: value }) }), el("span", {}, ...words));
  pane.route = view.links.length > 0 && el("fieldset", { class: "via" }, el("legend", {}, "For route: over which links, in this order"),
    view.links.map((link) => el("label", { class: "choice" },
      el("input", { type: "checkbox", value: link.id, checked: choice.via.includes(link.id),
        onchange: (event) => pick({ via: event.target.checked ? [...choice.via, link.id] : choice.via.filter((x) => x !== link.id) }) }),
      el("span", {}, el("b", {}, link.name), link.words && `: ${link.words}`, " ", el("i", { class: "place", "data-link": link.id })))));
  const button = (name, words) => el("button", { type: "button", class: `answer ${name}`, value: name, disabled: true, onclick: () => answer(name) }, words);
  pane.buttons = [button("deny", "Deny"), button("allow", "Allow"), view.links.length > 0 && button("route", "Route")].filter(Boolean);
  pane.notice = el("p", { class: "notice", role: "status" }, again ? "this question has changed: read it again" : "");
  $("ask").replaceChildren(
    pane.heading, pane.notice, pane.stale, pane.clock,
    ...view.warnings.map((text) => el("p", { class: "alert" }, text)),
    el("dl", {}, view.facts.flatMap(pair), view.over ? pair(["over", view.over]) : []),
    el("fieldset", {}, el("legend", {}, "What the rule is about"),
      view.scopes.map((s) => radio("scope", s.id, s.id === choice.scope, s.words, el("code", {}, s.conditions)))),
    el("fieldset", { class: "inline" }, el("legend", {}, "For how long"),
      view.lifetimes.map((l) => radio("lifetime", l.id, l.id === choice.lifetime, l.words))),
    pane.route || "",
    el("details", {}, el("summary", {}, "All that is known"), el("dl", {}, view.details.flatMap(pair))),
    view.app === null ? "" : el("p", {}, el("a", { href: `#app/${encodeURIComponent(view.app)}` }, "This app's page")),
    el("div", { class: "foot" }, pane.rules,
      el("p", { class: "buttons" }, ...pane.buttons,
        el("button", { type: "button", onclick: later }, "Decide later")),
      pane.sent));
  preview();
}

const pair = ([label, text]) => [el("dt", {}, label), el("dd", {}, text)];

/** A choice was made: the console says what it means, and until then no button works. */
async function pick(change) {
  const id = current;
  const choice = chosen.get(id);
  Object.assign(choice, change, { touched: true, preview: null });
  const turn = ++choice.wanted;
  preview();
  arm();
  const { scope, lifetime, via } = choice;
  const reply = await say(request("preview", { ask: id, scope, lifetime, via }));
  if (!reply || choice.wanted !== turn || chosen.get(id) !== choice) return;
  choice.preview = reply;
  choice.via = reply.via;
  if (id === current) { preview(); arm(); }
}

/** The exact rules, as they would be remembered. */
function preview() {
  const choice = chosen.get(current);
  pane.rules.replaceChildren(...["deny", "allow", "route"].flatMap((name) => {
    const one = choice.preview && choice.preview[name];
    if (!one) return [];
    return [el("dt", {}, name), el("dd", { class: name },
      el("code", {}, one.rule || "nothing is remembered"), el("span", {}, one.means))];
  }));
  for (const node of $("ask").querySelectorAll(".place")) {
    const place = choice.via.indexOf(node.dataset.link);
    node.textContent = place < 0 ? "" : `(${place + 1}.)`;
  }
  for (const node of $("ask").querySelectorAll(".via input")) node.checked = choice.via.includes(node.value);
}

/** `seen` from the second frame on: by then the first, with the question in it, was painted. */
function countFromPaint() {
  const look = ++looks;
  seen = Infinity;
  requestAnimationFrame(() => requestAnimationFrame(() => {
    if (look === looks && seen === Infinity) seen = performance.now();
  }));
}

/** Buttons work once the question, or the rules beside them, could be read for ARMED_MS on end. */
function arm() {
  if (!pane.buttons) return;
  const now = performance.now();
  const there = !document.hidden && !$("questions").hidden;
  const inView = (node) => {
    const box = node.getBoundingClientRect();
    return box.bottom > 0 && box.top < innerHeight;
  };
  if (!there) { seen = 0; pane.read = false; }
  else if (!inView(pane.heading) && !inView(pane.rules)) seen = 0;
  else if (!seen) countFromPaint();
  if (seen && now - seen >= ARMED_MS) pane.read = true;
  const item = list.get(pane.id);
  const choice = chosen.get(pane.id);
  const ready = pane.read && item && !item.ended && !item.view.sent && choice.preview;
  for (const button of pane.buttons) button.disabled = !ready || !choice.preview[button.value];
}

document.addEventListener("visibilitychange", arm);
setInterval(() => {
  asksTick();
  arm();
}, 100);

/** What is over goes after a while, without news, too. */
function asksTick() {
  const before = list.size;
  tidyEnded(performance.now());
  if (list.size === before) return;
  if (!list.has(current)) show(upcoming());
  draw();
}

async function answer(name) {
  const id = pane.id;
  const choice = chosen.get(id);
  const button = pane.buttons.find((each) => each.value === name);
  if (!button || button.disabled) {
    pane.notice.textContent = name === "route" && choice.preview ? "choose a link first" : "that came before you could read this; press it again";
    return;
  }
  const { scope, lifetime, via } = choice.preview;
  for (const each of pane.buttons) each.disabled = true;
  pane.heading.focus();
  await say(request("answer", { ask: id, decision: name, scope, lifetime, via, rule: choice.preview[name].rule }));
}

function later() {
  chosen.get(current).later = true;
  const next = upcoming();
  if (next === null) { show(null); draw(); $("content").focus(); } else go(next);
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || event.repeat || $("questions").hidden) return;
  if (event.target instanceof HTMLElement && event.target.closest("select, input:not([type=radio]):not([type=checkbox])")) return;
  if (event.key === "n" || event.key === "p") visit(following(event.key === "n" ? 1 : -1));
  else if (!pane.buttons || !$("ask").contains(document.activeElement)) return;
  else if (event.key === "a") answer("allow");
  else if (event.key === "d") answer("deny");
  else if (event.key === "r" && pane.route) answer("route");
  else if (event.key === "x") later();
});
