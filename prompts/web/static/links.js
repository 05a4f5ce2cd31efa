// Links with what they carry now (uPlot), and what was used this month.

import { $, el, rows } from "./dom.js";
import { ask } from "./wire.js";
import { of } from "./main.js";

const charts = new Map();

function size(count) {
  for (const [unit, name] of [[1e12, "TB"], [1e9, "GB"], [1e6, "MB"], [1e3, "kB"]]) {
    if (count >= unit) return `${(count / unit).toFixed(count < 10 * unit ? 1 : 0)} ${name}`;
  }
  return `${count} bytes`;
}

const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function axes(values) {
  const grid = { stroke: color("--line"), width: 1 };
  return [{ stroke: color("--dim"), grid }, { stroke: color("--dim"), grid, size: 90, values }];
}

function chart(box, data, series, rate, bars) {
  const width = Math.max(260, box.clientWidth || 600);
  const values = (_, ticks) => ticks.map((v) => size(v) + rate);
  const options = {
    width, height: 160, series: [{}, ...series], axes: axes(values), legend: { show: true }, cursor: { drag: { setScale: false } },
    scales: { x: { time: true }, y: { range: (_, low, high) => [0, Math.max(1000, high * 1.1)] } },
  };
  if (bars) options.scales.x.range = (_, low, high) => [low - 43200, high + 43200];
  return new uPlot(options, data, box);
}

const value = (rate) => (_, v) => (v == null ? "" : size(Math.round(v)) + rate);

function flowData(flow) {
  const end = flow ? flow.end : Math.floor(Date.now() / 1000) - 1;
  const sent = flow ? flow.sent : new Array(120).fill(0);
  const received = flow ? flow.received : new Array(120).fill(0);
  return [sent.map((_, i) => end - sent.length + 1 + i), sent, received];
}

export function drawLinks() {
  const flows = new Map(of("flow"));
  const cards = of("link").map(([id, link]) => ({ id, ...link }));
  if (flows.has("")) cards.push({ id: "", name: flows.get("").name, up: true, facts: [] });
  rows($("linklist"), cards, (x) => x.id, (link) => {
    charts.delete(link.id);
    return el("article", { class: `link ${link.up ? "up" : "down"}` },
      el("h3", {}, link.name, " ", el("small", {}, link.up ? "up" : "down")),
      el("dl", {}, link.facts.flatMap(([a, b]) => [el("dt", {}, a), el("dd", {}, b)])),
      el("div", { class: "chart", role: "img", "aria-label": `what ${link.name} carried in the last two minutes` }));
  });
  for (const node of $("linklist").children) {
    const id = node.dataset.key;
    const data = flowData(flows.get(id));
    if (charts.has(id)) charts.get(id).setData(data);
    else {
      charts.set(id, chart(node.querySelector(".chart"), data, [
        { label: "sent", stroke: color("--sent"), fill: color("--sent") + "22", value: value("/s") },
        { label: "received", stroke: color("--received"), fill: color("--received") + "22", value: value("/s") },
      ], "/s"));
    }
  }
}

export async function showUsage() {
  const { days, apps, problem } = await ask("usage");
  $("usage-problem").hidden = !problem;
  $("usage-problem").textContent = problem;
  $("no-usage").hidden = apps.length > 0 || Boolean(problem);
  $("usage").closest("table").hidden = !apps.length;
  rows($("usage"), apps, (x) => `${x.link} ${x.app}`, (x) => el("tr", {},
    el("td", {}, x.link), el("td", {}, x.app), ...[size(x.sent), size(x.received), x.connections, x.cost ?? ""].map((t) => el("td", { class: "n" }, String(t)))));
  const names = [...new Set(days.map((x) => x.link))].sort();
  const dates = [...new Set(days.map((x) => x.day))].sort();
  $("month").replaceChildren();
  if (!dates.length) return;
  const palette = ["--received", "--sent", "--allow", "--deny", "--dim"];
  const sum = (date, link) => days.filter((x) => x.day === date && x.link === link).reduce((n, x) => n + x.sent + x.received, 0);
  const lines = names.map((link, i) => ({
    label: link || "no link of a name", stroke: color(palette[i % palette.length]), value: value(""),
    paths: uPlot.paths.bars({ size: [0.6, 40] }), fill: color(palette[i % palette.length]) + "88",
  }));
  chart($("month"), [dates.map((d) => Date.parse(`${d}T12:00`) / 1000), ...names.map((link) => dates.map((d) => sum(d, link)))], lines, "", true);
}

// Colours are drawn, not styled: draw again when the person's choice of them changes, or the width.
const again = () => {
  charts.clear();
  $("linklist").replaceChildren();
  if (!$("links").hidden) { drawLinks(); showUsage(); }
};
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again);
let width = innerWidth;
addEventListener("resize", () => { if (width !== innerWidth) { width = innerWidth; again(); } });
