// Decision records: a line each, which opens to everything that is known; and as files.

import { clock, el } from "./dom.js";

const opened = new Set();

/** The address of the audit page with these filters. */
export function auditHash(filters) {
  const query = new URLSearchParams(Object.entries(filters).filter(([, text]) => text));
  return `#audit${query.size ? `?${query}` : ""}`;
}

/** One record. What is known of it is made when somebody wants to see it. */
export function record(x) {
  const about = el("div", { class: "about" });
  const fill = () => about.replaceChildren(
    el("dl", {}, x.facts.flatMap(([label, text]) => [el("dt", {}, label), el("dd", {}, text)])),
    el("p", { class: "line" }, links(x)));
  const node = el("details", {
    open: opened.has(x.id),
    ontoggle: () => {
      if (!node.open) { opened.delete(x.id); return; }
      opened.add(x.id);
      fill();
    },
  }, el("summary", { class: `record${x.denied ? " denied" : ""}` },
    el("time", {}, clock(x.time)), el("b", {}, x.program), cell("to", x.where), cell("decision", x.decision),
    cell("why", x.why), cell("link", x.link), cell("state", x.state), cell("n", x.sent, "sent "), cell("n", x.received, "received ")), about);
  if (node.open) fill();
  return el("li", {}, node);
}

/** A word before it says what a figure is, where there is no head above it. */
const cell = (name, text, word = "") => el("span", { class: name, "data-word": text ? word : null }, text);

function links(x) {
  const only = (words, filters) => el("a", { href: auditHash(filters) }, words);
  const { host, user, rule } = x.more;
  return [
    x.app && el("a", { href: `#app/${encodeURIComponent(x.app)}` }, "This app's page"),
    x.app && only("Only this app", { app: x.app }),
    host && only(`Only ${host}`, { host }),
    user && only(`Only ${user}`, { user }),
    rule && only("Only this rule", { rule }),
  ].filter(Boolean).flatMap((link, i) => (i ? [" ", link] : [link]));
}

const FORMULA = /^[=+\-@\t\r]/; // with what a spreadsheet begins to compute
function csvCell(value) {
  let text = value === null ? "" : typeof value === "object" ? JSON.stringify(value) : String(typeof value === "boolean" ? Number(value) : value);
  if (typeof value === "string" && FORMULA.test(text)) text = `'${text}`;
  return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

/** Records as CSV with a head, like `arbiter audit --csv`. */
function csv(found) {
  const keys = found.length ? Object.keys(found[0]) : [];
  return [keys, ...found.map((one) => keys.map((key) => one[key] ?? null))].map((row) => row.map(csvCell).join(",")).join("\r\n") + "\r\n";
}

/** Give records to the person as a file: it never leaves this page. */
export function download(found, kind) {
  const text = kind === "csv" ? csv(found) : `${JSON.stringify(found, null, 1)}\n`;
  const type = kind === "csv" ? "text/csv;charset=utf-8" : "application/json";
  const url = URL.createObjectURL(new Blob([text], { type }));
  el("a", { href: url, download: `arbiter-audit.${kind}` }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}
