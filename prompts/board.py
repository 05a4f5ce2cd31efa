"""The keyboard prompt around its asks: snoozes, do not disturb, and taking answers back. Pure.

`Machine` decides the asks; the board has it, and what else a person may want of a prompt. No
clock and no I/O: `now` is passed in, in epoch seconds.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from arbiter.protocol import Away, ClientMessage, Snoozed, Undo, Undone, Welcome
from prompts import livewords, render, snoozing
from prompts.cards import Out, Say, Send, Style
from prompts.client import Event
from prompts.feed import Entry, Feed
from prompts.machine import HELP, Machine

MOST = 9
"""Answers that are shown to be taken back: one a digit."""
HELP_TOO = (
    "h: what was decided; U: take one of your answers back; z: no questions for a while (a "
    "snooze), or its end; w: do not disturb, and back",
)
_LEAVE = ("q", "ctrl-d")


class Mode(enum.Enum):
    """What the next key is about."""

    ASKS = enum.auto()
    SNOOZE = enum.auto()
    UNDO = enum.auto()


@dataclass
class Board:
    """Feed it with `event` and `key`; `status` is shown beside what the machine shows."""

    machine: Machine = field(default_factory=Machine)
    feed: Feed = field(default_factory=Feed)
    mode: Mode = Mode.ASKS
    away: bool = False
    """Do not disturb: no ask is shown, and nobody counts as being there."""
    notice: str = ""
    _offered: list[Entry] = field(default_factory=list)

    # --- messages ---------------------------------------------------------------------------

    def event(self, event: Event, now: float) -> list[Out]:
        """Something came from the daemon."""
        before = self.feed.snoozed(now)
        self.feed.event(event, now)
        outs = self.machine.event(event, now)
        match event:
            case Welcome():
                outs += [Send(Away(True))] if self.away else []
                outs += self._snoozes()
                if words := livewords.mode_words(event.mode):
                    outs.append(Say(f"· {words}", Style.WARN))
            case Undone():
                outs.append(Say(f"· {livewords.undone(event)}", Style.GOOD))
            case Snoozed():
                outs += self._snoozes(now)
                if before and not self.feed.snoozed(now):
                    outs.append(Say("· the snooze has ended: questions are asked again"))
        return outs

    def _snoozes(self, now: float | None = None) -> list[Out]:
        return [
            Say(f"· {livewords.snooze_what(s)}, by {render.tidy(s.by)}; z ends it", Style.WARN)
            for s in self.feed.snoozes
            if now is None or s.until > now
        ]

    def unsent(self, message: ClientMessage, text: str) -> list[Out]:
        """A message could not be sent: nothing has happened by it."""
        if isinstance(message, Away):
            return []  # the next welcome is answered with it
        return self.machine.unsent(message, text)

    # --- time -------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Time has passed."""
        self.machine.tick(now)

    def wake(self, now: float) -> float | None:
        """When the screen changes by itself; None if only an event can change it."""
        times = [] if self.away else [self.machine.wake(now)]
        times += [now + (1.0 if s.until - now <= 121 else 30.0) for s in self.feed.snoozed(now)]
        return min((time for time in times if time is not None), default=None)

    # --- keys -------------------------------------------------------------------------------

    def key(self, key: str, now: float) -> list[Out]:
        """A key was pressed."""
        self.notice = ""
        if key in _LEAVE:
            return self.machine.key(key, now)
        if self.mode is not Mode.ASKS:
            return self._in_mode(key, now)
        if key == "?":
            return [*(Say(line, Style.DIM) for line in (*HELP[:-1], *HELP_TOO, HELP[-1]))]
        if self.machine.welcome is None or self.machine.picking or key not in ("z", "w", "U", "h"):
            if self.away:
                self.notice = "do not disturb: w shows the questions again"
                return []
            return self.machine.key(key, now)
        if key == "w":
            return self._toggle_away()
        if key == "z":
            self.mode = Mode.SNOOZE
            return []
        return self._history() if key == "h" else self._offer()

    def _toggle_away(self) -> list[Out]:
        self.away = not self.away
        self.machine.hidden()  # what is shown again is to be read first
        text = "do not disturb: nobody is asked here; w ends it" if self.away else "asking again"
        return [Send(Away(self.away)), Say(f"· {text}", Style.DIM)]

    def _history(self) -> list[Out]:
        decided = [entry for entry in self.feed.log if entry.kind == "decided"][-MOST:]
        if not decided:
            self.notice = "nothing was decided yet"
        return [Say(f"  {_past(entry)}", Style.DIM) for entry in decided]

    def _offer(self) -> list[Out]:
        """The last answers that can be taken back, by digit, the newest first."""
        can = [entry for entry in reversed(self.feed.log) if self.feed.may_undo(entry)]
        self._offered = can[:MOST]
        if not can:
            self.notice = "there is no answer to take back: none made a rule that is in force"
            return []
        self.mode = Mode.UNDO
        return [Say(f"  {at} {_past(entry)}") for at, entry in enumerate(self._offered, 1)]

    def _in_mode(self, key: str, now: float) -> list[Out]:
        mode, self.mode = self.mode, Mode.ASKS
        self.machine.hidden()  # a question may have come meanwhile
        if mode is Mode.SNOOZE:
            allowed = {key for key, _ in snoozing.keys(self._admin)}
            message = snoozing.message(key, self.feed.snoozed(now)) if key in allowed else None
            self.notice = "" if message else "no snooze was begun or ended"
            return [Send(message)] if message else []
        at = int(key) if key in "123456789" and len(key) == 1 else 0
        rule = self._offered[at - 1].rule_id if 1 <= at <= len(self._offered) else None
        self.notice = "nothing was taken back" if rule is None else ""
        return [] if rule is None else [Send(Undo(rule))]

    @property
    def _admin(self) -> bool:
        return self.machine.welcome is not None and self.machine.welcome.admin

    # --- what is shown ----------------------------------------------------------------------

    @property
    def covered(self) -> bool:
        """Whether the machine's screen is not to be shown."""
        return self.away or self.mode is not Mode.ASKS

    def status(self, now: float) -> list[tuple[str, Style]]:
        """Lines under the ask, or in its place where it is covered."""
        out: list[tuple[str, Style]] = []
        if self.mode is Mode.SNOOZE:
            out += [(text, style) for line in snoozing.lines([], now) for text, style in line]
            keys = "  ".join(f"{key} {words}" for key, words in snoozing.keys(self._admin))
            out.append((f"{keys}  Esc back", Style.BOLD))
        elif self.mode is Mode.UNDO:
            out.append(("take which of these back? its digit does it, every other key does not",
                        Style.BOLD))  # fmt: skip
        elif self.away:
            waiting = len(self.machine.queue())
            out.append((f"do not disturb; {waiting} waiting; w shows them, q quits", Style.WARN))
        out += [
            (f"{livewords.snooze_words(snooze, now)}; z ends it", Style.WARN)
            for snooze in self.feed.snoozed(now)
        ]
        if words := livewords.mode_words(self.feed.mode):
            out.append((words, Style.WARN))
        if self.notice:
            out.append((self.notice, Style.WARN))
        return out


def _past(entry: Entry) -> str:
    """`alice: allowed curl; rule 12: …`, and whether it was taken back."""
    text = f"{entry.by}: {entry.text}" if entry.by else entry.text
    return f"(taken back) {text}" if entry.undone else text
