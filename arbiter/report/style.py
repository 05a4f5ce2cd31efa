"""The style of the HTML report: light, dark, narrow, and on paper (A4)."""

STYLE = """
:root { color-scheme: light dark; --back: #ffffff; --text: #1b1f24; --soft: #57606a;
  --line: #d0d7de; --panel: #f6f8fa; --link: #0550ae; --bad: #c62f2f;
  --s0: #2f6fb5; --s1: #c77d12; --s2: #3d8f5f; --s3: #8a5cc2; --s4: #b8467f; --s5: #4aa3b5;
  --s6: #8c8c3a; --s7: #7d7d7d; }
@media screen and (prefers-color-scheme: dark) {
  :root { --back: #15171a; --text: #e6e8ea; --soft: #a3abb4; --line: #3a4048; --panel: #1f2328;
    --link: #79b8ff; --bad: #f0716b; --s0: #6aa5e6; --s1: #e0a44a; --s2: #63bd8a; --s3: #b391e6;
    --s4: #e07db0; --s5: #77c8d8; --s6: #bcbc68; --s7: #a5a5a5; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem; max-width: 62rem; background: var(--back);
  color: var(--text); font: 15px/1.45 system-ui, sans-serif; }
h1 { font-size: 1.7rem; margin: 0 0 .3rem; }
h2 { font-size: 1.25rem; margin: 2.2rem 0 .4rem; padding-top: .8rem;
  border-top: 1px solid var(--line); }
p { margin: .3rem 0; max-width: 46rem; overflow-wrap: anywhere; }
a { color: var(--link); }
nav { display: flex; flex-wrap: wrap; gap: .3rem 1rem; margin: 1rem 0; }
dl { display: flex; flex-wrap: wrap; gap: .6rem; margin: 1rem 0; }
dl div { background: var(--panel); border: 1px solid var(--line); border-radius: 6px;
  padding: .5rem .9rem; display: flex; flex-direction: column-reverse; }
dt { color: var(--soft); font-size: .85rem; }
dd { margin: 0; font-size: 1.35rem; font-weight: 600; font-variant-numeric: tabular-nums; }
figure { margin: .8rem 0; }
svg.chart { width: 100%; height: auto; display: block; }
svg text { fill: var(--soft); font: 11px system-ui, sans-serif; }
svg .end { text-anchor: end; } svg .middle { text-anchor: middle; }
svg .line { stroke: var(--line); stroke-width: 1; fill: none; }
.s0 { fill: var(--s0); } .s1 { fill: var(--s1); } .s2 { fill: var(--s2); } .s3 { fill: var(--s3); }
.s4 { fill: var(--s4); } .s5 { fill: var(--s5); } .s6 { fill: var(--s6); } .s7 { fill: var(--s7); }
.bad { fill: var(--bad); }
ul.legend { list-style: none; display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; margin: .3rem 0;
  padding: 0; font-size: .85rem; }
ul.legend svg { width: .8em; height: .8em; margin-right: .4em; }
table { border-collapse: collapse; width: 100%; margin: .9rem 0; font-size: .9rem; }
caption { text-align: left; font-weight: 600; padding: .3rem 0; }
th, td { text-align: left; vertical-align: top; padding: .28rem .6rem .28rem 0;
  border-bottom: 1px solid var(--line); overflow-wrap: anywhere; }
thead th { color: var(--soft); font-weight: 600; overflow-wrap: normal; white-space: nowrap; }
tbody th { font-weight: 400; min-width: 4.2rem; }
td { min-width: 3rem; }
td.t { white-space: nowrap; }
th.n, td.n { text-align: right; white-space: nowrap; padding-right: 1.4rem;
  font-variant-numeric: tabular-nums; }
svg.bar { display: block; width: 100%; min-width: 3rem; height: 4px; margin-top: 2px; }
details { margin: .5rem 0; } summary { cursor: pointer; color: var(--soft); }
footer { margin-top: 2.5rem; color: var(--soft); font-size: .85rem; overflow-wrap: anywhere; }
@media screen and (max-width: 40rem) {
  body { padding: .8rem; } table { display: block; overflow-x: auto; } }
@page { size: A4; margin: 16mm 14mm; }
@media print {
  body { max-width: none; padding: 0; font-size: 9.5pt; }
  table { font-size: 8.5pt; } table.short { break-inside: avoid; }
  nav, details { display: none; }
  h2 { break-after: avoid; } figure, tr, dl div { break-inside: avoid; }
  caption { break-after: avoid; } thead { display: table-header-group; }
  rect, dl div { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
"""
