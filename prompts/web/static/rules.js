// Rules: listed and changed by `arbiter rules`, as this user; what it says is shown.

import { $, clock, el, rows } from "./dom.js";
import { ask } from "./wire.js";
import { say } from "./main.js";

export async function showRules() {
  const { rows: rules, problem } = await ask("rules");
  $("norules").hidden = rules.length > 0 || Boolean(problem);
  rows($("rulelist"), rules, (x) => x.id, (rule) => el("tr", {},
    el("td", { class: "n" }, String(rule.id)), el("td", {}, el("code", {}, rule.rule)), el("td", {}, rule.by),
    el("td", {}, `${rule.frontend}, ${clock(rule.created)}`), el("td", {}, rule.expires ? clock(rule.expires) : ""),
    el("td", {}, el("button", { type: "button", onclick: () => edit(rule) }, "Edit"), " ",
      el("button", { type: "button", onclick: () => change("rules/remove", { id: rule.id }) }, "Remove"))));
  if (problem) tell(problem, false);
}

function tell(text, ok) {
  $("said").hidden = false;
  $("said").textContent = text;
  $("said").className = ok ? "ok" : "alert";
}

let instead = null;

/** The line is to be added in place of this rule; null: beside all others. */
function edit(rule) {
  instead = rule && rule.id;
  $("instead").hidden = !rule;
  if (!rule) return;
  $("instead").querySelector("b").textContent = rule.id;
  $("line").value = rule.rule;
  $("line").focus();
}

async function change(path, body) {
  const done = await say(ask(path, body));
  if (!done) return;
  tell(done.text, done.ok);
  if (!done.ok) return;
  if (path === "rules/add") edit(null);
  await say(showRules());
}

$("add").addEventListener("submit", (event) => {
  event.preventDefault();
  if ($("line").value.trim()) change("rules/add", { line: $("line").value, instead_of: instead });
});
$("instead").querySelector("button").addEventListener("click", () => edit(null));
$("undo").addEventListener("click", () => change("rules/undo", {}));
