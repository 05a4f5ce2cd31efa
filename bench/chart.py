"""docs/performance.svg and the table of docs/performance.md, out of docs/performance.json, which is
what `bench/connect.py --json` printed. `python bench/chart.py [DOCS]`.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent.parent / "docs"
BARE = "bare kernel"
BEGIN, END = "<!-- figures: python bench/chart.py -->", "<!-- end of figures -->"
KINDS = {
    "same": "connect() of a program that runs on",
    "paced": "connect() of a program that runs on, 20 ms apart",
    "roam": "connect() of a program that runs on, to a new address each time",
    "fresh": "connect() of a program that was just started",
    "nested": "connect() of a program that a new program just started",
    "udp": "a datagram from a new socket, and its echo",
}
LOOKS = {"C accept-all": "#8a8f98", "OpenSnitch": "#d9822b", "arbiter": "#2f6fb3"}
WIDTH, LABELS, ROW, GAP, HEAD = 860, 210, 20, 18, 26
Figures = dict[str, dict[str, list[float]]]


def added(figures: Figures, what: str, who: str) -> float:
    """What somebody's rounds took beyond the bare kernel's, in the middle."""
    by = figures[what]
    return statistics.median(
        figure - floor for figure, floor in zip(by[who], by[BARE], strict=True)
    )


def timed(figures: Figures) -> list[str]:
    """The figures that are a time beside the bare kernel's: the chart's panels."""
    return [what for what in figures if what.split(",")[0] in KINDS and "p99" not in what
            and "CPU" not in what]  # fmt: skip


def title(what: str) -> str:
    """A panel's, for people."""
    kind, _, rest = what.partition(", ")
    return KINDS.get(kind, kind) + (f", {rest}" if rest else "")


def svg(run: dict[str, Any]) -> str:
    """Bars of what each adds: microseconds, medians of the rounds; the line is the spread."""
    figures: Figures = run["figures"]
    panels = timed(figures)
    most = max(added(figures, what, who) for what in panels for who in figures[what] if who != BARE)
    scale = (WIDTH - LABELS - 90) / most
    out, y = [], 10
    for what in panels:
        out.append(f'<text x="0" y="{y + 14}" class="t">{escape(title(what))}</text>')
        y += HEAD
        for who in figures[what]:
            if who == BARE:
                continue
            micros = added(figures, what, who)
            width = max(1.0, micros * scale)
            look = next(look for name, look in LOOKS.items() if who.startswith(name))
            middle = y + ROW / 2 + 4
            out.append(
                f'<text x="{LABELS - 8}" y="{middle}" class="w">{escape(who)}</text>'
                f'<rect x="{LABELS}" y="{y + 2}" width="{width:.1f}" height="{ROW - 4}" '
                f'fill="{look}"/>'
                f'<text x="{LABELS + width + 6:.1f}" y="{middle}">{micros:,.0f} µs</text>'
            )
            y += ROW
        y += GAP
    style = (
        "text{font:13px sans-serif;fill:#20242a}.t{font-weight:600}.w{text-anchor:end}"
        "@media(prefers-color-scheme:dark){text{fill:#e6e8eb}}"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" role="img" '
        f'aria-label="What deciding adds to connect()"><style>{style}</style>\n'
        + "\n".join(out)
        + "\n</svg>\n"
    )


def table(run: dict[str, Any]) -> Iterator[str]:
    """The figures as Markdown: medians of the rounds, least and most, and the comparison."""
    figures: Figures = run["figures"]
    machine = run["machine"]
    rounds = max(len(each) for by in figures.values() for each in by.values())
    load = ", ".join(f"{each:.1f}" for each in machine["load"])
    about = f"Linux {machine['kernel']}, {machine['cpus']} CPUs, {rounds} rounds"
    yield f"{about}; load at the end {load}."
    for what, by in figures.items():
        micros = "CPU" not in what and "flows" not in what and "MB" not in what
        micros = micros and "wake-ups" not in what
        heads = ["median", "least and most"]
        compared = micros and BARE in by
        if compared:
            heads += ["added", "of OpenSnitch's"]
        yield ""
        yield f"**{title(what)}{' (µs)' if micros else ''}**"
        yield ""
        yield f"| | {' | '.join(heads)} |"
        yield "|---|" + "--:|" * len(heads)
        for who, each in by.items():
            row = [f"{statistics.median(each):,.0f}", f"{min(each):,.0f}-{max(each):,.0f}"]
            if compared:
                row += [f"{added(figures, what, who):,.0f}" if who != BARE else "", ""]
                theirs = who.replace("arbiter", "OpenSnitch")
                if who.startswith("arbiter") and theirs in by:
                    ratio = added(figures, what, who) / added(figures, what, theirs)
                    row[-1] = f"{ratio:.2f}"
            yield f"| {who} | {' | '.join(row)} |"
    for who, why in run["left out"].items():
        yield ""
        yield f"Left out: {who}: {why}."


def written(text: str, run: dict[str, Any]) -> str:
    """The document with its figures renewed."""
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    return before + BEGIN + "\n\n" + "\n".join(table(run)) + "\n\n" + END + after


def main() -> None:
    docs = Path(sys.argv[1]) if len(sys.argv) > 1 else DOCS
    run = json.loads((docs / "performance.json").read_text())
    (docs / "performance.svg").write_text(svg(run))
    page = docs / "performance.md"
    page.write_text(written(page.read_text(), run))


if __name__ == "__main__":
    main()
