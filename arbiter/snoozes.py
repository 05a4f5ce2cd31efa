"""Snoozes: for a while, what no rule decides is allowed or denied without a question. Pure.

A person who wants quiet answers all questions to come, for a time that everybody can see. It is
an answer, not a rule: it ends by itself, with the daemon at the latest.
"""

from __future__ import annotations

from typing import NamedTuple

from arbiter import protocol
from arbiter.model import Action, Decision, Now, Peer

MAX_SECONDS = 86_400.0
"""A day: whoever wants it for longer wants a rule."""
MAX_SNOOZES = 1024
"""Of different users; more are refused."""


class Snooze(NamedTuple):
    """One answer to all questions of a user to come; of everybody's where `uid` is None."""

    uid: int | None
    user: str
    """"" for everybody."""
    decision: Decision
    mono: float
    wall: float
    """It ends at the first of both: one stands still while the machine sleeps, one may jump."""
    peer: Peer

    def over(self, now: Now) -> bool:
        """Whether its time is over."""
        return self.mono <= now.mono or self.wall <= now.wall


class Snoozes:
    """Those that are on; at most one of each user, and one for everybody."""

    def __init__(self) -> None:
        self._of: dict[int | None, Snooze] = {}

    def __bool__(self) -> bool:
        return bool(self._of)

    def begin(self, now: Now, peer: Peer, wanted: protocol.Snooze) -> str:
        """Carry out what a peer wants; gives why not, "" if it is done."""
        if wanted.everyone and not peer.admin:
            return "only root and members of group arbiter snooze for everybody"
        uid = None if wanted.everyone else peer.uid
        if wanted.seconds <= 0:
            self._of.pop(uid, None)
            return ""
        if not wanted.seconds <= MAX_SECONDS:  # so written, NaN is out of range too
            return f"a snooze lasts {MAX_SECONDS:.0f} s at most; make a rule for what holds longer"
        if wanted.decision is protocol.Choice.ROUTE:
            return "a snooze allows or denies: make a rule to route over a link"
        if uid not in self._of and len(self._of) >= MAX_SNOOZES:
            return f"{MAX_SNOOZES} users have a snooze already"
        decision = Decision(Action(wanted.decision.value))
        user = "" if wanted.everyone else peer.user
        mono, wall = now.mono + wanted.seconds, now.wall + wanted.seconds
        self._of[uid] = Snooze(uid, user, decision, mono, wall, peer)
        return ""

    def of(self, uid: int | None, now: Now) -> Snooze | None:
        """The one that answers a question about a user's process: its own before everybody's.

        None for `uid`: that of nobody single, whom only everybody's speaks of.
        """
        if not self._of:
            return None
        for whose in (uid, None):
            found = self._of.get(whose)
            if found is not None and not found.over(now):
                return found
        return None

    def end(self, now: Now) -> tuple[Snooze, ...]:
        """Take out what is over; gives it."""
        over = tuple(each for each in self._of.values() if each.over(now))
        for each in over:
            del self._of[each.uid]
        return over

    def next_end(self, now: Now) -> float | None:
        """Monotonic seconds when the next one is over; None without any."""
        ends = (min(each.mono, now.mono + each.wall - now.wall) for each in self._of.values())
        return min(ends, default=None)

    def views(self, peer: Peer) -> tuple[protocol.SnoozeView, ...]:
        """Those that concern a peer, everybody's first."""
        mine = [
            each
            for each in self._of.values()
            if each.uid is None or each.uid == peer.uid or peer.admin
        ]
        mine.sort(key=lambda each: (each.uid is not None, each.uid or 0))
        return tuple(
            protocol.SnoozeView(
                uid=each.uid,
                user=protocol.clean(each.user, 64),
                decision=each.decision.action.value,
                until=each.wall,
                by=protocol.clean(each.peer.user, 64),
            )
            for each in mine
        )
