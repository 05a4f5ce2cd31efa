"""The first tab: the asks that wait on the left, the question on the right.

What happens is decided by `prompts.machine`, and the question is drawn by `prompts.screen`, as in
the terminal prompt: the same words, the same keys, the same guard against hasty ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from textual import events
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical

from arbiter.protocol import Ask
from prompts import render, screen
from prompts.cards import Style
from prompts.livewords import target
from prompts.machine import GONE_SECONDS
from prompts.screen import Span
from prompts.tui.pane import Host, Pane
from prompts.tui.parts import Tap, Taps, Words
from prompts.tui.sheet import Column, Sheet

_KEYS = {"escape": "esc", "enter": "enter", "space": "space", "backspace": "backspace",
         "left": "left", "right": "right", "up": "p", "down": "n", "ctrl+l": "ctrl-l"}  # fmt: skip
_PAIRS = {"s/S": ("wider", "narrower"), "l/L": ("longer", "shorter"), "n/p": ("next", "previous")}
_DECIDING = frozenset("adr")
_SHOWN_ENDED = 20
"""Rows of asks that ended and stay a while, so that no row moves."""


@dataclass(eq=False)
class Row:
    """An ask in the list; `ended` says how, and since when, it needs no answer any more."""

    ask: Ask
    later: bool = False
    ended: str = ""
    since: float = 0.0


def cells(row: Row, now: float) -> list[str | Span]:
    """Who, where, and how long it still waits."""
    who, to = render.who(row.ask), target(row.ask.destination)
    if row.ended:
        return [(who, Style.DIM), (to, Style.DIM), (row.ended, Style.DIM)]
    if row.later:
        return [(who, Style.DIM), (to, Style.DIM), ("later", Style.DIM)]
    left = row.ask.deadline - now
    if not render.waits(row.ask) or left <= 0:
        return [who, to, ("stale", Style.DIM)]
    style = Style.WARN if left < 10 else Style.PLAIN
    return [who, to, (render.seconds_words(left + 0.999), style)]


class Question(Words):
    """The words of the question: as many as its room holds, so another room asks for others.

    The keys below it may come, go or break into another row: its room is known only after that.
    """

    def __init__(self, draw: Callable[[], None], *, id: str) -> None:
        super().__init__(id=id)
        self._redraw = draw

    def on_resize(self) -> None:
        """Fill the new room, at once and not with the next tick."""
        self._redraw()


class AsksPane(Pane, can_focus=True):
    """Feeds keys and clicks to the machine, and draws it."""

    HINT = "Up/Down question  Left/Right scope"
    DEFAULT_CSS = """
    AsksPane #asks { width: 2fr; min-width: 24; }
    AsksPane #question { width: 3fr; padding: 0 1; }
    AsksPane #words { height: 1fr; }
    AsksPane.narrow #asks { display: none; }
    """

    def __init__(self, host: Host) -> None:
        super().__init__(host, id="asks-pane")
        self.rows: dict[int, Row] = {}
        columns = (
            Column("program", 8, share=3),
            Column("to", 8, share=4),
            Column("waits", 8, drop=1),
        )
        self.sheet = Sheet[Row](
            columns, cells, lambda row: row.ask.id, id="asks", empty="nothing waits"
        )
        self.sheet.can_focus = False
        self.words = Question(self.resized, id="words")
        self.taps = [Taps(id=name) for name in ("via", "answers", "choices")]

    def compose(self) -> ComposeResult:
        """List, question, keys."""
        with Horizontal():
            yield self.sheet
            with Vertical(id="question"):
                yield self.words
                yield from self.taps

    def opened(self) -> None:
        """The keys come here: no button could take them."""
        self.focus()

    # --- rows -------------------------------------------------------------------------------

    def ended(self, id: int, text: str) -> None:
        """An ask needs no answer any more: its row says so for a while."""
        row = self.rows.get(id)
        if row is not None:
            row.ended, row.since = text, self.host.now()

    def forget(self) -> None:
        """The connection is lost: every ask is void."""
        self.rows.clear()

    def tidy_up(self, now: float, moved: bool) -> None:
        """Take rows of ended asks away: when the person moves on, or after a while, but never
        under the mouse."""
        mouse = self.sheet.mouse_hover
        ended = [id for id, row in self.rows.items() if row.ended]
        for place, id in enumerate(ended):
            old = now - self.rows[id].since > GONE_SECONDS and not mouse
            if moved or old or place < len(ended) - _SHOWN_ENDED:
                del self.rows[id]

    # --- drawing ----------------------------------------------------------------------------

    def draw(self, now: float) -> None:
        """The list as it is; the question as the machine shows it."""
        machine = self.host.machine
        for id, card in machine.cards.items():
            row = self.rows.setdefault(id, Row(card.ask))
            row.ask, row.later = card.ask, card.later
        self.tidy_up(now, moved=False)
        self.sheet.show(list(self.rows.values()), now, again=True)
        self.sheet.choose(machine.current)
        self.set_class(self.size.width < 100, "narrow")
        self._question(now)

    def _question(self, now: float) -> None:
        machine, words = self.host.machine, self.words
        if self.host.away:
            waiting = len(machine.queue())
            text = f"do not disturb: {waiting} waiting, shown again with w"
            words.show([((text, Style.WARN),)])
            self._keys([], [], [])
            machine.hidden()
            return
        size = words.size
        page = screen.draw(machine, size.width + 1, size.height + 1, now, keys=False)
        words.show(page.lines)
        card, keys = machine.card, []
        if card is not None and machine.gone is None:
            keys = [key for key in screen.key_words(machine, card) if key[0] not in ("?", "q")]
        links: list[tuple[str, str]] = []
        if machine.picking and card is not None:
            links = [tuple(x.partition(":")[0].split(" ", 1)) for x in screen.ask_links(card)]  # type: ignore[misc]
            keys = [key for key in keys if key[0] != "0-9"]
        answers = [key for key in keys if key[0] in ("a", "d", "r", "x", "Esc", "i", "u")]
        self._keys(links, answers, [key for key in keys if key not in answers])
        if not self.seen:
            machine.hidden()
            return
        current = machine.current

        def drawn() -> None:
            if machine.current == current and self.seen:
                machine.drawn(self.host.now(), page.rule_cut)

        self.call_after_refresh(drawn)

    def _keys(
        self,
        links: list[tuple[str, str]],
        answers: list[tuple[str, str]],
        choices: list[tuple[str, str]],
    ) -> None:
        single = []
        for key, word in choices:
            first, _, second = key.partition("/")
            forth, back = _PAIRS.get(key, (word, ""))
            single += [(first, forth)] + ([(second, back)] if second else [])
        lists = (links, [(key.lower(), word) for key, word in answers], single)
        for taps, keys in zip(self.taps, lists, strict=True):
            taps.show(keys)

    # --- keys and mouse ---------------------------------------------------------------------

    async def on_key(self, event: events.Key) -> None:
        """A key for the machine, if it is one of its own."""
        key = _KEYS.get(event.key) or (event.character if event.is_printable else None)
        machine = self.host.machine
        tabs = key in tuple("123456") and not machine.picking
        if key is None or key in ("q", "?", "w", "z") or tabs:
            return  # the app's
        event.stop()
        event.prevent_default()
        await self.press(key)

    async def on_paste(self, event: events.Paste) -> None:
        """What is pasted answers nothing."""
        event.stop()
        await self.press("paste")

    async def press(self, key: str) -> None:
        """A key, or a click on one."""
        now, machine = self.host.now(), self.host.machine
        if self.host.away and key in _DECIDING:
            self.host.say("do not disturb is on: w shows the questions again", Style.WARN)
            return
        machine.tick(now)
        outs = machine.key(key, now)
        if key == "i" and outs:
            lines = [((getattr(out, "text", ""), Style.PLAIN),) for out in outs]
            self.host.start(lambda: self._info([*lines]))
        else:
            await self.host.perform(outs)
        if key in ("n", "p", "x", "u"):
            self.tidy_up(now, moved=True)
        self.draw(now)

    async def _info(self, lines: list[tuple[Span, ...]]) -> None:
        await self.host.dialog("everything about this question", lines)

    async def on_tap_pressed(self, event: Tap.Pressed) -> None:
        """A key was clicked."""
        event.stop()
        self.focus()
        await self.press(event.key)

    def on_sheet_moved(self, event: Sheet.Moved) -> None:
        """A row was clicked: that question is shown, and nothing is decided."""
        event.stop()
        row: Row | None = event.sheet.chosen
        if row is not None and not row.ended:
            self.host.machine.choose(row.ask.id)
        self.focus()
        self.draw(self.host.now())
