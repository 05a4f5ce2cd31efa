"""The tab of what happened: answers, and what is to be known; own answers can be taken back."""

from __future__ import annotations

from textual.app import ComposeResult

from arbiter.protocol import Undo
from prompts.cards import Style
from prompts.feed import Entry
from prompts.screen import Line, Span
from prompts.tui.connections import clock
from prompts.tui.pane import Host, Pane
from prompts.tui.parts import pairs
from prompts.tui.sheet import Column, Sheet

COLUMNS = (
    Column("time", 8, drop=2),
    Column("by", 8, drop=1),
    Column("what", 24, share=1),
)
_STYLES = {"refused": Style.WARN, "notice": Style.WARN, "withdrawn": Style.DIM}


def cells(entry: Entry, _: float) -> list[str | Span]:
    """One line; an answer that was taken back says so."""
    style = Style.DIM if entry.undone else _STYLES.get(entry.kind, Style.PLAIN)
    text = f"(taken back) {entry.text}" if entry.undone else entry.text
    return [clock(entry.time), entry.by, (text, style)]


class LogPane(Pane):
    """The newest first."""

    HINT = "u take an answer back  Enter details  Esc follow"

    def __init__(self, host: Host) -> None:
        super().__init__(host, id="log-pane")
        self.sheet = Sheet[Entry](
            COLUMNS, cells, lambda entry: entry.id, id="log", empty="nothing was decided yet"
        )

    def compose(self) -> ComposeResult:
        """One sheet."""
        yield self.sheet

    def opened(self) -> None:
        """The keys go to the sheet."""
        self.sheet.focus()

    def draw(self, now: float) -> None:
        """As it is; while a row is looked at, those shown stay."""
        sheet = self.sheet
        sheet.show(list(self.host.feed.log)[::-1], now)
        news = f", {sheet.news} new (Esc shows them)" if sheet.news else ""
        sheet.border_title = f"what happened since this prompt runs{news}"

    def do_undo(self) -> None:
        """Take the chosen answer back, or the last that can be."""
        sheet, feed = self.sheet, self.host.feed
        entry: Entry | None = sheet.chosen
        if entry is None:
            entry = next((each for each in reversed(feed.log) if feed.may_undo(each)), None)
        if entry is None or not feed.may_undo(entry):
            self.host.say("that is no answer of yours with a rule that is in force", Style.WARN)
            return
        chosen = entry
        self.host.start(lambda: self._undo(chosen))

    async def _undo(self, entry: Entry) -> None:
        lines: list[Line] = [((entry.text, Style.BOLD),)]
        lines += [(("its rule goes, and what it replaced comes back", Style.DIM),)]
        asked = await self.host.dialog("take this answer back?", lines, [("y", "take it back")])
        if asked == "y" and entry.rule_id is not None:
            await self.host.tell(Undo(entry.rule_id))

    def on_sheet_opened(self, event: Sheet.Opened) -> None:
        """All of a line that is too long."""
        entry: Entry | None = event.sheet.chosen
        if entry is not None:
            facts = [("time", clock(entry.time)), ("by", entry.by), ("what", entry.text)]
            self.host.start(lambda: self._details(pairs((k, v) for k, v in facts if v)))

    async def _details(self, lines: list[Line]) -> None:
        await self.host.dialog("what happened", lines)
