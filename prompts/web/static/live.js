// Connections and apps: asked for while they are looked at.

import { $, clock, el, rows } from "./dom.js";
import { ask } from "./wire.js";

const appLink = (id, name) => el("a", { href: `#app/${encodeURIComponent(id)}` }, name);
export const number = (text) => el("td", { class: "n" }, String(text));
const open = new Set();

/** A row; on its own app's page without the app. */
export function connection(x, named = true) {
  const row = el("tr", { class: x.runs ? "" : x.passes ? "over" : "refused", title: x.why },
    el("td", {}, clock(x.time)), named && el("td", {}, appLink(x.app, x.program)), el("td", {}, x.where),
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
  rows($("flows"), found, (x) => x.id, (x) => connection(x));
  const cut = count > found.length ? `, the newest ${found.length} shown` : "";
  $("found").textContent = `${count} of ${known}${cut}`;
}

export async function showApps() {
  rows($("applist"), await ask("apps"), (x) => x.id, (x) => el("tr", {},
    el("td", {}, appLink(x.id, x.name), " ", el("small", {}, x.shown)), number(x.running),
    number(x.connections), number(x.refused), number(x.sent), number(x.received)));
}
