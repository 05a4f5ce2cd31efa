"""The tab of apps: what each talked to, over which link, and at what cost; and its rules."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from textual.app import ComposeResult
from textual.containers import Horizontal, VerticalScroll

from arbiter.protocol import AppView
from prompts import livewords, render
from prompts.cards import Style
from prompts.feed import Feed
from prompts.linkwords import size_words
from prompts.screen import Line, Span
from prompts.tui.monthly import Month
from prompts.tui.pane import Host, Pane
from prompts.tui.parts import Words, pairs
from prompts.tui.sheet import Column, Sheet
from prompts.uses import AppUse, Place

COLUMNS = (
    Column("program", 10, share=3),
    Column("runs", 4, right=True, drop=2),
    Column("refused", 7, right=True, drop=3),
    Column("bytes", 9, right=True),
    Column("month", 9, right=True, drop=1),
)
_PLACES = 60
"""Destinations on an app's page."""


def known(feed: Feed, month: Month) -> list[AppUse]:
    """Apps that connected since we follow, the last first; then those that did so this month."""
    live = list(feed.apps.known.values())[::-1]
    rest = [id for id in month.apps if id not in feed.apps.known]
    return [*live, *(AppUse(AppView(id, "", id.rsplit("/", 1)[-1])) for id in rest)]


def app_name(app: AppView) -> str:
    """Its name, or that there was no program."""
    return render.tidy(app.name or app.id, render.NAME_LIMIT) or "(no program known)"


def rules_of(app: str, rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """The lines of rules that name this app, or what it is started by."""
    found = []
    for row in rows:
        line = render.tidy(str(row.get("rule", "")))
        words = [word.partition("=") for word in render.words(line)]
        if any(k in ("app", "parent") and v.strip('"') == app for k, _, v in words):
            found.append(line)
    return found


def page(use: AppUse, month: Month, rules: list[str]) -> list[Line]:
    """An app's page."""
    lines: list[Line] = [((app_name(use.app), Style.BOLD),)]
    seen = f"{use.connections} connections, {use.running} run, {use.refused} refused"
    lines += pairs(
        [
            ("app", render.tidy(use.app.id) or "none"),
            ("seen", seen),
            ("carried", f"{size_words(use.sent)} sent, {size_words(use.received)} received"),
            ("month", month.problem or month.of_app(use.app.id).words),
        ]
    )
    by_link = month.apps.get(use.app.id, {})
    if by_link:
        lines += [(), (("this month, by link", Style.BOLD),)]
        lines += pairs((render.tidy(link) or "(none)", s.words) for link, s in by_link.items())
    if use.places:
        lines += [(), (("destinations, the last first", Style.BOLD),)]
        places = list(use.places.values())[::-1]
        lines += pairs(_place(place) for place in places[:_PLACES])
        more = len(places) - _PLACES
        lines += [((f"and {more} more", Style.DIM),)] if more > 0 else []
    lines += [(), (("rules that name it", Style.BOLD),)]
    lines += [((line, Style.PLAIN),) for line in rules] or [(("none", Style.DIM),)]
    return lines


def _place(place: Place) -> tuple[str, str]:
    link = f"over {render.tidy(place.link)}: " if place.link else ""
    text = f"{link}{size_words(place.sent)} sent, {size_words(place.received)} received"
    text += f", {place.connections} connections" if place.connections > 1 else ""
    text += f", {place.refused} refused" if place.refused else ""
    return livewords.target(place.to), text


class AppsPane(Pane):
    """A list of apps, and the page of the one that is chosen."""

    HINT = "Up/Down choose  r read again  Esc follow"
    DEFAULT_CSS = """
    AppsPane #apps { width: 2fr; }
    AppsPane #page-box { width: 3fr; padding: 0 1; }
    """

    def __init__(self, host: Host) -> None:
        super().__init__(host, id="apps-pane")
        self.month = Month()
        self.rules: list[dict[str, Any]] = []
        self.sheet = Sheet[AppUse](
            COLUMNS,
            self._cells,
            lambda use: use.app.id,
            id="apps",
            empty="no program connected since this prompt follows",
        )
        self.page = Words(id="page")

    def compose(self) -> ComposeResult:
        """List and page."""
        with Horizontal():
            yield self.sheet
            with VerticalScroll(id="page-box", can_focus=False):
                yield self.page

    def _cells(self, use: AppUse, _: float) -> list[str | Span]:
        month = self.month.of_app(use.app.id)
        style = Style.PLAIN if use.running else Style.DIM
        texts = (
            app_name(use.app),
            str(use.running or ""),
            str(use.refused or ""),
            size_words(use.sent + use.received) if use.connections else "",
            size_words(month.sent + month.received) if month.sent + month.received else "",
        )
        return [(text, style) for text in texts]

    def opened(self) -> None:
        """The keys go to the list, and the month is read."""
        self.sheet.focus()
        self.do_read()

    def do_read(self) -> None:
        """Read month and rules again."""
        self.host.start(self._read)

    async def _read(self) -> None:
        done = await self.host.commands.run("links", "usage", "--by", "link,app", "--json")
        self.month = Month(done.rows(), done.said)
        self.rules = (await self.host.commands.run("rules", "list", "--json")).rows()
        self.draw(self.host.now())

    def draw(self, now: float) -> None:
        """List and page as they are now."""
        sheet = self.sheet
        sheet.show(known(self.host.feed, self.month), now)
        use = sheet.chosen or next(iter(sheet.items), None)
        if use is None:
            self.page.show([])
            return
        lines = page(use, self.month, rules_of(use.app.id, self.rules))
        self.page.show(lines)

    def on_sheet_moved(self) -> None:
        """Another app's page."""
        self.draw(self.host.now())
