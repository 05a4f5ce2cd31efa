"""The tab of connections: those that run and those that ended, as they are decided."""

from __future__ import annotations

import time

from textual.app import ComposeResult
from textual.widgets import Input

from prompts import livewords
from prompts.cards import Style
from prompts.feed import Live
from prompts.linkwords import size_words
from prompts.screen import Line, Span
from prompts.tui.pane import Host, Pane, words_match
from prompts.tui.parts import pairs
from prompts.tui.sheet import Column, Sheet

COLUMNS = (
    Column("time", 8, drop=4),
    Column("program", 8, share=2),
    Column("to", 12, share=4),
    Column("link", 6, share=1, drop=2),
    Column("sent", 9, right=True, drop=3),
    Column("received", 9, right=True, drop=1),
    Column("rate", 11, right=True, drop=5),
    Column("decided", 13, share=1),
    Column("why", 12, share=2, drop=6),
)
SORTS = ("time", "bytes", "rate")


def clock(at: float) -> str:
    """`14:03:07`, this machine's time."""
    return time.strftime("%H:%M:%S", time.localtime(at))


def cells(live: Live, now: float) -> list[str | Span]:
    """One connection; what carries nothing any more is dim, what was refused red."""
    told = live.told
    style = Style.BAD if not told.passes else Style.PLAIN if live.runs else Style.DIM
    texts = (
        clock(told.time),
        livewords.program(told),
        livewords.target(told.destination),
        told.link,
        size_words(live.sent) if told.passes else "",
        size_words(live.received) if told.passes else "",
        livewords.rate_words(sum(live.rate(now))),
        livewords.done(told),
        livewords.brief(told),
    )
    return [(text, style) for text in texts]


def ordered(connections: list[Live], sort: str, now: float) -> list[Live]:
    """The newest first, or what carried most, or carries most now."""
    newest = connections[::-1]
    if sort == "bytes":
        return sorted(newest, key=lambda live: -(live.sent + live.received))
    if sort == "rate":
        return sorted(newest, key=lambda live: -sum(live.rate(now)))
    return newest


def details(live: Live, now: float) -> list[Line]:
    """Everything that is known of a connection, and why it was decided so."""
    facts = livewords.facts(live.told, live.sent, live.received)
    state = "refused" if not live.told.passes else "runs" if live.runs else "ended"
    if live.closed is not None:
        state += f" at {clock(live.closed)}"
    return pairs([("decided at", clock(live.told.time)), *facts, ("state", state)])


class ConnectionsPane(Pane):
    """A sheet of connections and a filter."""

    HINT = "/ filter  o order  Enter details  Esc follow"
    DEFAULT_CSS = "ConnectionsPane #filter { display: none; height: 3; }"

    def __init__(self, host: Host) -> None:
        super().__init__(host, id="connections-pane")
        self.sort = SORTS[0]
        self.filter = Input(placeholder="words of program, host, link=, user=, deny …", id="filter")
        self.sheet = Sheet[Live](
            COLUMNS,
            cells,
            lambda live: live.told.id,
            id="connections",
            empty="no connection was decided since this prompt follows",
        )

    def compose(self) -> ComposeResult:
        """Filter and sheet."""
        yield self.filter
        yield self.sheet

    def opened(self) -> None:
        """The keys go to the sheet."""
        self.sheet.focus()

    def draw(self, now: float, again: bool = False) -> None:
        """Those that match, in order; while a row is looked at nothing moves."""
        sheet, wanted = self.sheet, self.filter.value
        known = list(self.host.feed.connections.values())
        if wanted:
            known = [live for live in known if words_match(wanted, live.words)]
        sheet.show(ordered(known, self.sort, now), now, again=again)
        news = f", {sheet.news} new (Esc shows them)" if sheet.news else ""
        runs = sum(live.runs for live in known)
        sheet.border_title = f"{len(known)} connections, {runs} run; by {self.sort}{news}"

    def do_filter(self) -> None:
        """Write a filter."""
        self.filter.display = True
        self.filter.focus()

    def do_order(self) -> None:
        """The next order."""
        self.sort = SORTS[(SORTS.index(self.sort) + 1) % len(SORTS)]
        self.sheet.cursor = None
        self.draw(self.host.now(), again=True)

    def on_input_changed(self) -> None:
        """The filter is written: show at once what matches."""
        self.draw(self.host.now(), again=True)

    def on_input_submitted(self) -> None:
        """Back to the rows; the filter stays."""
        self.filter.display = bool(self.filter.value)
        self.opened()

    def leave_filter(self) -> None:
        """No filter any more."""
        self.filter.value = ""
        self.filter.display = False
        self.opened()

    def on_sheet_opened(self, event: Sheet.Opened) -> None:
        """Everything about one."""
        live: Live | None = event.sheet.chosen
        if live is not None:
            lines = details(live, self.host.now())
            self.host.start(lambda: self._details(lines))

    async def _details(self, lines: list[Line]) -> None:
        await self.host.dialog("a connection", lines)

    def on_sheet_head_clicked(self, event: Sheet.HeadClicked) -> None:
        """A column's title was clicked: in its order, if there is one."""
        sort = {0: "time", 4: "bytes", 5: "bytes", 6: "rate"}.get(event.column)
        if sort is not None:
            self.sort = sort
            event.sheet.cursor = None
            self.draw(self.host.now(), again=True)
