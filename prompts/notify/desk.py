"""Which notifications there should be, and what a click on one means. Pure; `now` is epoch seconds.

The desk is fed with what the daemon and the notification server say. `wanted` tells the
notifications that should be there now, by key; who shows them compares that with what is there.
So a server that was restarted gets all of them again, and an ask that is answered loses its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from arbiter.protocol import (
    Answer,
    Ask,
    Away,
    Choice,
    ClientMessage,
    Decided,
    Notice,
    Refused,
    RefusedReason,
    Snooze,
    Snoozed,
    SnoozeView,
    Undo,
    Undone,
    Welcome,
    Withdraw,
)
from prompts import choices, livewords, render
from prompts.client import Event, Lost, Unread
from prompts.notify import notes
from prompts.notify.notes import OPEN, Note, Server, Urgency

MOST = 3
"""Questions with a notification of their own; one more stands for all others."""
MOST_NEWS = 3
GUARD_SECONDS = 0.5
"""For so long after a question appeared a click does not answer it: it was meant for what was
there before."""
AFTER_CLICK_SECONDS = 1.0
"""A server closes a notification that was clicked: within this time that dismisses nothing."""
LOST_SECONDS = 2.0
"""A daemon that is away for longer is worth a word; one that restarts is not."""
RESULT_MS = 10_000
"""How long the result of an answer, with its undo, stays."""
DISMISSED = (1, 2)
"""Reasons of NotificationClosed: expired, dismissed by the person. 3 is our own closing."""

Key = tuple[str, int]


@dataclass(frozen=True)
class Send:
    """A message to the daemon."""

    message: ClientMessage


@dataclass(frozen=True)
class Open:
    """Show the full question."""


Out = Send | Open


@dataclass
class Item:
    """An ask, and what became of its notification."""

    ask: Ask
    revision: int
    lifetime: str
    sent: Answer | None = None
    put_off: bool = False
    """Dismissed, or opened elsewhere: not denied, and not shown again."""
    opened: bool = False
    problem: str = ""
    shown: tuple[int, float] | None = None
    """The revision that was shown, and since when."""
    clicked: float | None = None


@dataclass
class Desk:
    """Feed it with `event`, `serve`, `shown`, `click` and `closed`."""

    lifetime: str = choices.FIRST_LIFETIME
    clock: Callable[[float], str] = notes.local_clock
    server: Server | None = None
    """None while no notification server runs."""
    inhibited: bool = False
    items: dict[int, Item] = field(default_factory=dict)
    news: dict[Key, Note] = field(default_factory=dict)
    undoable: dict[Key, int] = field(default_factory=dict)
    welcome: Welcome | None = None
    lost: tuple[str, float] | None = None
    snoozes: tuple[SnoozeView, ...] = ()
    snooze_hidden: bool = False
    _count: int = 0
    _away: bool = False

    # --- what should be there ---------------------------------------------------------------

    def wanted(self, now: float) -> dict[Key, Note]:
        """The notifications that should be there now, in the order in which to show them."""
        server = self.server
        if server is None:
            return {}
        out: dict[Key, Note] = {}
        if self.lost and now >= self.lost[1] + LOST_SECONDS:
            text = f"{render.tidy(self.lost[0])}; trying again"
            out["lost", 0] = Note("arbiter is not there", text, urgency=Urgency.LOW)
        snoozes = [snooze for snooze in self.snoozes if snooze.until > now]
        if snoozes and not self.snooze_hidden:
            out["snooze", 0] = self._snooze(snoozes)
        own, rest = self._split()
        for item in own:
            out["ask", item.ask.id] = notes.question(
                item.ask, item.lifetime, item.revision, server, now, item.problem, self.clock
            )
        if rest:
            out["more", 0] = notes.summary_of([item.ask for item in rest], server)
        return out | self.news

    def _split(self) -> tuple[list[Item], list[Item]]:
        """Items with a notification of their own, and those without.

        Those for which a packet is held come first, then the oldest.
        """
        items = [i for i in self.items.values() if not i.put_off and i.sent is None]
        items.sort(key=lambda item: not render.waits(item.ask))
        return items[:MOST], items[MOST:]

    def _snooze(self, snoozes: list[SnoozeView]) -> Note:
        lines = [
            f"{livewords.snooze_what(snooze)} until {self.clock(snooze.until)}"
            for snooze in snoozes
        ]
        own = any(self._ends(snooze) for snooze in snoozes)
        actions = (("wake", "Ask again"),) if own else ()
        return Note("arbiter does not ask", "\n".join(lines), actions, Urgency.LOW)

    def _ends(self, snooze: SnoozeView) -> bool:
        """Whether we may end it."""
        if self.welcome is None:
            return False
        return self.welcome.admin if snooze.uid is None else snooze.user == self.welcome.user

    def wake(self, now: float) -> float | None:
        """When `wanted` changes by itself; None if only an event can change it."""
        times = [item.ask.deadline for item in self._split()[0] if not item.ask.stale]
        times += [snooze.until for snooze in self.snoozes]
        times += [self.lost[1] + LOST_SECONDS] if self.lost else []
        return min((time for time in times if time > now), default=None)

    # --- the notification server ------------------------------------------------------------

    def serve(self, server: Server | None, inhibited: bool = False) -> list[Out]:
        """A server is there, or none; `inhibited`: it shows nothing (do not disturb)."""
        if server is None:
            for item in self.items.values():
                item.shown = item.clicked = None
        self.server, self.inhibited = server, inhibited
        return self._tell_away()

    def _tell_away(self) -> list[Out]:
        """Nobody is asked where nothing is shown; the daemon is told of a change."""
        away = self.server is None or self.inhibited
        if self.welcome is None or away == self._away:
            return []
        self._away = away
        return [Send(Away(away))]

    def shown(self, key: Key, now: float) -> None:
        """The server has taken what `wanted` said of this key."""
        item = self.items.get(key[1]) if key[0] == "ask" else None
        if item and (item.shown is None or item.shown[0] != item.revision):
            item.shown = (item.revision, now)

    def closed(self, key: Key, reason: int, now: float) -> None:
        """A notification is gone from the screen. Dismissed is not denied."""
        kind, id = key
        if kind in ("result", "notice", "mode"):
            self._forget(key)
        elif reason not in DISMISSED:
            if kind == "ask" and id in self.items:
                self.items[id].shown = None  # it is shown again, and to be read again
        elif kind == "snooze":
            self.snooze_hidden = True
        elif kind == "more":
            for item in self._split()[1]:
                item.put_off = True
        elif kind == "ask" and (asked := self.items.get(id)):
            self._dismiss(asked, now)

    def _dismiss(self, item: Item, now: float) -> None:
        after_click = item.clicked is not None and now - item.clicked < AFTER_CLICK_SECONDS
        item.shown = item.clicked = None
        item.put_off = item.put_off or not after_click

    def click(self, key: Key, action: str, now: float) -> list[Out]:
        """A button, or the notification itself, was pressed."""
        kind, id = key
        if kind == "ask":
            item = self.items.get(id)
            return self._answer(item, action, now) if item else []
        if kind == "more" and action in ("more", OPEN):
            for item in self._split()[1]:
                item.put_off = item.opened = True
            return [Open()]
        if kind == "result" and action == "undo" and key in self.undoable:
            return [Send(Undo(self.undoable[key]))]
        if kind == "snooze" and action == "wake":
            ends = [snooze for snooze in self.snoozes if self._ends(snooze)]
            whose = {snooze.uid is None: Choice(snooze.decision) for snooze in ends}
            return [Send(Snooze(decision, 0, everyone)) for everyone, decision in whose.items()]
        return []

    def _answer(self, item: Item, action: str, now: float) -> list[Out]:
        item.clicked = now
        word, _, revision = action.partition(".")
        if action == OPEN or word == "more":
            item.put_off = item.opened = True
            return [Open()]
        since = item.shown[1] if item.shown and item.shown[0] == item.revision else None
        if revision != str(item.revision) or since is None or now - since < GUARD_SECONDS:
            item.problem = "that click came before you could read this; click again"
            item.shown = None  # the guard begins again when it is shown again
            return []
        if word not in ("allow", "deny") or item.sent is not None:
            return []
        scope = choices.first_scope(item.ask)
        item.sent = choices.answer(item.ask, Choice(word), scope, item.lifetime)
        return [Send(item.sent)]

    def unsent(self, message: ClientMessage, text: str) -> None:
        """A message could not be sent: nothing has happened by it."""
        if isinstance(message, Answer) and (item := self.items.get(message.ask)):
            item.sent, item.problem = None, f"not answered: {render.tidy(text)}"
        elif isinstance(message, Undo):
            self._tell("notice", Note("not taken back", render.tidy(text), expires=-1))

    def not_opened(self, text: str) -> None:
        """The full question could not be shown: its notification comes back."""
        for item in self.items.values():
            item.put_off, item.opened = item.put_off and not item.opened, False
        note = Note("the full question cannot be shown", render.tidy(text), expires=-1)
        self._tell("notice", note)

    # --- the daemon -------------------------------------------------------------------------

    def event(self, event: Event, now: float) -> list[Out]:
        """Something came from the daemon."""
        match event:
            case Welcome():
                return self._welcomed(event)
            case Ask():
                self._ask(event)
            case Decided():
                self._decided(event)
            case Withdraw():
                self.items.pop(event.ask, None)
            case Refused():
                self._refused(event)
            case Undone():
                self._undone(event)
            case Snoozed():
                self.snoozes, self.snooze_hidden = event.snoozes, False
            case Lost():
                self._lose(event, now)
            case Unread():
                text = render.tidy(event.text)
                self._tell("notice", Note("a message of arbiter's could not be read", text))
            case Notice():
                self._tell("notice", Note("arbiter", render.tidy(event.text), expires=-1))
            case _:
                pass  # replies to what this frontend never sends
        return []

    def _welcomed(self, welcome: Welcome) -> list[Out]:
        self.welcome, self.lost, self._away = welcome, None, False
        self.snoozes, self.snooze_hidden = welcome.snoozes, False
        if words := livewords.mode_words(welcome.mode):
            self._tell("mode", Note("arbiter asks nothing now", words, (), Urgency.LOW, -1))
        return self._tell_away()

    def _ask(self, ask: Ask) -> None:
        item = self.items.get(ask.id)
        if item is None or choices.subject(ask) != choices.subject(item.ask):
            self._count += 1
            lifetime = notes.lifetime_for(ask, self.lifetime)
            changed = Item(ask, self._count, lifetime, item.sent if item else None)
            changed.problem = "this question has changed" if item else ""
            if item is not None and item.put_off:
                del self.items[ask.id]  # to the end: in its old place it would push another out
            self.items[ask.id] = changed
        else:
            item.ask = ask

    def _decided(self, decided: Decided) -> None:
        item = self.items.pop(decided.ask, None)
        if item is None or item.sent is None:
            return
        mine = self.welcome is not None and decided.user == self.welcome.user
        if not mine or decided.decision.split(" ")[0] != item.sent.decision:
            text = f"{render.app_name(item.ask)}: {render.answered_by(decided)}"
            self._tell("notice", Note("somebody else was faster", text, expires=RESULT_MS))
            return
        actions = (("undo", "Undo"),) if decided.rule_id is not None else ()
        summary, _, rest = render.result(item.ask, decided).partition("; ")
        note = Note(summary, rest, actions, Urgency.LOW, RESULT_MS, transient=True)
        key = self._tell("result", note)
        if decided.rule_id is not None:
            self.undoable[key] = decided.rule_id

    def _refused(self, refused: Refused) -> None:
        text = render.tidy(refused.text)
        item = self.items.get(refused.ask) if refused.ask is not None else None
        if item is None:
            self._tell("notice", Note("arbiter refused it", text, expires=-1))
            return
        item.sent, item.problem = None, f"refused: {text}"
        if refused.reason is RefusedReason.GONE:
            del self.items[item.ask.id]
            self._tell("notice", Note(f"{render.app_name(item.ask)}: too late", text, expires=-1))

    def _undone(self, undone: Undone) -> None:
        for key in [key for key, rule in self.undoable.items() if rule == undone.rule_id]:
            self._forget(key)
        self._tell("notice", Note("taken back", livewords.undone(undone), expires=RESULT_MS))

    def _lose(self, event: Lost, now: float) -> None:
        unsure = [item for item in self.items.values() if item.sent is not None]
        for item in unsure:
            text = f"{render.app_name(item.ask)} → {render.endpoint(item.ask)}"
            self._tell("notice", Note("your answer may be lost", f"{text}: arbiter went away"))
        self.items.clear()
        self.welcome, self.snoozes, self.lost = None, (), (event.text, now)

    def _tell(self, kind: str, note: Note) -> Key:
        """Something that passes: only the newest few of a kind stay."""
        self._count += 1
        key = (kind, self._count)
        self.news[key] = note
        for old in [k for k in self.news if k[0] == kind][:-MOST_NEWS]:
            self._forget(old)
        return key

    def _forget(self, key: Key) -> None:
        self.news.pop(key, None)
        self.undoable.pop(key, None)
