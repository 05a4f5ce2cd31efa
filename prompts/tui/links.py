"""The tab of links: state, price, budget, and what they carry, drawn over the last minutes."""

from __future__ import annotations

import re

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.widgets import Sparkline

from arbiter.protocol import LinkState
from prompts.cards import Style
from prompts.feed import Feed
from prompts.linkwords import size_words
from prompts.livewords import rate_words
from prompts.render import tidy
from prompts.screen import Line, Span
from prompts.tui.monthly import Month
from prompts.tui.pane import Host, Pane
from prompts.tui.parts import Words, pairs
from prompts.tui.sheet import Column, Sheet
from prompts.uses import Flow

COLUMNS = (
    Column("link", 8, share=1),
    Column("state", 8, share=2),
    Column("price", 11, share=1, drop=3),
    Column("month", 9, right=True, drop=2),
    Column("budget", 20, share=2, drop=1),
    Column("now", 11, right=True),
    Column("last minutes", 12, share=1, drop=4),
)
STEP = 5
"""Seconds that one bar of a plot stands for."""
_BARS = "▁▂▃▄▅▆▇█"
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?(kB|MB|GB|TB)\b")
_UNITS = {"kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


def spark(values: list[float]) -> str:
    """A bar for each value, the highest full; nothing is blank."""
    top = max(values, default=0.0)
    if top <= 0:
        return ""
    return "".join(_BARS[min(7, int(8 * value / top))] if value > 0 else " " for value in values)


def bar(link: LinkState, width: int) -> Span:
    """`████░░░░ 320 MB left`: how much of the budget is used; red where nothing is left."""
    if link.left is None:
        return "", Style.PLAIN
    words = f"{size_words(link.left)} left" if link.left else "used up"
    found = _SIZE.match(link.budget)
    total = float(found[1]) * _UNITS[found[2]] if found else 0.0
    style = Style.BAD if not link.left else Style.PLAIN
    if total <= 0:
        return words, style
    used = min(1.0, max(0.0, 1 - link.left / total))
    style = Style.WARN if link.left and used >= 0.9 else style
    full = round(used * width)
    return f"{'█' * full}{'░' * (width - full)} {words}", style


def state(link: LinkState) -> str:
    """`up, default, roaming`."""
    words = ["up" if link.up else "down", tidy(link.kind)]
    words += [word for word, so in (("default", link.default), ("metered", link.metered),
                                    ("roaming", link.roaming)) if so]  # fmt: skip
    return ", ".join(words)


def details(link: LinkState, month: Month) -> list[Line]:
    """Everything about a link, and what it cost this month."""
    used, budget = month.links.get(link.name), tidy(link.budget)
    cost = f", {used.cost}" if used is not None and used.cost else ""
    left = f"{budget}: {size_words(link.left)} left" if link.left is not None else budget
    facts = [
        ("link", f"{tidy(link.name)}, interface {tidy(link.interface)}"),
        ("state", state(link)),
        ("price", tidy(link.price) or ("unknown" if link.metered else "none")),
        ("budget", left),
        ("month", size_words(link.month) + cost),
    ]
    return pairs((label, text) for label, text in facts if text)


class LinksPane(Pane):
    """A row for each link; the chosen one's traffic as two plots."""

    HINT = "Up/Down choose  r read again"
    DEFAULT_CSS = """
    LinksPane #links-list { height: 1fr; min-height: 4; }
    LinksPane #link-page { height: auto; padding: 0 1; }
    LinksPane #plots { height: auto; padding: 0 1; }
    LinksPane Sparkline { height: 4; }
    """

    def __init__(self, host: Host) -> None:
        super().__init__(host, id="links-pane")
        self.month = Month()
        self.sheet = Sheet[LinkState](
            COLUMNS, self._cells, lambda link: link.name, id="links-list", empty="no link is known"
        )
        self.page, self.plots = Words(id="link-page"), Vertical(id="plots")
        self.labels = {name: Words() for name in ("received", "sent")}
        self.lines = {name: Sparkline() for name in self.labels}

    def compose(self) -> ComposeResult:
        """List, words, plots."""
        yield self.sheet
        yield self.page
        with self.plots:
            for name, label in self.labels.items():
                yield label
                yield self.lines[name]

    def _flow(self, name: str) -> Flow:
        return self.host.feed.flows.get(name) or Flow()

    def _cells(self, link: LinkState, now: float) -> list[str | Span]:
        sent, received = self._flow(link.name).series(now, 24, STEP)
        both = [a + b for a, b in zip(sent, received, strict=True)]
        return [
            (tidy(link.name), Style.BOLD if link.default else Style.PLAIN),
            (state(link), Style.PLAIN if link.up else Style.BAD),
            tidy(link.price),
            size_words(link.month) if link.month else "",
            bar(link, 8),
            rate_words(both[-1]),
            spark(both[-12:]),
        ]

    def opened(self) -> None:
        """The keys go to the list, and the month is read."""
        self.sheet.focus()
        self.do_read()

    def do_read(self) -> None:
        """Read the month again."""
        self.host.start(self._read)

    async def _read(self) -> None:
        done = await self.host.commands.run("links", "usage", "--by", "link,app", "--json")
        self.month = Month(done.rows(), done.said)
        self.draw(self.host.now())

    def draw(self, now: float) -> None:
        """The links as they were told last, and what they carried since."""
        feed: Feed = self.host.feed
        sheet = self.sheet
        sheet.show(list(feed.links.values()), now)
        link = sheet.chosen or next(iter(sheet.items), None)
        self.plots.display = link is not None
        if link is None:
            self.page.show([])
            return
        self.page.show(details(link, self.month))
        points = max(12, min(120, self.size.width - 2))
        series = self._flow(link.name).series(now, points, STEP)
        for name, values in zip(("sent", "received"), series, strict=True):
            top, last = rate_words(max(values)) or "nothing", rate_words(values[-1]) or "nothing"
            minutes = points * STEP // 60
            text = f"{name}: {last} now, {top} at most in {minutes} min"
            self.labels[name].show([((text, Style.DIM),)])
            if values != self.lines[name].data:
                self.lines[name].data = values

    def on_sheet_moved(self) -> None:
        """Another link's plots."""
        self.draw(self.host.now())
