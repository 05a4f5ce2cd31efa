// Connections and apps: asked for while they are looked at.

import { $, clock, el, labelled, rows } from "./dom.js";
import { ask } from "./wire.js";

const appLink = (id, name) => el("a", { href: `#app/${encodeURIComponent(id)}` }, name);
const number = (text) => el("td", { class: "n" }, String(text));
const open = new Set();

function connection(x) {
  const row = el("tr", { class: x.runs ? "" : x.passes ? "over" : "refused", title: x.why },
    el("td", {}, clock(x.time)), el("td", {}, appLink(x.app, x.program)), el("td", {}, x.where),
    el("td", {}, el("details", {
      open: open.has(x.id),
      ontoggle: (event) => (event.target.open ? open.add(x.id) : open.delete(x.id)),
    }, el("summary", {}, x.done), el("dl", {}, x.facts.flatMap(([a, b]) => [el("dt", {}, a), el("dd", {}, b)])))),
    el("td", {}, x.link), number(x.sent), number(x.received), number(x.rate));
  return row;
}

export async function showConnections() {
  const words = $("filter").value;
  const { rows: found, found: count, known } = await ask("connections", { words });
  if (words !== $("filter").value) return;
  rows($("flows"), found, (x) => x.id, connection);
  const cut = count > found.length ? `, the newest ${found.length} shown` : "";
  $("found").textContent = `${count} of ${known}${cut}`;
}

export async function showApps() {
  rules = { id: null, found: null }; // asked for again with the next app's page
  rows($("applist"), await ask("apps"), (x) => x.id, (x) => el("tr", {},
    el("td", {}, appLink(x.id, x.name), " ", el("small", {}, x.shown)), number(x.running),
    number(x.connections), number(x.refused), number(x.sent), number(x.received)));
}

let rules = { id: null, found: null };

/** The rules that name an app, asked for once while its page is open. */
function rulesOf(id) {
  if (rules.id !== id) {
    const found = ask("rules").then(({ rows: all }) => all.filter((rule) => rule.app === id));
    found.catch(() => { rules = { id: null, found: null }; });
    rules = { id, found };
  }
  return rules.found;
}

/** Its places, its connections, and the rules that name it. */
export async function showApp() {
  const id = $("app").dataset.id;
  const [app, { rows: found }, theirs] = await Promise.all([
    ask("app", { id }), ask("connections", { app: id, any_app: false }), rulesOf(id)]);
  if ($("app").dataset.id !== id || $("app").hidden) return;
  const print = JSON.stringify([app, found, theirs]);
  if ($("app").dataset.print === print) return;
  $("app").dataset.print = print;
  const table = (heads, lines) => {
    const body = el("tbody");
    const head = el("thead", {}, el("tr", {}, heads.map((text) => el("th", {}, text))));
    const whole = el("div", { class: "wide" }, el("table", {}, head, body));
    body.append(...lines.map((line) => labelled(line, body)));
    return whole;
  };
  $("app").replaceChildren(
    el("h2", {}, app ? app.name : "an app"), el("p", {}, el("code", {}, app ? app.shown : "")),
    app ? "" : el("p", {}, "It has not connected since this console runs."),
    el("h3", {}, "Where it connects to"),
    table(["To", "Over", "Connections", "Refused", "Sent", "Received", "Last"], (app ? app.places : []).map((x) => el("tr", {},
      el("td", {}, x.where), el("td", {}, x.link), number(x.connections), number(x.refused), number(x.sent), number(x.received), el("td", {}, clock(x.last))))),
    el("h3", {}, "Rules about it"),
    theirs.length ? el("ul", {}, theirs.map((rule) => el("li", {}, el("code", {}, rule.rule)))) : el("p", {}, "None. ", el("a", { href: "#rules" }, "All rules")),
    el("h3", {}, "Its connections"),
    table(["Since", "Program", "To", "Decision", "Link", "Sent", "Received", "Now"], found.map(connection)));
}
